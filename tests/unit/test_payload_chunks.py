"""Arguments in chunks and results in runs: what goes in comes out, each task for itself."""

from __future__ import annotations

import dataclasses
import threading
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcomp.errors import UnloadableTaskError, UnpicklableError, UnpicklableResultError
from distcomp.payload import (
    CHUNK_BYTES,
    Boxed,
    Constant,
    Packed,
    call_size_bytes,
    dump_call,
    dump_result,
    open_chunk,
    open_results,
    pack_calls,
    pack_columns,
    pack_results,
    result_size_bytes,
)

END = ("no more",)
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.binary(max_size=20),
)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def all_calls(packed: list[Packed]) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Every call of neighbouring chunks, which must not leave a gap."""
    calls = []
    position = 0
    for start, stop, blob in packed:
        assert start == position
        position = stop
        chunk = open_chunk(blob)
        assert chunk.count == stop - start
        calls += [(tuple(args), dict(kwargs)) for args, kwargs in chunk.calls(0, chunk.count)]
    return calls


def outcomes(calls: Any) -> list[Any]:
    """What an iterator gives, with the errors it raises in between."""
    return list(iter(lambda: outcome(calls), END))


def outcome(calls: Any) -> Any:
    try:
        return tuple(next(calls, (END, {}))[0])
    except (UnloadableTaskError, UnpicklableError) as error:
        return error


class Bad:
    """Comes apart where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


# --- calls ----------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.lists(values, max_size=3), st.dictionaries(st.sampled_from("abc"), values)), min_size=1
    )
)
@settings(max_examples=30, deadline=None)
def test_calls_of_any_shape_come_back(made: list[tuple[list[Any], dict[str, Any]]]) -> None:
    calls = [(tuple(args), kwargs) for args, kwargs in made]
    dumped = [dump_call(args, kwargs, shares_path=True) for args, kwargs in calls]
    assert all_calls(pack_calls(dumped, max_bytes=200, max_tasks=3)) == calls


@given(st.lists(st.tuples(values, plain, values), min_size=1, max_size=30), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_columns_come_back_as_rows(rows: list[tuple[Any, ...]], keywords: int) -> None:
    columns = [list(column) for column in zip(*rows, strict=True)]
    names = ["x", "y", "z"][3 - keywords :]
    expected = [(row[: 3 - keywords], dict(zip(names, row[3 - keywords :], strict=True))) for row in rows]
    assert all_calls(pack_columns(columns, names, shares_path=True, max_bytes=150, max_tasks=7)) == expected


def test_part_of_a_chunk_is_opened_by_positions() -> None:
    columns = [[[n] for n in range(10)], range(10), Constant({"k": 1}, 10)]
    chunk = open_chunk(pack_columns(columns, ["z"], shares_path=True)[0].blob)
    got = [(tuple(args), kwargs) for args, kwargs in chunk.calls(3, 5)]
    assert got == [(([3], 3), {"z": {"k": 1}}), (([4], 4), {"z": {"k": 1}})]


def test_a_chunk_is_small_or_one_task() -> None:
    texts = ["x" * 1000] * 500 + ["y" * CHUNK_BYTES * 3] + ["z"] * 10
    packed = pack_columns([texts], shares_path=True)
    assert [args[0] for args, _ in all_calls(packed)] == texts
    assert all(len(blob) <= CHUNK_BYTES or stop - start == 1 for start, stop, blob in packed)
    assert len(packed) < 40


def test_large_bytes_are_not_copied_before_they_are_packed() -> None:
    large = bytes(4 << 20)
    tracemalloc.start()
    try:
        call = dump_call((large, 1), {"more": large}, shares_path=True)
        assert tracemalloc.get_traced_memory()[1] < len(large) / 10
    finally:
        tracemalloc.stop()
    small = dump_call((b"x",), {}, shares_path=True)
    (alone,) = pack_calls([call])
    assert len(large) < len(alone.blob) <= call_size_bytes(call)
    assert all_calls(pack_calls([small, call, small])) == [
        ((b"x",), {}),
        ((large, 1), {"more": large}),
        ((b"x",), {}),
    ]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((b"x" * 100_000, *(mark * 60_000 for mark in "abcd")), {}),
        ((b"x" * 100_000, "\u00e4" * 60_000, "\ud800"), {"b" * 60_000: None}),
        ((b"x" * 100_000, 1 << 400_000), {}),
        ([bytes([at]) * 65_537 for at in range(40)], {}),
    ],
)
def test_what_comes_with_large_bytes_is_counted_too(args: Any, kwargs: dict[str, Any]) -> None:
    call = dump_call(tuple(args), kwargs, shares_path=True)
    (packed,) = pack_calls([call])
    assert len(packed.blob) <= call_size_bytes(call)


def test_a_range_travels_in_a_few_bytes_but_in_bounded_chunks() -> None:
    packed = pack_columns([range(10_000)], shares_path=True, max_tasks=4096)
    assert [part.stop - part.start for part in packed] == [4096, 4096, 1808]
    assert sum(len(part.blob) for part in packed) < 400


def test_no_two_tasks_share_an_object_but_one_task_keeps_its_own_sharing() -> None:
    same: list[int] = []
    by_columns = open_chunk(pack_columns([[same, same], [same, same]], shares_path=True)[0].blob)
    (first, second), (third, _) = (args for args, _ in by_columns.calls(0, 2))
    assert first is second
    assert first is not third
    by_rows = open_chunk(pack_calls([dump_call((same,), {}, shares_path=True)] * 2)[0].blob)
    (one,), (other,) = (args for args, _ in by_rows.calls(0, 2))
    assert one is not other


def test_one_object_for_all_tasks_travels_once_a_chunk() -> None:
    big = list(range(5000))
    packed = pack_columns([range(1000), [big] * 1000], shares_path=True, max_bytes=1 << 20)
    assert len(packed) == 1
    assert len(packed[0].blob) < 40_000
    assert [args[1] for args, _ in all_calls(packed)] == [big] * 1000


def test_a_constant_is_a_sequence() -> None:
    column = Constant(None, 5)
    assert (len(column), column[4], column[1:3]) == (5, None, [None, None])
    with pytest.raises(IndexError):
        column[5]


def test_what_is_changed_after_the_call_changes_nothing() -> None:
    items = [1]
    call = dump_call((items,), {}, shares_path=True)
    items.append(2)
    assert all_calls(pack_calls([call])) == [(([1],), {})]


@pytest.mark.parametrize("large", [b"x" * 100_000, "x" * 100_000, "ä" * 100_000])
def test_large_plain_arguments_tell_how_large_they_are(large: Any) -> None:
    for args, kwargs in [((1, large), {}), ((1,), {"second": large})]:
        call = dump_call(args, kwargs, shares_path=True)
        (packed,) = pack_calls([call])
        assert 0.99 < len(packed.blob) / call_size_bytes(call) < 1.01
        assert all_calls([packed]) == [(args, kwargs)]


def test_a_bad_argument_fails_its_own_task_alone() -> None:
    column = [[1], threading.Lock(), Bad(), [4]]
    for columns in ([column], [column, range(4)]):
        chunk = open_chunk(pack_columns(columns, shares_path=True)[0].blob)
        first, unpicklable, unloadable, last = outcomes(chunk.calls(0, 4))
        assert (first[0], last[0]) == ([1], [4])
        assert str(unpicklable) == "argument 1: cannot pickle '_thread.lock' object"
        assert type(unpicklable.__cause__) is TypeError
        assert isinstance(unloadable, UnloadableTaskError)
        assert "ValueError: invalid literal for int()" in str(unloadable)


def test_a_bad_argument_counts_its_place_among_all() -> None:
    chunk = open_chunk(pack_columns([range(1), [threading.Lock()]], shares_path=True)[0].blob)
    (error,) = outcomes(chunk.calls(0, 1))
    assert str(error).startswith("argument 2: ")


def test_a_bad_constant_fails_every_task_at_its_turn() -> None:
    chunk = open_chunk(pack_columns([range(2), Constant(threading.Lock(), 2)], shares_path=True)[0].blob)
    assert [type(outcome) for outcome in outcomes(chunk.calls(0, 2))] == [UnpicklableError] * 2


def test_arrays_travel_and_do_not_share_memory() -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(6.0).reshape(2, 3)
    rows = [tuple(args) for args, _ in all_calls(pack_columns([list(array), [array] * 2], shares_path=True))]
    assert [row.tolist() for row, _ in rows] == array.tolist()
    rows[0][1][0, 0] = 7
    assert rows[1][1][0, 0] == 0
    (scalar,) = open_results(pack_results([dump_result(array.sum())])[0].blob)
    assert type(scalar) is numpy.float64


def test_a_broken_chunk_is_told_as_such() -> None:
    with pytest.raises(UnloadableTaskError, match="a chunk of arguments could not be rebuilt under Python"):
        open_chunk(b"no pickle")


# --- what cannot be pickled is named --------------------------------------------------------------


@dataclasses.dataclass
class Config:
    options: Any


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner = inner


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((1, Config({"lock": threading.Lock()})), {}, "argument 2 → .options → ['lock']: cannot pickle"),
        (([0, (1, threading.Lock())],), {}, "argument 1 → [1] → [1]: cannot pickle '_thread.lock' object"),
        ((), {"x": Slotted(threading.Lock())}, "argument 'x' → .inner: cannot pickle"),
        ((lambda lock=threading.Lock(): lock,), {}, "argument 1 → default 1: cannot pickle"),  # noqa: B008 - the case
        ((Config(threading.Lock()).__eq__,), {}, "argument 1 → the object it is bound to → .options: cannot"),
        ((i for i in ()), {}, None),
        (((i for i in ()),), {}, "argument 1: cannot pickle 'generator' object"),
    ],
)
def test_the_path_to_the_culprit_is_named(args: Any, kwargs: dict[str, Any], text: str | None) -> None:
    if text is None:
        assert dump_call(tuple(args), kwargs, shares_path=True) == ((), {})
        return
    with pytest.raises(UnpicklableError) as caught:
        dump_call(args, kwargs, shares_path=True)
    assert str(caught.value).startswith(text)
    assert caught.value.__cause__ is not None


def test_a_structure_that_contains_itself_is_no_endless_search() -> None:
    loop: list[Any] = []
    loop.append({"self": loop, "lock": threading.Lock()})
    with pytest.raises(UnpicklableError, match=r"argument 1 → \[0\] → \['lock'\]: cannot pickle"):
        dump_call((loop,), {}, shares_path=True)


class Shy:
    """Cannot be shown, nor pickled."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __reduce__(self) -> Any:
        raise BadText

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no attributes")


class BadText(Exception):  # noqa: N818 - it is no error of ours
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "value", [Shy(), {Shy(): 1}, {Shy()}, [Shy()]], ids=["itself", "key", "member", "item"]
)
def test_what_cannot_be_looked_at_fails_its_own_task_alone(value: Any) -> None:
    with pytest.raises(UnpicklableError, match=r"argument 1.*BadText"):
        dump_call((value,), {}, shares_path=True)
    chunk = open_chunk(pack_columns([[[1], value, [3]]], shares_path=True)[0].blob)
    first, problem, last = outcomes(chunk.calls(0, 3))
    assert (first[0], last[0]) == ([1], [3])
    assert isinstance(problem, UnpicklableError)


def test_too_deep_a_structure_is_an_error_like_others() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UnpicklableError, match="recursion"):
        dump_call((deep,), {}, shares_path=True)
    while deep:
        deep = deep[0]


# --- results --------------------------------------------------------------------------------------


@given(st.lists(values, min_size=1, max_size=30), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_results_come_back_under_their_indexes(results: list[Any], start: int) -> None:
    runs = pack_results([dump_result(value) for value in results], start, max_bytes=60)
    assert runs[0].start == start
    assert [run.stop for run in runs[:-1]] == [run.start for run in runs[1:]]
    assert [value for run in runs for value in open_results(run.blob)] == results


def test_results_are_read_one_by_one_each_time_anew() -> None:
    results = open_results(pack_results(list(map(dump_result, [1, [2], b"3", {"4": 4}])))[0].blob)
    assert len(results) == 4
    assert results[1] == [2]
    assert results[1] is not results[1]
    assert results[-1] == {"4": 4}
    assert results[1:3] == [[2], b"3"]
    assert list(results) == [1, [2], b"3", {"4": 4}]
    with pytest.raises(IndexError):
        results[4]


def test_a_result_that_cannot_be_pickled_hurts_nothing_else() -> None:
    kept = [dump_result([1])]
    with pytest.raises(
        UnpicklableResultError, match=r"result → .options: cannot pickle '_thread.lock' object"
    ):
        dump_result(Config(threading.Lock()))
    kept.append(dump_result(2))
    assert [(run.start, list(open_results(run.blob))) for run in pack_results(kept, 7)] == [(7, [[1], 2])]


def test_a_result_that_cannot_be_rebuilt_hurts_nothing_else() -> None:
    results = open_results(pack_results([dump_result(Bad()), dump_result([2])])[0].blob)
    with pytest.raises(UnloadableTaskError, match="the result could not be rebuilt"):
        results[0]
    assert results[1] == [2]


def test_sizes_of_results_follow_their_bytes() -> None:
    assert result_size_bytes(None) < 20
    assert 1000 < result_size_bytes("x" * 1000) < 1100
    assert 1000 < result_size_bytes(1 << 8000) < 1100
    assert result_size_bytes(Boxed(bytes(1000))) == 1000


def test_runs_of_results_are_bounded() -> None:
    runs = pack_results([bytes([n % 256]) * 1000 for n in range(5000)], max_bytes=1 << 20)
    assert len(runs) == 6
    assert max(len(run.blob) for run in runs) <= 1 << 20
