"""`distcomp scale`: another number of slots for workers that run; nothing that runs is ended."""

from __future__ import annotations

import asyncio
import json
import shutil
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from distcomp.cli.flags import EXIT_ENDED, EXIT_FAILED, Flags, run, whole
from distcomp.cli.reach import watched
from distcomp.cli.table import Column, table
from distcomp.errors import ConfigError
from distcomp.ids import WorkerId
from distcomp.protocol import ResizeWorker, WatchStatus
from distcomp.publishing import GatewayAccess, find_gateway
from distcomp.publishing import ask as ask_gateway
from distcomp.questions import ask
from distcomp.rows import MAX_SLOTS, WorkerRow
from distcomp.web_address import is_web

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from distcomp.cli.reach import Reach

NEAR_NAMES = 3
COLUMNS = (
    Column("WORKER", words=True),
    Column("HOST", words=True, spare=True),
    Column("BEFORE"),
    Column("SLOTS"),
    Column("", words=True),
)
EXAMPLES = """\
  distcomp scale --slots 8
  distcomp scale --slots 2 --worker left
  distcomp scale --slots 2 --address https://a.example   with a token of the scope admin in DISTCOMP_TOKEN
"""


class Change(NamedTuple):
    """What became of the wish for one worker; `problem` is empty if it was asked."""

    worker: WorkerRow
    slots: int
    problem: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Flags(
        "distcomp scale",
        "Give running workers another number of slots. New ones get work at once. Where there are to be\n"
        "fewer, tasks that run end as ever and what has not begun goes elsewhere. It lasts until the worker\n"
        "ends; it takes access as an admin.",
        EXAMPLES,
    )
    most = whole(1, MAX_SLOTS)
    parser.value(
        "--slots", "tasks that each worker runs at a time", parse=most, variable="DISTCOMP_SCALE_SLOTS"
    )
    parser.value("--worker", "the name or id of one worker; all if not given")
    parser.value(
        "--address", "the scheduler's or a gateway's; the one running scheduler of this user if not given"
    )
    parser.switch("--json", "print what was done as JSON")
    parser.common()
    return run(parser, _scale, argv)


def _scale(flags: argparse.Namespace) -> int:
    if flags.slots is None:
        raise ConfigError("say by --slots how many slots each worker is to have")
    if flags.address is not None and is_web(flags.address):
        changes = scale_at(find_gateway(flags.address), flags.slots, flags.worker)
    else:
        changes = asyncio.run(scale(watched(flags.address, ("admin",)), flags.slots, flags.worker))
    if flags.json:
        print(json.dumps([_as_json(change) for change in changes], indent=2))
    else:
        print(screen(changes, shutil.get_terminal_size().columns))
    return EXIT_FAILED if any(change.problem for change in changes) else EXIT_ENDED


async def scale(where: Reach, slots: int, name: str | None) -> list[Change]:
    """Ask workers to have so many slots.

    Raises:
        ConnectError: the scheduler cannot be reached, or does not take that from this role.
        ConfigError: there is no such worker.
    """
    rows = [row for part in await ask(where, WatchStatus(0.0)) for row in part.workers]
    chosen = sorted(choose(rows, name), key=lambda row: (row.name, row.worker))
    wishes = [ResizeWorker(place, row.worker, slots) for place, row in enumerate(chosen)]
    answers = await ask(where, *wishes)
    return [
        Change(chosen[answer.request], slots, "" if answer.code == "asked" else answer.text)
        for answer in answers
    ]


def scale_at(gateway: GatewayAccess, slots: int, name: str | None) -> list[Change]:
    """The same through a gateway, whose token has to have the scope admin.

    Raises:
        ConnectError: it cannot be reached, or does not take the token.
        PublishError: it refuses; the text says why.
        ConfigError: there is no such worker.
    """
    rows, after = list[WorkerRow](), ""
    while True:
        page = ask_gateway(gateway, "GET", f"/v1/workers?limit=1000{after}")
        rows += map(_row, page["items"])
        if "next" not in page:
            break
        after = f"&after={quote(page['next'])}"
    chosen = sorted(choose(rows, name), key=lambda row: (row.name, row.worker))
    body = json.dumps({"slots": slots}).encode()
    for row in chosen:
        ask_gateway(gateway, "POST", f"/v1/workers/{row.worker.hex()}/slots", body, "application/json")
    return [Change(row, slots, "") for row in chosen]


def _row(told: dict[str, Any]) -> WorkerRow:
    """A worker, as far as a gateway tells of it."""
    known: dict[str, Any] = {name: value for name, value in told.items() if name != "id"}
    return WorkerRow(worker=WorkerId(bytes.fromhex(told["id"])), leased=0, busy_s=0.0, **known)


def choose(rows: Sequence[WorkerRow], name: str | None) -> list[WorkerRow]:
    """The workers of a name or id, all without one.

    Raises:
        ConfigError: there is none; names like it are named.
    """
    chosen = [row for row in rows if name is None or name in (row.name, row.worker.hex())]
    if chosen:
        return chosen
    if not rows:
        raise ConfigError("the cluster has no workers; `distcomp-worker` starts one")
    names = sorted({row.name for row in rows})
    near = get_close_matches(str(name), names, n=NEAR_NAMES) or names[:NEAR_NAMES]
    raise ConfigError(f"there is no worker {name!r}; there is {', '.join(map(repr, near))}")


def screen(changes: Sequence[Change], width: int) -> str:
    """What was done, as a table."""
    cells = [
        [
            change.worker.name,
            change.worker.host,
            str(change.worker.slots),
            str(change.worker.slots if change.problem else change.slots),
            change.problem,
        ]
        for change in changes
    ]
    return "\n".join(table(COLUMNS, cells, width))


def _as_json(change: Change) -> dict[str, object]:
    row = change.worker
    return {
        "worker": row.worker.hex(),
        "name": row.name,
        "host": row.host,
        "before": row.slots,
        "slots": row.slots if change.problem else change.slots,
        "problem": change.problem,
    }
