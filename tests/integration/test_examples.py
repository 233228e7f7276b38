"""The examples run, with nothing started for them and on a cluster, and find what they should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from clusters import Programs

FOLDER = Path(__file__).resolve().parents[2] / "examples"
LAST_LINES = {
    "main_demo.py": "many: the longest from below 200,001 has 382 steps, from 156159",
    "main_easy.py": "all is as a plain loop finds it",
    "main_hard.py": "all is as it is known to be",
}


def run(cluster: Programs, name: str, *flags: str) -> list[str]:
    """The lines that an example prints."""
    ran = subprocess.run(
        [sys.executable, str(FOLDER / name), *flags],
        env=cluster.environment(),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout.splitlines()


def test_every_example_is_run() -> None:
    assert {path.name for path in FOLDER.glob("*.py")} == LAST_LINES.keys()


@pytest.mark.parametrize("name", LAST_LINES)
def test_an_example_needs_nothing(cluster: Programs, name: str) -> None:
    assert run(cluster, name)[-1] == LAST_LINES[name]


@pytest.mark.parametrize("name", ["main_easy.py", "main_hard.py"])
def test_an_example_uses_the_cluster_it_is_told(cluster: Programs, name: str) -> None:
    cluster.scheduler("other")
    cluster.scheduler("test", "--local-slots", "2")
    (address,) = cluster.access().addresses
    assert run(cluster, name, "--address", address)[-1] == LAST_LINES[name]
