"""A client's program and its user, as `distcomp.client_program` is and as people are."""

from __future__ import annotations

from hashlib import blake2b
from itertools import count
from typing import TYPE_CHECKING

from distcomp.config import ClientSettings
from distcomp.core.client_effects import Failed, Introduction
from distcomp.core.client_state import ClientState
from distcomp.ids import BundleId, Peer, SessionId
from distcomp.protocol import Accepted, DefineBundle
from distcomp.rows import Versions
from simulator.clock import Host
from simulator.ledger import Book, demand
from simulator.tasks import make_chunk
from simulator.wire import connect

if TYPE_CHECKING:
    from distcomp.core.client_effects import ClientEffects
    from distcomp.protocol import Message
    from simulator.tasks import Plan
    from simulator.weather import ClientPlan
    from simulator.wire import End
    from simulator.world import World

SETTINGS = ClientSettings(under_way_bytes=1 << 17)
GRACE_SLACK_S = 1.0
BUNDLED = 2
"""Every so many arrays of a client need bundles."""


def bundle_for(counter: int, start: int) -> DefineBundle | None:
    """What the tasks from `start` on find their modules in; it changes within an array."""
    if counter % BUNDLED:
        return None
    blob = b"the modules, state %d" % (start % 2)
    return DefineBundle(BundleId(blake2b(blob, digest_size=32).digest()), "project", 1, blob)


class SimClient(Host):
    """One client; its user submits arrays by plan, waits for all of them, and closes it.

    Attributes:
        ending: `close` after all is done, `hasty` (closed early), or `vanish` (gone without a word).
        grounds: the session may have been lost by now, so its tasks may fail for that.
    """

    def __init__(self, world: World, number: int, plan: ClientPlan) -> None:
        super().__init__(world.clock, f"client-{number}")
        self.world = world
        self.owner, self.python, self.ending = plan.owner, plan.python, plan.ending
        self.grounds = self.over = False
        self.state = self._begin(
            number, Introduction(Versions("0", plan.python, "3"), "host", 1, "sim", b"env")
        )
        self.end: End | None = None
        self.books: dict[int, Book] = {}
        self._planned = len(plan.arrays)
        self._peers = self._wakes = 0
        self._away_until = 0.0
        self._backoff_s = SETTINGS.backoff_first_s
        self._plans = plan.arrays
        self._dial()

    def _begin(self, number: int, introduction: Introduction) -> ClientState:
        sessions = (SessionId(b"%08d%08d" % (number, life)) for life in count())
        return ClientState(SETTINGS, sessions, introduction)

    # --- the user ---

    def _submit(self, plan: Plan) -> None:
        if self.over:
            return
        self._planned -= 1
        array = self._open(plan)
        book = self.books[array]
        self.world.ledger.opened(book)
        self._extend(array, book)
        for delay_s, *what in plan.cancels:
            self.after(delay_s, self._cancel, array, book, *what)

    def _open(self, plan: Plan) -> int:
        """Begin an array and its book."""
        array = self.state.submit(plan.function_id, plan.function.decode(), plan.function, plan.options)
        self.books[array] = Book(f"{self.name}/{array}", (self.state.session, array), plan, self.python)
        return array

    def _extend(self, counter: int, book: Book) -> None:
        """Hand in the next chunk; with a pause between them the array is a stream."""
        plan = book.plan
        while book.submitted < plan.tasks and not self.over and not self._is_dead(book):
            start = book.submitted
            tasks = min(plan.chunk_tasks, plan.tasks - start)
            self.world.ledger.submitted(book, tasks)
            chunk = make_chunk(book.array, start, plan)
            self.state.bundle = bundle_for(counter, start)
            self.state.extend(counter, tasks, chunk, last=start + tasks == plan.tasks)
            if plan.pause_s:
                self.after(plan.pause_s, self._extend, counter, book)
                break
        self._turn()

    def _is_dead(self, book: Book) -> bool:
        """Whether the array was ended before its user had handed in all of it."""
        return book.submitted > 0 and book.array[1] not in self.state.arrays

    def _cancel(self, counter: int, book: Book, start: int, stop: int, pending_only: bool) -> None:  # noqa: FBT001 - a drawn value
        if self.over:
            return
        whole = stop > book.plan.tasks
        self.world.ledger.cancelled(book, start, stop, at_once=not pending_only)
        cancel = self.state.cancel_pending if pending_only else self.state.cancel
        cancel(counter, () if whole else ((start, stop),))
        self._turn()

    @property
    def settled(self) -> bool:
        """Whether every future has ended, and none is to come."""
        complete = all(
            book.ended == book.submitted
            and (book.cut or book.submitted == book.plan.tasks or self._is_dead(book))
            for book in self.books.values()
        )
        return not self._planned and complete

    def close(self) -> None:
        """The user is done, or done waiting."""
        if self.over:
            return
        if not self.settled:
            self.grounds = True
        self.over = True
        self.world.users -= 1
        self.state.close()
        self._turn()
        if self.end is not None:
            self.end.close()
        self._check_empty()

    def vanish(self) -> None:
        """The process is killed."""
        if self.over:
            return
        self.over = True
        self.world.users -= 1
        self.alive = False
        for book in self.books.values():
            self.world.ledger.abandoned(book)
        if self.end is not None:
            self.end.drop(sent=False)

    def _check_empty(self) -> None:
        demand(not self.state.arrays, "a closed client has arrays", self.name)
        demand(not self.state._needs, "a closed client holds functions or bundles", self.name)
        demand(self.state._outbox._under_way_bytes == 0, "a closed client counts bytes under way", self.name)

    # --- the connection ---

    def go_away(self, seconds: float) -> None:
        """No network for a while."""
        self._away_until = self.clock.now + seconds
        self._be_missed(seconds)
        if self.end is not None:
            self.end.reset()

    def stop(self, seconds: float) -> None:
        """The process does nothing for a while, as in a sleeping laptop."""
        self.freeze(seconds)
        self._be_missed(seconds)
        if self.end is not None:
            self.end.far.miss(self.frozen_until)

    def _be_missed(self, seconds: float) -> None:
        if seconds + GRACE_SLACK_S > self.world.weather.scheduler.client_grace_s:
            self.grounds = True

    def scheduler_fell(self) -> None:
        """The scheduler has just stopped, in order or not; nobody knows yet."""

    def _dial(self) -> None:
        self.after(2 * self.world.air.draw_delay_s(), self._reach)

    def _reach(self) -> None:
        scheduler = self.world.scheduler
        if self.over:
            return
        if scheduler.down or scheduler.frozen or self.clock.now < self._away_until:
            self.state.dial_failed(self.clock.now, refused=scheduler.down)
            self._turn()
            self._dial_later()
            return
        self._connect()

    def _connect(self) -> None:
        scheduler = self.world.scheduler
        self.end, far = connect(self.world.air, self, scheduler)
        self._peers += 1
        self.end.peer = Peer(self._peers)
        self._accept(far)
        self.state.connect(self.end.peer, self.clock.now)
        self._turn()

    def _accept(self, far: End) -> None:
        self.world.scheduler.accept(far, "client", self.owner)

    def _dial_later(self) -> None:
        self.after(self._backoff_s * self.world.air.rng.uniform(0.5, 1.0), self._dial)
        self._backoff_s = min(2 * self._backoff_s, SETTINGS.backoff_most_s)

    def on_messages(self, end: End, messages: list[Message]) -> None:
        for message in messages:
            self.state.receive(end.peer, message, self.clock.now)
            if type(message) is Accepted and not self.over and message.array in self.world.ledger.books:
                self.world.ledger.accepted(self.world.ledger.books[message.array], message.tasks)
        self._turn()

    def on_closed(self, end: End) -> None:
        self.state.disconnect(end.peer, self.clock.now)
        self.end = None
        self._turn()
        if not self.over:
            self._dial_later()

    # --- turns ---

    def _turn(self) -> None:
        self.state.tick(self.clock.now)
        effects = self.state.take_effects()
        if self.end is not None:
            self.end.send(effects.sends.get(self.end.peer, ()))
            if effects.closes:
                self.end.close()
        if effects.opened:
            self._backoff_s = SETTINGS.backoff_first_s
            plans, self._plans = self._plans, []
            for plan in plans:
                self.after(plan.at_s, self._submit, plan)
        self._hear(effects)
        if effects.wake_at is not None:
            self._wakes += 1
            self.after(max(0.0, effects.wake_at - self.clock.now), self._wake, self._wakes)
        if self.ending == "close" and self.settled:
            self.after(0.0, self.close)

    def _hear(self, effects: ClientEffects) -> None:
        """What the user is told."""
        for outcome in effects.outcomes:
            book = self.books[outcome.array]
            if type(outcome) is Failed:
                self.world.ledger.failed(book, outcome, grounds=self.grounds)
            else:
                self.world.ledger.returned(book, outcome)

    def _wake(self, number: int) -> None:
        if number == self._wakes:
            self._turn()
