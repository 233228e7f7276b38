"""A client's stay in a task: its task's slot is lent while it waits, and it ends with the task.

The law of a stay: `_waiting` lists the threads that wait for tasks of this client. Once there has been
one for `LEND_AFTER_S` the cluster is told that the task waits, and as soon as there is none that it goes
on. Short waits, of which there are many when results are read as they come, are not worth two messages.

Who waits by other means, by the standard library's `wait` or by a callback, cannot be seen to go on: for him
the slot is lent (`_yields`) until nothing of the client is open.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING

from distcomp.errors import NestedSubmitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distcomp.core.client_state import ClientState
    from distcomp.inside import Door
    from distcomp.protocol import LendRefused

LEND_AFTER_S = 0.001


class Stay:
    """One client in one task.

    Args:
        door: the way out of the slot process.
        post: has an action called on the client's loop thread.
    """

    def __init__(self, door: Door, post: Callable[[Callable[[ClientState], None]], None]) -> None:
        self._door = door
        self._post = post
        self._lock = threading.Lock()
        self._waiting: list[int] = []
        self._yields = False
        self._since = 0.0
        self._looks = False
        self._lent = self._told = False
        self._refused: LendRefused | None = None

    def begin_wait(self) -> None:
        """A thread begins to wait for tasks of this client; `end_wait` follows."""
        with self._lock:
            self._waiting.append(threading.get_ident())
            if len(self._waiting) > 1:
                return
            self._since = time.monotonic()
            if self._looks:
                return
            self._looks = True
        self._post(self._look_soon)

    def end_wait(self) -> None:
        """A thread goes on."""
        with self._lock:
            thread = threading.get_ident()  # a generator may be closed by another thread than read it
            self._waiting.remove(thread if thread in self._waiting else self._waiting[0])
            if self._waiting:
                return
            self._refused = None
            waited_s = time.monotonic() - self._since
            goes_on = self._goes_on()
        self._door.waited(waited_s)
        if goes_on:
            self._post(self._tell)

    def give_way(self) -> None:
        """Somebody may wait for a task of this client, and nobody will say until when."""
        with self._lock:
            if self._yields or threading.get_ident() in self._waiting:
                return
            self._yields = True
            if self._lent:
                return
            self._lent = True
        self._post(self._tell)

    def _goes_on(self) -> bool:
        """Whether the slot is no longer lent from now on, with the lock held."""
        ends = self._lent and not self._waiting and not self._yields
        self._lent = self._lent and not ends
        return ends

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A thread waits within."""
        self.begin_wait()
        try:
            yield
        finally:
            self.end_wait()

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """A thread that waits goes on within."""
        self.end_wait()
        try:
            yield
        finally:
            self.begin_wait()

    def check(self) -> None:
        """Raise if the task must not wait any longer.

        Raises:
            NestedSubmitError: too many tasks wait where it runs.
        """
        refused = self._refused
        if refused is not None:
            raise too_deep(refused)

    # --- on the loop's thread ---------------------------------------------------------------------

    def hear(self, refused: LendRefused | None, *, is_idle: bool) -> None:
        """Take in what a turn brought; who waits is told by `check` that the slot cannot be lent."""
        with self._lock:
            if refused is not None and self._lent:
                self._lent = self._told = self._yields = False
                self._refused = refused if self._waiting else None
            self._yields = self._yields and not is_idle
            goes_on = self._goes_on()
        if goes_on:
            self._post(self._tell)

    def _tell(self, state: ClientState) -> None:
        """Tell whether the slot is lent as things are by now: what threads post may come in any order."""
        with self._lock:
            if self._told == self._lent:
                return
            self._told = self._lent
            state.lend(lent=self._told)

    def _look_soon(self, state: ClientState) -> None:
        del state
        asyncio.get_running_loop().call_later(LEND_AFTER_S, self._look)

    def _look(self) -> None:
        with self._lock:
            self._looks = False
            if not self._waiting or self._lent:
                return
            self._lent = True
        self._post(self._tell)


def too_deep(refused: LendRefused) -> NestedSubmitError:
    """The error that a wait ends with where no more slots can be lent."""
    names = [(name, len(list(group))) for name, group in groupby(refused.chain)]
    chain = " > ".join(name if count == 1 else f"{name} ({count} times)" for name, count in names)
    error = NestedSubmitError(
        f"{chain}: this task cannot wait for a task that it submitted, as its worker lends at most "
        f"{refused.most} slots of tasks that wait; submit in fewer levels, or raise max_lent_per_slot there"
    )
    error.chain = refused.chain
    return error
