"""The OpenAPI document, written from the table of operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distcomp import __version__
from distcomp.gateway.problems import MEDIA_TYPE, TITLES
from distcomp.gateway.shapes import JSON, OCTETS, PROBLEM
from distcomp.gateway.table import OPERATIONS

if TYPE_CHECKING:
    from distcomp.gateway.table import Operation

ABOUT = (
    "Hand published functions to a distcomp cluster and read what comes of them. Every request but those for "
    "health carries `Authorization: Bearer <token>`; `distcomp token create` makes tokens. "
    "Errors are `application/problem+json` and say what to do."
)
_ALWAYS = ("foreign-host", "foreign-origin", "invalid")
_WITH_TOKEN = ("no-token", "forbidden", "too-many")
_WITH_BODY = ("bad-request", "slow", "too-large", "unsupported-media-type", "invalid")
_WITH_OCTETS = ("bad-request", "slow", "too-large")


def problems_of(operation: Operation) -> tuple[str, ...]:
    """Every kind of problem that an operation may answer with."""
    kinds = [*_ALWAYS, *operation.problems]
    if operation.scope is not None:
        kinds += _WITH_TOKEN
    if any(each.where == "path" for each in operation.parameters):
        kinds.append("not-found")
    if operation.body is not None:
        kinds += _WITH_BODY
    if operation.octets:
        kinds += _WITH_OCTETS
    return tuple(dict.fromkeys(kinds))


def document(server: str = "/") -> dict[str, Any]:
    """The document.

    Args:
        server: the path in front of all others.
    """
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "distcomp", "version": __version__, "description": ABOUT},
        "servers": [{"url": server or "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Problem": PROBLEM},
        },
    }


def _described(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.words,
        "responses": _responses(operation),
    }
    about = [operation.more] if operation.more else []
    if operation.scope is None:
        found["security"] = []
    else:
        about.append(f"Needs the scope `{operation.scope}`.")
    if about:
        found["description"] = "\n\n".join(about)
    if operation.parameters:
        found["parameters"] = [
            {
                "name": each.name,
                "in": each.where,
                "required": each.required,
                "description": each.words,
                "schema": each.schema,
            }
            for each in operation.parameters
        ]
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": {JSON: {"schema": operation.body}}}
    elif operation.octets:
        binary = {"schema": {"type": "string", "format": "binary"}}
        found["requestBody"] = {"required": False, "content": {OCTETS: binary}}
    return found


def _responses(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for answer in operation.answers:
        response = found.setdefault(str(answer.status), {"description": answer.words})
        if answer.schema is not None:
            response.setdefault("content", {})[answer.media_type] = {"schema": answer.schema}
    for kind in problems_of(operation):
        status, title = TITLES[kind]
        response = found.setdefault(str(status), {"description": title})
        if title not in response["description"]:
            response["description"] += f"; {title}"
        content = response.setdefault("content", {})
        content[MEDIA_TYPE] = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return found
