"""CPython's own tests of executors and pools, run against ours.

Not every interpreter has them: where this one does not, another version on this machine may.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pythons import another_python, installed
from standard_suites import MISSING


@pytest.mark.parametrize("what", ["executor", "pool"])
def test_the_standard_librarys_own_tests_pass(tmp_path: Path, what: str) -> None:
    ended = ran(sys.executable, what, tmp_path)
    other = another_python() if ended.returncode == MISSING else None
    if other is not None:
        ended = ran(installed(other[0], tmp_path / "other"), what, tmp_path)
    if ended.returncode == MISSING:
        pytest.skip(ended.stdout.strip())
    assert ended.returncode == 0, ended.stdout


def ran(python: str, what: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What came of the suite of that name, run by an interpreter."""
    program = Path(__file__).with_name("standard_suites.py")
    clean = {name: text for name, text in os.environ.items() if not name.startswith("DISTCOMP_")}
    return subprocess.run(
        [python, str(program), what],
        env={**clean, "DISTCOMP_HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
        check=False,
    )
