"""Run Python functions on every core and host you have.

Example:
    >>> from distcomp import compute_this
    >>> @compute_this
    ... def square(number: int) -> int:
    ...     return number * number
    >>> square.local(5)
    25
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distcomp.async_client import AsyncClient
    from distcomp.async_handles import AsyncRun, AsyncTaskArray, AsyncTaskStream
    from distcomp.client import Client
    from distcomp.decorator import compute_this
    from distcomp.default_client import connect
    from distcomp.errors import (
        AmbiguousClusterError,
        AuthenticationError,
        BlockingCallError,
        BundleTooLargeError,
        CertificateError,
        ClientClosedError,
        ConfigError,
        ConnectError,
        DistcompError,
        ForkedClientError,
        InitializerError,
        NestedSubmitError,
        PayloadTooLargeError,
        PublishError,
        RemoteTracebackError,
        RunTakenError,
        SchedulerLostError,
        SessionExpiredError,
        StoreError,
        SubmitRefusedError,
        TaskCrashedError,
        TaskError,
        TaskLostError,
        TaskTimeoutError,
        UnknownRunError,
        UnloadableTaskError,
        UnpicklableError,
        UnpicklableResultError,
        UnreachableError,
        UsageError,
        VersionMismatchError,
        WindowFullError,
        WrongClusterError,
    )
    from distcomp.executor import Executor
    from distcomp.explanations import TaskExplanation
    from distcomp.futures import Future
    from distcomp.pool import Pool
    from distcomp.publishing import publish
    from distcomp.run_handles import Run
    from distcomp.task_arrays import TaskArray
    from distcomp.task_streams import TaskStream
    from distcomp.waiting import as_completed, gather, wait
    from distcomp.watching import progress

__version__ = "0.1.0"

__all__ = [
    "AmbiguousClusterError",
    "AsyncClient",
    "AsyncRun",
    "AsyncTaskArray",
    "AsyncTaskStream",
    "AuthenticationError",
    "BlockingCallError",
    "BundleTooLargeError",
    "CertificateError",
    "Client",
    "ClientClosedError",
    "ConfigError",
    "ConnectError",
    "DistcompError",
    "Executor",
    "ForkedClientError",
    "Future",
    "InitializerError",
    "NestedSubmitError",
    "PayloadTooLargeError",
    "Pool",
    "PublishError",
    "RemoteTracebackError",
    "Run",
    "RunTakenError",
    "SchedulerLostError",
    "SessionExpiredError",
    "StoreError",
    "SubmitRefusedError",
    "TaskArray",
    "TaskCrashedError",
    "TaskError",
    "TaskExplanation",
    "TaskLostError",
    "TaskStream",
    "TaskTimeoutError",
    "UnknownRunError",
    "UnloadableTaskError",
    "UnpicklableError",
    "UnpicklableResultError",
    "UnreachableError",
    "UsageError",
    "VersionMismatchError",
    "WindowFullError",
    "WrongClusterError",
    "as_completed",
    "compute_this",
    "connect",
    "gather",
    "progress",
    "publish",
    "wait",
]

_HOMES = {
    "AsyncClient": "async_client",
    "AsyncRun": "async_handles",
    "AsyncTaskArray": "async_handles",
    "AsyncTaskStream": "async_handles",
    "Client": "client",
    "connect": "default_client",
    "compute_this": "decorator",
    "Executor": "executor",
    "Pool": "pool",
    "Future": "futures",
    "as_completed": "waiting",
    "gather": "waiting",
    "progress": "watching",
    "publish": "publishing",
    "wait": "waiting",
    "Run": "run_handles",
    "TaskArray": "task_arrays",
    "TaskExplanation": "explanations",
    "TaskStream": "task_streams",
}
"""The module of each public name; errors are not listed."""


def __getattr__(name: str) -> Any:
    """Load a public name at its first use, so that no program pays for another's imports."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
