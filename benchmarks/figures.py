"""Repeats, medians and the one table that every benchmark prints."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class Figure(NamedTuple):
    """One measured quantity beside what it has to reach and what a peer or floor reached in the same run."""

    name: str
    value: float
    unit: str
    wanted: str = ""
    peer: float | None = None
    peer_name: str = ""


def median_of(repeats: int, measure: Callable[[], float]) -> float:
    """The median of several runs of `measure`."""
    return statistics.median(measure() for _ in range(repeats))


def show(title: str, figures: list[Figure]) -> None:
    """Print figures as an aligned table; the last columns compare with the peer measured beside."""
    rows = [("figure", "value", "wanted", "peer", "ratio")]
    for figure in figures:
        peer = ratio = ""
        if figure.peer is not None:
            peer = f"{figure.peer:,.4g} {figure.unit} ({figure.peer_name})"
            ratio = f"{figure.value / figure.peer:.3g}"
        rows.append((figure.name, f"{figure.value:,.4g} {figure.unit}", figure.wanted, peer, ratio))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print(f"\n{title}")
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
