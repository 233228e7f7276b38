"""One world: everything that a seed stands for, run to its end and looked at from outside."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from distcomp.core import invariants
from simulator.client import SimClient
from simulator.clock import Clock
from simulator.ledger import LEFT, Ledger, demand
from simulator.runs import SimRun
from simulator.scheduler import SimScheduler
from simulator.storm import Storm
from simulator.wire import Air
from simulator.worker import SimWorker

if TYPE_CHECKING:
    from collections.abc import Callable

    from distcomp.ids import SessionId
    from simulator.ledger import Book
    from simulator.weather import Weather

DEADLINE_S = 2000.0
PROBE_S = 0.05
MOST_IDLE_S = 0.4


class World:
    """All processes of one world; `users` counts the clients that are not done.

    Of runs whose process has ended `unborn` counts those for which another one comes.
    """

    def __init__(self, weather: Weather, tell: Callable[[str], None] | None = None) -> None:
        self.weather, self.tell = weather, tell
        self.clock = Clock()
        self.air = Air(
            self.clock,
            Random(weather.seed + 1),  # noqa: S311 - weather is no secret
            delay_s=weather.delay_s,
            jitter_s=weather.jitter_s,
            cut_chance=weather.cut_chance,
        )
        self.storm = Storm(self)
        self.ledger = Ledger(weather.scheduler, self.storm.go_on)
        self._idlers: dict[SimWorker, tuple[float, int]] = {}
        self.storm.set_alarm()
        self.users = len(weather.clients)
        self.children = 0
        self.homes: dict[bytes, SessionId] = {}
        self.scheduler = SimScheduler(self)
        self.workers: list[SimWorker] = []
        self._joined = 0
        for slots, python in weather.workers:
            self.join(slots, python)
        self.unborn = 0
        self.clients: list[SimClient] = []
        for number, plan in enumerate(weather.clients):
            if plan.lives:
                self.clients.append(SimRun(self, number, plan).life)
            else:
                self.clients.append(SimClient(self, number, plan))
        for client, plan in zip(self.clients, weather.clients, strict=True):
            if plan.ending in ("hasty", "vanish"):
                end = client.close if plan.ending == "hasty" else client.vanish
                self.clock.at(plan.ends_at_s, client.run, end)

    def join(self, slots: int, python: str) -> None:
        self._joined += 1
        self.workers.append(SimWorker(self, self._joined, slots, python))

    def home_of(self, session: SessionId) -> SessionId:
        """The session whose slot processes a session uses, whichever life of its client it is."""
        return self.homes.get(session[:8], session)

    def worker_left(self, worker: SimWorker) -> None:
        if worker.state.held_leases():
            self.scheduler.lose(worker.id)
        worker.leave()
        self.workers.remove(worker)

    def say(self, text: str) -> None:
        if self.tell is not None:
            self.tell(f"{self.clock.now:12.6f}  {text}")

    # --- the run ---

    def _is_over(self) -> bool:
        return self.users == 0

    def run(self) -> None:
        """Run until every user is done and nothing is left; raises `BrokenPromiseError`."""
        if self.weather.calm:
            self.clock.after(PROBE_S, self._probe)
        over = self.clock.run(self._are_done, DEADLINE_S)
        if not over:
            demand(False, "stuck", self._open_tasks())
        clean = self.clock.run(self._is_clean, self.clock.now + 200.0)
        if not clean:
            self._check_clean()
            demand(False, "never quiet")
        self._check_detached()
        invariants.check(self.scheduler.state)

    def _are_done(self) -> bool:
        return not self.unborn and all(client.over for client in self.clients)

    def _probe(self) -> None:
        if not self._is_over():
            self._look_for_idlers()
            self.clock.after(PROBE_S, self._probe)

    def _look_for_idlers(self) -> None:
        """In a calm world, no slot may idle for long beside a worker's others while tasks wait.

        With short tasks and a long way some slot always idles, so a worker that begins tasks at a good
        rate is left alone.
        """
        now = self.clock.now
        for worker in self.workers:
            idles = self.ledger.waiting[worker.python] > 0 and not self._is_held_back()
            since, begun = self._idlers.get(worker, (now, worker.begun))
            if not idles or worker.idle_since() > since or worker.begun - begun >= 2 * worker.slots:
                self._idlers[worker] = (now, worker.begun)
            else:
                self._idlers[worker] = (since, begun)
                demand(now - since <= MOST_IDLE_S, "a slot idles while tasks wait", worker.name)

    def _is_held_back(self) -> bool:
        """Whether tasks wait for their user to read, or for payload that is on its way."""
        paused = any(session.paused for session in self.scheduler.state.books.sessions.values())
        return paused or any(end.is_transferring for end in self.scheduler.ends.values())

    # --- the end ---

    def _open_tasks(self) -> str:
        lines = [
            f"{book.name}: {book.submitted - book.ended} of {book.submitted} never ended"
            for book in self.ledger.books.values()
            if book.ended < book.submitted
        ]
        return "; ".join(lines)

    def _is_clean(self) -> bool:
        books = self.scheduler.state.books
        return not (books.sessions or books.leases) and not any(
            len(worker.state._book) or len(worker.state._outbox) or worker.state._shelf.sessions
            for worker in self.workers
        )

    def _check_clean(self) -> None:
        books = self.scheduler.state.books
        demand(not books.sessions, "a session is left over", len(books.sessions))
        demand(not books.leases, "leases are left over", books.leases)
        for worker in self.workers:
            state = worker.state
            demand(not len(state._book), "a worker holds leases", worker.name, state._book.spans())
            demand(not len(state._outbox), "a worker holds answers", worker.name, state._outbox.leases())
            demand(not state._shelf.sessions, "a worker knows sessions that are over", worker.name)

    def _check_left_over(self) -> None:
        books = self.scheduler.state.books
        demand(books.held_bytes == 0, "the scheduler holds payload", books.held_bytes)
        for pool in books.pools.values():
            demand(not pool.sessions and not pool.leased, "a pool counts what is gone", pool.python)

    def _check_detached(self) -> None:
        """What was accepted of detached arrays has run, although nobody waits for it any more."""
        self._check_left_over()
        for book in self.ledger.books.values():
            if book.plan.options.detach:
                for index in range(book.accepted):
                    left = book.outcomes[index] == LEFT and not book.cancelled[index]
                    demand(not left or self._ran(book, index), "a detached task never ran", book.name, index)

    def _ran(self, book: Book, index: int) -> bool:
        return bool(book.starts[index]) or self.clients[0].grounds
