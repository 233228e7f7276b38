"""Two hosts on one machine: network namespaces with a host name, a home folder and an environment each."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"a": ("a.example", "10.77.0.1"), "b": ("b.example", "10.77.0.2")}


@dataclass
class Host:
    """One host: a process that holds its namespaces, and what was started on it."""

    name: str
    holder: int
    home: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, command: str, typed: str | None = None) -> subprocess.Popen[str]:
        """Start a shell command on this host, with `typed` and an end of file on its standard input."""
        process = subprocess.Popen(
            [
                *("nsenter", "--target", str(self.holder), "--net", "--uts", "--mount", "--"),
                *(
                    "env",
                    "-i",
                    f"HOME={self.home}",
                    f"PATH={self.home}/env/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                ),
                *("PYTHONUNBUFFERED=1", "LANG=C.UTF-8", "sh", "-c", f"cd '{self.home}' && exec {command}"),
            ],
            stdin=subprocess.PIPE if typed is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        if typed is not None:
            assert process.stdin is not None
            process.stdin.write(typed)
            process.stdin.close()
        return process

    def run(self, command: str, typed: str | None = None, timeout_s: float = 180.0) -> str:
        """Run a command to its end and give back what it printed; it must succeed."""
        process = self.start(command, typed)
        assert process.stdout is not None
        process.stdin = None
        output, _ = process.communicate(timeout=timeout_s)
        assert process.returncode == 0, f"{self.name}$ {command}\n{output}"
        return output

    def stop_all(self) -> None:
        """End, in reverse order, what still runs."""
        for process in reversed(self.started):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(timeout=60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            if process.stdout is not None:
                process.stdout.close()


def not_permitted() -> str:
    """Why namespaces cannot be had here, or nothing."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are a Linux thing"
    try:
        probe = subprocess.run(
            ["unshare", "--net", "--uts", "--mount", "ip", "link"], capture_output=True, check=False
        )
    except FileNotFoundError as error:
        return f"{error.filename} is not installed"
    return probe.stderr.decode().strip() if probe.returncode else ""


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """Hosts `a` and `b`, joined by one wire, distcomp installed on each in an environment of its own."""
    hosts_file = folder / "hosts"
    hosts_file.write_text("127.0.0.1 localhost\n" + "".join(f"{ip} {name}\n" for name, ip in NAMES.values()))
    with contextlib.ExitStack() as stack:
        hosts = {}
        for letter in NAMES:
            holder = subprocess.Popen(["unshare", "--net", "--uts", "--mount", "sleep", "infinity"])
            stack.callback(_end, holder)
            await_own_namespaces(holder.pid)
            hosts[letter] = Host(letter, holder.pid, folder / letter)
            hosts[letter].home.mkdir()
        _wire(hosts)
        for letter, (name, ip) in NAMES.items():
            _settle_in(hosts[letter], name, ip, hosts_file)
        installs = [_install(host) for host in hosts.values()]
        assert [install.wait() for install in installs] == [0, 0], "distcomp could not be installed"
        for host in hosts.values():
            stack.callback(host.stop_all)
        yield hosts["a"], hosts["b"]


def await_own_namespaces(pid: int) -> None:
    ours = Path("/proc/self/ns/net").readlink()
    deadline = time.monotonic() + 60
    while (
        Path(f"/proc/{pid}/ns/net").readlink() == ours or Path(f"/proc/{pid}/comm").read_text() != "sleep\n"
    ):
        assert time.monotonic() < deadline, "the namespaces did not come up"
        time.sleep(0.01)


def _wire(hosts: dict[str, Host]) -> None:
    tag = os.getpid() % 100_000
    ends = {letter: f"dc{tag}{letter}" for letter in hosts}
    _root("ip", "link", "add", ends["a"], "type", "veth", "peer", "name", ends["b"])
    for letter, host in hosts.items():
        _root("ip", "link", "set", ends[letter], "netns", str(host.holder), "name", "wire0")


def _settle_in(host: Host, name: str, ip: str, hosts_file: Path) -> None:
    inside = ("nsenter", "--target", str(host.holder), "--net", "--uts", "--mount")
    _root(*inside, "hostname", name)
    _root(*inside, "mount", "--bind", str(hosts_file), "/etc/hosts")
    _root(*inside, "ip", "link", "set", "lo", "up")
    _root(*inside, "ip", "address", "add", f"{ip}/24", "dev", "wire0")
    _root(*inside, "ip", "link", "set", "wire0", "up")


def _install(host: Host) -> subprocess.Popen[bytes]:
    pip = f"{sys.executable} -m pip --python {host.home}/env/bin/python --quiet --disable-pip-version-check"
    steps = f"{sys.executable} -m venv --without-pip {host.home}/env && {pip} install --no-compile {ROOT}"
    return subprocess.Popen(["sh", "-c", steps], stderr=subprocess.DEVNULL)


def _root(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
