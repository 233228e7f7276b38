"""Clusters of real programs for tests: started by command line, gone afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import cycle, islice
from typing import TYPE_CHECKING, TypeVar

from distcomp.access import Access
from distcomp.ids import ROLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

T = TypeVar("T")

DEADLINE_S = 90.0
"""How long to wait for what has to happen: nothing is promised by it, and a machine may stand still."""

ORDERLY_S = 2.0
"""How long a program may take to end in order before it is asked again."""

PORTS = 500
"""So many ports are each test process's own. Systems give away none of these by themselves."""

_first = 20_000 + PORTS * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 20)
_ports = cycle(range(_first, _first + PORTS))


def until(condition: Callable[[], T], what: str, timeout_s: float = DEADLINE_S) -> T:
    """Wait for a condition, and give what it gave; fail with `what` if it does not come true."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"
        time.sleep(0.01)
    return value


def lasting_port() -> int:
    """A free port that stays free while the program that listened there is away for a moment."""
    for port in islice(_ports, PORTS):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:  # somebody has it
            continue
        return port
    raise AssertionError("none of this process's ports is free")


def quickest(trial: Callable[[], float], most_s: float, trials: int = 6) -> float:
    """The shortest time of some trials, of which the first that keeps within `most_s` is the last.

    Other programs may have the machine meanwhile: what can be done in time is done so in one of them.
    """
    took_s = trial()
    for _ in range(trials - 1):
        if took_s <= most_s:
            break
        took_s = min(took_s, trial())
    return took_s


class Programs:
    """Console programs of one user folder. What each says lies in `output` of that folder.

    Args:
        home: the user folder.
        inside: the words before each command that have it run elsewhere, such as in a network of its own.
    """

    def __init__(self, home: Path, inside: Sequence[str] = ()) -> None:
        self.home = home
        self._inside = inside
        self.running: list[subprocess.Popen[str]] = []
        self._outputs: dict[int, Path] = {}

    def environment(self, **variables: str) -> dict[str, str]:
        """The variables that programs are started with."""
        clean = {name: text for name, text in os.environ.items() if name != "DISTCOMP_ADDRESS"}
        return {**clean, "DISTCOMP_HOME": str(self.home), **variables}

    def scheduler(
        self, name: str = "test", *flags: str, port: int = 0, **variables: str
    ) -> subprocess.Popen[str]:
        """Start a scheduler, at a lasting port if told none, and wait until its access files are there."""
        path = self.home / "access" / name
        flags = ("--quiet", "--port", str(port or lasting_port()), "--name", name, *flags)
        variables = {
            "DISTCOMP_HANDSHAKE_S": "60",
            **variables,
        }  # also if the machine stands still
        process = self.start("scheduler", *flags, **variables)
        until(lambda: _has_all_roles(path) or process.poll() is not None, "access files")
        assert process.poll() is None, self.said(process)
        return process

    def worker(
        self, *flags: str, slots: int = 2, join: str | None = None, **variables: str
    ) -> subprocess.Popen[str]:
        """Start a worker: for the one scheduler there is, or with a join string."""
        joins = () if join is None else ("--join", "-")
        return self.start("worker", "--slots", str(slots), *joins, *flags, typed=join, **variables)

    def access(self, role: str = "client", name: str = "test") -> Access:
        """What lets a role in to a scheduler that was started here."""
        (path,) = (self.home / "access" / name).glob(f"{role}-*.json")
        return Access.read(path)

    def start(
        self,
        program: str,
        *flags: str,
        typed: str | None = None,
        python: str = sys.executable,
        **variables: str,
    ) -> subprocess.Popen[str]:
        """Start a program of ours, with a line on its standard input if there is one to type."""
        return self._run(program, [python, "-m", f"distcomp.cli.{program}", *flags], typed, variables)

    def script(self, path: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start a script with our Python."""
        return self._run(path.stem, [sys.executable, str(path), *arguments], None, variables)

    def _run(
        self, name: str, command: list[str], typed: str | None, variables: dict[str, str]
    ) -> subprocess.Popen[str]:
        folder = self.home / "output"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{len(self.running)}-{name}"
        with path.open("w") as output:
            process = subprocess.Popen(
                [*self._inside, *command],
                env=self.environment(**variables),
                stdin=subprocess.DEVNULL if typed is None else subprocess.PIPE,
                stdout=output,
                stderr=output,
                text=True,
            )
        self.running.append(process)
        self._outputs[process.pid] = path
        if process.stdin is not None:
            with process.stdin:
                process.stdin.write(f"{typed}\n")
        return process

    def said(self, process: subprocess.Popen[str]) -> str:
        """All that a program has printed and logged so far."""
        return self._outputs[process.pid].read_text()

    def stop(self, orderly_s: float = ORDERLY_S) -> None:
        """End everything, workers first: in order, then at once, then by force."""
        steps = {
            signal.SIGCONT: 0.0,
            signal.SIGTERM: orderly_s,
            signal.SIGINT: DEADLINE_S,
            signal.SIGKILL: 0.0,
        }
        for process in reversed(self.running):
            for number, patience_s in steps.items():
                if process.poll() is None:
                    process.send_signal(number)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(patience_s)
            process.wait()


def _has_all_roles(folder: Path) -> bool:
    return all(any(folder.glob(f"{role}-*.json")) for role in ROLES)


@contextlib.contextmanager
def programs(home: Path, inside: Sequence[str] = ()) -> Iterator[Programs]:
    """A user folder in which programs can be started."""
    made = Programs(home, inside)
    try:
        yield made
    finally:
        made.stop()
        for process in made.running:
            sys.stdout.write(f"--- {process.args[2:]} ended with {process.returncode}\n{made.said(process)}")
