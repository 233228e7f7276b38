"""The part of JSON Schema that the gateway's document uses, and the check that holds requests to it.

What the document says and what is refused come from the same objects, so neither can promise what the
other does not keep.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

Schema: TypeAlias = "dict[str, Any]"


class MisfitError(ValueError):
    """A value is not as its schema says; the text says where and why."""


def _is_integer(value: Any) -> bool:
    return type(value) is int or (type(value) is float and value.is_integer())


_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: type(value) is dict,
    "array": lambda value: type(value) is list,
    "string": lambda value: type(value) is str,
    "boolean": lambda value: type(value) is bool,
    "integer": _is_integer,
    "number": lambda value: type(value) in (int, float),
    "null": lambda value: value is None,
}


def check(schema: Schema, value: Any, where: str = "the body") -> None:
    """Hold a value to a schema.

    Raises:
        MisfitError: it does not fit.

    Example:
        >>> check({"type": "array", "maxItems": 1}, [1, 2])
        Traceback (most recent call last):
        ...
        distcomp.gateway.schemas.MisfitError: the body has 2 items; at most 1 are allowed
    """
    kind = schema.get("type")
    if kind is not None and not _TYPES[kind](value):
        raise MisfitError(f"{where} must be of type {kind}")
    if "enum" in schema and value not in schema["enum"]:
        raise MisfitError(f"{where} must be one of {', '.join(map(str, schema['enum']))}")
    if type(value) is str:
        _check_text(schema, value, where)
    elif type(value) is list:
        _check_list(schema, value, where)
    elif type(value) is dict:
        _check_object(schema, value, where)
    elif type(value) in (int, float):
        low, high = schema.get("minimum"), schema.get("maximum")
        if (low is not None and value < low) or (high is not None and value > high):
            raise MisfitError(f"{where} is {value}, but must be from {low} to {high}")


def _check_text(schema: Schema, value: str, where: str) -> None:
    longest = schema.get("maxLength")
    if longest is not None and len(value) > longest:
        raise MisfitError(f"{where} has {len(value)} characters; at most {longest} are allowed")
    if len(value) < schema.get("minLength", 0):
        raise MisfitError(f"{where} is too short")
    pattern = schema.get("pattern")
    if pattern is not None and not re.search(pattern, value):
        raise MisfitError(f"{where} does not look like {pattern}")


def _check_list(schema: Schema, value: list[Any], where: str) -> None:
    if len(value) < schema.get("minItems", 0):
        raise MisfitError(f"{where} has {len(value)} items; at least {schema['minItems']} are needed")
    most = schema.get("maxItems")
    if most is not None and len(value) > most:
        raise MisfitError(f"{where} has {len(value)} items; at most {most} are allowed")
    items = schema.get("items")
    if items:
        for place, item in enumerate(value):
            check(items, item, f"{where}[{place}]")


def _check_object(schema: Schema, value: dict[str, Any], where: str) -> None:
    known = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            raise MisfitError(f"{where} lacks {name!r}")
    if len(value) < schema.get("minProperties", 0) or len(value) > schema.get("maxProperties", len(value)):
        raise MisfitError(f"{where} has {len(value)} members, which is not how many it may have")
    more = schema.get("additionalProperties", True)
    for name, item in value.items():
        if name in known:
            check(known[name], item, f"{where}.{name}")
        elif more is False:
            raise MisfitError(f"{where} has no member {name!r:.60}; there are {', '.join(known)}")


def from_text(schema: Schema, text: str, where: str) -> Any:
    """A value of a query, path or header, as its schema types it; raises `MisfitError`."""
    kind = schema.get("type")
    value: Any = text
    if kind == "integer" and re.fullmatch(r"-?[0-9]{1,18}", text):
        value = int(text)
    elif kind == "number" and re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,32})?(e[+-]?[0-9]{1,3})?", text):
        value = float(text)
    elif kind == "boolean" and text in ("true", "false"):
        value = text == "true"
    check(schema, value, where)
    return value
