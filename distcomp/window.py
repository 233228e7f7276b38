"""How much a client has handed in that has not settled, and the waits for room for more.

Law, under the lock: `open_tasks` and `open_bytes` count what was handed in and has not settled. An empty
window takes anything, however large; else neither count grows beyond its bound, but for what a loop's own
thread hands in, which must not wait, and is refused at twice the window.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from distcomp.errors import WindowFullError
from distcomp.handles import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from distcomp.config import ClientSettings
    from distcomp.feeder import Wanted
    from distcomp.handles import Host


class Window:
    """The window of one session.

    Args:
        host: the client; waiting for room is waiting for its tasks.
        settings: its settings, which bound the window.
        lock: guards it.
        is_here: whether the calling thread is the loop's own.

    Attributes:
        may_block: whether threads that submit may wait for room; if not, they are told so by an error.
        open_tasks: tasks handed in and not settled.
        open_bytes: bytes of their arguments.
    """

    def __init__(
        self, host: Host, settings: ClientSettings, lock: threading.Lock, is_here: Callable[[], bool]
    ) -> None:
        self.may_block = True
        self.open_tasks = 0
        self.open_bytes = 0
        self._host = host
        self._is_here = is_here
        self._most_tasks = settings.window_tasks
        self._most_bytes = settings.window_bytes
        self._feeding = 0
        self._lock = lock
        self._room = threading.Condition(lock)
        self._waiting = 0

    # --- with the lock held -----------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether another task has to wait."""
        return self.open_tasks >= self._most_tasks or self.open_bytes >= self._most_bytes

    def awaited_words(self, why: str) -> str:
        """Why somebody waits for room in it, empty if nobody does; without the lock, as of a moment ago."""
        if not self._waiting or not self.is_full:
            return ""
        return (
            f"for room: {self.open_tasks:,} tasks with {self.open_bytes:,} bytes of arguments are under way, "
            f"and window_tasks={self._most_tasks} or window_bytes={self._most_bytes} allows no more; {why}"
        )

    def add(self, tasks: int, size_bytes: int) -> None:
        """Count tasks as handed in."""
        self.open_tasks += tasks
        self.open_bytes += size_bytes

    def release(self, tasks: int, size_bytes: int) -> None:
        """Tasks have settled."""
        self.open_tasks -= tasks
        self.open_bytes -= size_bytes
        if self._waiting:
            self._room.notify_all()

    def wait_until_not_full(self) -> None:
        """Wait in the caller's own thread; the loop's thread must not wait.

        Raises:
            WindowFullError: it is the loop's thread, and far too much is under way.
        """
        if self.may_block and not self._is_here():
            self._wait_until(lambda: not self.is_full)
        elif self.open_tasks >= 2 * self._most_tasks or self.open_bytes >= 2 * self._most_bytes:
            raise WindowFullError("twice the window is under way, and a loop's thread must not wait")

    # --- from any thread --------------------------------------------------------------------------

    def make_room(self, leg: Wanted, tasks: int, size_bytes: int, *, waits: bool = True) -> bool:
        """Count tasks as handed in, waiting for room if need be; see `feeder.FedClient`."""
        with self._room:
            while not leg.ended and not self._fits(tasks, size_bytes):
                if not waits:
                    return False
                self._waiting += 1
                self._room.wait()
                self._waiting -= 1
            if leg.ended:
                return False
            self.add(tasks, size_bytes)
            return True

    def wait_for_room(self, tasks: int, size_bytes: int) -> None:
        """Wait until so many tasks fit into the window, or it is empty."""
        with self._lock:
            if not self._fits(tasks, size_bytes):
                self._wait_until(lambda: self._fits(tasks, size_bytes))

    def wait_until_idle(self) -> None:
        """Wait until everything has settled that was handed in, or is being."""
        with self._lock:
            self._wait_until(lambda: not self.open_tasks and not self._feeding)

    def wait_until_fed(self) -> None:
        """Wait until everything was handed in that is being."""
        with self._lock:
            self._wait_until(lambda: not self._feeding)

    def begin_feeding(self) -> None:
        """A feeder begins; `end_feeding` follows."""
        with self._lock:
            self._feeding += 1

    def end_feeding(self) -> None:
        """A feeder is through."""
        with self._room:
            self._feeding -= 1
            self._room.notify_all()

    # --- inside -----------------------------------------------------------------------------------

    def _fits(self, tasks: int, size_bytes: int) -> bool:
        if not self.open_tasks:
            return True
        full = self.open_tasks + tasks > self._most_tasks
        return not full and self.open_bytes + size_bytes <= self._most_bytes

    def _wait_until(self, done: Callable[[], bool]) -> None:
        """Wait, with the lock held, for a change of the window that makes `done()` true."""
        self._waiting += 1
        try:
            wait_until(self._host, self._room, done, None)
        finally:
            self._waiting -= 1
