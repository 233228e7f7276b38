"""Task rates and round trips of a client over HTTP, beside one over TCP of the same cluster.

Usage: python benchmarks/gateway.py [--repeats 5]
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from clusters import gateway_of, running_cluster
from figures import Figure, median_of, show
from speed import BULK, bulk_map, rate, round_trips, submit_loop

from distcomp import Client

if TYPE_CHECKING:
    from collections.abc import Callable

SUBMITS = 20_000
LARGE_BYTES = 32 << 20


def echo_size(data: bytes) -> int:
    """Take much."""
    return len(data)


def megabytes_up(client: Client) -> float:
    """Megabytes a second that one large argument travels at."""
    return rate(LARGE_BYTES >> 20, lambda: client.submit(echo_size, bytes(LARGE_BYTES)).result())


def megabytes_down(client: Client) -> float:
    """The same for one large result."""
    return rate(LARGE_BYTES >> 20, lambda: client.submit(bytes, LARGE_BYTES).result())


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="runs of which the median is shown")
    repeats = parser.parse_args().repeats
    with (
        running_cluster(workers=1, slots=2) as direct,
        gateway_of("bench") as (address, token),
        Client(address, token=token) as over_http,
    ):
        submit_loop(over_http.submit, 1_000)

        def figure(name: str, unit: str, wanted: str, measure: Callable[[Client], float]) -> Figure:
            tcp = median_of(repeats, lambda: measure(direct))
            return Figure(name, median_of(repeats, lambda: measure(over_http)), unit, wanted, tcp, "TCP")

        show(
            "one client over HTTP, two slots",
            [
                figure(
                    "bulk map of no-op tasks",
                    "tasks/s",
                    ">= 100,000",
                    lambda client: rate(BULK, lambda: bulk_map(client)),
                ),
                figure(
                    "loop of submit, own future each",
                    "tasks/s",
                    "",
                    lambda client: rate(SUBMITS, lambda: submit_loop(client.submit, SUBMITS)),
                ),
                figure(
                    "round trip, median",
                    "ms",
                    "<= 5",
                    lambda client: round_trips(client.submit)[0] / 1e3,
                ),
                figure(
                    "round trip, 99th percentile",
                    "ms",
                    "",
                    lambda client: round_trips(client.submit)[1] / 1e3,
                ),
                figure("one large argument", "MB/s", "", megabytes_up),
                figure("one large result", "MB/s", "", megabytes_down),
            ],
        )


if __name__ == "__main__":
    main()
