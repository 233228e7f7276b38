"""Runs, with real programs: whoever dies, nothing that was received is computed again, and all is there."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clusters import Programs, until

from distcomp import Client, RunTakenError, SchedulerLostError, UnknownRunError, UsageError
from distcomp.config import ClientSettings, parse_address
from distcomp.run_session import RunSession
from distcomp.store import Store

if TYPE_CHECKING:
    import subprocess

TASKS = 120
SQUARES = [number * number for number in range(TASKS)]
PATIENT = {"DISTCOMP_RUN_TAKEN_S": "60", "DISTCOMP_EXPLAIN_AFTER_S": "600"}
"""Clients that are told nothing else wait for a run whose last holder the scheduler has yet to miss."""

FIT = f"""\
import logging, os, sys, time
from distcomp import Client

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
LEDGER, GATE = {{ledger!r}}, {{gate!r}}

def fit(number):
    with open(LEDGER, "a") as file:
        file.write(f"{{{{number}}}}\\n")
    time.sleep(0.004)
    while number == {TASKS - 1} and not os.path.exists(GATE):
        time.sleep(0.004)
    return number * number

store, die_at = sys.argv[1] or None, int(sys.argv[2])
with Client(store=store) as client:
    received = []
    for each in client.options(run="fit").map(fit, range({TASKS})):
        received.append(each)
        if len(received) == die_at:
            while store and not client.store.run("fit").done:
                time.sleep(0.001)
            os.kill(os.getpid(), 9)
    print("sum", sum(received))
"""

HASTY = ClientSettings(run_taken_s=0.2)


class Fits:
    """The script of a run, its ledger, its store and the gate before its last task, in a folder."""

    def __init__(self, cluster: Programs, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.store = folder / "results.db"
        self.script = folder / "fit.py"
        self.gate = folder / "gate"
        self.gate.touch()
        self.script.write_text(FIT.format(ledger=str(folder / "ledger"), gate=str(self.gate)))

    def run(self, die_at: int = 0, *, store: bool = True) -> str:
        """Run the script to its end, or its death; what it said."""
        process = self.cluster.script(self.script, str(self.store) if store else "", str(die_at))
        process.wait(90)
        assert process.returncode == (-signal.SIGKILL if die_at else 0), self.cluster.said(process)
        return self.cluster.said(process)

    def begun(self) -> Counter[int]:
        """How often each task has begun."""
        path = self.folder / "ledger"
        return Counter(int(line) for line in path.read_text().split()) if path.exists() else Counter()

    def kept(self) -> int:
        """How many results the store has."""
        with Store(self.store) as store:
            return store.run("fit").done


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in PATIENT.items():
        monkeypatch.setenv(name, text)


@pytest.fixture
def fits(cluster: Programs, tmp_path: Path) -> Fits:
    return Fits(cluster, tmp_path)


def kill(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.wait()


def begin(cluster: Programs, *flags: str, port: int = 0) -> list[subprocess.Popen[str]]:
    scheduler = cluster.scheduler("test", *flags, port=port, DISTCOMP_RESTART_GRACE_S="0.5")
    until(lambda: "journal" in cluster.said(scheduler), "the scheduler is up")
    return [scheduler, cluster.worker()]


# --- run again ------------------------------------------------------------------------------------


def test_a_killed_script_run_again_computes_nothing_twice(fits: Fits) -> None:
    begin(fits.cluster)
    fits.run(die_at=20)
    fits.run(die_at=70)
    said = fits.run()
    assert f"sum {sum(SQUARES)}" in said
    assert f"already holds {TASKS} tasks" in said
    assert fits.begun() == Counter(range(TASKS))
    for path in fits.folder.glob("results.db*"):
        path.unlink()
    assert f"0 of {TASKS} from the store" in fits.run()
    assert fits.begun() == Counter(dict.fromkeys(range(TASKS), 2))


@pytest.mark.parametrize("flags", [(), ("--fresh",)], ids=["journal", "journal lost"])
def test_after_everything_has_died_only_what_is_missing_is_computed(
    fits: Fits, flags: tuple[str, ...]
) -> None:
    programs = begin(fits.cluster)
    port = parse_address(fits.cluster.access().addresses[0]).port
    fits.gate.unlink()
    fits.run(die_at=30)
    kill(*programs)
    fits.gate.touch()
    kept, before = fits.kept(), fits.begun().total()
    assert 0 < kept < TASKS
    begin(fits.cluster, *flags, port=port)
    assert f"sum {sum(SQUARES)}" in fits.run()
    assert set(fits.begun()) == set(range(TASKS))
    assert fits.begun().total() - before <= TASKS - kept


# --- attach ---------------------------------------------------------------------------------------


def test_without_a_store_another_process_collects_a_run_whose_script_has_died(fits: Fits) -> None:
    begin(fits.cluster)
    fits.run(die_at=10, store=False)
    with Client() as client, client.attach("fit") as run:
        assert (run.name, len(run), len(run.arrays)) == ("fit", TASKS, 1)
        assert run.gather() == SQUARES
        assert (run.done_count, run.failed_count, run.done()) == (TASKS, 0, True)
        assert [future.result() for future in run.futures] == SQUARES
    assert fits.begun() == Counter(range(TASKS))
    said = fits.run(store=False)
    assert f"the run 'fit' already holds {TASKS} tasks" in said
    assert "with store= they would be recognised" in said
    with Client() as client:  # nothing of it was acknowledged
        assert list(client.attach("fit")) == SQUARES * 2


def test_what_the_scheduler_let_go_of_comes_from_the_store(fits: Fits) -> None:
    begin(fits.cluster)
    fits.run(die_at=40)
    with Client(store=fits.store) as client:
        assert client.attach("fit").gather() == SQUARES
        until(lambda: client.status().totals.unread_bytes == 0, "all is acknowledged")
    with Client(store=fits.store) as client:
        assert client.attach("fit").gather() == SQUARES
    with Client() as client:
        run = client.attach("fit")
        assert len(run) == TASKS
        with pytest.raises(SchedulerLostError, match="another process has received this result"):
            run.gather()


def test_a_run_can_be_read_when_the_scheduler_has_forgotten_it(fits: Fits) -> None:
    programs = begin(fits.cluster)
    port = parse_address(fits.cluster.access().addresses[0]).port
    fits.run()
    kill(*programs)
    begin(fits.cluster, "--fresh", port=port)
    with Client(store=fits.store) as client:
        assert client.attach("fit").gather() == SQUARES


def test_failures_of_a_run_are_collected_too_until_it_is_forgotten(cluster: Programs, tmp_path: Path) -> None:
    begin(cluster)
    with Client(store=tmp_path / "results.db") as client:
        array = client.options(run="fit").map(len, ["a", 7, "bc"])
        assert array.results(on_error="skip") == [1, 2]
    with Client(store=tmp_path / "results.db") as client:
        run = client.attach("fit")
        until(lambda: run.failed_count == 1, "the failure is here")
        with pytest.raises(TypeError, match="has no len"):
            run.futures[1].result()
        run.forget()
        with pytest.raises(UnknownRunError, match="forgotten"):
            client.attach("fit")
        assert client.store is not None
        assert client.store.runs() == []


def test_who_cannot_have_a_run_is_told_why(cluster: Programs) -> None:
    begin(cluster)
    with Client() as client, Client(settings=HASTY) as other:
        client.options(run="fit-2024").submit(abs, -1).result()
        with pytest.raises(UnknownRunError, match=r"no run 'fit-2023' .*'fit-2024'"):
            client.attach("fit-2023")
        with pytest.raises(UsageError, match="has its handles already"):
            client.attach("fit-2024")
        with pytest.raises(RunTakenError, match=rf"process {os.getpid()} .* on {socket.gethostname()}"):
            other.options(run="fit-2024")
        with pytest.raises(RunTakenError):
            other.attach("fit-2024")
    with Client() as client:
        assert client.attach("fit-2024").gather() == [1]


def test_what_its_last_holder_received_while_one_waited_for_the_run_is_there(
    cluster: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(cluster)
    holder, other = Client(store=tmp_path / "results.db"), Client(store=tmp_path / "results.db")
    enter = other.enter_run

    def enter_late(name: str, *, attaches: bool) -> RunSession:
        assert holder.options(run="fit").map(abs, [-1, -2]).results() == [1, 2]
        holder.close()
        return enter(name, attaches=attaches)

    with holder, other:
        monkeypatch.setattr(other, "enter_run", enter_late)
        assert other.attach("fit").gather() == [1, 2]


def test_what_was_handed_in_while_one_waited_for_the_run_is_stored_by_who_claims_it(
    cluster: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(cluster)
    gate = tmp_path / "gate"
    with Client(store=tmp_path / "results.db") as client:
        client.options(run="fit").submit(nap, str(gate))
    with Client(store=tmp_path / "results.db") as client:
        monkeypatch.setattr(RunSession, "_read_labels", lambda _: None)  # as if that came after it was read
        future = client.options(run="fit").submit(nap, str(gate))
        until(lambda: future.explain().state == "running", "the task is claimed")
        gate.touch()
        assert future.result() == 7
    with Store(tmp_path / "results.db") as store:
        assert store.run("fit").done == 1


def test_calls_that_a_run_has_twice_are_collected_twice(cluster: Programs, tmp_path: Path) -> None:
    begin(cluster)
    with Client(store=tmp_path / "results.db") as client:
        bound = client.options(run="fit")
        again = [bound.submit(abs, -1) for _ in range(3)]
        assert bound.map(abs, [-1, -2, -1, -2]).results() == [1, 2, 1, 2]
        assert [future.result() for future in again] == [1, 1, 1]
    with Client(store=tmp_path / "results.db") as client:
        run = client.attach("fit")
        assert sorted(run.gather()) == [1] * (len(run) - 2) + [2, 2]
        assert len(run) >= 5
        run.forget()


def test_a_run_that_another_client_has_open_is_not_forgotten_in_part(
    cluster: Programs, tmp_path: Path
) -> None:
    begin(cluster)
    path = tmp_path / "results.db"
    with Client(store=path) as holder, Client(store=path, settings=HASTY) as other:
        assert holder.options(run="fit").submit(abs, -1).result() == 1
        assert holder.store is not None
        store = holder.store
        until(lambda: store.run("fit").done, "the result is kept")
        with pytest.raises(RunTakenError, match="end that first"):
            other.forget_run("fit")
        assert store.run("fit").done == 1


# --- how a client leaves --------------------------------------------------------------------------


def nap(path: str) -> int:
    while not Path(path).exists():
        time.sleep(0.005)
    return 7


def leave_by_an_error(gate: Path) -> None:
    with contextlib.suppress(KeyError), Client() as client:
        future = client.options(run="two").submit(nap, str(gate))
        until(lambda: future.explain().state != "sending", "it was handed in")
        raise KeyError


def test_a_client_leaves_its_run_without_waiting_and_an_error_cancels_nothing(
    cluster: Programs, tmp_path: Path
) -> None:
    begin(cluster)
    gate = tmp_path / "gate"
    with Client() as client:
        client.options(run="one").submit(nap, str(gate))
    leave_by_an_error(gate)
    gate.touch()
    with Client() as client:
        assert client.attach("one").gather() == [7]
        assert client.attach("two").gather() == [7]


def test_a_client_has_a_bounded_number_of_runs() -> None:
    with Client("inline:", settings=ClientSettings(max_runs=1)) as client:
        run = client.options(run="one")
        assert run.submit(abs, -1).result() == 1
        assert run.options(priority=3).submit(abs, -2).result() == 2
        with pytest.raises(UsageError, match="max_runs"):
            client.options(run="two")


def test_outcomes_are_let_go_of_only_when_they_are_stored(
    cluster: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(cluster)
    waiting = []
    written = Store.received
    monkeypatch.setattr(Store, "received", lambda *given: waiting.append(given))
    with Client(store=tmp_path / "results.db") as client, Client() as other:
        future = client.options(run="fit").submit(abs, -1)
        assert future.result() == 1
        until(lambda: waiting, "the outcome is with the store")
        assert other.status().totals.unread_bytes > 0
        for given in waiting:
            written(*given)
        until(lambda: other.status().totals.unread_bytes == 0, "the outcome was acknowledged")


def test_a_store_that_fails_is_said_and_costs_no_result(
    cluster: Programs, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(cluster)
    with Client(store=tmp_path / "results.db") as client:
        bound = client.options(run="fit")
        assert bound.submit(abs, -1).result() == 1
        store = client.store
        assert store is not None
        until(lambda: store.run("fit").done, "the first result is kept")
        monkeypatch.setattr("distcomp.store_writer.Commit.write", lambda *_: 1 / 0)
        with caplog.at_level(logging.ERROR, "distcomp"):
            assert bound.submit(abs, -2).result() == 2
            assert bound.submit(abs, -3).result() == 3
            until(lambda: not client._belongings.fresh, "nothing is kept in memory for a store that is none")
    assert "from now on results are not kept there" in caplog.text
    with Client() as client:  # what could not be stored stayed with the scheduler
        assert [future.result() for future in client.attach("fit").futures[1:]] == [2, 3]


def test_two_threads_that_enter_a_run_at_once_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[int] = []

    class Overtaken(Client):
        """One of which another thread enters the run while this one is about to."""

        def check_usable(self) -> None:
            super().check_usable()
            if threading.current_thread() is threading.main_thread():
                thread = threading.Thread(target=lambda: answers.append(submit()))
                thread.start()
                thread.join()

    def submit() -> int:
        return client.options(run="fit").submit(abs, -7).result()

    monkeypatch.setenv("DISTCOMP_HOME", str(tmp_path))
    with Overtaken(slots=1) as client:
        assert (submit(), answers) == (7, [7])
