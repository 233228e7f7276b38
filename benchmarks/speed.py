"""Task rates, round trips, start-up and memory, two slots on two cores, beside a local process pool.

Usage: python benchmarks/speed.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusters import running_cluster
from figures import Figure, median_of, show

if TYPE_CHECKING:
    from collections.abc import Callable

    from distcomp import Client

SUBMITS = 50_000
POOL_SUBMITS = 5_000
BULK = 1_000_000
ROUND_TRIPS = 1_000
QUEUED = 1_000_000


def nothing(number: int) -> int:
    """Do nothing: the work of a task that measures everything around it."""
    return number


def nap(seconds: float) -> float:
    """Hold a slot."""
    time.sleep(seconds)
    return seconds


def rate(tasks: int, work: Callable[[], Any]) -> float:
    """Tasks per second of `work`."""
    begin = time.perf_counter()
    work()
    return tasks / (time.perf_counter() - begin)


def submit_loop(submit: Callable[..., Any], tasks: int) -> None:
    """Submit one by one, a future each, and read every result."""
    futures = [submit(nothing, number) for number in range(tasks)]
    if [future.result() for future in futures] != list(range(tasks)):
        raise SystemExit("wrong results")


def bulk_map(client: Client) -> None:
    """One map, every result read."""
    if sum(client.map(nothing, range(BULK))) != BULK * (BULK - 1) // 2:
        raise SystemExit("wrong results")


def round_trips(submit: Callable[..., Any]) -> tuple[float, float]:
    """Median and 99th percentile, in microseconds, of one task at a time."""
    times = []
    for number in range(ROUND_TRIPS):
        begin = time.perf_counter()
        submit(nothing, number).result()
        times.append((time.perf_counter() - begin) * 1e6)
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def of_script(source: str) -> float:
    """Seconds that a whole new interpreter needs for `source`."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", source], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def start_up(repeats: int) -> list[Figure]:
    """What a script waits for before its first result."""
    bare = median_of(repeats, lambda: of_script("pass"))
    imported = median_of(repeats, lambda: of_script("import distcomp"))
    all_names = median_of(repeats, lambda: of_script("from distcomp import Client, compute_this"))
    first = median_of(
        repeats,
        lambda: of_script("import distcomp\n@distcomp.compute_this\ndef f(x): return x\nf.compute(1)"),
    )
    return [
        Figure("import distcomp, over bare Python", (imported - bare) * 1e3, "ms", "<= 120"),
        Figure("  with Client and compute_this", (all_names - bare) * 1e3, "ms"),
        Figure("script with one embedded task, start to end", first, "s", "<= 0.8", bare, "bare Python"),
    ]


def scheduler_memory() -> Figure:
    """Bytes that a fresh scheduler holds per queued bulk task besides its payload, 5 bytes of pickle each."""
    with running_cluster(workers=1, slots=2) as client:
        pid = scheduler_pid()
        blockers = [client.submit(nap, 60.0) for _ in range(2)]
        before = resident_bytes(pid)
        array = client.map(nothing, list(range(100_000, 100_000 + QUEUED)))
        deadline = time.monotonic() + 20
        while client.status().totals.pending < QUEUED and time.monotonic() < deadline:
            time.sleep(0.05)
        pending = client.status().totals.pending
        grown = resident_bytes(pid) - before - 5 * pending
        array.cancel()
        client.cancel(blockers)
    return Figure(f"scheduler memory a queued task ({pending:,} queued)", grown / pending, "bytes", "<= 64")


def scheduler_pid() -> int:
    """The process id of the scheduler that this program started."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        words = entry.read_bytes().split(b"\0")
        parent = int((entry.parent / "stat").read_text().rpartition(")")[2].split()[1])
        if b"distcomp.cli.scheduler" in words and parent == int(Path("/proc/self").readlink().name):
            return int(entry.parent.name)
    raise SystemExit("no scheduler of ours is running")


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="runs of which the median is shown")
    repeats = parser.parse_args().repeats
    with ProcessPoolExecutor(2) as pool, running_cluster(workers=1, slots=2) as client:
        submit_loop(client.submit, 1_000)
        submit_loop(pool.submit, 1_000)
        loop = median_of(repeats, lambda: rate(SUBMITS, lambda: submit_loop(client.submit, SUBMITS)))
        pool_loop = median_of(
            repeats, lambda: rate(POOL_SUBMITS, lambda: submit_loop(pool.submit, POOL_SUBMITS))
        )
        bulk = median_of(repeats, lambda: rate(BULK, lambda: bulk_map(client)))
        pool_bulk = median_of(
            repeats, lambda: rate(BULK, lambda: list(pool.map(nothing, range(BULK), chunksize=1_000)))
        )
        trips = [round_trips(client.submit) for _ in range(repeats)]
        pool_trips = [round_trips(pool.submit) for _ in range(repeats)]
        middle, worst = (statistics.median(column) for column in zip(*trips, strict=True))
        pool_middle, pool_worst = (statistics.median(column) for column in zip(*pool_trips, strict=True))
        name = "ProcessPoolExecutor"
        show(
            "Speed, two slots",
            [
                Figure("submit loop", loop, "tasks/s", ">= 50,000", pool_loop, name),
                Figure("bulk map", bulk, "tasks/s", ">= 300,000", pool_bulk, f"{name}, chunks of 1,000"),
                Figure("round trip p50", middle, "us", "<= 500", pool_middle, name),
                Figure("round trip p99", worst, "us", "", pool_worst, name),
            ],
        )
    show("Start-up and memory", [*start_up(repeats), scheduler_memory()])


if __name__ == "__main__":
    main()
