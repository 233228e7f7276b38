"""The README's examples print what the README says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)


def test_every_python_example_has_its_output() -> None:
    assert len(EXAMPLES) == README.count("```python") >= 4


@pytest.mark.parametrize(("source", "output"), EXAMPLES)
def test_an_example_prints_what_is_shown(source: str, output: str, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(source)
    environment = {**os.environ, "DISTCOMP_HOME": str(tmp_path / "home")}
    ran = subprocess.run(
        [sys.executable, str(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    pattern = re.escape(output).replace(re.escape("…"), ".*")
    assert re.fullmatch(pattern, ran.stdout), ran.stdout
