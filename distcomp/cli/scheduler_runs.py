"""`distcomp runs list | forget --scheduler`: what a scheduler holds of runs, whoever has them open."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from typing import TYPE_CHECKING

from distcomp.cli.flags import EXIT_ENDED, EXIT_FAILED
from distcomp.cli.reach import watched
from distcomp.cli.table import Column, count, duration, size, table
from distcomp.errors import ConfigError
from distcomp.protocol import ForgetRun, ListRuns
from distcomp.questions import ask

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from distcomp.rows import RunRow

LISTING_ROLES = ("observer", "admin", "client")
FORGETTING_ROLES = ("client", "admin")
COLUMNS = (
    Column("RUN", words=True),
    Column("OWNER", words=True),
    Column("FUNCTIONS", words=True, spare=True),
    Column("TASKS"),
    Column("DONE"),
    Column("FAILED"),
    Column("WAITING"),
    Column("BEGAN", words=True, spare=True),
    Column("OPEN IN", words=True),
)


def act(flags: argparse.Namespace) -> int:
    """Do what `distcomp runs` was asked for, at a scheduler; returns the exit code."""
    if flags.action == "list":
        return _list(flags)
    if flags.action == "forget":
        return _forget(flags)
    raise ConfigError(f"`runs {flags.action}` needs a store: a scheduler only lists and forgets runs")


def _list(flags: argparse.Namespace) -> int:
    answers = asyncio.run(ask(watched(flags.address, LISTING_ROLES), ListRuns(1)))
    rows = [row for part in answers for row in part.runs]
    if flags.json:
        print(json.dumps([row._asdict() for row in rows], indent=2))
    else:
        print(screen(rows, shutil.get_terminal_size().columns, now=time.time()))
    return EXIT_ENDED


def _forget(flags: argparse.Namespace) -> int:
    where = watched(flags.address, FORGETTING_ROLES)
    if not flags.yes:
        answers = asyncio.run(ask(where, ListRuns(1)))
        rows = [row for part in answers for row in part.runs]
        found = [row for row in rows if (row.run, row.owner) == (flags.name, where.owner)]
        if found and not _confirms(found[0]):  # if there is none, the scheduler knows why
            print("nothing was forgotten", file=sys.stderr)
            return EXIT_FAILED
    (answer,) = asyncio.run(ask(where, ForgetRun(1, flags.name)))
    if flags.json:
        print(json.dumps({"code": answer.code, "text": answer.text}))
    else:
        print(f"{flags.name}: {answer.code}, {answer.text}")
    return EXIT_ENDED if answer.code == "forgotten" else EXIT_FAILED


def _confirms(row: RunRow) -> bool:
    """Whether the user means it."""
    done = f"{count(row.settled)} of {count(row.tasks)} tasks done and {size(row.waiting_bytes)} waiting"
    question = f"Forget the run {row.run} at the scheduler, with {done}? [y/N] "
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def screen(rows: Sequence[RunRow], width: int, *, now: float) -> str:
    """The runs that a scheduler holds, as a table.

    Args:
        rows: one for each.
        width: signs in a line.
        now: wall-clock time.
    """
    if not rows:
        return "the scheduler holds no runs"
    cells = [
        [
            row.run,
            row.owner,
            ", ".join(row.functions),
            count(row.tasks),
            count(row.settled),
            count(row.failed),
            size(row.waiting_bytes),
            f"{duration(max(0.0, now - row.began_at))} ago",
            _open_in(row, now),
        ]
        for row in rows
    ]
    return "\n".join(table(COLUMNS, cells, width))


def _open_in(row: RunRow, now: float) -> str:
    """Which process has a run open, or how long it is still kept."""
    if not row.left_at:
        return f"process {row.pid} ({row.program}) on {row.host}"
    left = duration(max(0.0, now - row.left_at))
    return f"none for {left}, kept {duration(max(0.0, row.drop_at - now))} more"
