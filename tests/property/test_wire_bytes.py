"""The codec and the splitter under any chopping of bytes, and under bytes that mean harm."""

from __future__ import annotations

import re
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import msgpack
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from distcomp.auth import ClientHandshake, ServerHandshake
from distcomp.config import WireLimits
from distcomp.errors import ConnectError, MalformedMessageError, ProtocolError
from distcomp.ids import ClusterId
from distcomp.kinds import (
    Digest,
    Flag,
    Integer,
    Kind,
    Listing,
    Nested,
    Octets,
    Real,
    Repeated,
    Row,
    Span,
    Text,
)
from distcomp.protocol import Heartbeat, SendPiece, codec
from distcomp.transfers import Incoming, Outgoing
from distcomp.wire import FrameSplitter

if TYPE_CHECKING:
    from collections.abc import Callable

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Examples are many; how long one takes depends on what else the machine does."""

LIMITS = WireLimits(max_transfer_bytes=1 << 20)


def bounds(kind: Kind) -> tuple[int, int]:
    low, high = re.findall(r"-?\d+", kind.wanted)
    return int(low), int(high)


def octets_of(kind: Any) -> st.SearchStrategy[Any]:
    low, high = bounds(kind)
    return st.binary(min_size=low, max_size=min(high, low + 40))


VALUES: dict[type[Kind], Callable[[Any], st.SearchStrategy[Any]]] = {
    Integer: lambda kind: st.integers(*bounds(kind)),
    Real: lambda _: st.floats(0, allow_nan=False, allow_infinity=False),
    Flag: lambda _: st.booleans(),
    Text: lambda _: st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    Octets: octets_of,
    Digest: lambda _: st.just(b"") | st.binary(min_size=32, max_size=32),
    Span: lambda _: st.tuples(st.integers(0, 99), st.integers(100, 2**63 - 1)),
    Row: lambda kind: st.tuples(*map(values_of, kind.kinds)),
    Listing: lambda kind: st.lists(values_of(kind.kind), max_size=4).map(tuple),
    Nested: lambda kind: records_of(kind.record),
    Repeated: lambda kind: values_of(kind.kind),
}
"""For each class of kinds: values that a kind takes, kept small."""


def values_of(kind: Kind) -> st.SearchStrategy[Any]:
    return VALUES[type(kind)](kind)


def records_of(record: type[Any]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(record, include_extras=True)
    kinds = [next(x for x in get_args(hints[name]) if isinstance(x, Kind)) for name in record._fields]
    return st.tuples(*map(values_of, kinds)).map(record._make)


ANY_MESSAGE = st.one_of([records_of(record) for _, record in codec.messages()])
ANY_VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=40)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=9)),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
CUTS = st.lists(st.floats(0, 1), max_size=12)


def chopped(data: bytes, cuts: list[float]) -> list[bytes]:
    at = [0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(at)]


def read(splitter: FrameSplitter, pieces: list[bytes]) -> list[Any]:
    return [message for data in pieces for body in splitter.feed(data) for message in codec.decode(body)]


@unhurried
@given(st.lists(st.lists(ANY_MESSAGE, max_size=5), max_size=5), CUTS)
def test_messages_survive_any_chopping(batches: list[list[Any]], cuts: list[float]) -> None:
    frames = [codec.frame([codec.pack(message) for message in batch]) for batch in batches]
    arrived = read(FrameSplitter(), chopped(b"".join(frames), cuts))
    sent = [message for batch in batches for message in batch]
    assert arrived == sent
    assert list(map(type, arrived)) == list(map(type, sent))


@unhurried
@given(ANY_MESSAGE)
def test_messages_survive_byte_by_byte(message: Any) -> None:
    frame = codec.frame([codec.pack(message)])
    assert read(FrameSplitter(), [bytes((each,)) for each in frame]) == [message]


@unhurried
@given(ANY_MESSAGE, st.lists(ANY_VALUE, min_size=1, max_size=3))
def test_fields_of_a_newer_peer_are_passed_over(message: Any, more: list[Any]) -> None:
    assume(not _has_maps_or_extensions(more))
    (tag,) = (tag for tag, record in codec.messages() if record is type(message))
    body = msgpack.packb([[tag, *message, *more]])
    assert codec.decode(body) == [message]


def _has_maps_or_extensions(value: Any) -> bool:
    if isinstance(value, (dict, msgpack.ExtType)):
        return True
    return isinstance(value, list) and any(map(_has_maps_or_extensions, value))


def read_or_refuse(body: bytes) -> None:
    """What is read must be messages that can be sent on; anything else must be refused as malformed."""
    try:
        messages = codec.decode(body)
    except MalformedMessageError:
        return
    assert_sendable(messages)


def assert_sendable(messages: list[Any]) -> None:
    if messages:
        assert codec.decode(codec.frame([codec.pack(message) for message in messages])[4:]) == messages


@unhurried
@given(st.binary(max_size=300))
def test_random_bodies_are_read_or_refused(body: bytes) -> None:
    read_or_refuse(body)


@unhurried
@given(ANY_VALUE)
def test_well_formed_bodies_of_anything_are_read_or_refused(value: Any) -> None:
    read_or_refuse(msgpack.packb([value, [1], [2, value], value]))


@unhurried
@given(ANY_MESSAGE, st.data())
def test_a_message_with_a_wrong_field_is_read_or_refused(message: Any, data: st.DataObject) -> None:
    assume(message)
    (tag,) = (tag for tag, record in codec.messages() if record is type(message))
    fields = [tag, *message]
    fields[data.draw(st.integers(0, len(fields) - 1))] = data.draw(ANY_VALUE)
    read_or_refuse(msgpack.packb([fields]))


@unhurried
@given(ANY_MESSAGE, st.data())
def test_a_truncated_body_is_refused(message: Any, data: st.DataObject) -> None:
    body = codec.frame([codec.pack(message)])[4:]
    length = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(MalformedMessageError):
        codec.decode(body[:length])


@unhurried
@given(ANY_MESSAGE, st.data())
def test_changed_bytes_are_read_or_refused(message: Any, data: st.DataObject) -> None:
    frame = bytearray(codec.frame([codec.pack(message)]))
    for at in data.draw(st.lists(st.integers(0, len(frame) - 1), max_size=3)):
        frame[at] = data.draw(st.integers(0, 255))
    try:
        messages = read(FrameSplitter(), [bytes(frame)])
    except ProtocolError:
        return
    assert_sendable(messages)


@unhurried
@given(st.binary(max_size=400), CUTS)
def test_random_streams_are_split_or_refused(stream: bytes, cuts: list[float]) -> None:
    """However they are chopped, the same bodies come out before the same end."""

    def bodies(pieces: list[bytes]) -> tuple[list[bytes], bool]:
        splitter, found, broken = FrameSplitter(max_frame_bytes=50), [], True
        with suppress(ProtocolError):
            for piece in pieces:
                found += splitter.feed(piece)
            broken = False
        return found, broken

    found, broken = bodies([bytes((each,)) for each in stream])
    others, broken_too = bodies(chopped(stream, cuts))
    assert broken == broken_too
    assert others == found[: len(others)], "bodies that came in one read with nonsense are dropped with it"
    assert broken or others == found


PIECES = st.builds(
    SendPiece,
    st.integers(0, 5),
    st.integers(1, 2 << 20) | st.integers(1, 60),
    st.binary(min_size=1, max_size=60),
)


@unhurried
@given(st.lists(PIECES, max_size=20), st.lists(st.integers(0, 6), max_size=5))
def test_random_pieces_are_stored_or_refused_within_bounds(pieces: list[Any], claims: list[int]) -> None:
    incoming = Incoming(LIMITS)
    with suppress(MalformedMessageError):
        for piece in pieces:
            incoming.store(piece)
    assert incoming._held_bytes >= 0
    for transfer in claims:
        with suppress(ValueError):
            incoming.claim(transfer)


LARGE = st.integers(1, 600_000).map(bytes)
TRANSFERRED = st.builds(
    lambda message, blob: message._replace(blob=blob), records_of(dict(codec.messages())[5]), LARGE
)


@settings(unhurried, max_examples=30)
@given(st.lists(TRANSFERRED | st.just(Heartbeat()), max_size=12), st.data())
def test_everything_sent_arrives_once_whatever_the_turns(messages: list[Any], data: st.DataObject) -> None:
    limits = WireLimits(credit_bytes=1 << 20, max_transfers=2)
    outgoing, incoming, splitter = Outgoing(limits), Incoming(limits), FrameSplitter()
    arrived: list[Any] = []

    def carry(stream: bytes) -> None:
        for body in splitter.feed(stream):
            for message in codec.decode(body, incoming.claim):
                if isinstance(message, SendPiece):
                    incoming.store(message)
                    stored = incoming.take_credit()
                    if stored is not None:
                        outgoing.add_credit(stored.size_bytes)
                else:
                    arrived.append(message)

    for message in messages:
        carry(b"".join(codec.frames(outgoing.pack([message]))))
        for _ in range(data.draw(st.integers(0, 3))):
            carry(b"".join(outgoing.next_frames()))
    while frames := outgoing.next_frames():
        carry(b"".join(frames))
    assert sorted(map(repr, arrived)) == sorted(map(repr, messages))
    assert outgoing.parked == 0
    assert incoming._held_bytes == 0
    for function in {message.function for message in messages if message}:
        assert [m for m in arrived if m and m.function == function] == [
            m for m in messages if m and m.function == function
        ], "messages that share a key keep their order"


@unhurried
@given(st.binary(max_size=600), CUTS)
def test_random_handshakes_fail_as_connections_do(stream: bytes, cuts: list[float]) -> None:
    server = ServerHandshake(ClusterId(b"c" * 16), lambda *_: b"s" * 32)
    client = ClientHandshake("client", "a", b"c" * 16, b"s" * 32)
    for handshake in (server, client):
        for head in (b"", client.greeting()[:10]):
            with suppress(ConnectError):
                for piece in chopped(head + stream, cuts):
                    handshake.receive(piece)
            assert not handshake.done
