"""A look at what a test has left behind: processes, descriptors, temporary files."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest
from clusters import until
from processes import children, command_line, descriptors, reap_adopted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_S = 60.0


@contextlib.contextmanager
def nothing_left_behind(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test within which something was made that is there after it.

    Args:
        temporary: an empty folder, for temporary files of this process and those that it starts.
        monkeypatch: has them go there.
    """
    if sys.platform != "linux":
        yield
        return
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    processes, files = set(children(os.getpid())), descriptors(os.getpid())
    yield

    def new_processes() -> list[str]:
        return [command_line(pid) for pid in children(os.getpid()) if pid not in processes]

    def new_files() -> list[str]:
        return [what for number, what in descriptors(os.getpid()).items() if files.get(number) != what]

    def is_clean() -> bool:
        gc.collect()  # what a thread lets go of last may be a cycle
        return not new_processes() and not new_files()

    try:
        until(is_clean, "nothing is left", PATIENCE_S)
    except AssertionError:
        pytest.fail(f"left behind: {new_processes()} {new_files()}")
    finally:
        reap_adopted(processes)
    assert [path.name for path in temporary.iterdir()] == []
