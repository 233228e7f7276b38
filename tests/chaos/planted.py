"""Bugs planted on purpose, each of which a test has to catch: `python tests/chaos/planted.py [NAME …]`.

A planted bug is a patch in `planted/` that breaks the promise, with a line of what it breaks and a line
that names the test. A copy of distcomp and of the tests gets the patch; then that test has to fail, and not
because its faults missed. A change is looked for by its lines, wherever they have moved to.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).resolve().parent / "planted"
COPIED = ("distcomp", "tests", "pyproject.toml")
TIMEOUT_S = 600.0
ATTEMPTS = 3
"""Runs of a test that may find nothing: some bugs show only if a kill comes in the right millisecond."""

VARIABLES = {"CHAOS_END_S": "30", "CHAOS_SCALE": "0.5"}
"""What does not end is given up sooner than else, and half of the faults have to do."""

CAUGHT, MISSED, INVALID = "caught", "MISSED", "INVALID"


class Change(NamedTuple):
    """Lines of a file that are to be others."""

    file: str
    old: str
    new: str


class Bug(NamedTuple):
    """A planted bug: what it breaks, which test has to catch it, and what it changes."""

    name: str
    breaks: str
    test: str
    changes: tuple[Change, ...]


class PatchError(Exception):
    """A patch does not fit the code any more."""


def bugs() -> list[Bug]:
    """All planted bugs."""
    return [read_bug(path) for path in sorted(FOLDER.glob("*.patch"))]


def read_bug(path: Path) -> Bug:
    """One of them, from its patch."""
    head, *files = re.split(r"(?m)^--- a/", path.read_text())
    breaks, test, *_ = head.splitlines()
    changes = [change for file in files for change in _changes(file)]
    return Bug(path.stem, breaks, test.removeprefix("Caught by: "), tuple(changes))


def _changes(patch: str) -> list[Change]:
    """The changes of one file: each hunk with the lines around it, wherever it stands."""
    head, *hunks = re.split(r"(?m)^@@ .*\n", patch)
    file = head.split()[0]
    found = []
    for hunk in hunks:
        lines = hunk.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] in " -")
        new = "".join(line[1:] for line in lines if line[0] in " +")
        found.append(Change(file, old, new))
    return found


def plant(bug: Bug, root: Path) -> None:
    """Apply a bug to a copy of the code; raises `PatchError` if that is not what it was."""
    for change in bug.changes:
        path = root / change.file
        text = path.read_text()
        if text.count(change.old) != 1:
            places = text.count(change.old)
            raise PatchError(f"{bug.name}: {places} places in {change.file} are like\n{change.old}")
        path.write_text(text.replace(change.old, change.new))


def verdict(bug: Bug) -> str:
    """Whether its test catches a bug; prints what the test found."""
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source, Path(folder, name))
        plant(bug, Path(folder))
        for _ in range(ATTEMPTS):
            found = _outcome(bug, folder)
            if found == CAUGHT:
                break
    return found


def _outcome(bug: Bug, folder: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=short", "-p", "no:cacheprovider", bug.test]
    environment = {**os.environ, **VARIABLES, "PYTHONPATH": folder}
    done = subprocess.run(
        command, cwd=folder, env=environment, timeout=TIMEOUT_S, capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("E  ")]
    sys.stdout.write("".join(f"    {line[1:].strip()}\n" for line in lines[:3]))
    if any("FaultsMissedError" in line for line in lines):
        return INVALID
    return CAUGHT if done.returncode == 1 and lines else MISSED


def main(names: list[str]) -> int:
    """Try all bugs, or some; returns how many were not caught."""
    missed = 0
    for bug in bugs():
        if not names or bug.name in names:
            sys.stdout.write(f"{bug.name}: {bug.breaks}\n")
            found = verdict(bug)
            missed += found != CAUGHT
            sys.stdout.write(f"  {found} by {bug.test}\n")
            sys.stdout.flush()
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
