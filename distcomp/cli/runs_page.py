"""The screens of `distcomp runs`, and the same as JSON: pure functions of what a store says."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from distcomp.cli.table import BOLD, Column, count, duration, paint, size, table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from distcomp.store_rows import FunctionSummary, RunSummary

_COUNTS = (Column("TASKS"), Column("DONE"), Column("FAILED"), Column("SUBMITTED"), Column("SIZE"))
RUN_COLUMNS = (
    Column("RUN", words=True),
    Column("FUNCTIONS", words=True, spare=True),
    *_COUNTS,
    Column("BEGAN", words=True, spare=True),
    Column("LAST CHANGE", words=True),
)
FUNCTION_COLUMNS = (
    Column("FUNCTION", words=True),
    Column("VERSION", words=True),
    *_COUNTS,
    Column("BEGAN", words=True, spare=True),
    Column("LAST CHANGE", words=True),
)


def runs_screen(
    path: Path, runs: Sequence[RunSummary], functions: Sequence[FunctionSummary], width: int, *, now: float,
    coloured: bool,
) -> str:  # fmt: skip
    """All runs of a store, and how much it holds.

    Args:
        path: of the store.
        runs: all of them.
        functions: all that have outcomes, whatever run they belong to.
        width: signs in a line.
        now: wall-clock time.
        coloured: whether to send colours.
    """
    done, size_bytes = sum(each.done for each in functions), sum(each.size_bytes for each in functions)
    head = f"{path}: {count(done)} results of {count(len(functions))} functions, {size(size_bytes)}"
    rows = [
        [each.name, ", ".join(dict.fromkeys(part.name for part in each.functions)), *_counted(each, now)]
        for each in runs
    ]
    lines = _titled(RUN_COLUMNS, rows, width, coloured=coloured) if rows else ["no runs"]
    return "\n".join([paint(head, BOLD, coloured=coloured), "", *lines])


def run_screen(run: RunSummary, width: int, *, now: float, coloured: bool) -> str:
    """One run with its functions, and why some tasks were computed again; arguments as `runs_screen`."""
    head = (
        f"run {run.name}, begun {_ago(run.began_at, now)}: {count(run.tasks)} tasks, {count(run.done)} done, "
        f"{count(run.failed)} failed, {count(run.submitted)} submitted, {size(run.size_bytes)}"
    )
    if run.handed_in > run.tasks:
        head += f"; handed in {count(run.handed_in)} times"
    rows = [[each.name, each.version or "-", *_counted(each, now)] for each in run.functions]
    lines = _titled(FUNCTION_COLUMNS, rows, width, coloured=coloured)
    said = list(dict.fromkeys(f"{each.name}: {why}" for each in run.functions for why in each.reasons))
    return "\n".join([paint(head, BOLD, coloured=coloured), "", *lines, *([""] if said else []), *said])


def run_as_json(run: RunSummary) -> dict[str, Any]:
    """A run with its functions; times are wall-clock seconds."""
    functions = [{**each._asdict(), "submitted": each.submitted} for each in run.functions]
    return {
        "name": run.name,
        "began_at": run.began_at,
        "changed_at": run.changed_at,
        "tasks": run.tasks,
        "handed_in": run.handed_in,
        "done": run.done,
        "failed": run.failed,
        "submitted": run.submitted,
        "size_bytes": run.size_bytes,
        "functions": functions,
    }


def _titled(columns: tuple[Column, ...], rows: list[list[str]], width: int, *, coloured: bool) -> list[str]:
    heading, *lines = table(columns, rows, width)
    return [paint(heading, BOLD, coloured=coloured), *lines]


def _counted(each: RunSummary | FunctionSummary, now: float) -> list[str]:
    numbers = (each.tasks, each.done, each.failed, each.submitted)
    times = (each.began_at, each.changed_at)
    return [*map(count, numbers), size(each.size_bytes), *(_ago(moment, now) for moment in times)]


def _ago(moment: float, now: float) -> str:
    """When something was: so long ago, and for what is older than a day the date."""
    passed_s = max(0.0, now - moment)
    if passed_s < 86400:  # noqa: PLR2004 - a day
        return f"{duration(passed_s)} ago"
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
