"""What a restart costs: how many tasks and arrays a second come back from a journal, beside reading alone.

Each journal is written once and read again as a scheduler does at its start: decoded, replayed, and written
into its books. Reading alone decodes the same file and keeps nothing. Arrays that wait come back as records
that become arrays when they are looked up; the line where all are says what is put off by that.

Usage: python benchmarks/recovery.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from figures import Figure, show

from distcomp import records
from distcomp.config import SchedulerSettings
from distcomp.core.scheduler_state import SchedulerState
from distcomp.ids import ClusterId
from distcomp.journal import Journal
from distcomp.rows import TaskOptions, Versions
from distcomp.scheduler_memory import SchedulerMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLUSTER = ClusterId(b"b" * 16)
SESSION, WORKER, CODE = b"s" * 16, b"w" * 16, b"code"
FUNCTION = blake2b(CODE, digest_size=32).digest()
ARRAYS = 200_000
BULK = 10_000_000
CHUNK = 10_000
LEASES = ENDED = 100_000
COMMIT_RECORDS = 500
RECEIVED_AT_ONCE = 100


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


def ended() -> Iterator[records.Record]:
    """Arrays of one that ran to their end, whose results the client has."""
    for counter in range(ENDED):
        array, token = (SESSION, counter), (1, counter)
        yield accepted(counter)
        yield records.LeaseGranted(token, array, 0, 1, 1, WORKER)
        yield records.TasksEnded(array, token, counter + 1, ((0, 1),), ((0, 1, b"result %d" % counter),))
        if counter % RECEIVED_AT_ONCE == RECEIVED_AT_ONCE - 1:
            yield records.OutcomesReceived(SESSION, tuple(range(counter + 2 - RECEIVED_AT_ONCE, counter + 2)))


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


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector, and what other runs have left, out of a measurement."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def read_s(path: Path) -> float:
    """Seconds for decoding alone."""
    with uncollected():
        begin = time.perf_counter()
        journal = Journal(path, CLUSTER)
        for _ in journal.recovered:
            pass
        taken_s = time.perf_counter() - begin
        journal.close()
    return taken_s


def recover_s(path: Path, left: int, *, looked_up: bool) -> float:
    """Seconds for all that a scheduler does with it at its start; so many tasks are left."""
    with uncollected():
        begin = time.perf_counter()
        journal = Journal(path, CLUSTER)
        memory = SchedulerMemory(journal, lambda *_, **__: None)
        state = SchedulerState(SchedulerSettings(), memory.read(), "c", auth=True)
        memory.recall(state, time.monotonic())
        if looked_up:
            for session in state.books.sessions.values():
                list(session.arrays.values())
        taken_s = time.perf_counter() - begin
        journal.close()
    restored = memory.restored
    if restored is None or restored.pending + restored.leased != left:
        raise SystemExit(f"{restored} was restored of {left} tasks")
    return taken_s


class Story(NamedTuple):
    """What a journal tells: records about so many tasks, how many of them are left, and the rate wanted."""

    name: str
    told: Callable[[], Iterator[records.Record]]
    tasks: int
    left: int
    wanted: str = ""
    looked_up: bool = False


STORIES = [
    Story("one bulk array", bulk, BULK, BULK, ">= 1,000,000"),
    Story("arrays of one that wait", waiting, ARRAYS, ARRAYS, ">= 150,000"),
    Story("the same, all looked up", waiting, ARRAYS, ARRAYS, looked_up=True),
    Story("arrays of one under way", under_way, LEASES, LEASES),
    Story("arrays of one that ended", ended, ENDED, 0),
]


def figure(folder: Path, story: Story, repeats: int) -> Figure:
    """The rate of a recovery, and that of reading alone."""
    path = folder / story.name
    write(path, story.told())
    pairs = [(read_s(path), recover_s(path, story.left, looked_up=story.looked_up)) for _ in range(repeats)]
    reading = statistics.median(read for read, _ in pairs)
    whole = statistics.median(recovered for _, recovered in pairs)
    rates = story.tasks / whole, story.tasks / reading
    return Figure(story.name, rates[0], "tasks/s", story.wanted, rates[1], "reading alone")


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="runs of which the median is shown")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = [figure(folder, story, repeats) for story in STORIES]
    show("What comes back after a restart", figures)


if __name__ == "__main__":
    main()
