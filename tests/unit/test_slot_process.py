from __future__ import annotations

import os
import resource
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

from distcomp.config import SlotSettings
from distcomp.slot_process import SlotProcess, own_stacks, shared_file

DUMP = """\
Thread 0x00007f0769bff6c0 (most recent call first):
  File "/site/distcomp/slot.py", line 330 in _send_late
  File "/python/threading.py", line 982 in run

Thread 0x00007f0769bff6c1 (most recent call first):
  File "/project/job.py", line 7 in watch

Current thread 0x00007f076cc74b80 (most recent call first):
  File "/project/job.py", line 3 in inner
  File "/project/job.py", line 5 in outer
  File "/site/distcomp/slot.py", line 255 in _run_from
  File "/site/distcomp/template.py", line 120 in serve
"""


def test_only_the_users_part_of_the_stacks_is_shown() -> None:
    shown = own_stacks(DUMP)
    assert [line.split()[-1] for line in shown.splitlines() if "File" in line] == ["watch", "inner", "outer"]
    assert "_send_late" not in shown


def test_no_dump_is_no_text() -> None:
    assert own_stacks("") == ""


def test_a_shared_file_has_its_size_and_no_name() -> None:
    descriptor = shared_file(100)
    assert os.fstat(descriptor).st_size == 100
    assert os.fstat(descriptor).st_nlink == 0
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


def open_files() -> set[int]:
    return {int(path.name) for path in Path("/proc/self/fd").iterdir() if path.exists()}


@pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="the system does not tell which files are open"
)
@pytest.mark.parametrize("left", range(9))
def test_a_process_for_which_there_are_too_few_files_keeps_none(left: int) -> None:
    before = open_files()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = (number for number in count() if number not in before)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(islice(free, left, None)), limits[1]))
    nobody: Any = None
    try:
        with pytest.raises(OSError, match="Too many open files"):
            SlotProcess(1, nobody, nobody, SlotSettings(), nobody)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert open_files() == before
