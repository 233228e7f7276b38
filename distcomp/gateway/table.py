"""Every operation of the gateway: how it is asked for, who may, and what comes back.

The application routes by this table and holds requests to it, the OpenAPI document is written from it,
and the tests walk through it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from distcomp.gateway import shapes
from distcomp.gateway.shapes import JSON, OCTETS

if TYPE_CHECKING:
    from distcomp.gateway.schemas import Schema


class Parameter(NamedTuple):
    """A value in the path, the query or a header."""

    name: str
    where: str
    schema: Schema
    words: str
    required: bool = False


class Answer(NamedTuple):
    """What comes back with a status; `schema` is None where there is no body."""

    status: int
    words: str
    schema: Schema | None = None
    media_type: str = JSON


class Operation(NamedTuple):
    """One operation.

    Attributes:
        name: of the handler, and in the document.
        method: of HTTP.
        path: with `{…}` for parameters.
        scope: what a token needs; None if none is needed.
        words: what it does, in a line.
        more: what else has to be said.
        parameters: of path, query and headers.
        body: the schema of a JSON body; None if it takes none.
        octets: whether the body is bytes instead, and not read before the handler does.
        answers: the good ones.
        problems: kinds of `problems.TITLES` it answers with, besides those of every operation.
        limit: which bound counts it: `requests`, `streams`, `tunnel` or None.
        login: whether a browser may ask its user for the token.
    """

    name: str
    method: str
    path: str
    scope: str | None
    words: str
    answers: tuple[Answer, ...]
    more: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: Schema | None = None
    octets: bool = False
    problems: tuple[str, ...] = ()
    limit: str | None = "requests"
    login: bool = False


def _path(name: str, words: str) -> Parameter:
    return Parameter(name, "path", shapes.PATH_NAMES[name], words, required=True)


_FUNCTION = _path("function", "the name of a published function")
_VERSION = _path("version", "its version")
_TASK = _path("task", "the id of a task or of a task array")
_TUNNEL = _path("tunnel", "what opening it gave")
_WORKER = _path("worker", "the id of a worker, as GET /v1/workers gives it")
_LIMIT = Parameter("limit", "query", shapes.LIMIT, "how many items to give at most")
_AFTER = Parameter("after", "query", shapes.CURSOR, "the `next` of the answer before")
_BEFORE = _AFTER._replace(schema=shapes.MOMENT)
_WAIT = Parameter("wait", "query", shapes.WAIT, "seconds to wait for the outcome, if it is not there yet")
_OFFSET = Parameter("offset", "query", shapes.OFFSET, "where in the stream to begin", required=True)
_SEEN = Parameter("seen", "query", shapes.OFFSET, "bytes received so far; the gateway lets go of them")

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "health",
        "GET",
        "/healthz",
        None,
        "Whether the gateway runs",
        (Answer(200, "it does", shapes.HEALTH),),
        limit=None,
    ),
    Operation(
        "readiness",
        "GET",
        "/readyz",
        None,
        "Whether the gateway has a scheduler",
        (Answer(200, "it has", shapes.HEALTH),),
        problems=("unavailable",),
        limit=None,
    ),
    Operation(
        "document",
        "GET",
        "/openapi.json",
        "observe",
        "This interface as an OpenAPI document",
        (Answer(200, "the document", {"type": "object"}),),
        login=True,
    ),
    Operation(
        "docs",
        "GET",
        "/docs",
        "observe",
        "This interface as a page to read",
        (Answer(200, "the page", {"type": "string"}, "text/html"),),
        more="A browser asks for a user, which can be anything, and a password, which is the token.",
        login=True,
    ),
    Operation(
        "status",
        "GET",
        "/v1/status",
        "observe",
        "The cluster in numbers",
        (Answer(200, "the numbers", shapes.STATUS),),
        problems=("unavailable",),
    ),
    Operation(
        "workers",
        "GET",
        "/v1/workers",
        "observe",
        "The cluster's workers",
        (Answer(200, "some of them, by id", shapes.WORKERS),),
        parameters=(_LIMIT, _AFTER),
        problems=("unavailable",),
    ),
    Operation(
        "resize_worker",
        "POST",
        "/v1/workers/{worker}/slots",
        "admin",
        "Give a worker another number of slots while it runs",
        (Answer(202, "it was asked; GET /v1/workers says when it has them", shapes.RESIZED),),
        more=(
            "New slots get work at once. Where there are to be fewer, what runs ends as ever, and what has "
            "not begun goes elsewhere. It lasts until the worker ends. The gateway needs an admin's access."
        ),
        parameters=(_WORKER,),
        body=shapes.SLOTS,
        problems=("not-found", "conflict", "forbidden", "unavailable"),
    ),
    Operation(
        "events",
        "GET",
        "/v1/events",
        "observe",
        "What happens, as it happens: server-sent events",
        (Answer(200, "events without end", {"type": "string"}, "text/event-stream"),),
        more=(
            "`status` carries what GET /v1/status answers, once a second at most; `task` carries a task "
            "of the token's owner that has ended or a task array in which something has. "
            "A comment comes when nothing else does."
        ),
        limit="streams",
    ),
    Operation(
        "functions",
        "GET",
        "/v1/functions",
        "observe",
        "The published functions",
        (Answer(200, "some of them, by name and version", shapes.FUNCTIONS),),
        parameters=(_LIMIT, _AFTER),
    ),
    Operation(
        "function",
        "GET",
        "/v1/functions/{function}",
        "observe",
        "All versions of a published function",
        (Answer(200, "the last published one first", shapes.FUNCTIONS),),
        parameters=(_FUNCTION,),
        problems=("not-found",),
    ),
    Operation(
        "publish",
        "PUT",
        "/v1/functions/{function}/versions/{version}",
        "submit",
        "Publish a function",
        (
            Answer(201, "it is published", shapes.FUNCTION),
            Answer(200, "it was, and is the same", shapes.FUNCTION),
        ),
        more="The body is what `distcomp publish` makes. A version never changes: publish another one.",
        parameters=(_FUNCTION, _VERSION),
        octets=True,
        problems=("conflict", "forbidden", "full"),
    ),
    Operation(
        "withdraw",
        "DELETE",
        "/v1/functions/{function}/versions/{version}",
        "submit",
        "Withdraw a version of a function",
        (Answer(204, "it is gone; tasks handed in before still run"),),
        parameters=(_FUNCTION, _VERSION),
        problems=("not-found", "forbidden"),
    ),
    Operation(
        "submit",
        "POST",
        "/v1/functions/{function}/tasks",
        "submit-named",
        "Have a published function run",
        (
            Answer(202, "it will; Location says where to look", shapes.TASK),
            Answer(200, "it has, within `wait`", shapes.TASK),
        ),
        more=(
            "`args` and `kwargs` are the arguments of one call. `map` is a list of lists of arguments, each "
            "of which becomes a task of one task array."
        ),
        parameters=(
            _FUNCTION,
            Parameter("version", "query", shapes.VERSION, "the last published one if not given"),
            _WAIT,
            Parameter(
                "Idempotency-Key",
                "header",
                shapes.IDEMPOTENCY_KEY,
                "any text; a request with the key of an earlier one gives that one's task, and runs nothing",
            ),
        ),
        body=shapes.SUBMIT,
        problems=("not-found", "conflict", "full", "unavailable"),
    ),
    Operation(
        "tasks",
        "GET",
        "/v1/tasks",
        "observe",
        "The tasks of the token's owner",
        (Answer(200, "some of them, the newest first", shapes.TASKS),),
        parameters=(_LIMIT, _BEFORE),
    ),
    Operation(
        "task",
        "GET",
        "/v1/tasks/{task}",
        "observe",
        "Where a task is, and what came of it",
        (Answer(200, "the task, or the task array without its tasks", shapes.TASK),),
        parameters=(_TASK, _WAIT),
        problems=("not-found",),
    ),
    Operation(
        "items",
        "GET",
        "/v1/tasks/{task}/items",
        "observe",
        "The tasks of a task array",
        (Answer(200, "some of them, in order", shapes.TASKS),),
        parameters=(_TASK, _LIMIT, _AFTER),
        problems=("not-found",),
    ),
    Operation(
        "result",
        "GET",
        "/v1/tasks/{task}/result",
        "observe",
        "The bare result of a task",
        (
            Answer(200, "as JSON, or as a pickle if JSON cannot carry it", {}, JSON),
            Answer(200, "", {"type": "string", "format": "binary"}, OCTETS),
        ),
        parameters=(_TASK, _WAIT),
        problems=("not-found", "conflict"),
    ),
    Operation(
        "cancel",
        "DELETE",
        "/v1/tasks/{task}",
        "submit-named",
        "Cancel a task or all tasks of an array; what has ended is not changed",
        (Answer(200, "the task", shapes.TASK),),
        parameters=(_TASK,),
        problems=("not-found",),
    ),
    Operation(
        "open_tunnel",
        "POST",
        "/v1/tunnel",
        "submit",
        "Open a tunnel, for distcomp's own Python client",
        (Answer(201, "it is open", shapes.TUNNEL),),
        body=shapes.OPEN_TUNNEL,
        problems=("conflict", "forbidden", "unavailable"),
    ),
    Operation(
        "up",
        "POST",
        "/v1/tunnel/{tunnel}/up",
        "submit",
        "Send bytes through a tunnel",
        (Answer(200, "so many bytes have arrived, and may be forgotten", shapes.ARRIVED),),
        parameters=(_TUNNEL, _OFFSET, _SEEN),
        octets=True,
        problems=("not-found", "conflict", "gone"),
        limit="tunnel",
    ),
    Operation(
        "down",
        "GET",
        "/v1/tunnel/{tunnel}/down",
        "submit",
        "Receive bytes from a tunnel, in one response without end",
        (Answer(200, "the bytes from `offset` on", {"type": "string", "format": "binary"}, OCTETS),),
        parameters=(_TUNNEL, _OFFSET),
        problems=("not-found", "conflict", "gone"),
        limit="tunnel",
    ),
    Operation(
        "close_tunnel",
        "DELETE",
        "/v1/tunnel/{tunnel}",
        "submit",
        "Close a tunnel; what was sent still leaves",
        (Answer(204, "it is closed"),),
        parameters=(_TUNNEL,),
        problems=("not-found",),
        limit="tunnel",
    ),
)

_PATTERNS: tuple[tuple[re.Pattern[str], dict[str, Operation]], ...] = tuple(
    (
        re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path))),
        {operation.method: operation for operation in OPERATIONS if operation.path == path},
    )
    for path in dict.fromkeys(operation.path for operation in OPERATIONS)
)


class Matched(NamedTuple):
    """What a method and a path mean. `operation` is None if the path takes other `methods` only."""

    operation: Operation | None
    methods: tuple[str, ...]
    values: dict[str, Any]


def find(method: str, path: str) -> Matched | None:
    """The operation behind a method and a path; None if there is nothing at that path."""
    for pattern, operations in _PATTERNS:
        fits = pattern.fullmatch(path)
        if fits:
            return Matched(operations.get(method), tuple(operations), fits.groupdict())
    return None
