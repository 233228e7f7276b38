"""An event loop whose time can be moved on, for what would take as long as its settings say."""

from __future__ import annotations

import asyncio


class LeapingLoop(asyncio.SelectorEventLoop):
    """Whatever waits for a time that was leapt over is due at once."""

    leapt_s = 0.0

    def time(self) -> float:
        return super().time() + self.leapt_s
