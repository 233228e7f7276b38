"""How a task's exception travels, and what is raised where its result is asked for."""

from __future__ import annotations

import traceback
from concurrent.futures import CancelledError

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
from distcomp.payload_pickler import dumps, loads
from distcomp.protocol import Failure

MAX_TEXT = 60_000
MAX_TRACEBACK = 250_000

_KINDS: dict[str, type[BaseException]] = {
    "timeout": TaskTimeoutError,
    "crashed": TaskCrashedError,
    "lost": TaskLostError,
    "cancelled": CancelledError,
    "unpicklable": UnpicklableResultError,
    "unloadable": UnloadableTaskError,
    "expired": SessionExpiredError,
}


def dump_failure(
    error: BaseException,
    *,
    retriable: bool = False,
    host: str = "",
    worker: str = "",
    attempt: int = 1,
    output: str = "",
) -> Failure:
    """Describe how a task ended by raising `error`; never raises."""
    cls = type(error)
    kind = "exception"
    if isinstance(error, UnpicklableResultError):
        kind = "unpicklable"
    elif isinstance(error, UnloadableTaskError):
        kind = "unloadable"
    try:
        exception = dumps(error, shares_path=True)
    except Exception:  # noqa: BLE001
        exception = b""
    return Failure(
        kind,
        retriable,
        f"{cls.__module__}.{cls.__qualname__}"[:256],
        str(error)[:MAX_TEXT],
        "".join(traceback.format_exception(cls, error, error.__traceback__))[-MAX_TRACEBACK:],
        exception,
        host,
        worker,
        attempt,
        output,
    )


def load_failure(failure: Failure) -> BaseException:
    """Make the exception that a failed task's `result()` raises; never raises."""
    cls = _KINDS.get(failure.kind)
    if cls is not None:
        error = cls(failure.text)
    else:
        try:
            error = loads(failure.exception, "the exception")
        except TaskError:
            error = TaskError(f"{failure.type_name}: {failure.text}")
    if failure.traceback or failure.host or failure.output:
        error.__cause__ = RemoteTracebackError(f"\n{failure.traceback}\n{failure.output}")
    return error
