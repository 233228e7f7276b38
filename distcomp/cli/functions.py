"""`distcomp functions`: what is published, and by whom."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from distcomp.cli.flags import EXIT_ENDED, Flags, run
from distcomp.errors import ConfigError
from distcomp.publishing import GatewayAccess, ask, find_gateway

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

ACTIONS = ("list", "withdraw")
EXAMPLES = """\
  distcomp functions list
  distcomp functions withdraw area 1
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Flags(
        "distcomp functions",
        "List the functions that are published at a gateway, or withdraw a version of one.",
        EXAMPLES,
        arguments="{list|withdraw} [NAME VERSION]",
    )
    parser.add_argument("action", choices=ACTIONS, help="what to do")
    parser.add_argument("name", nargs="?", help="of the function to withdraw")
    parser.add_argument("number", nargs="?", metavar="VERSION", help="its version")
    parser.gateway()
    parser.common()
    return run(parser, _functions, argv)


def _functions(flags: argparse.Namespace) -> int:
    access = find_gateway(flags.gateway)
    if flags.action == "withdraw":
        if not flags.name or not flags.number:
            raise ConfigError("say which: distcomp functions withdraw NAME VERSION")
        ask(access, "DELETE", f"/v1/functions/{quote(flags.name)}/versions/{quote(flags.number)}")
        print(f"withdrew {flags.name} version {flags.number}")
        return EXIT_ENDED
    print(f"{'name':24}  {'version':10}  {'owner':12}  {'uses':>8}  {'last used':16}  signature")
    for row in _all(access):
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["used_at"])) if row["used_at"] else "never"
        names = ", ".join(each["name"] for each in row["parameters"])
        print(
            f"{row['name']:24}  {row['version']:10}  {row['owner']:12}  {row['uses']:8}  {used:16}  ({names})"
        )
    return EXIT_ENDED


def _all(access: GatewayAccess) -> Iterator[dict[str, Any]]:
    """Every function, page by page."""
    after = ""
    while True:
        page = ask(access, "GET", f"/v1/functions?limit=1000{after}")
        yield from page["items"]
        if "next" not in page:
            return
        after = f"&after={quote(page['next'])}"
