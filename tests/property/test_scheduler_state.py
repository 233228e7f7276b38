"""The scheduler's state machine against a naive model that keeps one entry for every single task."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, TypeAlias

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from distcomp.config import SchedulerSettings
from distcomp.core import invariants
from distcomp.core.scheduler_state import SchedulerState
from distcomp.protocol import (
    Accepted,
    AckOutcomes,
    CancelTasks,
    CloseSession,
    DefineFunction,
    ForgetRun,
    ListRuns,
    OpenSession,
    RunDescribed,
    SessionOpened,
    Submit,
    TasksFailed,
    TasksSettled,
)
from distcomp.rows import Failure, HeldLease, RunningTask, TaskOptions, Versions
from distcomp.worker_protocol import (
    AckSettles,
    CancelLease,
    DefineSession,
    GrantLease,
    LeaseReturned,
    LeaseSettled,
    RegisterWorker,
    SlotsReported,
    WorkerDraining,
    WorkerLeft,
    WorkerRegistered,
)

PYTHONS = ("3.11.4", "3.12.1")
OPTIONS = (
    TaskOptions(),
    TaskOptions(retries=1, retry_delay_s=1.0),
    TaskOptions(priority=3),
    TaskOptions(max_attempts=1),
    TaskOptions(max_attempts=2, retries=1),
    TaskOptions(detach=True),
)
SETTINGS = SchedulerSettings(reconnect_grace_s=2.0, client_grace_s=10.0, result_retention_s=30.0)
Outcome: TypeAlias = TasksSettled | TasksFailed
BLOB = b"function"
FUNCTION = blake2b(BLOB, digest_size=32).digest()


@dataclass
class Tasks:
    """One array, task by task."""

    options: TaskOptions
    accepted: int = 0
    closed: bool = False
    settled: set[int] = field(default_factory=set)
    expired: set[int] = field(default_factory=set)
    received: set[int] = field(default_factory=set)
    cancelled: set[int] = field(default_factory=set)
    held: dict[int, Any] = field(default_factory=dict)
    failures: dict[int, int] = field(default_factory=dict)
    crashes: dict[int, int] = field(default_factory=dict)
    losses: dict[int, int] = field(default_factory=dict)
    starts: dict[int, int] = field(default_factory=dict)
    outcomes: dict[int, int] = field(default_factory=dict)

    @property
    def open(self) -> set[int]:
        return set(range(self.accepted)) - self.settled

    @property
    def finished(self) -> bool:
        return self.closed and not self.open


@dataclass
class Client:
    session: bytes
    owner: str
    python: str
    peer: int | None
    away_since: float = 0.0
    gone: bool = False
    left: bool = False
    run: str = ""
    nonce: bytes = b""
    unacked: dict[int, Outcome] = field(default_factory=dict)
    arrays: dict[int, Tasks] = field(default_factory=dict)

    @property
    def owed(self) -> set[tuple[int, int]]:
        """The tasks with an outcome that was not acknowledged."""
        return {
            (counter, index)
            for counter, tasks in self.arrays.items()
            for index in tasks.settled - tasks.cancelled - tasks.received
        }


@dataclass
class Worker:
    name: bytes
    python: str
    slots: int
    peer: int | None
    away_since: float = 0.0
    grace_s: float = SETTINGS.reconnect_grace_s
    draining: bool = False
    gone: bool = False
    functions: set[bytes] = field(default_factory=set)
    sessions: set[bytes] = field(default_factory=set)
    leases: dict[Any, set[int]] = field(default_factory=dict)
    arrays: dict[Any, tuple[Client, Tasks]] = field(default_factory=dict)
    running: set[tuple[Any, int]] = field(default_factory=set)


def indexes_of(message: Outcome) -> list[int]:
    if type(message) is TasksFailed:
        return [index for span in message.spans for index in range(*span)]
    indexes = [index for start, stop, _ in message.runs for index in range(start, stop)]
    return indexes + [index for index, _ in message.failures]


class SchedulerMachine(RuleBasedStateMachine):
    settings_of_state = SETTINGS

    @initialize()
    def begin(self) -> None:
        self.now = 1.0
        self.begin_state()
        self.clients: list[Client] = []
        self.workers: list[Worker] = []
        self.peers = 0
        self.seq = 0

    def begin_state(self) -> None:
        self.state = SchedulerState(self.settings_of_state, 5, "c", auth=True)

    def take_effects(self) -> Any:
        return self.state.take_effects(self.now)

    def use_disk(self, effects: Any) -> None:
        """Nothing is so large here that it goes to a file."""
        assert effects.files is None

    # --- the world ---

    def connect(self, role: str, owner: str) -> int:
        self.peers += 1
        self.state.connect(self.peers, role, owner, "", self.now)
        return self.peers

    def say(self, peer: int, message: Any) -> None:
        self.state.receive(peer, message, self.now)

    def pass_time(self) -> None:
        """What the scheduler does of itself, as the model foretells it."""
        for worker in self.workers:
            if not worker.gone and worker.peer is None and self.now >= worker.away_since + worker.grace_s:
                self.lose(worker)
        for client in self.clients:
            if not client.gone and client.peer is None:
                away_s = self.now - client.away_since
                if away_s >= SETTINGS.client_grace_s and not client.left:
                    self.leave_in_model(client)
                if away_s >= SETTINGS.result_retention_s:
                    self.drop_in_model(client)

    def leave_in_model(self, client: Client) -> None:
        """What needs its client ends, and that is told."""
        client.left = True
        for tasks in () if client.run else client.arrays.values():
            if not tasks.options.detach:
                self.expire_in_model(tasks)
            tasks.closed = True
        unfinished = any(not tasks.finished for tasks in client.arrays.values())
        if not client.run and not unfinished and not client.owed:
            client.gone = True

    def expire_in_model(self, tasks: Tasks) -> None:
        for index in tasks.open:
            tasks.settled.add(index)
            tasks.held.pop(index, None)
            tasks.expired.add(index)

    def drop_in_model(self, client: Client) -> None:
        client.gone = True
        client.unacked.clear()
        for tasks in client.arrays.values():
            self.cancel_in_model(tasks, range(tasks.accepted))
            tasks.closed = True

    def lose(self, worker: Worker) -> None:
        worker.gone = True
        for token, indexes in worker.leases.items():
            _, tasks = worker.arrays[token]
            for index in sorted(indexes):
                if tasks.held.get(index) != token:
                    continue
                del tasks.held[index]
                spent = 0 < tasks.options.max_attempts <= tasks.starts.get(index, 0)
                if (token, index) in worker.running:
                    tasks.losses[index] = tasks.losses.get(index, 0) + 1
                    spent = spent or tasks.losses[index] >= SETTINGS.loss_limit
                if spent:
                    tasks.settled.add(index)
        worker.leases.clear()

    def close(self, client: Client) -> None:
        client.gone = True
        client.unacked.clear()
        for tasks in client.arrays.values():
            if not tasks.options.detach:
                self.cancel_in_model(tasks, range(tasks.accepted))
            tasks.closed = True

    def cancel_in_model(self, tasks: Tasks, indexes: Any) -> None:
        for index in indexes:
            if index in tasks.open:
                tasks.settled.add(index)
                tasks.cancelled.add(index)
                tasks.held.pop(index, None)

    def turn(self) -> None:
        """One placement pass; every message is delivered and held against the model."""
        self.pass_time()
        self.state.tick(self.now)
        effects = self.take_effects()
        invariants.check(self.state)
        invariants.check_placed(self.state)
        for messages in (effects.sends, effects.acks):
            for peer, sent in messages.items():
                for message in sent:
                    self.deliver(peer, message)
        self.use_disk(effects)
        assert not [close for close in effects.closes if "nonsense" in close.reason]

    def deliver(self, peer: int, message: Any) -> None:
        for worker in self.workers:
            if worker.peer == peer:
                self.to_worker(worker, message)
        for client in self.clients:
            if client.peer == peer and type(message) in (TasksSettled, TasksFailed):
                self.to_client(client, message)
            elif client.peer == peer and type(message) is RunDescribed:
                self.described(client, message)

    def to_worker(self, worker: Worker, message: Any) -> None:
        kind = type(message)
        if kind is DefineFunction:
            worker.functions.add(message.function)
        elif kind is DefineSession:
            worker.sessions.add(message.session)
        elif kind is WorkerRegistered:
            for token in message.stale:
                worker.leases.pop(token, None)
        elif kind is GrantLease:
            self.granted(worker, message)
        elif kind is not CancelLease:
            assert kind is AckSettles or kind.__name__ in ("RetractLease", "EndSession")

    def granted(self, worker: Worker, grant: GrantLease) -> None:
        client = next(client for client in self.clients if client.session == grant.array[0])
        tasks = client.arrays[grant.array[1]]
        assert grant.function in worker.functions
        assert grant.array[0] in worker.sessions
        assert client.python == worker.python
        assert not worker.draining
        assert grant.chunk_start <= grant.start < grant.stop <= tasks.accepted
        for index in range(grant.start, grant.stop):
            assert index in tasks.open
            assert index not in tasks.held
            tasks.held[index] = grant.token
            tasks.starts[index] = tasks.starts.get(index, 0) + 1
        tried = (tasks.failures, tasks.crashes, tasks.losses)
        assert grant.attempt == 1 + sum(kind.get(grant.start, 0) for kind in tried)
        if tasks.options.max_attempts:
            assert grant.eager
            assert grant.stop - grant.start == 1
            assert tasks.starts[grant.start] <= tasks.options.max_attempts
        worker.leases[grant.token] = set(range(grant.start, grant.stop))
        worker.arrays[grant.token] = (client, tasks)

    def described(self, client: Client, message: RunDescribed) -> None:
        assert not message.more
        rows = {
            counter: (tasks.accepted, len(tasks.settled), tasks.finished or tasks.closed)
            for counter, tasks in client.arrays.items()
        }
        assert {row.number: (row.tasks, row.settled, row.closed) for row in message.arrays} == rows
        for row in message.arrays:
            told = {index for span in row.received for index in range(*span)}
            tasks = client.arrays[row.number]
            assert told - tasks.cancelled == tasks.received - tasks.cancelled

    def to_client(self, client: Client, message: Outcome) -> None:
        if message.seq in client.unacked:
            assert client.unacked[message.seq] == message
            return
        client.unacked[message.seq] = message
        tasks = client.arrays[message.array[1]]
        for index in indexes_of(message):
            if index not in tasks.cancelled:
                assert index in tasks.settled
                assert index not in tasks.outcomes
                tasks.outcomes[index] = message.seq

    # --- what peers do ---

    def some(self, data: st.DataObject, kind: str) -> Any:
        found = [each for each in getattr(self, kind) if each.peer is not None and not each.gone]
        return data.draw(st.sampled_from(found)) if found else None

    @rule(owner=st.sampled_from(["ann", "bob"]), python=st.sampled_from(PYTHONS), names=st.booleans())
    @precondition(lambda self: len(self.clients) < 4)
    def client_comes(self, owner: str, python: str, *, names: bool) -> None:
        number = len(self.clients)
        client = Client(number.to_bytes(16, "big"), owner, python, None)
        if names:
            client.run, client.nonce = f"run {number}", b"1"
        self.clients.append(client)
        self.open(client, resumes=False)
        self.turn()

    def open(self, client: Client, *, resumes: bool = True) -> None:
        client.peer = self.connect("client", client.owner)
        client.left = False
        versions = Versions("0", client.python, "3")
        opening = OpenSession(
            client.session, versions, "h", 1, "p", b"", resumes, run=client.run, nonce=client.nonce
        )
        self.say(client.peer, opening)
        self.say(client.peer, DefineFunction(FUNCTION, "f", BLOB))

    @rule(slots=st.integers(1, 3), python=st.sampled_from(PYTHONS))
    @precondition(lambda self: len(self.workers) < 5)
    def worker_comes(self, slots: int, python: str) -> None:
        peer = self.connect("worker", "w")
        name = (1000 + len(self.workers)).to_bytes(16, "big")
        self.workers.append(Worker(name, python, slots, peer))
        self.register(self.workers[-1])
        self.turn()

    def register(self, worker: Worker) -> None:
        held = tuple(
            HeldLease(token, tuple((index, index + 1) for index in sorted(indexes)))
            for token, indexes in worker.leases.items()
        )
        versions = Versions("0", worker.python, "3")
        self.say(worker.peer, RegisterWorker(worker.name, "n", "h", 1, worker.slots, versions, held))

    @rule(data=st.data(), tasks=st.integers(1, 12), options=st.sampled_from(OPTIONS), last=st.booleans())
    def submit(self, data: st.DataObject, tasks: int, options: TaskOptions, *, last: bool) -> None:
        client = self.some(data, "clients")
        if client is None:
            return
        counter = data.draw(st.integers(0, len(client.arrays)))
        array = client.arrays.setdefault(counter, Tasks(options))
        if array.closed or array.finished:
            return
        overlap = data.draw(st.integers(0, min(2, array.accepted)))
        start = array.accepted - overlap
        array.accepted += tasks
        array.closed = last
        name = (client.session, counter)
        self.say(client.peer, Submit(name, FUNCTION, array.options, start, tasks + overlap, b"args", last))
        effects = self.state.books.effects
        told = effects.acks if self.state.books.journalled else effects.sends
        assert told[client.peer][-1] == Accepted(name, array.accepted)
        self.turn()

    def lease_of(self, data: st.DataObject) -> tuple[Worker, Any] | None:
        worker = self.some(data, "workers")
        if worker is None or not worker.leases:
            return None
        return worker, data.draw(st.sampled_from(sorted(worker.leases)))

    def drop(self, worker: Worker, token: Any, indexes: set[int]) -> None:
        worker.leases[token] -= indexes
        if not worker.leases[token]:
            del worker.leases[token]

    @rule(data=st.data(), busy_s=st.sampled_from([1e-6, 1e-4, 1e-3, 0.2]))
    def settle_some(self, data: st.DataObject, busy_s: float) -> None:
        found = self.lease_of(data)
        if found is None:
            return
        worker, token = found
        _, tasks = worker.arrays[token]
        indexes = sorted(worker.leases[token])
        done = indexes[: data.draw(st.integers(1, len(indexes)))]
        for index in done:
            if tasks.held.get(index) == token:
                del tasks.held[index]
                tasks.settled.add(index)
        self.drop(worker, token, set(done))
        self.seq += 1
        runs = tuple((index, index + 1, b"r") for index in done)
        self.say(worker.peer, LeaseSettled(self.seq, token, runs, (), busy_s, 0))
        self.turn()

    @rule(data=st.data(), kind=st.sampled_from(["exception", "timeout", "crashed", "unpicklable"]))
    def fail_one(self, data: st.DataObject, kind: str) -> None:
        found = self.lease_of(data)
        if found is None:
            return
        worker, token = found
        _, tasks = worker.arrays[token]
        index = min(worker.leases[token])
        if tasks.held.get(index) == token:
            del tasks.held[index]
            self.fail_in_model(tasks, index, kind)
        self.drop(worker, token, {index})
        self.seq += 1
        failure = Failure(kind, retriable=kind in ("exception", "timeout"))
        self.say(worker.peer, LeaseSettled(self.seq, token, (), ((index, failure),), 0.001, 0))
        self.turn()

    def fail_in_model(self, tasks: Tasks, index: int, kind: str) -> None:
        options = tasks.options
        again = False
        if kind == "crashed":
            tasks.crashes[index] = tasks.crashes.get(index, 0) + 1
            again = tasks.crashes[index] < SETTINGS.crash_limit
        elif kind != "unpicklable":
            tasks.failures[index] = tasks.failures.get(index, 0) + 1
            again = tasks.failures[index] <= options.retries
        if 0 < options.max_attempts <= tasks.starts[index]:
            again = False
        if not again:
            tasks.settled.add(index)

    @rule(data=st.data(), reason=st.sampled_from(["retracted", "waited", "neighbour", "unprepared"]))
    def return_some(self, data: st.DataObject, reason: str) -> None:
        found = self.lease_of(data)
        if found is None:
            return
        worker, token = found
        indexes = sorted(worker.leases[token])
        self.give_back(worker, token, set(indexes[data.draw(st.integers(0, len(indexes) - 1)) :]), reason)
        self.turn()

    def give_back(self, worker: Worker, token: Any, indexes: set[int], reason: str) -> None:
        _, tasks = worker.arrays[token]
        for index in indexes:
            if tasks.held.get(index) == token:
                del tasks.held[index]
                tasks.starts[index] -= 1
        self.drop(worker, token, indexes)
        self.seq += 1
        spans = tuple((index, index + 1) for index in sorted(indexes))
        self.say(worker.peer, LeaseReturned(self.seq, token, spans, reason))

    @rule(data=st.data(), whole=st.booleans())
    def cancel(self, data: st.DataObject, *, whole: bool) -> None:
        client = self.some(data, "clients")
        if client is None or not client.arrays:
            return
        counter = data.draw(st.sampled_from(sorted(client.arrays)))
        tasks = client.arrays[counter]
        start = data.draw(st.integers(0, 20))
        stop = start + data.draw(st.integers(1, 10))
        self.cancel_in_model(tasks, range(tasks.accepted) if whole else range(start, stop))
        tasks.closed = tasks.closed or whole
        spans = () if whole else ((start, stop),)
        self.say(client.peer, CancelTasks((client.session, counter), spans))
        self.turn()

    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        client = self.some(data, "clients")
        if client is None:
            return
        self.say(client.peer, AckOutcomes(tuple(client.unacked)))
        for message in client.unacked.values():
            client.arrays[message.array[1]].received.update(indexes_of(message))
        client.unacked.clear()
        self.turn()

    @rule(data=st.data())
    def report_running(self, data: st.DataObject) -> None:
        worker = self.some(data, "workers")
        if worker is None:
            return
        worker.running = {(token, min(indexes)) for token, indexes in worker.leases.items()}
        self.say(
            worker.peer, SlotsReported(tuple(RunningTask(*each, 1.0) for each in sorted(worker.running)))
        )
        self.turn()

    # --- connections end and come back ---

    @rule(data=st.data(), kind=st.sampled_from(["workers", "clients"]))
    def cut(self, data: st.DataObject, kind: str) -> None:
        one = self.some(data, kind)
        if one is None:
            return
        peer, one.peer, one.away_since = one.peer, None, self.now
        self.state.disconnect(peer, self.now)
        self.turn()

    @rule(data=st.data(), forgets=st.booleans())
    def worker_comes_back(self, data: st.DataObject, *, forgets: bool) -> None:
        away = [worker for worker in self.workers if worker.peer is None and not worker.gone]
        if not away:
            return
        worker = data.draw(st.sampled_from(away))
        worker.peer = self.connect("worker", "w")
        worker.grace_s = SETTINGS.reconnect_grace_s
        worker.draining = False
        worker.functions.clear()
        worker.sessions.clear()
        worker.running.clear()
        if forgets and worker.leases:
            token = data.draw(st.sampled_from(sorted(worker.leases)))
            _, tasks = worker.arrays[token]
            for index in worker.leases.pop(token):
                if tasks.held.get(index) == token:
                    del tasks.held[index]
                    tasks.starts[index] -= 1
        self.register(worker)
        self.turn()

    @rule(data=st.data(), other=st.booleans())
    def client_comes_back(self, data: st.DataObject, *, other: bool) -> None:
        away = [client for client in self.clients if client.peer is None and not client.gone]
        if not away:
            return
        client = data.draw(st.sampled_from(away))
        if client.run and other:
            client.nonce += b"1"
            for tasks in client.arrays.values():
                tasks.closed = True
        self.open(client)
        effects = self.state.books.effects
        told = [*effects.sends.get(client.peer, ()), *effects.acks.get(client.peer, ())]
        opened = told[0]
        assert type(opened) is SessionOpened
        known = {array[1]: count for array, count in opened.known}
        unfinished = {
            counter: tasks.accepted for counter, tasks in client.arrays.items() if not tasks.finished
        }
        assert known == ({} if client.run else unfinished)
        self.resent(client, [message.seq for message in told if type(message) in (TasksSettled, TasksFailed)])
        self.turn()

    def resent(self, client: Client, seqs: list[int]) -> None:
        assert set(client.unacked) <= set(seqs)

    @rule(data=st.data())
    def drain(self, data: st.DataObject) -> None:
        worker = self.some(data, "workers")
        if worker is None:
            return
        worker.draining = True
        self.say(worker.peer, WorkerDraining())
        self.turn()

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        worker = self.some(data, "workers")
        if worker is None:
            return
        for token, indexes in list(worker.leases.items()):
            self.give_back(worker, token, set(indexes), "drained")
        worker.gone = True
        self.say(worker.peer, WorkerLeft())
        self.turn()

    @rule(data=st.data())
    def client_leaves(self, data: st.DataObject) -> None:
        client = self.some(data, "clients")
        if client is None:
            return
        peer = client.peer
        if client.run:
            client.peer, client.away_since = None, self.now
            for tasks in client.arrays.values():
                tasks.closed = True
        else:
            self.close(client)
        self.say(peer, CloseSession())
        self.turn()

    @rule(data=st.data())
    def forget_run(self, data: st.DataObject) -> None:
        named = [client for client in self.clients if client.run and not client.gone]
        if not named:
            return
        client = data.draw(st.sampled_from(named))
        peer = self.connect("client", client.owner)
        if client.peer is None:
            self.drop_in_model(client)
        self.say(peer, ForgetRun(1, client.run))
        effects = self.state.books.effects
        (answer,) = [*effects.sends.get(peer, ()), *effects.acks.get(peer, ())]
        assert answer.code == ("forgotten" if client.gone else "taken")
        self.turn()

    @rule(owner=st.sampled_from(["ann", "bob"]))
    def list_runs(self, owner: str) -> None:
        peer = self.connect("client", owner)
        self.say(peer, ListRuns(1))
        (listed,) = self.state.books.effects.sends[peer]
        mine = [client for client in self.clients if client.run and not client.gone and client.owner == owner]
        assert {row.run: (row.tasks, row.settled) for row in listed.runs} == {
            client.run: (
                sum(tasks.accepted for tasks in client.arrays.values()),
                sum(len(tasks.settled) for tasks in client.arrays.values()),
            )
            for client in mine
        }
        assert all((row.left_at == 0.0) == (row.drop_at == 0.0) for row in listed.runs)
        self.turn()

    @rule(step_s=st.sampled_from([0.001, 0.1, 1.0, 3.0, 11.0, 31.0]))
    def wait(self, step_s: float) -> None:
        self.now += step_s
        self.turn()

    # --- what must hold ---

    @invariant()
    def the_books_agree_with_the_model(self) -> None:
        books = self.state.books
        for client in self.clients:
            session = books.sessions.get(client.session)
            arrays = {} if session is None else session.arrays
            alive = {counter for counter, tasks in client.arrays.items() if not tasks.finished}
            if client.gone:
                alive = {counter for counter in alive if client.arrays[counter].options.detach}
            assert set(arrays) == alive
            for counter in alive:
                self.compare(arrays[counter], client.arrays[counter])
            self.compare_outcomes(client)

    def compare(self, array: Any, tasks: Tasks) -> None:
        waiting = {index for start, stop in array.pending for index in range(start, stop)}
        leased = {
            index: lease.token
            for lease in array.leases.values()
            for start, stop in lease.open
            for index in range(start, stop)
        }
        assert array.accepted == tasks.accepted
        assert leased == tasks.held
        assert waiting | set(array.delayed) == tasks.open - set(tasks.held)

    def compare_outcomes(self, client: Client) -> None:
        if client.peer is not None and not client.gone:
            for tasks in client.arrays.values():
                assert set(tasks.outcomes) - tasks.cancelled == tasks.settled - tasks.cancelled

    def teardown(self) -> None:
        """Everything that was accepted ends, once there are workers that do their work."""
        if not hasattr(self, "state"):
            return
        for client in self.clients:
            self.close_arrays(client)
        for python in PYTHONS:
            peer = self.connect("worker", "w")
            self.workers.append(Worker(peer.to_bytes(16, "big"), python, 2, peer))
            self.register(self.workers[-1])
        for _ in range(2000):
            self.now += 0.5
            self.read_all()
            self.turn()
            if not self.open_arrays():
                break
            for worker in self.workers:
                for token in list(worker.leases) if worker.peer is not None and not worker.gone else ():
                    self.finish_lease(worker, token)
        assert not self.open_arrays()
        self.settle_everything()

    def open_arrays(self) -> list[Tasks]:
        return [tasks for client in self.clients for tasks in client.arrays.values() if tasks.open]

    def close_arrays(self, client: Client) -> None:
        """Bring a client back if it may come, and let it say that its arrays are whole."""
        if client.gone:
            return
        if client.peer is None:
            self.open(client)
            self.turn()
        for counter, tasks in client.arrays.items():
            tasks.closed = True
            name = (client.session, counter)
            self.say(client.peer, Submit(name, FUNCTION, tasks.options, tasks.accepted, 0, b"", True))

    def read_all(self) -> None:
        """Nobody has to read for others to go on."""

    def settle_everything(self) -> None:
        """Whoever has a connection has all outcomes there are."""

    def finish_lease(self, worker: Worker, token: Any) -> None:
        _, tasks = worker.arrays[token]
        for index in worker.leases[token]:
            if tasks.held.get(index) == token:
                del tasks.held[index]
                tasks.settled.add(index)
        self.seq += 1
        runs = tuple((index, index + 1, b"r") for index in sorted(worker.leases.pop(token)))
        self.say(worker.peer, LeaseSettled(self.seq, token, runs, (), 0.001, 0))


TestSchedulerState = SchedulerMachine.TestCase
TestSchedulerState.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
