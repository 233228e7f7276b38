"""A process that writes to a store is killed at any moment: what it was told is durable is there."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING

from distcomp.store import Store, StoredOutcome, SubmittedTask

if TYPE_CHECKING:
    from pathlib import Path

KILLS = int(os.environ.get("CHAOS_STORE_KILLS", "5"))
"""How often the process is killed; set the variable for more."""

WRITER = """
import hashlib, os, sys
from distcomp.config import StoreSettings
from distcomp.store import OutcomeToStore, Store, StoredFunction

function = StoredFunction("f", b"f", "", {})
store = Store(sys.argv[1], StoreSettings(store_file_bytes=2000, store_commit_bytes=4000))
first = int(sys.argv[2])

def tell(what, number):
    os.write(1, b"%s %d\\n" % (what, number))

number = first
while True:
    key = hashlib.sha256(b"%d" % number).digest()
    blob = key * (20 if number % 5 else 2000)
    places = "run", function, b"c" * 16, b"s" * 16, 1, number, [key]
    store.submitted(*places, lambda n=number: tell(b"submitted", n))
    store.received([(key, OutcomeToStore(function, blob))], lambda n=number: tell(b"received", n))
    number += 1
    while store.backlog_bytes > 100_000:
        pass
"""


def test_a_killed_process_leaves_all_that_was_durable_and_nothing_by_halves(tmp_path: Path) -> None:
    path, chance = tmp_path / "results.db", random.Random(4)  # noqa: S311 - it only decides when
    told: dict[str, set[int]] = {"submitted": set(), "received": set()}
    for kill in range(KILLS):
        lives = chance.randint(1, 200)
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, path, str(kill * 1_000_000)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            for number, line in enumerate(writer.stdout):
                if number == lives:
                    writer.kill()
                if line.endswith(b"\n"):
                    what, task = line.split()
                    told[what.decode()].add(int(task))
        check(path, told)


def check(path: Path, told: dict[str, set[int]]) -> None:
    """What is in the store is what was written; all that was told to be durable is there."""
    with Store(path) as store:
        tasks = list(store.outcomes("run"))
        found = store.find([task.key for task in tasks], "run")
    assert {task.place.task_index for task in tasks} >= told["submitted"]
    done = set()
    for task in tasks:
        outcome = found[task.key]
        if isinstance(outcome, StoredOutcome):
            done.add(task.place.task_index)
            assert outcome.blob == task.key * (20 if task.place.task_index % 5 else 2000)
        else:
            assert isinstance(outcome, SubmittedTask)
    assert done >= told["received"]
    assert told["received"]
