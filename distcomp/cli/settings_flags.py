"""The settings of `distcomp.config` as flags."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

from distcomp.config import parse_value

if TYPE_CHECKING:
    import argparse

    from distcomp.cli.flags import Flags
    from distcomp.config import Settings

METAVARS = {int: "N", float: "NUMBER", str: "TEXT"}

S = TypeVar("S", bound="Settings")


def add_settings(
    parser: Flags, settings: type[Settings], first: tuple[str, ...] = (), prefix: str = ""
) -> None:
    """Add a flag for every setting; those not in `first` stand in a group of their own.

    Switches are left out: the program says how they read as flags. A `prefix` of settings' names is not
    part of their flags.
    """
    every = {each.name: each for each in settings.describe() if each.kind is not bool}
    for name in (*first, *(name for name in every if name not in first)):
        if name not in first:
            parser.group("settings that are seldom needed")
        each = every[name]
        flag = flag_of(name, prefix)
        parse = partial(parse_value, flag, kind=each.kind)
        parser.value(
            flag,
            each.words,
            default=each.default,
            parse=parse,
            metavar=METAVARS[each.kind],
            variable=each.variable,
        )
    parser.group(None)


def flag_of(name: str, prefix: str = "") -> str:
    """The flag of a setting.

    Example:
        >>> flag_of("gateway_port", "gateway_")
        '--port'
    """
    return "--" + name.removeprefix(prefix).replace("_", "-")


def settings_from(flags: argparse.Namespace, settings: type[S], prefix: str = "", **more: bool) -> S:
    """The settings that the flags and variables say.

    Args:
        flags: as parsed.
        settings: which class.
        prefix: of settings' names, that is not part of their flags.
        **more: switches, by setting name.

    Raises:
        ConfigError: a value is out of its bounds.
    """
    names = [each.name for each in settings.describe() if each.kind is not bool]
    given = {name: getattr(flags, name.removeprefix(prefix)) for name in names}
    return settings.from_environment({}, **given, **more)
