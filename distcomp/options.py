"""How tasks are to be treated, in the user's words: one list of options, wherever they can be given.

The decorator, `func.options(...)` and `client.options(...)` take the same names, and each adds to what
stood before: `Options().replace(...)` checks them all at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from distcomp.config import is_name
from distcomp.errors import TaskTimeoutError
from distcomp.rows import TaskOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Unpack

MAX_PRIORITY = 1000
MAX_TIMES = 10**9
MAX_VERSION_LENGTH = 256

RetryOn: TypeAlias = "type[BaseException] | tuple[type[BaseException], ...] | None"


class OptionValues(TypedDict, total=False):
    """The options by name, for type checkers; `Options` says what they mean."""

    retries: int
    retry_on: RetryOn
    retry_delay_s: float
    timeout_s: float | None
    priority: int
    max_attempts: int | None
    detach: bool
    logs: bool
    run: str | None
    cache: bool | None
    version: int | str | None


@dataclass(frozen=True)
class Options:
    """How tasks are to be treated.

    Attributes:
        retries: how often a task is tried again after an exception of its own or a timeout.
        retry_on: the exception type, or a tuple of them, that `retries` are for; None means any `Exception`.
            A timeout is a `TaskTimeoutError`, which is a `TimeoutError`.
        retry_delay_s: seconds between a failed try and the next.
        timeout_s: seconds after which a running task is stopped; None means never.
        priority: tasks of higher priority start first; from -1000 to 1000.
        max_attempts: how often a task may be started, whatever the cause; None means no limit of its own.
            With 1, a task whose worker is lost fails instead of running twice.
        detach: keep the tasks when the client is gone.
        logs: show here what the tasks print and log, while they run; each line begins with the function, the
            task's index and its worker. Log records go to the logger `distcomp.tasks`, below which each has
            its own logger. Of too many lines, some are dropped, and it is said how many.
        run: the name of a run that the tasks belong to, which outlives this process: whoever runs the script
            again goes on with it, and `Client.attach` collects it. It implies `detach`. A task's own tasks
            belong to that task, whatever they say here.
        cache: find results of the same function and arguments in the client's store, and keep new ones there.
            None means yes if the client has a store.
        version: whatever it is, another one makes results in the store count no more: for what the function
            depends on and nobody can see, like a file or a model.

    Raises:
        TypeError: an option is of a wrong type.
        ValueError: an option has an impossible value.

    Example:
        >>> Options(retries=2).replace(timeout_s=60).on_wire().timeout_s
        60.0
    """

    retries: int = 0
    retry_on: RetryOn = None
    retry_delay_s: float = 0.0
    timeout_s: float | None = None
    priority: int = 0
    max_attempts: int | None = None
    detach: bool = False
    logs: bool = False
    run: str | None = None
    cache: bool | None = None
    version: int | str | None = None

    def __post_init__(self) -> None:
        for option in fields(self):
            checked = _CHECKS[option.name](option.name, getattr(self, option.name))
            object.__setattr__(self, option.name, checked)

    def replace(self, **values: Unpack[OptionValues]) -> Options:
        """Give these options with some of them changed.

        Args:
            **values: options by name.

        Returns:
            New options.

        Raises:
            TypeError: a name is unknown, or a value is of a wrong type.
            ValueError: a value is impossible.

        Example:
            >>> Options(retries=2).replace(priority=5).retries
            2
        """
        for name in values:
            if name not in _CHECKS:
                raise _unknown(name)
        return Options(**{**vars(self), **values})

    @property
    def retry_types(self) -> tuple[type[BaseException], ...] | None:
        """`retry_on` as a tuple, for `distcomp.payload.dump_function`."""
        return (self.retry_on,) if isinstance(self.retry_on, type) else self.retry_on

    def on_wire(self) -> TaskOptions:
        """Give what the scheduler has to know of these options; `retry_on` travels with the function."""
        types = self.retry_types
        return TaskOptions(
            retries=self.retries,
            retry_delay_s=self.retry_delay_s,
            timeout_s=self.timeout_s or 0.0,
            priority=self.priority,
            max_attempts=self.max_attempts or 0,
            detach=self.detach or self.run is not None,
            retries_timeouts=types is None or issubclass(TaskTimeoutError, types),
            logs=self.logs,
        )


def _unknown(name: str) -> TypeError:
    near = get_close_matches(name, _CHECKS, n=1, cutoff=0.4)
    advice = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_CHECKS)}"
    return TypeError(f"{name!r} is no task option; {advice}")


# --- what each option may be ----------------------------------------------------------------------


def _whole(low: int, high: int, *, optional: bool = False) -> Callable[[str, Any], Any]:
    """A check for whole numbers between two bounds, both included."""
    wanted = f"a whole number from {low} to {high:,}" if high < MAX_TIMES else f"a whole number from {low}"
    wanted += ", or None" if optional else ""

    def check(name: str, value: Any) -> Any:
        if value is None and optional:
            return value
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{name} must be {wanted}, not {value!r:.80}")
        if not low <= value <= high:
            raise ValueError(f"{name} must be {wanted}, not {value!r:.80}")
        return value.__index__()

    return check


def _seconds(*, above_zero: bool) -> Callable[[str, Any], Any]:
    """A check for a time; one that must be above 0 may also be None."""
    wanted = "a number of seconds above 0, or None for no limit" if above_zero else "0 or more seconds"

    def check(name: str, value: Any) -> Any:
        if value is None and above_zero:
            return value
        if isinstance(value, bool) or not (hasattr(value, "__float__") or hasattr(value, "__index__")):
            raise TypeError(f"{name} must be {wanted}, not {value!r:.80}")
        seconds = float(value)
        if not math.isfinite(seconds) or seconds < 0 or (above_zero and seconds == 0):
            raise ValueError(f"{name} must be {wanted}, not {value!r:.80}")
        return seconds

    return check


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r:.80}")
    return value


def _switch_or_none(name: str, value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{name} must be True, False or None, not {value!r:.80}")
    return value


def _run_name(name: str, value: Any) -> str | None:
    if value is None:
        return None
    wanted = f"{name} must be 1 to 64 letters, digits or ._@+-, not {value!r:.80}"
    if not isinstance(value, str):
        raise TypeError(wanted)
    if not is_name(value):
        raise ValueError(wanted)
    return value


def _version(name: str, value: Any) -> int | str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not (isinstance(value, str) or hasattr(value, "__index__")):
        raise TypeError(f"{name} must be a whole number, a text, or None, not {value!r:.80}")
    if isinstance(value, str) and not 0 < len(value) <= MAX_VERSION_LENGTH:
        raise ValueError(f"{name} must have 1 to {MAX_VERSION_LENGTH} characters, not {value!r:.80}")
    return value if isinstance(value, str) else int(value.__index__())


def _exception_types(name: str, value: Any) -> Any:
    if value is None:
        return value
    types = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in types):
        raise TypeError(f"{name} must be an exception type, a tuple of them, or None, not {value!r:.80}")
    if not types:
        raise ValueError(f"{name} must name at least one exception type; to try nothing again, use retries=0")
    return value


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "retries": _whole(0, MAX_TIMES),
    "retry_on": _exception_types,
    "retry_delay_s": _seconds(above_zero=False),
    "timeout_s": _seconds(above_zero=True),
    "priority": _whole(-MAX_PRIORITY, MAX_PRIORITY),
    "max_attempts": _whole(1, MAX_TIMES, optional=True),
    "detach": _switch,
    "logs": _switch,
    "run": _run_name,
    "cache": _switch_or_none,
    "version": _version,
}
