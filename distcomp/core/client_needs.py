"""What the tasks of a client need besides arguments: functions and bundles, and which the scheduler knows."""

from __future__ import annotations

from typing import TypeAlias

from distcomp.protocol import DefineBundle, DefineFunction

Definition: TypeAlias = DefineFunction | DefineBundle


class Need:
    """A function or bundle, kept while an array that needs it is open."""

    __slots__ = ("message", "users")

    def __init__(self, message: Definition) -> None:
        self.message = message
        self.users = 0


class ClientNeeds:
    """All functions and bundles of open arrays, by digest.

    Args:
        most_told: how many of them the scheduler is taken to know.

    Attributes:
        held: those that open arrays need.
        told: what it was told on the present connection.
    """

    def __init__(self, most_told: int) -> None:
        self._most_told = most_told
        self.held: dict[bytes, Need] = {}
        self.told: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self.held)

    def add(self, digest: bytes, message: Definition) -> Need:
        """Hold one more function or bundle; nobody needs it yet."""
        need = self.held[digest] = Need(message)
        return need

    def use_bundle(self, message: DefineBundle) -> None:
        """One array more needs a bundle."""
        need = self.held.get(message.bundle) or self.add(message.bundle, message)
        need.users += 1

    def release(self, digest: bytes) -> None:
        """An array is over that needed this."""
        need = self.held[digest]
        need.users -= 1
        if not need.users:
            del self.held[digest]

    def tell(self, digest: bytes) -> Definition:
        """What defines a function or bundle to the scheduler, which is taken to know it from now on."""
        self.told[digest] = None
        if len(self.told) > self._most_told:
            del self.told[next(iter(self.told))]
        return self.held[digest].message

    def tell_again(self, digest: bytes) -> Definition | None:
        """The same if the scheduler has let go of it; nothing if no open array needs it."""
        self.told.pop(digest, None)
        return self.tell(digest) if digest in self.held else None
