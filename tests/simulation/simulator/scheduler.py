"""The scheduler's program around its state machine, as `distcomp.scheduler` is."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from distcomp.core import invariants
from distcomp.core.image import Image
from distcomp.core.scheduler_state import SchedulerState
from distcomp.ids import ClusterId, Peer
from distcomp.memory_journal import MemoryDisk, MemoryJournal
from distcomp.protocol import Refused, ResizeWorker
from distcomp.worker_protocol import GrantLease, RegisterWorker
from simulator.clock import Host
from simulator.ledger import demand

if TYPE_CHECKING:
    from collections.abc import Callable

    from distcomp.core.effects import Effects, FileWork
    from distcomp.ids import Token, WorkerId
    from distcomp.protocol import Message
    from simulator.wire import End
    from simulator.world import World

CHECK_TURNS = 32
"""Every so many turns all books are held to their laws."""

CLUSTER = ClusterId(b"simulated ......")
ADMIN = Peer(0)
"""No connection has this number."""

WALL_S = 1e9
"""What the wall clock is ahead of the world's."""


class SimScheduler(Host):
    """One scheduler, which may stop and start anew.

    With a journal it remembers what was written down. A commit takes its time; what a kill finds between
    the order to write and the word that it is done is lost, or on the disk though nobody has heard of it.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world.clock, "scheduler")
        self.world = world
        self.down = False
        self.granted: dict[WorkerId, list[GrantLease]] = {}
        self.revoked: set[Token] = set()
        self._numbers = count(1)
        self._epoch = 0
        self._disk = MemoryDisk(CLUSTER)
        self._start()

    def _start(self) -> None:
        self._epoch += 1
        self.state = SchedulerState(self.world.weather.scheduler, self._epoch, "sim", auth=True)
        self.ends: dict[Peer, End] = {}
        self._workers: dict[Peer, WorkerId] = {}
        self._all_workers: dict[Peer, WorkerId] = {}
        self._turn_comes = False
        self._wakes = self._turns = 0
        self._held: list[tuple[int, dict[Peer, list[Message]]]] = []
        self._unwritten: list[tuple[int, GrantLease]] = []
        self._files: dict[int, Message] = {}
        self._committed = 0
        self._compacts = False
        self._journal: MemoryJournal | None = None
        if self.world.weather.journalled:
            self._recall()

    def restart(self, pause_s: float, *, in_order: bool = False, heard: bool = True) -> None:
        """Stop, without a word or in order, and start later.

        Args:
            pause_s: how much later.
            in_order: everybody is told, and all is written down.
            heard: what was about to be written is not on the disk.
        """
        if self._journal is not None:
            self._stop_writing(self._journal, in_order=in_order, lost=heard)
        self.down = True
        for end in list(self.ends.values()):
            if in_order:
                end.send([Refused("stopping", "stopped")])
                end.close()
            else:
                end.reset()
        self.ends.clear()
        self.clock.after(pause_s, self._come_back)

    def _come_back(self) -> None:
        if not self.world.weather.journalled:
            for worker in list(self.granted):
                self.lose(worker)
        self._start()
        self.down = False
        if self._journal is not None:
            grace_s = self.world.weather.scheduler.restart_grace_s
            for worker in list(self.granted):
                self.after(grace_s - 1e-6, self._lose_if_away, worker)
        self._plan_turn()

    # --- the journal ---

    def _recall(self) -> None:
        """Read the journal, and write down that this scheduler has begun before anybody hears of it."""
        journal = self._journal = MemoryJournal(self._disk, CLUSTER)
        image = Image(compacted=journal.recovered.compacted)
        for commit in journal.recovered:
            image.replay(commit.records)
        image.end()
        demand(image.epoch < self._epoch, "an epoch from the future", image.epoch)
        self.state.remember(image, "memory", self.clock.now)
        self.state.begin_epoch(WALL_S + self.clock.now, "0", self.clock.now)
        invariants.check(self.state)
        journal.start(
            self._post, on_committed=self._on_committed, on_full=print, on_no_room=print, on_failed=print
        )
        effects = self.state.take_records()
        journal.append(effects.batch, effects.records)
        journal._commit_all()

    def _post(self, commit: Callable[..., None], nothing: object) -> None:
        self.after(self.world.weather.disk_s, self._commit, self._epoch, commit, nothing)

    def _commit(self, epoch: int, commit: Callable[..., None], nothing: object) -> None:
        if epoch == self._epoch and not self.down:
            commit(nothing)

    def _on_committed(self, batch: int) -> None:
        self._committed = batch
        self.state.committed(batch)
        self._unwritten = [(when, grant) for when, grant in self._unwritten if when > batch]
        while self._held and self._held[0][0] <= batch:
            self._send(self._held.pop(0)[1])
        if self._compacts:
            self._plan_turn()

    # --- files ---

    def _use_files(self, epoch: int, work: FileWork) -> None:
        """What `distcomp.spill` does after a turn, a little later."""
        if epoch != self._epoch or self.down:
            return
        for number, _, message in work.spills:
            self._files[number] = message
            self.state.stored(number)
        for number in work.loads:
            if number in self._files:
                self.state.loaded(number, self._files[number])  # type: ignore[arg-type] # nothing else is there
        for number in work.unspills:
            del self._files[number]
        self._plan_turn()

    def _keep(self, effects: Effects) -> None:
        """What `distcomp.scheduler_memory` does after a turn."""
        journal = self._journal
        if journal is None:
            return
        if effects.records:
            journal.append(effects.batch, effects.records)
            every = self.world.weather.compact_turns
            if self._compacts and not self.state.is_compacting:
                self._compacts = False
                journal.end_compaction()
            elif every and self._turns % every == 0 and not self._compacts:
                self._compacts = True
                journal.begin_compaction()
                self.state.begin_compaction(self.clock.now)
                self._plan_turn()
        if effects.batch > self._committed:
            self._held.append((effects.batch, effects.acks))
        else:
            for peer, acks in effects.acks.items():
                effects.sends.setdefault(peer, []).extend(acks)

    def _stop_writing(self, journal: MemoryJournal, *, in_order: bool, lost: bool) -> None:
        """Leave the disk as it is in the middle of a commit, before or behind it, or write all of it."""
        if in_order:
            self._turn(self._epoch)
            journal._commit_all()
        elif lost:
            for _, grant in self._unwritten:
                self.world.ledger.grant_forgotten(grant.array, grant.start, grant.stop)
        else:
            for _, sends in self._held:
                for peer, messages in sends.items():
                    self._note_grants(peer, messages, 0)
            self._held.clear()
            self.ends, ends = {}, self.ends
            journal._commit_all()
            self.ends = ends
        self._disk.in_use = False

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
                self._workers[end.peer] = self._all_workers[end.peer] = message.worker
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

    def resize(self, worker: WorkerId, slots: int) -> bool:
        """Let an admin ask for so many slots of a worker; says whether anybody listened."""
        if self.down or self.frozen:
            return False
        self.state.connect(ADMIN, "admin", "admin", "admin", self.clock.now)
        self.state.receive(ADMIN, ResizeWorker(1, worker, slots), self.clock.now)
        self.state.disconnect(ADMIN, self.clock.now)
        self._plan_turn()
        return True

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
        self._keep(effects)
        self._send(effects.sends, effects.batch)
        if effects.files is not None:
            self.after(self.world.weather.disk_s, self._use_files, epoch, effects.files)
        for peer, _ in effects.closes:
            if peer in self.ends:
                self.ends[peer].close()
        if effects.wake_at is not None:
            self._wakes += 1
            self.after(max(0.0, effects.wake_at - self.clock.now), self._wake, self._wakes, epoch)

    def _send(self, sends: dict[Peer, list[Message]], batch: int = 0) -> None:
        for peer, messages in sends.items():
            self._note_grants(peer, messages, batch)
            end = self.ends.get(peer)
            if end is not None:
                end.send(messages)

    def _note_grants(self, peer: Peer, messages: list[Message], batch: int) -> None:
        """Note what may begin by now, for all that the books say; and what of it a kill would forget."""
        if self.world.weather.faults:
            grants = [message for message in messages if type(message) is GrantLease]
            if grants:
                self.granted.setdefault(self._all_workers[peer], []).extend(grants)
                if self._journal is not None and batch > self._committed:
                    self._unwritten += [(batch, grant) for grant in grants]

    def _wake(self, number: int, epoch: int) -> None:
        if number == self._wakes and epoch == self._epoch and not self.down:
            self.state.tick(self.clock.now)
            self._plan_turn()
