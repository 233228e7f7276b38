"""What crosses a socket between distcomp's programs: the table of messages, but for those of workers.

Commands are imperative, facts are past tense. Fields are only ever appended, with defaults; a tag is
never reused. `docs/protocol.md` is generated from this file and `worker_protocol.py`.

Order: messages of one connection arrive in the order sent, except that a message with large blobs
(see `distcomp.wire`) arrives when its last piece has, and that whatever shares an *order key* with it
waits behind it. The keys are listed in `distcomp.ordering`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

from distcomp.ids import NO_BUNDLE
from distcomp.kinds import Listing, Nested, Octets, Repeated
from distcomp.rows import (
    Array,
    ArrayCounts,
    ArrayRow,
    Arrays,
    Blob,
    BlobSize,
    Bundle,
    Count,
    Failure,
    Failures,
    Function,
    LogLines,
    Name,
    Names,
    Numbers,
    PastAttempts,
    RunArray,
    RunRow,
    Runs,
    Seconds,
    Session,
    Slots,
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
from distcomp.wire import PIECE_BYTES, Codec, Message

if TYPE_CHECKING:
    from collections.abc import Callable

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

    `code` is one of `role`, `versions`, `duplicate`, `malformed`, `silent`, `expired`, `full`, `stopping`,
    and for a run `taken` (another process has it) or `unknown`.
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

    With a `run` the session is that run's: any process of its owner may open it, one at a time, told apart
    by `nonce`. What another process left open of it is closed. If it `resumes` there must be such a run.
    """

    session: Session
    versions: Annotated[Versions, Nested(Versions)]
    host: Name
    pid: Count
    program: Name
    environment: Blob
    resumes: Switch
    run: Name = ""
    nonce: Annotated[bytes, Octets(0, 16)] = b""


@message(11)
class Submit(NamedTuple):
    """Tasks `start` to `start + tasks` of an array, with their arguments in one chunk.

    What lies below the scheduler's count is ignored, a gap is refused. `last` closes the array.
    No `tasks` with `last` closes it without adding tasks. The tasks run where `bundle` is unpacked.
    """

    array: Array
    function: Function
    options: Annotated[TaskOptions, Repeated(Nested(TaskOptions))]
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
    """The client leaves for good: what is not detached is cancelled, what is unread is dropped.

    A run stays as it is, for the process that opens it next.
    """


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


@message(19)
class ReadOutcomes(NamedTuple):
    """The client has read what came under these numbers, so as much more may come.

    Unlike after `AckOutcomes` the scheduler keeps it, and sends it again to whoever opens the run next.
    """

    seqs: Numbers


# --- scheduler to client --------------------------------------------------------------------------


@message(9)
class LendRefused(NamedTuple):
    """The worker has lent as many slots as it may: `chain` names who waits for whom, outermost first."""

    chain: Names
    most: Count


@message(20)
class SessionOpened(NamedTuple):
    """The session stands. `known` lists its unfinished arrays with the count accepted of each.

    Of a run it lists none: `RunDescribed` follows, before any outcome.
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
    """Nothing of a submit was taken. `code` is `gap`, `closed`, `full`, `options`, `role` or `expired`.

    The last means that the array was ended because its client was away for too long.
    """

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
    must survive is written down, or `off`; empty if that is not told. It takes `journal_bytes`, and
    `committed_ago_s` has passed since something was written there. `shut` says why nothing new is accepted;
    empty if it is. `no_room` says what waits for room on the disk while all else goes on; empty if nothing.
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
    journal_bytes: Count = 0
    committed_ago_s: Seconds = 0.0
    shut: Words = ""
    no_room: Words = ""

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
    """Why nothing runs: `code` is `full`, `running`, `no_workers`, `unfit`, `busy` or `idle`."""

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


@message(31)
class TasksFailed(NamedTuple):
    """Outcomes: all tasks in `spans` ended alike, without a result. Sent again like `TasksSettled`."""

    seq: Count
    array: Array
    spans: Spans
    failure: Annotated[Failure, Nested(Failure)]


@message(32)
class RunDescribed(NamedTuple):
    """All arrays of a run, also finished ones, told when it is opened.

    It comes in parts, all but the last with `more`.
    """

    arrays: Annotated[tuple[RunArray, ...], Listing(Nested(RunArray))]
    more: Switch


# --- runs -----------------------------------------------------------------------------------------


@message(33)
class ListRuns(NamedTuple):
    """Asks for the runs that a peer may see: a client those of its owner, observers and admins all."""

    request: Count


@message(34)
class RunsListed(NamedTuple):
    """The answer to `ListRuns`, in parts, all but the last with `more`."""

    request: Count
    runs: Annotated[tuple[RunRow, ...], Listing(Nested(RunRow))]
    more: Switch


@message(35)
class ForgetRun(NamedTuple):
    """Ends a run for good: what is not done of it is cancelled, what waits of it is dropped.

    A client may do that with runs of its own, which no `owner` means; an admin with all.
    """

    request: Count
    run: Name
    owner: Name = ""


@message(36)
class RunForgotten(NamedTuple):
    """The answer to `ForgetRun`: `code` is `forgotten`, `unknown`, or `taken` if a process has it open."""

    request: Count
    code: Name
    text: Words


# --- slots ----------------------------------------------------------------------------------------


@message(60)
class ResizeWorker(NamedTuple):
    """Asks for another number of slots of a worker; only an admin may."""

    request: Count
    worker: Worker
    slots: Slots


@message(61)
class WorkerResized(NamedTuple):
    """The answer to `ResizeWorker`: `code` is `asked` (the worker was), `unknown`, or `away`."""

    request: Count
    code: Name
    text: Words
