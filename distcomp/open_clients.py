"""The clients of this process that are open: closed when it ends, left to their parent in forked children."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any, Protocol

from distcomp.errors import ClientClosedError


class OpenClient(Protocol):
    """What is done to a client from outside."""

    def close(self, *, cancel: bool = False) -> None:
        """Wait for its tasks or cancel them, then leave the cluster."""

    def become_forked(self) -> None:
        """Be of no use: this is a forked child of the process that made it."""


class AroundTask(threading.local):
    """The client whose inline task the thread runs; None outside of such tasks."""

    client: Any = None


around = AroundTask()

_clients: list[OpenClient] = []
_lock = threading.RLock()
"""Garbage collection may come here from anywhere, and so again from here."""
_hooked = False
_ending = False


def check_time() -> None:
    """See to it that clients are closed when the interpreter ends.

    Raises:
        ClientClosedError: it is ending: its main thread is through, and its threads cannot be relied on.
    """
    global _hooked, _ending  # noqa: PLW0603 - the hooks are set once in a process
    with _lock:
        if not _hooked and not sys.is_finalizing():
            _hooked = True
            os.register_at_fork(after_in_child=_mark_forked)
            try:  # before threads are joined, as the standard library does: later ones cannot start
                threading._register_atexit(_close_all)  # type: ignore[attr-defined]  # noqa: SLF001 - see above
            except RuntimeError:
                _ending = True
        if _ending or sys.is_finalizing():
            raise _refusal()


def remember(client: OpenClient) -> None:
    """Have a client closed when the interpreter ends, and known as another's in forked children.

    Raises:
        ClientClosedError: the interpreter has begun to end since `check_time`.
    """
    with _lock:
        if _ending:
            raise _refusal()
        _clients.append(client)


def forget(client: OpenClient) -> None:
    """A client was closed."""
    with _lock:
        if client in _clients:
            _clients.remove(client)


def _close_all() -> None:
    global _ending  # noqa: PLW0603 - it happens once in a process
    with _lock:
        _ending = True
    for client in tuple(_clients):
        client.close(cancel=_ends_badly())


def _refusal() -> ClientClosedError:
    return ClientClosedError(
        "the interpreter is ending, so its clients are closed, and there will be no other: "
        "submit, and wait for results, before the main thread ends"
    )


def _ends_badly() -> bool:
    """Whether the interpreter ends by an exception; at a prompt the last one was long ago."""
    return getattr(sys, "last_value", None) is not None and not hasattr(sys, "ps1")


def _mark_forked() -> None:
    global _lock  # noqa: PLW0603 - another thread may have held it, which this process does not have
    _lock = threading.RLock()
    for client in _clients:
        client.become_forked()
