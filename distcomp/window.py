"""How much a client has handed in that has not settled, and the waits for room for more.

Law, under the lock: `open_tasks` and `open_bytes` count what was handed in and has not settled, and
`single_tasks` and `single_bytes` that part of it that was submitted one by one. Neither count grows beyond
its bound, but for three things. Single submits, and bulk, may each have an eighth of the window whatever the
other has taken, so that neither waits for the end of the other. Where there is no bulk, any chunk of it
enters, however large. And what a loop's own thread submits, which must not wait, is refused at twice the
window.
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


RESERVE = 8
"""Single submits, and bulk, may each have one part in so many for themselves."""


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
        single_tasks: those of these tasks that were submitted one by one.
        single_bytes: bytes of their arguments.
        lock: guards it.
    """

    def __init__(
        self, host: Host, settings: ClientSettings, lock: threading.Lock, is_here: Callable[[], bool]
    ) -> None:
        self.may_block = True
        self.open_tasks = 0
        self.open_bytes = 0
        self.single_tasks = 0
        self.single_bytes = 0
        self.lock = lock
        self._host = host
        self._is_here = is_here
        self._most_tasks = settings.window_tasks
        self._most_bytes = settings.window_bytes
        self._feeding = 0
        self._room = threading.Condition(lock)
        self._waiting = 0

    # --- with the lock held -----------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether everything is taken but what is kept for those who have less."""
        return self.open_tasks >= self._most_tasks or self.open_bytes >= self._most_bytes

    def awaited_words(self, why: str) -> str:
        """Why somebody waits for room in it, empty if nobody does; without the lock, as of a moment ago."""
        if not self._waiting or not self.is_full:
            return ""
        return (
            f"for room: {self.open_tasks:,} tasks with {self.open_bytes:,} bytes of arguments are under way, "
            f"and window_tasks={self._most_tasks} or window_bytes={self._most_bytes} allows no more; {why}"
        )

    def enter(self, size_bytes: int) -> None:
        """Count a single submit as handed in, waiting for room if need be; the loop's thread must not wait.

        Raises:
            WindowFullError: it is the loop's thread, and far too much is under way.
        """
        if self.is_full and not self._takes_single():
            if self.may_block and not self._is_here():
                self._wait_until(self._takes_single)
            elif self.open_tasks >= 2 * self._most_tasks or self.open_bytes >= 2 * self._most_bytes:
                raise WindowFullError("twice the window is under way, and a loop's thread must not wait")
        self.open_tasks += 1
        self.single_tasks += 1
        if size_bytes:
            self.weigh_singles(size_bytes)

    def weigh_singles(self, more_bytes: int) -> None:
        """Single submits turn out to weigh more than was counted."""
        self.open_bytes += more_bytes
        self.single_bytes += more_bytes

    def release(self, tasks: int, size_bytes: int, *, singles: tuple[int, int]) -> None:
        """Tasks have settled; `singles` are those tasks and bytes of them that were submitted one by one."""
        self.open_tasks -= tasks
        self.open_bytes -= size_bytes
        self.single_tasks -= singles[0]
        self.single_bytes -= singles[1]
        if self._waiting:
            self._room.notify_all()

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
            self.open_tasks += tasks
            self.open_bytes += size_bytes
            return True

    def wait_to_enter(self) -> None:
        """Wait until there is room for a single submit."""
        with self.lock:
            if not self._takes_single():
                self._wait_until(self._takes_single)

    def wait_for_room(self, tasks: int, size_bytes: int) -> None:
        """Wait until there is room for a chunk of so many tasks."""
        with self.lock:
            if not self._fits(tasks, size_bytes):
                self._wait_until(lambda: self._fits(tasks, size_bytes))

    def wait_until_idle(self) -> None:
        """Wait until everything has settled that was handed in, or is being."""
        with self.lock:
            self._wait_until(lambda: not self.open_tasks and not self._feeding)

    def wait_until_fed(self) -> None:
        """Wait until everything was handed in that is being."""
        with self.lock:
            self._wait_until(lambda: not self._feeding)

    def begin_feeding(self) -> None:
        """A feeder begins; `end_feeding` follows."""
        with self.lock:
            self._feeding += 1

    def end_feeding(self) -> None:
        """A feeder is through."""
        with self._room:
            self._feeding -= 1
            self._room.notify_all()

    # --- inside -----------------------------------------------------------------------------------

    def _takes_single(self) -> bool:
        few = self.single_tasks * RESERVE < self._most_tasks
        return not self.is_full or (few and self.single_bytes * RESERVE < self._most_bytes)

    def _fits(self, tasks: int, size_bytes: int) -> bool:
        """Whether there is room for a chunk."""
        bulk_tasks, bulk_bytes = self.open_tasks - self.single_tasks, self.open_bytes - self.single_bytes
        if not bulk_tasks:
            return True
        if self.open_tasks + tasks <= self._most_tasks and self.open_bytes + size_bytes <= self._most_bytes:
            return True
        few = (bulk_tasks + tasks) * RESERVE <= self._most_tasks
        return few and (bulk_bytes + size_bytes) * RESERVE <= self._most_bytes

    def _wait_until(self, done: Callable[[], bool]) -> None:
        """Wait, with the lock held, for a change of the window that makes `done()` true."""
        self._waiting += 1
        try:
            wait_until(self._host, self._room, done, None)
        finally:
            self._waiting -= 1
