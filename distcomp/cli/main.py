"""`distcomp`: commands that look at a cluster, join it, and show what it does."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from distcomp import __version__
from distcomp.cli.flags import EXIT_CODES, EXIT_ENDED, EXIT_USAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "status": "workers, slots, queue and rates, in one screen",
    "scale": "give running workers another number of slots",
    "demo": "start a cluster, analyse Python's standard library with it, and compare with a plain loop",
    "join": "save a join string, so that clients on this host find the cluster",
    "access": "show or create join strings, on the scheduler's host",
    "token": "create, list and revoke tokens for the HTTP gateway, on its host",
    "runs": "what a store on this machine has of runs: list, show, export, forget",
    "publish": "give a function a name under which it can be called over HTTP",
    "functions": "list the published functions",
    "config": "every setting, and where it comes from",
    "version": "print the versions that peers compare",
}
"""Every command is a module of this package with the same name; it is imported only to run."""

HELP = f"""\
usage: distcomp COMMAND [flags]

Run Python functions on every core and host you have.

commands:
{chr(10).join(f"  {name:9}{words}" for name, words in COMMANDS.items())}

`distcomp COMMAND --help` lists the flags of a command. The programs of a cluster are
`distcomp-scheduler` and `distcomp-worker`.

{EXIT_CODES}"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        print(HELP, file=sys.stderr, end="")
        return EXIT_USAGE
    name = words[0]
    if name in ("-h", "--help", "help"):
        print(HELP, end="")
        return EXIT_ENDED
    if name == "--version":
        print(f"distcomp {__version__}")
        return EXIT_ENDED
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"distcomp: there is no command {name!r}; there are {known}", file=sys.stderr)
        return EXIT_USAGE
    code: int = import_module(f"distcomp.cli.{name}").main(words[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
