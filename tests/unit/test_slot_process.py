from __future__ import annotations

import os

from distcomp.slot_process import own_stacks, shared_file

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
