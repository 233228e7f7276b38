"""Digests are the same in processes with other hash seeds, and tell different values apart."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from distcomp.payload.digests import argument_digest, argument_digests

PROGRAM = textwrap.dedent(
    """
    import collections, dataclasses, enum, pathlib, sys
    import numpy as np
    from distcomp.payload.digests import argument_digest, function_digest

    NAMES = {"one", "two", "three", "four"}
    TABLE = {name: len(name) for name in NAMES}

    class Colour(enum.Flag):
        RED = 1
        BLUE = 2

    @dataclasses.dataclass
    class Point:
        names: set
        def far(self):
            return max(TABLE.values()) + len(self.names & NAMES)

    class Bag(set):
        pass

    def helper(point):
        return point.far() if "one" in {"one", "two", "three"} else Colour.RED

    def task(number, names=frozenset(NAMES)):
        return helper(Point(set(names))) + number + np.sin(number)

    values = [
        NAMES, TABLE, Point(NAMES), Bag(NAMES), Point, Colour, task, Colour.RED | Colour.BLUE,
        frozenset(NAMES),
        {frozenset({"a", "b"}), frozenset({"c", "d"})}, collections.Counter(sorted(NAMES)), Point(NAMES).far,
        {name: {name, "x"} for name in NAMES}, np.array([NAMES, None], dtype=object), pathlib.Path("a"),
        {Point: 1, Bag: 2, task: 3, helper: 4},
    ]
    digest = function_digest(task)
    for name in sorted(digest.parts):
        print(name, digest.parts[name].hex())
    print(digest.total.hex())
    for value in values:
        print(argument_digest((value,), {"b": value, "a": 1}).hex())
    """
)


def test_digests_depend_on_no_hash_seed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PROGRAM)
    programs = [
        subprocess.Popen(
            [sys.executable, script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2", "3")
    ]
    said = {program.communicate(timeout=60)[0] for program in programs}
    assert [program.returncode for program in programs] == [0] * 3
    assert len(said) == 1
    assert len(said.pop().splitlines()) > 20


plain = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5)
)
hashable = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.tuples(inner, inner), st.frozensets(inner, max_size=3), st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=6,
)
values = st.recursive(
    hashable,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(hashable, inner, max_size=3),
        st.sets(hashable, max_size=3),
        st.tuples(inner),
    ),
    max_leaves=10,
)


def told(value: Any) -> Any:
    """A value as something that is equal only to the same value of the same types."""
    if isinstance(value, float):
        return "float", "nan" if value != value else value.hex()  # noqa: PLR0124 - only NaN differs from itself
    if isinstance(value, dict):
        return "dict", frozenset((told(key), told(part)) for key, part in value.items())
    if isinstance(value, (set, frozenset)):
        return type(value).__name__, frozenset(map(told, value))
    if isinstance(value, (list, tuple)):
        return type(value).__name__, tuple(map(told, value))
    return type(value).__name__, value


def shuffled(value: Any) -> Any:
    """A copy of a value, with dicts and sets filled in another order."""
    if isinstance(value, dict):
        return {shuffled(key): shuffled(part) for key, part in reversed(value.items())}
    if isinstance(value, (set, frozenset)):
        return type(value)(shuffled(part) for part in reversed(list(value)))
    if isinstance(value, (list, tuple)):
        return type(value)(map(shuffled, value))
    return value


def has_several_nans(value: Any) -> bool:
    """Whether a set or the keys of a dict hold NaN more than once, which a plain model cannot tell."""
    return repr(value).count("nan") > 1


@settings(max_examples=80, deadline=None)
@given(values, values)
def test_values_have_one_digest_if_they_are_the_same(one: Any, other: Any) -> None:
    assume(not has_several_nans(one) and not has_several_nans(other))
    digest = argument_digest((one,), {})
    assert argument_digest((shuffled(one),), {}) == digest
    assert (argument_digest((other,), {}) == digest) == (told(one) == told(other))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(plain, values), min_size=1, max_size=5))
def test_columns_have_the_digests_of_their_calls(rows: list[tuple[Any, Any]]) -> None:
    columns = [list(column) for column in zip(*rows, strict=True)]
    assert argument_digests(columns) == [argument_digest(row, {}) for row in rows]
    named = [argument_digest(row[:1], {"last": row[1]}) for row in rows]
    assert argument_digests(columns, ["last"]) == named
