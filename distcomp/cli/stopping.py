"""SIGTERM and Ctrl-C: once stops in order, twice means now."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def watch_signals(on_stop: Callable[[bool], None]) -> None:
    """Call `on_stop(at_once)` at the first signal with False, at every later one with True."""
    loop = asyncio.get_running_loop()
    seen = 0

    def signalled() -> None:
        nonlocal seen
        seen += 1
        on_stop(seen > 1)

    for number in SIGNALS:
        loop.add_signal_handler(number, signalled)
