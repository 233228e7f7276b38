"""The scheduler's state machine: facts in, effects out, and not a socket in sight.

A message changes the books and nothing else; `take_effects` makes the one placement pass of a turn and
hands over all that must leave. What a peer may say is written in `ROUTES`, by its role and phase; the
first message of a client opens its session, that of a worker registers it.

    role                phase      goes to                by
    client, admin       new, watch session                OpenSession
    worker              new        worker                 RegisterWorker
    worker              new        new, as a client       BindTask
    client, observer,   new        watch                  WatchStatus, ListRuns
      admin
    client, admin       new        watch                  ForgetRun
    admin               new        watch                  ResizeWorker
    any                 any        closed                 a refusal, a second connection of the same peer,
                                                          CloseSession, WorkerLeft

A link in phase `closed` waits for its connection to end; what it still says counts for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias

from distcomp.core import recording, spilling
from distcomp.core.books import Books, Link
from distcomp.core.cancelling import cancel_given_up, on_cancel_tasks
from distcomp.core.clients import (
    notice_unfit,
    on_ack_outcomes,
    on_close_session,
    on_forget_run,
    on_open_session,
    on_read_outcomes,
)
from distcomp.core.effects import Effects
from distcomp.core.explaining import on_explain_task, on_explain_wait
from distcomp.core.forwarding import on_lease_logged
from distcomp.core.functions import DefinitionBook
from distcomp.core.leaving import client_gone, end_children
from distcomp.core.nesting import on_bind_task, on_lend_slot
from distcomp.core.placement import place
from distcomp.core.recovery import restore
from distcomp.core.resizing import on_resize_worker, on_slots_set
from distcomp.core.restating import Restating, live_bytes
from distcomp.core.retraction import retract
from distcomp.core.runs import on_list_runs
from distcomp.core.settling import on_lease_returned, on_lease_settled, on_slots_reported
from distcomp.core.snapshot import on_watch_status
from distcomp.core.submitting import (
    lack_of_room,
    on_define_bundle,
    on_define_function,
    on_missing_bundle,
    on_missing_function,
    on_submit,
)
from distcomp.core.timers import NEVER
from distcomp.core.workforce import on_register_worker, on_worker_draining, on_worker_left, worker_gone
from distcomp.errors import MalformedMessageError
from distcomp.protocol import (
    AckOutcomes,
    CancelTasks,
    CloseSession,
    DefineBundle,
    DefineFunction,
    ExplainTask,
    ExplainWait,
    ForgetRun,
    LendSlot,
    ListRuns,
    MissingBundle,
    MissingFunction,
    OpenSession,
    ReadOutcomes,
    ResizeWorker,
    Submit,
    WatchStatus,
)
from distcomp.worker_protocol import (
    AckSettles,
    BindTask,
    LeaseLogged,
    LeaseReturned,
    LeaseSettled,
    RegisterWorker,
    SlotsReported,
    SlotsSet,
    WorkerDraining,
    WorkerLeft,
)

if TYPE_CHECKING:
    from distcomp.config import SchedulerSettings
    from distcomp.core.image import Image
    from distcomp.core.recovery import Restored
    from distcomp.ids import Peer
    from distcomp.protocol import Message, TasksFailed, TasksSettled

Handler: TypeAlias = Callable[[Books, Link, Any, float], None]
Routes: TypeAlias = dict[type[Any], Handler]

_OPEN: Routes = {OpenSession: on_open_session}
_REGISTER: Routes = {RegisterWorker: on_register_worker, BindTask: on_bind_task}
_SESSION: Routes = {
    Submit: on_submit,
    AckOutcomes: on_ack_outcomes,
    ReadOutcomes: on_read_outcomes,
    DefineFunction: on_define_function,
    DefineBundle: on_define_bundle,
    CancelTasks: on_cancel_tasks,
    CloseSession: on_close_session,
    WatchStatus: on_watch_status,
    ExplainWait: on_explain_wait,
    ExplainTask: on_explain_task,
    LendSlot: on_lend_slot,
    ListRuns: on_list_runs,
    ForgetRun: on_forget_run,
}
_WATCH: Routes = {WatchStatus: on_watch_status, ListRuns: on_list_runs}
_CLIENT: Routes = {**_OPEN, **_WATCH, ForgetRun: on_forget_run}
_ADMIN: Routes = {**_CLIENT, CancelTasks: on_cancel_tasks, ResizeWorker: on_resize_worker}
_WORKER: Routes = {
    LeaseSettled: on_lease_settled,
    LeaseReturned: on_lease_returned,
    LeaseLogged: on_lease_logged,
    SlotsReported: on_slots_reported,
    SlotsSet: on_slots_set,
    MissingFunction: on_missing_function,
    MissingBundle: on_missing_bundle,
    WorkerDraining: on_worker_draining,
    WorkerLeft: on_worker_left,
}

ROUTES: dict[tuple[str, str], Routes] = {
    ("client", "new"): _CLIENT,
    ("client", "watch"): _CLIENT,
    ("client", "session"): _SESSION,
    ("admin", "new"): _ADMIN,
    ("admin", "watch"): _ADMIN,
    ("admin", "session"): _SESSION,
    ("observer", "new"): _WATCH,
    ("observer", "watch"): _WATCH,
    ("worker", "new"): _REGISTER,
    ("worker", "worker"): _WORKER,
}
"""Who may say what when. Whatever is not here ends the connection."""


_HANDLERS = {
    (role, phase, kind): handler
    for (role, phase), routes in ROUTES.items()
    for kind, handler in routes.items()
}


def roles_for(kind: type[Any]) -> list[str]:
    """The roles that may ever send messages of this kind."""
    return sorted({role for (role, _), routes in ROUTES.items() if kind in routes})


class SchedulerState:
    """All decisions of a scheduler.

    Args:
        settings: the bounds and times to keep to.
        epoch: grows at every start of the scheduler; the first half of every token.
        cluster: the name to give to peers.
        auth: whether peers had to prove who they are; observers are told.
        wall_offset_s: what the wall clock is ahead of monotonic time.
    """

    def __init__(
        self,
        settings: SchedulerSettings,
        epoch: int,
        cluster: str,
        *,
        auth: bool,
        wall_offset_s: float = 0.0,
    ) -> None:
        self.books = Books(
            settings,
            epoch,
            cluster,
            auth,
            functions=DefinitionBook(settings.max_function_bytes, settings.max_unused_functions),
            bundles=DefinitionBook(settings.max_bundle_bytes, settings.max_unused_functions),
            wall_offset_s=wall_offset_s,
        )
        self._restating: Restating | None = None

    def connect(self, peer: Peer, role: str, owner: str, address: str, _now: float) -> None:
        """A peer has proved its role and owner; `address` is for people."""
        self.books.links[peer] = Link(peer, role, owner, address)

    def receive(self, peer: Peer, message: Message, now: float) -> None:
        """Take in one message; nonsense ends that peer's connection and is counted."""
        books = self.books
        link = books.links.get(peer)
        if link is None:
            return
        handler = _HANDLERS.get((link.role, link.phase, type(message)))
        if handler is None:
            if link.phase != "closed":
                self._reject_kind(link, type(message))
            return
        try:
            handler(books, link, message, now)
        except MalformedMessageError as error:
            self._reject(link, str(error))

    def _reject_kind(self, link: Link, kind: type[Any]) -> None:
        """End a connection for a message out of place; one for which it has the wrong role hears which."""
        roles = roles_for(kind)
        if not roles or link.role in roles:
            self._reject(link, f"{kind.__name__} has no place here")
            return
        needed = roles[-1]
        text = (
            f"{kind.__name__} takes the role {' or '.join(roles)}, and this connection has the role "
            f"{link.role}: use a join string for the role {needed}; `distcomp access show --role {needed}` "
            "prints it on the scheduler's host"
        )
        event = {"address": link.address, "role": link.role, "what": text}
        self.books.effects.log("warning", "peer has the wrong role", **event)
        self.books.refuse(link, "role", text)

    def _reject(self, link: Link, text: str) -> None:
        books = self.books
        books.counts.nonsense += 1
        books.effects.log("warning", "peer talked nonsense", address=link.address, role=link.role, what=text)
        books.refuse(link, "malformed", text)

    def note_nonsense(self) -> None:
        """Count nonsense of a peer that its connection has been ended for already."""
        self.books.counts.nonsense += 1

    def disconnect(self, peer: Peer, now: float) -> None:
        """A connection is gone; what it stood for is kept for a while."""
        link = self.books.links.pop(peer, None)
        if link is None:
            return
        session, worker = link.session, link.worker
        if session is not None and session.peer == peer:
            client_gone(self.books, session, now)
        if worker is not None and worker.peer == peer:
            worker_gone(self.books, worker, now)

    def tick(self, now: float) -> None:
        """Time has passed: do what is due."""
        self.books.timers.run(now)

    def stored(self, number: int) -> None:
        """What `FileWork.spills` asked for is in a file."""
        spilling.stored(self.books, number)

    def not_stored(self, number: int, why: str, now: float) -> None:
        """What `FileWork.spills` asked for could not be written."""
        spilling.not_stored(self.books, number, why, now)

    def loaded(self, number: int, message: TasksSettled | TasksFailed) -> None:
        """What `FileWork.loads` asked for was read."""
        spilling.loaded(self.books, number, message)

    def unreadable(self, number: int, why: str) -> None:
        """What `FileWork.loads` asked for is not in its file any more."""
        spilling.unreadable(self.books, number, why)

    def committed(self, batch: int) -> None:
        """All records up to those of a batch are durable; what waited for them may leave."""
        self.books.committed = batch

    def journal_measured(self, size_bytes: int, committed_at: float) -> None:
        """What the journal holds, and when it was last written to, for observers."""
        self.books.journal_bytes, self.books.committed_at = size_bytes, committed_at

    def shut(self, why: str) -> None:
        """Take no submits from now on, and say why; an empty text takes them again."""
        self.books.shut = why

    def lack_room(self, lacking: dict[Peer, int]) -> None:
        """So many bytes of each of these peers wait for room on the disk, and of nobody else any."""
        self.books.no_room = lacking

    def has_room_for(self, message: Submit) -> bool:
        """Whether a submit that comes now is not refused because too much is held, or nothing is taken."""
        return lack_of_room(self.books, message) is None

    @property
    def is_shut(self) -> bool:
        """Whether no submits are taken."""
        return bool(self.books.shut)

    def remember(self, image: Image, where: str, now: float) -> Restored:
        """Take over what the records of a scheduler before this one say, and record from now on.

        Args:
            image: of those records.
            where: this state's own go, for observers.
            now: monotonic seconds.
        """
        self.books.journal = where
        restored = restore(self.books, image, now)
        self.books.journalled = True
        return restored

    def begin_epoch(self, wall_s: float, version: str, now: float) -> None:
        """Record that this scheduler has started, now and at a wall-clock time."""
        self.books.wall_offset_s = wall_s - now
        recording.epoch_began(self.books, wall_s, version)

    def live_bytes(self) -> int:
        """About how many bytes a compaction would record."""
        return live_bytes(self.books)

    def begin_compaction(self, now: float, large_bytes: float = inf) -> None:
        """Record all again that must be remembered, turn by turn, until `is_compacting` is over.

        It is called right after records were taken: the next ones begin with the compaction. Before blobs of
        more than `large_bytes` are recorded, `Effects.prepares` has them, and `prepared` is to be called.
        """
        self._restating = Restating(self.books, now, large_bytes)

    def prepared(self) -> None:
        """What `Effects.prepares` asked for is ready to be recorded."""
        if self._restating is not None:
            self._restating.prepared()

    @property
    def is_compacting(self) -> bool:
        """Whether something is still to be recorded again."""
        return self._restating is not None

    def _say_again(self, restating: Restating, now: float) -> None:
        """Go on with a compaction if what it said last is durable."""
        if self.books.committed >= restating.batch:
            restating.say_more(now)
            if restating.over:
                self._restating = None

    def take_records(self) -> Effects:
        """Hand over what is recorded by now, without a placement pass."""
        return _hand_over(self.books)

    def take_effects(self, now: float) -> Effects:
        """Place what is pending and hand over all that must leave."""
        books = self.books
        wake_at = books.timers.next_at
        slots = idle = 0
        for pool in books.pools.values():
            roster = pool.roster
            if pool.over:
                end_children(books, pool, now)
            if pool.queue.pending:
                place(books, pool, now)
            if pool.divisible and roster.idle and not pool.queue.pending:  # they have run dry
                retract(books, pool, now)
                wake_at = min(wake_at, max(pool.look_at, pool.look_after))
                idle += roster.idle_though_leased(pool.leased)
            if pool.unnoticed:
                notice_unfit(books, pool)
            slots += roster.slots
        usage = books.usage
        if slots != usage.slots or idle != usage.idle:
            usage.change(slots, idle, now)
        if books.given_up:
            cancel_given_up(books)
        if books.owing:
            _answer(books)
        if self._restating is not None:
            self._say_again(self._restating, now)
        effects = _hand_over(books)
        effects.wake_at = None if wake_at == NEVER else wake_at
        return effects


def _answer(books: Books) -> None:
    """Let workers forget what they have told."""
    for peer, seqs in books.owing.items():
        books.tell(peer, AckSettles(tuple(seqs)))
    books.owing.clear()


def _hand_over(books: Books) -> Effects:
    """The effects of a turn, its batch numbered if it recorded something."""
    effects, books.effects = books.effects, Effects()
    if effects.records:
        books.batch += 1
    effects.batch = books.batch
    return effects
