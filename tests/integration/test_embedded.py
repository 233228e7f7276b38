"""The embedded cluster: starts from anywhere, is told nothing by command line, is gone with its owner."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clusters import until
from processes import alive, family

from distcomp.client import Client
from distcomp.cluster import EmbeddedCluster
from distcomp.errors import EmbeddedClusterError, SchedulerLostError

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 120.0
JOB = """\
import os, sys
from distcomp import Client

def look(number):
    import beside
    return number * beside.FACTOR, os.getcwd(), os.environ["COLOUR"], os.getpid() != {pid}

print("the main module runs")
if sys.argv[-1] != "-":
    sys.path.insert(0, sys.argv[-1])
else:
    sys.path.insert(0, os.environ["BESIDE"])
with Client() as client:
    print(*client.submit(look, 6).result(100))
"""


@pytest.fixture
def cluster() -> Iterator[EmbeddedCluster]:
    made = EmbeddedCluster.start(slots=2)
    try:
        yield made
    finally:
        made.close()


def test_it_serves_and_is_gone_after_close(cluster: EmbeddedCluster) -> None:
    cluster.wait_ready()
    assert cluster.failure() is None
    pids = family(cluster.scheduler_pid) + family(cluster.worker_pid)
    assert alive(cluster.scheduler_pid)
    assert alive(cluster.worker_pid)
    cluster.close()
    until(lambda: not any(map(alive, pids)), "everything ends")
    cluster.close()
    assert cluster.failure() is None


def test_it_is_in_a_session_of_its_own_so_that_ctrl_c_does_not_reach_it(cluster: EmbeddedCluster) -> None:
    assert os.getsid(cluster.worker_pid) != os.getsid(0) != os.getsid(cluster.scheduler_pid)


def test_secrets_are_on_no_command_line_and_in_no_environment(cluster: EmbeddedCluster) -> None:
    cluster.wait_ready()
    pids = family(cluster.scheduler_pid) + family(cluster.worker_pid)
    shown = b""
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a slot process that has ended
            shown += b"".join(Path(f"/proc/{pid}/{file}").read_bytes() for file in ("cmdline", "environ"))
    assert b"distcomp" in shown
    assert cluster.client_secret.hex().encode() not in shown
    assert cluster.client_secret not in shown


def test_a_program_that_breaks_at_start_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTCOMP_HEARTBEAT_S", "often")
    cluster = EmbeddedCluster.start(slots=1)
    with pytest.raises(EmbeddedClusterError, match="DISTCOMP_HEARTBEAT_S is 'often'"):
        cluster.wait_ready()
    assert cluster.failure() is None  # it is closed


def test_a_program_that_is_killed_later_is_reported(cluster: EmbeddedCluster) -> None:
    cluster.wait_ready()
    os.kill(cluster.scheduler_pid, signal.SIGKILL)
    words = until(cluster.failure, "the end is noticed")
    assert "scheduler ended with exit code -9" in words


def test_a_forked_child_cannot_close_it(cluster: EmbeddedCluster) -> None:
    cluster.wait_ready()
    pid = os.fork()
    if pid == 0:
        cluster.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert cluster.failure() is None
    assert alive(cluster.worker_pid)


@pytest.mark.parametrize("holds_pipe", [False, True])
def test_it_is_gone_when_its_owner_is_killed(tmp_path: Path, *, holds_pipe: bool) -> None:
    script = tmp_path / "owner.py"
    script.write_text(
        "import os, sys, time\n"
        "from distcomp.cluster import EmbeddedCluster\n"
        "cluster = EmbeddedCluster.start(slots=2)\n"
        "cluster.wait_ready()\n"
        f"child = os.fork() if {holds_pipe} else 1\n"
        "if child == 0:\n"
        "    time.sleep(600)\n"
        "    os._exit(0)\n"
        "print(cluster.scheduler_pid, cluster.worker_pid, child, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        scheduler, worker, child = map(int, owner.stdout.readline().split())
        pids = family(scheduler) + family(worker)
        assert len(pids) > 2
        owner.kill()
        until(lambda: not any(map(alive, pids)), "everything ends")
        if holds_pipe:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("way", ["script", "-c", "stdin"])
def test_tasks_see_folder_environment_and_path_however_the_script_is_run(tmp_path: Path, way: str) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "beside.py").write_text("FACTOR = 7\n")
    (tmp_path / "work").mkdir()
    if way == "script":  # otherwise the script itself looks for modules in its working folder
        (tmp_path / "work" / "random.py").write_text("raise SystemExit('not the standard library')\n")
    job = JOB.format(pid=0)
    (tmp_path / "job.py").write_text(job)
    lib = str(tmp_path / "lib")
    command, text = {
        "script": ([str(tmp_path / "job.py"), lib], None),
        "-c": (["-c", job, lib], None),
        "stdin": (["-"], job),
    }[way]
    environment = {**os.environ, "COLOUR": "green", "BESIDE": lib, "DISTCOMP_HOME": str(tmp_path / "home")}
    environment.pop("DISTCOMP_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, *command],
        input=text,
        cwd=tmp_path / "work",
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["the main module runs", f"42 {tmp_path / 'work'} green True"]


def test_the_example_runs_as_it_stands(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "main_demo.py"
    environment = {**os.environ, "DISTCOMP_HOME": str(tmp_path)}
    environment.pop("DISTCOMP_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, str(example)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "382 steps, from 156159" in done.stdout


# --- with a journal -------------------------------------------------------------------------------

JOURNALLED = """\
import os, sys, time
from distcomp import Client

folder = sys.argv[1]

def work(number):
    with open(f"{folder}/ledger", "a") as ledger:
        ledger.write(f"{number}\\n")
    while number >= 4 and not os.path.exists(f"{folder}/gate"):
        time.sleep(0.01)
    return number * number

with Client(slots=2, journal=f"{folder}/work.db") as client:
    if sys.argv[2] == "begin":
        array = client.options(run="fit").map(work, range(8))
        while array.done_count < 4:
            time.sleep(0.01)
        open(f"{folder}/four", "w").close()
        time.sleep(3600)
    print(client.attach("fit").gather())
"""


def test_the_next_cluster_goes_on_with_what_a_journal_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTCOMP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DISTCOMP_EXPLAIN_AFTER_S", "3600")  # nothing is said on a slow machine, too
    monkeypatch.delenv("DISTCOMP_ADDRESS", raising=False)
    script = tmp_path / "script.py"
    script.write_text(JOURNALLED)
    with subprocess.Popen([sys.executable, str(script), str(tmp_path), "begin"]) as first:
        until((tmp_path / "four").exists, "four results are here")
        pids = family(first.pid)
        first.kill()
    until(lambda: not any(map(alive, pids)), "the cluster is gone with its script")
    (tmp_path / "gate").touch()
    command = [sys.executable, str(script), str(tmp_path), "collect"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (done.stdout, done.stderr) == (f"{[number**2 for number in range(8)]}\n", "")
    begun = Counter(map(int, (tmp_path / "ledger").read_text().split()))
    assert sorted(begun) == list(range(8))
    assert [begun[number] for number in range(4)] == [1] * 4, "their results were kept"


def test_a_journal_does_not_have_anybody_wait_for_a_killed_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTCOMP_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DISTCOMP_ADDRESS", raising=False)
    with Client(slots=1, journal=tmp_path / "work.db") as client:
        assert client.submit(abs, -1).result(DEADLINE_S) == 1
        with pytest.raises(EmbeddedClusterError, match=r"another scheduler .* uses the journal"):
            Client(slots=1, journal=tmp_path / "work.db")
        future = client.submit(time.sleep, 3600)
        cluster = client._target.cluster
        assert cluster is not None
        os.kill(cluster.scheduler_pid, signal.SIGKILL)
        with pytest.raises(SchedulerLostError, match="the embedded scheduler ended with exit code -9"):
            future.result(DEADLINE_S)
