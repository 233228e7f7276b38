"""What a journal costs: rates and round trips with it and without it, its size, and its own speed.

Two clusters run at the same time, one of them without a journal; what is compared is measured in turn.

Usage: python benchmarks/journal.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clusters import running_cluster
from figures import Figure, show
from speed import BULK, SUBMITS, bulk_map, rate, round_trips, submit_loop

from distcomp.access import SchedulerAccess
from distcomp.ids import ClusterId
from distcomp.journal import Journal
from distcomp.records import EpochBegan, LeaseGranted, TasksAccepted, TasksEnded

if TYPE_CHECKING:
    from collections.abc import Callable

    from distcomp import Client

SYNCS = 200
COMMITS = 200
RECORDS = 300_000
TURN_RECORDS = 100
CLUSTER = ClusterId(b"b" * 16)


class Contest(NamedTuple):
    """What was measured with a journal and without, repeat by repeat."""

    on: list[float]
    off: list[float]

    @property
    def kept(self) -> float:
        """The median share of what is reached without a journal."""
        return statistics.median(on / off for on, off in zip(self.on, self.off, strict=True))

    def figure(self, name: str) -> Figure:
        """The rate with a journal, beside that without."""
        return Figure(name, statistics.median(self.on), "tasks/s", "", statistics.median(self.off), "off")


def in_turn(repeats: int, clients: tuple[Client, Client], measure: Callable[[Client], float]) -> Contest:
    """Measure with the first client, which has a journal, and the second, alternately."""
    contest = Contest([], [])
    for number in range(repeats):
        pairs = list(zip(clients, contest, strict=True))
        for client, values in pairs if number % 2 else reversed(pairs):
            values.append(measure(client))
    return contest


def sync_us(folder: Path) -> float:
    """The median of writing a page and having it durable, in microseconds."""
    times = []
    descriptor = os.open(folder / "synced", os.O_CREAT | os.O_WRONLY)
    for number in range(SYNCS):
        begin = time.perf_counter()
        os.pwrite(descriptor, bytes(4096), number * 4096)
        os.fdatasync(descriptor)
        times.append((time.perf_counter() - begin) * 1e6)
    os.close(descriptor)
    return statistics.median(times)


class Alone:
    """A journal without a scheduler, whose commits are waited for."""

    def __init__(self, path: Path) -> None:
        self.journal = Journal(path, CLUSTER)
        list(self.journal.recovered)
        self._told = threading.Condition()
        self._last = 0
        self.journal.start(
            lambda function, value: function(value),
            on_committed=self._on_committed,
            on_full=self._fail,
            on_failed=self._fail,
        )

    def _on_committed(self, batch: int) -> None:
        with self._told:
            self._last = batch
            self._told.notify()

    def _fail(self, error: object) -> None:
        raise SystemExit(f"the journal failed: {error}")

    def wait(self, batch: int) -> None:
        """Wait until a batch is durable."""
        with self._told:
            self._told.wait_for(lambda: self._last >= batch)


def commit_us(writer: Alone, first: int, pause_us: float = 0) -> float:
    """The median of one commit after another, or each after a pause, in microseconds."""
    times = []
    for batch in range(first, first + COMMITS):
        time.sleep(pause_us / 1e6)
        begin = time.perf_counter()
        writer.journal.append(batch, [EpochBegan(batch, 1.0, "1")])
        writer.wait(batch)
        times.append((time.perf_counter() - begin) * 1e6)
    return statistics.median(times)


def alone(folder: Path, pause_us: float) -> tuple[float, float, float, float]:
    """Microseconds for one commit, and after a pause; records a second written durably, and read back."""
    path = folder / "alone.db"
    writer = Alone(path)
    commit, paced = commit_us(writer, 1), commit_us(writer, COMMITS + 1, pause_us)
    array, worker = (b"s" * 16, 1), b"w" * 16
    turns = [
        [LeaseGranted((1, number), array, 0, 1, 1, worker) for number in range(TURN_RECORDS)]
        for _ in range(RECORDS // TURN_RECORDS)
    ]
    begin = time.perf_counter()
    for batch, records in enumerate(turns, start=2 * COMMITS + 1):
        writer.journal.append(batch, records)
    writer.wait(2 * COMMITS + len(turns))
    written = RECORDS / (time.perf_counter() - begin)
    writer.journal.close()
    begin = time.perf_counter()
    again = Journal(path, CLUSTER)
    for _ in again.recovered:
        pass
    read = again.recovered.records / (time.perf_counter() - begin)
    again.close()
    return commit, paced, written, read


def overhead_bytes(folder: Path) -> tuple[float, float]:
    """Bytes a bulk task in a journal that was closed: beside arguments and results, and these."""
    path = folder / "size.db"
    with running_cluster(1, 2, "--journal", str(path)) as client:
        bulk_map(client)
        cluster = SchedulerAccess.open("bench").cluster_id
    journal = Journal(path, cluster)
    payload_bytes = tasks = 0
    for commit in journal.recovered:
        for record in commit.records:
            if isinstance(record, TasksAccepted):
                tasks += record.tasks
                payload_bytes += len(record.chunk)
            elif isinstance(record, TasksEnded):
                payload_bytes += sum(len(blob) for _, _, blob in record.runs)
    size_bytes = path.stat().st_size
    journal.close()
    if tasks != BULK:
        raise SystemExit(f"the journal tells of {tasks} tasks")
    return (size_bytes - payload_bytes) / tasks, payload_bytes / tasks


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="runs of which the median is shown")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            running_cluster(1, 2, "--journal", str(folder / "journal.db")) as on,
            running_cluster(1, 2, "--journal", "off") as off,
        ):
            clients = (on, off)
            for client in clients:
                submit_loop(client.submit, 1_000)
            loops = in_turn(repeats, clients, lambda c: rate(SUBMITS, lambda: submit_loop(c.submit, SUBMITS)))
            bulks = in_turn(repeats, clients, lambda c: rate(BULK, lambda: bulk_map(c)))
            trips = in_turn(repeats, clients, lambda c: round_trips(c.submit)[0])
            sync = sync_us(folder)
        trip_us = statistics.median(trips.off)
        commit, paced, written, read = alone(folder, trip_us / 2)
        grown = statistics.median(trips.on) - trip_us
        beside, payload = overhead_bytes(folder)
        show(
            "What a journal costs",
            [
                loops.figure("submit loop, journal on"),
                Figure("  kept", loops.kept * 100, "%", ">= 70"),
                bulks.figure("bulk map, journal on"),
                Figure("  kept", bulks.kept * 100, "%", ">= 70"),
                Figure("round trip p50 grows by", grown, "us", "", commit, "one commit alone"),
                Figure("  in commits one after another", grown / commit, ""),
                Figure("  in commits as far apart as in a round trip", grown / paced, "", "<= 2"),
                Figure("  one of these", paced, "us"),
                Figure("  fdatasync of a page", sync, "us", "", commit, "one commit alone"),
                Figure("journal a bulk task, beside payload", beside, "bytes", "<= 16", payload, "payload"),
                Figure("records written", written, "records/s"),
                Figure("records read", read, "records/s"),
            ],
        )


if __name__ == "__main__":
    main()
