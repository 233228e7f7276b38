"""The clients of this process that are open: closed when it ends, left to their parent in forked children."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any, Protocol


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
_lock = threading.Lock()
_hooked = False


def remember(client: OpenClient) -> None:
    """Have a client closed when the interpreter ends, and known as another's in forked children."""
    global _hooked  # noqa: PLW0603 - the hooks are set once in a process
    with _lock:
        if not _hooked:
            # Before threads are joined, as for the standard library's executors: later ones cannot start.
            threading._register_atexit(_close_all)  # type: ignore[attr-defined]  # noqa: SLF001 - see above
            os.register_at_fork(after_in_child=_mark_forked)
            _hooked = True
        _clients.append(client)


def forget(client: OpenClient) -> None:
    """A client was closed."""
    with _lock:
        if client in _clients:
            _clients.remove(client)


def _close_all() -> None:
    for client in tuple(_clients):
        client.close(cancel=_ends_badly())


def _ends_badly() -> bool:
    """Whether the interpreter ends by an exception; at a prompt the last one was long ago."""
    return getattr(sys, "last_value", None) is not None and not hasattr(sys, "ps1")


def _mark_forked() -> None:
    for client in _clients:
        client.become_forked()
