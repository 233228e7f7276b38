"""What the demo prints: findings, who did how much, and how that compares. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from distcomp.cli.demo_analysis import LEAST_LIKENESS, Place
from distcomp.cli.table import Column, count, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from distcomp.cli.demo_analysis import FileFacts
    from distcomp.rows import WorkerRow

SHOWN_PAIRS = 8
SHOWN_PROBLEMS = 5


class Findings(NamedTuple):
    """All that was found; equal findings mean equal work.

    Attributes:
        facts: of each file.
        pairs: functions that were compared.
        likenesses: of each pair.
    """

    facts: list[FileFacts]
    pairs: list[tuple[Place, Place]]
    likenesses: list[float]


class Timing(NamedTuple):
    """How long the same work took, and on how much."""

    plain_s: float
    cluster_s: float
    slots: int
    cores: int

    @property
    def speed_up(self) -> float:
        """The plain loop's time by the cluster's."""
        return self.plain_s / self.cluster_s

    @property
    def ideal(self) -> int:
        """What no cluster of so many slots on so many cores can exceed."""
        return min(self.slots, self.cores)


def findings_lines(names: Sequence[str], found: Findings, width: int) -> list[str]:
    """The findings as lines.

    Args:
        names: of the files, in their order.
        found: in all of them.
        width: signs in a line.
    """
    facts = found.facts
    broken = [(name, each.problem) for name, each in zip(names, facts, strict=True) if each.problem]
    longest = max(range(len(facts)), key=lambda file: facts[file].longest_lines, default=None)
    lines = [
        (
            f"{count(len(facts))} files, {count(sum(each.lines for each in facts))} lines, "
            f"{count(sum(each.functions for each in facts))} functions, "
            f"{count(sum(each.branches for each in facts))} branches"
        )
    ]
    if longest is not None and facts[longest].longest_lines:
        best = facts[longest]
        lines.append(
            f"longest function: {best.longest_name} in {names[longest]}, {count(best.longest_lines)} lines"
        )
    lines.append(f"cannot be parsed: {count(len(broken))}")
    lines += [f"  {name}: {problem}"[:width] for name, problem in broken[:SHOWN_PROBLEMS]]
    return lines + _alike_lines(names, found, width)


def _alike_lines(names: Sequence[str], found: Findings, width: int) -> list[str]:
    alike = [
        (likeness, left, right)
        for likeness, (left, right) in zip(found.likenesses, found.pairs, strict=True)
        if likeness >= LEAST_LIKENESS
    ]
    alike.sort(key=lambda each: (-each[0], each[1], each[2]))
    lines = [
        (
            f"near-duplicate functions across files: {count(len(alike))} pairs "
            f"({count(len(found.pairs))} were compared)"
        )
    ]
    rows = [
        [f"{likeness:.0%}", _where(names, found, left), _where(names, found, right)]
        for likeness, left, right in alike[:SHOWN_PAIRS]
    ]
    columns = (Column("  ALIKE"), Column("FUNCTION", words=True), Column("AND", words=True))
    return lines + (table(columns, rows, width) if rows else [])


def _where(names: Sequence[str], found: Findings, place: Place) -> str:
    return f"{names[place.file]}:{found.facts[place.file].comparable[place.number].name}"


def worker_lines(rows: Iterable[WorkerRow], killed: str, width: int) -> list[str]:
    """Tasks and busy seconds of each worker and each of its slots."""
    columns = (
        Column("WORKER", words=True),
        Column("SLOT", words=True),
        Column("TASKS"),
        Column("BUSY S"),
        Column("", words=True),
    )
    cells = []
    for row in sorted(rows, key=lambda row: row.name):
        remark = "killed midway" if row.name == killed else ""
        cells.append([row.name, "all", count(row.settled), f"{row.busy_s:.2f}", remark])
        slots = zip(row.slot_settled, row.slot_busy_s, strict=False)
        cells += [["", str(slot), count(n), f"{busy_s:.2f}", ""] for slot, (n, busy_s) in enumerate(slots)]
    return table(columns, cells, width)


def timing_lines(timing: Timing) -> list[str]:
    """The comparison with the plain loop."""
    return [
        (
            f"plain loop {timing.plain_s:.2f} s, cluster {timing.cluster_s:.2f} s: "
            f"speed-up {timing.speed_up:.2f}, ideal {timing.ideal:.2f} "
            f"({timing.slots} slots on {timing.cores} cores)"
        )
    ]
