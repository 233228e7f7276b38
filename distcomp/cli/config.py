"""`distcomp config`: every setting, what it is, and where that comes from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from distcomp.cli.flags import EXIT_ENDED, Flags, run
from distcomp.config import WireLimits
from distcomp.settings_file import ADDRESS, NOT_HERE, PROGRAMS, surroundings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from distcomp.config import Settings
    from distcomp.settings_file import Surroundings

EXAMPLES = """\
  distcomp config show               as lines that could stand in distcomp.toml
  distcomp config show --origin      and where each value comes from
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Flags(
        "distcomp config",
        "Show the settings that programs started here would have. Variables stand over distcomp.toml or\n"
        "[tool.distcomp] of pyproject.toml in the project, this over distcomp.toml in the user's folder.",
        EXAMPLES,
        arguments="show",
    )
    parser.add_argument("action", choices=("show",), help="show the settings")
    parser.switch("--origin", "say where each value comes from: a variable, a file, or default")
    parser.common()
    return run(parser, _show, argv)


def _show(flags: argparse.Namespace) -> int:
    rows = list(lines(surroundings()))
    width = max(len(text) for text, _ in rows)
    for text, origin in rows:
        print(f"{text:{width}}  # {origin}" if flags.origin and origin else text)
    return EXIT_ENDED


def lines(told: Surroundings) -> Iterator[tuple[str, str]]:
    """Each line of what is shown, and the origin of the setting on it; headings have none.

    Args:
        told: what this process is told about its settings.

    Raises:
        ConfigError: a variable says something that cannot be followed.
    """
    yield _line(ADDRESS.name, told.get(ADDRESS.variable, "")), told.origin(ADDRESS.variable)
    parts: dict[str, type[Settings]] = {"every program": WireLimits, **PROGRAMS}
    of_all = {each.name for each in WireLimits.describe()}
    for heading, settings in parts.items():
        yield "", ""
        yield f"# {heading}", ""
        hidden = NOT_HERE.keys() | (set() if settings is WireLimits else of_all)
        values = dict(settings.from_environment(told).values())
        for each in settings.describe():
            if each.name not in hidden:
                yield _line(each.name, values[each.name]), told.origin(each.variable)


def _line(name: str, value: Any) -> str:
    return f"{name} = {json.dumps(value)}"
