"""What a slot process of an embedded cluster takes over from the script it works for."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from distcomp.errors import UnloadableTaskError
from distcomp.payload.pickler import loads
from distcomp.payload.plain import dump_plain

_OWN_PREFIX = "DISTCOMP_"
_INNER_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def dump_environment() -> bytes:
    """Describe this process: its working folder, its environment (without our own settings), its path."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_PREFIX)}
    return dump_plain((str(Path.cwd()), environ, list(sys.path)))


def enter_environment(blob: bytes) -> None:
    """Take over what `dump_environment` described.

    The bounds of inner thread pools stay as they are here where the other process sets none.

    Args:
        blob: its bytes; empty ones change nothing.

    Raises:
        UnloadableTaskError: the working folder is not there, or the bytes are none of ours.
    """
    if not blob:
        return
    folder, environ, path = loads(blob, "the session's environment")
    kept = {n: v for n, v in os.environ.items() if n.startswith(_OWN_PREFIX) or n in _INNER_THREADS}
    try:
        os.chdir(folder)
    except OSError as error:
        raise UnloadableTaskError(f"the client's working folder cannot be entered here: {error}") from error
    os.environ.clear()
    os.environ.update({**kept, **environ})
    sys.path[:] = path
