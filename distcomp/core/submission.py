"""One task array as its client keeps it: what the scheduler has not accepted, what has not settled."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from distcomp.core.ranges import RangeSet
from distcomp.core.spans import cut, joined
from distcomp.kinds import INLINE_BLOB_BYTES
from distcomp.rows import TaskOptions

if TYPE_CHECKING:
    from distcomp.ids import BundleId, FunctionId
    from distcomp.rows import RunArray

PART_BYTES = 128
"""What a part costs on the wire besides its chunk."""


class Part(NamedTuple):
    """Neighbouring tasks handed in at once; `last` says that the array ends with them.

    `inline_bytes` is what it takes of the bytes that may be under way; large chunks have a credit of
    their own.
    """

    start: int
    stop: int
    chunk: bytes
    last: bool
    inline_bytes: int
    bundle: BundleId


class Unwanted:
    """What of an array its client does not want any more.

    Attributes:
        withdrawn: what has settled for that.
        unsaid: what of it the scheduler is still to be told.
        dispensable: what is not wanted if no lease holds it.
        unasked: what of that it is still to be told.
    """

    __slots__ = ("dispensable", "unasked", "unsaid", "withdrawn")

    def __init__(self) -> None:
        self.withdrawn = RangeSet()
        self.unsaid: list[tuple[int, int]] = []
        self.dispensable: list[tuple[int, int]] = []
        self.unasked: list[tuple[int, int]] = []

    def take_unsaid(self, there: int) -> tuple[tuple[int, int], ...]:
        """The withdrawn spans that the scheduler can be told now, because it has their tasks."""
        ready = tuple(span for span in self.unsaid if span[1] <= there)
        self.unsaid = [span for span in self.unsaid if span[1] > there]
        return ready

    def take_unasked(self, there: int) -> tuple[tuple[int, int], ...]:
        """What is dispensable and can be told to the scheduler now, because it has these tasks."""
        return tuple(joined(cut(self.unasked, 0, there)))


class Submission:
    """Books of one array from its first task to its last outcome.

    Law: `accepted <= submitted`; `parts` holds, in order and without gaps, what lies between them (and
    an end of the array that came without tasks, which no count can confirm); the first `sent` parts
    went out on the present connection, and `offered` says that any ever did. An index is in `open` until it
    settles, and never again.

    Args:
        function: the callable of every task.
        options: how the scheduler is to treat the tasks.
        kept: outcomes go to the disk before they are acknowledged.
    """

    submitted = accepted = sent = 0
    offered = queued = closed = is_adopted = is_single = False
    bundles: tuple[BundleId, ...] = ()
    paused_until = 0.0
    payload_bytes = held_bytes = held_tasks = 0
    _unwanted: Unwanted | None = None

    def __init__(self, function: FunctionId, options: TaskOptions, *, kept: bool = False) -> None:
        self.function = function
        self.options = options
        self.kept = kept
        self.parts: deque[Part] = deque()
        self.open = RangeSet()

    @classmethod
    def adopted(cls, row: RunArray, *, kept: bool) -> Submission:
        """An array that another process of the run has handed in, with what is still to come of it."""
        array = cls(row.function, TaskOptions(), kept=kept)
        array.submitted = array.accepted = row.tasks
        array.closed = array.offered = array.is_adopted = True
        if row.tasks:
            array.open.add(0, row.tasks)
        for start, stop in row.received:
            array.open.cut(start, min(stop, row.tasks))
        return array

    @property
    def over(self) -> bool:
        """Whether nothing can come any more."""
        return self.closed and not self.open.count

    @property
    def unwanted(self) -> Unwanted:
        """What is not wanted of it any more, to be added to; few arrays need it."""
        if self._unwanted is None:
            self._unwanted = Unwanted()
        return self._unwanted

    @property
    def sent_tasks(self) -> int:
        """How many tasks the scheduler has, or will have once what is under way arrives."""
        return self.parts[self.sent - 1].stop if self.sent else self.accepted

    def extend(self, tasks: int, chunk: bytes, bundle: BundleId, *, last: bool, single: bool = False) -> None:
        """Add tasks behind those there are, which were submitted one by one, or not."""
        start, size_bytes = self.submitted, len(chunk)
        self.submitted = stop = start + tasks
        inline_bytes = PART_BYTES + (size_bytes if size_bytes <= INLINE_BLOB_BYTES else 0)
        self.parts.append(Part(start, stop, chunk, last, inline_bytes, bundle))
        if tasks:
            self.open.add(start, stop)
            self.held_tasks += tasks
            self.is_single = single
        self.payload_bytes += size_bytes
        self.held_bytes += size_bytes
        self.closed = last

    def take_unsent(self) -> Part:
        """The next part to send, which counts as sent from now on."""
        part = self.parts[self.sent]
        self.sent += 1
        self.offered = True
        return part

    def under_way_bytes(self) -> int:
        """What the parts sent and not accepted take of the bytes that may be under way."""
        return sum(self.parts[place].inline_bytes for place in range(self.sent))

    def accept(self, tasks: int) -> int:
        """Let go of the parts that the scheduler answers for now; returns the bytes no longer under way."""
        self.accepted = max(self.accepted, tasks)
        parts, arrived_bytes = self.parts, 0
        while parts:
            part = parts[0]
            if not part.start < part.stop <= self.accepted:
                break
            parts.popleft()
            if self.sent:
                self.sent -= 1
                arrived_bytes += part.inline_bytes
        return arrived_bytes

    def unsend(self) -> None:
        """Everything not accepted has to go out again: the connection is gone, or it was refused."""
        self.sent = 0

    def withdraw(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Settle indexes at the client's wish, which the scheduler is still to be told."""
        spans = self.open.cut(start, stop)
        for span in spans:
            self.unwanted.withdrawn.add(*span)
        self.unwanted.unsaid.extend(spans)
        return spans

    def dispense(self, start: int, stop: int) -> None:
        """Note that indexes are not wanted if no lease holds them, which the scheduler is to be told."""
        if start < stop:
            self.unwanted.dispensable.append((start, stop))
            self.unwanted.unasked.append((start, stop))

    def say_again(self) -> bool:
        """Have told anew, on another connection, what is not wanted; whether anything may be."""
        unwanted = self._unwanted
        if unwanted is None:
            return False
        unwanted.unsaid = list(unwanted.withdrawn)
        unwanted.unasked = list(unwanted.dispensable)
        return True

    def release(self) -> tuple[int, int]:
        """The tasks that the latest settles have freed, and the bytes in proportion to them.

        Where no task was freed, no byte is, although the proportion has moved if parts came since.
        """
        held_tasks = self.open.count
        if held_tasks == self.held_tasks:
            return 0, 0
        held_bytes = self.payload_bytes * held_tasks // self.submitted if held_tasks else 0
        freed = self.held_tasks - held_tasks, self.held_bytes - held_bytes
        self.held_tasks, self.held_bytes = held_tasks, held_bytes
        return freed
