from __future__ import annotations

import signal

import pytest

from distcomp.errors import FrameTooLargeError, MalformedMessageError
from distcomp.rows import Failure, LogLine
from distcomp.slot_protocol import (
    INTERRUPT_SIGNAL,
    STACKS_SIGNAL,
    BlobFollows,
    ForgetFunction,
    LoadFunction,
    PrepareSlot,
    RunLogged,
    RunProgressed,
    RunTasks,
    SlotReady,
    SlotStream,
    codec,
)

FUNCTION = b"f" * 32
EXAMPLES = [
    PrepareSlot(b"environment", 1 << 30),
    LoadFunction(FUNCTION, b"code"),
    ForgetFunction(FUNCTION),
    RunTasks(1, FUNCTION, 3, 9, 0, b"chunk", False),
    SlotReady(""),
    RunProgressed(1, ((3, 5, b"ab"),), ((5, Failure("exception", True, "ValueError")),), 0.5, 6, True),
    RunLogged(1, (LogLine(3, "stdout", 0, "said"),), 2),
]


LARGE = [
    RunTasks(1, FUNCTION, 0, 1, 0, b"c" * (3 << 20), True),
    LoadFunction(FUNCTION, b"b" * 70_000),
    RunProgressed(1, ((3, 4, b"x" * 100_000), (4, 5, b""), (5, 6, b"y" * 80_000)), (), 0.5, 6, True),
]


def test_the_examples_name_every_message() -> None:
    spoken = {record for _, record in codec.messages()} - {BlobFollows}
    assert {type(each) for each in EXAMPLES} == spoken


@pytest.mark.parametrize("piece_bytes", [3, 1000, 65_536, 1 << 30])
def test_every_message_survives_the_stream_however_it_is_cut(piece_bytes: int) -> None:
    messages = EXAMPLES if piece_bytes < 1000 else EXAMPLES + LARGE + EXAMPLES
    data = b"".join(SlotStream().encode(messages))
    stream, found = SlotStream(), []
    for at in range(0, len(data), piece_bytes):
        found += stream.feed(data[at : at + piece_bytes])
    assert found == messages


def test_the_longest_failure_fits() -> None:
    texts = {"text": "\U0001f600" * 65_536, "output": "\U0001f600" * 65_536, "stacks": "\U0001f600" * 65_536}
    failure = Failure("exception", traceback="\U0001f600" * (256 << 10), exception=bytes(1 << 20), **texts)
    message = RunProgressed(1, (), ((0, failure),), 0.0, 1, True)
    assert SlotStream().feed(b"".join(SlotStream().encode([message]))) == [message]


def test_a_frame_too_long_ends_the_stream() -> None:
    with pytest.raises(FrameTooLargeError):
        SlotStream().feed(b"\xff\xff\xff\xff")


def test_a_blob_that_was_not_sent_is_refused() -> None:
    views = SlotStream().encode(LARGE[:1])
    with pytest.raises(MalformedMessageError, match="was not sent"):
        SlotStream().feed(bytes(views[-1]))


def test_nonsense_is_refused() -> None:
    with pytest.raises(MalformedMessageError, match=r"LoadFunction\.function"):
        codec.decode(b"\x91\x93\x02\xc4\x01f\xc4\x00")


def test_the_two_signals_differ_and_can_be_caught() -> None:
    assert STACKS_SIGNAL != INTERRUPT_SIGNAL
    assert {STACKS_SIGNAL, INTERRUPT_SIGNAL} <= set(map(int, signal.valid_signals()))
