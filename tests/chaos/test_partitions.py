"""Networks that stop carrying anything, without a word, in one direction or both; with default settings."""

from __future__ import annotations

import contextlib
import math
import os
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
from clusters import Programs, programs, quickest, until
from faults import Fault
from harness import SCALE, Run
from hosts import not_permitted
from networks import Network, network

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOUND_S, BACK_S = 10.0, 6.0
BUSY_S = 1.5
"""How much longer both may take on a busy machine."""

WAYS = {
    "parted": {"hears": False, "speaks": False},
    "deaf": {"hears": False, "speaks": True},
    "dumb": {"hears": True, "speaks": False},
}
"""What becomes of the worker at each place."""


@pytest.fixture
def wires() -> Iterator[Network]:
    """A network; where none can be had, its tests are skipped, except in CI."""
    reason = not_permitted()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(f"no namespaces: {reason}")
    if reason:
        pytest.skip(f"no namespaces: {reason}")
    with network(["home", *WAYS]) as made:
        yield made


@pytest.fixture
def home(wires: Network, cluster: Programs) -> Iterator[Programs]:
    """Programs at home."""
    with programs(cluster.home, wires.inside("home")) as made:
        yield made


def test_silent_partitions_are_found_and_heal(home: Programs, wires: Network, tmp_path: Path) -> None:
    run, host = Run(home, tmp_path), wires.address("home")
    run.begin("--host", host, "--allow-plaintext", workers=1, slots=1)
    join = replace(home.access("worker"), addresses=(f"{host}:{run.port}",)).to_join()
    with contextlib.ExitStack() as stack:
        for place in WAYS:
            there = stack.enter_context(programs(tmp_path / place, wires.inside(place)))
            there.worker("--name", place, slots=1, join=join)
        run.await_workers(1 + len(WAYS))
        client = run.load(
            until=str(run.enough),
            block=50,
            lanes=2,
            seconds=0.05,
            once_block=4,
            once_seconds=0.05,
            single_s=0.1,
        )
        run.await_progress(20)
        rounds, wanted = math.ceil(SCALE), len(WAYS) * math.ceil(SCALE)
        assert quickest(lambda: part_and_heal(run, wires), BUSY_S, trials=3) <= BUSY_S
        more = partial(part_and_heal, run, wires)
        run.strike(more, rounds - 1, wanted=wanted, in_flight=30, repeats=True)
        run.end(client)
    evidence = run.evidence(may_fail=frozenset({"TaskLostError"}))
    figures = run.check(evidence, faults=wanted, in_flight=30)
    assert figures.repeated > 0


def part_and_heal(run: Run, wires: Network) -> float:
    """Make all partitions at once, wait until all are found and their workers lost, and mend them.

    Returns:
        How much later they were found, or their workers back, than is promised, in seconds; those
        for which the machine stood still do not count.
    """
    begun_at = at = time.monotonic()
    said = len(run.said())
    for place, senses in WAYS.items():
        wires.part(place, **senses)
    found = delays_s(run, {wires.address(place): "connection ended" for place in WAYS}, said, at)
    delays_s(run, dict.fromkeys(WAYS, "worker lost"), said, at)
    run.faults += [Fault(f"partition {place}", at, time.monotonic()) for place in WAYS]
    at, said = time.monotonic(), len(run.said())
    for place in WAYS:
        wires.part(place, hears=True, speaks=True)
    back = delays_s(run, dict.fromkeys(WAYS, "worker registered"), said, at)
    print(f"found {found}, back {back}")  # noqa: T201 - figures for people
    late_s = max(max(found.values()) - FOUND_S, max(back.values()) - BACK_S)
    return late_s - run.standstill_s(begun_at)


def delays_s(run: Run, awaited: dict[str, str], said: int, since: float) -> dict[str, float]:
    """How long it takes until the scheduler says of each name what is awaited of it."""
    found: dict[str, float] = {}

    def look() -> bool:
        lines = run.said()[said:].splitlines()
        for name, words in awaited.items():
            if name not in found and any(words in line and name in line for line in lines):
                found[name] = round(time.monotonic() - since, 2)
        return len(found) == len(awaited)

    until(look, f"the scheduler says {awaited}")
    return found
