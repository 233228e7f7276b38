"""Who waits for whom until what is large is on the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from distcomp.anteroom import Anteroom
from distcomp.config import JournalSettings, WireLimits
from distcomp.ids import Peer
from distcomp.journal_storing import StoreRequest
from distcomp.protocol import AckOutcomes, CancelTasks, Submit
from distcomp.rows import TaskOptions
from distcomp.transfers import Incoming

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distcomp.protocol import Message

LARGE = bytes(300 << 10)
SESSION, FUNCTION = b"s" * 16, b"f" * 32


def submit(array: int, chunk: bytes, start: int = 0) -> Submit:
    return Submit((SESSION, array), FUNCTION, TaskOptions(), start, 1, chunk, last=False)


class Connection:
    """What an anteroom needs of one; `given` counts how often credit was given."""

    def __init__(self, number: int, limits: WireLimits) -> None:
        self.peer, self.limits = Peer(number), limits
        self.incoming = Incoming(limits)
        self.given = 0
        self.closed_for = ""

    def give_credit(self) -> None:
        self.given += 1

    def close(self, reason: str) -> None:
        self.closed_for = reason


class World:
    """An anteroom with a disk by hand, and what went on by peer."""

    def __init__(self, **settings: Any) -> None:
        self.asked: list[StoreRequest] = []
        self.let_go_of: list[StoreRequest] = []
        self.went_on: list[tuple[int, Message]] = []
        self.full = False
        memory: Any = self
        self.anteroom = Anteroom(
            memory, JournalSettings(**settings), go_on=self._go_on, has_room_for=lambda _: not self.full
        )

    def store(
        self, peer: Peer, blobs: Sequence[bytes], on_stored: Callable[[StoreRequest], None]
    ) -> StoreRequest:
        self.asked.append(StoreRequest(peer, blobs, on_stored))
        return self.asked[-1]

    def let_go(self, request: StoreRequest) -> None:
        self.let_go_of.append(request)

    def _go_on(self, peer: Peer, messages: list[Message]) -> None:
        self.went_on += [(peer, message) for message in messages]

    def connection(self, number: int = 1, **limits: Any) -> Any:
        connection = Connection(number, WireLimits(**limits))
        connection.incoming.claimed_bytes = len(LARGE)
        return connection

    def come(self, connection: Any, *messages: Message) -> None:
        self._go_on(connection.peer, self.anteroom.let_in(connection, list(messages)))

    def is_stored(self, place: int) -> None:
        request = self.asked[place]
        request.on_stored(request)


def test_what_is_large_waits_and_nobody_else() -> None:
    world = World()
    one, other = world.connection(1), world.connection(2)
    large, small = submit(1, LARGE), submit(2, b"small")
    world.come(one, large, small, AckOutcomes((1,)))
    world.come(other, submit(1, b"small"))
    assert world.went_on == [(1, small), (1, AckOutcomes((1,))), (2, submit(1, b"small"))]
    assert [request.blobs for request in world.asked] == [[LARGE]]
    assert world.asked[0].blobs[0] is large.chunk
    assert world.anteroom.waiting_bytes == len(LARGE)
    world.is_stored(0)
    assert world.went_on[3:] == [(1, large)]
    assert world.let_go_of == world.asked
    assert world.anteroom.waiting_bytes == 0


def test_what_must_not_overtake_goes_on_behind() -> None:
    world = World()
    one = world.connection()
    messages = submit(1, LARGE), submit(1, b"", 1), CancelTasks((SESSION, 1), ((0, 1),)), submit(2, b"small")
    world.come(one, *messages)
    assert world.went_on == [(1, messages[3])]
    world.is_stored(0)
    assert world.went_on[1:] == [(1, message) for message in messages[:3]]


def test_of_two_large_ones_the_second_is_not_the_first() -> None:
    world = World()
    one = world.connection()
    messages = submit(1, LARGE), submit(1, LARGE, 1), submit(3, LARGE)
    world.come(one, *messages)
    world.is_stored(1)
    assert world.went_on == []
    world.is_stored(2)
    assert world.went_on == [(1, messages[2])]
    world.is_stored(0)
    assert world.went_on[1:] == [(1, messages[0]), (1, messages[1])]
    assert set(world.let_go_of) == set(world.asked)


def test_it_is_asked_only_as_long_as_something_waits() -> None:
    world = World()
    one = world.connection()
    world.come(one, submit(1, b"x" * (100 << 10)))
    assert one.incoming.claimed_bytes == 0, "a blob that the journal takes as it is"
    one.incoming.claimed_bytes = len(LARGE)
    world.come(one, submit(2, LARGE))
    assert one.incoming.claimed_bytes
    world.is_stored(0)
    assert one.incoming.claimed_bytes == 0


def test_with_its_connection_all_is_gone_that_waits() -> None:
    world = World()
    one, again = world.connection(1), world.connection(2)
    world.come(one, submit(1, LARGE), submit(1, LARGE, 1), submit(1, b"", 2))
    world.is_stored(1)
    world.anteroom.leave(one.peer)
    assert [request.unwanted for request in world.asked] == [True, False]
    assert world.let_go_of == world.asked[1:]
    assert world.anteroom.waiting_bytes == 0
    world.is_stored(0)  # it was on its way
    assert world.let_go_of[1:] == world.asked[:1]
    assert world.went_on == []
    world.come(again, submit(1, b"", 2))
    assert world.went_on == [(2, submit(1, b"", 2))]
    world.anteroom.leave(again.peer)


@pytest.mark.parametrize("end", ["stored", "left"])
def test_who_makes_too_much_wait_gets_no_credit_until_less_does(end: str) -> None:
    world = World(journal_waiting_bytes=2 * len(LARGE))
    one, other = world.connection(1), world.connection(2)
    world.come(one, submit(1, LARGE))
    assert not one.incoming.withheld
    world.come(other, submit(1, LARGE))
    assert other.incoming.withheld
    assert not one.incoming.withheld
    assert other.given == 0
    if end == "stored":
        world.is_stored(0)
    else:
        world.anteroom.leave(one.peer)
    assert not other.incoming.withheld
    assert other.given == 1
    world.anteroom.leave(other.peer)


def test_what_lacks_room_on_the_disk_takes_no_credit_from_others() -> None:
    world = World(journal_waiting_bytes=2 * len(LARGE))
    one, other = world.connection(1), world.connection(2)
    world.come(one, submit(1, LARGE), submit(2, LARGE))
    world.come(other, submit(1, LARGE))
    assert one.incoming.withheld
    assert other.incoming.withheld
    world.anteroom.lack_room({one.peer: 2 * len(LARGE)})
    assert one.incoming.withheld
    assert (other.incoming.withheld, other.given) == (False, 1)
    world.come(other, submit(2, b"", 0))
    assert not other.incoming.withheld
    world.come(other, submit(3, LARGE))
    assert other.incoming.withheld, "its own counts"
    world.is_stored(2)
    assert (other.incoming.withheld, other.given) == (False, 2)
    world.anteroom.lack_room({})
    assert one.given == 0
    world.is_stored(0)
    world.is_stored(1)
    assert (one.incoming.withheld, one.given) == (False, 1)


def test_what_is_refused_anyway_need_not_be_stored() -> None:
    world = World()
    one = world.connection()
    world.come(one, submit(1, LARGE))
    world.full = True
    again, other = submit(1, LARGE, 1), submit(2, LARGE)
    world.come(one, again, other)
    assert world.went_on == [(1, other)], "what must not overtake waits to be refused"
    world.is_stored(0)
    world.is_stored(1)
    assert world.went_on[1:] == [(1, submit(1, LARGE)), (1, again)]


def test_who_makes_too_many_messages_wait_is_closed() -> None:
    world = World()
    one = world.connection(max_parked_messages=2)
    world.come(one, submit(1, LARGE), submit(1, b"", 1))
    assert not one.closed_for
    world.come(one, submit(1, b"", 2))
    assert "too many" in one.closed_for
