"""In which order messages leave a connection and are taken in: who waits for company, who for whom.

It knows all messages; a program that imports it can read them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from distcomp.protocol import (
    Accepted,
    AckOutcomes,
    CancelTasks,
    DefineBundle,
    DefineFunction,
    OpenSession,
    ReadOutcomes,
    Submit,
    TasksBegan,
    TasksFailed,
    TasksRetried,
    TasksSettled,
)
from distcomp.worker_protocol import (
    AckSettles,
    CancelLease,
    DefineSession,
    GrantLease,
    LeaseReturned,
    LeaseSettled,
    RetractLease,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable

    from typing_extensions import Self

    from distcomp.protocol import Message

PATIENT: frozenset[type[Any]] = frozenset(
    {Accepted, AckOutcomes, AckSettles, ReadOutcomes, TasksBegan, TasksRetried}
)
"""Messages that nobody waits for: a connection keeps them back a little, to leave with the next others."""

ORDER_KEYS: dict[type[Any], Callable[[Any], tuple[Hashable, ...]]] = {
    DefineFunction: lambda m: (m.function,),
    DefineBundle: lambda m: (m.bundle,),
    DefineSession: lambda m: (m.session,),
    OpenSession: lambda m: (m.session,),
    Submit: lambda m: (m.array[0], m.function, m.bundle, m.array),
    CancelTasks: lambda m: (m.array[0], m.array),
    TasksSettled: lambda m: (m.array,),
    TasksFailed: lambda m: (m.array,),
    GrantLease: lambda m: (m.array[0], m.function, m.bundle, m.token),
    RetractLease: lambda m: (m.token,),
    CancelLease: lambda m: (m.token,),
    LeaseSettled: lambda m: (m.token,),
    LeaseReturned: lambda m: (m.token,),
}
"""What a message must not overtake: it waits while a transfer of a message with one of its keys runs."""

HELD_KEYS: dict[type[Any], Callable[[Any], tuple[Hashable, ...]]] = {
    Submit: lambda m: (m.array,),
    CancelTasks: lambda m: (m.array,),
    TasksSettled: lambda _: (),
    TasksFailed: lambda _: (),
    GrantLease: lambda m: (m.token,),
}
"""Those order keys that later messages wait for; all of a message's keys where it is not listed.

A lease waits for its session, function and bundle, but another lease of that session must not wait for it.
"""


class Parked:
    """A message that waits: behind `blockers` others, before its `followers`, or for its own blobs."""

    __slots__ = ("blockers", "followers", "holds", "message")

    def __init__(self, message: Message) -> None:
        held = HELD_KEYS.get(type(message)) or ORDER_KEYS.get(type(message))
        self.message = message
        self.holds = held(message) if held else ()
        self.blockers = 0
        self.followers: list[Self] = []


P = TypeVar("P", bound=Parked)


class Parking(Generic[P]):
    """The parked messages of one connection: each waits for those before it that hold one of its keys.

    Attributes:
        parked: how many there are.
    """

    def __init__(self) -> None:
        self.parked = 0
        self._last_holder: dict[Hashable, P] = {}

    def blockers_of(self, message: Message) -> set[P]:
        """What a message must not overtake."""
        keys = ORDER_KEYS.get(type(message))
        holders = self._last_holder
        return {holders[key] for key in keys(message) if key in holders} if keys else set()

    def park(self, entry: P, blockers: Collection[P] = ()) -> None:
        """Have a message wait, behind those that it must not overtake."""
        self.parked += 1
        entry.blockers = len(blockers)
        for blocker in blockers:
            blocker.followers.append(entry)
        for key in entry.holds:
            self._last_holder[key] = entry

    def leave(self, entry: P) -> list[P]:
        """A message waits no more; gives those that nothing blocks now, which are still parked."""
        self.parked -= 1
        for key in entry.holds:
            if self._last_holder.get(key) is entry:
                del self._last_holder[key]
        for follower in entry.followers:
            follower.blockers -= 1
        return [follower for follower in entry.followers if not follower.blockers]
