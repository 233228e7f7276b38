"""Published functions: callables that take their arguments as JSON and give their result as JSON.

Whoever publishes a function wraps it here, on its own side, so that nothing between it and a slot has to
understand more than JSON. A call is the JSON of `[args, kwargs]`. A result begins with `JSON_RESULT` and is
JSON, or, where JSON cannot carry it, with `PICKLED_RESULT`: then a number (4 bytes), a text of that length
which says why, and the pickle.
"""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

from distcomp.payload.pickler import as_task, dumps
from distcomp.published_calls import JSON_RESULT, PICKLED_RESULT

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_DOC_CHARACTERS = 16_384


class JsonCall:
    """A function as it is called over HTTP.

    Example:
        >>> JsonCall(pow)(b"[[2, 10], {}]")
        b'j1024'
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = as_task(function)

    def __call__(self, data: bytes) -> bytes:
        """Call the function with the arguments in `data`; its result as bytes."""
        args, kwargs = json.loads(data)
        value = self._function(*args, **kwargs)
        try:
            text = json.dumps(value, allow_nan=False, separators=(",", ":"), default=_as_json)
            return JSON_RESULT + text.encode()
        except (TypeError, ValueError, RecursionError) as error:
            reason = f"{type(value).__name__}: {error!s:.500}".encode()
        return PICKLED_RESULT + len(reason).to_bytes(4, "big") + reason + dumps(value, shares_path=True)


def _as_json(value: Any) -> Any:
    """What numpy's arrays and numbers and the like are in JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"JSON has nothing for {type(value).__name__}")


def describe_call(function: Callable[..., Any]) -> tuple[list[dict[str, Any]], str]:
    """The parameters of a function as JSON, as far as they are known, and its docstring."""
    function = as_task(function)
    doc = (inspect.getdoc(function) or "")[:MAX_DOC_CHARACTERS]
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return [], doc
    return list(map(_parameter, parameters)), doc


def _parameter(parameter: inspect.Parameter) -> dict[str, Any]:
    kind = parameter.kind.name.lower()
    described: dict[str, Any] = {"name": parameter.name, "kind": kind, "required": False}
    if parameter.default is not inspect.Parameter.empty:
        try:
            described["default"] = json.loads(json.dumps(parameter.default, allow_nan=False))
        except (TypeError, ValueError):
            described["default"] = None
    else:
        described["required"] = not kind.startswith("var_")
    return described
