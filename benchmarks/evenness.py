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
from typing import TYPE_CHECKING

from clusters import running_cluster
from figures import Figure, show

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


def main() -> None:
    """Measure every case and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the median is shown")
    repeats = parser.parse_args().repeats
    tails = heavy_tailed()
    bound = max(sum(tails) / WORKERS, *tails)
    split = [0.0] * 5_000 + [0.002] * 1_000
    needles = [0.0] * 100_000
    for place in range(40):
        needles[50_000 + place] = 1.0

    def ratio(
        client: Client, lengths: Sequence[float], ideal: float, cost: Sequence[float] | None = None
    ) -> float:
        return statistics.median(makespan(client, lengths, cost) / ideal for _ in range(repeats))

    with running_cluster(workers=WORKERS, slots=1) as client:
        warm(client)
        short = [SHORT_S] * 1_000
        runs = [busy_spread(client, lambda: makespan(client, short)) for _ in range(repeats)]
        totals_before = client.status().totals
        figures = [
            Figure(
                "1,000 x 2 ms: makespan / ideal",
                statistics.median(run[0] for run in runs) / 0.5,
                "x",
                "<= 1.12",
                overshoot(),
                "sleep overshoot",
            ),
            Figure(
                "1,000 x 2 ms: busy seconds off the mean",
                100 * statistics.median(run[1] for run in runs),
                "%",
                "<= 5",
            ),
            Figure("64 heavy-tailed / greedy", ratio(client, tails, greedy(tails)), "x", "<= 1.02"),
            Figure("64 heavy-tailed, cost= / bound", ratio(client, tails, bound, tails), "x", "<= 1.03"),
            Figure(
                "half instant, half 2 ms / ideal", ratio(client, split, sum(split) / WORKERS), "x", "<= 1.10"
            ),
            Figure("100,000 instant, 40 x 1 s / ideal", ratio(client, needles, 10.0), "x", "<= 1.10"),
        ]
        totals = client.status().totals
        idle = totals.idle_while_queued_s - totals_before.idle_while_queued_s
        figures.append(
            Figure(
                "idle while queued, of slot time",
                100 * idle / (totals.slot_s - totals_before.slot_s),
                "%",
                "< 1",
            )
        )
        show("Evenness, four single-slot workers", figures)


if __name__ == "__main__":
    main()
