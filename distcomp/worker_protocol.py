"""What crosses the wire between a worker and its scheduler; a part of the table in `distcomp.protocol`."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from distcomp.ids import NO_BUNDLE
from distcomp.kinds import Listing, Nested, Octets
from distcomp.protocol import message
from distcomp.rows import (
    Array,
    BindKey,
    Blob,
    Bundle,
    Count,
    Failures,
    Function,
    HeldLease,
    Lease,
    Leases,
    LogLines,
    Name,
    Numbers,
    Priority,
    RunningTask,
    Runs,
    Seconds,
    Session,
    Sessions,
    Slots,
    Spans,
    Switch,
    Versions,
    Worker,
)

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
    slots: Slots
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
    `resized` (the worker has fewer slots now), `cancelled`, `neighbour` (a slot process ended while another
    task ran; never charged), `unprepared` (no slot process could be had) or `refused` (more than the worker
    has room for).
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


@message(63)
class SlotsSet(NamedTuple):
    """The worker has so many slots by now, and lends at most `max_lent` more; the answer to `SetSlots`."""

    slots: Slots
    max_lent: Count


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


@message(62)
class SetSlots(NamedTuple):
    """Have so many slots from now on. With fewer, what runs ends as ever, and the rest of it goes back."""

    slots: Slots
