from __future__ import annotations

from hashlib import blake2b
from typing import Any

from distcomp.config import SchedulerSettings
from distcomp.core import invariants
from distcomp.core.scheduler_state import SchedulerState
from distcomp.protocol import CloseSession, DefineFunction, OpenSession, Submit
from distcomp.rows import HeldLease, TaskOptions, Versions
from distcomp.worker_protocol import EndSession, GrantLease, LeaseReturned, RegisterWorker, WorkerLeft

CLIENT, WORKER = 1, 2
SESSION, NAME = b"s" * 16, b"w" * 16
CODE = b"code"
FUNCTION = blake2b(CODE, digest_size=32).digest()
VERSIONS = Versions("0", "3.11.4", "3")
GRACE_S = 2.0


class Cluster:
    """A scheduler with one client, and one worker that comes and goes under its own name."""

    def __init__(self) -> None:
        self.now = 0.0
        self.state = SchedulerState(SchedulerSettings(reconnect_grace_s=GRACE_S), 1, "c", auth=True)
        self.state.connect(CLIENT, "client", "alice", "", self.now)
        self.tell(CLIENT, OpenSession(SESSION, VERSIONS, "h", 1, "p", b"", resumes=False))
        self.tell(CLIENT, DefineFunction(FUNCTION, "f", CODE))

    def tell(self, peer: int, message: Any) -> dict[int, list[Any]]:
        self.state.receive(peer, message, self.now)
        return self.turn()

    def turn(self) -> dict[int, list[Any]]:
        self.state.tick(self.now)
        sends = self.state.take_effects(self.now).sends
        invariants.check(self.state)
        return sends

    def register(
        self, peer: int = WORKER, leases: tuple[HeldLease, ...] = (), sessions: tuple[bytes, ...] = ()
    ) -> list[Any]:
        self.state.connect(peer, "worker", "pool", "", self.now)
        message = RegisterWorker(NAME, "w", "h", 1, 1, VERSIONS, leases, sessions=sessions)
        return self.tell(peer, message)[peer]

    def submit(self, tasks: int = 1, **options: Any) -> dict[int, list[Any]]:
        message = Submit((SESSION, 1), FUNCTION, TaskOptions(**options), 0, tasks, b"x", last=True)
        return self.tell(CLIENT, message)


def grants_of(messages: list[Any]) -> list[GrantLease]:
    return [message for message in messages if type(message) is GrantLease]


def test_a_worker_that_came_back_and_left_is_not_lost_as_well() -> None:
    cluster = Cluster()
    cluster.register()
    cluster.state.disconnect(WORKER, cluster.now)
    cluster.now = GRACE_S / 2
    cluster.register(3)
    cluster.tell(3, WorkerLeft())
    cluster.now = 2 * GRACE_S
    cluster.turn()
    assert not cluster.state.books.workers


def test_the_leases_that_a_worker_brings_back_are_logged() -> None:
    cluster = Cluster()
    cluster.register()
    (grant,) = grants_of(cluster.submit()[WORKER])
    cluster.state.disconnect(WORKER, cluster.now)
    cluster.state.connect(3, "worker", "pool", "", cluster.now)
    held = HeldLease(grant.token, ((0, 1),))
    message = RegisterWorker(NAME, "w", "h", 1, 1, VERSIONS, (held,))
    cluster.state.receive(3, message, cluster.now)
    (event,) = cluster.state.take_effects(cluster.now).events
    assert (event.text, event.values["leases"]) == ("worker registered", 1)


def test_a_worker_hears_of_the_sessions_that_ended_while_it_was_away() -> None:
    cluster = Cluster()
    cluster.register()
    cluster.submit()
    cluster.state.disconnect(WORKER, cluster.now)
    cluster.tell(CLIENT, CloseSession())
    told = cluster.register(3, sessions=(SESSION,))
    assert EndSession(SESSION) in told


def test_a_worker_that_knows_a_session_is_not_told_of_it_again() -> None:
    cluster = Cluster()
    (lease,) = grants_of(cluster.register() + cluster.submit()[WORKER])
    cluster.state.disconnect(WORKER, cluster.now)
    told = cluster.register(3, (HeldLease(lease.token, ((0, 1),)),), (SESSION,))
    assert [type(message).__name__ for message in told] == ["WorkerRegistered"]
    cluster.tell(3, LeaseReturned(1, lease.token, ((0, 1),), "retracted"))
    assert EndSession(SESSION) in cluster.tell(CLIENT, CloseSession())[3]


def test_what_a_leaving_worker_had_begun_is_lost_if_it_may_begin_once_only() -> None:
    cluster = Cluster()
    (lease,) = grants_of(cluster.register() + cluster.submit(max_attempts=1)[WORKER])
    sends = cluster.tell(WORKER, WorkerLeft((HeldLease(lease.token, ((0, 1),)),)))
    ((index, failure),) = sends[CLIENT][0].failures
    assert (index, failure.kind) == (0, "lost")


def test_what_never_reached_a_leaving_worker_begins_elsewhere() -> None:
    cluster = Cluster()
    (lease,) = grants_of(cluster.register() + cluster.submit(max_attempts=1)[WORKER])
    assert CLIENT not in cluster.tell(WORKER, WorkerLeft())
    (again,) = grants_of(cluster.register(3))
    assert again.token != lease.token
    assert again.attempt == 1
