"""Other Python versions on this machine, and distcomp installed for one of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OLDEST, NEWEST = 10, 14
SHOW_MINOR = "import sys, venv; print(*sys.version_info[:2], sep='.')"


def another_python() -> tuple[str, str] | None:
    """An interpreter of another minor version than this one: its path, and its version."""
    ours = ".".join(map(str, sys.version_info[:2]))
    for path in _candidates():
        shown = subprocess.run([path, "-c", SHOW_MINOR], capture_output=True, text=True, check=False)
        version = shown.stdout.strip()
        is_known = version in {f"3.{minor}" for minor in range(OLDEST, NEWEST + 1)}
        if shown.returncode == 0 and is_known and version != ours:
            return path, version
    return None


def _candidates() -> list[str]:
    named = [shutil.which(f"python3.{minor}") for minor in range(OLDEST, NEWEST + 1)]
    managed = sorted(Path("~/.pyenv/versions").expanduser().glob("3.*/bin/python3"), reverse=True)
    return [path for path in named if path] + [str(path) for path in managed]


def installed(python: str, folder: Path) -> str:
    """Install distcomp into an environment of that interpreter; the environment's own interpreter."""
    clean = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True, env=clean)
    made = str(folder / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", made, "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-compile", str(ROOT)], check=True, env=clean)
    return made
