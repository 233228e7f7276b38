"""What tasks do when a slot runs them, and how their arguments and results look as bytes.

A task's value follows from its array and index alone. The chunk carries the value of its first task, so
that a slot that is given the wrong chunk, or the right one at the wrong place, computes wrong values.
"""

from __future__ import annotations

from array import array as packed
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

from distcomp.rows import TaskOptions

if TYPE_CHECKING:
    from distcomp.ids import ArrayId, FunctionId

VALUE_BYTES = 8


@dataclass(frozen=True)
class Special:
    """A task that does not just return.

    Attributes:
        kind: `raises`, `refuses` (raises what may not be retried), `crashes`, `hangs` (until it is
            interrupted), or `deaf` (hangs, and no interrupt reaches it).
        times: it does so at its first starts; after that it returns.
    """

    kind: str
    times: int = 1_000_000


@dataclass(frozen=True)
class Plan:
    """One array as its user means it; each task first submits what is `below` and waits for it."""

    at_s: float
    tasks: int
    seconds: tuple[float, ...]
    options: TaskOptions = TaskOptions()  # noqa: RUF009 - it is immutable
    special: dict[int, Special] = field(default_factory=dict)
    function: bytes = b"f"
    chunk_tasks: int = 50
    padding_bytes: int = 0
    result_bytes: int = VALUE_BYTES
    pause_s: float = 0.0
    cancels: tuple[tuple[float, int, int, bool], ...] = ()
    below: Plan | None = None

    @property
    def function_id(self) -> FunctionId:
        return blake2b(self.function, digest_size=32).digest()  # type: ignore[return-value]

    def seconds_of(self, index: int) -> float:
        return self.seconds[index % len(self.seconds)]


def first_value(array: ArrayId) -> int:
    """The value of index 0 of an array."""
    return int.from_bytes(blake2b(array[0] + array[1].to_bytes(8, "big"), digest_size=6).digest(), "big")


def make_chunk(array: ArrayId, start: int, plan: Plan) -> bytes:
    return (first_value(array) + start).to_bytes(VALUE_BYTES, "big") + bytes(plan.padding_bytes)


def make_values(chunk: bytes, chunk_start: int, start: int, stop: int, size_bytes: int) -> bytes:
    """The results of some tasks, computed from their chunk."""
    value = int.from_bytes(chunk[:VALUE_BYTES], "big") + start - chunk_start
    blob = packed("Q", range(value, value + stop - start)).tobytes()
    if size_bytes == VALUE_BYTES:
        return blob
    pad = bytes(size_bytes - VALUE_BYTES)
    return b"".join(blob[at : at + VALUE_BYTES] + pad for at in range(0, len(blob), VALUE_BYTES))


def expected_values(array: ArrayId, start: int, stop: int, size_bytes: int) -> bytes:
    """What the results of some tasks have to be."""
    chunk = first_value(array).to_bytes(VALUE_BYTES, "big")
    return make_values(chunk, 0, start, stop, size_bytes)
