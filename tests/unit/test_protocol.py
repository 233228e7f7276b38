from __future__ import annotations

from typing import Any, get_type_hints

import pytest

from distcomp import protocol, worker_protocol
from distcomp.errors import MalformedMessageError
from distcomp.kinds import Kind
from distcomp.ordering import HELD_KEYS, ORDER_KEYS
from distcomp.protocol import codec
from distcomp.rows import Failure, TaskOptions
from distcomp.worker_protocol import GrantLease, LeaseSettled

MESSAGES = dict(codec.messages())

TAGS = {
    1: "Heartbeat",
    2: "SendPiece",
    3: "PiecesStored",
    4: "Refused",
    5: "DefineFunction",
    6: "MissingFunction",
    7: "DefineBundle",
    8: "MissingBundle",
    9: "LendRefused",
    10: "OpenSession",
    11: "Submit",
    12: "CancelTasks",
    13: "AckOutcomes",
    14: "CloseSession",
    15: "WatchStatus",
    16: "ExplainWait",
    17: "LendSlot",
    18: "ExplainTask",
    19: "ReadOutcomes",
    20: "SessionOpened",
    21: "Accepted",
    22: "SubmitRefused",
    23: "TasksSettled",
    24: "TasksBegan",
    25: "GaveNotice",
    26: "StatusReported",
    27: "WaitExplained",
    28: "TasksLogged",
    29: "TaskExplained",
    30: "TasksRetried",
    31: "TasksFailed",
    32: "RunDescribed",
    33: "ListRuns",
    34: "RunsListed",
    35: "ForgetRun",
    36: "RunForgotten",
    40: "RegisterWorker",
    41: "LeaseSettled",
    42: "LeaseReturned",
    43: "SlotsReported",
    44: "WorkerDraining",
    45: "WorkerLeft",
    46: "BindTask",
    47: "LeaseLogged",
    50: "WorkerRegistered",
    51: "DefineSession",
    52: "EndSession",
    53: "GrantLease",
    54: "RetractLease",
    55: "CancelLease",
    56: "AckSettles",
    57: "SlotLent",
    60: "ResizeWorker",
    61: "WorkerResized",
    62: "SetSlots",
    63: "SlotsSet",
}
"""Released tags. A line is only ever added: a tag is never given to another message."""


def test_tags_keep_their_meaning() -> None:
    assert {tag: record.__name__ for tag, record in MESSAGES.items()} == TAGS


@pytest.mark.parametrize("record", MESSAGES.values(), ids=lambda record: record.__name__)
def test_every_message_is_described_and_bounded(record: type[Any]) -> None:
    assert record.__doc__
    assert "Alias for" not in record.__doc__
    assert record.__module__ in (protocol.__name__, worker_protocol.__name__)
    hints = get_type_hints(record, include_extras=True)
    for name in record._fields:
        assert any(isinstance(extra, Kind) for extra in hints[name].__metadata__), name


GRANT = GrantLease((1, 2), (b"s" * 16, 3), b"f" * 32, 5, 9, 0, b"chunk", 1, 0.0, -3, urgent=False, eager=True)
SETTLED = LeaseSettled(
    7, (1, 2), ((5, 6, b"r"), (8, 9, b"")), ((7, Failure("exception", text="no", attempt=2)),), 0.25, 1
)


@pytest.mark.parametrize("message", [GRANT, SETTLED])
def test_messages_come_back_as_they_were(message: Any) -> None:
    (read,) = codec.decode(codec.frame([codec.pack(message)])[4:])
    assert read == message
    assert type(read) is type(message)


def test_nested_records_come_back_as_records() -> None:
    (read,) = codec.decode(codec.frame([codec.pack(SETTLED)])[4:])
    assert type(read.failures[0][1]) is Failure


@pytest.mark.parametrize(
    "message",
    [
        GRANT._replace(function=b"short"),
        GRANT._replace(array=(b"s", 3)),
        GRANT._replace(token=(1, -2)),
        GRANT._replace(token=(1, 2, 3)),
        GRANT._replace(timeout_s=float("nan")),
        GRANT._replace(priority=1001),
        GRANT._replace(urgent=1),
        GRANT._replace(start=2**63),
        SETTLED._replace(runs=((5, 6),)),
        SETTLED._replace(runs=((5, 6, "text"),)),
        SETTLED._replace(failures=((7, ()),)),
        SETTLED._replace(failures=((7, Failure("x" * 257)),)),
    ],
)
def test_fields_out_of_bounds_are_refused(message: Any) -> None:
    with pytest.raises(MalformedMessageError):
        codec.decode(codec.frame([codec.pack(message)])[4:])


def test_order_keys_belong_to_messages_and_can_be_computed() -> None:
    assert set(HELD_KEYS) <= set(ORDER_KEYS) <= set(MESSAGES.values())
    for message in (GRANT, SETTLED):
        assert ORDER_KEYS[type(message)](message)
    assert HELD_KEYS[GrantLease](GRANT) == (GRANT.token,)
    submit = protocol.Submit((b"s" * 16, 1), b"f" * 32, TaskOptions(), 0, 1, b"", last=True)
    for kind in HELD_KEYS:
        if kind in (protocol.Submit, GrantLease):
            message = submit if kind is protocol.Submit else GRANT
            assert set(HELD_KEYS[kind](message)) <= set(ORDER_KEYS[kind](message))
