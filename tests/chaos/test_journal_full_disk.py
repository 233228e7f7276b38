"""A disk that is full, or fails: nothing is lost by it, and room is all it takes to go on.

The journal of a real scheduler lies on a file system of 16 MiB, which a large file fills to the brim.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from clusters import Programs, until

from distcomp import Client
from distcomp.config import parse_address

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distcomp import Future

DISK_BYTES = 16 << 20

FAILING = """\
#!{python}
# The scheduler, with a file system on which nothing can be synced while {flag} is there.
import contextlib, sqlite3, sys
from pathlib import Path
import apsw
from distcomp.cli.scheduler import main
from distcomp.journal import Journal

class Disk(apsw.VFS):
    def __init__(self):
        super().__init__("failing", "")
    def xOpen(self, name, flags):
        return File(name, flags)

class File(apsw.VFSFile):
    def __init__(self, name, flags):
        super().__init__("", name, flags)
    def xSync(self, flags):
        if Path({flag!r}).exists():
            raise apsw.IOError("the disk is broken")
        super().xSync(flags)

class Connection:
    def __init__(self, path):
        self.inner = apsw.Connection(path, vfs="failing")
    in_transaction = property(lambda self: self.inner.in_transaction)
    def execute(self, statement, values=()):
        try:
            return list(self.inner.execute(statement, values))
        except apsw.Error as error:
            raise sqlite3.OperationalError(str(error)) from error
    def executemany(self, statement, values):
        self.inner.executemany(statement, values)
    def close(self):
        with contextlib.suppress(apsw.Error):
            self.inner.close()

disk = Disk()
Journal.__init__.__kwdefaults__["connect"] = Connection
sys.exit(main(sys.argv[3:]))
"""


class SmallDisk:
    """A file system in memory, with a file that takes what room is left.

    Attributes:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def leave(self, free_bytes: int) -> None:
        """Take all room but so much."""
        found = os.statvfs(self.folder)
        with self._ballast.open("wb") as file:
            file.write(bytes(found.f_bavail * found.f_frsize - free_bytes))

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            for size_bytes in (1 << 20, 1 << 12):
                while file.write(bytes(size_bytes)) == size_bytes:
                    pass

    def make_room(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        refusal = mounted.stderr.strip() if mounted.returncode else ""
    except FileNotFoundError as error:
        refusal = str(error)
    if refusal:
        assert not os.environ.get("CI"), f"the full disk has to be tested, and: {refusal}"
        pytest.skip(f"a small file system cannot be mounted here: {refusal}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def noted(ledger: Path, number: int, ballast: bytes = b"") -> int:
    """Note that the task has run."""
    del ballast
    with ledger.open("a") as file:
        file.write(f"{number}\n")
    return number * number


def held(ledger: Path, gate: Path, number: int) -> int:
    while not gate.exists():
        time.sleep(0.005)
    return noted(ledger, number)


def ran(ledger: Path) -> Counter[int]:
    return Counter(map(int, ledger.read_text().split())) if ledger.exists() else Counter()


def waited_in_vain(future: Future[int], capfd: pytest.CaptureFixture[str]) -> str:
    """What was said while a result was waited for that did not come."""
    with pytest.raises(TimeoutError):
        future.result(0.7)
    return capfd.readouterr().err


def test_a_full_disk_stops_promises_and_nothing_else(
    cluster: Programs,
    disk: SmallDisk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DISTCOMP_EXPLAIN_AFTER_S", "0.3")
    journal = disk.folder / "journal.db"
    scheduler = cluster.scheduler("test", "--journal", str(journal))
    cluster.worker()
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    with Client() as client:
        assert client.submit(noted, ledger, 0).result() == 0
        running = client.submit(held, ledger, gate, 1)
        until(running.running, "the task runs")
        disk.fill()
        more = [client.submit(noted, ledger, number, bytes(100_000)) for number in range(2, 52)]
        until(lambda: "the journal's disk is full" in cluster.said(scheduler), "the scheduler notices")
        late = client.map(noted, [ledger] * 100, range(52, 152))
        gate.touch()
        until(lambda: ran(ledger)[1], "running work goes on")
        told = f"still waiting: the scheduler's disk is full: free some room at {journal}"
        until(lambda: told in waited_in_vain(running, capfd), "the user is told")
        assert not late.done_count, "nothing is accepted, so nothing is run"
        disk.make_room()
        assert running.result() == 1
        assert [future.result() for future in more] == [number * number for number in range(2, 52)]
        assert list(late) == [number * number for number in range(52, 152)]
    assert set(ran(ledger).values()) == {1}
    assert "there is room on the disk again" in cluster.said(scheduler)


def test_what_does_not_fit_on_the_disk_holds_up_nobody_else(
    cluster: Programs,
    disk: SmallDisk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DISTCOMP_EXPLAIN_AFTER_S", "0.3")
    journal = disk.folder / "journal.db"
    scheduler = cluster.scheduler(
        "test", "--journal", str(journal), DISTCOMP_JOURNAL_WAITING_BYTES=str(8 << 20)
    )
    cluster.worker()
    ledger = tmp_path / "ledger"
    with Client() as concerned, Client() as other:
        assert other.submit(noted, ledger, 0).result() == 0
        disk.leave(7 << 20)
        large = concerned.submit(noted, ledger, 1, bytes(8 << 20))
        until(lambda: "something large does not fit on the disk" in cluster.said(scheduler), "it is noticed")
        more = [other.submit(noted, ledger, each, bytes(900 << 10)) for each in range(2, 8)]
        assert [each.result(timeout=60) for each in more] == [each**2 for each in range(2, 8)]
        assert concerned.submit(noted, ledger, 8).result() == 64
        told = "do not fit on the scheduler's disk: free some room at"
        until(lambda: told in waited_in_vain(large, capfd), "the user is told")
        disk.make_room()
        assert large.result() == 1
    assert set(ran(ledger).values()) == {1}
    assert "nothing waits for room on the disk any more" in cluster.said(scheduler)


def test_a_scheduler_does_not_start_on_a_full_disk_and_goes_on_when_there_is_room(
    cluster: Programs, disk: SmallDisk, tmp_path: Path
) -> None:
    journal = disk.folder / "journal.db"
    scheduler = cluster.scheduler("test", "--journal", str(journal))
    port = parse_address(cluster.access().addresses[0]).port
    ledger = tmp_path / "ledger"
    with Client() as client:
        futures = [client.submit(noted, ledger, number, bytes(20_000)) for number in range(50)]
        arrays = client._program._state.arrays
        until(lambda: sum(each.accepted for each in list(arrays.values())) == 50, "they are on the disk")
        scheduler.kill()
        scheduler.wait()
        disk.fill()
        flags = ("--quiet", "--port", str(port), "--name", "test", "--journal", str(journal))
        refused = cluster.start("scheduler", *flags)
        until(lambda: refused.poll() is not None, "it does not start")
        (line,) = cluster.said(refused).splitlines()
        assert refused.returncode == 1
        assert (
            line == f"distcomp-scheduler: there is no room for the journal {journal}: free some on its disk"
        )
        disk.make_room()
        again = cluster.start("scheduler", *flags)
        until(lambda: f"journal {journal}: recovered" in cluster.said(again), "it goes on")
        cluster.worker(join=cluster.access("worker").to_join())
        assert [future.result() for future in futures] == [number * number for number in range(50)]
    assert set(ran(ledger).values()) == {1}


def test_a_failed_sync_ends_the_scheduler_in_one_line_and_the_next_start_recovers(
    cluster: Programs, tmp_path: Path
) -> None:
    broken, python = tmp_path / "broken", tmp_path / "python"
    python.write_text(FAILING.format(python=sys.executable, flag=str(broken)))
    python.chmod(0o700)
    journal, ledger = tmp_path / "journal.db", tmp_path / "ledger"
    flags = ("--quiet", "--name", "test", "--journal", str(journal), "--port")
    scheduler = cluster.start("scheduler", *flags, "0", python=str(python))
    until(lambda: "nothing to recover" in cluster.said(scheduler) or scheduler.poll() is not None, "it is up")
    port = parse_address(cluster.access().addresses[0]).port
    cluster.worker()
    with Client() as client:
        assert client.submit(noted, ledger, 0).result() == 0
        broken.touch()
        futures = [client.submit(noted, ledger, number) for number in range(1, 20)]
        until(lambda: scheduler.poll() is not None, "it stops")
        assert scheduler.returncode == 1
        last = cluster.said(scheduler).splitlines()[-1]
        assert last.startswith(f"distcomp-scheduler: the journal {journal} cannot be written (SQLite says: ")
        assert "repair the disk, then start the scheduler again; it goes on from what is durable" in last
        assert "Traceback" not in cluster.said(scheduler)
        broken.unlink()
        cluster.scheduler("test", "--journal", str(journal), port=port)
        assert [future.result() for future in futures] == [number * number for number in range(1, 20)]
    assert set(ran(ledger)) == set(range(20))
