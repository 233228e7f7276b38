"""The way out of a task: how what runs in a slot process reaches the cluster that runs it.

A slot process holds no secret and knows no address. It asks its supervisor, by a datagram that carries
one end of a socket pair, to connect that end to the scheduler on behalf of the task that runs; what comes
of it is said by the first byte there (`RELAYED` or a reason).

Law: `door` is set exactly in a slot process, from before its first task on, and neither in children that
a task forks nor in programs that it starts. A *guest* is a client that a task made; it ends with the task.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Protocol

from distcomp.page import BEGUN, RUN, lane_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from distcomp.page import Page

REQUEST = struct.Struct("=qq")
"""On the door: the run and the index of the task that wants a connection."""

RELAYED = b"\x01"
"""Before all else on such a connection: the scheduler is at its other end."""

UNREACHABLE = b"\x02"
"""The scheduler cannot be reached; why follows, as text, and then the end."""

TASK_OVER = b"\x03"
"""The task does not run any more."""


class Guest(Protocol):
    """What ends with the task that made it."""

    def leave_task(self) -> None:
        """End: the task has ended."""


class Door:
    """One per slot process.

    Args:
        channel: a datagram socket to the supervisor.
        page: the page that says what runs.
        on_guest: called when a task gets a guest.
        on_waited: called with the seconds for which a task has waited for others.
    """

    def __init__(
        self,
        channel: socket.socket,
        page: Page,
        on_guest: Callable[[], None],
        on_waited: Callable[[float], None],
    ) -> None:
        self.shares_path = False
        self.waited = on_waited
        self.guests: list[Guest] = []
        self._channel = channel
        self._page = page
        self._on_guest = on_guest

    def task(self) -> tuple[int, int]:
        """The run and the index of the task that runs."""
        words = self._page.words
        run = words[RUN]
        return run, words[lane_of(run) + BEGUN]

    def connect(self, task: tuple[int, int]) -> socket.socket:
        """A connection to the scheduler on behalf of a task, under way."""
        near, far = socket.socketpair()
        with far:
            try:
                socket.send_fds(self._channel, [REQUEST.pack(*task)], [far.fileno()])
            except BaseException:
                near.close()
                raise
        return near

    def take_in(self, guest: Guest) -> None:
        """Note what has to end with the task that runs."""
        self.guests.append(guest)
        self._on_guest()

    def end_task(self) -> None:
        """End the guests of the task that has ended."""
        while self.guests:
            self.guests.pop().leave_task()

    def shut(self) -> None:
        """Let go of the socket, in a child that a task forked."""
        self._channel.close()


door: Door | None = None


def set_door(made: Door | None) -> None:
    """Make this process a slot process, or one no more."""
    global door  # noqa: PLW0603 - there is one door in a process
    door = made
