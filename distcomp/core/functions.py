"""What tasks need besides arguments, functions and bundles: their bytes, never opened, and who uses them."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from distcomp.protocol import DefineBundle, DefineFunction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distcomp.core.arrays import TaskArrayState

DIGEST_BYTES = 32

M = TypeVar("M", DefineFunction, DefineBundle)


class Definition(Generic[M]):
    """One function or bundle.

    Attributes:
        id: the digest: a `FunctionId` or a `BundleId`.
        message: what defines it to a worker, or None while its bytes are not here.
        users: unfinished arrays that need it; its bytes stay as long as there are any.
        waiting: arrays that wait for its bytes, by order.
        seconds: measured seconds per task of the array that ran last, or below 0.
        nests: a task of it was seen to submit tasks: none is to wait behind another.
    """

    __slots__ = ("id", "message", "nests", "seconds", "users", "waiting")

    def __init__(self, digest: bytes) -> None:
        self.id: Any = digest
        self.message: M | None = None
        self.users = 0
        self.waiting: dict[int, TaskArrayState] = {}
        self.seconds = -1.0
        self.nests = False

    def take_waiting(self) -> list[TaskArrayState]:
        """The arrays that waited for the bytes, which wait no more."""
        waiting = list(self.waiting.values())
        self.waiting.clear()
        return waiting

    @property
    def name(self) -> str:
        """What people call it; empty if unknown."""
        return self.message.name if self.message is not None else ""


class DefinitionBook(Generic[M]):
    """All functions, or all bundles, by digest.

    Those that no array uses are bounded; the longest unused go first.

    Args:
        max_bytes: bytes of definitions to keep, as far as no array needs them.
        max_unused: definitions to remember that no array uses.
    """

    def __init__(self, max_bytes: int, max_unused: int) -> None:
        self._max_bytes = max_bytes
        self._max_unused = max_unused
        self._known: dict[bytes, Definition[M]] = {}
        self._unused: OrderedDict[bytes, Definition[M]] = OrderedDict()
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def get(self, digest: bytes) -> Definition[M] | None:
        """The definition, if it is known."""
        return self._known.get(digest)

    def messages(self) -> Iterator[M]:
        """What defines those whose bytes are here now; of these, what is forgotten meanwhile is left out."""
        for digest in list(self._known):
            definition = self._known.get(digest)
            if definition is not None and definition.message is not None:
                yield definition.message

    def use(self, digest: bytes, arrays: int = 1) -> Definition[M]:
        """The definition for one more array, or so many; without bytes if they are not here."""
        definition = self._known.get(digest)
        if definition is None:
            definition = self._known[digest] = Definition(digest)
        elif not definition.users:
            del self._unused[digest]
        definition.users += arrays
        return definition

    def release(self, definition: Definition[M]) -> None:
        """One array less uses it."""
        definition.users -= 1
        if not definition.users:
            self._unused[definition.id] = definition
            if len(self._unused) > 1:
                self._trim()

    def define(self, digest: bytes, message: M) -> Definition[M] | None:
        """Take in the bytes that a digest names; None if they are not those.

        A definition is believed only if it is its bytes' digest: otherwise one client could put its own
        code in the place of another's.
        """
        if blake2b(message.blob, digest_size=DIGEST_BYTES).digest() != digest:
            return None
        definition = self._known.get(digest)
        if definition is None:
            definition = self._known[digest] = Definition(digest)
            self._unused[digest] = definition
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
            digest, definition = self._unused.popitem(last=False)
            if definition.message is not None:
                self.held_bytes -= len(definition.message.blob)
            del self._known[digest]
