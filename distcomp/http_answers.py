"""What the answers mean that are not the ones hoped for: of a gateway, of a proxy, or of something else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from distcomp.errors import (
    AuthenticationError,
    ConnectError,
    ForeignProtocolError,
    SchedulerBusyError,
    TunnelLostError,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distcomp.http_roads import Road
    from distcomp.http_wires import Head

_MOVED, _REFUSED, _BROKEN = 300, 400, 500
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _GONE, _PROXY_LOGIN = 401, 403, 404, 410, 407
_LATER = frozenset({408, 425, 429})
"""Refusals after which the same may succeed, as it may after all from 500 on."""


def error_of(head: Head, answer: bytes, road: Road) -> ConnectError:
    """The error for an answer that refuses what was asked."""
    said = said_by(head, answer)
    if head.status >= _BROKEN:
        return UnreachableError(f"{road}: {said}")
    if head.status in _LATER:
        return SchedulerBusyError(f"{road}: {said}")
    if head.status == _GONE or (head.status == _NOT_FOUND and _is_problem(head)):
        return TunnelLostError(f"{road}: {said}")
    return _lasting(head, said, road)


def _lasting(head: Head, said: str, road: Road) -> ConnectError:
    """The error for a refusal that no waiting changes."""
    if head.status == _PROXY_LOGIN:
        return AuthenticationError(
            f"{road} wants another login: HTTP_PROXY may say http://user:password@host:port"
        )
    if head.status in (_UNAUTHORIZED, _FORBIDDEN):
        return AuthenticationError(
            f"{road.address} does not take the token: {said}; `distcomp token create --scope submit` on the "
            "gateway's host makes one, and DISTCOMP_TOKEN hands it over"
        )
    if head.status == _NOT_FOUND:
        return ForeignProtocolError(
            f"there is no gateway at {road}: {road.address.prefix}/v1/tunnel is unknown there; the address "
            "of a gateway that is below a path ends with that path"
        )
    if _MOVED <= head.status < _REFUSED:
        return ForeignProtocolError(f"{road} is elsewhere: {head.fields.get('location', '?'):.200}")
    return ForeignProtocolError(f"what answers at {road} is no gateway: {said}")


def said_by(head: Head, answer: bytes) -> str:
    """What a refusal says in words, or its number."""
    kind = head.fields.get("content-type", "").partition(";")[0].strip()
    text = " ".join(answer.decode("utf-8", "replace").split()) if kind == "text/plain" else ""
    words = text if text.isprintable() else ""
    return str(fields_of(answer).get("detail") or words or f"it answers {head.status}")[:1000]


def fields_of(answer: bytes) -> Mapping[str, Any]:
    """An answer's JSON object; empty if it is none."""
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_problem(head: Head) -> bool:
    """Whether a gateway itself answered so, and nothing before it."""
    kind = head.fields.get("content-type", "").partition(";")[0]
    return kind.strip().lower() == "application/problem+json"
