"""The versions that peers compare. `importlib.metadata` would tell them too, and take 25 ms to import."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import NamedTuple

from distcomp import __version__


class InstalledVersions(NamedTuple):
    """What this program runs on; `python` is `major.minor.micro`."""

    distcomp: str
    python: str
    cloudpickle: str


def installed_versions() -> InstalledVersions:
    """The versions of distcomp, Python and cloudpickle in this process."""
    python = ".".join(map(str, sys.version_info[:3]))
    return InstalledVersions(__version__, python, version_of("cloudpickle"))


@functools.cache
def version_of(package: str) -> str:
    """An installed package's version, as its metadata folder is named; empty if there is none."""
    for folder in sys.path:
        for info in Path(folder).glob(f"{package}-*.dist-info"):
            return info.name.removeprefix(f"{package}-").removesuffix(".dist-info")
    return ""
