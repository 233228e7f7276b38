"""`distcomp version`: what is installed here, as peers compare it."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING

from distcomp import __version__
from distcomp.cli.flags import EXIT_ENDED, Flags, run
from distcomp.protocol import PROTOCOL

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

PACKAGES = ("cloudpickle", "msgpack", "uvloop")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Flags("distcomp version", "Print the versions that peers compare.")
    parser.common()
    return run(parser, _show, argv)


def _show(_: argparse.Namespace) -> int:
    print(f"distcomp {__version__}, protocol {PROTOCOL}")
    print(f"Python {platform.python_version()}")
    for package in PACKAGES:
        print(f"{package} {_installed(package)}")
    return EXIT_ENDED


def _installed(package: str) -> str:
    try:
        return version(package)
    except ImportError:
        return "not installed"
