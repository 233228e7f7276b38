"""Functions as bytes: whatever they reach for travels along, and unchanged ones are not pickled again."""

from __future__ import annotations

import copyreg
import functools
import gc
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import types
import weakref
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest
from overtaking import Gate, in_another_thread

from distcomp.errors import UnloadableTaskError, UnpicklableError
from distcomp.payload import (
    FunctionCache,
    dump_call,
    dump_environment,
    dump_function,
    enter_environment,
    function_name,
    load_function,
    pack_calls,
    pickler,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

READER = """
import pickle, sys
from distcomp.payload import dump_failure, dump_result, load_function, open_chunk, pack_results
blob, chunk = pickle.load(sys.stdin.buffer)
try:
    function = load_function(blob).function
    ((args, kwargs),) = open_chunk(chunk).calls(0, 1)
    outcome = pack_results([dump_result(function(*args, **kwargs))])[0].blob
except BaseException as error:
    outcome = dump_failure(error)
sys.stdout.buffer.write(pickle.dumps(outcome))
"""
ELSEWHERE = f"""
import pickle, subprocess, sys
from distcomp.payload import *

def elsewhere(function, *args, shares_path=False):
    return run(dump_function(function, shares_path=shares_path)[1], *args)

def run(blob, *args):
    chunk = pack_calls([dump_call(args, {{}}, shares_path=False)])[0].blob
    done = subprocess.run([sys.executable, "-c", {READER!r}], input=pickle.dumps((blob, chunk)),
                          check=True, stdout=subprocess.PIPE, cwd="/")
    outcome = pickle.loads(done.stdout)
    return open_results(outcome)[0] if isinstance(outcome, bytes) else load_failure(outcome)
"""


def run_main(text: str, folder: Path, *flags: str, stdin: bool = False) -> str:
    """The output of a script, in which `elsewhere(function, *args)` runs in a process that knows nothing."""
    (folder / "elsewhere.py").write_text(ELSEWHERE)
    program = "from elsewhere import elsewhere, run\n" + textwrap.dedent(text)
    (folder / "script.py").write_text(program)
    done = subprocess.run(
        [sys.executable, *(program if flag == "PROGRAM" else flag for flag in flags or ("script.py",))],
        input=program if stdin else None,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


EVERYTHING = """
    import collections, dataclasses, enum, math, os.path
    import local_module
    from local_module import Point, twice

    LIMIT = 10

    def fact(n):
        return 1 if n < 2 else n * fact(n - 1)

    def is_even(n):
        return n == 0 or is_odd(n - 1)

    def is_odd(n):
        return n != 0 and is_even(n - 1)

    @dataclasses.dataclass
    class Row:
        name: str
        values: list = dataclasses.field(default_factory=list)

        def total(self):
            return sum(self.values) + LIMIT

    class Colour(enum.Enum):
        RED = 1

    def adder(n):
        count = 0
        def add(x):
            nonlocal count
            count += 1
            return x + n + count
        return add

    def everything(row):
        return (fact(5), is_even(10), row.total(), Colour.RED, adder(2)(3), (lambda x: x * 2)(4),
                twice(3), Point(1, 2), local_module.twice(5), os.path.join("a", "b"), Row("new", [1]))

    got = elsewhere(everything, Row("a", [1, 2]))
    assert got == (120, True, 13, Colour.RED, 6, 8, 6, Point(1, 2), 10, "a/b", Row("new", [1])), got
    assert type(got[-1]) is Row and type(got[7]) is Point and got[3] is Colour.RED
    print("all right")
"""
LOCAL_MODULE = """
    import threading
    FACTOR = 2

    class Point:
        def __init__(self, x, y):
            self.x, self.y = x, y
        def __eq__(self, other):
            return isinstance(other, Point) and vars(self) == vars(other)
        __hash__ = None

    def twice(x):
        return x * FACTOR
"""


@pytest.mark.parametrize(
    ("flags", "stdin"),
    [((), False), (("-c", "PROGRAM"), False), (("-",), True)],
    ids=["script", "-c", "stdin"],
)
def test_what_main_defines_runs_elsewhere(tmp_path: Path, flags: tuple[str, ...], stdin: bool) -> None:  # noqa: FBT001 - a parameter of the case
    (tmp_path / "local_module.py").write_text(textwrap.dedent(LOCAL_MODULE))
    assert run_main(EVERYTHING, tmp_path, *flags, stdin=stdin) == "all right\n"


def test_local_modules_are_named_where_the_path_is_shared(tmp_path: Path) -> None:
    (tmp_path / "local_module.py").write_text(textwrap.dedent(LOCAL_MODULE))
    program = """
        import local_module
        from distcomp.payload import dump_function
        assert len(dump_function(local_module.twice, shares_path=True)[1]) < 200
        assert elsewhere(local_module.twice, 4, shares_path=True) == 8
        print(type(elsewhere(local_module.Point, 1, 2, shares_path=True)) is local_module.Point)
    """
    assert run_main(program, tmp_path) == "True\n"


def test_a_class_comes_home_as_itself_and_untouched(tmp_path: Path) -> None:
    program = """
        LIMIT = 10

        class Row:
            made = 0
            def __init__(self, x):
                self.x = x
            def total(self):
                return self.x + LIMIT

        class Wide(Row):
            pass

        def make(x):
            Row.made += 1
            return [Row(x), Wide(x)]

        total = Row.total
        made = elsewhere(make, 1) + elsewhere(lambda row: [row], Wide(2))
        assert [type(row) for row in made] == [Row, Wide, Wide]
        assert Row.total is total and Row.made == 0
        LIMIT = 20
        print([row.total() for row in made], elsewhere(Wide.total, Wide(3)))
    """
    assert run_main(program, tmp_path) == "[21, 21, 22] 23\n"


def test_a_class_that_only_the_other_side_knows_comes_whole(tmp_path: Path) -> None:
    program = """
        def make():
            class Local:
                def __init__(self, x):
                    self.x = x
                def get(self):
                    return self.x * 2
            return [Local(1), Local(2)]
        first, second = elsewhere(make)
        assert type(first) is type(second)
        print(first.get(), second.get())
    """
    assert run_main(program, tmp_path) == "2 4\n"


CLASS_CHANGES = [
    ("pass", False),
    ("A.note = 2", True),
    ("def helper(): return 2", True),
    ("K = 2", True),
    ("Base.more = 1", True),
    ("A.table['x'] = 1", True),
]


@pytest.mark.parametrize(("change", "is_new"), CLASS_CHANGES)
def test_a_class_is_pickled_again_when_it_has_changed(change: str, is_new: bool) -> None:  # noqa: FBT001 - a parameter of the case
    names = module_of("""
        K = 1
        def helper(): return K
        class Base: pass
        class A(Base):
            table = {}
            def m(self): return helper()
            @property
            def p(self): return K
        a = A()
    """)

    def packed() -> bytes:
        return pack_calls([dump_call((names["a"],), {}, shares_path=False)])[0].blob

    first = packed()
    assert packed() == first
    exec(change, names)  # noqa: S102 - the test's own text
    assert (packed() != first) == is_new


def test_pickling_keeps_no_class_alive() -> None:
    names = module_of(
        "class A:\n  @property\n  def p(self): return A\n  @classmethod\n  def c(cls): return A"
    )
    dump_call((names["A"](),), {}, shares_path=False)
    gone = weakref.ref(names["A"])
    names.clear()
    gc.collect()
    assert gone() is None


def test_a_missing_module_is_named(tmp_path: Path) -> None:
    (tmp_path / "only_here.py").write_text("def f():\n    return 1\n")
    program = """
        import os
        del os.environ["PYTHONPATH"]
        import only_here
        print(repr(elsewhere(only_here.f, shares_path=True)))
    """
    said = run_main(program, tmp_path)
    assert "UnloadableTaskError" in said
    assert "no module named 'only_here'" in said
    assert said.count("Python 3.") == 2


def test_a_remote_traceback_shows_lines_that_only_this_side_has(tmp_path: Path) -> None:
    program = """
        import os
        from distcomp.payload import dump_function
        def inner(x):
            return 1 / x  # the guilty line
        def outer(x):
            return inner(x)  # called from here
        blob = dump_function(outer, shares_path=False)[1]
        os.unlink("script.py")
        print(run(blob, 0).__cause__)
    """
    said = run_main(program, tmp_path)
    assert "the guilty line" in said
    assert "called from here" in said
    assert "distcomp/payload" not in said


# --- loading --------------------------------------------------------------------------------------


async def a_coroutine() -> None:
    pass


class AsyncCall:
    async def __call__(self) -> None:
        pass


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (5, "5 cannot be called"),
        (a_coroutine, "a_coroutine is a coroutine function"),
        (functools.partial(a_coroutine), "a_coroutine is a coroutine function"),
        (AsyncCall(), "AsyncCall is a coroutine function"),
    ],
)
def test_what_a_plain_call_does_not_run_is_refused(function: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        FunctionCache(shares_path=False).dump(function)


def test_bytes_that_are_no_function_are_told_as_such() -> None:
    with pytest.raises(UnloadableTaskError, match="the function could not be rebuilt under Python 3"):
        load_function(b"nonsense")


def test_retries_follow_the_types_that_travel_along() -> None:
    blob = dump_function(len, (OSError, KeyError), shares_path=True)[1]
    loaded = load_function(blob)
    assert loaded.function is len
    assert loaded.is_retriable(FileNotFoundError())
    assert not loaded.is_retriable(ValueError())


def test_without_types_any_exception_but_no_exit_is_retried() -> None:
    loaded = load_function(dump_function(len, shares_path=True)[1])
    assert loaded.is_retriable(ValueError())
    assert not loaded.is_retriable(SystemExit())
    assert not loaded.is_retriable(UnpicklableError("the same again"))
    assert not loaded.is_retriable(KeyboardInterrupt())


def test_what_a_function_cannot_take_along_is_named() -> None:
    lock = threading.Lock()
    config = {"deep": [lock]}

    def uses() -> Any:
        return config

    with pytest.raises(UnpicklableError) as caught:
        dump_function(uses, shares_path=False)
    assert str(caught.value) == (
        "function → closure variable 'config' → ['deep'] → [0]: cannot pickle '_thread.lock' object"
    )


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (len, "builtins.len"),
        (textwrap.dedent, "textwrap.dedent"),
        (textwrap.TextWrapper().fill, "textwrap.TextWrapper.fill"),
    ],
)
def test_functions_have_names_for_people(function: Callable[..., Any], name: str) -> None:
    assert function_name(function) == name


# --- the cache ------------------------------------------------------------------------------------


def module_of(text: str) -> dict[str, Any]:
    """The names of a `__main__` of its own."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(textwrap.dedent(text), namespace)  # noqa: S102 - the test's own text
    return namespace


COUNTER = """
def outer():
    n = 0
    def f(): return n
    def bump():
        nonlocal n
        n += 1
    return f, bump
f, bump = outer()
"""
CHANGES = [
    ("K = 1\ndef f(): return K", "K = 2", True),
    ("K = 100000\ndef f(): return K", "K = 50000 + 50000", True),
    ("K = 1\ndef f(): return K", "OTHER = 2", False),
    ("def f(x=1): return x", "f.__defaults__ = (2,)", True),
    ("def f(*, x=1): return x", "f.__kwdefaults__ = {'x': 2}", True),
    ("def f(): return 1", "def g(): return 2\nf.__code__ = g.__code__", True),
    ("def g(): return 1\ndef f(): return g()", "def g(): return 2", True),
    ("K = 1\ndef g(): return K\ndef f(): return g()", "K = 2", True),
    ("K = {'a': 1}\ndef f(): return K", "K['a'] = 2", True),
    ("K = [1]\ndef f(): return K", "K += [2]", True),
    ("class A: pass\na = A()\ndef f(): return a", "a = None", True),
    ("def f(): return f.note\nf.note = 1", "f.note = 2", True),
    ("def f(): return 1", "f.note = 2", True),
    (COUNTER, "bump()", True),
    ("def f(n): return f(n - 1) if n else 0", "pass", False),
    ("K = 1\nclass A:\n  def m(self): return K\ndef f(): return A().m()", "K = 2", True),
]  # fmt: skip


@pytest.mark.parametrize(("text", "change", "is_new"), CHANGES)
def test_a_function_is_pickled_again_when_it_has_changed(text: str, change: str, is_new: bool) -> None:  # noqa: FBT001 - a parameter of the case
    names = module_of(text)
    cache = FunctionCache(shares_path=False)
    first = cache.dump(names["f"])
    assert cache.dump(names["f"]) is first
    exec(change, names)  # noqa: S102 - the test's own text
    assert (cache.dump(names["f"]) is not first) == is_new


def test_other_types_to_retry_on_are_other_bytes() -> None:
    function = module_of("def f(): return 1")["f"]
    cache = FunctionCache(shares_path=False)
    assert cache.dump(function)[0] != cache.dump(function, (OSError,))[0]


def test_the_cache_keeps_no_function_alive() -> None:
    cache = FunctionCache(shares_path=False)
    names = module_of("def f(n): return g(n) if n else f\ndef g(n): return f(n - 1)")
    cache.dump(names["f"])

    def local(n: int) -> Any:
        return local if n else names

    cache.dump(names["g"])
    assert len(cache) == 2
    gone = weakref.ref(names["f"])
    names.clear()
    gc.collect()
    assert gone() is None
    assert len(cache) == 0


def test_methods_carry_their_objects_as_they_are_at_each_call() -> None:
    names = module_of("class A:\n  n = 1\n  def get(self): return self.n\na = A()")
    cache = FunctionCache(shares_path=False)
    first = load_function(cache.dump(names["a"].get)[1]).function()
    names["a"].n = 2
    assert (first, load_function(cache.dump(names["a"].get)[1]).function()) == (1, 2)


# --- the environment ------------------------------------------------------------------------------


def test_a_slot_process_takes_over_folder_variables_and_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.environ", dict(os.environ, MINE="1", DISTCOMP_JOIN="secret"))
    monkeypatch.delitem(os.environ, "OMP_NUM_THREADS", raising=False)
    blob = dump_environment()
    assert b"secret" not in blob
    program = """
        import os, pickle, sys
        from distcomp.payload import enter_environment
        enter_environment(b"")
        enter_environment(pickle.load(sys.stdin.buffer))
        print(os.getcwd(), os.environ["MINE"], os.environ["OMP_NUM_THREADS"], os.environ["DISTCOMP_X"])
        print(sys.path)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        input=pickle.dumps(blob),
        capture_output=True,
        check=True,
        cwd="/",
        env={"OMP_NUM_THREADS": "2", "DISTCOMP_X": "kept"},
        timeout=60,
    )
    assert done.stdout.decode().splitlines() == [f"{tmp_path} 1 2 kept", str(sys.path)]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    blob = dump_environment()
    monkeypatch.chdir(tmp_path)
    folder.rmdir()
    with pytest.raises(UnloadableTaskError, match="working folder cannot be entered here"):
        enter_environment(blob)


def test_a_module_without_a_file_travels_by_value() -> None:
    module = types.ModuleType("made_up")
    module.twice = lambda x: x * 2  # type: ignore[attr-defined]  # that is how it is made
    function = load_function(dump_function(lambda: module.twice(4), shares_path=True)[1]).function
    assert function() == 8


# --- threads that pickle at once ------------------------------------------------------------------


class Handle:
    """What only a registered reducer can make a pickle of."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("not by itself")


def test_a_registered_reducer_is_there_for_another_thread_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Known(dict[type, Any]):
        def update(self, *more: Any) -> None:
            super().update(*more)
            in_another_thread(lambda: seen.append(dump_call((Handle(),), {}, shares_path=True)))

    monkeypatch.setitem(copyreg.dispatch_table, Handle, lambda _: (int, ()))
    monkeypatch.setattr(pickler, "_known_reducers", Known())
    dump_call((Handle(),), {}, shares_path=True)
    assert len(seen) == 1


def test_a_module_goes_by_value_for_two_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    blobs: list[bytes] = []
    other = threading.Thread(target=lambda: blobs.append(pickler.dumps(module_of, shares_path=False)))
    reached, unregistered = threading.Event(), threading.Event()
    register, unregister = cloudpickle.register_pickle_by_value, cloudpickle.unregister_pickle_by_value

    def registering(module: types.ModuleType) -> None:
        register(module)
        if threading.current_thread() is other:
            reached.set()
            unregistered.wait()
        elif not unregistered.is_set():
            other.start()
            reached.wait()

    def unregistering(module: types.ModuleType) -> None:
        unregister(module)
        unregistered.set()

    monkeypatch.setattr(cloudpickle, "register_pickle_by_value", registering)
    monkeypatch.setattr(cloudpickle, "unregister_pickle_by_value", unregistering)
    monkeypatch.setattr(pickler, "_registry", Gate(reached), raising=False)
    pickler.dumps(module_of, shares_path=False)
    other.join()
    assert pickle.loads(blobs[0]) is not module_of  # noqa: S301 - it was just made
