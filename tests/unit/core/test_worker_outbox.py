from __future__ import annotations

import pytest

from distcomp.config import WorkerSettings
from distcomp.core.worker_outbox import FAILURES_BYTES, RUNS_BYTES, Outbox, fit, held_leases
from distcomp.protocol import codec
from distcomp.rows import Failure, HeldLease
from distcomp.wire import MAX_FRAME_BYTES
from distcomp.worker_protocol import LeaseSettled

TOKEN, OTHER = (1, 1), (1, 2)


def outbox(**settings: int) -> Outbox:
    return Outbox(WorkerSettings(**settings))


def test_numbers_grow_and_everything_is_held_until_acknowledged() -> None:
    box = outbox()
    box.settle(TOKEN, ((0, 2, b"rr"),), (), 0.5, 3)
    box.give_back(TOKEN, [(2, 4)], "waited")
    first, second = box.take()
    assert (first.seq, second.seq) == (1, 2)
    assert list(box.take()) == []
    assert box.leases() == {TOKEN: [(0, 2), (2, 4)]}
    box.ack([1, 1, 99])
    assert len(box) == 1
    box.ack([2])
    assert (len(box), box.held_bytes) == (0, 0)


def test_a_lost_connection_sends_all_that_is_held_again_in_order() -> None:
    box = outbox()
    for start in range(3):
        box.settle(TOKEN, ((start, start + 1, b""),), (), 0.0, 0)
    list(box.take())
    box.ack([2])
    box.rewind()
    assert [message.seq for message in box.take()] == [1, 3]


def test_only_a_window_is_under_way_and_acknowledging_moves_it() -> None:
    box = outbox(settle_window_bytes=1 << 16)
    for start in range(4):
        box.settle(TOKEN, ((start, start + 1, b"." * 40_000),), (), 0.0, 0)
    assert [message.seq for message in box.take()] == [1, 2]
    assert list(box.take()) == []
    box.ack([1])
    assert [message.seq for message in box.take()] == [3]


def test_what_is_acknowledged_before_it_left_never_leaves() -> None:
    box = outbox()
    box.settle(TOKEN, ((0, 1, b""),), (), 0.0, 0)
    box.settle(OTHER, ((0, 1, b""),), (), 0.0, 0)
    box.ack([1])
    assert [message.token for message in box.take()] == [OTHER]


def test_it_is_full_by_bytes() -> None:
    box = outbox(max_held_result_bytes=1 << 16)
    box.settle(TOKEN, ((0, 1, b"." * 60_000),), (), 0.0, 0)
    assert not box.full
    box.settle(TOKEN, ((1, 2, b"." * 60_000),), (), 0.0, 0)
    assert box.full


@pytest.mark.parametrize("text", ["e" * (64 << 10), "ü" * (64 << 10)])
def test_many_long_failures_leave_in_messages_that_fit_into_frames(text: str) -> None:
    box = outbox(settle_window_bytes=1 << 30)
    failure = Failure("exception", text=text, traceback=text * 4, exception=b"." * 60_000, output=text)
    runs = tuple((start, start + 1, b"." * 60_000) for start in range(20))
    box.settle(TOKEN, runs, tuple((index, failure) for index in range(20, 40)), 1.5, 0)
    messages = [message for message in box.take() if isinstance(message, LeaseSettled)]
    assert all(len(codec.pack(message)) < MAX_FRAME_BYTES for message in messages)
    assert [run for message in messages for run in message.runs] == list(runs)
    assert [index for message in messages for index, _ in message.failures] == list(range(20, 40))
    assert sum(message.busy_s for message in messages) == 1.5


def test_large_results_need_no_message_of_their_own_because_they_travel_apart() -> None:
    box = outbox()
    box.settle(TOKEN, tuple((index, index + 1, b"." * RUNS_BYTES) for index in range(5)), (), 0.0, 0)
    assert len(list(box.take())) == 1


def test_a_failure_keeps_its_ends_if_it_has_to_be_cut() -> None:
    assert fit(Failure("exception", text="short")) == Failure("exception", text="short")
    cut = fit(Failure("exception", traceback="a" * FAILURES_BYTES + "the end"))
    assert cut.traceback.endswith("the end")
    assert len(cut.traceback) < FAILURES_BYTES


def test_leases_held_name_each_index_once() -> None:
    parts = [{TOKEN: [(0, 2), (4, 5)]}, {TOKEN: [(2, 4)], OTHER: [(0, 1)]}]
    assert held_leases(parts) == (HeldLease(TOKEN, ((0, 5),)), HeldLease(OTHER, ((0, 1),)))
