"""The functions that tasks call: their bytes, never opened, and how long their tasks took."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distcomp.core.arrays import TaskArrayState
    from distcomp.ids import FunctionId
    from distcomp.protocol import DefineFunction

DIGEST_BYTES = 32


class Definition:
    """One function.

    Attributes:
        message: what defines it to a worker, or None while its bytes are not here.
        users: unfinished arrays that call it; its bytes stay as long as there are any.
        waiting: arrays that wait for its bytes, by order.
        seconds: measured seconds per task of the array that ran last, or below 0.
    """

    __slots__ = ("id", "message", "seconds", "users", "waiting")

    def __init__(self, function: FunctionId) -> None:
        self.id = function
        self.message: DefineFunction | None = None
        self.users = 0
        self.waiting: dict[int, TaskArrayState] = {}
        self.seconds = -1.0

    @property
    def name(self) -> str:
        """What people call it; empty if unknown."""
        return self.message.name if self.message is not None else ""


class FunctionBook:
    """All functions by id; those that no array uses are bounded, the longest unused go first.

    Args:
        max_bytes: bytes of definitions to keep, as far as no array needs them.
        max_unused: definitions to remember that no array uses.
    """

    def __init__(self, max_bytes: int, max_unused: int) -> None:
        self._max_bytes = max_bytes
        self._max_unused = max_unused
        self._known: dict[FunctionId, Definition] = {}
        self._unused: OrderedDict[FunctionId, Definition] = OrderedDict()
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def get(self, function: FunctionId) -> Definition | None:
        """The definition, if it is known."""
        return self._known.get(function)

    def use(self, function: FunctionId) -> Definition:
        """The definition for one more array; without bytes if they are not here."""
        definition = self._known.get(function)
        if definition is None:
            definition = self._known[function] = Definition(function)
        elif not definition.users:
            del self._unused[function]
        definition.users += 1
        return definition

    def release(self, definition: Definition) -> None:
        """One array less uses it."""
        definition.users -= 1
        if not definition.users:
            self._unused[definition.id] = definition
            self._trim()

    def define(self, message: DefineFunction) -> Definition | None:
        """Take in the bytes of a function; None if they are not what the id names.

        A definition is believed only if its id is its digest: otherwise one client could put its own
        code in the place of another's.
        """
        if blake2b(message.blob, digest_size=DIGEST_BYTES).digest() != message.function:
            return None
        definition = self._known.get(message.function)
        if definition is None:
            definition = self._known[message.function] = Definition(message.function)
            self._unused[message.function] = definition
        if definition.message is None:
            definition.message = message
            self.held_bytes += len(message.blob)
            self._trim()
        return definition

    def _trim(self) -> None:
        """Forget what was not used for longest, all but the last, until the bounds hold."""
        while len(self._unused) > 1 and (
            self.held_bytes > self._max_bytes or len(self._unused) > self._max_unused
        ):
            function, definition = self._unused.popitem(last=False)
            if definition.message is not None:
                self.held_bytes -= len(definition.message.blob)
            del self._known[function]
