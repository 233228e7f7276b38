from __future__ import annotations

import json
from typing import Any

from distcomp.cli import status_page
from distcomp.ids import SessionId, WorkerId
from distcomp.protocol import StatusReported
from distcomp.rows import ArrayRow, Totals, WorkerRow


def worker(number: int, **fields: Any) -> WorkerRow:
    row = WorkerRow(
        worker=WorkerId(number.to_bytes(16, "big")),
        name=f"worker-{number}",
        host="left",
        pid=1,
        slots=2,
        busy=1,
        leased=5,
        settled=100,
        failed=0,
        busy_s=1.5,
        state="ready",
        python="3.11.7",
        unfit="",
    )
    return row._replace(**fields)


def array(number: int, **fields: Any) -> ArrayRow:
    row = ArrayRow(
        array=(SessionId(bytes(16)), number),
        owner="alice",
        function=f"function_{number}",
        priority=0,
        tasks=1000,
        pending=900,
        leased=5,
        settled=95,
        failed=0,
        age_s=3.0,
    )
    return row._replace(**fields)


def report(workers: list[WorkerRow], arrays: list[ArrayRow], *, auth: bool = True) -> StatusReported:
    totals = Totals(
        uptime_s=3725.0,
        sessions=1,
        workers=len(workers),
        slots=4,
        busy=2,
        pending=900,
        leased=10,
        accepted=1000,
        settled=sum(row.settled for row in workers),
        failed=0,
        retried=0,
        cancelled=0,
        lost=0,
        late=0,
        idle_while_queued_s=0.5,
        slot_s=50.0,
    )
    return StatusReported(True, "lab", 7, auth, totals, tuple(workers), (), tuple(arrays), ())


def observation(*, auth: bool = True, workers: int = 2, arrays: int = 1) -> status_page.Observation:
    first = report([worker(number, settled=0) for number in range(workers)], [])
    rows = [worker(number) for number in range(workers)]
    last = report(rows, [array(number) for number in range(arrays)], auth=auth)
    return status_page.Observation("tcp://127.0.0.1:7077", first, last, 0.5)


def test_the_screen_shows_workers_queue_and_rates() -> None:
    shown = status_page.screen(observation(), 120, 40, coloured=False)
    assert "cluster lab at tcp://127.0.0.1:7077, up 1 h 02 min" in shown
    assert "900 waiting, 10 leased   rate 400 tasks/s   idle while queued 1.0%" in shown
    assert "worker-1" in shown
    assert "function_0" in shown
    assert "AUTH OFF" not in shown


def test_switched_off_auth_is_red() -> None:
    shown = status_page.screen(observation(auth=False), 120, 40, coloured=True)
    assert "\x1b[1;31mAUTH OFF\x1b[0m" in shown


def test_peers_that_talked_nonsense_are_shown_if_there_were_any() -> None:
    seen = observation()
    assert "nonsense" not in status_page.screen(seen, 120, 40, coloured=False)
    last = seen.last._replace(totals=seen.last.totals._replace(nonsense=3))
    assert "3 peers talked nonsense" in status_page.screen(seen._replace(last=last), 120, 40, coloured=False)


def with_journal(seen: status_page.Observation, **fields: Any) -> status_page.Observation:
    return seen._replace(last=seen.last._replace(**fields))


def test_the_journal_is_shown_with_size_and_age() -> None:
    seen = with_journal(
        observation(), journal="/state/lab/journal.db", journal_bytes=5 << 20, committed_ago_s=2.0
    )
    shown = status_page.screen(seen, 100, 40, coloured=True)
    assert "\njournal 5 MiB, last commit 2.0 s ago: /state/lab/journal.db\n" in shown
    narrow = status_page.screen(seen, 50, 40, coloured=False)
    assert "journal 5 MiB, last commit 2.0 s ago: …/journal.db\n" in narrow
    assert "accepted:" not in shown


def test_a_journal_that_is_off_is_red() -> None:
    shown = status_page.screen(with_journal(observation(), journal="off"), 120, 40, coloured=True)
    assert "\x1b[1;31mjournal off: a restart forgets all tasks\x1b[0m" in shown
    assert "journal" not in status_page.screen(observation(), 120, 40, coloured=False)


def test_a_scheduler_that_takes_nothing_says_why_in_red() -> None:
    seen = with_journal(observation(), journal="/j", shut="its disk is full")
    shown = status_page.screen(seen, 120, 40, coloured=True)
    assert "\x1b[1;31mnothing new is accepted: its disk is full\x1b[0m" in shown
    assert status_page.as_json(seen)["shut"] == "its disk is full"
    waiting = with_journal(observation(), journal="/j", no_room="5 bytes do not fit")
    assert "\x1b[1;31m5 bytes do not fit\x1b[0m" in status_page.screen(waiting, 120, 40, coloured=True)
    assert status_page.as_json(waiting)["no_room"] == "5 bytes do not fit"


def test_results_that_nobody_fetches_are_shown_if_there_are_any() -> None:
    seen = observation()
    few = seen.last.totals._replace(unread_bytes=1000)
    assert "unread" not in status_page.screen(with_journal(seen, totals=few), 100, 30, coloured=False)
    totals = seen.last.totals._replace(unread_bytes=3 << 20)
    shown = status_page.screen(with_journal(seen, totals=totals), 100, 30, coloured=False)
    assert "unread  3 MiB of results wait for their clients\n" in shown
    spilled = totals._replace(spilled_bytes=1 << 20)
    shown = status_page.screen(with_journal(seen, totals=spilled), 100, 30, coloured=False)
    assert "wait for their clients, 1 MiB of it in files" in shown


def test_the_screen_fits_its_terminal() -> None:
    for width, height in [(80, 24), (60, 12), (200, 50)]:
        shown = status_page.screen(observation(workers=500, arrays=90), width, height, coloured=False)
        lines = shown.split("\n")
        assert len(lines) <= height
        assert any("more" in line for line in lines)
    assert "and 90" not in shown


def test_without_workers_it_is_said_how_to_start_one() -> None:
    shown = status_page.screen(observation(workers=0), 120, 40, coloured=False)
    assert "\nno workers: distcomp-worker starts one\n" in shown
    assert "HOST" not in shown


def test_a_worker_that_gets_no_work_says_why() -> None:
    seen = observation()
    rows = (worker(1, unfit="Python 3.12 here, 3.11 wanted"),)
    shown = status_page.screen(seen._replace(last=seen.last._replace(workers=rows)), 160, 40, coloured=False)
    assert "unfit: Python 3.12 here" in shown


def test_a_worker_that_came_in_between_counts_from_nothing() -> None:
    seen = observation(workers=3)
    first = seen.first._replace(workers=seen.first.workers[:1])
    assert seen._replace(first=first).worker_rates()[WorkerId((2).to_bytes(16, "big"))] == 200.0


def test_json_is_json() -> None:
    shown = json.loads(json.dumps(status_page.as_json(observation())))
    assert shown["tasks_per_s"] == 400.0
    assert shown["workers"][0]["worker"] == "00" * 16
    assert shown["workers"][0]["tasks_per_s"] == 200.0
    assert shown["arrays"][0]["array"] == ["00" * 16, 0]
    assert shown["totals"]["pending"] == 900


def test_bundles_are_shown_if_there_are_any() -> None:
    seen = observation()
    assert "bundles" not in status_page.screen(seen, 100, 30, coloured=False)
    totals = seen.last.totals._replace(bundles=2, bundle_bytes=20 << 10)
    shown = status_page.screen(seen._replace(last=seen.last._replace(totals=totals)), 100, 30, coloured=False)
    assert "bundles 2, 20 KiB" in shown


def test_lent_slots_are_shown() -> None:
    seen = observation()
    last = seen.last._replace(workers=(worker(1, lent=3), worker(2)))
    shown = status_page.screen(seen._replace(last=last), 160, 40, coloured=False)
    first, second = (line.rstrip() for line in shown.split("\n") if "worker-" in line)
    assert first.endswith("ready, 3 lent")
    assert second.endswith("ready")
