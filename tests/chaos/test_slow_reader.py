"""A client that reads nothing costs a bounded piece of memory, and nobody else's time.

`SLOW_READER_MIB` says how much waits for it: 256 in CI, 1024 in the long run.
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clusters import until

from distcomp import Client

if TYPE_CHECKING:
    from clusters import Programs

WAITING_BYTES = int(os.environ.get("SLOW_READER_MIB", "256")) << 20
RESULT_BYTES = 1 << 20
TASKS = WAITING_BYTES // RESULT_BYTES
NOT_SENT_BYTES = 16 << 20
"""What the slow client may have read before it was stopped, or as far as its window goes."""
MEMORY_BYTES = 64 << 20
"""What the scheduler may take besides what it took before."""
TRIPS = 100
SLACK_S = 0.005
"""What the middle of some round trips may be late on a machine that others use, too."""
END_S = 240.0
PATIENT = {"DISTCOMP_SILENCE_S": "600", "DISTCOMP_CLIENT_GRACE_S": "600"}
"""The slow client is not given up, however long the test takes."""


def same(value: int) -> int:
    return value


def median_trip_s(client: Client) -> float:
    """How long the middle one of some tasks took that ran one after the other."""
    took = []
    for number in range(TRIPS):
        began = time.perf_counter()
        assert client.submit(same, number).result() == number
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def trip_within(client: Client, most_s: float) -> float:
    """The same if it is at most so much, else 0: other programs may have had the machine meanwhile."""
    took_s = median_trip_s(client)
    return took_s if took_s <= most_s else 0.0


def memory_bytes(pid: int, name: str) -> int:
    """What a process has in memory now (`VmRSS`), or had at most since `forget_peak` (`VmHWM`)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) << 10


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


class SlowReader:
    """A process with tasks that wait for a file, and results that it does not take yet.

    It is `stopped`, or it is `silent`: it goes on, and acknowledges nothing.
    """

    def __init__(self, cluster: Programs, folder: Path, way: str) -> None:
        self._gate, self._told, self._way = folder / "gate", folder / "told", way
        script = Path(__file__).with_name("slow_reader.py")
        words = (str(self._gate), str(self._told) if way == "silent" else "")
        self.process = cluster.script(script, str(TASKS), str(RESULT_BYTES), *words)
        self._cluster = cluster
        until(lambda: "submitted" in self._said() or self.process.poll() is not None, "tasks are submitted")
        assert self.process.poll() is None, self._said()

    def _said(self) -> str:
        return self._cluster.said(self.process)

    def let_results_wait(self) -> None:
        if self._way == "stopped":
            self.process.send_signal(signal.SIGSTOP)
        self._gate.touch()

    def read_all(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self._told.touch()
        until(lambda: self.process.poll() is not None, "the slow client's end", END_S)
        assert f"right {TASKS}\n" in self._said(), self._said()


@pytest.mark.parametrize("way", ["stopped", "silent"])
def test_a_client_that_reads_nothing_costs_only_its_share(
    cluster: Programs, tmp_path: Path, way: str
) -> None:
    scheduler = cluster.scheduler("test", DISTCOMP_MAX_UNREAD_BYTES=str(2 * WAITING_BYTES), **PATIENT)
    cluster.worker(slots=2)
    with Client(cluster.access().addresses[0]) as client:
        client.wait_for_workers()
        median_trip_s(client)
        before_s = median_trip_s(client)
        slow = SlowReader(cluster, tmp_path, way)
        before_bytes = memory_bytes(scheduler.pid, "VmRSS")
        forget_peak(scheduler.pid)
        slow.let_results_wait()
        until(lambda: unread_bytes(client) >= WAITING_BYTES - NOT_SENT_BYTES, "all results wait", END_S)
        during_s = until(lambda: trip_within(client, 2 * before_s + SLACK_S), "others are as quick", END_S)
        waiting_bytes = memory_bytes(scheduler.pid, "VmHWM")
        slow.read_all()
        until(lambda: unread_bytes(client) == 0, "nothing waits")
        reading_bytes = memory_bytes(scheduler.pid, "VmHWM")
        until(lambda: client.status().totals.spilled_bytes == 0, "no file is left")
    grown_mib = (waiting_bytes - before_bytes) >> 20, (reading_bytes - before_bytes) >> 20
    times = f"{1e3 * before_s:.2f} ms before, {1e3 * during_s:.2f} ms during"
    sys.stdout.write(f"{way}: {grown_mib} MiB more while waiting and in all; round trips {times}\n")
    assert waiting_bytes <= before_bytes + MEMORY_BYTES
    assert reading_bytes <= before_bytes + MEMORY_BYTES


def unread_bytes(client: Client) -> int:
    return client.status().totals.unread_bytes
