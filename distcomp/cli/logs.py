"""The log of the console programs: quiet, structured, rate-limited.

A line is a level, a short constant text, and named values. The text is what the rate limit counts: a
text that comes oftener than `LINES_A_PERIOD` within `PERIOD_S` is held back, and the number held back
is said with its next line. What the standard library and asyncio log comes out in the same form.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from distcomp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LINES_A_PERIOD = 10
PERIOD_S = 10.0
TEXTS_COUNTED = 1024
"""Different texts whose rate is remembered; with more, counting starts afresh."""

_logger = logging.getLogger("distcomp")


def log(level: str, text: str, **values: Any) -> None:
    """Log a fact.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        text: constant words: what happened.
        values: with what; shown after the text.
    """
    number = getattr(logging, level.upper())
    if _logger.isEnabledFor(number):
        _logger.log(number, text, extra={"values": values})


class RateLimit(logging.Filter):
    """Holds back a text that comes too often.

    Args:
        clock: gives monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._counts: dict[tuple[str, str], list[float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may be written; adds how many like it were not."""
        now = self._clock()
        key = (record.name, str(record.msg))
        if key not in self._counts and len(self._counts) >= TEXTS_COUNTED:
            self._counts.clear()
        began_at, count = self._counts.setdefault(key, [now, 0])
        if now - began_at >= PERIOD_S:
            record.held_back = max(0, int(count) - LINES_A_PERIOD)
            began_at, count = now, 0
        self._counts[key] = [began_at, count + 1]
        return count < LINES_A_PERIOD


class TextLines(logging.Formatter):
    """`2030-01-31 12:00:00.000 info   worker registered name=left slots=8`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line a record, and a traceback where there is one."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        values = "".join(f" {name}={_bare(value)}" for name, value in _values(record).items())
        line = f"{stamp}.{int(record.msecs):03d} {record.levelname.lower():7} {record.getMessage()}{values}"
        return line + _traceback(self, record)


class JsonLines(logging.Formatter):
    """One JSON object a line: `time`, `level`, `text`, `values`."""

    def format(self, record: logging.LogRecord) -> str:
        """One object a record."""
        row: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "text": record.getMessage(),
            "values": _values(record),
        }
        if trace := _traceback(self, record):
            row["traceback"] = trace.strip()
        return json.dumps(row, default=str)


@contextmanager
def opened(level: str = "info", file: str | None = None, form: str = "text") -> Iterator[None]:
    """Send the log somewhere until the block ends.

    Args:
        level: the least level that is written.
        file: appended to; stderr if None.
        form: `text` or `json`.

    Raises:
        ConfigError: the file cannot be opened.
    """
    try:
        handler = logging.StreamHandler(sys.stderr) if file is None else logging.FileHandler(file)
    except OSError as error:
        raise ConfigError(f"the log file cannot be opened: {error}") from None
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    handler.addFilter(RateLimit())
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(getattr(logging, level.upper()))
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        handler.close()


def _values(record: logging.LogRecord) -> dict[str, Any]:
    values = dict(getattr(record, "values", {}))
    if held_back := getattr(record, "held_back", 0):
        values["held_back"] = held_back
    return values


def _bare(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return json.dumps(text) if not text or any(mark in text for mark in ' "\n=') else text


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return "\n" + formatter.formatException(record.exc_info) if record.exc_info else ""
