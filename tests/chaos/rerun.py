"""A script as users write it, with a store and a run, to be killed and run again: `python rerun.py PLAN`.

The plan is a file that names the store, the run, the ledger and the notes, and says how many tasks there are
and how long each lasts.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import chaos_work
from notes import NoteBook

from distcomp import Client


def main() -> None:
    """Compute what is missing, and note what there is."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    plan = json.loads(Path(sys.argv[1]).read_text())
    book, numbers = NoteBook(plan["notes"]), range(0, 2 * plan["tasks"], 2)
    ledgers, seconds = [plan["ledger"]] * len(numbers), [plan["seconds"]] * len(numbers)
    with Client(store=plan["store"]) as client:
        array = client.options(run=plan["run"]).map(chaos_work.step, ledgers, numbers, seconds)
        for number, value in zip(numbers, array, strict=True):
            book.got(number, value)
    book.done()


if __name__ == "__main__":
    main()
