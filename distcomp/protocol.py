"""Everything that crosses a socket between distcomp's programs: the table of messages.

Commands are imperative, facts are past tense. Fields are only ever appended, with defaults; a tag is
never reused. `docs/protocol.md` is generated from this file.

Order: messages of one connection arrive in the order sent, except that a message with large blobs
(see `distcomp.wire`) arrives when its last piece has, and that whatever shares an *order key* with it
waits behind it. The keys are listed in `ORDER_KEYS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

from distcomp.ids import NO_BUNDLE
from distcomp.rows import (
    Array,
    ArrayCounts,
    ArrayRow,
    Arrays,
    BindKey,
    Blob,
    BlobSize,
    Bundle,
    Count,
    Failures,
    Function,
    HeldLease,
    Lease,
    Leases,
    LogLines,
    Name,
    Names,
    Numbers,
    PastAttempts,
    Priority,
    RunningTask,
    Runs,
    Seconds,
    Session,
    Sessions,
    Spans,
    Switch,
    TaskOptions,
    Totals,
    Versions,
    Words,
    Worker,
    WorkerRow,
    Workers,
)
from distcomp.wire import PIECE_BYTES, Codec, Integer, Listing, Message, Nested, Octets

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = ["PROTOCOL", "Message", "codec"]

PROTOCOL = 1
"""Grows when two versions cannot talk to each other; it is settled before anything is decoded."""

codec = Codec()
T = TypeVar("T", bound=type[Any])


def message(tag: int) -> Callable[[T], T]:
    """Register a `NamedTuple` as the message with this tag."""

    def register(record: T) -> T:
        codec.register(tag, record)
        return record

    return register


# --- any two peers --------------------------------------------------------------------------------


@message(1)
class Heartbeat(NamedTuple):
    """A sign of life, sent when nothing else was for a while."""


@message(2)
class SendPiece(NamedTuple):
    """Some bytes of a transfer; `size_bytes` is the whole transfer's. Pieces come in order."""

    transfer: Count
    size_bytes: BlobSize
    data: Annotated[bytes, Octets(1, PIECE_BYTES)]


@message(3)
class PiecesStored(NamedTuple):
    """The receiver stored or dropped so many bytes of pieces: the sender may send as many more."""

    size_bytes: BlobSize


@message(4)
class Refused(NamedTuple):
    """The scheduler will not go on with this connection; nothing follows.

    `code` is one of `role`, `versions`, `duplicate`, `malformed`, `silent`, `expired`, `full`, `stopping`.
    """

    code: Name
    text: Words


@message(5)
class DefineFunction(NamedTuple):
    """The bytes behind a function id. Client to scheduler to worker to slot."""

    function: Function
    name: Name
    blob: Blob


@message(6)
class MissingFunction(NamedTuple):
    """Asks the side that a function came from to define it again."""

    function: Function


@message(7)
class DefineBundle(NamedTuple):
    """The local modules that tasks of a client need, named by the digest of `blob`.

    `name` is for people. `files` is how many files there are in the blob; none means that slots find them
    where the client does, and the blob only tells one state of them from another.
    """

    bundle: Bundle
    name: Name
    files: Count
    blob: Blob


@message(8)
class MissingBundle(NamedTuple):
    """Asks the side that a bundle came from to define it again."""

    bundle: Bundle


# --- client to scheduler --------------------------------------------------------------------------


@message(10)
class OpenSession(NamedTuple):
    """The first message of a client. `resumes` says that this session was open before.

    `environment` is opaque to all but slots: what a slot process takes over from the client.
    """

    session: Session
    versions: Annotated[Versions, Nested(Versions)]
    host: Name
    pid: Count
    program: Name
    environment: Blob
    resumes: Switch


@message(11)
class Submit(NamedTuple):
    """Tasks `start` to `start + tasks` of an array, with their arguments in one chunk.

    What lies below the scheduler's count is ignored, a gap is refused. `last` closes the array.
    No `tasks` with `last` closes it without adding tasks. The tasks run where `bundle` is unpacked.
    """

    array: Array
    function: Function
    options: Annotated[TaskOptions, Nested(TaskOptions)]
    start: Count
    tasks: Count
    chunk: Blob
    last: Switch
    bundle: Bundle = NO_BUNDLE


@message(12)
class CancelTasks(NamedTuple):
    """End tasks of an array at the client's wish; no spans means all there are and will be.

    With `pending_only` it ends those that no lease holds once what there is has been placed, and the
    client is told which these were; no spans then means all there are.
    """

    array: Array
    spans: Spans
    pending_only: Switch = False


@message(13)
class AckOutcomes(NamedTuple):
    """The client holds what came under these numbers; the scheduler may let go of it."""

    seqs: Numbers


@message(14)
class CloseSession(NamedTuple):
    """The client leaves for good: what is not detached is cancelled, what is unread is dropped."""


@message(15)
class WatchStatus(NamedTuple):
    """Asks for a snapshot now and, with an interval above 0, for what changed at every interval."""

    interval_s: Seconds


@message(16)
class ExplainWait(NamedTuple):
    """Asks why nothing of this session runs."""

    request: Count


@message(17)
class LendSlot(NamedTuple):
    """The task that this session belongs to waits for its children, or goes on if not `lent`."""

    lent: Switch


@message(18)
class ExplainTask(NamedTuple):
    """Asks where a task of this session is, and why it is not done."""

    request: Count
    array: Array
    task_index: Count


# --- scheduler to client --------------------------------------------------------------------------


@message(9)
class LendRefused(NamedTuple):
    """The worker has lent as many slots as it may: `chain` names who waits for whom, outermost first."""

    chain: Names
    most: Count


@message(20)
class SessionOpened(NamedTuple):
    """The session stands. `known` lists its arrays with the count accepted of each.

    A scheduler whose sessions are `durable` knows them after a restart, too.
    """

    epoch: Count
    cluster: Name
    client_grace_s: Seconds
    known: ArrayCounts
    durable: Switch = False


@message(21)
class Accepted(NamedTuple):
    """Of this array, the first `tasks` are the scheduler's to answer for."""

    array: Array
    tasks: Count


@message(22)
class SubmitRefused(NamedTuple):
    """Nothing of a submit was taken. `code` is `gap`, `closed`, `full`, `options` or `role`."""

    array: Array
    start: Count
    code: Name
    text: Words


@message(23)
class TasksSettled(NamedTuple):
    """Outcomes. They are sent again after a reconnect until `AckOutcomes` names `seq`."""

    seq: Count
    array: Array
    runs: Runs
    failures: Failures


@message(24)
class TasksBegan(NamedTuple):
    """What a worker last said runs; for `Future.running`. Lossy: never sent again."""

    array: Array
    indexes: Numbers


@message(25)
class GaveNotice(NamedTuple):
    """Something the user should read, said once; `code` is `unfit` or `unloadable`."""

    code: Name
    text: Words


@message(26)
class StatusReported(NamedTuple):
    """A snapshot (`whole`) or what changed since the last one: rows to replace, rows to remove.

    A long report comes in several parts; all but the last say that `more` follows. `journal` says where what
    must survive is written down, or `off`; empty if that is not told.
    """

    whole: Switch
    cluster: Name
    epoch: Count
    auth: Switch
    totals: Annotated[Totals, Nested(Totals)]
    workers: Annotated[tuple[WorkerRow, ...], Listing(Nested(WorkerRow))]
    workers_gone: Workers
    arrays: Annotated[tuple[ArrayRow, ...], Listing(Nested(ArrayRow))]
    arrays_gone: Arrays
    more: Switch = False
    journal: Words = ""

    def joined(self, part: StatusReported) -> StatusReported:
        """This part of a report and the next one as one."""
        return part._replace(
            whole=self.whole,
            workers=self.workers + part.workers,
            workers_gone=self.workers_gone + part.workers_gone,
            arrays=self.arrays + part.arrays,
            arrays_gone=self.arrays_gone + part.arrays_gone,
        )


@message(27)
class WaitExplained(NamedTuple):
    """Why nothing of the session runs: `code` is `running`, `no_workers`, `unfit`, `busy` or `idle`."""

    request: Count
    code: Name
    text: Words


@message(28)
class TasksLogged(NamedTuple):
    """What tasks of an array have printed and logged on a worker; so many lines more were dropped. Lossy."""

    array: Array
    function: Name
    worker: Name
    lines: LogLines
    dropped: Count


@message(29)
class TaskExplained(NamedTuple):
    """Where a task is, and what came of the tries that it had.

    `state` is `sending`, `waiting`, `delayed`, `held` (by a worker that has not begun it), `running` or
    `settled`.
    """

    request: Count
    state: Name
    text: Words
    past: PastAttempts


@message(30)
class TasksRetried(NamedTuple):
    """How many tries of an array's tasks were followed by another one. Lossy: never sent again."""

    array: Array
    retried: Count


# --- worker to scheduler --------------------------------------------------------------------------


@message(40)
class RegisterWorker(NamedTuple):
    """The first message of a worker, at every connection; `leases` is what it still answers for.

    `sessions` are those it keeps definitions of; the scheduler ends the ones that are over. It lends at
    most `max_lent` slots of tasks that wait for their children; `bind_key` is what `BindTask` has to name.
    """

    worker: Worker
    name: Name
    host: Name
    pid: Count
    slots: Annotated[int, Integer(1, 4096)]
    versions: Annotated[Versions, Nested(Versions)]
    leases: Annotated[tuple[HeldLease, ...], Listing(Nested(HeldLease))]
    draining: Switch = False
    sessions: Sessions = ()
    max_lent: Count = 0
    bind_key: BindKey = b""


@message(41)
class LeaseSettled(NamedTuple):
    """Outcomes of a lease, sent again after a reconnect until `AckSettles` names `seq`.

    `busy_s` is the time the slot spent on them; `slot` is the slot's number within its worker.
    """

    seq: Count
    token: Lease
    runs: Runs
    failures: Failures
    busy_s: Seconds
    slot: Count


@message(42)
class LeaseReturned(NamedTuple):
    """Indexes of a lease that this worker will not run, or whose results died with a slot process.

    Sent again until acknowledged, like `LeaseSettled`. `reason` is `retracted`, `waited`, `drained`,
    `cancelled`, `neighbour` (a slot process ended while another task ran; never charged), `unprepared`
    (no slot process could be had) or `refused` (more than the worker has room for).
    """

    seq: Count
    token: Lease
    spans: Spans
    reason: Name


@message(43)
class SlotsReported(NamedTuple):
    """What runs, as far as it has run for some time."""

    running: Annotated[tuple[RunningTask, ...], Listing(Nested(RunningTask))]


@message(44)
class WorkerDraining(NamedTuple):
    """The worker takes no more work and returns what has not begun."""


@message(45)
class WorkerLeft(NamedTuple):
    """The worker goes; its connection's end is no loss. `leases` is what it leaves unfinished."""

    leases: Annotated[tuple[HeldLease, ...], Listing(Nested(HeldLease))] = ()


@message(46)
class BindTask(NamedTuple):
    """The first message of a connection that a worker made for a task that it runs.

    From here on a client of that task's owner speaks, whose session ends with the task.
    """

    worker: Worker
    bind_key: BindKey
    token: Lease
    task_index: Count


@message(47)
class LeaseLogged(NamedTuple):
    """What tasks of a lease have printed and logged; so many lines more were dropped. Lossy."""

    token: Lease
    lines: LogLines
    dropped: Count


# --- scheduler to worker --------------------------------------------------------------------------


@message(50)
class WorkerRegistered(NamedTuple):
    """The worker may expect leases. It ends the leases it reported that `stale` names."""

    epoch: Count
    cluster: Name
    stale: Leases


@message(51)
class DefineSession(NamedTuple):
    """What slot processes of a session take over from its client; before its first lease.

    Tasks that a task submitted run in the slot processes of the session that is their `home`.
    """

    session: Session
    owner: Name
    environment: Blob
    home: Annotated[bytes, Octets(0, 16)] = b""


@message(52)
class EndSession(NamedTuple):
    """The session is over: its slot processes can go."""

    session: Session


@message(53)
class GrantLease(NamedTuple):
    """The right to run the indexes `start` to `stop` of an array, whose arguments the chunk holds.

    The chunk begins at index `chunk_start`. An `urgent` lease begins at the next task border.
    `eager` asks for each result at once (arrays with `max_attempts`), `logs` for what tasks print and log.
    """

    token: Lease
    array: Array
    function: Function
    start: Count
    stop: Count
    chunk_start: Count
    chunk: Blob
    attempt: Count
    timeout_s: Seconds
    priority: Priority
    urgent: Switch
    eager: Switch
    bundle: Bundle = NO_BUNDLE
    logs: Switch = False


@message(54)
class RetractLease(NamedTuple):
    """Give back what has not begun: the far half of it, or `everything`."""

    token: Lease
    everything: Switch


@message(55)
class CancelLease(NamedTuple):
    """End these indexes of a lease, running or not; no spans means all of it."""

    token: Lease
    spans: Spans


@message(56)
class AckSettles(NamedTuple):
    """The scheduler has what came under these numbers; the worker may let go of it."""

    seqs: Numbers


@message(57)
class SlotLent(NamedTuple):
    """A task waits for its children, so one more may run beside it; or it goes on, if not `lent`."""

    token: Lease
    task_index: Count
    lent: Switch


PATIENT: frozenset[type[Any]] = frozenset({Accepted, AckOutcomes, AckSettles, TasksBegan, TasksRetried})
"""Messages that nobody waits for: a connection keeps them back a little, to leave with the next others."""

ORDER_KEYS: dict[type[Any], Callable[[Any], tuple[Hashable, ...]]] = {
    DefineFunction: lambda m: (m.function,),
    DefineBundle: lambda m: (m.bundle,),
    DefineSession: lambda m: (m.session,),
    OpenSession: lambda m: (m.session,),
    Submit: lambda m: (m.array[0], m.function, m.bundle, m.array),
    CancelTasks: lambda m: (m.array[0], m.array),
    TasksSettled: lambda m: (m.array,),
    GrantLease: lambda m: (m.array[0], m.function, m.bundle, m.token),
    RetractLease: lambda m: (m.token,),
    CancelLease: lambda m: (m.token,),
    LeaseSettled: lambda m: (m.token,),
    LeaseReturned: lambda m: (m.token,),
}
"""What a message must not overtake: it waits while a transfer of a message with one of its keys runs."""

HELD_KEYS: dict[type[Any], Callable[[Any], tuple[Hashable, ...]]] = {
    Submit: lambda m: (m.array,),
    CancelTasks: lambda m: (m.array,),
    TasksSettled: lambda _: (),
    GrantLease: lambda m: (m.token,),
}
"""Those order keys that later messages wait for; all of a message's keys where it is not listed.

A lease waits for its session, function and bundle, but another lease of that session must not wait for it.
"""
