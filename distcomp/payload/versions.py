"""Which version of a package this process has, asked for only when a worker lacks it."""

from __future__ import annotations

from functools import cache


@cache
def version_of(module: str) -> str:
    """The version of the distribution that a module comes from; empty if it is of none that is installed."""
    from importlib import metadata  # noqa: PLC0415 - it takes long to import, and is hardly ever needed

    root = module.partition(".")[0]
    names = [root, *metadata.packages_distributions().get(root, ())]
    for name in names:
        try:
            return metadata.version(name)
        except (metadata.PackageNotFoundError, ValueError):  # noqa: PERF203 - hardly more than two rounds
            continue
    return ""
