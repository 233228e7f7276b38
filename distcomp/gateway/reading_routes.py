"""Operations that only look: health, the document, the cluster, and what happens in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from distcomp.gateway.openapi import document
from distcomp.gateway.page import page
from distcomp.gateway.paging import cut
from distcomp.gateway.problems import Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from distcomp.gateway.calls import Call
    from distcomp.gateway.cluster_view import ClusterView, EventReader
    from distcomp.gateway.tokens import BearerToken
    from distcomp.gateway_settings import GatewaySettings
    from distcomp.protocol import StatusReported
    from distcomp.rows import WorkerRow

_UNBUFFERED = {"X-Accel-Buffering": "no"}


class ReadingRoutes:
    """Operations that change nothing.

    Args:
        settings: of the gateway.
        view: what it sees of the cluster.
    """

    def __init__(self, settings: GatewaySettings, view: ClusterView) -> None:
        self._settings = settings
        self._view = view
        self._document = document(settings.root_path.rstrip("/"))
        self._page = page()
        self._told_of: StatusReported | None = None
        self._words: dict[str | None, bytes] = {}

    async def health(self, call: Call) -> Response:
        """Say that there is somebody."""
        del call
        return JSONResponse({"status": "ok"})

    async def readiness(self, call: Call) -> Response:
        """Say whether the scheduler can be reached."""
        del call
        if self._view.report is None:
            raise Problem("unavailable", "the gateway has no connection to its scheduler")
        return JSONResponse({"status": "ok"})

    async def document(self, call: Call) -> Response:
        """The OpenAPI document."""
        del call
        return JSONResponse(self._document)

    async def docs(self, call: Call) -> Response:
        """The docs page."""
        del call
        return HTMLResponse(self._page)

    async def status(self, call: Call) -> Response:
        """The cluster in numbers, with the unfinished arrays that the token may see."""
        return JSONResponse(self._status(call.user))

    async def workers(self, call: Call) -> Response:
        """The workers, by id."""
        self._report()
        rows = sorted(self._view.workers.values(), key=lambda row: row.worker)
        items, more = cut(rows, lambda row: row.worker.hex(), call.values["limit"], call.values["after"])
        return JSONResponse({"items": [_worker(row) for row in items], **more})

    async def events(self, call: Call) -> Response:
        """Events as they happen."""
        listener = self._view.listen()
        return _Events(self._view, listener, self._told(listener, call.user))

    async def _told(self, listener: EventReader, user: BearerToken) -> AsyncIterator[bytes]:
        yield b": hello\n\n"
        if self._view.report is not None:
            yield self._status_event(user)
        while not listener.over:
            events = await listener.wait(self._settings.tunnel_keepalive_s)
            if not events and not listener.over:
                yield b": nothing happens\n\n"
            for kind, owner, event in events:
                if kind == "status" and self._view.report is not None:
                    yield self._status_event(user)
                elif kind != "status" and (owner == user.owner or user.allows("admin")):
                    yield _event(kind, event)
            if listener.missed:
                yield _event("missed", {"events": listener.missed})
                listener.missed = 0

    def _status_event(self, user: BearerToken) -> bytes:
        """The status as an event, made once for all who may see the same."""
        report = self._report()
        if self._told_of is not report:
            self._told_of, self._words = report, {}
        whose = None if user.allows("admin") else user.owner
        if whose not in self._words:
            self._words[whose] = _event("status", self._status(user))
        return self._words[whose]

    def _report(self) -> StatusReported:
        report = self._view.report
        if report is None:
            raise Problem("unavailable", self._view.problem, headers={"Retry-After": "1"})
        return report

    def _status(self, user: BearerToken) -> dict[str, Any]:
        report = self._report()
        arrays = [
            {
                "owner": row.owner,
                "function": row.function,
                "priority": row.priority,
                "tasks": row.tasks,
                "pending": row.pending,
                "leased": row.leased,
                "settled": row.settled,
                "failed": row.failed,
                "age_s": row.age_s,
            }
            for row in self._view.arrays.values()
            if user.allows("admin") or row.owner == user.owner
        ]
        return {
            "cluster": report.cluster,
            "epoch": str(report.epoch),
            "journal": report.journal,
            "journal_bytes": report.journal_bytes,
            "committed_ago_s": report.committed_ago_s,
            "shut": report.shut,
            "no_room": report.no_room,
            "totals": report.totals._asdict(),
            "arrays": arrays,
        }


class _Events(StreamingResponse):
    """A response that lasts as long as somebody listens."""

    def __init__(self, view: ClusterView, listener: EventReader, content: AsyncIterator[bytes]) -> None:
        super().__init__(content, headers=_UNBUFFERED, media_type="text/event-stream")
        self._view, self._listener = view, listener

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._view.drop(self._listener)


def _event(kind: str, data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def _worker(row: WorkerRow) -> dict[str, Any]:
    return {
        "id": row.worker.hex(),
        "name": row.name,
        "host": row.host,
        "pid": row.pid,
        "slots": row.slots,
        "busy": row.busy,
        "settled": row.settled,
        "failed": row.failed,
        "state": row.state,
        "python": row.python,
        "unfit": row.unfit,
    }
