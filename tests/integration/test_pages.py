"""The examples of README and guide print what the pages say, and the pages tell of all there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import distcomp
from distcomp import errors
from distcomp.options import Options
from distcomp.settings_file import surroundings

ROOT = Path(__file__).resolve().parents[2]
PAGES = {name: (ROOT / name).read_text() for name in ("README.md", "docs/guide.md")}
GUIDE = PAGES["docs/guide.md"]
FILE = re.compile(r"```python\n# (\w+\.py)\n(.*?)```", re.DOTALL)
EXAMPLE = re.compile(r"```python\n((?!# \w+\.py\n).*?)```\n\n```text\n(.*?)```", re.DOTALL)


def examples() -> list[object]:
    return [
        pytest.param(*found, FILE.findall(page), id=f"{name}-{number}")
        for name, page in PAGES.items()
        for number, found in enumerate(EXAMPLE.findall(page))
    ]


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_every_python_example_has_its_output(page: str) -> None:
    assert len(EXAMPLE.findall(page)) + len(FILE.findall(page)) == page.count("```python") >= 4


@pytest.mark.parametrize(("source", "output", "files"), examples())
def test_an_example_prints_what_is_shown(
    source: str, output: str, files: list[tuple[str, str]], tmp_path: Path
) -> None:
    for name, text in [*files, ("example.py", source)]:
        (tmp_path / name).write_text(text)
    clean = {name: text for name, text in os.environ.items() if name != "DISTCOMP_ADDRESS"}
    ran = subprocess.run(
        [sys.executable, str(tmp_path / "example.py")],
        env={**clean, "DISTCOMP_HOME": str(tmp_path / "home")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    pattern = re.escape(output).replace(re.escape("…"), ".*")
    assert re.fullmatch(pattern, ran.stdout), ran.stdout


def test_the_settings_of_the_guide_are_settings(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "distcomp.toml").write_text(shown)
    told = surroundings({"DISTCOMP_HOME": str(tmp_path)}, tmp_path)
    assert len(told.files[0].variables) == shown.count(" = ")


def test_the_guide_tells_of_every_option_and_public_error() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", GUIDE, re.MULTILINE))
    public = {name for name in distcomp.__all__ if hasattr(errors, name)} - {"DistcompError"}
    assert rows == public | set(vars(Options()))


def test_links_into_the_guide_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", GUIDE, re.MULTILINE)
    }
    inside = re.findall(r"\]\(#(.*?)\)", GUIDE)
    outside = re.findall(r"\]\(docs/guide\.md#(.*?)\)", PAGES["README.md"])
    assert set(inside) | set(outside) <= headings
