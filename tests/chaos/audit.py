"""What a scheduler's journal says of each task, read after the scheduler has ended."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from distcomp import records
from distcomp.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from distcomp.ids import ClusterId, Token

Task: TypeAlias = "tuple[str, int, int]"
"""A task as the system names it: session in hexadecimal digits, counter of the array, index."""


@dataclass
class Audit:
    """The scheduler's own account.

    Attributes:
        accepted: how many tasks of each array.
        settled: how often each task was.
        granted: how often each task was.
        reasons: why tasks that had begun were to begin again, by task.
        whole: nothing had been compacted away.
        epochs: in the order of the scheduler's starts.
    """

    accepted: dict[tuple[str, int], int] = field(default_factory=dict)
    settled: Counter[Task] = field(default_factory=Counter)
    granted: Counter[Task] = field(default_factory=Counter)
    reasons: dict[Task, list[str]] = field(default_factory=lambda: defaultdict(list))
    whole: bool = True
    epochs: list[int] = field(default_factory=list)


def read_journal(path: Path, cluster: ClusterId, copy: Path) -> Audit:
    """Read a journal that no scheduler uses, from a copy, so that reading changes nothing.

    Args:
        path: of the journal; other files of it lie beside it.
        cluster: whose journal it is.
        copy: a folder to be made.
    """
    copy.mkdir()
    for part in path.parent.glob(f"{path.name}*"):
        if part.is_dir():
            shutil.copytree(part, copy / part.name)
        else:
            shutil.copyfile(part, copy / part.name)
    journal = Journal(copy / path.name, cluster)
    audit = Audit(whole=not journal.recovered.compacted)
    arrays: dict[Token, tuple[str, int]] = {}
    for commit in journal.recovered:
        for record in commit.records:
            _take_in(audit, arrays, record)
    journal.close()
    return audit


def _take_in(audit: Audit, arrays: dict[Token, tuple[str, int]], record: records.Record) -> None:
    if isinstance(record, records.EpochBegan):
        audit.epochs.append(record.epoch)
    elif isinstance(record, records.TasksAccepted):
        audit.accepted[_array(record)] = record.start + record.tasks
    elif isinstance(record, records.LeaseRestated):
        arrays[record.token] = _array(record)
    elif isinstance(record, records.LeaseGranted):
        arrays[record.token] = _array(record)
        audit.granted.update(_tasks(_array(record), [(record.start, record.stop)]))
    elif isinstance(record, (records.TasksEnded, records.TasksCancelled)):
        audit.settled.update(_tasks(_array(record), record.spans))
    elif isinstance(record, records.TaskTried):
        if record.token != records.NO_LEASE:
            audit.reasons[(*_array(record), record.task_index)].append("failed, crashed or lost")
    elif isinstance(record, records.IndexesReturned) and record.begun:
        for task in _tasks(arrays[record.token], record.spans):
            audit.reasons[task].append("its worker was lost")


def _array(record: records.Record) -> tuple[str, int]:
    session, counter = record.array  # type: ignore[attr-defined] # only asked of records that have one
    return session.hex(), counter


def _tasks(array: tuple[str, int], spans: Iterable[tuple[int, int]]) -> list[Task]:
    return [(*array, index) for start, stop in spans for index in range(start, stop)]
