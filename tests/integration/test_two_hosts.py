"""Two hosts, each with a network, a host name, a home folder and an environment of its own."""

from __future__ import annotations

import os
import re
import threading
from typing import TYPE_CHECKING, NamedTuple

import pytest
from clusters import until
from hosts import NAMES, ROOT, Host, not_permitted, two_hosts

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

PROGRAMS = ("distcomp-scheduler", "distcomp-worker")
"""What runs until it is stopped, and so is typed in a terminal of its own."""

JOIN = re.compile(r"^(\w+) +(distcomp-join-\S+)$", re.MULTILINE)
SHORT_SILENCE = "env DISTCOMP_SILENCE_S=1 DISTCOMP_HEARTBEAT_S=0.2 DISTCOMP_RECONNECT_GRACE_S=0.2"
WORK = """\
import os, sys, time
from distcomp import Client

def work(number, gate):
    while number > 9 and not os.path.exists(gate):
        time.sleep(0.01)
    return number

if __name__ == "__main__":
    print(sum(Client().map(work, range(40), sys.argv[1:] * 40)))
"""

LOOK = "from distcomp import Client; import socket; print({})"


class Line(NamedTuple):
    """What is typed on a host, and what the text shows as its answer."""

    host: str
    command: str
    answer: list[str]


class Terminal:
    """A program that runs on a host, and what it has printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.text = ""
        self.process = process
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def join_string(self, role: str) -> str:
        """The join string for a role, once it is printed."""
        until(lambda: role in self._joins(), f"a join string for the role {role} in {self.text!r}")
        return self._joins()[role]

    def close(self) -> None:
        """Wait for the last words of the stopped program."""
        self._reader.join()

    def _joins(self) -> dict[str, str]:
        return dict(JOIN.findall(self.text))

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.text += line


class Hosts:
    """Both hosts and their terminals."""

    def __init__(self, a: Host, b: Host) -> None:
        self.of = {"a": a, "b": b}
        self.terminals: list[Terminal] = []

    def open(self, host: str, command: str, typed: str | None = None) -> Terminal:
        """Start a program that runs until it is stopped."""
        self.terminals.append(Terminal(self.of[host].start(command, typed)))
        return self.terminals[-1]

    def run(self, host: str, command: str, typed: str | None = None) -> str:
        """Run a command to its end."""
        return self.of[host].run(command, typed)

    def look(self, host: str, expression: str) -> str:
        """Evaluate an expression with a client."""
        return self.run(host, f"python -c '{LOOK.format(expression)}'").strip()

    def close(self) -> None:
        """End what was started."""
        for each in self.terminals:
            each.process.terminate()
        for each in self.terminals:
            each.process.wait()
            each.close()
        for host in self.of.values():
            host.stop_all()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    """Two hosts; where namespaces are not permitted, their tests are skipped, except in CI."""
    reason = not_permitted()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(f"no namespaces: {reason}")
    if reason:
        pytest.skip(f"no namespaces: {reason}")
    with two_hosts(tmp_path_factory.mktemp("hosts")) as made:
        yield made


@pytest.fixture
def hosts(pair: tuple[Host, Host]) -> Iterator[Hosts]:
    made = Hosts(*pair)
    try:
        yield made
    finally:
        made.close()
        for terminal in made.terminals:
            print(terminal.process.args, terminal.text)  # noqa: T201 - shown where a test fails


def section(title: str) -> list[Line]:
    """The lines to type in a section of the README, in order."""
    text = (ROOT / "README.md").read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines: list[Line] = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            host, mark, command = line.partition("$ ")
            if mark and host in NAMES:
                lines.append(Line(host, command.partition("  #")[0], []))
            else:
                lines[-1].answer.append(line)
    return lines


def test_the_two_machines_of_the_readme_work_as_they_are_typed(hosts: Hosts) -> None:
    scheduler: Terminal | None = None
    for line in section("Two machines"):
        typed = None
        if line.command.endswith(" -"):
            assert scheduler is not None
            role = "worker" if line.command.startswith("distcomp-worker") else "client"
            typed = scheduler.join_string(role) + "\n"
        if line.command.startswith(PROGRAMS):
            terminal = hosts.open(line.host, line.command, typed)
            scheduler = scheduler or terminal
            continue
        shown = hosts.run(line.host, line.command, typed)
        missing = [answer for answer in line.answer if answer not in shown]
        assert not missing, f"{line.host}$ {line.command}\n{shown}"
    assert scheduler is not None
    assert hosts.look("b", "sorted({row.host for row in Client().workers()})") == "['b.example']"


def test_a_partition_costs_no_result_and_heals(hosts: Hosts, tmp_path: Path) -> None:
    scheduler = hosts.open(
        "a", f"{SHORT_SILENCE} distcomp-scheduler --host 0.0.0.0 --advertise a.example --allow-plaintext"
    )
    join = scheduler.join_string("worker") + "\n"
    for host in ("a", "b"):
        hosts.open(host, f"{SHORT_SILENCE} distcomp-worker --join - --slots 1", join)
    count = "len(Client().workers())"
    until(lambda: hosts.look("a", count) == "2", "both workers register")
    gate = tmp_path / "gate"
    (tmp_path / "work.py").write_text(WORK)
    client = hosts.open("a", f"{SHORT_SILENCE} python {tmp_path}/work.py {gate}")
    until(lambda: hosts.look("a", "Client().status().totals.settled > 4") == "True", "the work is under way")
    hosts.run("b", "ip link set wire0 down")
    gate.touch()
    client.process.wait(120)
    client.close()
    assert client.text.strip() == str(sum(range(40)))
    until(lambda: hosts.look("a", count) == "1", "the worker is missed")
    hosts.run("b", "ip link set wire0 up")
    until(lambda: hosts.look("a", count) == "2", "the worker is back")
