"""The demo's own cluster: a scheduler and two workers as processes, with auth, in a folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from distcomp.access import Access, saved
from distcomp.cluster import program_command, usable_cores
from distcomp.errors import DemoError

WORKERS = ("left", "right")
END_TIMEOUT_S = 10.0
LAST_WORDS_BYTES = 2000


class DemoCluster:
    """What production has, on one host. Everything is gone after `close`.

    Attributes:
        folder: its user folder.
        slots: how many tasks may run at a time, in all.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="distcomp-demo-")))
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        slots_each = max(1, usable_cores() // len(WORKERS))
        self.slots = slots_each * len(WORKERS)
        try:
            self._start(slots_each)
        except BaseException:
            self._stack.close()
            raise

    def _start(self, slots_each: int) -> None:
        scheduler = self._program("scheduler", "--port", "0", "--name", "demo", stdout=subprocess.PIPE)
        assert scheduler.stdout is not None  # noqa: S101 - it was asked for above
        if not scheduler.stdout.readline():
            scheduler.wait(END_TIMEOUT_S)
            raise DemoError(f"the demo's scheduler did not start: {self._last_words('scheduler')}")
        for name in WORKERS:
            self._workers[name] = self._program("worker", "--name", name, "--slots", str(slots_each))

    def _program(
        self, program: str, *flags: str, stdout: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        clean = {name: text for name, text in os.environ.items() if not name.startswith("DISTCOMP_")}
        with self._log_of(program).open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - the command is ours
                program_command(f"distcomp.cli.{program}", "--owned", *flags),
                env={**clean, "DISTCOMP_HOME": str(self.folder)},
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=log,
                start_new_session=True,
            )
        self._stack.callback(_end, process)
        return process

    def access(self) -> Access:
        """The access of a client."""
        return next(each for each in map(Access.read, saved(self.folder)) if each.role == "client")

    def kill_worker(self) -> str:
        """Kill one worker with signal 9, as a host that fails would; returns its name."""
        name = WORKERS[-1]
        self._workers[name].kill()
        return name

    def failure(self) -> str | None:
        """What a program that ended by itself said last; None while all run."""
        ended = [name for name, process in self._workers.items() if process.poll() is not None]
        return f"worker {ended[0]} ended: {self._last_words('worker')}" if ended else None

    def _log_of(self, program: str) -> Path:
        return self.folder / f"{program}.log"

    def _last_words(self, program: str) -> str:
        return self._log_of(program).read_bytes()[-LAST_WORDS_BYTES:].decode(errors="replace").strip()

    def close(self) -> None:
        """End all programs and remove the folder."""
        self._stack.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program in order, or, if it takes too long, at once."""
    deadline_at = time.monotonic() + END_TIMEOUT_S
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(max(0.0, deadline_at - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
