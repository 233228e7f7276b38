from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from fake_scheduler import SESSION, FakeScheduler
from processes import alive

from distcomp import slots, transport
from distcomp.config import WorkerSettings
from distcomp.errors import AuthenticationError, RoleError, SlotsUnavailableError
from distcomp.protocol import Refused
from distcomp.worker import WorkerProgram
from distcomp.worker_protocol import (
    CancelLease,
    EndSession,
    RegisterWorker,
    RetractLease,
    SlotsReported,
    WorkerDraining,
    WorkerLeft,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from typing_extensions import Self

    from distcomp.ids import Token


DEADLINE_S = 60.0
ROUNDS = 4
"""How often something may be slow before it counts as slow by itself, and not by the machine's doing."""


class Bench:
    """A worker program beside a fake scheduler on one loop."""

    def __init__(self, slots: int, settings: dict[str, Any]) -> None:
        self.scheduler = FakeScheduler()
        self.slots = slots
        self.settings = WorkerSettings.from_environment(
            {}, **{"backoff_first_s": 0.02, "backoff_most_s": 0.1, **settings}
        )
        self.lines: list[str] = []
        self.program: Any = None
        self.ended: Any = None

    async def __aenter__(self) -> Self:
        await self.scheduler.start()
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.program.request_stop()
        await asyncio.wait([self.ended], timeout=DEADLINE_S)
        assert self.ended.done()
        self.ended.exception()
        await self.scheduler.stop()

    def start(self) -> None:
        """Start the worker program."""
        self.program = WorkerProgram(
            self.settings, self.scheduler.access(), name="left", slots=self.slots, log=self._log
        )
        self.ended = asyncio.ensure_future(self.program.run())

    async def outcome(self) -> str:
        """How the worker ended, once it has; the test fails if it does not."""
        reason: str = await asyncio.wait_for(self.ended, DEADLINE_S)
        return reason

    def _log(self, level: str, text: str, **values: Any) -> None:
        self.lines.append(f"{level} {text} {values}")


def on_bench(
    body: Callable[[Bench, FakeScheduler], Coroutine[Any, Any, None]], slots: int = 1, **settings: Any
) -> None:
    """Run a test's body with a worker that is registered."""

    async def whole() -> None:
        async with Bench(slots, settings) as bench:
            await bench.scheduler.until(lambda: bool(bench.scheduler.messages) or bench.ended.done())
            if bench.ended.done():
                bench.ended.result()
            await body(bench, bench.scheduler)

    loop = transport.new_event_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(whole(), 5 * DEADLINE_S))
    finally:
        loop.close()


# --- what tasks do (they travel by value, with what they import) ---------------------------------


def square(x: int) -> int:
    return x * x


def process_id(_: int) -> int:
    return os.getpid()


def sleep_for(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def spin_for_ever(_: int) -> None:
    while True:
        pass


def hold_the_gil(_: int) -> int:
    return len(str(7 ** (7**8)))  # C code that looks at no signal for minutes


def crash_at(index: int, bad: int) -> int:
    os.write(1, f"task {index}\n".encode())
    if index == bad:
        os.kill(os.getpid(), signal.SIGSEGV)
    return index


def mark_then_wait(mark: Path, gate: Path) -> str:
    mark.touch()
    while not gate.exists():
        time.sleep(0.005)
    return mark.name


def start_a_child_and_sleep(mark: Path) -> None:
    child = subprocess.Popen(["sleep", "1000"])
    part = mark.with_suffix(".part")
    part.write_text(str(child.pid))
    part.rename(mark)
    time.sleep(1000)


async def until(condition: Callable[[], bool], patience_s: float = DEADLINE_S) -> None:
    """Wait for something that sends no news, by looking often."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


# --- the plain way --------------------------------------------------------------------------------


def test_a_lease_runs_end_to_end() -> None:
    async def body(bench: Bench, scheduler: FakeScheduler) -> None:
        token = scheduler.grant(square, [(x,) for x in range(100)])
        await scheduler.answered(token, 100)
        assert scheduler.results(token) == {x: x * x for x in range(100)}
        again = scheduler.grant(square, [(7,)])
        await scheduler.answered(again, 1)
        assert scheduler.results(again) == {0: 49}
        assert not any(line.startswith("error") for line in bench.lines)

    on_bench(body)


def test_many_leases_run_in_order_on_several_slots() -> None:
    async def body(_: Bench, scheduler: FakeScheduler) -> None:
        tokens = [scheduler.grant(square, [(x,), (x + 1,)]) for x in range(50)]
        for x, token in enumerate(tokens):
            await scheduler.answered(token, 2)
            assert scheduler.results(token) == {0: x * x, 1: (x + 1) ** 2}

    on_bench(body, slots=3, waiting_lease_s=DEADLINE_S)


def test_a_run_fetched_ahead_takes_no_hop_between() -> None:
    async def body(_: Bench, scheduler: FakeScheduler) -> None:
        tokens = [scheduler.grant(process_id, [(0,)]) for _ in range(3)]
        for token in tokens:
            await scheduler.answered(token, 1)
        assert len({scheduler.results(token)[0] for token in tokens}) == 1

    on_bench(body, waiting_lease_s=DEADLINE_S)


def test_the_end_of_a_session_ends_its_processes() -> None:
    async def body(_: Bench, scheduler: FakeScheduler) -> None:
        token = scheduler.grant(process_id, [(0,)])
        await scheduler.answered(token, 1)
        pid = scheduler.results(token)[0]
        assert alive(pid)
        scheduler.send(EndSession(SESSION))
        await until(lambda: not alive(pid))

    on_bench(body)


# --- taking back ----------------------------------------------------------------------------------


def test_the_far_half_of_what_runs_is_given_back_and_the_rest_runs(tmp_path: Path) -> None:
    async def body(_: Bench, scheduler: FakeScheduler) -> None:
        gate = tmp_path / "gate"
        token = scheduler.grant(mark_then_wait, [(tmp_path / str(x), gate) for x in range(9)])
        await until((tmp_path / "0").exists)
        scheduler.send(RetractLease(token, everything=False))
        await scheduler.answered(token, 4)
        assert scheduler.returned(token) == dict.fromkeys(range(5, 9), "retracted")
        gate.touch()
        await scheduler.answered(token, 9)
        assert list(scheduler.results(token)) == [0, 1, 2, 3, 4]

    on_bench(body)


def test_what_waits_behind_a_long_task_goes_back_and_an_urgent_lease_passes(tmp_path: Path) -> None:
    async def body(bench: Bench, scheduler: FakeScheduler) -> None:
        gates = [tmp_path / "gate", tmp_path / "open"]
        gates[1].touch()
        calls = [(tmp_path / str(x), gates[x > 0]) for x in range(5)]
        long = scheduler.grant(mark_then_wait, calls)
        await until((tmp_path / "0").exists)
        waiting = scheduler.grant(square, [(3,)])
        await scheduler.answered(waiting, 1)
        assert scheduler.returned(waiting) == {0: "waited"}
        urgent = scheduler.grant(square, [(4,)], urgent=True)
        await until(lambda: makes_way(bench))
        gates[0].touch()
        await scheduler.answered(urgent, 1)
        assert scheduler.results(urgent) == {0: 16}
        await scheduler.answered(long, 5)
        told = [message.token for message in scheduler.messages if hasattr(message, "runs")]
        assert told.index(urgent) < len(told) - 1

    on_bench(body)


def makes_way(bench: Bench) -> bool:
    """Whether something that runs was told to stop at its next task border for something urgent."""
    processes = bench.program._state._runs.crew.processes.values()
    return any(run.lowered == "urgent" for process in processes for run in process.runs)


# --- ending tasks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [sleep_for, spin_for_ever, hold_the_gil])
def test_a_cancelled_task_is_gone_within_a_second_and_its_slot_works_again(
    function: Callable[..., Any],
) -> None:
    async def body(_: Bench, scheduler: FakeScheduler) -> None:
        warm = scheduler.grant(square, [(1,)])
        await scheduler.answered(warm, 1)
        taken_s = 3600.0
        for _ in range(ROUNDS):
            if taken_s >= 1.0:
                taken_s = await cancelled_in_s(function, scheduler)
        assert taken_s < 1.0

    on_bench(body)


async def cancelled_in_s(function: Callable[..., Any], scheduler: FakeScheduler) -> float:
    """Cancel a task that runs; the seconds until it is gone and another one has run in its place."""
    token = scheduler.grant(function, [(3600,), (0,)])
    await scheduler.until(lambda: is_reported(scheduler, token))
    since = time.monotonic()
    scheduler.send(CancelLease(token, ()))
    await scheduler.answered(token, 2)
    after = scheduler.grant(square, [(5,)])
    await scheduler.answered(after, 1)
    taken_s = time.monotonic() - since
    assert scheduler.returned(token) == {0: "cancelled", 1: "cancelled"}
    assert scheduler.results(after) == {0: 25}
    return taken_s


def is_reported(scheduler: FakeScheduler, token: Token) -> bool:
    """Whether a task of a lease was said to run."""
    return any(token == told for report in scheduler.of(SlotsReported) for told, *_ in report.running)


@pytest.mark.parametrize("function", [sleep_for, spin_for_ever, hold_the_gil])
def test_a_task_past_its_timeout_fails_with_its_stacks_and_its_neighbour_runs(
    function: Callable[..., Any],
) -> None:
    async def body(_: Bench, scheduler: FakeScheduler) -> None:
        taken_s, stacks = 3600.0, ""
        for _ in range(ROUNDS):
            # One that had to wait for the machine may be asked for stacks before it has come to the function.
            if taken_s >= 2.0 or function.__name__ not in stacks:
                taken_s, stacks = await timed_out(function, scheduler)
        assert taken_s < 2.0
        assert function.__name__ in stacks

    on_bench(body)


async def timed_out(function: Callable[..., Any], scheduler: FakeScheduler) -> tuple[float, str]:
    """Let a task run into its timeout; the seconds until it has failed, and its stacks."""
    since = time.monotonic()
    token = scheduler.grant(function, [(3600,)], timeout_s=0.3)
    behind = scheduler.grant(square, [(5,)])
    await scheduler.answered(token, 1)
    taken_s = time.monotonic() - since
    failure = scheduler.failures(token)[0]
    assert (failure.kind, failure.retriable, failure.worker) == ("timeout", True, "left")
    await scheduler.answered(behind, 1)
    return taken_s, failure.stacks


def test_what_a_cancelled_task_started_ends_with_it(tmp_path: Path) -> None:
    async def body(_: Bench, scheduler: FakeScheduler) -> None:
        mark = tmp_path / "pid"
        token = scheduler.grant(start_a_child_and_sleep, [(mark,)])
        await until(mark.exists)
        child = int(mark.read_text())
        assert alive(child)
        scheduler.send(CancelLease(token, ()))
        await scheduler.answered(token, 1)
        scheduler.send(EndSession(SESSION))
        await until(lambda: not alive(child))

    on_bench(body)


def test_a_crash_is_charged_to_its_task_alone_and_the_slot_works_again() -> None:
    async def body(_: Bench, scheduler: FakeScheduler) -> None:
        token = scheduler.grant(crash_at, [(x, 3) for x in range(6)])
        await scheduler.answered(token, 6)
        failures = scheduler.failures(token)
        assert [(index, failure.kind) for index, failure in failures.items()] == [(3, "crashed")]
        assert "SIGSEGV" in failures[3].text
        assert "task 3" in failures[3].output
        assert set(scheduler.returned(token).values()) == {"neighbour"}
        after = scheduler.grant(square, [(5,)])
        await scheduler.answered(after, 1)
        assert scheduler.results(after) == {0: 25}

    on_bench(body)


def test_a_slot_killed_from_outside_is_replaced() -> None:
    async def body(_: Bench, scheduler: FakeScheduler) -> None:
        token = scheduler.grant(process_id, [(0,)])
        await scheduler.answered(token, 1)
        pid = scheduler.results(token)[0]
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not alive(pid))
        again = scheduler.grant(process_id, [(0,)])
        await scheduler.answered(again, 1)
        assert (scheduler.results(again) or scheduler.returned(again)).keys() == {0}

    on_bench(body)


# --- the connection -------------------------------------------------------------------------------


def test_what_runs_is_reported(tmp_path: Path) -> None:
    async def body(_: Bench, scheduler: FakeScheduler) -> None:
        since = time.monotonic()
        token = scheduler.grant(mark_then_wait, [(tmp_path / "mark", tmp_path / "gate")])
        (report, *_) = await scheduler.heard(SlotsReported)
        ((reported, index, running_s),) = report.running
        assert (reported, index) == (token, 0)
        assert 0.04 < running_s < time.monotonic() - since
        (tmp_path / "gate").touch()
        await scheduler.answered(token, 1)

    on_bench(body)


def test_a_lost_scheduler_costs_nothing_that_ran_and_nothing_acknowledged_comes_twice(tmp_path: Path) -> None:
    async def body(bench: Bench, scheduler: FakeScheduler) -> None:
        gate = tmp_path / "gate"
        first = scheduler.grant(square, [(2,)])
        await scheduler.answered(first, 1)
        token = scheduler.grant(mark_then_wait, [(tmp_path / str(x), gate) for x in range(3)])
        await until((tmp_path / "0").exists)
        await scheduler.stop()
        gate.touch()
        await until((tmp_path / "2").exists)
        scheduler.messages.clear()
        await until(lambda: sum("next_attempt" in line for line in bench.lines) >= 2)
        await scheduler.start()
        await scheduler.answered(token, 3)
        (registered,) = scheduler.of(RegisterWorker)
        assert [(lease.token, lease.spans) for lease in registered.leases] == [(token, ((0, 3),))]
        assert scheduler.results(token) == {0: "0", 1: "1", 2: "2"}
        assert scheduler.results(first) == {}

    on_bench(body)


def test_what_is_not_acknowledged_is_told_again() -> None:
    async def body(_: Bench, scheduler: FakeScheduler) -> None:
        scheduler.acks = False
        token = scheduler.grant(square, [(2,)])
        await scheduler.answered(token, 1)
        await scheduler.stop()
        scheduler.messages.clear()
        await scheduler.start()
        await scheduler.answered(token, 1)
        assert scheduler.results(token) == {0: 4}

    on_bench(body)


def test_leases_that_a_new_scheduler_calls_stale_are_ended() -> None:
    async def body(_: Bench, scheduler: FakeScheduler) -> None:
        token = scheduler.grant(sleep_for, [(3600.0,)])
        await scheduler.heard(SlotsReported)
        await scheduler.stop()
        scheduler.messages.clear()
        scheduler.epoch = 2
        scheduler.stale = True
        await scheduler.start()
        await scheduler.answered(token, 1)
        assert scheduler.returned(token) == {0: "cancelled"}
        after = scheduler.grant(square, [(5,)])
        await scheduler.answered(after, 1)
        assert scheduler.results(after) == {0: 25}

    on_bench(body)


def test_a_worker_with_a_wrong_secret_ends_at_once() -> None:
    async def body() -> None:
        bench = Bench(1, {})
        bench.scheduler.secret = b"y" * 32
        async with bench:
            with pytest.raises(AuthenticationError):
                await bench.outcome()

    loop = transport.new_event_loop()
    try:
        loop.run_until_complete(body())
    finally:
        loop.close()


def test_a_worker_that_is_turned_away_for_good_ends_at_once() -> None:
    async def body(bench: Bench, scheduler: FakeScheduler) -> None:
        await scheduler.until(lambda: scheduler.connection is not None)
        scheduler.send(Refused("role", "no workers here"))
        with pytest.raises(RoleError, match="no workers here"):
            await bench.outcome()

    on_bench(body)


def test_a_scheduler_that_is_not_there_yet_is_tried_again_with_one_line_a_step() -> None:
    async def body() -> None:
        bench = Bench(1, {})
        async with bench:
            await bench.scheduler.heard(RegisterWorker)
            await bench.scheduler.stop()
            bench.lines.clear()
            await until(lambda: len(bench.lines) >= 4)
            assert all("next_attempt_s" in line for line in bench.lines[:4])
            levels = [line.split()[0] for line in bench.lines[:4]]
            assert levels == ["warning", "warning", "debug", "debug"], "what is no news is not repeated"
            await bench.scheduler.start()
            await bench.scheduler.heard(RegisterWorker, 2)

    loop = transport.new_event_loop()
    try:
        loop.run_until_complete(body())
    finally:
        loop.close()


# --- leaving --------------------------------------------------------------------------------------


def test_a_draining_worker_hands_back_finishes_and_leaves(tmp_path: Path) -> None:
    async def body(bench: Bench, scheduler: FakeScheduler) -> None:
        gate = tmp_path / "gate"
        token = scheduler.grant(mark_then_wait, [(tmp_path / str(x), gate) for x in range(3)])
        await until((tmp_path / "0").exists)
        bench.program.request_drain()
        await scheduler.answered(token, 2)
        assert scheduler.returned(token) == {1: "drained", 2: "drained"}
        assert not bench.ended.done()
        gate.touch()
        assert await bench.outcome() == "drained"
        await scheduler.until(lambda: scheduler.connection is None)
        assert scheduler.results(token) == {0: "0"}
        assert len(scheduler.of(WorkerDraining)) == 1
        assert isinstance(scheduler.messages[-1], WorkerLeft)

    on_bench(body)


def test_asked_twice_a_worker_leaves_now_and_its_tasks_end(tmp_path: Path) -> None:
    async def body(bench: Bench, scheduler: FakeScheduler) -> None:
        mark = tmp_path / "pid"
        scheduler.grant(start_a_child_and_sleep, [(mark,)])
        await until(mark.exists)
        bench.program.request_drain()
        bench.program.request_drain()
        await bench.outcome()
        await scheduler.heard(WorkerLeft)
        await until(lambda: not alive(int(mark.read_text())))

    on_bench(body)


def test_a_worker_whose_template_cannot_start_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "PROGRAM", "raise SystemExit(3)")

    async def main() -> None:
        bench = Bench(1, {"template_restarts": 2, "spare_delay_s": 0.0})
        async with bench:
            with pytest.raises(SlotsUnavailableError, match="ended 3 times within 60 s"):
                await bench.outcome()
        assert bench.scheduler.messages == []

    asyncio.run(main())


def test_a_worker_whose_template_can_start_no_more_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(bench: Bench, scheduler: FakeScheduler) -> None:
        monkeypatch.setattr(slots, "PROGRAM", "raise SystemExit(3)")
        os.kill(bench.program._pool._template._process.pid, signal.SIGKILL)
        while not bench.ended.done():
            if scheduler.connection is not None:
                scheduler.grant(square, [(1,)])
            await asyncio.wait([bench.ended], timeout=0.02)
        with pytest.raises(SlotsUnavailableError, match="no slot process could be started 2 times in a row"):
            await bench.outcome()

    on_bench(body, template_restarts=1, spare_delay_s=0.0, process_retry_s=0.01, process_attempts=2)
