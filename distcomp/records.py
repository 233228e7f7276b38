"""Everything that crosses time: the table of records that a scheduler's journal is made of.

A record is one durable fact, past tense. Replayed in order they say all that a scheduler must know after a
restart. They are built like the messages of `distcomp.protocol`: fields are only ever appended, with
defaults, and a tag is never reused.

How they are meant to be read:

- An index of an array that is accepted, not settled, and in no lease is pending. `TasksEnded` and
  `TasksCancelled` settle exactly the indexes in their `spans`; what is settled is in no lease any more, but
  for the worker's word on what was cancelled while it ran.
- An index leaves its lease by `TasksEnded`, `TaskTried` or `IndexesReturned`, which name the lease.
- Counts are absolute wherever a record has some, so that reading it twice does no harm.
- What follows from records is not recorded: an array that is closed and settled is finished, its counter
  is used up, and a closed session without unfinished arrays is forgotten.

**Compaction** says again what lives, so that what stands before can go. It runs beside everything else, and
is told in this order: `CompactionBegan`; `EpochBegan`; the workers, functions and bundles; then for each
session `SessionBegan`; for each of its arrays `ArrayRestated`, and its `ChunkRestated`,
`LeaseRestated` and `TaskTried`, or `TasksAccepted` if nothing has come of it yet; its `OutcomeRestated`;
and `SessionRestated`, first as what it is and last with what has finished meanwhile. Then comes
`CompactionEnded`. What was said of an object between `CompactionBegan` and its restatement is in the
latter, so a reader skips what is about objects that it does not know.

The journal notes with the same commit that drops the old ones which commit is the first now. So restated
records count only if the commit with their `CompactionBegan` is the journal's first, and not its first
ever: `distcomp.journal.Recovered.compacted` says so. All others belong to a compaction that did not come
to its end, and repeat what still stands before them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias, TypeVar

from distcomp.ids import NO_BUNDLE, Token
from distcomp.kinds import Nested, Octets, Repeated
from distcomp.rows import (
    Array,
    Blob,
    Bundle,
    Count,
    Failure,
    Failures,
    Function,
    Lease,
    Name,
    Numbers,
    PastAttempts,
    Runs,
    Seconds,
    Session,
    Spans,
    Switch,
    TaskOptions,
    Versions,
    Worker,
)
from distcomp.wire import Codec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FORMAT = 1
"""Grows when an older version could not read what is written; a newer format than this one is refused."""

NO_LEASE: Token = (0, 0)
"""The token where no lease is concerned; epochs are above 0."""

RECORD_BYTES = 64
"""What a record is taken to weigh besides its blobs and long texts."""

Record: TypeAlias = tuple[Any, ...]
"""Any record: a `NamedTuple` of this module. Its class tells which."""

codec = Codec()
T = TypeVar("T", bound=type[Any])


def record(tag: int) -> Callable[[T], T]:
    """Register a `NamedTuple` as the record with this tag."""

    def register(kind: T) -> T:
        codec.register(tag, kind)
        return kind

    return register


# --- the journal and its scheduler ----------------------------------------------------------------


@record(1)
class JournalBegan(NamedTuple):
    """The head of a journal, kept apart from its commits: `first` is the oldest one that it still has.

    `created_at` is wall-clock seconds.
    """

    format: Count
    cluster: Annotated[bytes, Octets(16, 16)]
    created_at: Seconds
    first: Count


@record(2)
class EpochBegan(NamedTuple):
    """A scheduler started, at a wall-clock time, with a version of distcomp."""

    epoch: Count
    began_at: Seconds
    distcomp: Name


@record(3)
class CompactionBegan(NamedTuple):
    """From here on what lives is said again."""


@record(34)
class CompactionEnded(NamedTuple):
    """All that lived when the compaction began was said again, or is gone."""


@record(4)
class WorkerCame(NamedTuple):
    """A worker registered for the first time, or with other words than before."""

    worker: Worker
    name: Name
    host: Name
    pid: Count
    slots: Count
    versions: Annotated[Versions, Nested(Versions)]


@record(5)
class WorkerGone(NamedTuple):
    """A worker left or was given up; what became of its leases is said by other records."""

    worker: Worker


# --- sessions and what their tasks need -----------------------------------------------------------


@record(10)
class SessionBegan(NamedTuple):
    """A client opened a session.

    One that a task opened names the lease and the index of that task, the session whose slot processes
    it uses (`home`, empty for all others), and how many tasks wait above it (`depth`).
    `client_grace_s` is how long it is kept without connection.
    """

    session: Session
    owner: Name
    versions: Annotated[Versions, Nested(Versions)]
    host: Name
    pid: Count
    program: Name
    environment: Blob
    client_grace_s: Seconds
    parent: Lease = NO_LEASE
    parent_index: Count = 0
    home: Annotated[bytes, Octets(0, 16)] = b""
    depth: Count = 0


@record(11)
class SessionEnded(NamedTuple):
    """A session was closed: what it had not received is dropped.

    What becomes of its arrays is said by `TasksCancelled` and `ArrayClosed`.
    """

    session: Session


@record(12)
class SessionRestated(NamedTuple):
    """The rest of what is known of a session, told when its arrays and outcomes are restated.

    `seq` is the number of its last outcomes; `finished` are the counters of arrays that are over. Several in
    a row add up, as there may be more spans than a record holds.
    """

    session: Session
    seq: Count
    finished: Spans
    closed: Switch


@record(13)
class FunctionDefined(NamedTuple):
    """The bytes behind a function id came in."""

    function: Function
    name: Name
    blob: Blob


@record(14)
class BundleDefined(NamedTuple):
    """The local modules behind a bundle's digest came in; see `protocol.DefineBundle`."""

    bundle: Bundle
    name: Name
    files: Count
    blob: Blob


# --- task arrays ----------------------------------------------------------------------------------


@record(20)
class TasksAccepted(NamedTuple):
    """Indexes `start` to `start + tasks` were added to an array, which begins with its first such record.

    The chunk begins with index `base`, below `start` if its first tasks had come before. `last` closes the
    array; there may be no tasks with that. `options` are those in force: a task's child may have been raised.
    """

    array: Array
    function: Function
    options: Annotated[TaskOptions, Repeated(Nested(TaskOptions))]
    start: Count
    tasks: Count
    base: Count
    chunk: Blob
    last: Switch
    bundle: Bundle = NO_BUNDLE


@record(21)
class ArrayClosed(NamedTuple):
    """Nothing can be added to an array any more, for another reason than its client's last submit."""

    array: Array


@record(22)
class ArrayRestated(NamedTuple):
    """An array as it is now, in place of all that is known of it: without chunks, leases and trials.

    Of its first `accepted` indexes those are not settled that its `ChunkRestated` name. It was accepted at
    a wall-clock time.
    """

    array: Array
    function: Function
    options: Annotated[TaskOptions, Repeated(Nested(TaskOptions))]
    accepted: Count
    closed: Switch
    failed: Count
    retried: Count
    accepted_at: Seconds


@record(23)
class ChunkRestated(NamedTuple):
    """A chunk of a restated array, and which of its indexes are not settled."""

    array: Array
    base: Count
    start: Count
    stop: Count
    chunk: Blob
    unsettled: Spans
    bundle: Bundle = NO_BUNDLE


# --- leases and tries -----------------------------------------------------------------------------


@record(30)
class LeaseGranted(NamedTuple):
    """A worker got the right to run indexes `start` to `stop`; it is the try `attempt` of the first.

    In an array with `max_attempts` this counts one start.
    """

    token: Lease
    array: Array
    start: Count
    stop: Count
    attempt: Count
    worker: Worker


@record(31)
class LeaseRestated(NamedTuple):
    """A lease, and what of it is open now. Its starts are counted in `TaskTried`."""

    token: Lease
    array: Array
    spans: Spans
    attempt: Count
    worker: Worker


@record(32)
class IndexesReturned(NamedTuple):
    """Indexes left a lease without outcome and are pending, or answered for if they were cancelled.

    If they have not `begun`, a start that was counted is taken back.
    """

    token: Lease
    spans: Spans
    begun: Switch


@record(33)
class TaskTried(NamedTuple):
    """All that counts against the limits of an index that has a past.

    If a lease is named, the index left it by this. If it is in none, it is pending once `delay_s` has passed
    since the commit. `past` are the last of its bad ends, and
    `retried` counts the tries of the whole array that were followed by another one.
    """

    array: Array
    task_index: Count
    token: Lease
    failures: Count
    crashes: Count
    losses: Count
    starts: Count
    past: PastAttempts
    retried: Count
    delay_s: Seconds = 0.0


# --- outcomes -------------------------------------------------------------------------------------


@record(40)
class TasksEnded(NamedTuple):
    """Outcomes of an array; exactly the indexes in `spans` are settled by it.

    `seq` numbers what the session's client has to acknowledge, and is 0 if nobody waits for it. No spans
    means that the client is told of an end that another record said. `token` is the lease that the indexes
    left.
    """

    array: Array
    token: Lease
    seq: Count
    spans: Spans
    runs: Runs
    failures: Failures = ()


@record(41)
class TasksCancelled(NamedTuple):
    """Indexes of an array were settled without outcome, wherever they were."""

    array: Array
    spans: Spans


@record(42)
class OutcomesReceived(NamedTuple):
    """The client of a session holds what came under these numbers."""

    session: Session
    seqs: Numbers


@record(43)
class OutcomeRestated(NamedTuple):
    """Outcomes that a client has not acknowledged."""

    array: Array
    seq: Count
    runs: Runs
    failures: Failures = ()


# --- runs, and clients that are away --------------------------------------------------------------


@record(50)
class RunOpened(NamedTuple):
    """A session is a run, and the process with this `nonce` has opened it, at a wall-clock time."""

    session: Session
    run: Name
    nonce: Annotated[bytes, Octets(0, 16)]
    host: Name
    pid: Count
    program: Name
    opened_at: Seconds
    began_at: Seconds


@record(51)
class ClientLeft(NamedTuple):
    """A session lost its connection, at a wall-clock time."""

    session: Session
    left_at: Seconds


@record(52)
class ClientCame(NamedTuple):
    """A client came back to its session."""

    session: Session


@record(53)
class RunEnded(NamedTuple):
    """A run is no more, since a wall-clock time; `why` is `dropped`, `received` or `forgotten`."""

    owner: Name
    run: Name
    ended_at: Seconds
    why: Name


@record(54)
class SpansFailed(NamedTuple):
    """Outcomes that tasks of an array have in common; another record says that these are settled.

    `seq` is as in `TasksEnded`.
    """

    array: Array
    seq: Count
    spans: Spans
    failure: Annotated[Failure, Nested(Failure)]


@record(55)
class PastArrayRestated(NamedTuple):
    """A finished array of which more is known than that: of a run, or ended before its client closed it."""

    array: Array
    function: Function
    name: Name
    tasks: Count
    failed: Count


@record(56)
class ReceivedRestated(NamedTuple):
    """Indexes of a run's array whose outcomes were acknowledged. Several records add up."""

    array: Array
    spans: Spans


@record(57)
class FailureRestated(NamedTuple):
    """Outcomes that tasks have in common, and that a client has not acknowledged."""

    array: Array
    seq: Count
    spans: Spans
    failure: Annotated[Failure, Nested(Failure)]


# --- bytes ----------------------------------------------------------------------------------------


def pack(records: Sequence[Record]) -> bytes:
    """Records as bytes.

    Args:
        records: at most `wire.MAX_ITEMS`.

    Returns:
        What `unpack` takes.

    Example:
        >>> unpack(pack([ArrayClosed((b"s" * 16, 3))]))
        [ArrayClosed(array=(b'ssssssssssssssss', 3))]
    """
    return codec.body(records)


def unpack(packed: bytes, blob_of: Callable[[int], bytes] | None = None) -> list[Record]:
    """The records in bytes that `pack` made, each checked.

    Args:
        packed: the bytes.
        blob_of: gives the blobs that were detached before packing, by number.

    Raises:
        MalformedMessageError: the bytes hold anything but known records within their bounds.
    """
    return codec.decode(packed, blob_of)


def weight_bytes(item: Record) -> int:
    """About how many bytes a record keeps in memory until it is written."""
    weigh = _WEIGHTS.get(type(item))
    return RECORD_BYTES if weigh is None else RECORD_BYTES + weigh(item)


def _outcome_bytes(item: TasksEnded | OutcomeRestated) -> int:
    size_bytes = 0
    for _, _, blob in item.runs:
        size_bytes += len(blob)
    for _, failure in item.failures:
        size_bytes += _failure_bytes(failure)
    return size_bytes


def _failure_bytes(failure: Failure) -> int:
    texts = len(failure.traceback) + len(failure.output) + len(failure.stacks)
    return RECORD_BYTES + len(failure.exception) + texts


_WEIGHTS: dict[type[Any], Callable[[Any], int]] = {
    SessionBegan: lambda item: len(item.environment),
    FunctionDefined: lambda item: len(item.blob),
    BundleDefined: lambda item: len(item.blob),
    TasksAccepted: lambda item: len(item.chunk),
    ChunkRestated: lambda item: len(item.chunk),
    TasksEnded: _outcome_bytes,
    OutcomeRestated: _outcome_bytes,
    SpansFailed: lambda item: _failure_bytes(item.failure),
    FailureRestated: lambda item: _failure_bytes(item.failure),
}
