"""A thousand worlds, one a seed, and a large one. `simulator.world` says what is demanded of each.

A world that breaks a promise is named with the line that replays it, transcript and all.
"""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import pytest
from simulator.weather import FAULTS, LIVES, RARE, draw, draw_bulk
from simulator.world import World

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "1000"))
FIRST_SEED = int(os.environ.get("SIMULATION_FIRST_SEED", "0"))
BLOCK = 50
INVALID_AT_MOST = 0.2
"""The part of all worlds in which more faults found nothing to hurt than did. They prove nothing."""


class Outcome(NamedTuple):
    happened: Counter[str]
    lives: Counter[str]
    invalid: int
    broken: list[str]


def run_block(first: int) -> Outcome:
    """Run the worlds of neighbouring seeds; what is wrong with them comes as lines to read."""
    happened: Counter[str] = Counter()
    lives: Counter[str] = Counter()
    invalid = 0
    broken: list[str] = []
    for seed in range(first, first + BLOCK):
        world = World(draw(seed))
        try:
            world.run()
        except Exception as error:  # noqa: BLE001 - whatever a world does wrong is its finding
            broken.append(f"{type(error).__name__}: {error}\n    python tests/simulation/replay.py {seed}")
        happened += world.storm.happened
        lives += world.storm.lives
        invalid += not world.storm.is_proof
    return Outcome(happened, lives, invalid, broken)


def run_bulk() -> tuple[int, int]:
    """Run the large world; returns how many faults came about, and how many tasks began."""
    world = World(draw_bulk())
    world.run()
    return sum(world.storm.happened.values()), world.ledger.begun


@pytest.fixture(scope="module")
def results() -> tuple[list[Outcome], tuple[int, int]]:
    """All worlds, run on all cores; the large one takes longest, so it begins first."""
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        bulk = pool.submit(run_bulk)
        outcomes = list(pool.map(run_block, range(FIRST_SEED, FIRST_SEED + SEEDS, BLOCK)))
        return outcomes, bulk.result()


def test_a_thousand_worlds_keep_every_promise(results: tuple[list[Outcome], tuple[int, int]]) -> None:
    outcomes, _ = results
    broken = [line for outcome in outcomes for line in outcome.broken]
    if broken:
        pytest.fail("\n".join([f"{len(broken)} worlds broke a promise", *broken[:20]]), pytrace=False)


def test_enough_went_wrong_while_work_was_under_way(results: tuple[list[Outcome], tuple[int, int]]) -> None:
    outcomes, _ = results
    happened = sum((outcome.happened for outcome in outcomes), Counter())
    for kind in FAULTS:
        assert happened[kind] >= SEEDS // (200 if kind in RARE else 50), happened
    assert sum(outcome.invalid for outcome in outcomes) <= INVALID_AT_MOST * SEEDS


def test_processes_of_runs_were_killed_at_all_moments(
    results: tuple[list[Outcome], tuple[int, int]],
) -> None:
    outcomes, _ = results
    lives = sum((outcome.lives for outcome in outcomes), Counter())
    for what in LIVES:
        assert lives[what] >= SEEDS // 100, lives


def test_two_thousand_workers_and_a_million_tasks(results: tuple[list[Outcome], tuple[int, int]]) -> None:
    _, (faults, begun) = results
    assert faults >= 40
    assert begun >= 1_000_000
