"""A run whose results nobody takes: they wait in files, also after a restart, until somebody does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from clusters import until

from distcomp import Client
from distcomp.config import parse_address

if TYPE_CHECKING:
    from pathlib import Path

    from clusters import Programs

TASKS = 40
RESULT_BYTES = 512 << 10
BOUNDS = {"DISTCOMP_MAX_OUTCOME_MEMORY_BYTES": str(2 << 20), "DISTCOMP_SESSION_OUTCOME_BYTES": str(1 << 20)}
LEAVES = f"""\
import time
from distcomp import Client

def make(number):
    return bytes([number]) * {RESULT_BYTES}

with Client() as client:
    array = client.options(run="fit").map(make, range({TASKS}))
    array.wait()
"""


def runs(cluster: Programs, *words: str) -> Any:
    """What `distcomp runs … --scheduler` says, as JSON."""
    command = [sys.executable, "-m", "distcomp.cli.main", "runs", *words, "--scheduler", "--json"]
    done = subprocess.run(
        command, env=cluster.environment(), capture_output=True, text=True, timeout=90, check=False
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def mostly_in_files(cluster: Programs) -> Any:
    """The one run that there is, once most of its results are in files."""
    (row,) = runs(cluster, "list")
    return row if row["left_at"] and row["spilled_bytes"] > row["waiting_bytes"] // 2 > 0 else None


def test_results_of_a_run_wait_in_files_for_whoever_collects_them(cluster: Programs, tmp_path: Path) -> None:
    scheduler = cluster.scheduler("test", **BOUNDS)
    port = parse_address(cluster.access().addresses[0]).port
    cluster.worker(slots=2)
    script = tmp_path / "leaves.py"
    script.write_text(LEAVES)
    left = cluster.script(script)
    until(lambda: left.poll() is not None, "the script's end")
    assert left.returncode == 0, cluster.said(left)
    row = until(lambda: mostly_in_files(cluster), "results are in files")
    assert (row["run"], row["functions"], row["tasks"], row["settled"]) == ("fit", ["make"], TASKS, TASKS)
    assert row["waiting_bytes"] >= TASKS * RESULT_BYTES
    assert 0 < row["left_at"] <= time.time() < row["drop_at"]

    scheduler.kill()
    scheduler.wait()
    again = cluster.start("scheduler", "--quiet", "--name", "test", "--port", str(port), **BOUNDS)
    until(lambda: "recovered" in cluster.said(again) or again.poll() is not None, "a scheduler")
    after = until(lambda: mostly_in_files(cluster), "results are in files again")
    assert after["waiting_bytes"] == row["waiting_bytes"]
    assert abs(after["left_at"] - row["left_at"]) < 1.0

    with Client(cluster.access().addresses[0]) as client:
        results = client.attach("fit").gather()
        assert [(each[:1], len(each)) for each in results] == [
            (bytes([number]), RESULT_BYTES) for number in range(TASKS)
        ]
        assert runs(cluster, "forget", "fit", "--yes")["code"] == "taken"
    until(lambda: runs(cluster, "forget", "fit", "--yes")["code"] == "forgotten", "the run is left")
    assert runs(cluster, "list") == []
