"""Classes that travel by value: once beside all values of a chunk or run, and whole with each of these."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from overtaking import Gate

from distcomp.errors import UnloadableTaskError
from distcomp.payload import classes, open_chunk, open_results

if TYPE_CHECKING:
    from distcomp.payload import Packed

WRITER = """
import pickle, sys
from dataclasses import dataclass
from distcomp.payload import dump_call, dump_result, pack_calls, pack_columns, pack_results

@dataclass
class Row:
    values: list

    def total(self):
        return sum(self.values)

@dataclass
class Pair:
    left: Row
    right: Row

def columns(items, **limits):
    return pack_columns([items], shares_path=False, **limits)

def calls(items, **limits):
    return pack_calls([dump_call((item,), {}, shares_path=False) for item in items], **limits)

def results(items, **limits):
    return pack_results([dump_result(item) for item in items], **limits)

def shared(items, **limits):
    return pack_columns([items, items[:1] * len(items)], shares_path=False, **limits)

"""
WAYS = ["columns", "calls", "results"]


@pytest.fixture(autouse=True)
def _forget_classes() -> None:
    classes._opened.clear()


def written(expression: str) -> list[Packed]:
    """What a script makes of an expression; nothing in it is known to this process."""
    program = f"{WRITER}\nsys.stdout.buffer.write(pickle.dumps({expression}))"
    packed: list[Packed] = pickle.loads(  # noqa: S301 - our own program wrote it
        subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE).stdout
    )
    return packed


def read(way: str, blob: bytes) -> list[Any]:
    if way == "results":
        return list(open_results(blob))
    chunk = open_chunk(blob)
    return [args[0] for args, _ in chunk.calls(0, chunk.count)]


@pytest.mark.parametrize("way", WAYS)
def test_neighbours_share_a_definition(way: str) -> None:
    packed = written(f"{way}([Row([i]) for i in range(1000)], max_bytes=64 << 10)")
    assert len(packed) <= 3
    assert sum(len(part.blob) for part in packed) < 200_000
    values = [value for part in packed for value in read(way, part.blob)]
    assert [value.total() for value in values] == list(range(1000))
    assert len(set(map(type, values))) == 1


@pytest.mark.parametrize("way", WAYS)
def test_every_blob_brings_all_definitions_that_it_needs(way: str) -> None:
    packed = written(f"{way}([*(Row([i]) for i in range(40)), Pair(Row([1]), Row([2]))], max_bytes=3000)")
    assert len(packed) > 2
    for part in packed:
        classes._opened.clear()
        for value in read(way, part.blob):
            assert type(value).__name__ == ("Row" if hasattr(value, "total") else "Pair")
    (pair,) = read(way, packed[-1].blob)[-1:]
    assert pair.left.total() + pair.right.total() == 3


@pytest.mark.parametrize("way", WAYS)
def test_neighbours_share_nothing_but_definitions(way: str) -> None:
    (packed,) = written(f"{way}([Row(same) for same in [[1]] * 2])")
    first, second = read(way, packed.blob)
    assert type(first) is type(second)
    assert first.values == second.values
    assert first.values is not second.values


def test_a_shared_column_shares_definitions_too() -> None:
    (packed,) = written("shared([Row([i]) for i in range(9)])")
    chunk = open_chunk(packed.blob)
    assert [args[0].total() + args[1].total() for args, _ in chunk.calls(0, 9)] == list(range(9))
    assert len(packed.blob) < len(written("columns([Row([1])])")[0].blob) + 1000


def test_a_result_can_be_opened_after_its_class_was_forgotten() -> None:
    (packed,) = written("results([Row([1]), Row([2])])")
    opened = open_results(packed.blob)
    assert opened[0].total() == 1
    classes._opened.clear()
    assert opened[1].total() == 2


def test_a_broken_definition_fails_the_tasks_that_need_it() -> None:
    (packed,) = written("columns([Row([1]), [2], Row([3])])")
    count, definitions, *rest = pickle.loads(packed.blob)  # noqa: S301 - our own program wrote it
    broken = {digest: (identity, b"no class") for digest, (identity, _) in definitions.items()}
    for beside, words in ((broken, "incorrect header"), ({}, "the definition of its class is not with it")):
        calls = open_chunk(pickle.dumps((count, beside, *rest))).calls(0, 3)
        with pytest.raises(UnloadableTaskError, match=words):
            next(calls)
        assert next(calls) == (([2],), {})
        with pytest.raises(UnloadableTaskError, match=words):
            next(calls)


def test_a_class_is_whole_for_another_thread_that_opens_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    (packed,) = written("results([Row([1]), Row([2])])")
    totals: list[int] = []
    reached = threading.Event()

    def look() -> None:
        try:
            totals.append(open_results(packed.blob)[1].total())
        finally:
            reached.set()

    class Foreign(weakref.WeakSet[type]):
        def add(self, item: type) -> None:
            other.start()
            reached.wait()
            super().add(item)

    other = threading.Thread(target=look)
    monkeypatch.setattr(classes, "_foreign", Foreign())
    monkeypatch.setattr(classes, "_lock", Gate(reached))
    assert open_results(packed.blob)[0].total() == 1
    other.join()
    assert totals == [2]
