"""A notebook's kernel as a client: cells are interrupted, changed and run again, and shown."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest
from clusters import DEADLINE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

manager = pytest.importorskip("jupyter_client.manager", reason="no kernel can be started: jupyter_client")
pytest.importorskip("ipykernel", reason="no kernel can be started: ipykernel")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client")

PRELUDE = """
import asyncio, pathlib, sys, threading, time
from distcomp import Client, compute_this, gather, progress, wait
client = Client(slots=2)

def busy():
    totals = client.status().totals
    return totals.pending + totals.leased

def place():
    frame = sys._current_frames()[threading.main_thread().ident]
    places = []
    while frame:
        places.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return places

def waits():
    before = place()
    time.sleep(0.05)
    return place() == before

def look():
    while not (busy() and waits()):
        time.sleep(0.01)
    pathlib.Path("busy").touch()

async def tick():
    while True:
        await asyncio.sleep(0.05)

def square(number):
    return number * number

def hold(gate):
    while not pathlib.Path(gate).exists():
        time.sleep(0.01)
"""


class Cell:
    """What came of a cell: its last value by kind, what it printed, and the error it ended with."""

    def __init__(self) -> None:
        self.data: dict[str, str] = {}
        self.printed = ""
        self.error = ""


class Kernel:
    """A kernel to which a test types cells."""

    def __init__(self, made: Any, folder: Path) -> None:
        self.manager = made
        self.folder = folder
        self.client = made.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=DEADLINE_S)

    def begin(self, code: str) -> str:
        """Start a cell; gives what `finish` needs."""
        request: str = self.client.execute(code)
        return request

    def finish(self, request: str, shows: str = "") -> Cell:
        """Wait for a cell to end, or only until it has printed `shows`."""
        cell = Cell()
        while True:
            message = self.client.get_iopub_msg(timeout=DEADLINE_S)
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "execute_result":
                cell.data = content["data"]
            elif kind == "stream":
                cell.printed += content["text"]
                if shows and shows in cell.printed:
                    return cell
            elif kind == "error":
                cell.error = content["ename"]
            elif kind == "status" and content["execution_state"] == "idle":
                return cell

    def run(self, code: str) -> str:
        """Run a cell that must go well; gives its last value as text."""
        cell = self.finish(self.begin(code))
        assert not cell.error, cell.error
        return cell.data.get("text/plain", "")


@pytest.fixture(scope="module", autouse=True)
def _the_loop_of_jupyter_client() -> Iterator[None]:
    """It keeps one open in each thread; it is there before a test counts what is open."""
    loop = pytest.importorskip("jupyter_core.utils").ensure_event_loop()
    yield
    loop.close()


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("DISTCOMP_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DISTCOMP_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    made = manager.KernelManager(kernel_name="python3")
    made.kernel_spec.argv[0] = sys.executable
    made.start_kernel(cwd=str(tmp_path))
    typed = None
    try:
        typed = Kernel(made, tmp_path)
        typed.run(PRELUDE)
        yield typed
    finally:
        if typed is not None:
            typed.client.stop_channels()
        made.shutdown_kernel(now=False)
        made.cleanup_resources()
        made.context.destroy()


def test_a_changed_function_runs_changed(kernel: Kernel) -> None:
    assert kernel.run("client.map(square, range(4)).results()") == "[0, 1, 4, 9]"
    kernel.run("def helper(number): return number + 1\ndef caller(number): return helper(number)")
    kernel.run("@compute_this\ndef decorated(number): return number")
    assert kernel.run("client.submit(caller, 1).result(), decorated.compute(5)") == "(2, 5)"
    kernel.run("def square(number): return -number\ndef helper(number): return number + 100")
    kernel.run("@compute_this\ndef decorated(number): return number * 2")
    assert kernel.run("client.map(square, range(3)).results()") == "[0, -1, -2]"
    assert kernel.run("client.submit(caller, 1).result(), decorated.compute(5)") == "(101, 10)"
    kernel.run(
        "class Point:\n    def __init__(self, x): self.x = x\n    def say(self): return f'old {self.x}'"
    )
    assert kernel.run("client.submit(Point(1).say).result()") == "'old 1'"
    kernel.run(
        "class Point:\n    def __init__(self, x): self.x = x\n    def say(self): return f'new {self.x}'"
    )
    assert kernel.run("client.submit(Point(2).say).result()") == "'new 2'"


@pytest.mark.parametrize(
    "waits",
    [
        "client.submit(time.sleep, 600).result()",
        "client.map(time.sleep, [600] * 9).results()",
        "for each in client.map(time.sleep, [600] * 9): pass",
        "wait([client.submit(time.sleep, 600) for _ in range(9)])",
        "gather([client.submit(time.sleep, 600) for _ in range(9)])",
        "progress(client.map(time.sleep, [600] * 9))",
        "progress([client.submit(time.sleep, 600) for _ in range(9)])",
        "for each in client.map(time.sleep, (600 for _ in range(9))): pass",
        # A kernel whose event loop sleeps takes note of an interrupt with the next event only.
        "_ = asyncio.ensure_future(tick()); await client.submit(time.sleep, 600)",
    ],
)
def test_interrupting_a_cell_cancels_what_it_waited_for(kernel: Kernel, waits: str) -> None:
    kernel.run("threading.Thread(target=look).start()")
    cell = kernel.begin(waits)
    until((kernel.folder / "busy").exists, "the tasks run")
    kernel.manager.interrupt_kernel()
    assert kernel.finish(cell).error in {"KeyboardInterrupt", "CancelledError"}
    assert kernel.run("while busy(): time.sleep(0.01)\nbusy()") == "0"
    assert kernel.run("client.submit(square, 3).result()") == "9"


def test_handles_are_shown_as_html(kernel: Kernel) -> None:
    def html_of(code: str) -> str:
        return kernel.finish(kernel.begin(code)).data["text/html"]

    assert "2 slots" in html_of("client.wait_for_workers(); client")
    kernel.run("array = client.map(lambda x: 1 // x, [1, 0]); _ = array.wait()")
    assert "2 of 2 done, 1 failed" in html_of("array")
    assert "ZeroDivisionError" in html_of("array.failures()")
    assert "ZeroDivisionError" in html_of("array.futures[1]")
    assert re.search("Task: failed.*ZeroDivisionError", html_of("array.futures[1].explain()"))


def test_progress_and_logs_are_shown_in_the_cell(kernel: Kernel) -> None:
    cell = kernel.begin(f"_ = progress(client.map(hold, [{str(kernel.folder / 'gate')!r}] * 4))")
    begun = kernel.finish(cell, "4").printed
    (kernel.folder / "gate").touch()
    ended = kernel.finish(cell)
    assert not ended.error
    assert re.search(r"4/4|4 of 4 done", begun + ended.printed), (begun, ended.printed)
    kernel.run("def talk(number): print('number', number)")
    cell = kernel.begin("client.options(logs=True).map(talk, [5]).results(); hold('seen')")
    assert "talk[0]@embedded: number 5" in kernel.finish(cell, "talk[0]@embedded: number 5").printed
    (kernel.folder / "seen").touch()
    assert not kernel.finish(cell).error
