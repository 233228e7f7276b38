"""Real slot processes: every way in which a task can end, and what stays of it."""

# ruff: noqa: T201 - the tasks of these tests print
from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from processes import alive

from distcomp import slots
from distcomp.config import SLOT_VARIABLE, SlotSettings
from distcomp.errors import SlotsUnavailableError
from distcomp.payload import (
    dump_environment,
    dump_function,
    load_failure,
    open_results,
    pack_calls,
)
from distcomp.protocol import DefineFunction
from distcomp.rows import Failure
from distcomp.slots import IDLE, SlotEnd, SlotPool, SlotProcess, task_environment, thread_limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from distcomp.slot_protocol import RunLogged, RunProgressed

SESSION, OTHER = b"s" * 16, b"o" * 16
DEADLINE_S = 60.0


class Recorder:
    """Listens to slot processes, and waits with a deadline for what a test expects."""

    def __init__(self) -> None:
        self.ready: dict[int, str] = {}
        self.reports: list[tuple[int, RunProgressed]] = []
        self.ends: dict[int, SlotEnd] = {}

    def slot_ready(self, process: SlotProcess, problem: str) -> None:
        self.ready[process.number] = problem

    def run_progressed(self, process: SlotProcess, progress: RunProgressed) -> None:
        self.reports.append((process.number, progress))

    def run_logged(self, process: SlotProcess, logged: RunLogged) -> None:
        pass

    def slot_exited(self, process: SlotProcess, end: SlotEnd) -> None:
        self.ends[process.number] = end

    def results(self, process: SlotProcess, run: int) -> dict[int, Any]:
        """Values and failures of a run, by index; no index may come twice."""
        found: dict[int, Any] = {}
        for number, report in self.reports:
            if (number, report.run) != (process.number, run):
                continue
            for start, stop, blob in report.runs:
                for index, value in zip(range(start, stop), open_results(blob), strict=True):
                    assert index not in found
                    found[index] = value
            for index, failure in report.failures:
                assert index not in found
                found[index] = failure
        return found

    def ended(self, process: SlotProcess, run: int) -> bool:
        return any(n == process.number and r.run == run and r.ended for n, r in self.reports)

    async def all_of(self, process: SlotProcess, run: int) -> dict[int, Any]:
        await until(lambda: self.ended(process, run) or process.number in self.ends)
        assert self.ended(process, run), self.ends
        return self.results(process, run)

    async def end_of(self, process: SlotProcess) -> SlotEnd:
        await until(lambda: process.number in self.ends)
        return self.ends[process.number]


async def until(condition: Callable[[], Any], within_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.0005)


async def dumped(process: SlotProcess, words: str) -> None:
    """Ask for stacks until the task itself shows in them: at first it is still being loaded."""
    deadline = time.monotonic() + DEADLINE_S
    while words not in process.stacks() and time.monotonic() < deadline:
        process.dump_stacks()
        await asyncio.sleep(0.01)
    assert words in process.stacks()


def define(
    function: Callable[..., Any], retry_on: tuple[type[BaseException], ...] | None = None
) -> DefineFunction:
    function_id, blob = dump_function(function, retry_on, shares_path=False)
    return DefineFunction(function_id, "test", blob)


def chunk_of(*calls: tuple[Any, ...]) -> bytes:
    (packed,) = pack_calls([(args, {}) for args in calls])
    return packed.blob


def start(
    process: SlotProcess, function: Callable[..., Any], *calls: tuple[Any, ...], eager: bool = False
) -> int:
    return process.start_run(define(function), 0, len(calls), 0, chunk_of(*calls), eager=eager)


@asynccontextmanager
async def pool_of(**settings: Any) -> AsyncIterator[tuple[SlotPool, Recorder]]:
    recorder = Recorder()
    pool = SlotPool(SlotSettings(**settings), recorder, slots=2)
    await pool.start()
    try:
        yield pool, recorder
    finally:
        await pool.close()


def run_async(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def open_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir() if path.exists()}


# --- the ordinary life of a run -------------------------------------------------------------------


def test_results_come_back_by_index() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            run = start(process, lambda x: [x, x * x], *[(i,) for i in range(100)])
            assert await recorder.all_of(process, run) == {i: [i, i * i] for i in range(100)}
            last = recorder.reports[-1][1]
            assert (last.reached, last.ended) == (100, True)
            assert sum(report.busy_s for _, report in recorder.reports) > 0
            assert process.outstanding == ()
            assert process.progress() == IDLE
            assert recorder.ready == {process.number: ""}

    run_async(main())


def test_a_part_of_a_chunk_is_run_and_runs_follow_in_order() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            chunk = chunk_of(*[(i,) for i in range(10)])
            function = define(lambda x: x + 1000)
            first = process.start_run(function, 22, 25, 20, chunk, eager=False)
            second = process.start_run(function, 25, 30, 20, chunk, eager=False)
            assert process.outstanding == (first, second)
            assert await recorder.all_of(process, second) == {i: i - 20 + 1000 for i in range(25, 30)}
            assert recorder.results(process, first) == {i: i - 20 + 1000 for i in range(22, 25)}

    run_async(main())


def test_nonsense_runs_are_refused() -> None:
    async def main() -> None:
        async with pool_of() as (pool, _):
            process = pool.take(SESSION, b"")
            with pytest.raises(ValueError, match="cannot start"):
                process.start_run(define(abs), 5, 5, 0, b"", eager=False)
            for _ in range(8):
                start(process, time.sleep, (3600,))
            with pytest.raises(ValueError, match="8 outstanding"):
                start(process, time.sleep, (3600,))
            with pytest.raises(ValueError, match="cannot be given back"):
                pool.give_back(process)

    run_async(main())


def test_what_is_finished_comes_while_a_task_still_runs() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            run = start(process, lambda s: time.sleep(s) or s, (0,), (0,), (3600,))
            await until(lambda: recorder.results(process, run) == {0: 0, 1: 0})
            await until(lambda: process.progress()[:2] == (run, 2))
            assert not recorder.ended(process, run)

    run_async(main())


def test_eager_runs_report_each_result() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            run = start(process, abs, (1,), (-2,), (3,), eager=True)
            assert await recorder.all_of(process, run) == {0: 1, 1: 2, 2: 3}
            assert len(recorder.reports) >= 3

    run_async(main())


def test_large_arguments_and_results_travel_whole() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            run = start(process, lambda data: data + b"!", (bytes(9 << 20),))
            (result,) = (await recorder.all_of(process, run)).values()
            assert len(result) == (9 << 20) + 1

    run_async(main())


def test_a_result_above_the_limit_fails_its_own_task() -> None:
    async def main() -> None:
        recorder = Recorder()
        pool = SlotPool(SlotSettings(), recorder, slots=1, max_payload_bytes=1000)
        await pool.start()
        process = pool.take(SESSION, b"")
        run = start(process, bytes, (10,), (5000,), (20,))
        found = await recorder.all_of(process, run)
        await pool.close()
        assert (found[0], found[2]) == (bytes(10), bytes(20))
        assert found[1].kind == "unpicklable"
        assert "max_payload_bytes" in found[1].text

    run_async(main())


def test_many_functions_come_and_go_within_their_bound() -> None:
    async def main() -> None:
        async with pool_of(functions_per_slot=2) as (pool, recorder):
            process = pool.take(SESSION, b"")
            functions = [define(lambda x, k=k: x + k) for k in range(5)]
            for _ in range(2):
                for k, function in enumerate(functions):
                    run = process.start_run(function, 0, 1, 0, chunk_of((1,)), eager=False)
                    assert await recorder.all_of(process, run) == {0: 1 + k}

    run_async(main())


# --- tasks that fail ------------------------------------------------------------------------------


def fail_at_odd(x: int) -> int:
    print(f"working on {x}")
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x


def test_a_failure_touches_no_neighbour() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            run = start(process, fail_at_odd, *[(i,) for i in range(6)])
            found = await recorder.all_of(process, run)
            assert {i: v for i, v in found.items() if i % 2 == 0} == {0: 0, 2: 2, 4: 4}
            for index in (1, 3, 5):
                failure = found[index]
                assert (failure.kind, failure.type_name) == ("exception", "ValueError")
                assert failure.retriable
                assert failure.output == f"working on {index}\n"
                assert "fail_at_odd" in failure.traceback
                assert isinstance(load_failure(failure), ValueError)

    run_async(main())


def test_only_named_exceptions_are_retriable() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            function = define(fail_at_odd, (KeyError,))
            run = process.start_run(function, 0, 2, 0, chunk_of((0,), (1,)), eager=False)
            assert not (await recorder.all_of(process, run))[1].retriable

    run_async(main())


def leave_by(how: str) -> None:
    if how == "exit":
        sys.exit(3)
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "stop":
        raise StopIteration
    if how == "recursion":
        leave_by(how)
    if how == "generator":
        raise GeneratorExit


def test_whatever_a_task_raises_is_its_own_failure() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            ways = ("exit", "interrupt", "stop", "recursion", "generator", "none")
            run = start(process, leave_by, *[(way,) for way in ways])
            found = await recorder.all_of(process, run)
            names = [found[i].type_name.removeprefix("builtins.") for i in range(5)]
            assert names == [
                "SystemExit",
                "KeyboardInterrupt",
                "StopIteration",
                "RecursionError",
                "GeneratorExit",
            ]
            assert found[5] is None
            assert not found[0].retriable

    run_async(main())


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("not me")


class Unloadable:
    def __reduce__(self) -> Any:
        return (int, ("no number",))


def make(kind: str) -> Any:
    return {"good": 1, "bad": Unpicklable()}[kind]


def test_a_result_that_does_not_pickle_fails_alone() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            run = start(process, make, ("good",), ("bad",), ("good",))
            found = await recorder.all_of(process, run)
            assert (found[0], found[2]) == (1, 1)
            assert found[1].kind == "unpicklable"

    run_async(main())


def test_a_function_that_does_not_load_fails_each_task() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            broken = DefineFunction(b"x" * 32, "broken", b"no pickle")
            run = process.start_run(broken, 0, 3, 0, chunk_of((1,), (2,), (3,)), eager=False)
            found = await recorder.all_of(process, run)
            assert [found[i].kind for i in range(3)] == ["unloadable"] * 3

    run_async(main())


def test_a_broken_or_short_chunk_fails_its_tasks_only() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            broken = process.start_run(define(abs), 0, 2, 0, b"no chunk", eager=False)
            short = process.start_run(define(abs), 0, 3, 0, chunk_of((-1,), (-2,)), eager=False)
            assert {f.kind for f in (await recorder.all_of(process, broken)).values()} == {"unloadable"}
            found = await recorder.all_of(process, short)
            assert (found[0], found[1]) == (1, 2)
            assert found[2].kind == "unloadable"

    run_async(main())


# --- output ---------------------------------------------------------------------------------------


def print_everywhere(x: int) -> None:
    print("by python")
    print("on stderr", file=sys.stderr)
    os.write(1, b"by descriptor\n")
    subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
    if x:
        raise ValueError("done")


def test_all_that_a_task_printed_is_in_its_failure() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            run = start(process, print_everywhere, (1,))
            (failure,) = (await recorder.all_of(process, run)).values()
            for words in ("by python", "on stderr", "by descriptor", "by a child"):
                assert words in failure.output

    run_async(main())


def print_much() -> None:
    for i in range(30_000):
        print(f"line {i}")
    raise ValueError


def test_the_last_64_kib_are_kept() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            (failure,) = (await recorder.all_of(process, start(process, print_much, ()))).values()
            assert len(failure.output) == 64 << 10
            assert failure.output.endswith("line 29999\n")

    run_async(main())


# --- slot processes that end ----------------------------------------------------------------------


def end_by(how: str) -> Any:
    if how == "work":
        return "worked"
    print("before the end")
    if how == "exit":
        os._exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    import ctypes  # noqa: PLC0415 - pickled by value: what it needs comes along inside

    return ctypes.string_at(0)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("exit", "exited with code 3"),
        ("kill", "killed by signal 9 (SIGKILL)"),
        ("segfault", "killed by signal 11 (SIGSEGV)"),
    ],
)
def test_a_dead_slot_names_the_task_that_it_died_of(how: str, words: str) -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            run = start(process, end_by, ("work",), (how,), ("work",))
            end = await recorder.end_of(process)
            assert end.words == words
            assert (end.run, end.task_index, end.killed_for) == (run, 1, None)
            assert end.output == "before the end\n"
            assert ("end_by" in end.stacks) == (how == "segfault")
            assert set(recorder.results(process, run)) <= {0}
            again = pool.take(SESSION, b"")
            assert await recorder.all_of(again, start(again, abs, (-4,))) == {0: 4}

    run_async(main())


def test_how_a_slot_died_is_told_although_it_had_not_read_all() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            run = start(process, spin, ())
            await until(lambda: process.progress().run == run)
            start(process, len, (bytes(1 << 20),))
            assert process.kill(run, 0)
            end = await recorder.end_of(process)
            assert (end.words, end.run) == ("killed by signal 9 (SIGKILL)", run)

    run_async(main())


def test_runs_started_after_the_death_are_lost_with_it() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            start(process, end_by, ("exit",))
            await recorder.end_of(process)
            run = start(process, abs, (1,))
            assert run in process.outstanding
            assert process.lower_stop(run, 0) == 1
            assert process.progress() == IDLE
            assert not process.kill(run, 0)
            process.kill_now()
            process.dump_stacks()

    run_async(main())


# --- taking back ----------------------------------------------------------------------------------


def hold_from_2(number: int, gate: str) -> None:
    while number >= 2 and not os.path.exists(gate):  # noqa: PTH110 - pickled by value: less comes along inside
        time.sleep(0.005)


def test_what_has_not_begun_is_taken_back(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            run = start(process, hold_from_2, *[(number, str(gate)) for number in range(50)])
            behind = start(process, abs, (1,), (2,))
            await until(lambda: process.progress().task_index >= 2)
            taken_from = process.lower_stop(run, 0)
            assert process.lower_stop(behind, 0) == 0
            gate.touch()
            found = await recorder.all_of(process, run)
            assert taken_from - 1 <= len(found) <= taken_from < 50
            assert await recorder.all_of(process, behind) == {}
            assert recorder.reports[-1][1].reached == 0
            assert process.lower_stop(run, 0) > 50, "an ended run has nothing left to take"

    run_async(main())


def test_taking_back_from_a_racing_slot_never_shares_an_index() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            function, chunk = define(abs), chunk_of(*[(i,) for i in range(4000)])
            rounds = midway = 0
            deadline = time.monotonic() + DEADLINE_S
            while rounds < 100 or (not midway and time.monotonic() < deadline):
                rounds += 1
                run = process.start_run(function, 0, 4000, 0, chunk, eager=False)
                await until(lambda run=run: process.progress() != IDLE or recorder.ended(process, run))
                taken_from = min(4000, process.lower_stop(run, 0))
                midway += 0 < taken_from < 4000
                found = await recorder.all_of(process, run)
                assert taken_from - 1 <= len(found) <= taken_from
                assert set(found) == set(range(len(found)))
            assert midway > 0

    run_async(main())


# --- stopping tasks -------------------------------------------------------------------------------


def spin() -> None:
    while True:
        pass


def start_child_and_sleep() -> None:
    print(subprocess.Popen(["sleep", "3600"]).pid, flush=True)
    time.sleep(3600)


@pytest.mark.parametrize("function", [spin, lambda: time.sleep(3600), start_child_and_sleep])
def test_an_interrupt_ends_the_task_and_spares_the_slot(function: Callable[[], None]) -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            run = start(process, function, ())
            behind = start(process, abs, (-5,))
            await until(lambda: process.progress()[:2] == (run, 0))
            await until(lambda: function is not start_child_and_sleep or process.output(run, 0))
            await dumped(process, "test_slots.py")
            assert "_send_late" not in process.stacks()
            assert process.interrupt(run, 0)
            failure = (await recorder.all_of(process, run))[0]
            assert failure.kind == "interrupted"
            assert not failure.retriable
            if function is start_child_and_sleep:
                await until(lambda: not alive(int(failure.output)))
            assert await recorder.all_of(process, behind) == {0: 5}
            assert not process.interrupt(run, 0)

    run_async(main())


def have_a_guest(size: int) -> bytes:
    from distcomp import inside  # noqa: PLC0415 - in the slot

    class Guest:
        def leave_task(self) -> None:
            pass

    door: Any = inside.door
    if size:
        door.waited.__self__.due_ns = 1 << 62  # what is finished stays until there is a guest
    else:
        door.take_in(Guest())
    return bytes(size)


def test_what_is_finished_is_not_interrupted_as_it_leaves() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            run = start(process, have_a_guest, (8 << 20,), (0,))
            await until(lambda: process.progress().task_index == 1)
            # From here on nothing is read, so what is finished cannot leave. Signals come in their order.
            dump_until_it_sends(process)
            assert process.interrupt(run, 1)
            dump_until_it_sends(process)
            assert await recorder.all_of(process, run) == {0: bytes(8 << 20), 1: b""}
            assert recorder.ends == {}

    run_async(main())


def dump_until_it_sends(process: SlotProcess) -> None:
    deadline = time.monotonic() + DEADLINE_S
    os.ftruncate(process._stacks, 0)
    while b"in _send\n" not in os.pread(process._stacks, 1 << 16, 0) and time.monotonic() < deadline:
        process.dump_stacks()
        time.sleep(0.01)


def test_a_builtin_as_the_function_is_interrupted_too() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            run = start(process, time.sleep, (0,), (3600,), (0,))
            await until(lambda: process.progress()[:2] == (run, 1))
            assert process.interrupt(run, 1)
            found = await recorder.all_of(process, run)
            assert (found[0], found[1].kind, found[2]) == (None, "interrupted", None)

    run_async(main())


def test_an_import_is_not_interrupted(tmp_path: Path) -> None:
    """Half a package would be left behind, and fail every later task that imports it."""
    package = tmp_path / "halves"
    package.mkdir()
    (package / "first.py").write_text("")
    began, go_on = tmp_path / "began", tmp_path / "go_on"
    (package / "__init__.py").write_text(
        "import pathlib, time\nfrom .first import *\n"
        f"pathlib.Path({str(began)!r}).touch()\n"
        f"while not pathlib.Path({str(go_on)!r}).exists(): time.sleep(0.005)\n"
        "name = first.__name__\n"
    )

    def name_of_first(folder: str) -> str:
        sys.path.insert(0, folder)
        import halves  # type: ignore[import-not-found]  # noqa: PLC0415 - made by this test

        return str(halves.name)

    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            run = start(process, name_of_first, (str(tmp_path),))
            await until(began.exists)
            assert process.interrupt(run, 0)
            await dumped(process, "halves")
            go_on.touch()
            assert await recorder.all_of(process, run) == {0: "halves.first"}

    run_async(main())


def test_an_interrupt_meant_for_another_task_does_nothing() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            run = start(process, time.sleep, *[(0.002,)] * 300)
            while not recorder.ended(process, run):
                await asyncio.sleep(0.001)
                begun = process.progress()
                if begun.run:
                    process.interrupt(begun.run, begun.task_index)
            found = recorder.results(process, run)
            assert set(found) == set(range(300))
            kinds = {value.kind if isinstance(value, Failure) else value for value in found.values()}
            assert kinds <= {None, "interrupted"}

    run_async(main())


def hold_the_gil() -> None:
    sum(itertools.repeat(0))


def test_a_call_that_holds_the_gil_is_dumped_and_killed() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            run = start(process, hold_the_gil, ())
            await until(lambda: process.progress()[:2] == (run, 0))
            await dumped(process, "hold_the_gil")
            assert not process.kill(run, 1), "another task than the one named is not killed"
            assert process.kill(run, 0)
            end = await recorder.end_of(process)
            assert (end.run, end.task_index, end.killed_for) == (run, 0, (run, 0))
            assert "hold_the_gil" in end.stacks

    run_async(main())


def test_a_kill_takes_what_the_task_started() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            run = start(process, start_child_and_sleep, ())
            await until(lambda: process.pid and process.output(run, 0))
            child = int(process.output(run, 0))
            assert alive(child)
            process.kill_now()
            assert (await recorder.end_of(process)).killed_for == (0, -1)
            await until(lambda: not alive(child))

    run_async(main())


# --- sessions -------------------------------------------------------------------------------------


def test_a_process_is_kept_for_its_session_only() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            mine = pool.take(SESSION, b"")
            assert await recorder.all_of(mine, start(mine, abs, (1,))) == {0: 1}
            pool.give_back(mine)
            other = pool.take(OTHER, b"")
            assert other is not mine
            assert pool.take(SESSION, b"") is mine
            pool.give_back(mine)
            pool.end_session(SESSION)
            again = pool.take(SESSION, b"")
            assert again is not mine
            await until(lambda: not mine.alive)
            assert recorder.ends == {}, "nobody waits for news of a process that was given back"

    run_async(main())


def test_idle_processes_are_bounded() -> None:
    async def main() -> None:
        async with pool_of(idle_processes=2) as (pool, _):
            taken = [pool.take(bytes([n]) * 16, b"") for n in range(5)]
            for process in taken:
                pool.give_back(process)
            await until(lambda: [p.alive for p in taken] == [False, False, False, True, True])
            await until(lambda: pool.processes == 3)

    run_async(main())


def test_the_environment_of_the_session_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FROM_THE_SCRIPT", "yes")
    environment = dump_environment()

    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, environment)
            run = start(process, lambda: (str(Path.cwd()), os.environ.get("FROM_THE_SCRIPT")), ())
            assert (await recorder.all_of(process, run))[0] == (str(tmp_path), "yes")
            tmp_path.joinpath("gone").mkdir()
            monkeypatch.chdir(tmp_path / "gone")
            elsewhere = dump_environment()
            monkeypatch.chdir(tmp_path)
            tmp_path.joinpath("gone").rmdir()
            process = pool.take(OTHER, elsewhere)
            assert (await recorder.all_of(process, start(process, abs, (-1,))))[0] == 1
            assert "working folder" in recorder.ready[process.number]

    run_async(main())


def test_tasks_see_no_secrets_and_bounded_inner_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTCOMP_JOIN", "secret")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")

    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            run = start(process, lambda: dict(os.environ), ())
            environ = (await recorder.all_of(process, run))[0]
            assert [name for name in environ if name.startswith("DISTCOMP")] == [SLOT_VARIABLE]
            assert environ["OMP_NUM_THREADS"] == str(thread_limits(2))
            assert environ["MKL_NUM_THREADS"] == "7"

    run_async(main())


def test_inner_threads_share_the_cores() -> None:
    assert thread_limits(10_000) == 1
    assert task_environment({"DISTCOMP_X": "1", "A": "b"}, 10_000)["OMP_NUM_THREADS"] == "1"


def test_random_state_differs_between_slots() -> None:
    def draw() -> float:
        import random  # noqa: PLC0415 - in the slot

        return random.random()  # noqa: S311 - no secret

    async def main() -> None:
        async with pool_of() as (pool, recorder):
            drawn = set()
            for n in range(3):
                process = pool.take(bytes([n]) * 16, b"")
                drawn.add((await recorder.all_of(process, start(process, draw, ())))[0])
            assert len(drawn) == 3

    run_async(main())


# --- tasks that treat their process badly ---------------------------------------------------------


def fork_and_return() -> int:
    child = os.fork()
    if child == 0:
        return -1
    return os.waitpid(child, 0)[1]


def close_everything() -> str:
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    os.chdir("/")
    os.environ.clear()
    sys.stdout.write("still here")
    return "done"


def fork_properly() -> int:
    import multiprocessing  # noqa: PLC0415 - in the slot

    with multiprocessing.get_context("fork").Pool(2) as workers:
        return sum(workers.map(abs, [-1, -2, -3]))


def fork_children_that_speak() -> list[int]:
    import logging  # noqa: PLC0415 - in the slot
    import multiprocessing  # noqa: PLC0415 - in the slot

    kept = sys.stdout

    def speak() -> None:
        logging.getLogger("child").warning("logged")
        kept.write("to a stream from before")
        print("printed")

    children = [multiprocessing.get_context("fork").Process(target=speak) for _ in range(2)]
    for child in children:
        child.start()
        child.join()
    return [child.exitcode or 0 for child in children]


@pytest.mark.parametrize("logs", [False, True])
def test_children_that_a_task_forks_print_and_log_like_any_program(*, logs: bool) -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            definition = define(fork_children_that_speak)
            run = process.start_run(definition, 0, 1, 0, chunk_of(()), eager=False, logs=logs)
            assert await recorder.all_of(process, run) == {0: [0, 0]}
            assert recorder.ends == {}

    run_async(main())


@pytest.mark.parametrize(
    ("function", "result"), [(fork_and_return, 256), (close_everything, "done"), (fork_properly, 6)]
)
def test_a_rude_task_harms_only_itself(function: Callable[[], Any], result: Any) -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            run = start(process, function, ())
            behind = start(process, abs, (-8,))
            assert await recorder.all_of(process, run) == {0: result}
            assert await recorder.all_of(process, behind) == {0: 8}
            assert recorder.ends == {}

    run_async(main())


def test_a_task_that_closes_our_socket_ends_its_slot() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            run = start(process, lambda: os.closerange(3, 200) or time.sleep(3600), ())
            end = await recorder.end_of(process)
            assert (end.run, end.task_index) == (run, 0)

    run_async(main())


# --- the template ---------------------------------------------------------------------------------


def test_a_dead_template_takes_its_slots_along_and_is_replaced() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            run = start(process, start_child_and_sleep, ())
            await until(lambda: process.pid and process.output(run, 0))
            child = int(process.output(run, 0))
            os.kill(pool._template._process.pid, signal.SIGKILL)
            end = await recorder.end_of(process)
            assert end.words == "the template process ended"
            assert (end.run, end.task_index) == (run, 0)
            await until(lambda: not alive(process.pid) and not alive(child))
            again = pool.take(SESSION, b"")
            assert await recorder.all_of(again, start(again, abs, (-4,))) == {0: 4}

    run_async(main())


def test_a_template_that_is_behind_does_all_it_is_told() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            busy = pool.take(SESSION, b"")
            run = start(busy, spin, ())
            await until(lambda: busy.progress().run == run)
            template = pool._template._process
            template.send_signal(signal.SIGSTOP)
            for _ in range(1000):
                busy.dump_stacks()
            others = [pool.take(SESSION, b"") for _ in range(3)]
            assert busy.kill(run, 0)
            template.send_signal(signal.SIGCONT)
            assert (await recorder.end_of(busy)).killed_for == (run, 0)
            for other in others:
                assert await recorder.all_of(other, start(other, abs, (-1,))) == {0: 1}
            assert (len(recorder.ends), pool._template._process) == (1, template)

    run_async(main())


def test_a_template_that_cannot_start_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "PROGRAM", "raise SystemExit(3)")

    async def main() -> None:
        async with pool_of(template_restarts=2, spare_delay_s=0.0) as (pool, _):
            with pytest.raises(SlotsUnavailableError, match="ended 3 times within 60 s"):
                await asyncio.wait_for(pool.ready(), DEADLINE_S)

    run_async(main())


def test_close_leaves_nothing_behind() -> None:
    async def main() -> None:
        before = open_descriptors()
        async with pool_of() as (pool, recorder):
            process = pool.take(SESSION, b"")
            run = start(process, start_child_and_sleep, ())
            await until(lambda: process.pid and process.output(run, 0))
            child = int(process.output(run, 0))
            template = pool._template._process.pid
        assert recorder.ends == {}
        await until(lambda: not any(map(alive, (process.pid, child, template))))
        assert open_descriptors() == before
        await pool.close()

    run_async(main())


SUPERVISOR = """
import asyncio, sys
sys.path.insert(0, {folder!r})
from test_slots import SESSION, pool_of, start, start_child_and_sleep, until
async def main():
    async with pool_of() as (pool, recorder):
        process = pool.take(SESSION, b"")
        run = start(process, start_child_and_sleep, ())
        await until(lambda: process.pid and process.output(run, 0))
        print(pool._template._process.pid, process.pid, process.output(run, 0), flush=True)
        await asyncio.sleep(3600)
asyncio.run(main())
"""


def test_a_killed_supervisor_leaves_nothing_behind() -> None:
    program = SUPERVISOR.format(folder=str(Path(__file__).parent))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        try:
            pids = [int(word) for word in supervisor.stdout.readline().split()]
            assert len(pids) == 3
            assert all(map(alive, pids))
        finally:
            supervisor.kill()
    asyncio.run(until(lambda: not any(map(alive, pids))))
