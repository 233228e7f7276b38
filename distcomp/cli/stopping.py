"""SIGTERM and Ctrl-C: once stops in order, twice means now."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stops:
    """What the signals have asked for so far; takes them over from its making on.

    Args:
        on_stop: called at the first signal with False, at every later one with True.

    Attributes:
        asked: set by the first signal.
        asked_twice: set by the second.
    """

    def __init__(self, on_stop: Callable[[bool], None] | None = None) -> None:
        self.asked = asyncio.Event()
        self.asked_twice = asyncio.Event()
        self._on_stop = on_stop
        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self.ask)

    def ask(self) -> None:
        """Ask as a signal does."""
        if self.asked.is_set():
            self.asked_twice.set()
        self.asked.set()
        if self._on_stop is not None:
            self._on_stop(self.asked_twice.is_set())

    def ask_now(self) -> None:
        """Ask as two signals do."""
        self.ask()
        self.ask()
