"""What a restart costs: how many tasks and arrays a second come back from a journal, beside reading alone.

Each journal is written once and read again as a scheduler does at its start: decoded, replayed, and written
into its books. Reading alone decodes the same file and keeps nothing.

Usage: python benchmarks/recovery.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from figures import Figure, show

from distcomp import records
from distcomp.config import SchedulerSettings
from distcomp.core.scheduler_state import SchedulerState
from distcomp.ids import ClusterId
from distcomp.journal import Journal
from distcomp.rows import TaskOptions, Versions
from distcomp.scheduler_memory import SchedulerMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

CLUSTER = ClusterId(b"b" * 16)
SESSION, WORKER, CODE = b"s" * 16, b"w" * 16, b"code"
FUNCTION = blake2b(CODE, digest_size=32).digest()
ARRAYS = 200_000
BULK = 10_000_000
CHUNK = 10_000
LEASES = 100_000
COMMIT_RECORDS = 500


def beginning() -> Iterator[records.Record]:
    """A scheduler, a client and its function, and a worker."""
    versions = Versions("1", "3.12.1", "3")
    yield records.EpochBegan(1, 1.0, "1")
    yield records.WorkerCame(WORKER, "w", "h", 1, 2, versions)
    yield records.SessionBegan(SESSION, "ann", versions, "h", 1, "p", b"", 60.0)
    yield records.FunctionDefined(FUNCTION, "f", CODE)


def waiting() -> Iterator[records.Record]:
    """Arrays of one that wait: a loop of `submit`."""
    for counter in range(ARRAYS):
        yield accepted(counter)


def under_way() -> Iterator[records.Record]:
    """Arrays of one, each of them leased."""
    for counter in range(LEASES):
        yield accepted(counter)
        yield records.LeaseGranted((1, counter), (SESSION, counter), 0, 1, 1, WORKER)


def bulk() -> Iterator[records.Record]:
    """One array of many: a bulk `map`, in chunks."""
    options = TaskOptions()
    for start in range(0, BULK, CHUNK):
        arguments = b"arguments %d" % start
        yield records.TasksAccepted(
            (SESSION, 0), FUNCTION, options, start, CHUNK, start, arguments, last=start + CHUNK == BULK
        )


def accepted(counter: int) -> records.TasksAccepted:
    """A task that was submitted alone."""
    chunk = b"arguments %d" % counter
    return records.TasksAccepted((SESSION, counter), FUNCTION, TaskOptions(), 0, 1, 0, chunk, last=True)


def write(path: Path, told: Iterator[records.Record]) -> None:
    """Write a journal of these records, so many a commit."""
    journal = Journal(path, CLUSTER)
    list(journal.recovered)
    journal.start(
        lambda function, value: function(value), on_committed=ignore, on_full=ignore, on_failed=ignore
    )
    batch, some = 1, list(beginning())
    for record in told:
        some.append(record)
        if len(some) >= COMMIT_RECORDS:
            journal.append(batch, some)
            batch, some = batch + 1, []
    if some:
        journal.append(batch, some)
    journal.close()


def ignore(value: object) -> None:
    """Nothing goes wrong here that closing does not tell."""
    del value


def read_s(path: Path) -> float:
    """Seconds for decoding alone."""
    begin = time.perf_counter()
    journal = Journal(path, CLUSTER)
    for _ in journal.recovered:
        pass
    taken_s = time.perf_counter() - begin
    journal.close()
    return taken_s


def recover_s(path: Path, tasks: int) -> float:
    """Seconds for all that a scheduler does with it at its start."""
    begin = time.perf_counter()
    journal = Journal(path, CLUSTER)
    memory = SchedulerMemory(journal, lambda *_, **__: None)
    state = SchedulerState(SchedulerSettings(), memory.read(), "c", auth=True)
    memory.recall(state, time.monotonic())
    taken_s = time.perf_counter() - begin
    journal.close()
    restored = memory.restored
    if restored is None or restored.pending + restored.leased != tasks:
        raise SystemExit(f"{restored} was restored of {tasks} tasks")
    return taken_s


def figure(path: Path, repeats: int, told: Iterator[records.Record], tasks: int, wanted: str) -> Figure:
    """The rate of a recovery, and that of reading alone, of a journal at `path` with these records."""
    write(path, told)
    pairs = [(read_s(path), recover_s(path, tasks)) for _ in range(repeats)]
    reading = statistics.median(read for read, _ in pairs)
    whole = statistics.median(recovered for _, recovered in pairs)
    return Figure(path.name, tasks / whole, "tasks/s", wanted, tasks / reading, "reading alone")


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="runs of which the median is shown")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        show(
            "What comes back after a restart",
            [
                figure(folder / "one bulk array", repeats, bulk(), BULK, ">= 1,000,000"),
                figure(folder / "arrays of one that wait", repeats, waiting(), ARRAYS, ">= 150,000"),
                figure(folder / "arrays of one under way", repeats, under_way(), LEASES, ""),
            ],
        )


if __name__ == "__main__":
    main()
