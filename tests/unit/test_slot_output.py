from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from distcomp.page import BEGUN, RUN, Page, lane_of, page_bytes
from distcomp.slot_output import PageStream, capture_streams, plain_streams

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def page() -> Iterator[Page]:
    made = Page(memoryview(bytearray(page_bytes(1024))))
    made.words[RUN], made.words[lane_of(1) + BEGUN] = 1, 4
    yield made
    made.release()


@pytest.fixture
def streams() -> Iterator[None]:
    """Whatever a test makes of the streams, they are as they were afterwards."""
    names = ("stdout", "stderr", "__stdout__", "__stderr__")
    before = {name: getattr(sys, name) for name in names}
    yield
    for name, stream in before.items():
        setattr(sys, name, stream)


def test_text_and_bytes_end_in_the_page(page: Page) -> None:
    raw: Any = PageStream(page, 1, threading.RLock())
    stream = io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True)
    stream.write("grün \ud800\n")
    stream.buffer.write(memoryview(b"bytes"))
    assert page.output(1, 4) == "grün \\ud800\nbytes".encode()
    assert (stream.fileno(), stream.writable(), stream.readable(), stream.isatty()) == (1, True, False, False)
    stream.detach()


@pytest.mark.usefixtures("streams")
def test_both_streams_are_captured_in_the_order_written(page: Page) -> None:
    capture_streams(page)
    sys.stdout.write("a")
    sys.stderr.write("b")
    sys.stdout.write("c")
    assert page.output(1, 4) == b"abc"


@pytest.mark.usefixtures("streams")
def test_plain_streams_write_to_their_descriptors(capfd: pytest.CaptureFixture[str]) -> None:
    plain_streams()
    sys.stdout.write("out")
    sys.stderr.write("err")
    assert capfd.readouterr() == ("out", "err")


PROGRAM = """
import os, subprocess, time
from distcomp.slot_output import end_offspring
os.setsid()
old = subprocess.Popen(["sleep", "600"])
time.sleep(0.05)
since = time.monotonic()
new = subprocess.Popen(["sleep", "600"])
end_offspring(since)
print(new.wait(60), old.poll())
old.kill()
old.wait()
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="only /proc tells who started what")  # noqa: PTH112
def test_only_what_the_task_started_ends() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["-9", "None"]
