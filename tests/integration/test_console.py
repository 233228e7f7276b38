"""The programs as people start them: by name, with flags, variables, signals and join strings."""

from __future__ import annotations

import json
import os
import pty
import signal
import stat
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from clusters import lasting_port, until
from processes import alive, command_line, family

from distcomp.access import Access, saved

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEADLINE_S = 120.0
ROLES = ["client", "worker", "observer", "admin"]
EVERYWHERE = "0.0.0.0"  # noqa: S104 - it is refused


class Console:
    """Starts programs in a user folder of their own, and leaves none behind."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack

    def environment(self, **more: str) -> dict[str, str]:
        clean = {name: text for name, text in os.environ.items() if not name.startswith("DISTCOMP_")}
        return {**clean, "DISTCOMP_HOME": str(self.folder), **more}

    def start(
        self, program: str, *flags: str, stdin: str | None = None, **variables: str
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", f"distcomp.cli.{program}", *flags],
            env=self.environment(**variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._stack.callback(_end, process)
        if stdin is not None:
            assert process.stdin is not None
            process.stdin.write(stdin)
            process.stdin.flush()
        return process

    def scheduler(self, *flags: str, **variables: str) -> tuple[subprocess.Popen[str], dict[str, str]]:
        """A scheduler on a free port, and its join strings by role."""
        process = self.start("scheduler", "--port", str(lasting_port()), *flags, **variables)
        assert process.stdout is not None
        head = process.stdout.readline()
        assert "listens at tcp://" in head, head + _rest(process)
        joins = dict(process.stdout.readline().split() for _ in ROLES)
        return process, joins

    def run(self, program: str, *flags: str, stdin: str = "", **variables: str) -> Any:
        return subprocess.run(
            [sys.executable, "-m", f"distcomp.cli.{program}", *flags],
            env=self.environment(**variables),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def status(self) -> dict[str, Any]:
        done = self.run("main", "status", "--json")
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
    process.communicate()


def _rest(process: subprocess.Popen[str]) -> str:
    process.kill()
    return "".join(process.communicate())


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    with ExitStack() as stack:
        yield Console(tmp_path / "home", stack)


def test_a_worker_of_the_same_user_needs_no_join_string(console: Console) -> None:
    scheduler, _ = console.scheduler("--name", "lab")
    worker = console.start("worker", "--slots", "2", "--name", "left")
    until(lambda: console.status()["totals"]["workers"] == 1, "the worker registers")
    (row,) = console.status()["workers"]
    assert (row["name"], row["slots"], row["pid"]) == ("left", 2, worker.pid)
    shown = console.run("main", "status", COLUMNS="100").stdout
    assert "cluster lab" in shown
    assert ", last commit " in shown
    assert "left" in shown
    assert all(len(line) <= 100 for line in shown.splitlines())
    for process in (worker, scheduler):
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    assert saved(console.folder) == []


@pytest.mark.parametrize("way", ["stdin", "file", "variable"])
def test_a_worker_joins_by_join_string(console: Console, tmp_path: Path, way: str) -> None:
    _, joins = console.scheduler()
    join = joins["worker"]
    elsewhere = Console(tmp_path / "elsewhere", console._stack)
    file = tmp_path / "join"
    file.write_text(join)
    worker = {
        "stdin": lambda: elsewhere.start("worker", "--join", "-", "--slots", "1", stdin=join + "\n"),
        "file": lambda: elsewhere.start("worker", "--join", str(file), "--slots", "1"),
        "variable": lambda: elsewhere.start("worker", "--slots", "1", DISTCOMP_JOIN=join),
    }[way]()
    until(lambda: console.status()["totals"]["workers"] == 1, "the worker registers")
    assert join not in _command_lines(family(worker.pid))


def _command_lines(pids: list[int]) -> str:
    return "\n".join(map(command_line, pids))


def test_join_saves_a_private_file_with_which_status_works(console: Console, tmp_path: Path) -> None:
    _, joins = console.scheduler("--name", "lab")
    elsewhere = Console(tmp_path / "elsewhere", console._stack)
    done = elsewhere.run("main", "join", "-", stdin=joins["observer"] + "\n")
    assert done.returncode == 0, done.stderr
    (path,) = saved(elsewhere.folder)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Access.read(path).cluster_name == "lab"
    assert elsewhere.status()["cluster"] == "lab"


@pytest.mark.parametrize("text", ["", "nonsense", "distcomp-join-1.abcdef"])
def test_join_refuses_what_is_no_join_string(console: Console, text: str) -> None:
    done = console.run("main", "join", "-", stdin=text + "\n")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "join string" in done.stderr


def test_a_cut_join_string_is_told_as_such(console: Console) -> None:
    _, joins = console.scheduler()
    done = console.run("main", "join", "-", stdin=joins["client"][:-7] + "\n")
    assert done.returncode == 2
    assert "not whole" in done.stderr


def test_access_shows_and_creates_join_strings(console: Console) -> None:
    former, _ = console.scheduler("--name", "former")
    former.send_signal(signal.SIGTERM)
    assert former.wait(DEADLINE_S) == 0
    _, joins = console.scheduler("--name", "lab")
    shown = console.run("main", "access", "show", "--role", "worker")
    assert shown.stdout.strip() == joins["worker"]
    assert console.run("main", "access", "show", "--owner", "bob").returncode == 2
    created = console.run("main", "access", "create", "--owner", "bob", "--role", "observer")
    access = Access.parse(created.stdout)
    assert (access.owner, access.role) == ("bob", "observer")
    assert console.run("main", "access", "create", "--owner", "bob").returncode == 2
    elsewhere = Console(console.folder.parent / "bob", console._stack)
    assert elsewhere.run("main", "join", "-", stdin=created.stdout).returncode == 0
    assert elsewhere.status()["cluster"] == "lab"


def test_a_restarted_scheduler_takes_old_join_strings(console: Console) -> None:
    scheduler, joins = console.scheduler("--name", "lab")
    port = Access.parse(joins["worker"]).addresses[0].rpartition(":")[2]
    scheduler.send_signal(signal.SIGINT)
    assert scheduler.wait(DEADLINE_S) == 0
    again = console.start("scheduler", "--port", port, "--name", "lab")
    assert again.stdout is not None
    again.stdout.readline()
    console.start("worker", "--join", "-", "--slots", "1", stdin=joins["worker"] + "\n")
    until(lambda: console.status()["totals"]["workers"] == 1, "the worker registers")


def test_local_slots_bring_a_worker_that_goes_with_its_scheduler(console: Console) -> None:
    scheduler, _ = console.scheduler("--local-slots", "2")
    until(lambda: console.status()["totals"]["slots"] == 2, "the local worker registers")
    theirs = family(scheduler.pid)
    scheduler.send_signal(signal.SIGTERM)
    assert scheduler.wait(DEADLINE_S) == 0
    until(lambda: not any(map(alive, theirs)), "the worker and its slots have ended")


def test_a_local_worker_goes_even_if_its_scheduler_is_killed(console: Console) -> None:
    scheduler, _ = console.scheduler("--local-slots", "1")
    until(lambda: console.status()["totals"]["workers"] == 1, "the local worker registers")
    theirs = family(scheduler.pid)
    assert len(theirs) > 1
    scheduler.kill()
    until(lambda: not any(map(alive, theirs)), "the worker and its slots end")


def test_a_taken_port_is_one_line(console: Console) -> None:
    _, joins = console.scheduler()
    port = Access.parse(joins["client"]).addresses[0].rpartition(":")[2]
    done = console.run("scheduler", "--port", port)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"port {port}" in done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--host", EVERYWHERE], "--allow-plaintext"),
        (["--host", EVERYWHERE, "--no-auth", "--allow-plaintext"], "authentication"),
        (["--port", "66000"], "66000"),
        (["--heartbeat-s", "soon"], "--heartbeat-s"),
        (["--local-slots", "none"], "--local-slots"),
        (["--name", "a/b"], "a/b"),
    ],
)
def test_a_scheduler_that_cannot_be_started_as_told_says_so(
    console: Console, flags: list[str], words: str
) -> None:
    done = console.run("scheduler", "--port", "0", *flags)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_a_scheduler_without_auth_says_so_everywhere(console: Console) -> None:
    process = console.start("scheduler", "--port", "0", "--no-auth", "--quiet")
    assert process.stdout is not None
    address = process.stdout.readline().split()[-1]
    assert "AUTH OFF" in process.stdout.readline()
    elsewhere = Console(console.folder.parent / "elsewhere", console._stack)
    done = elsewhere.run("main", "status", "--address", address)
    assert "AUTH OFF" in done.stdout


def test_auth_off_is_red_on_a_terminal(console: Console) -> None:
    process = console.start("scheduler", "--port", "0", "--no-auth", "--quiet")
    assert process.stdout is not None
    process.stdout.readline()
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "distcomp.cli.main", "status"]
    shown = subprocess.Popen(command, env=console.environment(TERM="xterm"), stdout=theirs)
    os.close(theirs)
    text = b""
    try:
        while part := os.read(ours, 4096):
            text += part
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(ours)
    assert shown.wait(DEADLINE_S) == 0
    assert b"\x1b[1;31mAUTH OFF\x1b[0m" in text


def test_a_wrong_secret_ends_a_worker_at_once(console: Console) -> None:
    _, joins = console.scheduler()
    access = Access.parse(joins["worker"])
    forged = Access(**{**vars(access), "secret": bytes(32)}).to_join()
    done = console.run("worker", "--join", "-", "--slots", "1", stdin=forged + "\n")
    assert done.returncode == 3
    assert "secret" in done.stderr.splitlines()[-1]


def test_a_join_string_of_another_role_ends_a_worker_at_once(console: Console) -> None:
    _, joins = console.scheduler()
    done = console.run("worker", "--join", "-", "--slots", "1", stdin=joins["client"] + "\n")
    assert done.returncode == 2
    assert "for the role client" in done.stderr.splitlines()[-1]


def test_a_worker_waits_for_its_scheduler(console: Console) -> None:
    scheduler, joins = console.scheduler("--name", "lab")
    port = Access.parse(joins["worker"]).addresses[0].rpartition(":")[2]
    scheduler.kill()
    scheduler.wait(DEADLINE_S)
    worker = console.start("worker", "--join", "-", "--slots", "1", stdin=joins["worker"] + "\n")
    assert worker.stderr is not None
    assert "warning" in worker.stderr.readline()
    again = console.start("scheduler", "--port", port, "--name", "lab")
    assert again.stdout is not None
    again.stdout.readline()
    until(lambda: console.status()["totals"]["workers"] == 1, "the worker registers")


def test_status_without_a_scheduler_says_what_to_do(console: Console) -> None:
    done = console.run("main", "status")
    assert done.returncode == 2
    assert "distcomp join" in done.stderr
    scheduler, _ = console.scheduler()
    scheduler.kill()
    scheduler.wait(DEADLINE_S)
    done = console.run("main", "status")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1


def test_two_running_schedulers_are_listed(console: Console) -> None:
    console.scheduler("--name", "one")
    console.scheduler("--name", "two")
    done = console.run("main", "status")
    assert done.returncode != 0
    assert "one" in done.stderr
    assert "two" in done.stderr


def test_secrets_stay_out_of_logs_and_status(console: Console) -> None:
    scheduler, joins = console.scheduler("--log-level", "debug", "--log-format", "json")
    worker = console.start("worker", "--slots", "1", "--log-level", "debug")
    until(lambda: console.status()["totals"]["workers"] == 1, "the worker registers")
    shown = console.run("main", "status", "--json").stdout
    for process in (worker, scheduler):
        process.send_signal(signal.SIGTERM)
        shown += process.communicate(timeout=DEADLINE_S)[1]
    secrets = [Access.parse(join).secret for join in joins.values()]
    assert not [secret for secret in secrets if secret is None or secret.hex() in shown]
    assert not [join for join in joins.values() if join in shown]


def test_help_and_version(console: Console) -> None:
    for program in ("scheduler", "worker", "main"):
        done = console.run(program, "--help")
        assert done.returncode == 0
        assert "exit codes" in done.stdout
    for command in ("status", "demo", "join", "access", "version"):
        assert "DISTCOMP_" in console.run("main", command, "--help").stdout
    assert "protocol" in console.run("main", "version").stdout
    assert console.run("main", "frobnicate").returncode == 2
    assert console.run("main").returncode == 2


def test_the_demo_ends_right(console: Console) -> None:
    done = console.run("main", "demo", "--files", "60")
    assert done.returncode == 0, done.stderr
    assert "60 files" in done.stdout
    assert "speed-up" in done.stdout
    assert "left" in done.stdout


def test_the_demo_survives_a_killed_worker(console: Console) -> None:
    done = console.run("main", "demo", "--files", "120", "--kill")
    assert done.returncode == 0, done.stderr
    assert "killed midway" in done.stdout


def test_the_demo_uses_a_running_cluster(console: Console) -> None:
    _, joins = console.scheduler("--local-slots", "1")
    address = Access.parse(joins["client"]).addresses[0]
    done = console.run("main", "demo", "--files", "30", "--address", address)
    assert done.returncode == 0, done.stderr
    assert "local" in done.stdout
    assert console.run("main", "demo", "--kill", "--address", address).returncode == 2
