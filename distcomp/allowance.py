"""How much may be said in a second: a bound for what tasks print to their clients."""

from __future__ import annotations


class Allowance:
    """So many lines and bytes a second; a second's worth may come at once.

    Args:
        lines_per_s: how many lines.
        bytes_per_s: how many bytes they may have together.
        now: the time, in seconds.
    """

    __slots__ = ("_at", "_bytes", "_bytes_per_s", "_lines", "_lines_per_s")

    def __init__(self, lines_per_s: float, bytes_per_s: float, now: float) -> None:
        self._lines_per_s, self._bytes_per_s = lines_per_s, bytes_per_s
        self._lines, self._bytes = lines_per_s, bytes_per_s
        self._at = now

    def take(self, size_bytes: int, now: float) -> bool:
        """Count a line, if it is within what may be said; whether it is."""
        passed_s = max(0.0, now - self._at)
        self._at = now
        self._lines = min(self._lines_per_s, self._lines + passed_s * self._lines_per_s)
        self._bytes = min(self._bytes_per_s, self._bytes + passed_s * self._bytes_per_s)
        if self._lines < 1 or self._bytes < size_bytes:
            return False
        self._lines -= 1
        self._bytes -= size_bytes
        return True
