"""A scheduler with hands on it: peers that say what a test makes them say."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from distcomp.config import SchedulerSettings
from distcomp.core import invariants
from distcomp.core.scheduler_state import SchedulerState
from distcomp.protocol import CancelTasks, DefineFunction, OpenSession, Submit, TasksFailed, TasksSettled
from distcomp.rows import Failure, RunningTask, TaskOptions, Versions
from distcomp.worker_protocol import GrantLease, LeaseReturned, LeaseSettled, RegisterWorker, SlotsReported

if TYPE_CHECKING:
    from distcomp.core.books import WorkerPool
    from distcomp.core.effects import Effects

BLOB = b"function"
FUNCTION = blake2b(BLOB, digest_size=32).digest()
PLAIN = TaskOptions()


def versions(python: str) -> Versions:
    return Versions("0", python, "3")


class SchedulerWorld:
    """Peers are numbered in the order in which they come; time goes on by `wait` only."""

    def __init__(self, **settings: Any) -> None:
        self.now = 100.0
        self.state = SchedulerState(SchedulerSettings(**settings), 7, "c", auth=True)
        self.books = self.state.books
        self.peers = 0
        self.sent: dict[int, list[Any]] = {}
        self.closed: list[int] = []
        self.wake_at: float | None = None
        self.turn()

    @property
    def pool(self) -> WorkerPool:
        return self.books.pools["3.11"]

    def connect(self, role: str, owner: str = "w") -> int:
        self.peers += 1
        self.state.connect(self.peers, role, owner, "here", self.now)
        return self.peers

    def turn(self) -> Effects:
        """Place and deliver; `sent` holds what each peer got this turn."""
        self.state.tick(self.now)
        effects = self.state.take_effects(self.now)
        invariants.check(self.state)
        invariants.check_placed(self.state)
        self.sent = {
            peer: [*effects.sends.get(peer, ()), *effects.acks.get(peer, ())] for peer in range(1, 99)
        }
        self.closed = [close.peer for close in effects.closes]
        self.wake_at = effects.wake_at
        return effects

    def say(self, peer: int, *messages: Any) -> None:
        for message in messages:
            self.state.receive(peer, message, self.now)
        self.turn()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.turn()

    def cut(self, peer: int) -> None:
        self.state.disconnect(peer, self.now)
        self.turn()

    def got(self, peer: int, kind: type[Any]) -> list[Any]:
        """What of this kind a peer got in the last turn."""
        return [message for message in self.sent[peer] if type(message) is kind]

    # --- peers ---

    def worker(self, slots: int = 1, *, name: bytes = b"", python: str = "3.11.4", **fields: Any) -> int:
        peer = self.connect("worker")
        self.register(peer, slots, name=name or peer.to_bytes(16, "big"), python=python, **fields)
        return peer

    def register(self, peer: int, slots: int, *, name: bytes, python: str = "3.11.4", **fields: Any) -> None:
        held = fields.pop("leases", ())
        self.say(peer, RegisterWorker(name, f"w{peer}", "h", 1, slots, versions(python), held, **fields))

    def client(self, owner: str = "ann", *, python: str = "3.11.4", role: str = "client") -> int:
        peer = self.connect(role, owner)
        self.open(peer, python=python)
        self.say(peer, DefineFunction(FUNCTION, "f", BLOB))
        return peer

    def open(self, peer: int, *, python: str = "3.11.4", session: int = 0, resumes: bool = False) -> None:
        name = (session or peer).to_bytes(16, "big")
        self.say(peer, OpenSession(name, versions(python), "h", 1, "p", b"env", resumes))

    def submit(
        self,
        peer: int,
        array: int,
        tasks: int,
        options: TaskOptions = PLAIN,
        *,
        start: int = 0,
        **fields: Any,
    ) -> None:
        name = (fields.get("session", peer).to_bytes(16, "big"), array)
        function, last = fields.get("function", FUNCTION), fields.get("last", True)
        chunk = fields.get("chunk", b"args")
        bundle = fields.get("bundle", b"")
        self.say(peer, Submit(name, function, options, start, tasks, chunk, last, bundle))

    def cancel(self, peer: int, array: int, *spans: tuple[int, int], session: int = 0) -> None:
        self.say(peer, CancelTasks(((session or peer).to_bytes(16, "big"), array), spans))

    # --- what workers say ---

    def grants(self, peer: int) -> list[GrantLease]:
        return self.got(peer, GrantLease)

    def settle(
        self,
        peer: int,
        token: Any,
        *runs: tuple[int, int],
        busy_s: float = 0.001,
        seq: int = 1,
        slot: int = 0,
    ) -> None:
        blobs = tuple((start, stop, b"r" * (stop - start)) for start, stop in runs)
        self.say(peer, LeaseSettled(seq, token, blobs, (), busy_s, slot))

    def fail(self, peer: int, token: Any, index: int, kind: str, *, retriable: bool = True) -> None:
        self.say(peer, LeaseSettled(1, token, (), ((index, Failure(kind, retriable)),), 0.001, 0))

    def give_back(self, peer: int, token: Any, *spans: tuple[int, int], reason: str = "retracted") -> None:
        self.say(peer, LeaseReturned(1, token, spans, reason))

    def running(self, peer: int, *tasks: tuple[Any, int]) -> None:
        self.say(peer, SlotsReported(tuple(RunningTask(token, index, 1.0) for token, index in tasks)))

    def outcomes(self, peer: int) -> dict[int, str]:
        """What a client learned in the last turn: `ok` or a kind of failure by index."""
        learned = {}
        for message in self.got(peer, TasksSettled):
            for start, stop, _ in message.runs:
                learned.update(dict.fromkeys(range(start, stop), "ok"))
            learned.update({index: failure.kind for index, failure in message.failures})
        for message in self.got(peer, TasksFailed):
            for span in message.spans:
                learned.update(dict.fromkeys(range(*span), message.failure.kind))
        return learned

    def teach(self, worker: int, client: int, seconds: float, array: int = 900) -> None:
        """Let the scheduler measure how long a task takes."""
        self.submit(client, array, 1)
        (grant,) = self.grants(worker)
        self.settle(worker, grant.token, (0, 1), busy_s=seconds)
