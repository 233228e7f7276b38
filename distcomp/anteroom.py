"""Where messages wait until their large blobs are on the disk, while others are taken in.

State law: a message with blobs above `journal_blob_bytes` goes on once these are stored (see
`distcomp.journal`); one that must not overtake it goes on behind it, in the order of `distcomp.ordering`; all
others at once. So for its peer and for the state it is as if its last piece were still under way: signs of
life come and go, what is not answered is sent again after a reconnect, and with its connection it is gone.

Who makes more than `journal_waiting_bytes` wait is given no credit for pieces until less of it waits. What
waits of a peer that lacks room on the disk may wait for long, and counts for that peer alone.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from distcomp.ordering import Parked, Parking
from distcomp.protocol import Submit
from distcomp.wire import detach_blobs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from distcomp.config import JournalSettings
    from distcomp.ids import Peer
    from distcomp.journal_storing import StoreRequest
    from distcomp.protocol import Message
    from distcomp.scheduler_memory import SchedulerMemory
    from distcomp.transport import Connection


class _Guest(Parked):
    """A message that waits; its blobs are those of a request, if it has some that are not stored."""

    __slots__ = ("is_stored", "request", "size_bytes")

    def __init__(self, message: Message) -> None:
        super().__init__(message)
        self.request: StoreRequest | None = None
        self.is_stored = True
        self.size_bytes = 0


class _Room(Parking[_Guest]):
    """All guests of one peer."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        self.guests: set[_Guest] = set()
        self.waiting_bytes = 0


class Anteroom:
    """The messages of all peers that wait.

    Args:
        memory: stores what is large.
        settings: what is large, and how much of it may wait.
        go_on: takes messages in that wait no more.
        has_room_for: whether a submit would not be refused for lack of room; then it need not wait.

    Attributes:
        waiting_bytes: how much is to be stored.
    """

    def __init__(
        self,
        memory: SchedulerMemory,
        settings: JournalSettings,
        *,
        go_on: Callable[[Peer, list[Message]], None],
        has_room_for: Callable[[Submit], bool],
    ) -> None:
        self.waiting_bytes = 0
        self._memory = memory
        self._settings = settings
        self._go_on = go_on
        self._has_room_for = has_room_for
        self._rooms: dict[Peer, _Room] = {}
        self._asked: dict[StoreRequest, tuple[_Room, _Guest]] = {}
        self._withheld: set[Connection] = set()
        self._lacking: Collection[Peer] = ()

    def let_in(self, connection: Connection, messages: list[Message]) -> list[Message]:
        """The messages that go on at once. To be asked only where blobs were claimed, or something waits."""
        room = self._rooms.get(connection.peer)
        passing: list[Message] = []
        for message in messages:
            large = detach_blobs(message, int, self._settings.journal_blob_bytes).blobs
            blockers = room.blockers_of(message) if room is not None else ()
            refused = isinstance(message, Submit) and bool(large) and not self._has_room_for(message)
            if not blockers and (refused or not large):
                passing.append(message)
                continue
            if room is None:
                room = self._rooms[connection.peer] = _Room(connection)
            guest = _Guest(message)
            room.park(guest, blockers)
            room.guests.add(guest)
            if large:
                self._ask(room, guest, [blob for _, blob in large])
        if room is None:
            connection.incoming.claimed_bytes = 0
        elif room.parked > connection.limits.max_parked_messages:
            connection.close("too many of its messages wait for a large one")
        return passing

    def leave(self, peer: Peer) -> None:
        """A connection is gone, and with it what waits."""
        room = self._rooms.pop(peer, None)
        if room is None:
            return
        self._withheld.discard(room.connection)
        for guest in room.guests:
            if not guest.is_stored and guest.request is not None:
                guest.request.unwanted = True
                del self._asked[guest.request]
                self.waiting_bytes -= guest.size_bytes
            elif guest.request is not None:
                self._memory.let_go(guest.request)
        self._give_credit()

    def lack_room(self, lacking: Collection[Peer]) -> None:
        """What waits of these peers lacks room on the disk, and of nobody else anything."""
        self._lacking = lacking
        self._give_credit()

    def _ask(self, room: _Room, guest: _Guest, blobs: list[bytes]) -> None:
        guest.is_stored = False
        guest.size_bytes = sum(map(len, blobs))
        guest.request = self._memory.store(room.connection.peer, blobs, self._on_stored)
        self._asked[guest.request] = room, guest
        self.waiting_bytes += guest.size_bytes
        room.waiting_bytes += guest.size_bytes
        if self._held_against(room.connection.peer) >= self._settings.journal_waiting_bytes:
            room.connection.incoming.withheld = True
            self._withheld.add(room.connection)

    def _on_stored(self, request: StoreRequest) -> None:
        if request.unwanted:
            self._memory.let_go(request)
            return
        room, guest = self._asked.pop(request)
        guest.is_stored = True
        self.waiting_bytes -= guest.size_bytes
        room.waiting_bytes -= guest.size_bytes
        self._give_credit()
        if guest.blockers:
            return
        messages: list[Message] = []
        leaving = deque([guest])
        while leaving:
            gone = leaving.popleft()
            room.guests.discard(gone)
            messages.append(gone.message)
            if gone.request is not None:
                self._memory.let_go(gone.request)
            leaving += [each for each in room.leave(gone) if each.is_stored]
        if not room.guests:
            del self._rooms[room.connection.peer]
            room.connection.incoming.claimed_bytes = 0
        self._go_on(room.connection.peer, messages)

    def _give_credit(self) -> None:
        most_bytes = self._settings.journal_waiting_bytes
        if self._held_against(None) >= most_bytes:
            return
        for connection in tuple(self._withheld):
            if self._held_against(connection.peer) < most_bytes:
                self._withheld.discard(connection)
                connection.incoming.withheld = False
                connection.give_credit()

    def _held_against(self, peer: Peer | None) -> int:
        """How many waiting bytes count for a peer; for None, those that count for everybody."""
        others = (room for each in self._lacking if each != peer and (room := self._rooms.get(each)))
        return self.waiting_bytes - sum(room.waiting_bytes for room in others)
