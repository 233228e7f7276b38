from __future__ import annotations

import gc
import itertools
import re
import struct
import sys
from typing import Annotated, Any, NamedTuple

import msgpack
import pytest

from distcomp import protocol, worker_protocol
from distcomp.errors import FrameTooLargeError, MalformedMessageError
from distcomp.kinds import (
    INLINE_BLOB_BYTES,
    MAX_COUNTER,
    Flag,
    Integer,
    Kind,
    Listing,
    Nested,
    Octets,
    Real,
    Repeated,
    Row,
    Schema,
    Span,
    Text,
)
from distcomp.wire import MAX_FRAME_BYTES, Codec, FrameSplitter, detach_blobs

SMALL = Integer(0, 9)


class Point(NamedTuple):
    x: Annotated[int, SMALL]
    y: Annotated[int, SMALL] = 7


class Shape(NamedTuple):
    name: Annotated[str, Text(5)]
    points: Annotated[tuple[Point, ...], Listing(Nested(Point), 3)]
    blob: Annotated[bytes, Octets(0, 1 << 30)] = b""
    pairs: Annotated[tuple[tuple[int, Point], ...], Listing(Row(SMALL, Nested(Point)))] = ()
    runs: Annotated[tuple[tuple[int, bytes], ...], Listing(Row(SMALL, Octets(0, 1 << 30)))] = ()


class Nothing(NamedTuple):
    pass


@pytest.fixture
def codec() -> Codec:
    made = Codec()
    made.register(1, Shape)
    made.register(2, Nothing)
    made.register(3, Point)
    return made


ROWS = Listing(Row(SMALL, Text(2)), 2)
POINTS = Listing(Nested(Point), 2)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (SMALL, 0),
        (SMALL, 9),
        (Integer(-5, MAX_COUNTER), -5),
        (Real(), 0),
        (Real(), 1.5),
        (Real(-1.0), -1.0),
        (Flag(), True),
        (Text(2), "äö"),
        (Octets(1, 2), b"ab"),
        (Span(), (0, 1)),
        (Row(SMALL, Flag()), (1, False)),
        (ROWS, ()),
        (ROWS, ((1, "a"), (2, ""))),
        (Listing(Listing(SMALL)), ((), (1, 2))),
        (Row(Listing(SMALL), SMALL), ((1,), 2)),
    ],
)
def test_kinds_take_what_fits_as_it_is(kind: Kind, value: Any) -> None:
    assert kind(value) is value


def test_kinds_that_hold_records_make_them() -> None:
    assert POINTS(((1, 2), (3,))) == (Point(1, 2), Point(3, 7))
    assert type(POINTS(((1, 2),))[0]) is Point
    assert Row(SMALL, Nested(Point))((1, (2, 3))) == (1, Point(2, 3))
    assert POINTS(()) == ()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (SMALL, -1),
        (SMALL, 10),
        (SMALL, True),
        (SMALL, 1.0),
        (SMALL, None),
        (Real(), -0.1),
        (Real(), float("nan")),
        (Real(), float("inf")),
        (Real(), "1"),
        (Real(), True),
        (Flag(), 1),
        (Text(2), "abc"),
        (Text(2), b"a"),
        (Octets(1, 2), b""),
        (Octets(1, 2), b"abc"),
        (Octets(1, 2), "a"),
        (Span(), (1, 1)),
        (Span(), (-1, 1)),
        (Span(), (0, 1, 2)),
        (Span(), (0, MAX_COUNTER + 1)),
        (Span(), (False, True)),
        (Row(SMALL, Flag()), (1,)),
        (Row(SMALL, Flag()), (1, True, 1)),
        (Row(SMALL, Flag()), (True, True)),
        (Row(SMALL, Flag()), 5),
        (Row(SMALL, Nested(Point)), (1,)),
        (Row(SMALL, Nested(Point)), "ab"),
        (Row(SMALL, Nested(Point)), (1, ())),
        (Row(SMALL, Nested(Point)), (1, 5)),
        (ROWS, ((1, "a"),) * 3),
        (ROWS, ((1, "abc"),)),
        (ROWS, None),
        (POINTS, ((1, 2),) * 3),
        (POINTS, ((1, 22),)),
        (POINTS, 3),
        (Listing(Listing(SMALL)), ((1,), (10,))),
    ],
)
def test_kinds_refuse_what_does_not_fit(kind: Kind, value: Any) -> None:
    with pytest.raises(ValueError, match=r"is not|needs|is a list"):
        kind(value)


def test_a_misfit_names_its_field() -> None:
    with pytest.raises(ValueError, match=r"Point\.y: 12 is not an integer from 0 to 9"):
        Schema(Point).build((1, 12))


def test_a_record_without_kinds_is_our_mistake() -> None:
    class Bare(NamedTuple):
        x: int

    Bare.__annotations__["x"] = int
    with pytest.raises(TypeError, match=r"Bare\.x is annotated with no kind"):
        Schema(Bare)


def test_older_peers_send_less_and_newer_ones_more() -> None:
    schema = Schema(Point)
    assert schema.build((1,)) == Point(1, 7)
    assert schema.build((1, 2, "new", None)) == Point(1, 2)
    with pytest.raises(ValueError, match="at least 1 fields"):
        schema.build(())


class Measured(NamedTuple):
    first: Annotated[int, Integer(0, MAX_COUNTER)]
    seconds: Annotated[float, Real()]
    last: Annotated[int, Integer(0, MAX_COUNTER)]
    spots: Annotated[tuple[tuple[float, int], ...], Listing(Row(Real(), SMALL))] = ()


def test_a_number_may_be_an_integer_though_most_are_not() -> None:
    read = Schema(Measured).build
    for values in ((1, 0.5, MAX_COUNTER, ((0.5, 1), (2, 9))), (1, 2, 3, ((1.5, 0),)), (0, 0.5, 0, ())):
        assert read(values) == Measured(*values)


@pytest.mark.parametrize("wrong", [-1, MAX_COUNTER + 1, True, 1.0, None])
@pytest.mark.parametrize(("place", "name"), [(0, "first"), (2, "last")])
def test_of_several_counters_the_wrong_one_is_named(wrong: Any, place: int, name: str) -> None:
    values: list[Any] = [5, 0.5, 7, ()]
    values[place] = wrong
    with pytest.raises(ValueError, match=rf"^Measured\.{name}: {re.escape(repr(wrong))} is not"):
        Schema(Measured).build(tuple(values))


class Placed(NamedTuple):
    name: Annotated[str, Repeated(Text(5))]
    point: Annotated[Point, Repeated(Nested(Point))]


def test_what_a_field_says_again_is_made_once() -> None:
    read = Schema(Placed).build
    first, again = (read(("ab", (1, 2))) for _ in range(2))
    assert first == again == Placed("ab", Point(1, 2))
    assert first.point is again.point
    assert read(("", (1, 2))).point is first.point
    assert read(("", (1, 3))).point == Point(1, 3)
    assert Repeated(SMALL)(3) == 3


@pytest.mark.parametrize("values", [(None, (1, 2)), ("a", None), ("abcdef", (1, 2)), ("a", (1, 99))])
def test_a_misfit_said_again_is_one_again(values: tuple[Any, ...]) -> None:
    read = Schema(Placed).build
    for _ in range(2):
        with pytest.raises(ValueError, match=r"Placed|Point"):
            read(values)
    assert read(("ab", (1, 2))) == Placed("ab", Point(1, 2))
    with pytest.raises(ValueError, match=r"Placed|Point"):
        read(values)


def test_messages_survive_the_wire(codec: Codec) -> None:
    messages = [
        Shape("a", (Point(1, 2),), b"b", ((3, Point(4, 5)),), ((1, b"x"),)),
        Nothing(),
        Shape("", ()),
        Point(1),
    ]
    frame = codec.frame([codec.pack(message) for message in messages])
    (body,) = FrameSplitter().feed(frame)
    assert codec.decode(body) == messages
    assert [type(message) for message in codec.decode(body)] == [Shape, Nothing, Shape, Point]


def test_tags_are_given_once(codec: Codec) -> None:
    with pytest.raises(TypeError, match="tag 1 belongs to Shape"):
        codec.register(1, Nothing)
    assert list(codec.messages()) == [(1, Shape), (2, Nothing), (3, Point)]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x92\x91\x02",
        b"\x91\x91\x02junk",
        msgpack.packb(5),
        msgpack.packb({}),
        msgpack.packb([5]),
        msgpack.packb([[]]),
        msgpack.packb([["a"]]),
        msgpack.packb([[True]]),
        msgpack.packb([[9]]),
        msgpack.packb([[-1]]),
        msgpack.packb([[1]]),
        msgpack.packb([[1, "abcdef", []]]),
        msgpack.packb([[1, "a", [[1, 99]]]]),
        msgpack.packb([[1, "a", {}]]),
        msgpack.packb([[1, "a", [], msgpack.ExtType(1, b"12345678")]]),
        msgpack.packb([[1, "a", [], msgpack.ExtType(2, b"12345678")]]),
        msgpack.packb([[1, "a", [], msgpack.Timestamp(1)]]),
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x91\x92\x01\xa1\xff",
    ],
)
def test_unreadable_frames(codec: Codec, body: bytes) -> None:
    with pytest.raises(MalformedMessageError, match="unreadable frame"):
        codec.decode(body)


def test_a_frame_beyond_the_limit_is_never_written() -> None:
    codec = Codec(max_frame_bytes=10)
    with pytest.raises(FrameTooLargeError, match="at most 10"):
        codec.frame([b"x" * 10])
    assert len(codec.frame([b"x" * 9])) == 14


@pytest.mark.parametrize("count", [0, 1, 15, 16, 70_000])
def test_the_head_of_a_frame_is_msgpack(codec: Codec, count: int) -> None:
    frame = codec.frame([b"\x91\x02"] * count)
    assert codec.decode(frame[4:]) == [Nothing()] * count


def test_as_few_frames_as_the_limit_allows() -> None:
    codec = Codec(max_frame_bytes=20)
    frames = codec.frames([b"a" * 7, b"b" * 7, b"c" * 15, b"d"])
    assert [frame[5:] for frame in frames] == [b"a" * 7 + b"b" * 7, b"c" * 15, b"d"]
    assert codec.frames([]) == []
    with pytest.raises(FrameTooLargeError):
        codec.frames([b"a", b"b" * 21])


def test_large_blobs_are_found_wherever_they_are(codec: Codec) -> None:
    fits, large = b"x" * INLINE_BLOB_BYTES, b"x" * (INLINE_BLOB_BYTES + 1)
    assert not codec.is_large(Shape("a", (Point(1),), fits, (), ((1, fits),)))
    assert codec.is_large(Shape("a", (), large))
    assert codec.is_large(Shape("a", (), b"", (), ((1, b""), (2, large))))
    assert not codec.is_large(Nothing())


def test_large_blobs_are_detached_and_put_back(codec: Codec) -> None:
    large, larger = b"x" * (INLINE_BLOB_BYTES + 1), b"y" * 200_000
    message = Shape("a", (Point(1),), large, (), ((1, b"small"), (2, larger)))
    numbers = iter([4, 9])
    detached = detach_blobs(message, numbers.__next__)
    assert detached.blobs == [(4, large), (9, larger)]
    packed = codec.pack(detached.message)
    assert len(packed) < 100
    assert codec.decode(codec.frame([packed])[4:], dict(detached.blobs).__getitem__) == [message]
    assert detach_blobs(Nothing(), numbers.__next__) == (Nothing(), [])
    again = detach_blobs(message, iter(range(9)).__next__, 4)
    assert [blob for _, blob in again.blobs] == [large, b"small", larger]


def test_an_unknown_transfer_is_unreadable(codec: Codec) -> None:
    def unknown(transfer: int) -> bytes:
        raise ValueError(f"transfer {transfer} is not whole")

    message = detach_blobs(Shape("a", (), b"x" * 100_000), lambda: 5).message
    with pytest.raises(MalformedMessageError, match="transfer 5"):
        codec.decode(codec.frame([codec.pack(message)])[4:], unknown)


def test_the_splitter_waits_for_whole_frames() -> None:
    splitter = FrameSplitter()
    assert splitter.feed(b"\0\0") == []
    assert splitter.feed(b"\0\3ab") == []
    assert splitter.feed(b"c\0\0\0\0\0\0\0\1z\0") == [b"abc", b"", b"z"]
    assert splitter.feed(b"") == []


def test_the_splitter_refuses_a_long_frame_at_its_head() -> None:
    splitter = FrameSplitter(max_frame_bytes=3)
    assert splitter.feed(struct.pack(">I", 3) + b"abc") == [b"abc"]
    for _ in range(2):
        with pytest.raises(FrameTooLargeError, match="a frame of 4 bytes; the limit is 3"):
            splitter.feed(struct.pack(">I", 4))
    with pytest.raises(FrameTooLargeError):
        FrameSplitter().feed(struct.pack(">I", MAX_FRAME_BYTES + 1))


def test_a_small_frame_is_what_frames_would_give() -> None:
    messages = [worker_protocol.AckSettles((1, 2)), protocol.Heartbeat()]
    packed = [protocol.codec.pack(message) for message in messages]
    assert protocol.codec.small_frame(messages) == protocol.codec.frame(packed)


def test_a_small_frame_holds_no_large_blob_and_not_too_much() -> None:
    large = protocol.DefineFunction(b"f" * 32, "f", bytes(INLINE_BLOB_BYTES + 1))
    assert protocol.codec.small_frame([large]) is None
    small = protocol.DefineFunction(b"f" * 32, "f", bytes(INLINE_BLOB_BYTES))
    assert protocol.codec.small_frame([small] * 17) is None


class Weighed(NamedTuple):
    blobs: Any


def test_detached_blobs_are_let_go_of_at_once() -> None:
    blob = b"x" * (INLINE_BLOB_BYTES + 1)
    before = sys.getrefcount(blob)
    gc.disable()
    try:
        detached = detach_blobs(Weighed((blob,)), itertools.count().__next__)
        assert len(detached.blobs) == 1
        del detached
        assert sys.getrefcount(blob) == before
    finally:
        gc.enable()
