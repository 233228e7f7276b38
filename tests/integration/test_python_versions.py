"""Two Python versions in one cluster: tasks go where the bytes of their functions mean something."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest
from clusters import Programs, until
from pythons import another_python, installed

from distcomp import Client
from distcomp.config import ClientSettings

if TYPE_CHECKING:
    from pathlib import Path

OURS = ".".join(platform.python_version_tuple()[:2])


class Other(NamedTuple):
    """Another Python with distcomp installed."""

    python: str
    version: str


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Other:
    """Another Python version; where there is none, its tests are skipped, except in CI."""
    found = another_python()
    if found is None and os.environ.get("CI") == "true":
        pytest.fail("no Python of another minor version is installed here")
    if found is None:
        pytest.skip("no Python of another minor version is installed here")
    path, version = found
    return Other(installed(path, tmp_path_factory.mktemp("python") / "env"), version)


def foreign_worker(cluster: Programs, other: Other, *flags: str) -> subprocess.Popen[str]:
    """A worker on the other Python."""
    return cluster.start("worker", "--slots", "1", *flags, python=other.python, PYTHONPATH="")


def minor_version(_: int) -> str:
    return ".".join(platform.python_version_tuple()[:2])


def test_tasks_go_only_to_workers_of_their_clients_version(cluster: Programs, other: Other) -> None:
    cluster.scheduler()
    foreign_worker(cluster, other, "--name", "other")
    cluster.worker("--name", "same", slots=1)
    with Client() as client:
        until(lambda: len(client.workers()) == 2, "both workers register")
        assert set(client.map(minor_version, range(200))) == {OURS}
        rows = {row.name: row for row in client.workers()}
        assert rows["same"].unfit == ""
        assert OURS in rows["other"].unfit
        assert other.version in rows["other"].unfit
        assert rows["other"].settled == 0
        assert [row.name for row in client.wait_for_workers(1, timeout_s=90)] == ["same"]
        status = [sys.executable, "-m", "distcomp.cli.main", "status"]
        environment = cluster.environment(COLUMNS="200")
        shown = subprocess.run(status, env=environment, capture_output=True, text=True, check=True).stdout
        as_json = subprocess.run([*status, "--json"], env=environment, capture_output=True, check=True).stdout
    (line,) = [line for line in shown.splitlines() if line.startswith("other")]
    assert "unfit" in line
    assert other.version in line
    assert {row["name"] for row in json.loads(as_json)["workers"] if row["unfit"]} == {"other"}


def test_a_client_of_the_other_version_gets_the_other_worker(
    cluster: Programs, other: Other, tmp_path: Path
) -> None:
    cluster.scheduler()
    foreign_worker(cluster, other)
    cluster.worker(slots=1)
    script = tmp_path / "script.py"
    script.write_text(
        "import platform\n"
        "from distcomp import Client\n"
        "with Client() as client:\n"
        "    client.wait_for_workers(1, timeout_s=90)\n"
        "    print(*set(client.map(lambda _: platform.python_version()[:4], range(50))))\n"
    )
    done = subprocess.run(
        [other.python, str(script)],
        env=cluster.environment(PYTHONPATH=""),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == other.version, done.stderr


def test_a_submit_that_no_worker_can_run_says_so_and_not_only_when_asked(
    cluster: Programs, other: Other, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.scheduler()
    foreign_worker(cluster, other)
    with Client(settings=ClientSettings(explain_after_s=3600.0)) as client:
        until(lambda: len(client.workers()) == 1, "the worker registers")
        future = client.submit(abs, -1)
        until(lambda: "no worker can run" in caplog.text, "it is said")
        assert f"Python {OURS}" in caplog.text
        assert other.version in caplog.text
        cluster.worker(slots=1)
        assert future.result(90) == 1
