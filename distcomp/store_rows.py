"""What goes into a client's store and comes out of it, and the checks that tell it from damage."""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple, cast
from zlib import crc32

from distcomp.errors import MalformedMessageError
from distcomp.rows import Failure
from distcomp.wire import Codec

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY_BYTES = 32
DIGEST_BYTES = 16

_codec = Codec()
_codec.register(1, Failure)
_PLACE = struct.Struct(">QQ")
_VALUE = struct.Struct(">I?")


class StoredFunction(NamedTuple):
    """A function as the store knows it.

    Attributes:
        name: for people.
        digest: of its code and of what that reaches.
        version: the user's own, empty if there is none.
        parts: the digests that `digest` is made of, by words for what they are of.
    """

    name: str
    digest: bytes
    version: str
    parts: Mapping[str, bytes]


class OutcomeToStore(NamedTuple):
    """How one task ended, as it is handed to the store.

    Attributes:
        function: whose task it was.
        blob: a run of results as it was received; several outcomes may share one object. Empty for a failure.
        position: which of the results in `blob` it is.
        failure: how it ended badly, or None.
    """

    function: StoredFunction
    blob: bytes
    position: int = 0
    failure: Failure | None = None


class StoredOutcome(NamedTuple):
    """How one task ended, as the store gives it back.

    Attributes:
        function: the name of the function.
        version: the version it had.
        stored_at: when it was stored, in wall-clock seconds.
        blob: a run of results; what came in one object is given back in one object, mostly.
        position: which of the results in `blob` it is.
        failure: how it ended badly, or None.
    """

    function: str
    version: str
    stored_at: float
    blob: bytes
    position: int
    failure: Failure | None = None


class SubmittedTask(NamedTuple):
    """Where a task was submitted to whose outcome the store does not have."""

    function: str
    version: str
    submitted_at: float
    cluster: bytes
    session: bytes
    array: int
    task_index: int


class FunctionSummary(NamedTuple):
    """The tasks of one function in a run, or in the whole store; times are wall-clock seconds.

    Attributes:
        name, version: of the function.
        tasks: how many different ones.
        done: how many have a result.
        failed: how many have failed.
        size_bytes: what their results take.
        began_at: when the first was submitted.
        changed_at: when something was last stored of them.
        reasons: why some were computed again, the latest last.
    """

    name: str
    version: str
    tasks: int
    done: int
    failed: int
    size_bytes: int
    began_at: float
    changed_at: float
    reasons: tuple[str, ...] = ()

    @property
    def submitted(self) -> int:
        """How many have no outcome yet."""
        return self.tasks - self.done - self.failed


class RunSummary(NamedTuple):
    """A run, with the tasks of each of its functions.

    Attributes:
        name: its name.
        began_at: when its first task was submitted, in wall-clock seconds.
        functions: whose tasks it has.
        handed_in: how often its tasks went to a cluster: one for each of equal calls, and for each new try of
            one that had failed.
    """

    name: str
    began_at: float
    functions: tuple[FunctionSummary, ...]
    handed_in: int = 0

    @property
    def tasks(self) -> int:
        """How many different tasks it has."""
        return sum(each.tasks for each in self.functions)

    @property
    def done(self) -> int:
        """How many of them have a result."""
        return sum(each.done for each in self.functions)

    @property
    def failed(self) -> int:
        """How many of them have failed."""
        return sum(each.failed for each in self.functions)

    @property
    def submitted(self) -> int:
        """How many of them have no outcome yet."""
        return sum(each.submitted for each in self.functions)

    @property
    def size_bytes(self) -> int:
        """What their results take."""
        return sum(each.size_bytes for each in self.functions)

    @property
    def changed_at(self) -> float:
        """When something was last stored of it, in wall-clock seconds."""
        return max((each.changed_at for each in self.functions), default=self.began_at)


class RunOutcome(NamedTuple):
    """One task of a run, and what the store has of it."""

    key: bytes
    place: SubmittedTask
    outcome: StoredOutcome | None


# --- checks ---------------------------------------------------------------------------------------


def digest_of(blob: bytes) -> bytes:
    """What tells whether a blob is the one that was written."""
    return blake2b(blob, digest_size=DIGEST_BYTES).digest()


def check_of_outcome(key: bytes, digest: bytes, position: int, *, failed: bool) -> int:
    """What tells whether a row is the one that was written: it ties a key to its value."""
    return crc32(_VALUE.pack(position, failed), crc32(digest, crc32(key)))


def check_of_place(key: bytes, cluster: bytes, session: bytes, array: int, index: int) -> int:
    """The same for where a task was submitted."""
    return crc32(_PLACE.pack(array, index), crc32(session, crc32(cluster, crc32(key))))


def pack_failure(failure: Failure) -> bytes:
    """A failure as bytes."""
    return _codec.body([failure])


def unpack_failure(packed: bytes) -> Failure | None:
    """The failure in bytes that `pack_failure` made; None if another version of distcomp made them."""
    try:
        (failure,) = _codec.decode(packed)
    except MalformedMessageError:
        return None
    return cast("Failure", failure)
