"""The gateway as an ASGI application, for a server or to be mounted in another application."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from distcomp.errors import ConfigError, ConnectError
from distcomp.gateway import bodies, table
from distcomp.gateway.calls import Call
from distcomp.gateway.cluster_view import ClusterView
from distcomp.gateway.guard import SECURITY_HEADERS, Guard, Names
from distcomp.gateway.page import STYLE_DIGEST
from distcomp.gateway.problems import Problem
from distcomp.gateway.reading_routes import ReadingRoutes
from distcomp.gateway.schemas import MisfitError, check, from_text
from distcomp.gateway.task_routes import TaskRoutes
from distcomp.gateway.tunnel_routes import TunnelRoutes
from distcomp.gateway.worker_routes import WorkerRoutes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from distcomp.gateway.doors import Doors
    from distcomp.gateway.shelf import TaskShelf
    from distcomp.gateway.table import Operation
    from distcomp.gateway.tokens import TokenFile
    from distcomp.gateway_settings import GatewaySettings

_log = logging.getLogger("distcomp")
_HEADERS = [
    (name.lower().encode(), words.replace("{style}", STYLE_DIGEST).encode())
    for name, words in SECURITY_HEADERS.items()
]


class Preflight(Exception):  # noqa: N818 - it is a question, not an accident
    """A browser asks what a page of an allowed origin may do. It has no token to ask with.

    Args:
        methods: that there are at the path.
    """

    def __init__(self, methods: tuple[str, ...]) -> None:
        super().__init__()
        self._methods = methods

    def response(self) -> Response:
        """The answer."""
        headers = {
            "Access-Control-Allow-Methods": ", ".join(sorted(self._methods)),
            "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key",
            "Access-Control-Max-Age": "600",
        }
        return Response(status_code=204, headers=headers)


class Gateway:
    """Answers HTTP requests; an ASGI application.

    Args:
        settings: of the gateway.
        doors: the ways to its scheduler.
        tokens: of its cluster.
        shelf: what it keeps; closed by `stop`.
        bound: hosts that it is served at, besides those of the settings.

    Example:
        `gateway = Gateway(settings, doors, TokenFile(folder), shelf); await gateway.start()`, then serve it;
        where it is mounted in another application, that one's lifespan calls `start` and `stop`.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        doors: Doors,
        tokens: TokenFile,
        shelf: TaskShelf,
        bound: Iterable[str] = (),
    ) -> None:
        self._settings = settings
        self._guard = Guard(settings, tokens)
        self._names = Names(settings, bound)
        self._root = settings.root_path.rstrip("/")
        self._view = ClusterView(settings, doors)
        self._reading = ReadingRoutes(settings, self._view)
        self._workers = WorkerRoutes(doors)
        self._tunnels = TunnelRoutes(settings, doors)
        self._tasks = TaskRoutes(settings, doors, shelf, self._view)
        self._handlers: dict[str, Callable[[Call], Awaitable[Response]]] = {}
        for operation in table.OPERATIONS:
            for routes in (self._reading, self._workers, self._tunnels, self._tasks):
                if hasattr(routes, operation.name):
                    self._handlers[operation.name] = getattr(routes, operation.name)

    async def start(self) -> None:
        """Connect to the scheduler, and go on with what was left; needs the loop that will serve."""
        self._view.start()
        await self._tasks.start()

    async def stop(self) -> None:
        """End every stream and connection."""
        self._tunnels.stop()
        await self._tasks.stop()
        await self._view.stop()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return

        request = Request(scope, receive)
        more = _headers_for(self._names.foreign_origin(request))

        async def send_secured(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *more]
            await send(message)

        try:
            await self._answer(request, send_secured)
        except ClientDisconnect:
            _log.debug("a client left before its answer")

    async def _answer(self, request: Request, send: Any) -> None:
        entered = None
        try:
            try:
                call, operation = await self._admit(request)
                if call.token is not None:
                    entered = self._guard.enter(call.token, operation)
                call = await self._read(call, operation)
                response = await self._handlers[operation.name](call)
            except Preflight as asked:
                response = asked.response()
            except Problem as problem:
                response = problem.response()
            except ConnectError as error:
                response = Problem("unavailable", str(error), headers={"Retry-After": "1"}).response()
            except ConfigError as error:
                response = Problem("forbidden", str(error)).response()
            await response(request.scope, request.receive, send)
        finally:
            self._guard.leave(entered)

    async def _admit(self, request: Request) -> tuple[Call, Operation]:
        """Hold a request to what does not need its body; raises `Problem`."""
        self._names.check(request)
        path = request.scope["path"]
        if self._root and path.startswith(f"{self._root}/"):
            path = path[len(self._root) :]
        _check_upgrade(request)
        found = table.find(request.method, path)
        if request.method == "HEAD":  # as balancers ask; those who want more can ask by GET
            looked = table.find("GET", path)
            if looked is not None and looked.operation is not None and looked.operation.scope is None:
                found = looked
        if found is not None and request.method == "OPTIONS" and self._names.foreign_origin(request):
            raise Preflight(found.methods)
        operation = None if found is None else found.operation
        token = None
        if operation is None or operation.scope is not None:
            token = self._guard.admit(request, operation)
        if found is None:
            raise Problem("not-found", f"there is nothing at {path:.200}; /openapi.json says what there is")
        if operation is None:
            allowed = ", ".join(sorted(found.methods))
            raise Problem("method-not-allowed", f"here one can {allowed}", headers={"Allow": allowed})
        return Call(request, token, _parameters(request, operation, found.values), None), operation

    async def _read(self, call: Call, operation: Operation) -> Call:
        """Read and check a JSON body, where there has to be one."""
        if operation.body is None:
            return call
        body = await bodies.read_json(call.request, self._settings)
        try:
            check(operation.body, body)
        except MisfitError as error:
            raise Problem("invalid", str(error)) from None
        return call._replace(body=body)

    async def _live(self, receive: Any, send: Any) -> None:
        """Start and stop with a server that says when."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
            else:
                await self.stop()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return


def _check_upgrade(request: Request) -> None:
    """Refuse a body behind an Upgrade, which the parser takes for the other protocol's."""
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    if has_body and "upgrade" in request.headers:
        raise Problem(
            "bad-request",
            "there is no other protocol here: leave out Upgrade (curl: --http1.1)",
            headers={"Connection": "close"},
        )


def _headers_for(origin: str | None) -> list[tuple[bytes, bytes]]:
    """The headers of every answer; a page of an allowed origin may read it."""
    if origin is None:
        return _HEADERS
    named = (b"access-control-allow-origin", origin.encode("latin-1", "replace"))
    return [
        *_HEADERS,
        named,
        (b"vary", b"Origin"),
        (b"access-control-expose-headers", b"Location, Retry-After"),
    ]


def _parameters(request: Request, operation: Operation, path: Mapping[str, str]) -> dict[str, Any]:
    """The values of an operation's parameters, typed and checked; raises `Problem`."""
    values: dict[str, Any] = {}
    asked: dict[str, list[str]] = {each.name: [] for each in operation.parameters if each.where == "query"}
    for name, text in parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True):
        if name not in asked:
            raise Problem("invalid", f"there is no parameter {name!r:.60} here")
        asked[name].append(text)
    for each in operation.parameters:
        if each.where == "path":
            given = [path[each.name]]
        elif each.where == "query":
            given = asked[each.name]
        else:
            given = request.headers.getlist(each.name)
        try:
            if len(given) > 1:
                raise MisfitError(f"{each.name} is given {len(given)} times")  # noqa: TRY301 - one way out
            if each.required and not given:
                raise MisfitError(f"{each.name} is missing")  # noqa: TRY301 - as above
            values[each.name] = from_text(each.schema, given[0], each.name) if given else None
        except MisfitError as error:
            raise Problem("not-found" if each.where == "path" else "invalid", str(error)) from None
    return values
