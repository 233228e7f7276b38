"""`distcomp status`: workers, slots, queue and rates in one screen; waits for nothing longer than 2 s."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import TYPE_CHECKING

from distcomp.cli.flags import EXIT_ENDED, Flags, run
from distcomp.cli.reach import Reach, watched
from distcomp.cli.status_page import Observation, as_json, screen
from distcomp.cli.table import is_coloured
from distcomp.errors import ConnectError, RoleError, UnreachableError
from distcomp.protocol import Refused, StatusReported, WatchStatus
from distcomp.questions import connected

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from distcomp import transport
    from distcomp.protocol import Message

ROLES = ("observer", "admin")
ANSWER_TIMEOUT_S = 1.0
APART_S = 0.5
"""The time between the two looks that rates are told from."""

EXAMPLES = """\
  distcomp status
  distcomp status --address tcp://a.example:7077 --json
  distcomp status --address https://a.example/cluster    with DISTCOMP_TOKEN, as Python clients
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Flags("distcomp status", "Show workers, slots, queue, rates and journal of a cluster.", EXAMPLES)
    parser.value(
        "--address", "the scheduler's or a gateway's; the one running scheduler of this user if not given"
    )
    parser.switch("--json", "print everything as JSON")
    parser.common()
    return run(parser, _show, argv)


def _show(flags: argparse.Namespace) -> int:
    seen = asyncio.run(observe(watched(flags.address, ROLES)))
    if flags.json:
        print(json.dumps(as_json(seen), indent=2))
    else:
        size = shutil.get_terminal_size()
        print(screen(seen, size.columns, size.lines, coloured=is_coloured()))
    return EXIT_ENDED


async def observe(where: Reach) -> Observation:
    """Look at a cluster twice, `APART_S` apart.

    Raises:
        ConnectError: it cannot be reached, or does not answer in time.
    """
    failures: list[ConnectError] = []
    for address in where.addresses:
        try:
            return await _observe_at(address, where)
        except ConnectError as error:  # noqa: PERF203 - a handful of addresses
            failures.append(error)
    raise failures[0]


async def _observe_at(address: str, where: Reach) -> Observation:
    watch = _Watch()
    async with connected(address, where, watch.on_messages, watch.on_closed, ANSWER_TIMEOUT_S) as connection:
        first, first_at = await watch.ask(connection)
        await asyncio.sleep(APART_S)
        last, last_at = await watch.ask(connection)
    return Observation(address, first, last, last_at - first_at)


class _Watch:
    """The reports that come by one connection."""

    def __init__(self) -> None:
        self._parts: StatusReported | None = None
        self._reports: asyncio.Queue[StatusReported | Exception] = asyncio.Queue()

    async def ask(self, connection: transport.Connection) -> tuple[StatusReported, float]:
        """A whole report, and when it came."""
        connection.send([WatchStatus(0.0)])
        try:
            report = await asyncio.wait_for(self._reports.get(), ANSWER_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise UnreachableError(f"the scheduler does not answer within {ANSWER_TIMEOUT_S} s") from None
        if isinstance(report, Exception):
            raise report
        return report, asyncio.get_running_loop().time()

    def on_messages(self, _: transport.Connection, messages: list[Message]) -> None:
        for message in messages:
            if isinstance(message, StatusReported):
                self._take_in(message)
            elif isinstance(message, Refused):
                self._reports.put_nowait(RoleError(message.text))

    def _take_in(self, part: StatusReported) -> None:
        report = part if self._parts is None else self._parts.joined(part)
        self._parts = report if part.more else None
        if not part.more:
            self._reports.put_nowait(report)

    def on_closed(self, _: transport.Connection, error: Exception | None) -> None:
        self._reports.put_nowait(
            UnreachableError(f"the scheduler closed the connection: {error or 'no reason'}")
        )
