from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from distcomp.config import WireLimits
from distcomp.errors import MalformedMessageError
from distcomp.kinds import INLINE_BLOB_BYTES
from distcomp.protocol import CancelTasks, DefineFunction, Heartbeat, PiecesStored, SendPiece, Submit, codec
from distcomp.rows import TaskOptions
from distcomp.transfers import Incoming, Outgoing
from distcomp.wire import MAX_FRAME_BYTES, PIECE_BYTES, FrameSplitter
from distcomp.worker_protocol import GrantLease, LeaseSettled

if TYPE_CHECKING:
    from distcomp.protocol import Message

LIMITS = WireLimits()
SESSION = b"s" * 16
FUNCTION = b"f" * 32
LARGE = bytes(range(256)) * 4096


def submit(array: int, chunk: bytes = b"") -> Submit:
    return Submit((SESSION, array), FUNCTION, TaskOptions(), 0, 1, chunk, last=True)


def define(blob: bytes) -> DefineFunction:
    return DefineFunction(FUNCTION, "f", blob)


class Link:
    """Both ends, and the bytes between them as they would be written."""

    def __init__(self, limits: WireLimits = LIMITS) -> None:
        self.outgoing, self.incoming = Outgoing(limits), Incoming(limits)
        self.splitter = FrameSplitter()
        self.pieces: list[int] = []
        self.arrived: list[Message] = []

    def send(self, *messages: Message) -> list[Message]:
        """Send; what arrives at once."""
        before = len(self.arrived)
        for frame in codec.frames(self.outgoing.pack(messages)):
            self._read(frame)
        return self.arrived[before:]

    def pump(self, frames: int = 1_000_000) -> list[Message]:
        """Let at most so many pieces travel; what arrives by that."""
        before = len(self.arrived)
        for _ in range(frames):
            frame = b"".join(self.outgoing.next_frames())
            if not frame:
                break
            self._read(frame)
        return self.arrived[before:]

    def _read(self, data: bytes) -> None:
        for body in self.splitter.feed(data):
            for message in codec.decode(body, self.incoming.claim):
                if isinstance(message, SendPiece):
                    self.pieces.append(message.transfer)
                    self.incoming.store(message)
                    stored = self.incoming.take_credit()
                    if stored is not None:
                        self.outgoing.add_credit(stored.size_bytes)
                else:
                    self.arrived.append(message)


def test_small_messages_leave_at_once_in_order() -> None:
    link = Link()
    batch = [submit(1, b"x" * INLINE_BLOB_BYTES), Heartbeat(), submit(2)]
    assert link.send(*batch) == batch
    assert link.outgoing.next_frames() == []


@pytest.mark.parametrize("size_bytes", [INLINE_BLOB_BYTES + 1, PIECE_BYTES, PIECE_BYTES + 1, 40 << 20])
def test_a_large_blob_arrives_whole(size_bytes: int) -> None:
    link = Link()
    message = submit(1, LARGE * (size_bytes // len(LARGE)) + LARGE[: size_bytes % len(LARGE)])
    assert link.send(message) == []
    assert link.pump() == [message]
    assert len(link.pieces) == -(-size_bytes // PIECE_BYTES)
    assert link.outgoing.parked == 0


def test_others_overtake_and_what_shares_a_key_waits() -> None:
    link = Link()
    large, cancel = submit(1, LARGE), CancelTasks((SESSION, 1), ())
    assert link.send(large, cancel, submit(2), Heartbeat()) == [submit(2), Heartbeat()]
    assert link.pump() == [large, cancel]


def test_waiting_is_handed_on() -> None:
    link = Link()
    first, second, third = define(LARGE), submit(1, b"a"), CancelTasks((SESSION, 1), ())
    assert link.send(first, second, third, submit(2)) == []
    assert link.pump() == [first, second, submit(2), third]
    assert link.outgoing.parked == 0
    assert link.send(CancelTasks((SESSION, 1), ())) == [third]


def test_a_large_follower_is_sent_in_its_turn() -> None:
    link = Link()
    first, second, third = define(LARGE), submit(1, LARGE), CancelTasks((SESSION, 1), ())
    assert link.send(first, second, third) == []
    assert link.pump() == [first, second, third]


def test_a_long_chain_of_followers_leaves_together() -> None:
    link = Link()
    chain = [submit(1, LARGE), *(submit(1, b"x") for _ in range(5000))]
    assert link.send(*chain) == []
    assert link.pump() == chain


def test_leases_of_one_session_do_not_wait_for_each_other() -> None:
    def grant(lease: int, chunk: bytes) -> GrantLease:
        one = (SESSION, 1), FUNCTION, 0, 1, 0, chunk, 1, 0.0, 0
        return GrantLease((1, lease), *one, urgent=False, eager=False)

    link = Link()
    large, small = grant(1, LARGE), grant(2, b"")
    assert link.send(large, small) == [small]
    assert link.pump() == [large]


def test_transfers_take_turns() -> None:
    link = Link()
    link.send(submit(1, LARGE), submit(2, LARGE))
    link.pump(6)
    assert link.pieces == [1, 2, 1, 2, 1, 2]


def test_credit_bounds_what_is_under_way() -> None:
    outgoing = Outgoing(LIMITS)
    outgoing.pack([submit(1, LARGE * 20)])
    frames = 0
    while outgoing.next_frames():
        frames += 1
    assert frames == LIMITS.credit_bytes // PIECE_BYTES
    outgoing.add_credit(PIECE_BYTES)
    assert outgoing.next_frames()
    assert not outgoing.next_frames()


def test_credit_that_was_never_given_is_refused() -> None:
    with pytest.raises(MalformedMessageError, match="more credit"):
        Outgoing(LIMITS).add_credit(1)


def test_only_so_many_payloads_travel_at_a_time() -> None:
    link = Link(WireLimits(max_transfers=2))
    link.send(*(submit(array, LARGE) for array in range(5)))
    link.pump(6)
    assert set(link.pieces) == {1, 2}
    assert len(link.pump()) == 5


def test_payloads_wait_for_room_at_the_receiver() -> None:
    link = Link(WireLimits(max_transfer_bytes=(5 << 20) // 2))
    messages = [submit(array, LARGE) for array in range(5)]
    link.send(*messages)
    assert link.pump() == messages


def test_many_small_blobs_that_make_no_frame_travel_apart() -> None:
    link = Link()
    runs = tuple((index, index + 1, bytes([index]) * 60_000) for index in range(40))
    message = LeaseSettled(1, (1, 1), runs, (), 0.5, 0)
    assert not codec.is_large(message)
    assert link.send(message) == []
    assert link.pump() == [message]


def test_a_message_follows_its_last_piece_in_frames_within_the_limit() -> None:
    outgoing = Outgoing(LIMITS)
    outgoing.pack([submit(1, LARGE), *(submit(1, bytes(60_000)) for _ in range(60))])
    written = b""
    while frames := outgoing.next_frames():
        written += b"".join(frames)
    bodies = FrameSplitter().feed(written)
    assert max(map(len, bodies)) <= MAX_FRAME_BYTES
    assert len(bodies) > 5


def piece(transfer: int, size_bytes: int, data: bytes) -> SendPiece:
    return SendPiece(transfer, size_bytes, data)


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([piece(1, 2, b"abc")], "changed its size"),
        ([piece(1, 9, b"abc"), piece(1, 8, b"abc")], "changed its size"),
        ([piece(1, 3, b"abc"), piece(1, 3, b"abc")], "was over"),
        ([piece(2, 3, b"abc"), piece(1, 3, b"abc")], "never began"),
        ([piece(1, 2 << 20, b"abc")], "at most 1048576 may come"),
        ([piece(number, 1 << 20, b"a") for number in range(1, 4)], "under way"),
    ],
)
def test_nonsense_is_refused(pieces: list[Any], words: str) -> None:
    incoming = Incoming(WireLimits(max_payload_bytes=1 << 20, max_transfer_bytes=2 << 20))
    with pytest.raises(MalformedMessageError, match=words):
        list(map(incoming.store, pieces))


def test_the_number_of_transfers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distcomp.transfers.MAX_ITEMS", 2)
    incoming = Incoming(LIMITS)
    incoming.store(piece(1, 1, b"a"))
    incoming.store(piece(2, 2, b"a"))
    with pytest.raises(MalformedMessageError, match="more than 2"):
        incoming.store(piece(3, 2, b"a"))


def test_a_blob_is_claimed_once_and_only_when_whole() -> None:
    incoming = Incoming(LIMITS)
    incoming.store(piece(1, 4, b"ab"))
    with pytest.raises(ValueError, match="not whole"):
        incoming.claim(1)
    incoming.store(piece(1, 4, b"cd"))
    assert incoming.claim(1) == b"abcd"
    with pytest.raises(ValueError, match="not whole"):
        incoming.claim(1)


def test_claimed_bytes_make_room() -> None:
    incoming = Incoming(WireLimits(max_transfer_bytes=1 << 20))
    for number in range(1, 4):
        incoming.store(piece(number, 1 << 20, bytes(1 << 20)))
        assert len(incoming.claim(number)) == 1 << 20


def test_credit_goes_back_when_it_is_worth_a_message() -> None:
    incoming = Incoming(LIMITS)
    given: list[PiecesStored] = []
    for _ in range(16):
        incoming.store(piece(1, 16 * PIECE_BYTES, bytes(PIECE_BYTES)))
        stored = incoming.take_credit()
        given += [stored] if stored else []
    assert given == [PiecesStored(PIECE_BYTES)] * 16
    incoming.store(piece(2, 2, b"a"))
    assert incoming.take_credit() is None
