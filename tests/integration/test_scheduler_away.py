"""What those who use a scheduler with a journal are told while it is away, and how they get away."""

from __future__ import annotations

import logging
import signal
import threading
import time
from typing import TYPE_CHECKING

from clusters import until
from test_restart import begun, held, kill, noted, port_of, started_again

from distcomp import Client, SchedulerLostError
from distcomp.config import ClientSettings

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from clusters import Programs

PATIENCE_S = 90.0
SOON_S = 45.0
"""Below what scripts wait for a scheduler that is away when they are told nothing else (`away_close_s`)."""

NOTICE = {"DISTCOMP_AWAY_NOTICE_S": "0.2", "DISTCOMP_EXPLAIN_AFTER_S": "600"}

WAITING = """
import sys, time
from pathlib import Path
import distcomp

folder = Path(sys.argv[1])

def gated(number):
    (folder / f"begun-{number}").touch()
    while not (folder / "gate").exists():
        time.sleep(0.005)
    return number

with distcomp.Client() as client:
    first = client.submit(gated, 1)
    while not (folder / "more").exists():
        time.sleep(0.005)
    second = client.submit(gated, 2)
    print("handed in", flush=True)
    print(first.result(), second.result())
"""


def test_a_script_that_waits_is_told_of_an_absence_and_of_its_end(cluster: Programs, tmp_path: Path) -> None:
    scheduler = cluster.scheduler()
    cluster.worker()
    (tmp_path / "waiting.py").write_text(WAITING)
    script = cluster.script(tmp_path / "waiting.py", str(tmp_path), **NOTICE)
    until((tmp_path / "begun-1").exists, "the task runs")
    port = port_of(cluster)
    kill(scheduler)
    until(lambda: "away" in cluster.said(script), "the script is told")
    assert f"tcp://127.0.0.1:{port} has been away since" in cluster.said(script)
    assert "1 task is safe in its journal" in cluster.said(script)
    (tmp_path / "more").touch()
    until(lambda: "handed in" in cluster.said(script), "a submit does not wait for the scheduler")
    (tmp_path / "gate").touch()
    started_again(cluster, port)
    assert script.wait(PATIENCE_S) == 0
    said = cluster.said(script)
    assert (said.count("has been away"), said.count("is back after"), said.count("1 2\n")) == (1, 1, 1)
    assert len(said.splitlines()) == 4


def test_ctrl_c_ends_a_script_that_waits_for_a_scheduler(cluster: Programs, tmp_path: Path) -> None:
    scheduler = cluster.scheduler()
    cluster.worker()
    (tmp_path / "waiting.py").write_text(WAITING)
    (tmp_path / "more").touch()
    script = cluster.script(tmp_path / "waiting.py", str(tmp_path), DISTCOMP_AWAY_NOTICE_S="0")
    until(lambda: (tmp_path / "begun-1").exists() and (tmp_path / "begun-2").exists(), "both tasks run")
    kill(scheduler)
    until(lambda: "has been away since" in cluster.said(script), "the script is told")
    began = time.monotonic()
    script.send_signal(signal.SIGINT)
    assert script.wait(PATIENCE_S) != 0
    assert time.monotonic() - began < SOON_S
    assert "is not waited for: 2 tasks are left there, and cancelled when" in cluster.said(script)


def test_leaving_waits_a_bounded_time_for_a_scheduler_that_is_away(
    cluster: Programs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = cluster.scheduler()
    cluster.worker(slots=3)
    caplog.set_level(logging.WARNING, "distcomp")
    with Client(settings=ClientSettings(away_close_s=0.3)) as client:
        attached = client.submit(held, tmp_path, 1)
        client.options(detach=True).submit(held, tmp_path, 2)
        client.options(run="fit").submit(held, tmp_path, 3)
        until(lambda: len(begun(tmp_path)) == 3, "all run, so their acknowledgements are here")
        kill(scheduler)
        began = time.monotonic()
    assert time.monotonic() - began < SOON_S
    assert isinstance(attached.exception(), SchedulerLostError)
    left = [text for text in caplog.messages if "is not waited for" in text]
    (own,) = (text for text in left if "run" not in text)
    assert "1 task is left there, and cancelled when it has been back for 60 s; 1 task is left" in own
    (of_run,) = (text for text in left if "(run 'fit')" in text)
    assert of_run.endswith("1 task is left there, and goes on: detached")


def test_a_full_window_holds_while_the_scheduler_is_away_and_says_so(
    cluster: Programs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduler = cluster.scheduler()
    cluster.worker()
    settings = ClientSettings(window_tasks=2, explain_after_s=0.2)
    with Client(settings=settings) as client:
        assert client.submit(noted, tmp_path, 0, 0.0).result() == 0
        port = port_of(cluster)
        kill(scheduler)
        results: list[int] = []

        def hand_in() -> None:
            futures = [client.submit(noted, tmp_path, number, 0.0) for number in range(1, 6)]
            results.extend(future.result() for future in futures)

        thread = threading.Thread(target=hand_in)
        thread.start()
        said: list[str] = []
        until(lambda: said.append(capsys.readouterr().err) or "room" in "".join(said), "it is explained")  # type: ignore[func-returns-value]
        assert client.window.open_tasks == 2
        started_again(cluster, port)
        thread.join(PATIENCE_S)
        assert results == [1, 4, 9, 16, 25]
