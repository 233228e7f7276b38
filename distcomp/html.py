"""What handles look like in a notebook: plain HTML without scripts or style sheets, everything escaped.

Colours are half transparent greys, greens and reds, so that it reads well on light and dark pages alike.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from distcomp.displays import Tally
    from distcomp.protocol import StatusReported
    from distcomp.rows import PastAttempt

MOST_ROWS = 20
"""Rows of a table that are shown; of the others it is said how many there are."""

MOST_CHARACTERS = 10_000
"""How much of a text is shown."""

_LINE = "1px solid rgba(128,128,128,.4)"
_CARD = f"border:{_LINE};border-radius:6px;padding:.6em .9em;display:inline-block;max-width:100%"
_CELL = f"text-align:left;padding:.15em .8em .15em 0;border-bottom:{_LINE};vertical-align:top"
_DONE, _FAILED, _REST = "rgba(60,160,90,.75)", "rgba(210,70,60,.8)", "rgba(128,128,128,.25)"


def card(title: str, *parts: str) -> str:
    """A frame with a title; the parts are HTML already."""
    return f'<div style="{_CARD}"><b>{escape(title)}</b>{"".join(parts)}</div>'


def line(text: str) -> str:
    """A line of text."""
    return f'<div style="margin-top:.3em">{escape(_cut(text))}</div>'


def warning(text: str) -> str:
    """A line of text that should not be overlooked."""
    return f'<div style="margin-top:.3em;color:{_FAILED}">{escape(_cut(text))}</div>'


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of texts; nothing if there are no rows."""
    every = list(rows)
    if not every:
        return ""
    shown = [_row("th", heads), *(_row("td", row) for row in every[:MOST_ROWS])]
    more = line(f"and {len(every) - MOST_ROWS:,} more") if len(every) > MOST_ROWS else ""
    style = "border-collapse:collapse;margin-top:.4em"
    return f'<table style="{style}">{"".join(shown)}</table>{more}'


def folded(title: str, text: str) -> str:
    """A text that is shown when its title is clicked; nothing if there is no text."""
    if not text.strip():
        return ""
    style = "white-space:pre-wrap;margin:.3em 0 0"
    return (
        f'<details style="margin-top:.4em"><summary>{escape(title)}</summary>'
        f'<pre style="{style}">{escape(_cut(text))}</pre></details>'
    )


def bar(tally: Tally) -> str:
    """How many tasks went well, failed, and are open, as a bar."""
    total = max(tally.total or 0, 1)
    good = tally.done - tally.failed
    widths = [(good, _DONE), (tally.failed, _FAILED), (total - tally.done, _REST)]
    parts = "".join(
        f'<span style="width:{100 * count / total:.2f}%;background:{colour}"></span>'
        for count, colour in widths
    )
    style = "display:flex;width:20em;max-width:100%;height:.7em;margin-top:.4em;border-radius:3px"
    return f'<div style="{style};overflow:hidden">{parts}</div>'


def explanation_html(title: str, text: str, attempts: Iterable[PastAttempt], traceback: str = "") -> str:
    """A task with what is known of it."""
    heads = ("attempt", "worker", "host", "ended by", "")
    rows = [(each.attempt, each.worker, each.host, each.kind, each.text) for each in attempts]
    return card(title, line(text), table(heads, rows), folded("traceback", traceback))


def failures_html(failures: Iterable[tuple[int, BaseException]]) -> str:
    """The failures of an array, with the traceback of the first."""
    every = list(failures)
    rows = [(index, type(error).__name__, error) for index, error in every]
    first = folded(f"traceback of task {every[0][0]}", str(every[0][1].__cause__ or "")) if every else ""
    return card(
        f"{len(every):,} failed {'task' if len(every) == 1 else 'tasks'}",
        table(("task", "exception", ""), rows),
        first,
    )


def client_html(title: str, report: StatusReported | None, *, is_embedded: bool = False) -> str:
    """A client, with its cluster if that could be asked; an embedded one is gone with it in any case."""
    if report is None:
        return card(title)
    totals = report.totals
    workers = "worker" if totals.workers == 1 else "workers"
    words = (
        f"{totals.workers:,} {workers}, {totals.slots:,} slots, {totals.busy:,} busy; "
        f"{totals.pending:,} tasks wait, {totals.settled:,} are done"
    )
    rows = [(w.name, w.host, w.python, f"{w.busy} of {w.slots}", w.unfit or w.state) for w in report.workers]
    said = [line(words)]
    if is_embedded:
        said.append(line("without a journal: an embedded cluster and its tasks end with this program"))
    elif report.journal == "off":
        said.append(warning("journal off: a restart of the scheduler forgets all tasks"))
    if report.shut:
        said.append(warning(f"nothing new is accepted: {report.shut}"))
    if report.no_room:
        said.append(warning(report.no_room))
    return card(title, *said, table(("worker", "host", "Python", "busy", "state"), rows))


def _row(tag: str, cells: Iterable[object]) -> str:
    shown = (f'<{tag} style="{_CELL}">{escape(_cut(str(cell)))}</{tag}>' for cell in cells)
    return f"<tr>{''.join(shown)}</tr>"


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} …"
