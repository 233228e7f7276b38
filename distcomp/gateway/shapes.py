"""The shapes of what the gateway takes and gives, as JSON Schemas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distcomp.protocol import PROTOCOL
from distcomp.rows import MAX_SLOTS

if TYPE_CHECKING:
    from distcomp.gateway.schemas import Schema

JSON = "application/json"
OCTETS = "application/octet-stream"
MAX_COUNT = (1 << 53) - 1
"""The largest integer that every JSON reader keeps exactly."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


def text(longest: int = 256, **more: Any) -> Schema:
    """The schema of a text."""
    return {"type": "string", "maxLength": longest, **more}


def whole(low: int = 0, high: int = MAX_COUNT) -> Schema:
    """The schema of a whole number."""
    return {"type": "integer", "minimum": low, "maximum": high}


def thing(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """The schema of an object with exactly these members."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def page_of(item: Schema) -> Schema:
    """The schema of one page of a longer list."""
    return thing({"items": {"type": "array", "items": item}}, {"next": text(512)})


_SECONDS: Schema = {"type": "number", "minimum": 0}

NAME = text(64, minLength=1, pattern=NAME_PATTERN)
VERSION = NAME
LIMIT = whole(1, 1000)
CURSOR = text(512, minLength=1, pattern=r"^[A-Za-z0-9._:-]+$")
MOMENT = text(64, minLength=1, pattern=r"^[0-9]{1,12}\.[0-9]{1,9}:[0-9a-f]{1,32}$")
"""The cursor of what is sorted by time: seconds since 1970 and an id."""
WAIT: Schema = {"type": "number", "minimum": 0, "maximum": 3600}
OFFSET = whole()
IDEMPOTENCY_KEY = text(128, minLength=1, pattern=r"^[\x21-\x7e]+$")
PATH_NAMES: dict[str, Schema] = {
    "function": NAME,
    "version": VERSION,
    "task": text(64, minLength=1, pattern=r"^[A-Za-z0-9_.-]+$"),
    "tunnel": text(64, minLength=1, pattern=r"^[A-Za-z0-9_-]+$"),
    "worker": text(32, minLength=32, pattern=r"^[0-9a-f]{32}$"),
}

HEALTH = thing({"status": text()})

STATUS = thing(
    {
        "cluster": text(),
        "epoch": text(32),
        "journal": text(1 << 16),
        "journal_bytes": whole(),
        "committed_ago_s": _SECONDS,
        "shut": text(1 << 16),
        "no_room": text(1 << 16),
        "totals": {"type": "object"},
        "arrays": {"type": "array", "items": {"type": "object"}},
    }
)

WORKER = thing(
    {
        "id": text(32),
        "name": text(),
        "host": text(),
        "pid": whole(),
        "slots": whole(),
        "busy": whole(),
        "settled": whole(),
        "failed": whole(),
        "state": text(),
        "python": text(),
        "unfit": text(1 << 16),
    }
)
WORKERS = page_of(WORKER)
SLOTS = thing({"slots": whole(1, MAX_SLOTS)})
RESIZED = thing({"id": text(32), "slots": whole(1, MAX_SLOTS)})

PARAMETER = thing({"name": text(), "kind": text(), "required": {"type": "boolean"}}, {"default": {}})
FUNCTION = thing(
    {
        "name": NAME,
        "version": VERSION,
        "owner": text(),
        "digest": text(64),
        "python": text(),
        "parameters": {"type": "array", "items": PARAMETER},
        "doc": text(1 << 16),
        "size_bytes": whole(),
        "published_at": _SECONDS,
        "used_at": _SECONDS,
        "uses": whole(),
    }
)
FUNCTIONS = page_of(FUNCTION)

OPTIONS = thing(
    {},
    {
        "retries": whole(0, 1000),
        "retry_delay_s": {"type": "number", "minimum": 0, "maximum": 86400},
        "timeout_s": {"type": "number", "minimum": 0, "maximum": 31536000},
        "priority": whole(-1000, 1000),
        "max_attempts": whole(0, 1000),
        "logs": {"type": "boolean"},
    },
)
SUBMIT: Schema = {
    "type": "object",
    "properties": {
        "args": {"type": "array"},
        "kwargs": {"type": "object"},
        "map": {"type": "array", "items": {"type": "array"}, "minItems": 1, "maxItems": 10_000},
        "options": OPTIONS,
    },
    "additionalProperties": False,
}

FAILURE = thing(
    {
        "kind": text(),
        "type": text(),
        "text": text(1 << 16),
        "traceback": text(1 << 18),
        "host": text(),
        "worker": text(),
    }
)
TASK = thing(
    {
        "id": text(64),
        "function": NAME,
        "version": VERSION,
        "state": {
            "type": "string",
            "enum": ["waiting", "running", "done", "failed", "cancelled"],
        },
        "submitted_at": _SECONDS,
    },
    {
        "tasks": whole(),
        "done": whole(),
        "failed": whole(),
        "cancelled": whole(),
        "settled_at": _SECONDS,
        "result": {},
        "elsewhere": text(2048),
        "failure": FAILURE,
        "attempts": whole(),
        "logs": text(1 << 18),
    },
)
TASKS = page_of(TASK)

OPEN_TUNNEL = thing({"protocol": whole(0, 65535)}, {"distcomp": text(64)})
OPEN_TUNNEL["example"] = {"protocol": PROTOCOL}
TUNNEL = thing(
    {
        "tunnel": text(64),
        "protocol": whole(),
        "owner": text(),
        "cluster": text(),
        "cluster_id": text(64),
        "window_bytes": whole(),
        "max_frame_bytes": whole(),
        "idle_s": _SECONDS,
        "keepalive_s": _SECONDS,
    }
)
ARRIVED = thing({"offset": whole()})

PROBLEM = {
    "type": "object",
    "properties": {
        "type": text(),
        "title": text(),
        "status": whole(400, 599),
        "detail": text(1 << 16),
        "offset": whole(),
        "task": text(64),
    },
    "required": ["type", "title", "status", "detail"],
}
