"""Task options: what they may be, and what is said when they are something else."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from distcomp.errors import TaskTimeoutError
from distcomp.options import Options
from distcomp.rows import TaskOptions


def test_defaults_are_the_wire_defaults() -> None:
    assert Options().on_wire() == TaskOptions()


def test_every_option_but_retry_on_reaches_the_wire() -> None:
    options = Options(
        retries=2, retry_delay_s=1, timeout_s=60, priority=-5, max_attempts=3, detach=True, retry_on=OSError
    )
    assert options.on_wire() == TaskOptions(2, 1.0, 60.0, -5, 3, True)  # a TimeoutError is an OSError
    assert options.retry_types == (OSError,)


def test_a_run_keeps_its_tasks_and_stays_here_with_cache_and_version() -> None:
    assert Options(run="fit-2", cache=True, version="2b").on_wire() == TaskOptions(detach=True)


@pytest.mark.parametrize("version", [0, 7, "7", "2024-05 model"])
def test_a_version_is_kept_as_it_is(version: Any) -> None:
    assert Options(version=version).version == version


def test_retry_on_may_be_several_types() -> None:
    assert Options(retry_on=(OSError, KeyError)).retry_types == (OSError, KeyError)
    assert Options().retry_types is None


@pytest.mark.parametrize(
    ("retry_on", "retries_timeouts"),
    [
        (None, True),
        (TimeoutError, True),
        (TaskTimeoutError, True),
        ((KeyError, Exception), True),
        (KeyError, False),
        ((KeyError, ConnectionError), False),
    ],
)
def test_a_timeout_is_one_of_the_types_to_retry_on_or_not(retry_on: Any, *, retries_timeouts: bool) -> None:
    assert Options(retries=1, retry_on=retry_on).on_wire().retries_timeouts is retries_timeouts


def test_replace_keeps_the_rest_and_the_original() -> None:
    first = Options(retries=2, priority=1)
    second = first.replace(priority=7, timeout_s=0.5)
    assert (second.retries, second.priority, second.timeout_s) == (2, 7, 0.5)
    assert first == Options(retries=2, priority=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.retries = 3  # type: ignore[misc]  # that is what is tried


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run", ""),
        ("run", "a b"),
        ("run", "x" * 65),
        ("version", ""),
        ("retries", -1),
        ("retries", 10**10),
        ("retry_delay_s", -0.1),
        ("retry_delay_s", math.inf),
        ("timeout_s", 0),
        ("timeout_s", -1),
        ("timeout_s", math.nan),
        ("priority", 1001),
        ("priority", -1001),
        ("max_attempts", 0),
        ("retry_on", ()),
    ],
)
def test_an_impossible_value_names_the_option_and_itself(name: str, value: Any) -> None:
    values: Any = {name: value}
    with pytest.raises(ValueError, match=rf"^{name} must .*") as caught:
        Options().replace(**values)
    assert repr(value) in str(caught.value) or name == "retry_on"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retries", 1.5),
        ("retries", True),
        ("retries", None),
        ("retry_delay_s", "1"),
        ("retry_delay_s", None),
        ("timeout_s", True),
        ("timeout_s", [1]),
        ("priority", "high"),
        ("max_attempts", 2.0),
        ("detach", 1),
        ("run", 7),
        ("cache", 1),
        ("version", 1.5),
        ("version", True),
        ("retry_on", 5),
        ("retry_on", (OSError, "KeyError")),
        ("retry_on", int),
    ],
)
def test_a_wrong_type_names_the_option_and_what_is_allowed(name: str, value: Any) -> None:
    values: Any = {name: value}
    with pytest.raises(TypeError, match=rf"^{name} must be .*, not "):
        Options(**values)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("retrys", "retries"), ("timeout", "timeout_s"), ("prio", "priority"), ("max_attempt", "max_attempts")],
)
def test_an_unknown_name_suggests_the_nearest(wrong: str, right: str) -> None:
    values: Any = {wrong: 1}
    with pytest.raises(TypeError, match=rf"'{wrong}' is no task option; did you mean '{right}'\?"):
        Options().replace(**values)


def test_a_name_like_no_other_lists_them_all() -> None:
    values: Any = {"zzz": 1}
    with pytest.raises(TypeError, match="there are retries, retry_on, retry_delay_s"):
        Options().replace(**values)


def test_numbers_of_other_libraries_are_taken_as_their_values() -> None:
    numpy = pytest.importorskip("numpy")
    options = Options(retries=numpy.int64(2), timeout_s=numpy.float32(0.5))
    assert type(options.retries) is int
    assert options.on_wire() == TaskOptions(retries=2, timeout_s=0.5)
