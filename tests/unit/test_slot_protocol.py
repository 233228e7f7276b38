from __future__ import annotations

import signal

import pytest

from distcomp.errors import MalformedMessageError
from distcomp.protocol import Failure
from distcomp.slot_protocol import (
    INTERRUPT_SIGNAL,
    STACKS_SIGNAL,
    ForgetFunction,
    LoadFunction,
    PrepareSlot,
    RunProgressed,
    RunTasks,
    SlotReady,
    codec,
)
from distcomp.wire import FrameSplitter

FUNCTION = b"f" * 32
EXAMPLES = [
    PrepareSlot(b"environment", 1 << 30),
    LoadFunction(FUNCTION, b"code"),
    ForgetFunction(FUNCTION),
    RunTasks(1, FUNCTION, 3, 9, 0, b"chunk", False),
    SlotReady(""),
    RunProgressed(1, ((3, 5, b"ab"),), ((5, Failure("exception", True, "ValueError")),), 0.5, 6, True),
]


def test_every_message_survives_the_wire() -> None:
    (body,) = FrameSplitter(codec.max_frame_bytes).feed(codec.frame([codec.pack(each) for each in EXAMPLES]))
    assert codec.decode(body) == EXAMPLES


def test_the_examples_name_every_message() -> None:
    assert {type(each) for each in EXAMPLES} == {record for _, record in codec.messages()}


def test_a_payload_above_a_programs_frame_rides_whole() -> None:
    message = RunTasks(1, FUNCTION, 0, 1, 0, bytes(3 << 20), True)
    (body,) = FrameSplitter(codec.max_frame_bytes).feed(codec.frame([codec.pack(message)]))
    assert codec.decode(body) == [message]


def test_nonsense_is_refused() -> None:
    with pytest.raises(MalformedMessageError, match=r"LoadFunction\.function"):
        codec.decode(b"\x91\x93\x02\xc4\x01f\xc4\x00")


def test_the_two_signals_differ_and_can_be_caught() -> None:
    assert STACKS_SIGNAL != INTERRUPT_SIGNAL
    assert {STACKS_SIGNAL, INTERRUPT_SIGNAL} <= set(map(int, signal.valid_signals()))
