"""`distcomp runs list | forget --scheduler`: what a scheduler holds of runs, whoever has them open."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from typing import TYPE_CHECKING

from distcomp import transport
from distcomp.auth import ClientHandshake
from distcomp.cli.flags import EXIT_ENDED, EXIT_FAILED
from distcomp.cli.reach import Reach, watched
from distcomp.cli.table import Column, count, duration, size, table
from distcomp.config import WireLimits, parse_address
from distcomp.errors import ConfigError, ConnectError, RoleError, UnreachableError
from distcomp.protocol import ForgetRun, ListRuns, Refused, RunForgotten, RunsListed
from distcomp.settings_file import surroundings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from distcomp.protocol import Message
    from distcomp.rows import RunRow

LISTING_ROLES = ("observer", "admin", "client")
FORGETTING_ROLES = ("client", "admin")
ANSWER_TIMEOUT_S = 5.0
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
    rows = [row for part in answers if isinstance(part, RunsListed) for row in part.runs]
    if flags.json:
        print(json.dumps([row._asdict() for row in rows], indent=2))
    else:
        print(screen(rows, shutil.get_terminal_size().columns, now=time.time()))
    return EXIT_ENDED


def _forget(flags: argparse.Namespace) -> int:
    if not flags.yes:
        question = f"Forget the run {flags.name} at the scheduler, with what waits of it? [y/N] "
        print(question, end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("nothing was forgotten", file=sys.stderr)
            return EXIT_FAILED
    (answer,) = asyncio.run(ask(watched(flags.address, FORGETTING_ROLES), ForgetRun(1, flags.name)))
    assert isinstance(answer, RunForgotten)  # noqa: S101 - nothing else answers this question
    if flags.json:
        print(json.dumps({"code": answer.code, "text": answer.text}))
    else:
        print(f"{flags.name}: {answer.code}, {answer.text}")
    return EXIT_ENDED if answer.code == "forgotten" else EXIT_FAILED


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


async def ask(where: Reach, question: ListRuns | ForgetRun) -> list[Message]:
    """The parts of a scheduler's answer.

    Raises:
        ConnectError: it cannot be reached, or does not answer in time.
    """
    failures: list[ConnectError] = []
    for address in where.addresses:
        try:
            return await _ask_at(address, where, question)
        except ConnectError as error:  # noqa: PERF203 - a handful of addresses
            failures.append(error)
    raise failures[0]


async def _ask_at(address: str, where: Reach, question: ListRuns | ForgetRun) -> list[Message]:
    answer: asyncio.Future[list[Message]] = asyncio.get_running_loop().create_future()
    parts: list[Message] = []

    def fail(error: Exception) -> None:
        if not answer.done():
            answer.set_exception(error)

    def take(_: transport.Connection, messages: list[Message]) -> None:
        for message in messages:
            if isinstance(message, Refused):
                fail(RoleError(message.text))
            elif isinstance(message, RunsListed | RunForgotten):
                parts.append(message)
                if not (isinstance(message, RunsListed) and message.more) and not answer.done():
                    answer.set_result(parts)

    def make() -> transport.Connection:
        return transport.Connection(
            ClientHandshake(where.role, where.owner, where.cluster_id, where.secret),
            on_messages=take,
            on_closed=lambda _, error: fail(
                UnreachableError(f"the scheduler closed the connection: {error}")
            ),
            limits=WireLimits.from_environment(surroundings()),
        )

    connection = await transport.dial(parse_address(address), make, timeout_s=ANSWER_TIMEOUT_S)
    try:
        connection.send([question])
        return await asyncio.wait_for(answer, ANSWER_TIMEOUT_S)
    except asyncio.TimeoutError:
        raise UnreachableError(f"the scheduler does not answer within {ANSWER_TIMEOUT_S} s") from None
    finally:
        connection.close()
