"""Failures: an exception arrives as itself with what is known from where it was raised."""

from __future__ import annotations

import concurrent.futures
import sys
import threading
import traceback
from typing import Any

import pytest

from distcomp.errors import (
    RemoteTracebackError,
    SessionExpiredError,
    TaskCrashedError,
    TaskError,
    TaskLostError,
    TaskTimeoutError,
    UnloadableTaskError,
    UnpicklableResultError,
)
from distcomp.ids import SessionId
from distcomp.payload import dump_failure, load_failure
from distcomp.protocol import TasksSettled, codec
from distcomp.rows import Failure


def fail(error: BaseException) -> None:
    raise error


def travelled(error: BaseException, **known: Any) -> BaseException:
    """An exception as it arrives after it was raised elsewhere."""
    with pytest.raises(type(error)) as caught:
        fail(error)
    arrived = load_failure(dump_failure(caught.value, **known))
    assert isinstance(arrived.__cause__, RemoteTracebackError)
    return arrived


def shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


class TwoWordsError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")
        self.first = first


class PrefixedError(ValueError):
    def __init__(self, text: str) -> None:
        super().__init__(f"prefix {text}")


class PickyExit(SystemExit):
    def __init__(self, *, code: int) -> None:
        super().__init__(code)


class PathError(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "not there", path)


class KeywordError(Exception):
    def __init__(self, *, detail: Any) -> None:
        super().__init__("with detail")
        self.detail = detail


class BadTextError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class OwnWayError(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return OwnWayError, ("one", "two", "three")

    def __init__(self, only: str) -> None:
        super().__init__(only)


class NewKeywordError(Exception):
    def __new__(cls, *, detail: int) -> Any:
        return super().__new__(cls, detail)

    def __init__(self, *, detail: int) -> None:
        self.detail = detail


class ExitingTextError(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text")


class ExitingPickleError(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit("no pickle")


class NoArgsError(Exception):
    @property
    def args(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no args")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a", 1),
        KeyError("k"),
        FileNotFoundError(2, "No such file", "x.txt"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        StopIteration(5),
        SystemExit(3),
        KeyboardInterrupt(),
        TwoWordsError("one", "two"),
        PrefixedError("text"),
        PickyExit(code=4),
        PathError("/nowhere"),
        KeywordError(detail=[1, 2]),
        OwnWayError("only"),
        NewKeywordError(detail=3),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_arrives_as_itself(error: BaseException) -> None:
    arrived = travelled(error)
    assert type(arrived) is type(error)
    assert arrived.args == error.args
    assert str(arrived) == str(error)
    assert vars(arrived).keys() - {"__notes__"} == vars(error).keys()
    for name in ("code", "value", "filename", "errno", "first", "detail", "start", "object"):
        assert getattr(arrived, name, None) == getattr(error, name, None)


def test_the_cause_shows_where_and_why() -> None:
    cause = travelled(
        ValueError("no"), host="alpha", worker="left", attempt=2, output="last words\n"
    ).__cause__
    text = str(cause)
    assert text.startswith("on host alpha, worker left, attempt 2\n\nTraceback (most recent call last):\n")
    assert "    raise error\n" in text
    assert text.rstrip().endswith("the last it printed:\nlast words")


def test_raise_from_shows_both_and_keeps_the_origin() -> None:
    def task() -> None:
        try:
            int("x")
        except ValueError as error:
            raise KeyError("outer") from error

    with pytest.raises(KeyError) as caught:
        task()
    arrived = load_failure(dump_failure(caught.value))
    assert isinstance(arrived.__cause__, RemoteTracebackError)
    assert isinstance(arrived.__cause__.__context__, ValueError)
    text = shown(arrived)
    assert text.count("invalid literal for int()") == 1
    assert "The above exception was the direct cause" in text


def test_a_context_is_in_the_traceback() -> None:
    error = ValueError("second")
    error.__context__ = KeyError("first")
    assert "During handling of the above exception" in str(travelled(error).__cause__)


def test_an_attribute_that_cannot_travel_becomes_text() -> None:
    error = KeywordError(detail=threading.Lock())
    error.args = ("kept", threading.Lock(), [1, threading.Lock()])
    arrived = travelled(error)
    assert type(arrived) is KeywordError
    assert arrived.args[0] == "kept"
    assert arrived.args[1].startswith("<_thread.lock object")  # object.__repr__
    assert arrived.args[2][0] == 1
    assert isinstance(arrived.__dict__["detail"], str)


def test_a_type_that_cannot_travel_is_named() -> None:
    class LocalError(Exception):
        lock = threading.Lock()

    arrived = travelled(LocalError("what it said"))
    assert type(arrived) is TaskError
    assert str(arrived).endswith("LocalError: what it said")
    assert "LocalError: what it said" in str(arrived.__cause__)


def test_a_type_that_this_side_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = dump_failure(TwoWordsError("a", "b"))
    monkeypatch.delattr(sys.modules[__name__], "TwoWordsError")
    arrived = load_failure(failure)
    assert type(arrived) is TaskError
    assert "TwoWordsError: a b (the exception could not be rebuilt under Python" in str(arrived)


@pytest.mark.parametrize("exception", [b"rubbish", b"\x80\x05K\x01.", b"\x80\x05N."])
def test_rubbish_for_an_exception_is_a_task_error(exception: bytes) -> None:
    arrived = load_failure(Failure("exception", type_name="E", text="t", exception=exception))
    assert type(arrived) is TaskError


def test_an_exception_without_a_text_still_travels() -> None:
    arrived = travelled(BadTextError())
    assert type(arrived) is BadTextError
    assert "BadTextError" in str(arrived.__cause__)


@pytest.mark.parametrize(
    "error", [ExitingTextError("a"), ExitingPickleError("a"), NoArgsError("a")], ids=repr
)
def test_an_exception_that_raises_when_it_is_looked_at_keeps_its_type(error: BaseException) -> None:
    assert type(travelled(error)) is type(error)


def test_an_exception_that_is_too_large_keeps_its_type() -> None:
    arrived = travelled(PrefixedError("x" * (20 << 20)))
    assert type(arrived) is PrefixedError
    assert "characters left out" in str(arrived)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
def test_groups_and_notes_travel() -> None:
    group = ExceptionGroup("several", [TwoWordsError("a", "b"), KeywordError(detail=threading.Lock())])  # noqa: F821
    group.add_note("a note")
    arrived: Any = travelled(group)
    assert type(arrived) is type(group)
    assert [type(member) for member in arrived.exceptions] == [TwoWordsError, KeywordError]
    assert arrived.__notes__ == ["a note"]
    assert "a note" in str(arrived.__cause__)


def test_any_failure_fits_a_message() -> None:
    error = ValueError("x" * 1_000_000 + "\ud800")
    failure = dump_failure(error, host="h" * 500, output="o" * 200_000 + "end")
    assert "characters left out" in failure.text
    assert failure.output.endswith("end")
    assert len(failure.host) <= 256
    message = TasksSettled(1, (SessionId(bytes(16)), 1), (), ((0, failure._replace(exception=b"")),))
    assert codec.decode(codec.frame([codec.pack(message)])[4:]) == [message]


def test_frames_of_the_runner_are_left_out() -> None:
    namespace: dict[str, Any] = {"__name__": "distcomp.slot"}
    exec("def run(task):\n    task()", namespace)  # noqa: S102 - a runner's frame

    def task() -> None:
        raise ValueError("from the task")

    with pytest.raises(ValueError, match="from the task") as caught:
        namespace["run"](task)
    caught.value.__traceback__ = caught.value.__traceback__.tb_next if caught.value.__traceback__ else None
    text = dump_failure(caught.value).traceback
    assert "in task" in text
    assert "in run" not in text


@pytest.mark.parametrize(
    ("kind", "cls", "words"),
    [
        ("timeout", TaskTimeoutError, "timeout_s"),
        ("crashed", TaskCrashedError, "memory"),
        ("lost", TaskLostError, "max_attempts"),
        ("cancelled", concurrent.futures.CancelledError, "cancelled"),
        ("unpicklable", UnpicklableResultError, "plain data"),
        ("unloadable", UnloadableTaskError, "This side runs Python 3"),
        ("expired", SessionExpiredError, "detach"),
    ],
)
def test_every_kind_says_what_happened_where_and_what_to_do(kind: str, cls: type, words: str) -> None:
    arrived = load_failure(Failure(kind, host="alpha", worker="left", attempt=2, stacks="File x, line 3"))
    assert type(arrived) is cls
    assert words in str(arrived)
    assert "on host alpha, worker left, attempt 2" in str(arrived)
    assert "its stacks before it was stopped:\nFile x, line 3" in str(arrived.__cause__)
    own = load_failure(Failure(kind, text="It burned."))
    assert str(own).startswith("It burned. ") or str(own) == "It burned."
    assert own.__cause__ is None


def test_standard_types_catch_ours() -> None:
    assert isinstance(load_failure(Failure("crashed")), concurrent.futures.BrokenExecutor)
    assert isinstance(load_failure(Failure("lost")), concurrent.futures.BrokenExecutor)
    assert isinstance(load_failure(Failure("timeout")), TimeoutError)


def test_what_kept_a_task_from_running_or_returning_has_its_kind() -> None:
    assert dump_failure(UnpicklableResultError("r")).kind == "unpicklable"
    assert dump_failure(UnloadableTaskError("r")).kind == "unloadable"
    assert dump_failure(ValueError("r"), retriable=True)[:3] == ("exception", True, "ValueError")
