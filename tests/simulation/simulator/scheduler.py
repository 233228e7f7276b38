"""The scheduler's program around its state machine, as `distcomp.scheduler` is."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from distcomp.core import invariants
from distcomp.core.scheduler_state import SchedulerState
from distcomp.ids import Peer
from distcomp.worker_protocol import GrantLease, RegisterWorker
from simulator.clock import Host

if TYPE_CHECKING:
    from distcomp.ids import Token, WorkerId
    from distcomp.protocol import Message
    from simulator.wire import End
    from simulator.world import World

CHECK_TURNS = 32
"""Every so many turns all books are held to their laws."""


class SimScheduler(Host):
    """One scheduler, which may stop and start anew."""

    def __init__(self, world: World) -> None:
        super().__init__(world.clock, "scheduler")
        self.world = world
        self.down = False
        self.granted: dict[WorkerId, list[GrantLease]] = {}
        self.revoked: set[Token] = set()
        self._numbers = count(1)
        self._epoch = 0
        self._start()

    def _start(self) -> None:
        self._epoch += 1
        self.state = SchedulerState(self.world.weather.scheduler, self._epoch, "sim", auth=True)
        self.ends: dict[Peer, End] = {}
        self._workers: dict[Peer, WorkerId] = {}
        self._turn_comes = False
        self._wakes = self._turns = 0

    def restart(self, pause_s: float) -> None:
        """Stop without a word, and start later with nothing remembered."""
        self.down = True
        for end in list(self.ends.values()):
            end.reset()
        self.ends.clear()
        self.clock.after(pause_s, self._come_back)

    def _come_back(self) -> None:
        for worker in list(self.granted):
            self.lose(worker)
        self._start()
        self.down = False

    # --- connections ---

    def accept(self, end: End, role: str, owner: str) -> None:
        end.peer = Peer(next(self._numbers))
        self.ends[end.peer] = end
        self.state.connect(end.peer, role, owner, end.far.host.name, self.clock.now)
        self._plan_turn()

    def on_messages(self, end: End, messages: list[Message]) -> None:
        if self.ends.get(end.peer) is not end:
            return
        for message in messages:
            if type(message) is RegisterWorker:
                self._workers[end.peer] = message.worker
            self.state.receive(end.peer, message, self.clock.now)
        self._plan_turn()

    def on_closed(self, end: End) -> None:
        if self.ends.get(end.peer) is not end:
            return
        del self.ends[end.peer]
        self.state.disconnect(end.peer, self.clock.now)
        worker = self._workers.pop(end.peer, None)
        if worker is not None:
            grace_s = self.world.weather.scheduler.reconnect_grace_s
            self.after(grace_s - 1e-6, self._lose_if_away, worker)
        self._plan_turn()

    def _lose_if_away(self, worker: WorkerId) -> None:
        if worker not in self._workers.values():
            self.lose(worker)

    def lose(self, worker: WorkerId) -> None:
        """Tell the ledger that what this worker was ever granted may begin again elsewhere."""
        for grant in self.granted.pop(worker, []):
            self.world.ledger.worker_lost(self.world.ledger.books[grant.array], grant.start, grant.stop)

    # --- turns ---

    def _plan_turn(self) -> None:
        if not self._turn_comes and not self.down:
            self._turn_comes = True
            self.after(self.world.weather.turn_s, self._turn, self._epoch)

    def _turn(self, epoch: int) -> None:
        if epoch != self._epoch or self.down:
            return
        self._turn_comes = False
        effects = self.state.take_effects(self.clock.now)
        invariants.check_placed(self.state)
        self._turns += 1
        if self.world.weather.checks and self._turns % CHECK_TURNS == 0:
            invariants.check(self.state)
        for peer, acks in effects.acks.items():
            effects.sends.setdefault(peer, []).extend(acks)
        for peer, messages in effects.sends.items():
            end = self.ends.get(peer)
            if end is not None:
                self._note_grants(peer, messages)
                end.send(messages)
        for peer, _ in effects.closes:
            if peer in self.ends:
                self.ends[peer].close()
        if effects.wake_at is not None:
            self._wakes += 1
            self.after(max(0.0, effects.wake_at - self.clock.now), self._wake, self._wakes, epoch)

    def _note_grants(self, peer: Peer, messages: list[Message]) -> None:
        if self.world.weather.faults:
            grants = [message for message in messages if type(message) is GrantLease]
            if grants:
                self.granted.setdefault(self._workers[peer], []).extend(grants)

    def _wake(self, number: int, epoch: int) -> None:
        if number == self._wakes and epoch == self._epoch and not self.down:
            self.state.tick(self.clock.now)
            self._plan_turn()
