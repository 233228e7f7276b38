"""How a task's exception travels, and what is raised where its result is asked for.

The exception itself travels if it can: first as it is, else with the parts of it that can travel, the
others replaced by their texts. Its causes and contexts travel as text, in the traceback; the exception
named by `raise … from` also as itself.
"""

from __future__ import annotations

import platform
import traceback
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from distcomp.errors import (
    DistcompError,
    RemoteTracebackError,
    SessionExpiredError,
    TaskCrashedError,
    TaskError,
    TaskLostError,
    TaskTimeoutError,
    UnloadableTaskError,
    UnpicklableResultError,
)
from distcomp.payload.missing import missing_words
from distcomp.payload.pickler import ExceptionParts, dumps, loads, remake_exception, take_apart
from distcomp.payload.plain import dump_plain
from distcomp.rows import Failure

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

MAX_NAME_LENGTH = 256
MAX_TEXT_LENGTH = 60 << 10
MAX_TRACEBACK_LENGTH = 250 << 10
MAX_EXCEPTION_BYTES = 16 << 20
MAX_DEPTH = 8

_RUNNER_MODULES = ("distcomp.slot", "distcomp.payload", "distcomp.inline")
_KINDS: dict[str, type[BaseException]] = {
    "timeout": TaskTimeoutError,
    "crashed": TaskCrashedError,
    "lost": TaskLostError,
    "cancelled": CancelledError,
    "unpicklable": UnpicklableResultError,
    "unloadable": UnloadableTaskError,
    "expired": SessionExpiredError,
}
_EVENTS = {
    "timeout": "The task ran longer than its timeout_s and was stopped",
    "crashed": "The task ended the process that ran it",
    "lost": "The worker that ran the task was lost",
    "cancelled": "The task was cancelled",
    "unpicklable": "The task's result cannot be pickled",
    "unloadable": "The task could not be rebuilt where it should have run",
    "expired": "The client was away for too long, and its work was cancelled",
}
_ADVICE = {
    "timeout": "Give it a longer timeout_s, or see in the cause where it was when it was stopped",
    "crashed": "Look for a crash in compiled code, os._exit, or a kernel that ran out of memory",
    "lost": "Submit it again if it may run twice; it was not started again because of max_attempts or "
    "because it was lost too often",
    "unpicklable": "Return plain data instead, or what can be made of it again",
    "unloadable": "Install there what is missing, in the versions of this side",
    "expired": "Submit it again; detach=True keeps work when its client is gone",
}


# --- where the task ran ---------------------------------------------------------------------------


def dump_failure(
    error: BaseException,
    *,
    retriable: bool = False,
    host: str = "",
    worker: str = "",
    attempt: int = 1,
    output: str = "",
) -> Failure:
    """Describe how a task ended by raising `error`; never raises itself.

    Args:
        error: what the task raised, or what kept it from running or from giving its result.
        retriable: whether `retries` may be spent on it.
        host: where it ran.
        worker: the worker's name.
        attempt: which try this was, from 1.
        output: the last that the task printed.

    Returns:
        The failure, with every text cut to what a message may hold.
    """
    cls = type(error)
    return Failure(
        kind=_kind(error),
        retriable=retriable,
        type_name=_cut(f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins."), MAX_NAME_LENGTH),
        text=_cut(_text(error), MAX_TEXT_LENGTH),
        traceback=_cut(_format(error), MAX_TRACEBACK_LENGTH),
        exception=_dump_chain(error),
        host=_cut(host, MAX_NAME_LENGTH),
        worker=_cut(worker, MAX_NAME_LENGTH),
        attempt=attempt,
        output=_cut(output, MAX_TEXT_LENGTH),
    )


def _kind(error: BaseException) -> str:
    if isinstance(error, UnpicklableResultError):
        return "unpicklable"
    return "unloadable" if isinstance(error, UnloadableTaskError) else "exception"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as problem:  # noqa: BLE001 - user code; the failure must be told all the same
        return f"<its text cannot be had: {type(problem).__name__}>"


def _cut(text: str, longest: int) -> str:
    """Make text fit for the wire: valid Unicode, and its middle left out if it is too long."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) <= longest:
        return text
    half = (longest - 40) // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out …]\n{text[-half:]}"[:longest]


def _format(error: BaseException) -> str:
    """The traceback with its chain, from where the task's own code begins."""
    begin = _skip_runner(error.__traceback__)
    try:
        return "".join(traceback.format_exception(type(error), error, begin))
    except BaseException as problem:  # noqa: BLE001 - user code in the exception; see `_text`
        frames = "".join(traceback.format_tb(begin))
        return f"{frames}{type(error).__qualname__}: <its text cannot be had: {type(problem).__name__}>\n"


def _skip_runner(begin: TracebackType | None) -> TracebackType | None:
    while begin and begin.tb_frame.f_globals.get("__name__", "").startswith(_RUNNER_MODULES):
        begin = begin.tb_next
    return begin


# --- the exception itself -------------------------------------------------------------------------


class _Remake:
    """Becomes an exception when it is unpickled."""

    def __init__(self, error: BaseException, depth: int = 0) -> None:
        parts = take_apart(error) or ExceptionParts(type(error), error.args, error.args, vars(error))
        state = {name: _portable(value, depth + 1) for name, value in parts.state.items()}
        self._parts = (parts.cls, _portable(parts.given, depth + 1), _portable(parts.args, depth + 1), state)

    def __reduce__(self) -> tuple[Any, ...]:
        return remake_exception, self._parts


class _Bare(_Remake):
    """Becomes an exception of the same type that has kept nothing but its text."""

    def __init__(self, error: BaseException) -> None:
        args = (_cut(_text(error), MAX_TEXT_LENGTH),)
        self._parts = (type(error), args, args, {})


def _dump_chain(error: BaseException) -> bytes:
    """The exception and what it was raised from, as far as they can travel; empty if the first cannot."""
    exception = _dump_exception(error)
    cause = _dump_exception(error.__cause__) if exception and error.__cause__ else b""
    return dump_plain((exception, cause)) if exception else b""


def _dump_exception(error: BaseException) -> bytes:
    """As much of an exception as travels: all, the parts that do, or its type with its text."""
    for made in (lambda: error, lambda: _Remake(error), lambda: _Bare(error)):
        blob = _dump_same(made, type(error))
        if blob:
            return blob
    return b""


def _dump_same(made: Callable[[], Any], cls: type) -> bytes:
    """The pickle of what stands for an exception, if one of the same type comes out of it; else nothing."""
    try:
        blob = dumps(made(), shares_path=True)
        comes_back = len(blob) <= MAX_EXCEPTION_BYTES and type(loads(blob, "an exception")) is cls
    except BaseException:  # noqa: BLE001 - user code in the exception; the failure goes without it
        return b""
    return blob if comes_back else b""


def _portable(value: Any, depth: int = 0) -> Any:
    """The value itself if it travels, else as much of it as does, and texts for the rest."""
    try:
        loads(dumps(value, shares_path=True), "a part")
    except BaseException:  # noqa: BLE001 - user code; see below
        if isinstance(value, BaseException) and depth < MAX_DEPTH:
            return _Remake(value, depth)
        if type(value) in {list, tuple} and depth < MAX_DEPTH:
            return type(value)(_portable(part, depth + 1) for part in value)
        return object.__repr__(value)
    return value


# --- where the result is asked for ----------------------------------------------------------------


def load_failure(failure: Failure) -> BaseException:
    """Make the exception that a failed task's `result()` raises; never raises itself.

    Args:
        failure: as it arrived.

    Returns:
        The task's own exception, or a `TaskError` that says what happened instead, why, where, and what
        to do. Its `__cause__` is a `RemoteTracebackError` wherever something is known from there.
    """
    cls = _KINDS.get(failure.kind)
    origin: BaseException | None = None
    if cls is None:
        error, origin = _load_exception(failure)
        lack = missing_words(error, failure.worker, failure.host)
        if lack and type(error) is ModuleNotFoundError:
            error = ModuleNotFoundError(lack, name=error.name)
    else:
        error = cls(_lacks_module(failure) or _explain(failure))
    report = _report(failure)
    if report:
        remote = RemoteTracebackError(report)
        remote.__context__ = origin
        remote.__suppress_context__ = True  # the report tells of it already
        error.__cause__ = remote
    return error


def _load_exception(failure: Failure) -> tuple[BaseException, BaseException | None]:
    """The task's exception, and the one it was raised from."""
    if not failure.exception:
        return TaskError(f"{failure.type_name}: {failure.text}"), None
    try:
        exception, cause = loads(failure.exception, "the exception")
        error = loads(exception, "the exception")
    except (DistcompError, TypeError, ValueError) as problem:
        return TaskError(f"{failure.type_name}: {failure.text} ({problem})"), None
    if not isinstance(error, BaseException):
        return TaskError(f"{failure.type_name}: {failure.text}"), None
    return error, _load_cause(cause)


def _load_cause(cause: bytes) -> BaseException | None:
    try:
        origin = loads(cause, "the cause") if cause else None
    except DistcompError:  # it is in the traceback's text as well
        return None
    return origin if isinstance(origin, BaseException) else None


def _lacks_module(failure: Failure) -> str:
    """What the worker lacks, if that is why the task could not be rebuilt there."""
    if failure.kind != "unloadable":
        return ""
    return missing_words(_load_exception(failure)[1], failure.worker, failure.host)


def _explain(failure: Failure) -> str:
    """What happened, where, and what to do."""
    sentences = [failure.text.rstrip(". ") or _EVENTS[failure.kind]]
    if place := _place(failure):
        sentences[0] += f" ({place})"
    if failure.kind == "unloadable":
        sentences.append(f"This side runs Python {platform.python_version()}")
    if advice := _ADVICE.get(failure.kind):
        sentences.append(advice)
    return ". ".join(sentences) + "."


def _place(failure: Failure) -> str:
    parts = [f"on host {failure.host}"] if failure.host else []
    parts += [f"worker {failure.worker}"] if failure.worker else []
    return ", ".join([*parts, f"attempt {failure.attempt}"]) if parts else ""


def _report(failure: Failure) -> str:
    """All that is known from where the task ran."""
    sections = [
        ("", failure.traceback),
        ("its stacks before it was stopped:\n", failure.stacks),
        ("the last it printed:\n", failure.output),
    ]
    texts = [title + text.rstrip("\n") for title, text in sections if text]
    place = _place(failure)
    return "\n\n".join([place, *texts]) + "\n" if place or texts else ""
