from __future__ import annotations

import math
import os
import sys
import time
from typing import TYPE_CHECKING

import pytest

from distcomp import cluster
from distcomp.errors import EmbeddedClusterError

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_no_control_groups_mean_no_limit(tmp_path: Path) -> None:
    assert cluster.quota_cores(tmp_path / "none", tmp_path) == math.inf


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        ("150000 100000", "max 100000", 1.5),
        ("max 100000", "200000 100000", 2.0),
        ("nonsense", "max", math.inf),
    ],
)
def test_quota_of_version_2_is_the_least_on_the_way_up(
    tmp_path: Path, inner: str, outer: str, expected: float
) -> None:
    write(tmp_path / "self", "0::/a/b\n")
    write(tmp_path / "mount/a/b/cpu.max", inner)
    write(tmp_path / "mount/a/cpu.max", outer)
    assert cluster.quota_cores(tmp_path / "self", tmp_path / "mount") == expected


@pytest.mark.parametrize(("quota", "expected"), [("50000", 0.5), ("-1", math.inf)])
def test_quota_of_version_1(tmp_path: Path, quota: str, expected: float) -> None:
    write(tmp_path / "self", "4:memory:/x\n3:cpu,cpuacct:/x\n")
    write(tmp_path / "mount/cpu,cpuacct/x/cpu.cfs_quota_us", quota)
    write(tmp_path / "mount/cpu,cpuacct/x/cpu.cfs_period_us", "100000")
    assert cluster.quota_cores(tmp_path / "self", tmp_path / "mount") == expected


def test_usable_cores_are_some_and_no_more_than_allowed() -> None:
    assert 1 <= cluster.usable_cores() <= (os.cpu_count() or 1)


def test_a_command_names_module_and_flags_and_no_secret() -> None:
    command = cluster.program_command("distcomp.cli.worker", "--join", "-")
    assert command[0] == sys.executable
    assert command[-3:] == ["distcomp.cli.worker", "--join", "-"]


def test_a_python_without_interpreter_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(EmbeddedClusterError, match=r"sys\.executable"):
        cluster.program_command("distcomp.cli.worker")


def test_a_child_that_breaks_is_reported_with_its_words() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no luck today')"]
    child = cluster.Child("worker", command, {"secret": "s3cret"})
    child.process.wait(60)
    assert child.ended
    words = child.last_words()
    assert "exit code 1" in words
    assert "no luck today" in words
    child.let_go()
    child.reap(time.monotonic())


def test_a_child_that_does_not_let_go_is_killed() -> None:
    stubborn = "import signal, time; print('on', flush=True); time.sleep(3600)"
    child = cluster.Child("worker", [sys.executable, "-c", stubborn], {})
    assert child.process.stdout is not None
    assert child.process.stdout.readline() == b"on\n"
    child.let_go()
    child.reap(time.monotonic() + 0.01)
    assert child.process.returncode == -9


def test_the_working_folder_is_not_searched_for_modules(tmp_path: Path) -> None:
    write(tmp_path / "asyncio.py", "raise SystemExit('the wrong asyncio')")
    write(tmp_path / "json.py", "raise SystemExit('the wrong json')")
    command = cluster.program_command("distcomp.cli.version")
    child = cluster.subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert child.returncode == 0, child.stderr
