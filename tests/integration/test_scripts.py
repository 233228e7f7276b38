"""Scripts as users write them, with nothing started for them: how they work, and how they end."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from textwrap import indent
from typing import TYPE_CHECKING

import pytest
from clusters import until
from processes import alive, family

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S = 90.0
INTERRUPT_S = 0.2
"""How much later than a plain sleep a waiting script may be interrupted."""
ROUNDS = 5
PROMPT = b">>> "
NAP = """\
import os, pathlib, sys, time
import distcomp

@distcomp.compute_this
def nap(seconds, mark=None):
    if mark:
        pathlib.Path(mark + ".part").write_text(str(os.getpid()))
        os.rename(mark + ".part", mark)
    time.sleep(seconds)
    return seconds

"""


class Scripts:
    """Scripts in a folder of their own, with a user folder without access files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[subprocess.Popen[str]] = []

    def environment(self, **variables: str) -> dict[str, str]:
        """The variables of a user who has set nothing of how it works."""
        clean = {name: text for name, text in os.environ.items() if not name.startswith("DISTCOMP_")}
        # An explanation of why it takes so long is none of what is asked for here, however long it takes.
        ours = {"DISTCOMP_HOME": str(self.folder / "home"), "DISTCOMP_EXPLAIN_AFTER_S": "600"}
        return {**clean, **ours, **variables}

    def start(self, text: str, **variables: str) -> subprocess.Popen[str]:
        """Run a script in a process group of its own, as a terminal does."""
        path = self.folder / "script.py"
        path.write_text(text)
        process = subprocess.Popen(
            [sys.executable, str(path)],
            env=self.environment(**variables),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.running.append(process)
        return process

    def run(self, text: str, **variables: str) -> tuple[str, str, int]:
        """Run a script to its end: what it printed, what it said on stderr, and its exit code."""
        process = self.start(text, **variables)
        out, err = process.communicate(timeout=TIMEOUT_S)
        return out, err, process.returncode

    def stop(self) -> None:
        for process in self.running:
            process.kill()
            process.communicate()


@pytest.fixture
def scripts(tmp_path: Path) -> Iterator[Scripts]:
    made = Scripts(tmp_path)
    try:
        yield made
    finally:
        made.stop()


# --- how they work --------------------------------------------------------------------------------


def test_a_decorated_function_and_nothing_else_works_without_a_guard(scripts: Scripts) -> None:
    out, err, code = scripts.run("print('once')\n" + NAP + "print(nap.compute(0), sum(nap.map([0] * 50)))\n")
    assert (out.split(), err, code) == (["once", "0", "0"], "", 0)


def test_it_works_in_tests(scripts: Scripts) -> None:
    (scripts.folder / "beside.py").write_text("FACTOR = 7\n")
    (scripts.folder / "test_it.py").write_text(
        "import beside, distcomp\n\n"
        "@distcomp.compute_this\n"
        "def times(x):\n    return x * beside.FACTOR\n\n"
        "def test_times():\n    assert list(times.map(range(3))) == [0, 7, 14]\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"],
        env=scripts.environment(),
        cwd=scripts.folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_it_works_at_the_prompt_through_ctrl_c(scripts: Scripts) -> None:
    ours, theirs = pty.openpty()
    prompt = subprocess.Popen(
        [sys.executable, "-i", "-q"],
        env=scripts.environment(TERM="dumb", PYTHON_BASIC_REPL="1", PYTHONSTARTUP=""),
        cwd=scripts.folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    mark = scripts.folder / "mark"
    try:
        answer(ours)
        typed(ours, "import distcomp, time, pathlib")
        typed(
            ours, "def work(seconds, mark): pathlib.Path(mark).touch(); time.sleep(seconds); return 6 * 7", ""
        )
        typed(ours, "work = distcomp.compute_this(work)")
        assert "42" in typed(ours, f"work.compute(0, {str(mark)!r})")
        mark.unlink()
        os.write(ours, f"work.compute(3600, {str(mark)!r})\n".encode())
        until(mark.exists, "the task runs")
        os.killpg(prompt.pid, signal.SIGINT)
        shown = answer(ours)
        assert shown.rstrip().endswith("KeyboardInterrupt"), shown
        assert "42" in typed(ours, f"work.compute(0, {str(mark)!r})")
        os.write(ours, b"exit()\n")
        assert prompt.wait(TIMEOUT_S) == 0
    finally:
        prompt.kill()
        prompt.wait()
        os.close(ours)


def typed(terminal: int, *lines: str) -> str:
    """Type lines at a prompt; what is shown until the next one."""
    for line in lines:
        shown = answer(terminal, f"{line}\n".encode())
    return shown


def answer(terminal: int, text: bytes = b"") -> str:
    os.write(terminal, text)
    shown = b""
    while not shown.endswith((PROMPT, b"... ")):
        shown += os.read(terminal, 4096)
    return shown.removesuffix(PROMPT).decode()


def test_inner_threads_share_the_cores_unless_they_are_set(scripts: Scripts) -> None:
    script = (
        "import distcomp, os\n"
        "names = ['OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS', 'NUMEXPR_NUM_THREADS']\n"
        "with distcomp.Client() as client:\n"
        "    (worker,) = client.wait_for_workers(1)\n"
        "    share = len(os.sched_getaffinity(0)) // worker.slots\n"
        "    print(share, *client.submit(lambda: [os.environ[name] for name in names]).result())\n"
    )
    plain = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "")
    out, err, _ = scripts.run(
        "import os\n" + "".join(f"os.environ.pop({name!r})\n" for name in plain) + script,
        OMP_NUM_THREADS="7",
        **plain,
    )
    share, *seen = out.split()
    assert seen == ["7", share, share, share], err


def test_it_takes_only_the_cores_it_may_use(scripts: Scripts) -> None:
    out, err, _ = scripts.run(
        "import distcomp, os\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "with distcomp.Client() as client:\n"
        "    print(*(worker.slots for worker in client.wait_for_workers(1)))\n"
    )
    assert out.split() == ["1"], err


# --- how they end ---------------------------------------------------------------------------------


def test_a_normal_end_waits_for_what_was_submitted_by_every_client(scripts: Scripts) -> None:
    out, err, code = scripts.run(
        NAP
        + "def told(future): print(f'{future.result()} ', end='')\n"  # one write: each has its thread
        + "for client in [distcomp.Client() for _ in range(3)]:\n"
        + "    client.submit(nap.local, 0.5).add_done_callback(told)\n"
    )
    assert (out.split(), err, code) == (["0.5"] * 3, "", 0)


@pytest.mark.parametrize("way", ["script", "with"])
def test_an_exception_cancels_what_was_submitted(scripts: Scripts, way: str) -> None:
    mark = scripts.folder / "mark"
    body = (
        f"submit(3600, {str(mark)!r})\n"
        f"while not os.path.exists({str(mark)!r}): time.sleep(0.01)\n"
        "raise KeyError('broken')\n"
    )
    script = {
        "script": "submit = nap.submit\n" + body,
        "with": "with distcomp.Client() as client:\n"
        + indent("submit = lambda *args: client.submit(nap.local, *args)\n" + body, "    "),
    }[way]
    _, err, code = scripts.run(NAP + script)
    assert code == 1
    assert err.splitlines()[-1] == "KeyError: 'broken'"


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "os._exit"])
def test_nothing_is_left_however_a_script_ends(scripts: Scripts, end: str) -> None:
    mark, gate = scripts.folder / "mark", scripts.folder / "gate"
    process = scripts.start(
        NAP
        + f"nap.submit(3600, {str(mark)!r})\n"
        + "sys.stdin.close()\n"
        + f"while not os.path.exists({str(mark)!r}): time.sleep(0.01)\n"
        + "print('ready', flush=True)\n"
        + f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
        + "os._exit(0)\n"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    theirs = family(process.pid)
    assert int(mark.read_text()) in theirs
    if end == "os._exit":
        gate.touch()
    else:
        process.send_signal(getattr(signal, end))
    process.wait(TIMEOUT_S)
    until(lambda: not any(map(alive, theirs)), "nothing of the script is left")


def test_ctrl_c_interrupts_the_script_alone_and_its_client_goes_on(scripts: Scripts) -> None:
    process = scripts.start(
        NAP
        + "nap.compute(0)\n"
        + f"for number in range({2 * ROUNDS}):\n"
        + "    future = nap.submit(3600)\n"
        + "    while not future.running(): time.sleep(0.01)\n"
        + "    try:\n"
        + "        print('waiting', flush=True)\n"
        + "        future.result() if number % 2 else time.sleep(3600)\n"
        + "    except KeyboardInterrupt:\n"
        + "        print(time.monotonic(), flush=True)\n"
        + "    future.cancelled() or number % 2 or future.cancel()\n"
        + "    print(future.cancelled(), nap.compute(0))\n"
    )
    late_s = [interrupted(process) for _ in range(2 * ROUNDS)]
    _, err = process.communicate(timeout=TIMEOUT_S)
    # Of every other round, which sleeps, one learns how late a process of this machine is woken anyway.
    assert median(late_s[1::2]) < median(late_s[::2]) + INTERRUPT_S, late_s
    assert (err, process.returncode) == ("", 0)


def interrupted(process: subprocess.Popen[str]) -> float:
    """Interrupt a script that waits; the seconds until it noticed, after which it has to go on."""
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    main = Path(f"/proc/{process.pid}/stat")
    until(lambda: main.read_text().rpartition(")")[2].split()[0] == "S", "the script waits")
    sent_s = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    late_s = float(process.stdout.readline()) - sent_s
    assert process.stdout.readline() == "True 0\n"
    return late_s


LATE = """
import atexit, distcomp, threading, time
{before}
@distcomp.compute_this
def nap(seconds):
    time.sleep(seconds)

class Late:
    def __init__(self, call):
        self.call, self.cycle = call, self

    def __del__(self, refused=distcomp.ClientClosedError):
        try:
            print(self.call())
        except refused as error:
            print("refused:", str(error)[:25], flush=True)

here = Late(lambda: nap.compute(0))
atexit.register(Late(lambda: nap.submit(0)).__del__)
Late(lambda: distcomp.Client(slots=1).submit(abs, -1))
"""


@pytest.mark.parametrize("before", ["", "distcomp.Client('inline:').submit(abs, -1)"])
def test_who_submits_when_the_interpreter_ends_is_refused(scripts: Scripts, before: str) -> None:
    """By a callback of `atexit`, as a global object goes, and as the last garbage is collected."""
    out, err, code = scripts.run(LATE.format(before=before))
    assert (set(out.splitlines()), err, code) == ({"refused: the interpreter is ending"}, "", 0)
    assert len(out.splitlines()) >= 3


def test_who_was_making_a_client_when_the_interpreter_ended_is_refused(scripts: Scripts) -> None:
    """Nobody would close it, and what it was handed would be lost without a word."""
    out, err, code = scripts.run("""
import threading, distcomp
from distcomp import discovery
distcomp.Client('inline:').close()
find = discovery.find

def find_late(*args):
    threading.main_thread().join()
    return find(*args)

def make():
    try:
        distcomp.Client('inline:')
    except distcomp.ClientClosedError as error:
        print('refused:', str(error).partition(',')[0])

discovery.find = find_late
threading.Thread(target=make).start()
""")
    assert (out, err, code) == ("refused: the interpreter is ending\n", "", 0)


@pytest.mark.parametrize(
    ("module", "lock", "seven"),
    [
        ("distcomp.open_clients", "_lock", "distcomp.Client('inline:').submit(abs, -7).result()"),
        ("distcomp.default_client", "_lock", "distcomp.compute_this(abs).compute(-7)"),
        ("distcomp.payload.classes", "_lock", "distcomp.Client('inline:').submit(Number).result().value"),
        ("distcomp.payload.pickler", "_registry", "len(helper.dumps_by_value(helper.seven)) and 7"),
    ],
)
def test_a_forked_child_has_clients_though_another_thread_was_at_work(
    scripts: Scripts, module: str, lock: str, seven: str
) -> None:
    """So it held a lock, which nobody in the child will ever let go of."""
    scripts.folder.joinpath("helper.py").write_text(
        "from distcomp.payload.pickler import dumps\n\ndef seven():\n    return 7\n\n"
        "def dumps_by_value(function):\n    return dumps(function, shares_path=False)\n"
    )
    program = f"""
import importlib, os, signal, threading, distcomp, helper
class Number:
    value = 7

distcomp.Client('inline:').close()
lock = importlib.import_module({module!r}).{lock}
threading.Thread(target=lock.acquire).start()
if child := os.fork():
    os._exit(os.waitpid(child, 0)[1])
signal.alarm(80)
print({seven}, flush=True)
"""
    out, _, code = scripts.run(program, DISTCOMP_ADDRESS="inline:")
    assert (out.split(), code) == (["7"], 0)


def test_a_forked_child_is_told_that_the_client_is_not_its_own(scripts: Scripts) -> None:
    out, err, code = scripts.run(
        NAP
        + "nap.compute(0)\n"
        + "future = nap.submit(0.3)\n"
        + "if os.fork() == 0:\n"
        + "    try:\n"
        + "        nap.compute(0)\n"
        + "    except distcomp.ForkedClientError:\n"
        + "        print('refused', flush=True)\n"
        + "    sys.exit(0)\n"
        + "os.wait()\n"
        + "print(future.result(), nap.compute(0))\n"
    )
    assert (out.split(), err, code) == (["refused", "0.3", "0"], "", 0)
