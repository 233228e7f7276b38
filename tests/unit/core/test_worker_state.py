from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from worker_world import (
    EPOCH,
    FUNCTION,
    OTHER,
    SESSION,
    World,
    define_session,
    interrupted,
)

from distcomp.core import worker_effects as do
from distcomp.ids import BundleId, FunctionId, Peer, SessionId
from distcomp.protocol import DefineBundle, DefineFunction, MissingBundle, MissingFunction, Refused, Submit
from distcomp.rows import Failure, HeldLease, LogLine
from distcomp.slot_protocol import RunLogged, RunProgressed
from distcomp.worker_protocol import (
    AckSettles,
    CancelLease,
    EndSession,
    GrantLease,
    LeaseLogged,
    LeaseReturned,
    LeaseSettled,
    RegisterWorker,
    RetractLease,
    SlotsReported,
    WorkerDraining,
    WorkerLeft,
    WorkerRegistered,
)

if TYPE_CHECKING:
    from distcomp.ids import Token

EXCEPTION = Failure("exception", retriable=True, text="no")


def started(world: World) -> list[tuple[int, Token, int, int]]:
    """Runs handed out since it was last asked for: process, lease, start, stop."""
    runs = [(c.process, c.grant.token, c.start, c.stop) for c in world.commands if isinstance(c, do.StartRun)]
    world.commands = [c for c in world.commands if not isinstance(c, do.StartRun)]
    return runs


def cancel(token: Token, *spans: tuple[int, int]) -> CancelLease:
    return CancelLease(token, spans)


def retract(token: Token, *, everything: bool = False) -> RetractLease:
    return RetractLease(token, everything)


# --- the plain way --------------------------------------------------------------------------------


def test_a_lease_runs_settles_and_is_let_go_when_acknowledged() -> None:
    world = World()
    token = world.grant(3)
    assert started(world) == [(1, token, 0, 3)]
    world.begin()
    world.tell(failures=((1, EXCEPTION),))
    (settled,) = world.take(LeaseSettled)
    assert [run[:2] for run in settled.runs] == [(0, 1), (2, 3)]
    assert (settled.busy_s, settled.slot) == (0.5, 0)
    ((index, failure),) = settled.failures
    assert (index, failure.kind, failure.host, failure.worker, failure.attempt) == (
        (1, "exception", "host", "left", 1)
    )  # fmt: skip
    assert world.state.held_leases() == (HeldLease(token, ((0, 3),)),)
    world.receive(AckSettles((settled.seq,)))
    assert world.state.held_leases() == ()


def test_the_first_message_says_who_we_are() -> None:
    world = World()
    (registered,) = world.take(RegisterWorker)
    assert (registered.name, registered.slots, registered.leases) == ("left", 1, ())
    assert not registered.draining
    assert world.registered == 1


def test_one_run_is_fetched_ahead_and_the_rest_waits() -> None:
    world = World()
    first, second, third = world.grant(1), world.grant(1), world.grant(1)
    assert started(world) == [(1, first, 0, 1), (1, second, 0, 1)]
    world.tell()
    assert started(world) == [(1, third, 0, 1)]
    assert [command for command in world.commands if isinstance(command, do.TakeProcess)] == [
        do.TakeProcess(1, define_session(SESSION))
    ]


def test_leases_go_to_slots_with_nothing_to_run_before_any_is_fetched_ahead() -> None:
    world = World(slots=2)
    tokens = [world.grant(1) for _ in range(4)]
    assert [(process, token) for process, token, _, _ in started(world)] == [
        (1, tokens[0]),
        (2, tokens[1]),
        (1, tokens[2]),
        (2, tokens[3]),
    ]


def test_waiting_leases_go_by_priority_then_by_age() -> None:
    world = World()
    for _ in range(2):
        world.grant(1)
    started(world)
    low, high, high_too = world.grant(1), world.grant(1, priority=5), world.grant(1, priority=5)
    for expected in (high, high_too, low):
        world.tell()
        assert [token for _, token, _, _ in started(world)] == [expected]


def test_a_run_fetched_ahead_moves_to_a_slot_that_runs_dry() -> None:
    world = World(slots=2)
    first, second, third = world.grant(10), world.grant(1), world.grant(5)
    assert started(world) == [(1, first, 0, 10), (2, second, 0, 1), (2, third, 0, 5)]
    fourth = world.grant(5)
    started(world)
    world.begin(0)
    world.tell(1)
    world.tell(1)
    assert started(world) == [(2, fourth, 0, 5)]
    world.tell(1)
    assert started(world) == [], "what has begun elsewhere stays there"


def test_a_run_that_has_begun_meanwhile_is_not_asked_for_again_and_again() -> None:
    world = World(slots=2)
    for _ in range(3):
        world.grant(1)
    world.slots[1].runs[1].begun = 0
    world.tell(1)
    assert sum(isinstance(command, do.LowerStop) for command in world.commands) == 1


# --- sessions, functions, processes ---------------------------------------------------------------


def test_a_slot_changes_processes_for_another_session_when_it_is_free() -> None:
    world = World()
    first, second = world.grant(1), world.grant(1, array=(OTHER, 1))
    assert started(world) == [(1, first, 0, 1)]
    world.tell()
    assert started(world) == [(2, second, 0, 1)]
    assert do.GiveBack(1) in world.commands


def test_a_session_finds_its_idle_process_again() -> None:
    world = World(slots=2)
    world.grant(1)
    world.tell()
    world.grant(1, array=(OTHER, 1))
    world.tell(1)
    started(world)
    world.grant(1)
    world.grant(1)
    processes = [process for process, _, _, _ in started(world)]
    assert processes == [1, 3], "its own first, then the slot whose process was idle longest"


def test_an_unknown_function_is_asked_for_and_its_lease_waits() -> None:
    world = World()
    other = FunctionId(b"g" * 32)
    token = world.grant(1, function=other)
    assert world.take(MissingFunction) == [MissingFunction(other)]
    assert started(world) == []
    world.receive(DefineFunction(other, "g", b"code"))
    assert started(world) == [(1, token, 0, 1)]


def test_a_function_that_never_comes_sends_its_lease_back() -> None:
    world = World(prepare_s=1.0)
    token = world.grant(1, function=FunctionId(b"g" * 32))
    world.wait(0.9)
    assert world.returned() == []
    world.wait(0.2)
    assert world.returned() == [(token, ((0, 1),), "unprepared")]


def test_functions_give_way_to_newer_ones_and_are_asked_for_again() -> None:
    world = World(max_function_bytes=1 << 20)
    big = FunctionId(b"b" * 32)
    world.receive(DefineFunction(big, "big", b"." * (1 << 20)))
    world.receive(DefineFunction(big, "big", b"." * (1 << 20)))
    world.grant(1)
    assert world.take(MissingFunction) == [MissingFunction(FUNCTION)]
    world.grant(1, function=big)
    assert world.take(MissingFunction) == []


BUNDLE = DefineBundle(BundleId(b"b" * 32), "project", 1, b"archive")


def test_a_bundle_that_is_not_here_is_asked_for_and_its_lease_waits() -> None:
    world = World(prepare_s=1.0)
    token = world.grant(1, bundle=BUNDLE.bundle)
    assert world.take(MissingBundle) == [MissingBundle(BUNDLE.bundle)]
    world.wait(0.9)
    assert started(world) == []
    world.receive(BUNDLE)
    assert started(world) == [(1, token, 0, 1)]
    (taken,) = [command for command in world.commands if isinstance(command, do.TakeProcess)]
    assert taken.bundle == BUNDLE


def test_a_bundle_that_never_comes_sends_its_lease_back() -> None:
    world = World(prepare_s=1.0)
    token = world.grant(1, bundle=BUNDLE.bundle)
    world.wait(1.1)
    assert world.returned() == [(token, ((0, 1),), "unprepared")]


def test_what_a_waiting_lease_lacks_is_asked_for_again_after_a_reconnect() -> None:
    world = World()
    world.grant(1, bundle=BUNDLE.bundle)
    world.take(MissingBundle)
    world.disconnect()
    world.connect()
    assert world.take(MissingBundle) == [MissingBundle(BUNDLE.bundle)]


def test_a_process_never_gets_another_bundle() -> None:
    world = World()
    world.receive(BUNDLE)
    for place, bundle in enumerate((b"", BUNDLE.bundle, BUNDLE.bundle, b""), 1):
        world.grant(1, bundle=bundle, array=(SESSION, place))
        world.tell()
    taken = [command.bundle for command in world.commands if isinstance(command, do.TakeProcess)]
    assert taken == [None, BUNDLE, None]


def test_nothing_is_fetched_ahead_to_a_process_of_another_bundle() -> None:
    world = World()
    world.receive(BUNDLE)
    world.grant(1)
    world.grant(1, bundle=BUNDLE.bundle)
    assert len(started(world)) == 1
    world.tell()
    assert len(started(world)) == 1


def test_the_end_of_a_session_lets_its_processes_of_all_bundles_go() -> None:
    world = World(slots=2)
    world.receive(BUNDLE)
    world.grant(1)
    world.grant(1, bundle=BUNDLE.bundle)
    world.tell(0)
    world.tell(1)
    world.receive(EndSession(SESSION))
    assert world.slots == {}


def test_the_end_of_a_session_ends_its_tasks_and_lets_its_processes_go() -> None:
    world = World(slots=2, interrupt_after_s=0.02)
    running, idle = world.grant(1), world.grant(1)
    world.begin()
    world.tell(1)
    world.receive(EndSession(SESSION))
    assert do.GiveBack(2) in world.commands
    assert world.forgotten == [SESSION]
    world.wait(0.03)
    world.tell(failures=(interrupted(0),))
    assert world.returned() == [(running, ((0, 1),), "cancelled")]
    assert do.GiveBack(1) in world.commands
    assert world.forgotten == [SESSION, SESSION], "again, for the process given back since"
    assert world.state.held_leases() == (HeldLease(running, ((0, 1),)), HeldLease(idle, ((0, 1),)))


def test_the_end_of_one_session_leaves_another_at_work() -> None:
    world = World()
    token = world.grant(1)
    world.receive(EndSession(OTHER))
    world.tell()
    assert world.settled() == [(token, [(0, 1)], [])]


def test_a_session_that_was_never_defined_cannot_run() -> None:
    world = World()
    token = world.grant(1, array=(SessionId(b"?" * 16), 1))
    assert world.returned() == [(token, ((0, 1),), "unprepared")]


def test_a_lease_without_a_process_goes_back_and_processes_are_not_asked_for_at_once_again() -> None:
    world = World(process_retry_s=1.0)
    world.refuses_processes = True
    first = world.grant(2)
    assert world.returned() == [(first, ((0, 2),), "unprepared")]
    world.refuses_processes = False
    second = world.grant(1)
    assert started(world) == [(1, first, 0, 2)], "the run that was lost with its process, and none since"
    world.wait(0.2)
    assert world.returned() == [(second, ((0, 1),), "waited")]
    world.wait(1.0)
    third = world.grant(1)
    assert started(world) == [(2, third, 0, 1)]


def test_a_worker_that_can_have_no_process_ends_after_some_attempts() -> None:
    world = World(slots=4, process_retry_s=1.0, process_attempts=3)
    world.refuses_processes = True
    tokens = []
    for _ in range(3):
        assert world.departure is None
        tokens.append(world.grant(2))
        world.wait(1.0)
    assert [token for token, _, reason in world.returned() if reason == "unprepared"] == tokens
    assert world.departure is not None
    assert world.departure.unable
    assert world.departure.text.startswith("no slot process could be started 3 times in a row: ")


def test_attempts_to_have_a_process_count_only_in_a_row() -> None:
    world = World(process_retry_s=1.0, process_attempts=2)
    for session, refuses in ((SESSION, True), (SESSION, False), (OTHER, True)):
        world.refuses_processes = refuses
        world.grant(1, array=(session, 1))
        if not refuses:
            world.tell()
        world.wait(1.0)
    assert world.departure is None


def test_a_refusal_of_a_process_that_is_gone_changes_nothing() -> None:
    world = World()
    world.state.process_refused(99, "why", world.now)
    world.state.process_ended(99, do.ProcessEnd("exited"), world.now)
    world.state.observe(99, 1, 0, 0.0)
    world.state.stacks_dumped(99, "stacks")
    world.turn()
    assert world.returned() == []


# --- waiting --------------------------------------------------------------------------------------


def test_what_waits_too_long_behind_something_goes_back() -> None:
    world = World(waiting_lease_s=0.05, check_interval_s=0.05)
    world.grant(1)
    ahead, waiting = world.grant(4), world.grant(5)
    world.begin()
    world.wait(0.04)
    assert world.returned() == []
    world.wait(0.07)
    assert sorted(world.returned()) == [(ahead, ((0, 4),), "waited"), (waiting, ((0, 5),), "waited")]


def test_without_a_scheduler_nothing_goes_back_and_everything_runs() -> None:
    world = World()
    first, second, third = world.grant(1), world.grant(1), world.grant(1)
    world.disconnect()
    world.wait(1.0)
    for _ in range(3):
        world.tell()
    world.connect(defined=False)
    registered = world.take(RegisterWorker)[-1]
    assert registered.leases == tuple(HeldLease(token, ((0, 1),)) for token in (first, second, third))
    assert [token for token, _, _ in world.settled()] == [first, second, third]


# --- retracting -----------------------------------------------------------------------------------


def test_retracting_takes_what_waits_first() -> None:
    world = World()
    world.grant(1)
    world.grant(1)
    waiting = world.grant(8)
    world.receive(retract(waiting))
    assert world.returned() == [(waiting, ((0, 8),), "retracted")]


def test_retracting_takes_all_of_a_run_fetched_ahead() -> None:
    world = World()
    world.grant(1)
    ahead = world.grant(8)
    world.receive(retract(ahead))
    assert world.returned() == [(ahead, ((0, 8),), "retracted")]


def test_retracting_takes_the_far_half_of_what_has_not_begun() -> None:
    world = World()
    token = world.grant(10)
    world.tell(upto=3)
    world.begin()
    world.receive(retract(token))
    assert world.returned() == [(token, ((7, 10),), "retracted")]
    world.receive(retract(token))
    assert world.returned() == [(token, ((5, 7),), "retracted")]
    world.receive(retract(token, everything=True))
    assert world.returned() == [(token, ((4, 5),), "retracted")]
    world.receive(retract(token), retract(token, everything=True), retract((EPOCH, 99)))
    assert world.returned() == []
    world.tell()
    assert world.state.held_leases() == (HeldLease(token, ((0, 10),)),)


def test_a_run_at_its_last_task_has_nothing_to_give() -> None:
    world = World()
    token = world.grant(1)
    world.receive(retract(token))
    assert not any(isinstance(command, do.LowerStop) for command in world.commands)


def test_what_comes_back_in_two_parts_waits_as_long_as_the_first_of_them() -> None:
    world = World(slots=1)
    token = world.grant(10)
    world.begin()
    world.grant(1, urgent=True)
    world.grant(1, urgent=True)
    world.now += 0.03
    world.tell(upto=0, ended=True)
    assert world.returned() == []
    world.wait(0.03)
    assert (token, ((0, 10),), "waited") in world.returned()


def test_a_slot_that_had_left_below_the_lowered_stop_gives_up_what_it_did_not_run() -> None:
    world = World()
    token = world.grant(4)
    world.begin()
    world.receive(retract(token, everything=True))
    assert world.returned() == [(token, ((1, 4),), "retracted")]
    world.tell(upto=0, ended=True)
    assert world.returned() == [(token, ((0, 1),), "retracted")]


def test_a_lease_partly_waiting_and_partly_running_gives_the_waiting_part_first() -> None:
    world = World(slots=1)
    token = world.grant(10)
    world.begin()
    world.grant(1, urgent=True)
    world.grant(1, urgent=True)
    world.receive(retract(token))
    assert world.returned() == [(token, ((1, 10),), "retracted")]


# --- urgent leases --------------------------------------------------------------------------------


def test_an_urgent_lease_begins_at_the_next_task_border_and_the_rest_follows() -> None:
    world = World()
    token = world.grant(10)
    ahead = world.grant(3)
    world.tell(upto=3)
    world.begin()
    started(world)
    urgent = world.grant(1, urgent=True)
    assert started(world) == [(1, urgent, 0, 1)]
    world.tell(ended=True)
    assert started(world) == [], "the run ahead is empty, and the urgent one has the place behind"
    world.tell(upto=0, ended=True)
    assert started(world) == [(1, token, 4, 10)]
    world.tell()
    assert started(world) == [(1, ahead, 0, 3)]


def test_an_urgent_lease_interrupts_the_run_with_most_before_it_and_no_urgent_one() -> None:
    world = World(slots=3)
    world.grant(2)
    long = world.grant(9)
    world.grant(1)
    for place in range(3):
        world.begin(place)
    first = world.grant(1, urgent=True)
    assert (2, first, 0, 1) in started(world)
    lowered = [(c.process, c.reason) for c in world.commands if isinstance(c, do.LowerStop)]
    assert lowered == [(2, "urgent")]
    world.commands.clear()
    second = world.grant(1, urgent=True)
    assert [c.process for c in world.commands if isinstance(c, do.LowerStop)] == [1]
    assert (1, second, 0, 1) in started(world)
    world.commands.clear()
    world.grant(1, urgent=True)
    assert {c.process for c in world.commands if isinstance(c, do.LowerStop)} == {3}, "for its place behind"
    world.commands.clear()
    world.grant(1, urgent=True)
    assert not any(isinstance(c, do.LowerStop) for c in world.commands)
    assert world.state.held_leases()[1] == HeldLease(long, ((0, 9),))


def test_an_urgent_lease_of_another_session_gets_the_slot_that_makes_way() -> None:
    world = World()
    token = world.grant(10)
    world.begin()
    started(world)
    urgent = world.grant(1, array=(OTHER, 1), urgent=True)
    assert started(world) == [], "nothing goes behind a run that makes way for another session"
    world.tell(ended=True)
    assert started(world) == [(2, urgent, 0, 1)]
    world.tell(ended=True)
    assert started(world)[0] == (3, token, 1, 10)


# --- cancel and timeout ---------------------------------------------------------------------------


def test_cancelling_what_waits_answers_at_once() -> None:
    world = World()
    world.grant(1)
    world.grant(1)
    waiting = world.grant(10)
    world.receive(cancel(waiting, (2, 4), (8, 20)))
    assert world.returned() == [(waiting, ((2, 4), (8, 10)), "cancelled")]
    world.receive(cancel(waiting), cancel((EPOCH, 99)))
    assert world.returned() == [(waiting, ((0, 2), (4, 8)), "cancelled")]


def test_cancelling_what_a_run_has_not_begun_leaves_its_neighbours_running() -> None:
    world = World()
    token = world.grant(10)
    world.begin()
    started(world)
    world.receive(cancel(token, (5, 6)))
    assert world.returned() == [(token, ((5, 6),), "cancelled")]
    assert started(world) == [(1, token, 6, 10)]
    world.tell()
    world.tell()
    assert [runs for _, runs, _ in world.settled()] == [[(0, 5)], [(6, 10)]]


def test_a_cancelled_task_is_dumped_then_interrupted_then_killed_and_its_neighbours_move() -> None:
    world = World(slots=2, interrupt_after_s=0.02, kill_after_s=0.3)
    token, ahead = world.grant(4), world.grant(1)
    world.grant(2)
    world.begin(0)
    world.begin(1)
    started(world)
    world.receive(cancel(token, (0, 1)))
    slot = world.slots[1]
    assert (slot.dumped, slot.interrupted, slot.killed) == (1, [], [])
    world.wait(0.02)
    assert (slot.interrupted, slot.killed) == ([(1, 0)], [])
    world.wait(0.27)
    assert slot.killed == []
    world.wait(0.02)
    assert slot.killed == [(1, 0)]
    assert world.wake_at is not None
    world.take(LeaseReturned)
    world.die(0, killed=True)
    assert world.returned() == [(token, ((0, 1),), "cancelled")]
    assert world.settled() == []
    assert ahead


def test_what_is_behind_a_task_being_ended_does_not_wait_for_its_end() -> None:
    world = World(slots=2)
    token = world.grant(4)
    other = world.grant(1)
    world.begin(0)
    started(world)
    world.receive(cancel(token, (0, 1)))
    assert started(world) == [(2, token, 1, 4)], "behind the other task, for nothing goes to this process"
    world.tell(1)
    world.tell(1)
    assert [(t, runs) for t, runs, _ in world.settled()] == [(other, [(0, 1)]), (token, [(1, 4)])]


def test_an_interrupted_task_leaves_its_process_at_work() -> None:
    world = World()
    token = world.grant(2)
    world.begin()
    world.receive(cancel(token, (0, 1)))
    world.wait(0.03)
    started(world)
    world.tell(failures=(interrupted(0),))
    assert world.returned() == [(token, ((0, 1),), "cancelled")]
    assert [(process, start, stop) for process, _, start, stop in started(world)] == [(1, 1, 2)]
    world.wait(1.0)
    assert world.slots[1].killed == []


def test_a_cancelled_task_that_ends_by_itself_is_settled() -> None:
    world = World()
    token = world.grant(1)
    world.begin()
    world.receive(cancel(token), cancel(token))
    assert world.slots[1].dumped == 1
    world.tell()
    assert world.settled() == [(token, [(0, 1)], [])]


def test_a_task_past_its_timeout_is_ended_as_a_timeout() -> None:
    world = World()
    token = world.grant(2, timeout_s=0.2)
    world.begin()
    world.wait(0.15)
    assert world.slots[1].dumped == 0
    world.slots[1].stacks = "at line 3"
    world.wait(0.15)
    assert world.slots[1].interrupted == [(1, 0)]
    world.tell(failures=(interrupted(0),))
    (settled,) = world.take(LeaseSettled)
    ((_, failure),) = settled.failures
    assert (failure.kind, failure.retriable, failure.stacks) == ("timeout", True, "at line 3")
    assert "0.2 s" in failure.text
    assert (failure.traceback, failure.output, failure.host) == ("where it was", "so far", "host")
    assert world.returned() == [(token, ((1, 2),), "waited")]


def test_a_timeout_that_has_to_kill_is_a_timeout_too() -> None:
    world = World()
    token = world.grant(1, timeout_s=0.2)
    world.begin()
    world.wait(1.0)
    assert world.slots[1].killed == [(1, 0)]
    world.die(killed=True, stacks="in C code")
    (settled,) = world.take(LeaseSettled)
    ((_, failure),) = settled.failures
    assert (failure.kind, failure.output, failure.stacks) == ("timeout", "printed", "in C code")
    assert settled.token == token


def test_an_interrupt_that_nobody_asked_for_hands_the_task_back() -> None:
    world = World()
    token = world.grant(2)
    world.begin()
    world.tell(failures=(interrupted(0),))
    assert world.returned() == [(token, ((0, 1),), "cancelled")]
    assert world.settled() == [(token, [(1, 2)], [])]


# --- slot deaths ----------------------------------------------------------------------------------


def test_a_death_is_charged_to_the_task_that_had_begun_and_to_no_neighbour() -> None:
    world = World()
    token, ahead = world.grant(10), world.grant(1)
    world.tell(upto=3)
    world.settled()
    world.begin(index=5)
    started(world)
    world.die()
    (settled,) = world.take(LeaseSettled)
    ((index, failure),) = settled.failures
    assert (index, failure.kind, failure.output, failure.worker) == (5, "crashed", "printed", "left")
    assert "SIGSEGV" in failure.text
    assert world.returned() == [(token, ((3, 5), (6, 10)), "neighbour")]
    assert started(world) == [(2, ahead, 0, 1)], "what had not begun runs in the next process"


def test_a_death_after_our_kill_of_another_task_charges_nobody() -> None:
    world = World()
    token = world.grant(2)
    world.begin()
    world.die(killed=True)
    assert world.settled() == []
    assert world.returned() == [(token, ((0, 2),), "neighbour")]


def test_a_death_between_tasks_charges_nobody_until_it_is_a_habit() -> None:
    world = World()
    for _ in range(2):
        token = world.grant(2)
        world.die(idle=True)
        assert world.returned() == [(token, ((0, 2),), "neighbour")]
    token = world.grant(2)
    world.die(idle=True)
    assert world.settled() == [(token, [], [(0, "crashed")])]
    assert world.returned() == [(token, ((1, 2),), "neighbour")]
    world.grant(1)
    world.tell()
    token = world.grant(1)
    world.die(idle=True)
    assert world.returned() == [(token, ((0, 1),), "neighbour")]


def test_a_task_that_may_have_run_and_may_not_again_is_charged_for_any_death() -> None:
    for killed, idle in ((True, False), (False, True), (True, True)):
        world = World()
        token = world.grant(1, eager=True)
        world.begin()
        world.die(killed=killed, idle=idle)
        assert world.settled() == [(token, [], [(0, "crashed")])]
        assert world.returned() == []


def test_a_kill_that_came_late_between_tasks_charges_nobody() -> None:
    world = World()
    token = world.grant(2)
    world.die(killed=True, idle=True)
    assert world.settled() == []
    assert world.returned() == [(token, ((0, 2),), "neighbour")]


def test_a_process_that_begins_nothing_is_discarded_and_charges_nobody() -> None:
    world = World(prepare_s=1.0)
    token = world.grant(2)
    world.wait(0.8)
    assert world.discarded == []
    world.wait(2.0)
    assert world.discarded == [1]
    world.die(killed=True)
    assert world.returned() == [(token, ((0, 2),), "unprepared")]
    assert world.settled() == []


def test_a_process_has_time_to_take_in_large_arguments() -> None:
    world = World(prepare_s=1.0, intake_bytes=100)
    world.grant(1, chunk=b"x" * 300)
    world.wait(3.5)
    assert world.discarded == []
    world.wait(2.0)
    assert world.discarded == [1]


def test_a_process_that_tells_something_is_not_stalled() -> None:
    world = World(prepare_s=1.0)
    world.grant(3)
    for upto in (1, 2):
        world.wait(0.8)
        world.tell(upto=upto)
        world.slots[1].runs[0].begun = -1
    world.wait(0.8)
    assert world.discarded == []


def test_the_death_of_an_idle_process_only_makes_room() -> None:
    world = World()
    world.grant(1)
    world.tell()
    started(world)
    world.die()
    token = world.grant(1)
    assert started(world) == [(2, token, 0, 1)]


def test_a_death_after_its_task_was_told_charges_nobody() -> None:
    world = World()
    token = world.grant(2)
    world.begin()
    world.tell(upto=1)
    world.settled()
    world.die()
    assert world.settled() == []
    assert world.returned() == [(token, ((1, 2),), "neighbour")]


# --- reports --------------------------------------------------------------------------------------


def test_what_runs_for_a_while_is_reported_when_it_changes_and_now_and_then() -> None:
    world = World(report_interval_s=1.0)
    token = world.grant(2)
    world.begin()
    world.wait(0.04)
    assert world.take(SlotsReported) == []
    world.wait(0.1)
    (report,) = world.take(SlotsReported)
    ((reported, index, running_s),) = report.running
    assert (reported, index) == (token, 0)
    assert running_s == pytest.approx(0.05)
    world.wait(0.5)
    assert world.take(SlotsReported) == []
    world.wait(0.6)
    assert len(world.take(SlotsReported)) == 1
    world.tell(upto=1)
    world.begin()
    world.wait(0.051)
    assert [report.running for report in world.take(SlotsReported)] == [()]
    world.wait(0.1)
    assert [report.running[0][1] for report in world.take(SlotsReported)] == [1]


def test_an_idle_worker_asks_for_no_wake_up() -> None:
    world = World()
    assert world.wake_at is None
    world.grant(1)
    assert world.wake_at == pytest.approx(world.now + 0.05)
    world.tell()
    world.wait(0.1)
    assert world.wake_at is None


# --- reconnecting ---------------------------------------------------------------------------------


def test_what_was_not_acknowledged_is_told_again_and_acknowledged_things_are_not() -> None:
    world = World()
    first, second = world.grant(1), world.grant(2)
    world.tell()
    acked = world.take(LeaseSettled)[0].seq
    world.tell(upto=1)
    world.take(LeaseSettled)
    world.receive(AckSettles((acked, 12345)))
    world.disconnect()
    world.connect(defined=False)
    assert world.take(RegisterWorker)[-1].leases == (HeldLease(second, ((0, 2),)),)
    assert world.settled() == [(second, [(0, 1)], [])]
    assert first


def test_leases_that_the_scheduler_does_not_know_end() -> None:
    world = World()
    running, waiting, other = world.grant(2), world.grant(1), world.grant(1)
    world.begin()
    world.disconnect()
    world.connect(stale=(running, waiting, (EPOCH, 77)), defined=False)
    assert world.slots[1].dumped == 1
    world.wait(0.03)
    world.tell(failures=(interrupted(0),))
    world.ack_all()
    assert world.state.held_leases() == (HeldLease(other, ((0, 1),)),)


def test_settles_of_stale_leases_are_held_until_the_scheduler_has_written_down_what_it_knows() -> None:
    world = World()
    token = world.grant(1)
    world.tell()
    world.disconnect()
    world.connect(stale=(token,), defined=False)
    assert world.state.held_leases() == (HeldLease(token, ((0, 1),)),)
    world.ack_all()
    assert world.state.held_leases() == ()


def test_sessions_are_kept_for_a_new_scheduler_until_it_says_that_they_are_over() -> None:
    world = World()
    world.grant(1)
    world.disconnect()
    world.connect(epoch=EPOCH + 1, defined=False)
    assert world.forgotten == []
    world.receive(EndSession(OTHER))
    assert world.forgotten == [OTHER]


def test_a_missing_function_is_asked_for_again_after_a_reconnect() -> None:
    world = World()
    other = FunctionId(b"g" * 32)
    world.grant(1, function=other)
    world.disconnect()
    world.take(MissingFunction)
    world.connect(defined=False)
    assert world.take(MissingFunction) == [MissingFunction(other)]


def test_news_of_an_old_connection_are_ignored() -> None:
    world = World()
    world.state.receive(Peer(world.peer - 1), WorkerDraining(), world.now)
    world.state.disconnect(Peer(world.peer - 1), world.now)
    token = world.grant(1)
    world.tell()
    assert world.settled() == [(token, [(0, 1)], [])]


def test_late_news_of_slots_are_ignored() -> None:
    world = World()
    token = world.grant(1)
    run = world.slots[1].runs[0]
    world.tell()
    world.settled()
    world.slots[1].runs.append(run)
    world.tell()
    world.state.stop_lowered(do.LowerStop(1, 1, 0, "waited"), 0, world.now)
    world.state.stop_lowered(do.LowerStop(9, 1, 0, "waited"), 0, world.now)
    world.turn()
    assert world.settled() == []
    assert world.returned() == []
    assert token


def test_outcomes_that_are_told_twice_are_settled_once() -> None:
    world = World()
    token = world.grant(3)
    progress = RunProgressed(1, ((0, 1, b"r"),), ((1, EXCEPTION),), 0.1, 2, ended=False)
    for _ in range(2):
        world.state.run_progressed(world.slot(), progress, world.now)
        world.turn()
    assert world.settled() == [(token, [(0, 1)], [(1, "exception")])]


# --- bounds and nonsense --------------------------------------------------------------------------


def test_more_leases_than_there_is_room_for_go_back() -> None:
    world = World(max_leases_per_slot=2)
    world.grant(1)
    world.grant(1)
    token = world.grant(1)
    assert world.returned() == [(token, ((0, 1),), "refused")]


def test_with_too_much_unacknowledged_nothing_is_begun() -> None:
    world = World(max_held_result_bytes=1 << 16)
    world.grant(1 << 17)
    world.tell()
    started(world)
    token = world.grant(1)
    assert started(world) == []
    world.ack_all()
    assert started(world) == [(1, token, 0, 1)]


def grant_of(**fields: Any) -> GrantLease:
    values = {
        "token": (EPOCH, 1), "array": (SESSION, 1), "function": FUNCTION, "start": 0, "stop": 1,
        "chunk_start": 0, "chunk": b"", "attempt": 1, "timeout_s": 0.0, "priority": 0, "urgent": False,
        "eager": False, **fields,
    }  # fmt: skip
    return GrantLease(**values)


@pytest.mark.parametrize(
    "messages",
    [
        [Submit((SESSION, 1), FUNCTION, (), 0, 1, b"", True)],
        [grant_of(start=1)],
        [grant_of(chunk_start=1, stop=3)],
        [grant_of(), grant_of()],
        [define_session(SessionId(b"1" * 16))],
    ],
)
def test_nonsense_closes_the_connection_and_is_counted(messages: list[Any]) -> None:
    world = World(max_sessions=2)
    world.receive(*messages)
    assert [close.peer for close in world.closes] == [world.peer]
    assert world.state.nonsense == 1


def test_a_connection_that_is_given_up_is_given_up_once() -> None:
    world = World(max_sessions=2)
    nonsense = Submit((SESSION, 1), FUNCTION, (), 0, 1, b"", True)
    world.receive(*[nonsense] * 50)
    assert [close.peer for close in world.closes] == [world.peer]
    assert [event.text for event in world.events].count("the connection is given up") == 1
    assert world.state.nonsense == 50


def test_defining_a_session_again_takes_no_room() -> None:
    world = World(max_sessions=2)
    world.receive(define_session(SESSION))
    assert world.closes == []


@pytest.mark.parametrize(("code", "final"), [("role", True), ("versions", True), ("stopping", False)])
def test_a_refusal_closes_and_ends_the_worker_only_if_waiting_cannot_help(code: str, final: bool) -> None:  # noqa: FBT001 - a parameter of the test
    world = World()
    refusal = Refused(code, "go away")
    world.receive(refusal)
    assert len(world.closes) == 1
    expected = do.Departure("go away", refusal) if final else None
    assert world.departure == expected


# --- leaving --------------------------------------------------------------------------------------


def test_a_draining_worker_hands_back_finishes_and_leaves() -> None:
    world = World(grace_s=30.0)
    running, ahead, waiting = world.grant(5), world.grant(2), world.grant(3)
    world.begin()
    world.state.request_drain(world.now)
    world.turn()
    assert len(world.take(WorkerDraining)) == 1
    assert sorted(world.returned()) == [
        (running, ((1, 5),), "drained"),
        (ahead, ((0, 2),), "drained"),
        (waiting, ((0, 3),), "drained"),
    ]
    late = world.grant(1)
    assert world.returned() == [(late, ((0, 1),), "drained")]
    assert world.departure is None
    world.tell()
    assert world.departure is None, "its outcome is not acknowledged yet"
    world.receive(AckSettles(tuple(range(20))))
    assert world.departure == do.Departure("drained")
    assert world.take(WorkerLeft) == [WorkerLeft()]
    world.tick()
    assert world.take(WorkerLeft) == []


def test_a_draining_worker_leaves_when_its_grace_is_over() -> None:
    world = World(grace_s=1.0)
    token = world.grant(1)
    world.begin()
    world.state.request_drain(world.now)
    world.turn()
    world.wait(0.9)
    assert world.departure is None
    world.take(SlotsReported)
    world.wait(0.2)
    assert world.departure is not None
    assert [task.token for task in world.take(SlotsReported)[-1].running] == [token]
    assert len(world.take(WorkerLeft)) == 1


def test_asked_twice_or_told_to_stop_a_worker_leaves_now() -> None:
    for twice in (True, False):
        world = World()
        world.grant(1)
        world.begin()
        if twice:
            world.state.request_drain(world.now)
            world.turn()
            assert world.departure is None
            world.state.request_drain(world.now)
        else:
            world.state.request_stop(world.now)
        world.turn()
        assert world.departure is not None


def test_a_worker_without_connection_and_work_leaves_at_once() -> None:
    world = World(connected=False)
    world.state.request_drain(world.now)
    world.turn()
    assert world.departure == do.Departure("drained")
    assert world.sent == []


def test_a_draining_worker_that_reconnects_says_so() -> None:
    world = World()
    world.grant(1)
    world.begin()
    world.disconnect()
    world.state.request_drain(world.now)
    world.connect(defined=False)
    assert world.take(RegisterWorker)[-1].draining


def test_a_cancelled_task_that_its_slot_never_began_goes_back_as_cancelled() -> None:
    world = World(slots=2)
    token = world.grant(4)
    world.begin()
    world.grant(1)
    world.receive(cancel(token, (0, 1)))
    world.state.request_drain(world.now)
    world.turn()
    assert (token, ((1, 4),), "drained") in world.returned()
    world.tell(upto=0, ended=True)
    assert world.returned() == [(token, ((0, 1),), "cancelled")]


def test_registering_is_said_to_the_program_every_time() -> None:
    world = World()
    world.receive(WorkerRegistered(EPOCH, "cluster", ()))
    assert world.registered == 2


def test_what_tasks_log_is_told_before_their_outcome_or_lost() -> None:
    world = World()
    token = world.grant(1, logs=True)
    world.turn()
    slot, run = world.slot(), world.slots[world.slot()].runs[0].number
    lines = (LogLine(0, "stdout", 0, "said"),)
    world.state.run_logged(slot, RunLogged(run, lines, 1))
    world.state.run_logged(slot, RunLogged(run + 1, lines, 0))
    world.tell()
    logged, settled = world.take(LeaseLogged, LeaseSettled)
    assert logged == LeaseLogged(token, lines, 1)
    assert settled.token == token
    token = world.grant(1, logs=True)
    world.turn()
    world.disconnect()
    world.state.run_logged(slot, RunLogged(world.slots[slot].runs[0].number, lines, 0))
    world.connect()
    assert world.take(LeaseLogged) == []
