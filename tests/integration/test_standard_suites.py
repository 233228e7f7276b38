"""CPython's own tests of executors and pools, run against ours where they are installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from standard_suites import MISSING


@pytest.mark.parametrize("what", ["executor", "pool"])
def test_the_standard_librarys_own_tests_pass(tmp_path: Path, what: str) -> None:
    program = Path(__file__).with_name("standard_suites.py")
    clean = {name: text for name, text in os.environ.items() if not name.startswith("DISTCOMP_")}
    ended = subprocess.run(
        [sys.executable, str(program), what],
        env={**clean, "DISTCOMP_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    if ended.returncode == MISSING:
        pytest.skip(ended.stdout.strip())
    assert ended.returncode == 0, ended.stdout
