"""Another number of slots while tasks run, with real programs."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from clusters import until

from distcomp import Client

if TYPE_CHECKING:
    from clusters import Programs

NAPS = 20
NAP_S = 0.02


def nap(number: int, folder: str) -> int:
    """Wait for the gate, sleep, and write down when; a line is written at once and whole."""
    began = time.time()
    while not Path(folder, "gate").exists():
        time.sleep(0.005)
    time.sleep(NAP_S)
    with Path(folder, "ledger").open("a") as file:
        file.write(f"{number} {began} {time.time()}\n")
    return number


def scale(cluster: Programs, *flags: str) -> str:
    """Run `distcomp scale`; what it said."""
    process = cluster.start("main", "scale", *flags)
    until(lambda: process.poll() is not None, "the command ends")
    return f"{process.returncode} {cluster.said(process)}"


def most_at_once(rows: list[tuple[float, float]]) -> int:
    """How many naps overlapped."""
    return max(sum(began <= at < ended for began, ended in rows) for at, _ in rows)


def test_slots_come_and_go_in_the_middle_of_naps(cluster: Programs, tmp_path: Path) -> None:
    cluster.scheduler()
    cluster.worker("--name", "left", slots=1)
    with Client() as client:
        client.wait_for_workers(1, timeout_s=30)
        naps = client.map(nap, range(NAPS), [str(tmp_path)] * NAPS)
        until(lambda: client.workers()[0].busy == 1, "the first nap")
        assert scale(cluster, "--slots", "2").startswith("0 ")
        until(lambda: client.workers()[0].busy == 2, "the new slot is used")
        (change,) = json.loads(scale(cluster, "--slots", "1", "--worker", "left", "--json").partition(" ")[2])
        shrunk_at = time.time()
        (tmp_path / "gate").touch()
        assert (change["name"], change["before"], change["slots"], change["problem"]) == ("left", 2, 1, "")
        assert naps.results() == list(range(NAPS))
        assert client.workers()[0].slots == 1
    lines = [line.split() for line in (tmp_path / "ledger").read_text().splitlines()]
    assert Counter(int(number) for number, _, _ in lines) == Counter(range(NAPS))
    times = [(float(began), float(ended)) for _, began, ended in lines]
    assert most_at_once(times) == 2
    late = [row for row in times if row[0] > shrunk_at]
    assert len(late) == NAPS - 2
    assert most_at_once(late) == 1


def test_what_cannot_be_done_is_said(cluster: Programs) -> None:
    cluster.scheduler()
    cluster.worker("--name", "left", slots=1)
    with Client() as client:
        client.wait_for_workers(1, timeout_s=30)
    said = scale(cluster, "--slots", "2", "--worker", "lefd")
    assert said.startswith("2 ")
    assert "there is no worker 'lefd'; there is 'left'" in said
    for path in (cluster.home / "access" / "test").glob("admin-*.json"):
        path.unlink()
    said = scale(cluster, "--slots", "2")
    assert said.startswith("2 ")
    assert "admin" in said
