"""Clusters of real programs for the benchmarks: a scheduler and workers as console programs with auth."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from distcomp import Client

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def running_cluster(workers: int, slots: int, *flags: str) -> Iterator[Client]:
    """A scheduler and `workers` workers of `slots` slots each, and a client of them; all gone afterwards.

    `flags` are the scheduler's.
    """
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as stack:
        environment = {**os.environ, "DISTCOMP_HOME": home, "DISTCOMP_LOG_LEVEL": "warning"}
        environment.pop("DISTCOMP_ADDRESS", None)
        scheduler = stack.enter_context(
            _program("scheduler", "--port", "0", "--name", "bench", *flags, env=environment)
        )
        assert scheduler.stdout is not None
        scheduler.stdout.readline()
        for number in range(workers):
            stack.enter_context(
                _program("worker", "--slots", str(slots), "--name", f"w{number}", env=environment)
            )
        os.environ["DISTCOMP_HOME"] = home
        try:
            with Client() as client:
                client.wait_for_workers(workers, timeout_s=20)
                yield client
        finally:
            os.environ.pop("DISTCOMP_HOME", None)


@contextlib.contextmanager
def gateway_of(name: str) -> Iterator[tuple[str, str]]:
    """A gateway of the cluster that this user runs; its address, and a token for it."""
    environment = {**os.environ, "DISTCOMP_LOG_LEVEL": "warning"}
    with _program("gateway", "--name", name, "--port", "0", env=environment) as gateway:
        assert gateway.stdout is not None
        address = gateway.stdout.readline().split()[-1]
        made = subprocess.run(
            [
                sys.executable,
                "-m",
                "distcomp.cli.main",
                "token",
                "create",
                "--scope",
                "submit",
                "--cluster",
                name,
            ],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        yield address, made.stdout.strip()


@contextlib.contextmanager
def _program(kind: str, *arguments: str, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", f"distcomp.cli.{kind}", *arguments]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
