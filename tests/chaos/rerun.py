"""A script as users write it, with a store and a run, to be killed and run again: `python rerun.py PLAN`.

The plan is a file that names the store, the run, the ledger and the notes, and says which file each task
waits for, how long it lasts then, and how long the store's disk takes for a commit.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chaos_work
from notes import NoteBook

from distcomp import Client
from distcomp.store_writer import Commit

if TYPE_CHECKING:
    from collections.abc import Sequence


def write_slowly(disk_s: float) -> None:
    """Have the store's commits wait before they are written."""
    write_now = Commit.write

    def write_late(commit: Commit, group: Sequence[Any]) -> None:
        time.sleep(disk_s)
        write_now(commit, group)

    Commit.write = write_late  # type: ignore[method-assign] # on purpose: a slow disk


def main() -> None:
    """Compute what is missing, and note what there is."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    plan = json.loads(Path(sys.argv[1]).read_text())
    write_slowly(plan["disk_s"])
    book, numbers = NoteBook(plan["notes"]), range(0, 2 * len(plan["gates"]), 2)
    ledgers, seconds = [plan["ledger"]] * len(numbers), [plan["seconds"]] * len(numbers)
    with Client(store=plan["store"]) as client:
        array = client.options(run=plan["run"]).map(
            chaos_work.step_behind, ledgers, numbers, seconds, plan["gates"]
        )
        for number, value in zip(numbers, array, strict=True):
            book.got(number, value)
    book.done()


if __name__ == "__main__":
    main()
