"""Locks of a process that may be forked."""

from __future__ import annotations

import os
import threading


def lock_free_in_children() -> threading.RLock:
    """A lock that a forked child finds free, whichever thread of its parent held it at the fork."""
    lock = threading.RLock()
    os.register_at_fork(after_in_child=lock._at_fork_reinit)  # type: ignore[attr-defined]  # noqa: SLF001 - as the standard library does
    return lock
