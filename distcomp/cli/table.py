"""Tables and numbers for a terminal: aligned, and never wider than it."""

from __future__ import annotations

import math
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

GAP = 2
NARROWEST = 4
"""A column of words is cut to no fewer signs than this, however narrow the terminal is."""

_STEP = 1024
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")

RED, BOLD, PLAIN = "\x1b[1;31m", "\x1b[1m", "\x1b[0m"


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        heading: stands above it.
        words: it holds words (left, may be cut), not numbers (right, whole).
        spare: it is left out where there is no room; of several, the last one first.
    """

    heading: str
    words: bool = False
    spare: bool = False


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Lines of an aligned table, headings first.

    Args:
        columns: one for each place of a row.
        rows: the cells as text.
        width: signs in a line; columns of words are cut, the widest first, until the rows fit.
    """
    plain = [[printable(cell) for cell in row] for row in rows]
    shown = [[column.heading for column in columns], *plain]
    widths = [max(len(row[place]) for row in shown) for place in range(len(columns))]
    excess = sum(widths) + GAP * (len(columns) - 1) - width
    spare = [place for place, each in enumerate(columns) if each.spare]
    if excess > 0 and spare:
        kept = [place for place in range(len(columns)) if place != spare[-1]]
        return table([columns[place] for place in kept], [[row[p] for p in kept] for row in rows], width)
    while excess > 0:
        wide = [place for place, each in enumerate(columns) if each.words and widths[place] > NARROWEST]
        if not wide:
            break
        widths[max(wide, key=lambda place: widths[place])] -= 1
        excess -= 1
    return [_line(columns, widths, row)[: max(width, 1)].rstrip() for row in shown]


def _line(columns: Sequence[Column], widths: Sequence[int], row: Sequence[str]) -> str:
    cells = [
        cut(cell, width).ljust(width) if column.words else cell.rjust(width)
        for column, width, cell in zip(columns, widths, row, strict=True)
    ]
    return (" " * GAP).join(cells)


def cut(text: str, width: int) -> str:
    """`text` in at most `width` signs; a dot run says that something is missing."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def cut_left(text: str, width: int) -> str:
    """The end of `text` in at most `width` signs, which says most of a path."""
    return text if len(text) <= width else "…" + text[len(text) - max(0, width - 1) :]


def printable(text: str) -> str:
    """Text from other programs, without signs that could steer the terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def count(number: float) -> str:
    """A number with its thousands apart; below 10 with a decimal unless it is whole."""
    return f"{number:,.1f}" if number != int(number) and abs(number) < 10 else f"{number:,.0f}"  # noqa: PLR2004 - said above


def size(number_bytes: int) -> str:
    """A number of bytes as people say it.

    Example:
        >>> size(5 << 20)
        '5 MiB'
    """
    number, unit = float(number_bytes), 0
    while number >= _STEP and unit < len(_UNITS) - 1:
        number, unit = number / _STEP, unit + 1
    return f"{count(round(number, 1))} {_UNITS[unit]}"


def duration(time_s: float) -> str:
    """A time as people say it.

    Example:
        >>> duration(3725)
        '1 h 02 min'
    """
    minutes, seconds = divmod(math.floor(time_s), 60)
    if minutes == 0:
        return f"{time_s:.1f} s" if time_s < 10 else f"{seconds} s"  # noqa: PLR2004 - two digits are enough
    hours, minutes = divmod(minutes, 60)
    if hours == 0:
        return f"{minutes} min {seconds:02} s"
    days, hours = divmod(hours, 24)
    return f"{hours} h {minutes:02} min" if days == 0 else f"{days} d {hours:02} h"


def is_coloured() -> bool:
    """Whether standard output is a terminal that wants colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, *, coloured: bool) -> str:
    """`text` in a colour, where colours are wanted."""
    return f"{colour}{text}{PLAIN}" if coloured else text
