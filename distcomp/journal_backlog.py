"""What was handed to a journal and is not durable yet.

Law: entries leave in the order in which they came, in groups that become one commit each. What was taken and
is not `done` still counts. An entry that `opens` a compaction begins a group, one that `drops` is a group.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from distcomp.records import RECORD_BYTES, weight_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distcomp.config import JournalSettings
    from distcomp.journal_storing import StoreRequest
    from distcomp.records import Record


class TurnRecords(NamedTuple):
    """The records of one turn of the scheduler.

    `opens`: a compaction begins with it. `drops`: it holds no records, and once everything before it is
    durable, what stands before the last that `opens` can go. `frees`: what was stored beforehand for
    what comes up to here, and is let go of once that is durable.
    """

    batch: int
    records: Sequence[Record]
    weight_bytes: int
    opens: bool = False
    drops: bool = False
    frees: Sequence[StoreRequest] = ()


class Backlog:
    """Entries that wait for their commit.

    Args:
        settings: the bounds to keep to.

    Attributes:
        weight_bytes: about how many bytes all of them keep.
    """

    def __init__(self, settings: JournalSettings) -> None:
        self._most_bytes = settings.journal_backlog_bytes
        self._group_bytes = settings.journal_commit_bytes
        self._entries: deque[TurnRecords] = deque()
        self._opening = False
        self._batch = 0
        self.weight_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_full(self) -> bool:
        """Whether so much waits that nothing should be added that can be refused."""
        return self.weight_bytes >= self._most_bytes

    def open(self) -> None:
        """Let a compaction begin with the next records."""
        self._opening = True

    def add(self, batch: int, records: Sequence[Record], stored_bytes: int = 0) -> None:
        """Add the records of one turn; so many bytes of them are stored already."""
        self._batch = batch
        weight = RECORD_BYTES + sum(map(weight_bytes, records)) - stored_bytes
        self._entries.append(TurnRecords(batch, records, weight, opens=self._opening))
        self._opening = False
        self.weight_bytes += weight

    def drop(self) -> None:
        """Let what stands before the last beginning of a compaction go, after all that was added."""
        self._entries.append(TurnRecords(0, (), 0, drops=True))

    def let_go(self, requests: Sequence[StoreRequest]) -> None:
        """Let go of what was stored beforehand, after all that was added."""
        self._entries.append(TurnRecords(self._batch, (), 0, frees=requests))

    def take(self) -> list[TurnRecords]:
        """The next group; empty if nothing waits."""
        group: list[TurnRecords] = []
        taken_bytes = 0
        entries = self._entries
        while entries and taken_bytes < self._group_bytes:
            first = entries[0]
            if group and (first.opens or first.drops):
                break
            group.append(entries.popleft())
            taken_bytes += first.weight_bytes
            if first.drops:
                break
        return group

    def done(self, group: list[TurnRecords]) -> None:
        """A group is durable."""
        self.weight_bytes -= sum(entry.weight_bytes for entry in group)
