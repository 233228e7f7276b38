"""Programs started and ended as child processes by command line, and the embedded cluster made of them.

State law of `EmbeddedCluster`: *started* (both programs are running, or one has ended by itself) →
*closed* (both are reaped, every file of ours is closed). Only the process that started a cluster can
close it. Secrets reach a child by its standard input, whose end tells the child that its owner is gone;
a child also watches its owner's process, because a fork of the owner may hold that pipe open.
"""

from __future__ import annotations

import fcntl
import getpass
import hashlib
import json
import math
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from distcomp.config import as_name
from distcomp.errors import EmbeddedClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator

START_TIMEOUT_S = 20.0
CLOSE_TIMEOUT_S = 5.0
LAST_WORDS_BYTES = 4096
BACKLOG = 128
ROLES = ("client", "worker")

_BOOT = (
    "import sys; sys.path[:1] = [] if sys.path[0] == '' else sys.path[:1]; folder, name = sys.argv[1:3]; "
    "folder in sys.path or sys.path.append(folder); del sys.argv[1:3]; "
    "from importlib import import_module; sys.exit(import_module(name).main())"
)


def program_command(module: str, *flags: str) -> list[str]:
    """The command line that runs the `main` of one of our modules.

    It finds distcomp where this process found it, and does not look into the working folder, where a
    user's `random.py` may lie.

    Raises:
        EmbeddedClusterError: this Python does not know its own interpreter.
    """
    if not sys.executable:
        raise EmbeddedClusterError("this Python cannot name its interpreter (sys.executable is empty)")
    return [sys.executable, "-c", _BOOT, str(Path(__file__).parents[1]), module, *flags]


def usable_cores() -> int:
    """How many cores this process may keep busy: its affinity, and its control group's quota if less."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    granted = quota_cores(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(1, math.ceil(min(allowed, granted)))


def quota_cores(membership: Path, mount: Path) -> float:
    """Cores that the control groups of this process grant; infinite where nothing limits them.

    Args:
        membership: the file that lists the groups, as `/proc/self/cgroup` does.
        mount: where control groups are mounted.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return math.inf
    granted = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for folder in _group_folders(mount, controllers, path):
            granted = min(granted, _quota_of(folder))
    return granted


def _group_folders(mount: Path, controllers: str, path: str) -> Iterator[Path]:
    """The folder of a group and of all groups that it lies in; none if it is not about CPU time."""
    if controllers == "":
        root = mount
    elif "cpu" in controllers.split(","):
        root = mount / controllers if (mount / controllers).is_dir() else mount / "cpu"
    else:
        return
    group = root / path.strip("/")
    yield group
    while group != root:
        group = group.parent
        yield group


def _quota_of(folder: Path) -> float:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text()
        return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf  # no limit is set here, or none that this process may read


class Child:
    """One of our programs as a child process, given its settings by standard input.

    Args:
        name: how error texts call it.
        command: from `program_command`.
        settings: one JSON line of this goes to its standard input, which then stays open.
        pass_fds: open files that it inherits.
    """

    def __init__(
        self, name: str, command: list[str], settings: dict[str, Any], pass_fds: tuple[int, ...] = ()
    ) -> None:
        self.name = name
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        try:
            self.process = subprocess.Popen(  # noqa: S603 - the command is ours
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                pass_fds=pass_fds,
                start_new_session=True,
            )
        except BaseException:
            self._errors.close()
            raise
        self._tell(settings)

    def _tell(self, settings: dict[str, Any]) -> None:
        assert self.process.stdin is not None  # noqa: S101 - it was asked for above
        with suppress(BrokenPipeError):  # it has ended; whoever waits for it reads its last words
            self.process.stdin.write(json.dumps(settings).encode() + b"\n")
            self.process.stdin.flush()

    @property
    def ended(self) -> bool:
        """Whether the program has ended."""
        return self.process.poll() is not None

    def last_words(self) -> str:
        """How the program ended and what it last said on stderr."""
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - LAST_WORDS_BYTES))
        said = self._errors.read().decode(errors="replace").strip()
        code = self.process.poll()
        ending = "is running" if code is None else f"ended with exit code {code}"
        return f"the embedded {self.name} {ending}" + (f", saying: {said}" if said else "")

    def let_go(self) -> None:
        """Close its standard input, on which it ends by itself."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):  # it has ended, with settings unread
                self.process.stdin.close()

    def reap(self, deadline_at: float) -> None:
        """Wait for its end until `deadline_at` (monotonic), then kill it; close what belongs to it."""
        try:
            self.process.wait(max(0.0, deadline_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._errors.close()


class EmbeddedCluster:
    """A scheduler and a worker of this process's own, on this host, gone when this process is.

    Made by `start`. The user's main module is not run again, whatever it is.

    Attributes:
        address: where the scheduler listens; it can be dialled at once.
        cluster_id: 16 random bytes.
        cluster_name: for people.
        owner: the user that this process runs as.
        client_secret: 32 random bytes, for the role `client`.
    """

    cluster_name = "embedded"

    def __init__(self, listener: socket.socket, slots: int, journal: Path | None = None) -> None:
        self.address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        self.slots = slots
        self.cluster_id = os.urandom(16) if journal is None else _cluster_of(journal)
        self.owner = user_name()
        secrets = {role: os.urandom(32) for role in ROLES}
        self.client_secret = secrets["client"]
        self._owner_pid = os.getpid()
        self._children: list[Child] = []
        common = {
            "owner_pid": self._owner_pid,
            "owner": self.owner,
            "cluster_id": self.cluster_id.hex(),
            "cluster_name": self.cluster_name,
            "address": self.address,
        }
        try:
            shown = {role: secret.hex() for role, secret in secrets.items()}
            kept = None if journal is None else str(journal)
            mine = {"listen_fd": listener.fileno(), "secrets": shown, "journal": kept}
            self._spawn("scheduler", {**common, **mine})
            self._spawn("worker", {**common, "slots": slots, "secret": shown["worker"]})
        except BaseException:
            self.close()
            raise

    def _spawn(self, program: str, settings: dict[str, Any]) -> None:
        command = program_command(f"distcomp.cli.embedded_{program}")
        fds = (settings["listen_fd"],) if "listen_fd" in settings else ()
        self._children.append(Child(program, command, settings, fds))

    @classmethod
    def start(cls, slots: int | None = None, journal: Path | None = None) -> EmbeddedCluster:
        """Start both programs and return without waiting for them.

        Args:
            slots: how many tasks may run at a time; as many as cores may be used if None.
            journal: a file for what must outlive the scheduler; without one a restart forgets all tasks.

        Raises:
            EmbeddedClusterError: no child process can be started.

        Example:
            `cluster = EmbeddedCluster.start(); cluster.wait_ready(); …; cluster.close()`
        """
        try:
            with _loopback_listener() as listener:
                return cls(listener, slots or usable_cores(), journal)
        except OSError as error:
            raise EmbeddedClusterError(f"no embedded cluster can be started: {error}") from error

    @property
    def scheduler_pid(self) -> int:
        """The scheduler's process id."""
        return self._children[0].process.pid

    @property
    def worker_pid(self) -> int:
        """The worker's process id."""
        return self._children[1].process.pid

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until the scheduler serves and the worker is registered.

        Raises:
            EmbeddedClusterError: a program ended or took too long; the text has its last words, and the
                cluster is closed.
        """
        deadline_at = time.monotonic() + timeout_s
        try:
            with selectors.DefaultSelector() as selector:
                for child in self._children:
                    selector.register(child.process.stdout, selectors.EVENT_READ, child)  # type: ignore[arg-type]
                while selector.get_map():
                    ready = selector.select(max(0.0, deadline_at - time.monotonic()))
                    if not ready:
                        self._fail(f"not ready after {timeout_s} s")
                    for key, _ in ready:
                        selector.unregister(key.fileobj)
                        if not os.read(key.fd, 64):
                            key.data.process.wait(CLOSE_TIMEOUT_S)
                            self._fail("it did not start")
        except BaseException:
            self.close()
            raise

    def _fail(self, reason: str) -> None:
        words = "; ".join(child.last_words() for child in self._children)
        raise EmbeddedClusterError(f"no embedded cluster: {reason}: {words}")

    def failure(self) -> str | None:
        """What a program that ended by itself said; None while both run, and after `close`."""
        return next((child.last_words() for child in self._children if child.ended), None)

    def close(self) -> None:
        """End both programs and wait for them. Calling it again, or in a forked child, does nothing."""
        if os.getpid() != self._owner_pid:
            return
        children, self._children = self._children, []
        deadline_at = time.monotonic() + CLOSE_TIMEOUT_S
        for child in reversed(children):
            child.let_go()
        for child in reversed(children):
            child.reap(deadline_at)


def _cluster_of(journal: Path) -> bytes:
    """The cluster that a journal belongs to: the same one for whoever opens it at its place."""
    told = b"distcomp embedded cluster\0" + os.fsencode(journal.resolve())
    return hashlib.sha256(told).digest()[:16]


def _loopback_listener() -> socket.socket:
    """A listening socket on a free port of this host, above the numbers of the standard streams."""
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as made:
        return socket.socket(fileno=fcntl.fcntl(made.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))


def user_name() -> str:
    """The user that this process runs as; the user's number where it has no name."""
    try:
        return as_name(getpass.getuser())
    except (OSError, KeyError):
        return f"uid-{os.getuid()}"
