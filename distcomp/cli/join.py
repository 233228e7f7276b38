"""`distcomp join`: saves a join string, so that programs of this user find the cluster from then on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from distcomp.access import Access
from distcomp.cli.flags import EXIT_ENDED, Flags, run, secret_text
from distcomp.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

EXAMPLES = """\
  distcomp join -          paste the join string that the scheduler printed
  distcomp join FILE       or read it from a file
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Flags(
        "distcomp join",
        "Save a join string as an access file that only this user can read. From then on Client() and\n"
        "Client(ADDRESS), or a worker, find the cluster and prove that they know its secret.",
        EXAMPLES,
        arguments="[-|FILE]",
    )
    parser.add_argument(
        "source", nargs="?", help="- for standard input, or a file [DISTCOMP_JOIN holds the string itself]"
    )
    parser.common()
    return run(parser, _join, argv)


def _join(flags: argparse.Namespace) -> int:
    text = secret_text(flags.source, "DISTCOMP_JOIN", os.environ)
    if not text:
        raise ConfigError("no join string: give - for standard input, a FILE, or DISTCOMP_JOIN")
    access = Access.parse(text)
    path = access.save()
    print(f"saved {path}")
    print(
        f"{access.owner} is {access.role} of cluster {access.cluster_name} at {', '.join(access.addresses)}"
    )
    return EXIT_ENDED
