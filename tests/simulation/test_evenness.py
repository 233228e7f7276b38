"""Whether work spreads evenly: the scheduler's state machine against fake workers in virtual time.

The workers keep to the contract of real ones as far as time goes: a slot runs one task at a time, sends
what is finished once a millisecond has passed, takes its leases in order (urgent ones at the next task
border), gives back on request what has not begun, and what has waited too long.
"""

from __future__ import annotations

import random
from collections import deque
from hashlib import blake2b
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from distcomp.config import SchedulerSettings
from distcomp.core import invariants
from distcomp.core.scheduler_state import SchedulerState
from distcomp.protocol import AckOutcomes, DefineFunction, OpenSession, Submit, TasksSettled
from distcomp.rows import TaskOptions, Versions
from distcomp.worker_protocol import GrantLease, LeaseReturned, LeaseSettled, RegisterWorker, RetractLease

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WIRE_S = 0.0002
FLUSH_S = 0.001
WAIT_S = 0.05
VERSIONS = Versions("0", "3.11.4", "3")
FUNCTION = blake2b(b"f", digest_size=32).digest()
CHUNK = 1000


class Slot:
    """One slot: the lease it runs, as `[grant, next index, stop, first unsent index, unsent seconds]`."""

    def __init__(self, worker: Worker, number: int) -> None:
        self.worker, self.number = worker, number
        self.run: list[Any] | None = None
        self.sent_at = 0.0


class Worker:
    def __init__(self, world: World, peer: int, slots: int) -> None:
        self.world, self.peer = world, peer
        self.slots = [Slot(self, number) for number in range(slots)]
        self.waiting: deque[list[Any]] = deque()
        self.busy_s = 0.0
        self.tasks = 0

    def receive(self, message: Any) -> None:
        if type(message) is GrantLease:
            run = [message, message.start, message.stop, message.start, 0.0]
            if message.urgent:
                self.waiting.appendleft(run)
            else:
                self.waiting.append(run)
            self.world.at(self.world.now + WAIT_S, self.tire, run)
            for slot in self.slots:
                if slot.run is None:
                    self.begin(slot)
        elif type(message) is RetractLease:
            self.retract(message)

    def tire(self, run: list[Any]) -> None:
        if run in self.waiting:
            self.waiting.remove(run)
            self.give_back(run[0].token, run[1], run[2], "waited")

    def give_back(self, token: Any, start: int, stop: int, reason: str) -> None:
        self.world.to_scheduler(self.peer, LeaseReturned(0, token, ((start, stop),), reason))

    def retract(self, message: RetractLease) -> None:
        for run in list(self.waiting):
            if run[0].token == message.token:
                self.waiting.remove(run)
                self.give_back(message.token, run[1], run[2], "retracted")
        for slot in self.slots:
            run = slot.run
            if run is not None and run[0].token == message.token:
                ahead = run[2] - run[1] - 1
                back = ahead if message.everything else (ahead + 1) // 2
                if back:
                    run[2] -= back
                    self.give_back(message.token, run[2], run[2] + back, "retracted")

    def begin(self, slot: Slot) -> None:
        """Begin the next task of a slot, or the next lease."""
        run = slot.run
        if run is not None and self.waiting and self.waiting[0][0].urgent and not run[0].urgent:
            self.flush(slot)
            self.waiting.append(run)
            run = None
        if run is None:
            if not self.waiting:
                slot.run = None
                return
            run = slot.run = self.waiting.popleft()
            slot.sent_at = self.world.now
        cost_s = self.world.cost(run[0].array[1], run[1])
        self.busy_s += cost_s
        self.world.at(self.world.now + cost_s, self.end, slot, cost_s)

    def end(self, slot: Slot, cost_s: float) -> None:
        run = slot.run
        assert run is not None
        self.tasks += 1
        run[1] += 1
        run[4] += cost_s
        done = run[1] == run[2]
        if done or self.world.now - slot.sent_at >= FLUSH_S:
            self.flush(slot)
        if done:
            slot.run = None
        self.begin(slot)

    def flush(self, slot: Slot) -> None:
        grant, at, _, unsent, busy_s = slot.run or ()
        if at > unsent:
            settled = LeaseSettled(0, grant.token, ((unsent, at, b""),), (), busy_s, slot.number)
            self.world.to_scheduler(self.peer, settled)
            slot.run[3:] = [at, 0.0]
            slot.sent_at = self.world.now


class World:
    """Virtual time: one scheduler, workers, and one client for each owner."""

    def __init__(self, workers: int, slots: int, cost: Callable[[int, int], float]) -> None:
        self.now = 0.0
        self.cost = cost
        self.heap: list[Any] = []
        self.order = count()
        self.state = SchedulerState(SchedulerSettings(), 1, "c", auth=True)
        self.turn_at: float | None = None
        self.settled_at: dict[tuple[int, int], float] = {}
        self.clients: dict[int, bytes] = {}
        self.workers: dict[int, Worker] = {}
        for _ in range(workers):
            self.join(slots)

    def join(self, slots: int) -> Worker:
        peer = 1000 + len(self.workers)
        worker = self.workers[peer] = Worker(self, peer, slots)
        self.state.connect(peer, "worker", "w", "", self.now)
        name = peer.to_bytes(16, "big")
        self.to_scheduler(peer, RegisterWorker(name, str(peer), "h", 1, slots, VERSIONS, ()))
        return worker

    def client(self, peer: int, owner: str) -> None:
        self.clients[peer] = session = peer.to_bytes(16, "big")
        self.state.connect(peer, "client", owner, "", self.now)
        self.to_scheduler(peer, OpenSession(session, VERSIONS, "h", 1, "p", b"", False))
        self.to_scheduler(peer, DefineFunction(FUNCTION, "f", b"f"))

    def submit(self, peer: int, array: int, tasks: int, priority: int = 0) -> None:
        name, options = (self.clients[peer], array), TaskOptions(priority=priority)
        for start in range(0, tasks, CHUNK):
            size = min(CHUNK, tasks - start)
            last = start + size == tasks
            self.to_scheduler(peer, Submit(name, FUNCTION, options, start, size, b"", last))

    def at(self, time: float, action: Callable[..., None], *arguments: Any) -> None:
        heappush(self.heap, (time, next(self.order), action, arguments))

    def to_scheduler(self, peer: int, message: Any) -> None:
        self.at(self.now + WIRE_S, self.arrive, peer, message)

    def arrive(self, peer: int, message: Any) -> None:
        self.state.receive(peer, message, self.now)
        self.plan(self.now)

    def plan(self, time: float) -> None:
        if self.turn_at is None or time < self.turn_at:
            self.turn_at = time
            self.at(time, self.turn, time)

    def turn(self, planned: float) -> None:
        if self.turn_at != planned:
            return
        self.turn_at = None
        self.state.tick(self.now)
        effects = self.state.take_effects(self.now)
        invariants.check_placed(self.state)
        for peer, messages in effects.sends.items():
            for message in messages:
                if peer in self.workers:
                    self.at(self.now + WIRE_S, self.workers[peer].receive, message)
                elif type(message) is TasksSettled:
                    self.deliver(peer, message)
        if effects.wake_at is not None:
            self.plan(max(effects.wake_at, self.now))

    def deliver(self, peer: int, message: TasksSettled) -> None:
        self.to_scheduler(peer, AckOutcomes((message.seq,)))
        for start, stop, _ in message.runs:
            for index in range(start, stop):
                self.settled_at[message.array[1], index] = self.now + WIRE_S

    def run(self, until: Callable[[], bool]) -> float:
        while not until():
            self.now, _, action, arguments = heappop(self.heap)
            action(*arguments)
        return max(self.settled_at.values())

    def run_one(self, costs: Sequence[float]) -> float:
        self.client(1, "alice")
        self.submit(1, 1, len(costs))
        return self.run(lambda: len(self.settled_at) == len(costs))


def world_of(costs: Sequence[float], workers: int = 4, slots: int = 1) -> World:
    return World(workers, slots, lambda _, index: costs[index])


def greedy(costs: Sequence[float], slots: int) -> float:
    """When a scheduler without any overhead would be done."""
    ends = [0.0] * slots
    for cost in costs:
        ends.sort()
        ends[0] += cost
    return max(ends)


def heavy_tailed(seed: int) -> list[float]:
    rng = random.Random(seed)  # noqa: S311 - it draws durations, no secrets
    drawn = [rng.paretovariate(1.5) for _ in range(64)]
    return [min(2.0, 20.0 * each / sum(drawn)) for each in drawn]


def test_a_thousand_short_tasks_fill_every_worker_evenly() -> None:
    costs = [0.002] * 1000
    world = world_of(costs)
    assert world.run_one(costs) <= 1.12 * 0.5
    mean = sum(costs) / 4
    assert all(abs(worker.busy_s - mean) <= 0.05 * mean for worker in world.workers.values())
    usage = world.state.books.usage
    usage.add_up(world.now)
    assert usage.idle_while_queued_s <= 0.01 * usage.slot_s


@pytest.mark.parametrize("seed", range(8))
def test_heavy_tailed_tasks_end_as_with_a_greedy_scheduler(seed: int) -> None:
    costs = heavy_tailed(seed)
    assert world_of(costs).run_one(costs) <= 1.02 * greedy(costs, 4)


@pytest.mark.parametrize("seed", range(5))
def test_heavy_tailed_tasks_longest_first_end_close_to_the_bound(seed: int) -> None:
    costs = sorted(heavy_tailed(seed), reverse=True)
    assert world_of(costs).run_one(costs) <= 1.03 * max(sum(costs) / 4, costs[0])


@pytest.mark.parametrize("slow_s", [0.002, 0.01, 0.1])
@pytest.mark.parametrize("tasks", [200, 2000])
def test_instant_then_slow_ends_near_the_ideal(slow_s: float, tasks: int) -> None:
    costs = [1e-6] * (tasks // 2) + [slow_s] * (tasks // 2)
    ideal = max(sum(costs) / 4, 0.05)
    assert world_of(costs).run_one(costs) <= 1.10 * ideal


def test_forty_slow_tasks_among_a_hundred_thousand_instant_ones() -> None:
    costs = [1e-6] * 49_980 + [1.0] * 40 + [1e-6] * 49_980
    assert world_of(costs).run_one(costs) <= 1.10 * 10.0


def test_two_hundred_computes_in_turn_go_round() -> None:
    world = World(4, 1, lambda _array, _index: 0.0001)
    world.client(1, "alice")
    for number in range(200):
        world.submit(1, number, 1)
        world.run(lambda number=number: (number, 0) in world.settled_at)
    assert all(48 <= worker.tasks <= 52 for worker in world.workers.values())


def test_four_long_tasks_go_to_four_workers_of_two_slots() -> None:
    costs = [1.0] * 4
    world = world_of(costs, workers=4, slots=2)
    world.run_one(costs)
    assert [worker.tasks for worker in world.workers.values()] == [1, 1, 1, 1]


def test_one_task_is_not_behind_the_million_of_another_owner() -> None:
    world = World(4, 1, lambda _array, _index: 0.001)
    world.client(1, "alice")
    world.client(2, "bob")
    world.submit(1, 1, 5000)
    world.run(lambda: len(world.settled_at) >= 500)
    asked_at = world.now
    world.submit(2, 7, 1)
    world.run(lambda: (7, 0) in world.settled_at)
    assert world.settled_at[7, 0] - asked_at <= 0.0035


def test_behind_long_tasks_one_task_gets_the_first_slot_that_is_free() -> None:
    world = World(4, 1, lambda array, index: 0.5 + 0.1 * (index % 4) if array == 1 else 0.001)
    world.client(1, "alice")
    world.client(2, "bob")
    world.submit(1, 1, 40)
    world.run(lambda: len(world.settled_at) >= 8)
    world.submit(2, 7, 1)
    asked_at = world.now
    world.run(lambda: (7, 0) in world.settled_at)
    later = [at for (array, _), at in world.settled_at.items() if array == 1 and at > asked_at + 2 * WIRE_S]
    assert len(later) <= 1


def test_a_worker_that_joins_in_the_middle_has_work_at_once() -> None:
    costs = [0.05] * 400
    world = world_of(costs, workers=2)
    world.client(1, "alice")
    world.submit(1, 1, len(costs))
    world.run(lambda: len(world.settled_at) >= 100)
    joined_at, worker = world.now, world.join(1)
    world.run(lambda: worker.tasks > 0)
    assert world.now - joined_at <= 0.1 + 0.05


def test_slots_of_different_speeds_finish_together() -> None:
    world = World(4, 1, lambda _array, _index: 0.01)
    plain = world.cost
    fast = world.workers[1000]
    begin = fast.begin

    def begin_fast(slot: Slot) -> None:
        world.cost = lambda array, index: plain(array, index) / 4
        begin(slot)
        world.cost = plain

    fast.begin = begin_fast  # type: ignore[method-assign] - this worker alone is faster
    world.client(1, "alice")
    world.submit(1, 1, 1000)
    end = world.run(lambda: len(world.settled_at) == 1000)
    assert end <= 1.05 * 10.0 / 7
