"""What messages are made of: the kinds of their fields, and the records that several of them carry.

Fields are only ever appended, with defaults.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from distcomp.ids import ArrayId, BundleId, FunctionId, SessionId, Token, WorkerId
from distcomp.kinds import (
    MAX_BLOB_BYTES,
    MAX_COUNTER,
    Digest,
    Flag,
    Integer,
    Listing,
    Nested,
    Octets,
    Real,
    Repeated,
    Row,
    Span,
    Text,
)

MAX_SLOTS = 4096
"""Slots that one worker may have."""

_identity = Octets(16, 16)
_counter = Integer(0, MAX_COUNTER)
_array = Row(_identity, _counter)
_token = Row(_counter, _counter)
_blob = Octets(0, MAX_BLOB_BYTES)

Count = Annotated[int, _counter]
Name = Annotated[str, Text(256)]
Names = Annotated[tuple[str, ...], Listing(Text(256))]
Brief = Annotated[str, Text(1024)]
Words = Annotated[str, Text(64 << 10)]
LongText = Annotated[str, Text(256 << 10)]
Seconds = Annotated[float, Real()]
Switch = Annotated[bool, Flag()]
Blob = Annotated[bytes, _blob]
Session = Annotated[SessionId, _identity]
Worker = Annotated[WorkerId, _identity]
Slots = Annotated[int, Integer(1, MAX_SLOTS)]
Function = Annotated[FunctionId, Repeated(Octets(32, 32))]
BindKey = Annotated[bytes, Octets(0, 32)]
Bundle = Annotated[BundleId, Digest()]
Array = Annotated[ArrayId, _array]
Lease = Annotated[Token, _token]
Priority = Annotated[int, Integer(-1000, 1000)]
BlobSize = Annotated[int, Integer(1, MAX_BLOB_BYTES)]
Sessions = Annotated[tuple[SessionId, ...], Listing(_identity)]
Workers = Annotated[tuple[WorkerId, ...], Listing(_identity)]
Arrays = Annotated[tuple[ArrayId, ...], Listing(_array)]
ArrayCounts = Annotated[tuple[tuple[ArrayId, int], ...], Listing(Row(_array, _counter))]
Leases = Annotated[tuple[Token, ...], Listing(_token)]
Spans = Annotated[tuple[tuple[int, int], ...], Listing(Span())]
Numbers = Annotated[tuple[int, ...], Listing(_counter)]
Runs = Annotated[tuple[tuple[int, int, bytes], ...], Listing(Row(_counter, _counter, _blob))]
"""Runs of results: `(start, stop, blob)`, the blob holding the results of the indexes in between."""


class Versions(NamedTuple):
    """What a peer runs on. `python` is `major.minor.micro`."""

    distcomp: Name
    python: Name
    cloudpickle: Name


class TaskOptions(NamedTuple):
    """How the tasks of one array are to be treated; see the user's words in `distcomp.options`.

    `max_attempts` 0 means no limit; `timeout_s` 0 means none. `retries_timeouts` says whether `retries`
    may be spent on a timeout. `logs`: what the tasks print and log goes to the client while they run.
    """

    retries: Count = 0
    retry_delay_s: Seconds = 0.0
    timeout_s: Seconds = 0.0
    priority: Priority = 0
    max_attempts: Count = 0
    detach: Switch = False
    retries_timeouts: Switch = True
    logs: Switch = False


LINE_CHARACTERS = 4096
"""How much of a line that a task has printed goes to its client."""


class LogLine(NamedTuple):
    """A line that a task has printed, or a record that it has logged.

    `source` is `stdout` or `stderr`, at level 0, or the name of a logger, at the record's level.
    """

    task_index: Count
    source: Name
    level: Count
    text: Annotated[str, Text(LINE_CHARACTERS)]


LogLines = Annotated[tuple[LogLine, ...], Listing(Nested(LogLine))]


class PastAttempt(NamedTuple):
    """One try of a task that ended badly: which it was, where, and what came of it; see `Failure`."""

    attempt: Count
    kind: Name
    worker: Name
    host: Name
    text: Brief


PastAttempts = Annotated[tuple[PastAttempt, ...], Listing(Nested(PastAttempt))]


class Failure(NamedTuple):
    """How one task ended badly.

    Attributes:
        kind: `exception`, `timeout`, `crashed`, `lost`, `cancelled`, `unpicklable` (the result),
            `unloadable` (function or arguments), or `expired`.
        retriable: whether `retries` may be spent on it.
        type_name: qualified name of the exception's type; empty if there is none.
        text: what happened, for people.
        traceback: formatted, with source lines; empty if there is none.
        exception: the pickled exception, or empty if it does not pickle.
        host: where it ran; empty if it never did.
        worker: that worker's name.
        attempt: which try this was, from 1.
        output: the last that the task printed.
        stacks: the Python stacks dumped before the task was stopped.
        past: the last of the tries before this one.
    """

    kind: Name
    retriable: Switch = False
    type_name: Name = ""
    text: Words = ""
    traceback: LongText = ""
    exception: Blob = b""
    host: Name = ""
    worker: Name = ""
    attempt: Count = 1
    output: Words = ""
    stacks: Words = ""
    past: PastAttempts = ()


Failures = Annotated[tuple[tuple[int, Failure], ...], Listing(Row(_counter, Nested(Failure)))]
"""Single failures: `(index, failure)`."""


class HeldLease(NamedTuple):
    """A lease as a worker reports it on registering again: the indexes it still answers for."""

    token: Lease
    spans: Spans


class RunningTask(NamedTuple):
    """A task that a slot has begun, and for how long it has run."""

    token: Lease
    task_index: Count
    running_s: Seconds


class WorkerRow(NamedTuple):
    """One worker as observers see it. `unfit` says why it gets no work, or is empty.

    `lent` counts slots beyond `slots`, lent by tasks that wait for tasks that they submitted.
    """

    worker: Worker
    name: Name
    host: Name
    pid: Count
    slots: Count
    busy: Count
    leased: Count
    settled: Count
    failed: Count
    busy_s: Seconds
    state: Name
    python: Name
    unfit: Words
    running: Annotated[tuple[RunningTask, ...], Listing(Nested(RunningTask))] = ()
    slot_busy_s: Annotated[tuple[float, ...], Listing(Real())] = ()
    slot_settled: Numbers = ()
    lent: Count = 0


class ArrayRow(NamedTuple):
    """One unfinished task array as observers see it."""

    array: Array
    owner: Name
    function: Name
    priority: Priority
    tasks: Count
    pending: Count
    leased: Count
    settled: Count
    failed: Count
    age_s: Seconds


class RunArray(NamedTuple):
    """One task array of a run, as whoever opens the run is told.

    `received` are the indexes whose outcomes have been acknowledged, so that they never come again. If there
    are many, the array comes in several rows, and their `received` add up.
    """

    number: Count
    function: Function
    name: Name
    tasks: Count
    settled: Count
    failed: Count
    closed: Switch
    received: Spans = ()


class RunRow(NamedTuple):
    """One run as the scheduler has it.

    `functions` are the names of the last ones used. `waiting` counts outcomes that no client has
    acknowledged, in messages; `spilled_bytes` of their `waiting_bytes` are in files. Times are wall-clock
    seconds: since when it is, when its last process left (0 while one has it open), and when it will be
    dropped unless one comes. The last three say which process has or had it open.
    """

    owner: Name
    run: Name
    functions: Names
    tasks: Count
    settled: Count
    failed: Count
    waiting: Count
    waiting_bytes: Count
    spilled_bytes: Count
    began_at: Seconds
    left_at: Seconds
    drop_at: Seconds
    host: Name
    pid: Count
    program: Name


class Totals(NamedTuple):
    """The cluster in numbers, since the scheduler started; `nonsense` counts peers that talked some.

    `unread_bytes` are those of outcomes that no client has acknowledged, `spilled_bytes` what of them is in
    files.
    """

    uptime_s: Seconds
    sessions: Count
    workers: Count
    slots: Count
    busy: Count
    pending: Count
    leased: Count
    accepted: Count
    settled: Count
    failed: Count
    retried: Count
    cancelled: Count
    lost: Count
    late: Count
    idle_while_queued_s: Seconds
    slot_s: Seconds
    nonsense: Count = 0
    bundles: Count = 0
    bundle_bytes: Count = 0
    unread_bytes: Count = 0
    spilled_bytes: Count = 0
