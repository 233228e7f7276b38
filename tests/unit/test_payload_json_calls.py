from __future__ import annotations

import json
import math
import pickle
from typing import Any

import numpy as np
import pytest

from distcomp import compute_this
from distcomp.payload import JsonCall, describe_call, dump_function, load_function
from distcomp.published_calls import PublishedResult, read_result


def call(function: Any, *args: Any, **kwargs: Any) -> PublishedResult:
    return read_result(JsonCall(function)(json.dumps([args, kwargs]).encode()))


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "é\n", [1, [2]], {"a": {"b": []}}])
def test_what_json_can_carry_comes_as_json(value: Any) -> None:
    found = call(lambda given: given, value)
    assert found.is_json
    assert json.loads(found.data) == value


def test_numpy_is_json_too() -> None:
    assert json.loads(call(lambda: {"a": np.arange(3), "b": np.float32(0.5)}).data) == {
        "a": [0, 1, 2],
        "b": 0.5,
    }


@pytest.mark.parametrize(
    ("value", "reason"), [({1, 2}, "set"), (math.nan, "float"), (1j, "complex"), ([b"x"], "bytes")]
)
def test_what_it_cannot_carry_comes_as_a_pickle_with_a_reason(value: Any, reason: str) -> None:
    found = call(lambda: value)
    assert not found.is_json
    assert reason in found.reason
    assert repr(pickle.loads(found.data)) == repr(value)  # noqa: S301 - ours


def test_the_wrapper_travels_with_its_function() -> None:
    offset = 3

    def add(number: int, *, twice: bool = False) -> int:
        return (number + offset) * (2 if twice else 1)

    loaded = load_function(dump_function(JsonCall(add), shares_path=False)[1]).function
    assert loaded(b'[[4], {"twice": true}]') == b"j14"


def test_a_decorated_function_is_published_as_itself() -> None:
    @compute_this
    def double(number: int) -> int:
        """Two times."""
        return 2 * number

    assert call(double, 4).data == b"8"
    assert describe_call(double)[1] == "Two times."


def test_a_signature_is_told_as_json() -> None:
    def function(a: int, /, b: int = 2, *rest: int, c: Any = object, **more: int) -> None: ...

    parameters, _ = describe_call(function)
    assert [(each["name"], each["kind"], each["required"]) for each in parameters] == [
        ("a", "positional_only", True),
        ("b", "positional_or_keyword", False),
        ("rest", "var_positional", False),
        ("c", "keyword_only", False),
        ("more", "var_keyword", False),
    ]
    assert parameters[1]["default"] == 2
    assert parameters[3]["default"] is None
    assert describe_call(dict)[0] == []
