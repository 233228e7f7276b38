"""How evenly work spreads over four single-slot workers; sleeps are the work.

Every makespan is set beside what is possible: the ideal, or a greedy scheduler without overhead that is
computed here for the same list. The sleeps' own overshoot is measured beside, because no scheduler can
be blamed for it.

Usage: python benchmarks/evenness.py [--repeats 3]
"""

from __future__ import annotations

import argparse
import heapq
import random
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

from clusters import running_cluster
from figures import Figure, median_of, show

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distcomp import Client

WORKERS = 4
SHORT_S = 0.002


def nap(seconds: float) -> float:
    """Sleep; the task of every case here."""
    if seconds:
        time.sleep(seconds)
    return seconds


def greedy(lengths: Sequence[float]) -> float:
    """Makespan of list scheduling without overhead (Graham, 1966)."""
    ends = [0.0] * WORKERS
    for length in lengths:
        heapq.heappush(ends, heapq.heappop(ends) + length)
    return max(ends)


def heavy_tailed() -> list[float]:
    """64 lengths, Pareto with exponent 1.5, scaled to 20 s in all, the longest held at 2 s."""
    source = random.Random(7)
    lengths = [source.paretovariate(1.5) for _ in range(64)]
    for _ in range(50):
        factor = 20.0 / sum(lengths)
        lengths = [min(2.0, length * factor) for length in lengths]
    return lengths


def overshoot() -> float:
    """How much longer than asked four sleepers sleep, as a ratio, for naps of 2 ms."""
    begin = time.perf_counter()
    for _ in range(200):
        time.sleep(SHORT_S)
    return (time.perf_counter() - begin) / (200 * SHORT_S)


def makespan(client: Client, lengths: Sequence[float], cost: Sequence[float] | None = None) -> float:
    """Seconds from the call to the last result."""
    begin = time.perf_counter()
    for _ in client.map(nap, list(lengths), cost=cost).as_completed():
        pass
    return time.perf_counter() - begin


def busy_spread(client: Client, work: Callable[[], float]) -> tuple[float, float]:
    """The makespan of `work`, and the largest distance of a worker's busy seconds from their mean."""
    before = {row.name: row.busy_s for row in client.status().workers}
    span = work()
    busy = [row.busy_s - before[row.name] for row in client.status().workers]
    mean = statistics.mean(busy)
    return span, max(abs(seconds - mean) for seconds in busy) / mean


def warm(client: Client) -> None:
    """Start every slot process before anything is measured."""
    client.gather([client.submit(nap, 0.05) for _ in range(2 * WORKERS)])


def pool_makespan(pool: ProcessPoolExecutor, lengths: Sequence[float]) -> float:
    """The same of a local process pool, without scheduler or network: what this machine allows today."""
    begin = time.perf_counter()
    for future in [pool.submit(nap, length) for length in lengths]:
        future.result()
    return time.perf_counter() - begin


def main() -> None:
    """Measure every case and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the median is shown")
    repeats = parser.parse_args().repeats
    short = [SHORT_S] * 1_000
    tails = heavy_tailed()
    halves = [0.0] * 500 + [0.02] * 500
    needles = [0.0] * 100_000
    needles[50_000:50_040] = [1.0] * 40
    bound = max(sum(tails) / WORKERS, *tails)
    with ProcessPoolExecutor(WORKERS) as pool, running_cluster(workers=WORKERS, slots=1) as client:
        warm(client)
        pool_makespan(pool, [0.05] * 2 * WORKERS)

        def ratio(lengths: Sequence[float], ideal: float, cost: Sequence[float] | None = None) -> float:
            return median_of(repeats, lambda: makespan(client, lengths, cost) / ideal)

        def pool_ratio(lengths: Sequence[float], ideal: float) -> float:
            return median_of(repeats, lambda: pool_makespan(pool, lengths) / ideal)

        before = client.status().totals
        runs = [busy_spread(client, lambda: makespan(client, short)) for _ in range(repeats)]
        span, spread = (statistics.median(column) for column in zip(*runs, strict=True))
        in_order, in_halves = greedy(tails), sum(halves) / WORKERS
        name = "ProcessPoolExecutor"
        figures = [
            Figure("1,000 x 2 ms / ideal", span / 0.5, "x", "<= 1.12", pool_ratio(short, 0.5), name),
            Figure("  a sleep of 2 ms / 2 ms", overshoot(), "x"),
            Figure("  busy seconds off the mean", 100 * spread, "%", "<= 5"),
            Figure(
                "64 heavy-tailed / greedy",
                ratio(tails, in_order),
                "x",
                "<= 1.02",
                pool_ratio(tails, in_order),
                name,
            ),
            Figure("64 heavy-tailed, cost= / bound", ratio(tails, bound, tails), "x", "<= 1.03"),
            Figure(
                "half instant, half 20 ms / ideal",
                ratio(halves, in_halves),
                "x",
                "<= 1.10",
                pool_ratio(halves, in_halves),
                name,
            ),
            Figure("100,000 instant, 40 x 1 s / ideal", ratio(needles, 10.0), "x", "<= 1.10"),
        ]
        after = client.status().totals
        idle = after.idle_while_queued_s - before.idle_while_queued_s
        share = 100 * idle / (after.slot_s - before.slot_s)
        show("Evenness, four single-slot workers", [*figures, Figure("idle while queued", share, "%", "< 1")])


if __name__ == "__main__":
    main()
