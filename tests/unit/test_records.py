"""Records: what they hold, that they survive packing, and that bytes of anything else are refused."""

from __future__ import annotations

import doctest
from typing import Any

import msgpack
import pytest

from distcomp import protocol, records
from distcomp.errors import MalformedMessageError
from distcomp.ids import BundleId, FunctionId, SessionId, WorkerId
from distcomp.records import (
    NO_LEASE,
    RECORD_BYTES,
    ArrayClosed,
    ArrayRestated,
    BundleDefined,
    ChunkRestated,
    ClientCame,
    ClientLeft,
    CompactionBegan,
    CompactionEnded,
    EpochBegan,
    FailureRestated,
    FunctionDefined,
    IndexesReturned,
    JournalBegan,
    LeaseGranted,
    LeaseRestated,
    OutcomeRestated,
    OutcomesReceived,
    PastArrayRestated,
    ReceivedRestated,
    RunEnded,
    RunOpened,
    SessionBegan,
    SessionEnded,
    SessionRestated,
    SpansFailed,
    TasksAccepted,
    TasksCancelled,
    TasksEnded,
    TaskTried,
    WorkerCame,
    WorkerGone,
    pack,
    unpack,
    weight_bytes,
)
from distcomp.rows import Failure, PastAttempt, TaskOptions, Versions

SESSION = SessionId(b"s" * 16)
WORKER = WorkerId(b"w" * 16)
FUNCTION = FunctionId(b"f" * 32)
BUNDLE = BundleId(b"b" * 32)
ARRAY = (SESSION, 7)
TOKEN = (3, 11)
VERSIONS = Versions("1", "3.11.2", "3")
PAST = PastAttempt(1, "crashed", "w1", "h1", "the process ended")
FAILED = Failure("exception", text="no", traceback="t" * 40, exception=b"e" * 60)

ONE_OF_EACH = [
    JournalBegan(1, b"c" * 16, 1.5, 1),
    EpochBegan(5, 2.5, "1.0"),
    CompactionBegan(),
    WorkerCame(WORKER, "w1", "h1", 42, 8, VERSIONS),
    WorkerGone(WORKER),
    SessionBegan(SESSION, "ann", VERSIONS, "h", 1, "a.py", b"env", 60.0, TOKEN, 4, b"h" * 16, 1),
    SessionEnded(SESSION),
    SessionRestated(SESSION, 9, ((0, 4), (5, 6)), closed=True),
    FunctionDefined(FUNCTION, "f", b"code"),
    BundleDefined(BUNDLE, "mine", 3, b"files"),
    TasksAccepted(ARRAY, FUNCTION, TaskOptions(retries=2), 5, 10, 4, b"chunk", last=True, bundle=BUNDLE),
    ArrayClosed(ARRAY),
    ArrayRestated(ARRAY, FUNCTION, TaskOptions(), 15, closed=True, failed=1, retried=2, accepted_at=3.5),
    ChunkRestated(ARRAY, 4, 5, 15, b"chunk", ((6, 8), (9, 10))),
    LeaseGranted(TOKEN, ARRAY, 5, 8, 1, WORKER),
    LeaseRestated(TOKEN, ARRAY, ((5, 6), (7, 8)), 1, WORKER),
    IndexesReturned(TOKEN, ((5, 6),), begun=False),
    TaskTried(ARRAY, 5, TOKEN, 1, 2, 0, 3, (PAST,), 1, 0.5),
    TasksEnded(ARRAY, TOKEN, 1, ((5, 8),), ((5, 7, b"results"),), ((7, FAILED),)),
    TasksCancelled(ARRAY, ((8, 15),)),
    OutcomesReceived(SESSION, (1, 2)),
    OutcomeRestated(ARRAY, 1, ((5, 7, b"results"),)),
    RunOpened(SESSION, "fit", b"nonce", "h", 1, "a.py", 4.5, 3.5),
    ClientLeft(SESSION, 5.5),
    ClientCame(SESSION),
    RunEnded("ann", "fit", 6.5, "dropped"),
    SpansFailed(ARRAY, 3, ((5, 8),), FAILED),
    PastArrayRestated(ARRAY, FUNCTION, "f", 15, 1),
    ReceivedRestated(ARRAY, ((0, 4),)),
    FailureRestated(ARRAY, 3, ((5, 8),), FAILED),
    CompactionEnded(),
]


def test_every_record_survives_packing() -> None:
    assert {type(item) for item in ONE_OF_EACH} == {kind for _, kind in records.codec.messages()}
    assert unpack(pack(ONE_OF_EACH)) == ONE_OF_EACH


def test_tags_are_settled_for_good() -> None:
    tags = {tag: kind.__name__ for tag, kind in records.codec.messages()}
    assert tags == {
        1: "JournalBegan",
        2: "EpochBegan",
        3: "CompactionBegan",
        4: "WorkerCame",
        5: "WorkerGone",
        10: "SessionBegan",
        11: "SessionEnded",
        12: "SessionRestated",
        13: "FunctionDefined",
        14: "BundleDefined",
        20: "TasksAccepted",
        21: "ArrayClosed",
        22: "ArrayRestated",
        23: "ChunkRestated",
        30: "LeaseGranted",
        31: "LeaseRestated",
        32: "IndexesReturned",
        33: "TaskTried",
        34: "CompactionEnded",
        40: "TasksEnded",
        41: "TasksCancelled",
        42: "OutcomesReceived",
        43: "OutcomeRestated",
        50: "RunOpened",
        51: "ClientLeft",
        52: "ClientCame",
        53: "RunEnded",
        54: "SpansFailed",
        55: "PastArrayRestated",
        56: "ReceivedRestated",
        57: "FailureRestated",
    }


def test_records_and_messages_share_no_name() -> None:
    names = {kind.__name__ for _, kind in records.codec.messages()}
    assert not names & {kind.__name__ for _, kind in protocol.codec.messages()}


def test_a_record_of_an_older_version_gets_defaults() -> None:
    *old, _runs_failures = TasksEnded(ARRAY, NO_LEASE, 0, (), ())
    assert unpack(msgpack.packb([(40, *old)])) == [TasksEnded(ARRAY, NO_LEASE, 0, (), (), ())]


@pytest.mark.parametrize(
    "items",
    [
        [(99,)],
        [(11, b"short")],
        [(41, ARRAY, ((5, 5),))],
        [(42, SESSION, (-1,))],
        [()],
        7,
    ],
)
def test_what_is_no_record_is_refused(items: Any) -> None:
    with pytest.raises(MalformedMessageError):
        unpack(msgpack.packb(items))


@pytest.mark.parametrize(
    ("item", "extra"),
    [
        (WorkerGone(WORKER), 0),
        (FunctionDefined(FUNCTION, "f", b"x" * 1000), 1000),
        (ONE_OF_EACH[10], 5),
        (ONE_OF_EACH[18], 7 + RECORD_BYTES + 40 + 60),
    ],
)
def test_a_record_weighs_what_it_keeps(item: records.Record, extra: int) -> None:
    assert weight_bytes(item) == RECORD_BYTES + extra


def test_a_settled_bulk_task_costs_a_fraction_of_a_byte() -> None:
    tasks, arguments, results = 1000, b"a" * 1234, b"r" * 2345
    said = [
        TasksAccepted(ARRAY, FUNCTION, TaskOptions(), 0, tasks, 0, arguments, last=False),
        LeaseGranted(TOKEN, ARRAY, 0, tasks, 1, WORKER),
        TasksEnded(ARRAY, TOKEN, 1, ((0, tasks),), ((0, tasks, results),)),
        OutcomesReceived(SESSION, (1,)),
    ]
    overhead_bytes = len(pack(said)) - len(arguments) - len(results)
    assert overhead_bytes <= 0.5 * tasks


def test_the_examples_hold() -> None:
    assert doctest.testmod(records).failed == 0
