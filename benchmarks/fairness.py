"""One task's round trip while others' work fills the cluster, beside the same round trip alone.

Usage: python benchmarks/fairness.py [--repeats 3]
"""

from __future__ import annotations

import argparse
import statistics
import time

from clusters import running_cluster
from figures import Figure, show

from distcomp import Client

ROUND_TRIPS = 200
PAYLOAD_BYTES = 1 << 30


def nothing(number: int) -> int:
    """Do nothing."""
    return number


def short(number: int) -> int:
    """Work for about half a millisecond."""
    end = time.perf_counter() + 0.0005
    while time.perf_counter() < end:
        pass
    return number


def size(data: bytes) -> int:
    """Take a large argument."""
    return len(data)


def round_trip_ms(client: Client) -> float:
    """Median milliseconds of one task at a time."""
    times = []
    for number in range(ROUND_TRIPS):
        begin = time.perf_counter()
        client.submit(nothing, number).result()
        times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times)


def main() -> None:
    """Measure alone, behind a million short tasks, and with a gibibyte of payload under way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the median is shown")
    repeats = parser.parse_args().repeats
    with running_cluster(workers=1, slots=2) as busy, Client() as other:
        round_trip_ms(other)
        alone = statistics.median(round_trip_ms(other) for _ in range(repeats))
        flood = busy.map(short, range(1_000_000))
        behind = statistics.median(round_trip_ms(other) for _ in range(repeats))
        flood.cancel()
        transfer = busy.submit(size, bytes(PAYLOAD_BYTES - 1024))
        during = round_trip_ms(other)
        if transfer.result() != PAYLOAD_BYTES - 1024:
            raise SystemExit("wrong result")
        show(
            "Fairness, two slots",
            [
                Figure("round trip behind a million 0.5 ms tasks", behind, "ms", "< 10x", alone, "alone"),
                Figure("round trip with 1 GiB under way", during, "ms", "< 10x", alone, "alone"),
            ],
        )


if __name__ == "__main__":
    main()
