"""Everything one does with a fresh clone, with nothing but Python on the machine.

Usage:
    python3 dev.py demo [ARGUMENTS]      run the main job: the demo on this machine's standard library
    python3 dev.py test [ARGUMENTS]      run the tests (arguments go to pytest)
    python3 dev.py lint                  run the linter, the formatter's check and the type checker
    python3 dev.py bench [ARGUMENTS]     run the benchmarks

The first call makes a virtual environment in `.venv` and installs distcomp into it, with what the
command needs; later calls install again only when `pyproject.toml` has changed or more is needed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
BIN = ENVIRONMENT / "bin"
GROUPS = {"demo": None, "test": "test", "lint": "lint", "bench": "test"}
"""What each command needs beside distcomp itself, as groups of `pyproject.toml`."""

TESTERS = str(min((os.cpu_count() or 1) + 1, 8))
"""How many processes run test files: tests wait for programs much of the time, and some not for long."""

TRIES, PAUSE_S = 3, 10.0
"""Whatever answers pip may not do so at first."""
PATIENCE = {"PIP_RETRIES": "10", "PIP_DEFAULT_TIMEOUT": "60"}
"""For all that is installed by pip, by tests as well."""

COMMANDS = {
    "demo": [[str(BIN / "distcomp"), "demo"]],
    "test": [[str(BIN / "python"), "-m", "pytest", "-n", TESTERS, "--dist", "loadfile"]],
    "lint": [
        [str(BIN / "ruff"), "check", "."],
        [str(BIN / "ruff"), "format", "--check", "."],
        [str(BIN / "mypy")],
        [str(BIN / "mypy"), "tests/typing"],
        [str(BIN / "python"), "docs/make_protocol.py", "--check"],
    ],
    "bench": [[str(BIN / "python"), "benchmarks/run.py"]],
}


def install(group: str | None) -> None:
    """Bring `.venv` up to what `pyproject.toml` asks for, with one of its groups."""
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    stamp = ENVIRONMENT / f"installed-{group or 'alone'}"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    sys.stderr.write(f"installing into {ENVIRONMENT.name}, once\n")
    pip = [str(BIN / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    if not list(ENVIRONMENT.glob("installed-*")):
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        insist([*pip, "--upgrade", "pip"])
    groups = [] if group is None else ["--group", group]
    insist([*pip, "--editable", ".", *groups])
    stamp.write_text(wanted)


def insist(command: list[str]) -> None:
    """Run a command that needs the network; again if it fails, as that may have been the network's fault."""
    for _ in range(TRIES - 1):
        if not subprocess.run(command, check=False, cwd=ROOT).returncode:
            return
        sys.stderr.write(f"it is tried again in {PAUSE_S:g} s\n")
        time.sleep(PAUSE_S)
    subprocess.run(command, check=True, cwd=ROOT)


def main() -> int:
    """Install what is missing, then run the commands behind the word given."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:  # noqa: PLR2004 - the program and one word
        sys.stderr.write(f"{__doc__}\n")
        return 2
    for name, text in PATIENCE.items():
        os.environ.setdefault(name, text)
    try:
        install(GROUPS[sys.argv[1]])
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"could not install: {' '.join(error.cmd[:4])} … ended with {error.returncode}\n")
        return 1
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is started hundreds of times is compiled once
    *first, last = [[*command, *sys.argv[2:]] for command in COMMANDS[sys.argv[1]]]
    for command in first:
        code = subprocess.run(command, check=False, cwd=ROOT).returncode
        if code:
            return code
    return become(last)


def become(command: list[str]) -> NoReturn:
    """Replace this process, so that Ctrl-C and the exit code pass unchanged."""
    os.chdir(ROOT)
    os.execv(command[0], command)  # noqa: S606 - the command is ours


if __name__ == "__main__":
    sys.exit(main())
