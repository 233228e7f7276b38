"""Functions and arguments are told apart where a result could differ, and nowhere else."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import importlib
import logging
import math
import pathlib
import pickle
import re
import sys
import textwrap
import threading
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import distcomp
from distcomp.errors import UnstableArgumentError
from distcomp.payload.digests import argument_digest, argument_digests, function_digest, task_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def made(source: str, name: str = "task", **names: Any) -> Callable[..., Any]:
    """A function of a script with this source."""
    namespace: dict[str, Any] = {"__name__": "__main__", **names}
    exec(textwrap.dedent(source), namespace)  # noqa: S102 - the tests' own source
    function: Callable[..., Any] = namespace[name]
    return function


def changed(before: str, after: str, **names: Any) -> list[str]:
    """The parts of `task` that differ between two sources."""
    was, now = function_digest(made(before, **names)), function_digest(made(after, **names))
    parts = [
        name for name in was.parts.keys() | now.parts.keys() if was.parts.get(name) != now.parts.get(name)
    ]
    assert bool(parts) == (was.total != now.total)
    return sorted(parts)


BASE = """
LIMIT = 5
SETTINGS = {"a": [1, 2]}

def helper(number):
    return number + LIMIT

class Model:
    rate = 0.5
    def fit(self, number):
        return helper(number) * self.rate

def task(number, factor=2):
    return Model().fit(number) * factor + SETTINGS["a"][0]
"""


# --- functions ------------------------------------------------------------------------------------


def test_the_same_code_has_the_same_digest() -> None:
    assert function_digest(made(BASE)) == function_digest(made(BASE))


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("* factor", "* factor + 1", ["code of task"]),
        ("factor=2", "factor=3", ["defaults of task"]),
        ("number + LIMIT", "number - LIMIT", ["code of helper"]),
        ("LIMIT = 5", "LIMIT = 6", ["global LIMIT"]),
        ("[1, 2]", "[1, 3]", ["global SETTINGS"]),
        ("* self.rate", "/ self.rate", ["code of Model.fit"]),
        ("rate = 0.5", "rate = 0.6", ["class Model"]),
        ("class Model:", "class Model(dict):", ["class Model"]),
    ],
)
def test_what_changed_is_named(old: str, new: str, parts: list[str]) -> None:
    assert old in BASE
    assert changed(BASE, BASE.replace(old, new)) == parts


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def helper(number):", "# moved\n\n\ndef helper(number):"),
        ("def helper(number):", 'def helper(number):\n    "What it is for."'),
        ("class Model:", 'class Model:\n    "A model."'),
        ("def task(", "def unused():\n    return 1\n\ndef task("),
        ("LIMIT = 5", "LIMIT = 5\nOTHER = 6"),
    ],
)
def test_what_computes_the_same_is_the_same(old: str, new: str) -> None:
    assert changed(BASE, BASE.replace(old, new)) == []


def test_a_text_that_is_returned_is_no_docstring() -> None:
    assert changed("task = lambda: 'a'", "task = lambda: 'b'") == ["code of <lambda>"]
    assert changed("def task():\n 'a'", "def task():\n 'b'") == []


def test_what_a_closure_holds_counts() -> None:
    source = "def make(n):\n    def task(x): return x + n\n    return task\ntask = make({})"
    parts = ["closure variable n of make.<locals>.task"]
    assert changed(source.format(1), source.format(2)) == parts
    assert changed(source.format("[{2, 1}]"), source.format("[{1, 2}]")) == []


def test_functions_that_reach_each_other_end() -> None:
    source = """
    def even(n): return n == 0 or odd(n - 1)
    def odd(n): return n != 0 and even(n - 1)
    task = even
    """
    assert changed(source, source) == []
    assert changed(source, source.replace("n != 0", "n > 0")) == ["code of odd"]


def test_functions_in_containers_decorators_and_partials_count() -> None:
    in_table = "def one(): return 1\nTABLE = {{'a': [one]}}\ndef task(): return TABLE['a'][0]() + {}"
    assert changed(in_table.format(1), in_table.format(1).replace("return 1", "return 2")) == ["code of one"]
    cached = "@cache\ndef inner(n): return n\ndef task(n): return inner(n)"
    names = {"cache": functools.lru_cache, "partial": functools.partial}
    assert changed(cached, cached.replace("return n\n", "return -n\n"), **names) == ["code of inner"]
    partial = "def inner(a, b): return a\ntask = partial(inner, 1)"
    assert changed(partial, partial.replace("return a", "return b"), **names) == ["code of inner"]
    was, now = made(partial, **names), made(partial.replace("inner, 1", "inner, 2"), **names)
    assert function_digest(was).total != function_digest(now).total


def test_a_decorated_function_is_the_function() -> None:
    function = made("def task(n): return n")
    assert function_digest(distcomp.compute_this(function)) == function_digest(function)


def test_attributes_of_data_are_no_globals() -> None:
    source = "def task(x): return x.lock"
    assert changed(source, source, lock=threading.Thread()) == []


def test_what_results_do_not_depend_on_does_not_stop_a_digest() -> None:
    names = {"log": logging.getLogger("a"), "lock": threading.Lock(), "local": threading.local()}
    source = "def task(n):\n    with lock: log.info(n); local.x = n; return n"
    assert changed(source, source, **names) == []


def test_what_has_no_digest_is_named() -> None:
    with pytest.raises(UnstableArgumentError, match=r"^global 'FILE' of task: .*TextIOWrapper") as caught:
        function_digest(made("def task(): return FILE", FILE=sys.__stdout__))
    assert caught.value.path == "global 'FILE' of task"
    with pytest.raises(UnstableArgumentError, match=r"closure variable 'g' of .* → \['a'\] → \[0\]: "):
        function_digest(
            made("def make(g):\n def task(): return g\n return task\ntask = make({'a': [(n for n in ())]})")
        )


def test_what_is_installed_counts_by_name() -> None:
    assert function_digest(math.sin).total != function_digest(math.cos).total
    assert list(function_digest(np.mean).parts) == ["version of Python"]
    source = "def task(n): return np.sin(n)"
    assert changed(source, source.replace("sin", "cos"), np=np) == ["code of task"]


def test_enumerations_and_dataclasses_are_told_by_what_they_say() -> None:
    source = "class Kind(Enum):\n    A = 1\n    def f(self): return 1\ndef task(): return Kind.A.f()"
    assert changed(source, source.replace("A = 1", "A = 2"), Enum=enum.Enum) == ["class Kind"]
    assert changed(source, source.replace("return 1", "return 2"), Enum=enum.Enum) == ["code of Kind.f"]
    source = "@dataclass\nclass Point:\n    x: int = 1\ndef task(): return Point()"
    assert changed(source, source.replace("= 1", "= 2"), dataclass=dataclasses.dataclass) != []


# --- local modules --------------------------------------------------------------------------------


@pytest.fixture
def helpers(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """The file of a local module, which can be imported."""
    file = tmp_path / "helpers_of_ours.py"
    file.write_text("LIMIT = 5\ndef scale(n): return n * LIMIT\ndef other(n): return n\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield file
    sys.modules.pop("helpers_of_ours", None)


def reloaded(file: pathlib.Path, old: str, new: str) -> Any:
    file.write_text(file.read_text().replace(old, new))
    sys.modules.pop("helpers_of_ours", None)
    importlib.invalidate_caches()
    return importlib.import_module("helpers_of_ours")


def difference(was: Any, now: Any) -> list[str]:
    return sorted(name for name in now.parts if was.parts.get(name) != now.parts[name])


def test_what_is_used_of_a_local_module_counts(helpers: pathlib.Path) -> None:
    source = "def task(n): return h.scale(n)"
    was = function_digest(made(source, h=reloaded(helpers, "", "")))
    assert function_digest(made(source, h=reloaded(helpers, "return n\n", "return -n\n"))) == was
    now = function_digest(made(source, h=reloaded(helpers, "n * LIMIT", "n / LIMIT")))
    assert difference(was, now) == ["code of scale"]
    then = function_digest(made(source, h=reloaded(helpers, "LIMIT = 5", "LIMIT = 6")))
    assert difference(now, then) == ["global LIMIT"]


def test_a_file_that_was_edited_since_its_import_counts(helpers: pathlib.Path) -> None:
    function = made("def task(n): return h.scale(n)", h=reloaded(helpers, "", ""))
    was = function_digest(function)
    helpers.write_text(helpers.read_text().replace("return n\n", "return -n\n"))
    assert function_digest(function) == was
    helpers.write_text(helpers.read_text().replace("n * LIMIT", "n / LIMIT"))
    assert difference(was, function_digest(function)) == ["file of scale"]
    helpers.unlink()
    assert function_digest(function) == was


@pytest.mark.parametrize("statement", ["from helpers_of_ours import scale", "import helpers_of_ours"])
@pytest.mark.parametrize("is_loaded", [True, False])
def test_what_a_body_imports_counts(helpers: pathlib.Path, statement: str, is_loaded: bool) -> None:  # noqa: FBT001 - a parameter of the test
    function = made(f"def task(n):\n    {statement}\n    return n")
    if is_loaded:
        reloaded(helpers, "", "")
    was = function_digest(function)
    reloaded(helpers, "n * LIMIT", "n / LIMIT")
    if not is_loaded:
        del sys.modules["helpers_of_ours"]
    changed_parts = ["code of scale"] if is_loaded else ["module helpers_of_ours"]
    assert difference(was, function_digest(function)) == changed_parts


# --- arguments ------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0


@dataclasses.dataclass(frozen=True)
class Slotted:
    __slots__ = ("x",)
    x: Any


class Pair(collections.namedtuple("Pair", "a b")):  # noqa: PYI024, SLOT002 - the plainest of its kind
    pass


class Text(str):
    __slots__ = ()


class Table(dict[str, int]):
    pass


class Bag(set[int]):
    pass


def with_attribute(value: Any, name: str) -> Any:
    value.label = name
    return value


def in_itself(*values: Any) -> list[Any]:
    made: list[Any] = [*values]
    made.append(made)
    return made


UTC = dt.timezone.utc
NOON = dt.datetime(2026, 3, 1, 12, tzinfo=UTC)
FIELDS = [("a", "i1"), ("b", "f8")]

EACH_ANOTHER: list[Callable[[], Any]] = [
    lambda: None,
    lambda: True,
    lambda: 1,
    lambda: 1.0,
    lambda: "1",
    lambda: b"1",
    lambda: 0.0,
    lambda: -0.0,
    lambda: math.nan,
    lambda: math.inf,
    lambda: -1,
    lambda: 1 << 5000,
    lambda: 1 + 2j,
    lambda: "\ud800",
    lambda: "a" * 5000,
    lambda: b"a" * 5000,
    lambda: bytearray(b"1"),
    lambda: memoryview(b"1"),
    lambda: (),
    list,
    dict,
    set,
    frozenset,
    lambda: (1, (2,)),
    lambda: ((1,), 2),
    lambda: (1, 2),
    lambda: [1, 2],
    lambda: ["12"],
    lambda: ["1", "2"],
    lambda: {"a": 1, "b": [2]},
    lambda: {"a": [1], "b": 2},
    lambda: {1: "a"},
    lambda: collections.OrderedDict(a=1, b=2),
    lambda: collections.OrderedDict(b=2, a=1),
    lambda: collections.defaultdict(list, a=1),
    lambda: collections.defaultdict(set, a=1),
    lambda: collections.Counter("aab"),
    lambda: collections.deque([1, 2]),
    lambda: collections.deque([1, 2], 5),
    lambda: array.array("i", [1, 2]),
    lambda: {1, 2, 3},
    lambda: frozenset({1, 2, 3}),
    lambda: range(3),
    lambda: slice(1, 2),
    lambda: ...,
    lambda: Colour.RED,
    lambda: Colour.BLUE,
    lambda: Level.LOW,
    lambda: Point(1),
    lambda: Point(2),
    lambda: Point(1, {2, 3}),
    lambda: with_attribute(Point(1), "a"),
    lambda: Slotted(1),
    lambda: Slotted([1]),
    lambda: Pair(1, 2),
    lambda: Text("1"),
    lambda: Table(a=1, b=2),
    lambda: with_attribute(Table(a=1, b=2), "a"),
    lambda: Bag({1, 2}),
    lambda: pathlib.PurePosixPath("/a"),
    lambda: pathlib.PurePosixPath("/b"),
    lambda: NOON,
    lambda: NOON.astimezone(dt.timezone(dt.timedelta(hours=1))),
    lambda: NOON.replace(tzinfo=None),
    NOON.date,
    NOON.time,
    lambda: dt.timedelta(1),
    lambda: decimal.Decimal("1.0"),
    lambda: decimal.Decimal("1.00"),
    lambda: fractions.Fraction(1, 2),
    lambda: uuid.UUID(int=1),
    lambda: re.compile("a"),
    lambda: re.compile("a", re.IGNORECASE),
    lambda: ValueError("a"),
    lambda: math.sin,
    lambda: str.upper,
    lambda: "a".upper,
    lambda: "b".upper,
    lambda: int,
    lambda: Point,
    lambda: list[int],
    lambda: made("task = lambda: 1"),
    lambda: made("task = lambda: 2"),
    lambda: functools.partial(int, base=2),
    lambda: functools.partial(int, base=3),
    lambda: Point(1).__eq__,
    lambda: in_itself(1),
    lambda: in_itself(2),
    lambda: np.arange(3),
    lambda: np.arange(4),
    lambda: np.arange(3.0),
    lambda: np.arange(6).reshape(2, 3),
    lambda: np.arange(6).reshape(3, 2),
    lambda: np.arange(6).reshape(2, 3).T,
    lambda: np.array(1),
    lambda: np.int64(1),
    lambda: np.int32(1),
    lambda: np.float64(1),
    lambda: np.longdouble(1),
    lambda: np.array(["a", "bc"]),
    lambda: np.array(["a", "bc"], dtype=object),
    lambda: np.array([{1, 2}, None], dtype=object),
    lambda: np.array(["2026-01-01"], dtype="M8[D]"),
    lambda: np.datetime64("2026-01-01"),
    lambda: np.zeros((0, 2)),
    lambda: np.zeros((2, 0)),
    lambda: np.zeros(2, dtype=np.dtype(FIELDS, align=True)),
    lambda: np.zeros(5000),
    lambda: np.ones(5000),
    lambda: np.ma.masked_array([1, 2], mask=[True, False]),
    lambda: np.dtype("f8"),
    lambda: np.sin,
    lambda: np.random.default_rng(1),
    lambda: np.random.default_rng(2),
]


def test_equal_arguments_have_equal_digests_and_others_have_others() -> None:
    digests: dict[bytes, int] = {}
    for place, make in enumerate(EACH_ANOTHER):
        digest = argument_digest((make(),), {})
        assert argument_digest((make(),), {}) == digest, f"{make()!r} is not the same twice"
        assert digest not in digests, f"{make()!r} is taken for {EACH_ANOTHER[digests[digest]]()!r}"
        digests[digest] = place


def test_order_counts_only_where_it_says_something() -> None:
    for one, other in (
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"x", "y", "z"}, {"z", "y", "x"}),
        (Point({"a": 1, "b": 2}), Point({"b": 2, "a": 1})),
        (collections.Counter("abb"), collections.Counter("bba")),
        ({frozenset({"a", "b"}): {1: 2, 3: 4}}, {frozenset({"b", "a"}): {3: 4, 1: 2}}),
    ):
        assert argument_digest((one,), {}) == argument_digest((other,), {})


def test_arrays_are_told_by_content_not_by_layout() -> None:
    plain = np.arange(6).reshape(2, 3)
    for other in (np.asfortranarray(plain), np.arange(12).reshape(2, 6)[:, :3] * 0 + plain, plain.copy()):
        assert argument_digest((other,), {}) == argument_digest((plain,), {})
    assert argument_digest((float("nan"),), {}) == argument_digest((-float("nan"),), {})


def test_bytes_that_nobody_has_set_do_not_count() -> None:
    dtype = np.dtype(FIELDS, align=True)
    one = np.frombuffer(b"\x01" * dtype.itemsize, dtype=dtype).copy()
    other = np.frombuffer(b"\x01" + b"\x02" * 7 + b"\x01" * 8, dtype=dtype).copy()
    assert argument_digest((one,), {}) == argument_digest((other,), {})


def test_keywords_have_no_order_but_are_no_positions() -> None:
    assert argument_digest((1,), {"a": 2, "b": 3}) == argument_digest((1,), {"b": 3, "a": 2})
    rows: list[Any] = [((1, 2), {}), ((1,), {"a": 2}), ((), {"a": 1, "b": 2}), ((), {"a": 2, "b": 1})]
    assert len({argument_digest(*row) for row in rows}) == len(rows)


def test_columns_have_the_digests_of_their_calls() -> None:
    points = [Point(number) for number in range(5)]
    columns: list[Any] = [
        [1, 2, 3, 4, 5],
        range(5),
        [1, 2.0, "a", None, True],
        [math.nan, -0.0, 1.5, math.inf, 2.5],
        points,
        [points[0]] * 5,
        ["b", "c", "d", "e", "f"],
    ]
    expected = [argument_digest(row[:5], {"z": row[5], "a": row[6]}) for row in zip(*columns, strict=True)]
    assert argument_digests(columns, ["z", "a"]) == expected


class Told:
    """Gives pickle what it is told to."""

    def __init__(self, values: Iterator[Any]) -> None:
        self._values = values

    def __reduce__(self) -> Any:
        return Told, (next(self._values),)


class Closed:
    def __getstate__(self) -> Any:
        raise TypeError("not this one")


@pytest.mark.parametrize(
    ("args", "path"),
    [
        (((n for n in ()),), "argument 1"),
        ((1, {"a": [Point(sys.__stdout__)]}), r"argument 2 → \['a'\] → \[0\] → \.x"),
        (({(1, sys.__stdin__): 2},), r"argument 1 → a key → \[1\]"),
        ((Told(iter(range(100))),), "argument 1"),
        (([Closed()],), r"argument 1 → \[0\]"),
        ((functools.reduce(lambda inner, _: [inner], range(100_000), []),), "argument 1"),
    ],
)
def test_what_has_no_digest_is_named_by_its_path(args: tuple[Any, ...], path: str) -> None:
    with pytest.raises(UnstableArgumentError, match=f"^{path}: "):
        argument_digest(args, {})
    with pytest.raises(UnstableArgumentError, match=f"^{path}: "):
        argument_digests([[each] for each in args])


def test_an_object_that_says_the_same_each_time_has_a_digest() -> None:
    told = Told(iter(lambda: 5, None))
    assert argument_digest((told,), {}) == argument_digests([[told]])[0]
    with pytest.raises(UnstableArgumentError, match="argument 'a'"):
        argument_digest((), {"a": Told(iter(range(100)))})


def test_an_error_can_be_pickled() -> None:
    error = UnstableArgumentError("argument 1", "why")
    assert str(pickle.loads(pickle.dumps(error))) == "argument 1: why"  # noqa: S301 - ours


def test_keys_tell_functions_versions_and_arguments_apart() -> None:
    one, two = argument_digests([[1, 2]])
    keys = {
        key
        for function in (b"f" * 32, b"g" * 32)
        for version in ("", "1", "2")
        for key in task_keys(function, version, [one, two])
    }
    assert len(keys) == 12
    assert all(len(key) == 32 for key in keys)


def test_tables_are_told_by_content() -> None:
    pandas = pytest.importorskip("pandas")
    built = pandas.DataFrame({"a": [1, 2]})
    built["b"] = ["x", "y"]  # stands in another block than if made at once
    tables = [
        pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
        pandas.DataFrame({"a": [1, 2], "b": ["x", "z"]}),
        pandas.DataFrame({"b": ["x", "y"], "a": [1, 2]}),
        pandas.Series([1, 2], index=["x", "y"]),
        pandas.Series(["x", None], dtype="category"),
        pandas.date_range("2026-01-01", periods=2),
    ]
    digests = [argument_digest((table,), {}) for table in tables]
    assert len(set(digests)) == len(tables)
    assert argument_digest((built,), {}) == digests[0]
