"""How far tasks are, shown while somebody waits for them: a bar, or a line now and then."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REFRESH_S = 0.1
"""Time between two looks at how far the tasks are."""

BAR_AFTER_S = 0.5
LINE_AFTER_S = 1.0
"""Work that ends sooner is not worth a bar, or a line."""

LOG_LINE_AFTER_S = 10.0
LOG_LINE_EVERY_S = 30.0
"""Where lines stay (a file, a log), there are few."""


class Tally(NamedTuple):
    """How far some tasks are. `total` is None as long as nobody knows; `done` counts the failed ones, too."""

    total: int | None
    done: int
    failed: int
    retried: int

    def trouble(self) -> str:
        """What did not go well, in words; empty if all did."""
        told = [(self.failed, "failed"), (self.retried, "retried")]
        return ", ".join(f"{count:,} {what}" for count, what in told if count)


class Display(Protocol):
    """Shows a tally to a person."""

    def show(self, tally: Tally) -> None:
        """Show how far the tasks are, if it is time for that."""

    def close(self, tally: Tally) -> None:
        """Show how it ended, if anything was shown before."""


class Lines:
    """A plain line a second, written over the last one; where lines stay, one now and then.

    Args:
        stream: where to.
        live: whether what was written can be written over.
        clock: gives the seconds.
    """

    def __init__(self, stream: TextIO, *, live: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._live, self._clock = stream, live, clock
        self._began = clock()
        self._due = self._began + (LINE_AFTER_S if live else LOG_LINE_AFTER_S)
        self._width = 0

    def show(self, tally: Tally) -> None:
        """Write a line if it is time for that."""
        now = self._clock()
        if now >= self._due:
            self._due = now + (LINE_AFTER_S if self._live else LOG_LINE_EVERY_S)
            self._write(line_of(tally, now - self._began), "\r" if self._live else "\n")

    def close(self, tally: Tally) -> None:
        """Write a last line if there was one before."""
        if self._width:
            self._write(line_of(tally, self._clock() - self._began), "\n")

    def _write(self, line: str, end: str) -> None:
        padding = " " * (self._width - len(line)) if self._live else ""
        self._width = len(line)
        self._stream.write(f"{line}{padding}{end}")
        self._stream.flush()


class Bar:
    """A bar of tqdm.

    Args:
        make: makes it.
        clock: gives the seconds.
    """

    def __init__(self, make: Callable[..., Any], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._make, self._clock = make, clock
        self._began = clock()
        self._bar: Any = None

    def show(self, tally: Tally) -> None:
        """Move the bar; it is there once the work has taken a while."""
        taken_s = self._clock() - self._began
        if self._bar is None:
            if taken_s < BAR_AFTER_S:
                return
            self._bar = self._make(total=tally.total, unit="task", dynamic_ncols=True)
            self._bar.start_t -= taken_s
        self._bar.n = tally.done
        self._bar.set_postfix_str(tally.trouble(), refresh=False)
        self._bar.refresh()

    def close(self, tally: Tally) -> None:
        """Leave the bar as it ended, if there is one."""
        if self._bar is not None:
            self.show(tally)
            self._bar.close()


def line_of(tally: Tally, taken_s: float) -> str:
    """A tally as one line."""
    rate = tally.done / taken_s if taken_s > 0 else 0.0
    words = [f"{tally.done:,} done"]
    if tally.total is not None:
        percent = 100 * tally.done // tally.total if tally.total else 100
        words = [f"{tally.done:,} of {tally.total:,} done ({percent}%)"]
    if tally.trouble():
        words.append(tally.trouble())
    words.append(f"{rate:,.1f}/s" if rate < 100 else f"{rate:,.0f}/s")  # noqa: PLR2004 - three digits say enough
    if tally.total is not None and rate and tally.done < tally.total:
        words.append(f"{_clock_time((tally.total - tally.done) / rate)} left")
    return "distcomp: " + ", ".join(words)


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def shown(tally: Callable[[], Tally]) -> Iterator[Display]:
    """A display that fits to where this program writes its errors; it is closed in the end."""
    display = _fitting(sys.stderr)
    try:
        yield display
    finally:
        display.close(tally())


def follow(wait: Callable[[float], bool], tally: Callable[[], Tally]) -> None:
    """Show a tally until `wait(seconds)`, which waits for all tasks, says that they have ended."""
    with shown(tally) as display:
        while not wait(REFRESH_S):
            display.show(tally())


def _fitting(stream: TextIO | None) -> Display:
    notebook = in_notebook()
    live = notebook or (stream is not None and stream.isatty())
    if live and find_spec("tqdm") is not None:
        if notebook and find_spec("ipywidgets") is not None:
            from tqdm.notebook import tqdm as notebook_bar  # noqa: PLC0415 - an extra

            return Bar(notebook_bar)
        from tqdm.std import tqdm as text_bar  # noqa: PLC0415 - an extra

        return Bar(text_bar)
    return Silence() if stream is None else Lines(stream, live=live)


class Silence:
    """Shows nothing: this program has nowhere to write to."""

    def show(self, tally: Tally) -> None:
        """Show nothing."""

    def close(self, tally: Tally) -> None:
        """Show nothing."""


def in_notebook() -> bool:
    """Whether this program is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None
