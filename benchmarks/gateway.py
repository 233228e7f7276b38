"""A client over HTTP beside one over TCP of the same cluster, named functions, and what a slow crowd costs.

Usage: python benchmarks/gateway.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import socket
import statistics
import threading
import time
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from clusters import gateway_of, running_cluster
from figures import Figure, show
from speed import BULK, bulk_map, nothing, rate, round_trips, submit_loop

from distcomp import Client
from distcomp.publishing import publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SUBMITS = 20_000
LARGE_BYTES = 32 << 20
CALLERS, CALLS = 32, 25
CROWD = 500
DRIP_S = 1.0


def echo_size(data: bytes) -> int:
    """Take much."""
    return len(data)


def megabytes_up(client: Client) -> float:
    """Megabytes a second that one large argument travels at."""
    return rate(LARGE_BYTES >> 20, lambda: client.submit(echo_size, bytes(LARGE_BYTES)).result())


def megabytes_down(client: Client) -> float:
    """The same for one large result."""
    return rate(LARGE_BYTES >> 20, lambda: client.submit(bytes, LARGE_BYTES).result())


def in_turn(repeats: int, *measures: Callable[[], list[float]]) -> list[list[float]]:
    """The medians of what each of some measures gives; they take turns, so that noise meets all of them."""
    runs: list[list[list[float]]] = [[] for _ in measures]
    for _ in range(repeats):
        for kept, measure in zip(runs, measures, strict=True):
            kept.append(measure())
    return [[statistics.median(column) for column in zip(*kept, strict=True)] for kept in runs]


def beside_tcp(direct: Client, over_http: Client, repeats: int) -> list[Figure]:
    """The figures of a client over HTTP."""

    def measure(client: Client) -> list[float]:
        return [
            rate(BULK, lambda: bulk_map(client)),
            rate(SUBMITS, lambda: submit_loop(client.submit, SUBMITS)),
            *(each / 1e3 for each in round_trips(client.submit)),
            megabytes_up(client),
            megabytes_down(client),
        ]

    tcp, web = in_turn(repeats, partial(measure, direct), partial(measure, over_http))
    rows = (
        ("bulk map of no-op tasks", "tasks/s", ">= 100,000"),
        ("loop of submit, own future each", "tasks/s", ""),
        ("round trip, median", "ms", "<= 5"),
        ("round trip, 99th percentile", "ms", ""),
        ("one large argument", "MB/s", ""),
        ("one large result", "MB/s", ""),
    )
    return [
        Figure(name, mine, unit, wanted, theirs, "TCP")
        for (name, unit, wanted), mine, theirs in zip(rows, web, tcp, strict=True)
    ]


def call_by_name(where: str, token: str, calls: int) -> list[float]:
    """Milliseconds of each of some calls of a published function, by one connection."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    times = []
    with contextlib.closing(http.client.HTTPConnection(where, timeout=60)) as connection:
        for number in range(calls):
            begin = time.perf_counter()
            body = json.dumps({"args": [number]})
            connection.request("POST", "/v1/functions/nothing/tasks?wait=30", body, headers)
            if json.load(connection.getresponse())["result"] != number:
                raise SystemExit("wrong results")
            times.append((time.perf_counter() - begin) * 1e3)
    return times


def many_call(where: str, token: str) -> list[float]:
    """Calls a second, and the median and 99th percentile of each in milliseconds, of many callers at once."""
    times: list[float] = []

    def call() -> None:
        times.extend(call_by_name(where, token, CALLS))

    callers = [threading.Thread(target=call) for _ in range(CALLERS)]
    begin = time.perf_counter()
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    return [len(times) / (time.perf_counter() - begin), *middle_and_worst(times)]


def middle_and_worst(times: list[float]) -> list[float]:
    """Median and 99th percentile."""
    return [statistics.median(times), statistics.quantiles(times, n=100)[98]]


def by_name(direct: Client, where: str, token: str, repeats: int) -> list[Figure]:
    """The figures of published functions."""
    one, tcp, many = in_turn(
        repeats,
        lambda: middle_and_worst(call_by_name(where, token, 200)),
        lambda: [each / 1e3 for each in round_trips(direct.submit)],
        lambda: many_call(where, token),
    )
    return [
        Figure("a call, median", one[0], "ms", "", tcp[0], "client over TCP"),
        Figure("a call, 99th percentile", one[1], "ms", "", tcp[1], "client over TCP"),
        Figure(f"{CALLERS} callers", many[0], "calls/s"),
        Figure(f"{CALLERS} callers, median", many[1], "ms"),
        Figure(f"{CALLERS} callers, 99th percentile", many[2], "ms"),
    ]


@contextlib.contextmanager
def crowd(where: str) -> Iterator[None]:
    """Many who send their requests byte by byte, and come again when they are cut off."""
    host, _, port = where.rpartition(":")
    over = threading.Event()
    slow: list[socket.socket] = []

    def come() -> socket.socket:
        made = socket.create_connection((host, int(port)))
        made.sendall(b"GET /healthz HTTP/1.1\r\nHost: ")
        return made

    def drip() -> None:
        while not over.wait(DRIP_S):
            for place, each in enumerate(slow):
                try:
                    each.sendall(b"a")
                except OSError:  # noqa: PERF203 - each may have been cut
                    each.close()
                    slow[place] = come()

    slow += [come() for _ in range(CROWD)]
    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        yield
    finally:
        over.set()
        dripping.join()
        for each in slow:
            each.close()


def among_slow_ones(over_http: Client, where: str, repeats: int) -> list[Figure]:
    """What others' slowness changes."""

    def measure() -> list[float]:
        return [each / 1e3 for each in round_trips(over_http.submit)]

    def crowded() -> list[float]:
        with crowd(where):
            return measure()

    alone, among = in_turn(repeats, measure, crowded)
    return [
        Figure("round trip, median", among[0], "ms", "<= 2 x", alone[0], "without them"),
        Figure("round trip, 99th percentile", among[1], "ms", "<= 2 x", alone[1], "without them"),
    ]


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
        where = urlsplit(address).netloc
        submit_loop(over_http.submit, 1_000)
        show("one client over HTTP, two slots", beside_tcp(direct, over_http, repeats))
        publish(nothing, gateway=address, token=token, project=False)
        show("published functions by JSON", by_name(direct, where, token, repeats))
        show(f"a client over HTTP among {CROWD} slow senders", among_slow_ones(over_http, where, repeats))


if __name__ == "__main__":
    main()
