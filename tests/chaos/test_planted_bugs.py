"""Every planted bug fits the code, and its test is there; with `CHAOS_PLANTED=1` each has to be caught."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import planted
import pytest

if TYPE_CHECKING:
    from pathlib import Path

BUGS = planted.bugs()
LEAST = 9


def test_there_are_enough_planted_bugs() -> None:
    assert len(BUGS) >= LEAST


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_fits_the_code(bug: planted.Bug, tmp_path: Path) -> None:
    for file in {change.file for change in bug.changes}:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(planted.ROOT / file, tmp_path / file)
    planted.plant(bug, tmp_path)
    for change in bug.changes:
        compile((tmp_path / change.file).read_text(), change.file, "exec")
    file, _, name = bug.test.partition("::")
    assert f"def {name}" in (planted.ROOT / file).read_text()


def test_a_patch_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\nx = 1\n")
    bug = planted.Bug("b", "breaks", "test", (planted.Change("a.py", "x = 1\n", "x = 2\n"),))
    with pytest.raises(planted.PatchError, match="2 places"):
        planted.plant(bug, tmp_path)


@pytest.mark.skipif(os.environ.get("CHAOS_PLANTED") != "1", reason="takes half an hour: set CHAOS_PLANTED=1")
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(bug: planted.Bug) -> None:
    assert planted.verdict(bug) == planted.CAUGHT
