"""Script, scheduler and workers are killed at once; the same script, run again, computes what is missing."""

from __future__ import annotations

import contextlib
import json
import math
import time
from typing import TYPE_CHECKING

import pytest
from chaos_work import value_of
from checker import Evidence
from clusters import until
from faults import FaultsMissedError
from harness import END_S, FOLDER, SCALE, Run
from ledger import read_ledger
from notes import read_notes

from distcomp.errors import UnknownRunError
from distcomp.store import Store

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from clusters import Programs

NAME = "everything"
TASKS = 240
SECONDS = 0.1
DISK_S = 0.7
"""How long the store's disk takes: what is let go of before it is there is lost."""

LIVES = 1 + math.ceil(SCALE)
PARTS = LIVES + 1
"""Of the tasks; before the last of its lives the script cannot come to its end."""


class Script:
    """A script that is run again and again, and what is known of it.

    Args:
        run: where its programs are.
        folder: for its store.
    """

    def __init__(self, run: Run, folder: Path) -> None:
        self._run = run
        self._store = folder / "results.db"
        self._notes = folder / "script-notes"
        self._plan = folder / "script-plan.json"
        self._gates = [folder / f"gate-{part}" for part in range(PARTS)]
        gates = [self._gates[index * PARTS // TASKS] for index in range(TASKS)]
        plan = {"store": self._store, "run": NAME, "ledger": run.ledger, "notes": self._notes}
        self._plan.write_text(
            json.dumps({**plan, "gates": gates, "seconds": SECONDS, "disk_s": DISK_S}, default=str)
        )

    def start(self, parts: int = PARTS) -> subprocess.Popen[str]:
        """Run it, without what an earlier run of it has noted, so that so many parts can end."""
        for gate in self._gates[:parts]:
            gate.touch()
        self._notes.unlink(missing_ok=True)
        return self._run.cluster.script(FOLDER / "rerun.py", str(self._plan))

    def await_results(self, count: int) -> None:
        """Wait until it has so many, and some are on its disk."""
        until(lambda: len(read_notes(self._notes).got) >= count, f"{count} results")
        until(self.stored, "a result is on the disk")

    def stored(self) -> int:
        """How many results are on its disk."""
        with Store(self._store) as store, contextlib.suppress(UnknownRunError):
            return store.run(NAME).done
        return 0

    def check(self) -> None:
        """Demand that it came to its end with a result for each task, each the right one."""
        notes = read_notes(self._notes)
        assert notes.done
        assert {got.number: got.value for got in notes.got} == {
            number: value_of(number) for number in range(0, 2 * TASKS, 2)
        }


def computed_again(run: Run) -> set[int]:
    """The tasks that ended well before everything died, and began again after that."""
    found = set()
    unwritten_s = Evidence.unwritten_s + run.standstill_s()
    for number, some in read_ledger(run.ledger).items():
        ended_at = min((each.ended_at for each in some if each.ended_at), default=math.inf)
        if any(ended_at < death.at - unwritten_s < some[-1].began_at for death in run.faults):
            found.add(number)
    return found


def begun_since(run: Run, at: float) -> set[int]:
    """The tasks that have begun after a moment."""
    return {number for number, some in read_ledger(run.ledger).items() if some[-1].began_at > at}


@pytest.mark.parametrize("is_fresh", [False, True], ids=["journal left", "store only"])
def test_what_is_missing_is_computed_and_nothing_else(
    cluster: Programs, tmp_path: Path, *, is_fresh: bool
) -> None:
    run = Run(cluster, tmp_path)
    run.begin(workers=2, DISTCOMP_RESTART_GRACE_S="0.5")
    script = Script(run, tmp_path)
    for life in range(LIVES - 1):
        process = script.start(life + 2)
        script.await_results((life + 1) * TASKS // PARTS)
        run.kill_everything(process)
        died_at, stored = time.monotonic(), script.stored()
        if not 0 < stored < TASKS:
            raise FaultsMissedError(f"{stored} of {TASKS} results were on the disk")
        run.start_everything_again(*["--fresh"] * is_fresh)
    process = script.start()
    assert process.wait(END_S) == 0, cluster.said(process)
    script.check()
    computed = len(begun_since(run, died_at))
    print(f"{stored} on the disk, {computed} computed after that")  # noqa: T201 - figures for people
    assert computed <= TASKS - stored
    if is_fresh:
        assert computed == TASKS - stored
    else:
        assert not computed_again(run)
