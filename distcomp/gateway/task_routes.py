"""Operations on published functions and their tasks."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from distcomp import byte_columns
from distcomp.gateway import bodies
from distcomp.gateway.paging import PAGE_ITEMS, cut
from distcomp.gateway.problems import Problem
from distcomp.gateway.schemas import check
from distcomp.gateway.shapes import FUNCTION, JSON, OCTETS, OPTIONS
from distcomp.gateway.shelf import HandedIn
from distcomp.gateway.submitter import Submitter
from distcomp.published_calls import Publication, read_result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distcomp.gateway.calls import Call
    from distcomp.gateway.cluster_view import ClusterView
    from distcomp.gateway.doors import Doors
    from distcomp.gateway.shelf import Published, TaskOutcome, TaskShelf
    from distcomp.gateway_settings import GatewaySettings

CHUNK_BYTES, CHUNK_TASKS = 64 << 10, 4096
SWEEP_S = 600.0
SHOWN_BYTES = 1 << 20
"""A larger result is not shown with its task."""
NEWEST = (float("inf"), "")


class TaskRoutes:
    """Published functions and their tasks.

    Args:
        settings: of the gateway.
        doors: the ways to its scheduler.
        shelf: what it keeps.
        view: whose listeners are told of tasks.
    """

    def __init__(self, settings: GatewaySettings, doors: Doors, shelf: TaskShelf, view: ClusterView) -> None:
        self._settings, self._doors, self._shelf = settings, doors, shelf
        self._view = view
        self._root = settings.root_path.rstrip("/")
        self._submitters: dict[tuple[str, str], Submitter] = {}
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._telling: set[asyncio.Task[None]] = set()
        self._sweep: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Go on with all that is open."""
        for owner, python in await self._shelf.parties():
            self._submitter(owner, python)
        self._sweep = asyncio.ensure_future(self._drop_old())

    async def stop(self) -> None:
        """Stop where everything is."""
        for submitter in self._submitters.values():
            await submitter.stop()
        ending = [*self._telling, *([] if self._sweep is None else [self._sweep])]
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending)
        await self._shelf.close()

    # --- functions ---

    async def functions(self, call: Call) -> Response:
        """List all of them."""
        rows = sorted(await self._shelf.functions(), key=_place)
        items, more = cut(rows, _place, call.values["limit"], call.values["after"])
        return JSONResponse({"items": list(map(_function, items)), **more})

    async def function(self, call: Call) -> Response:
        """All versions of one."""
        rows = await self._versions(call.values["function"])
        return JSONResponse({"items": list(map(_function, rows))})

    async def publish(self, call: Call) -> Response:
        """Keep a function."""
        data = await bodies.whole(call.request, self._settings, self._settings.max_upload_bytes)
        try:
            publication = await asyncio.to_thread(_publication, data)
        except ValueError as error:
            raise Problem("bad-request", str(error)) from None
        if (publication.name, publication.version) != (call.values["function"], call.values["version"]):
            raise Problem("bad-request", "the publication has another name or version than the path")
        owner = call.user.owner
        made = await self._shelf.publish(owner, publication, data, self._settings.max_publications)
        if made is not None:
            return JSONResponse(_function(made), 201)
        rows = await self._versions(publication.name)
        return JSONResponse(next(_function(row) for row in rows if row.version == publication.version))

    async def withdraw(self, call: Call) -> Response:
        """Forget a version."""
        owner = None if call.user.allows("admin") else call.user.owner
        await self._shelf.withdraw(call.values["function"], call.values["version"], owner)
        return Response(status_code=204)

    async def _versions(self, name: str) -> list[Published]:
        rows = await self._shelf.functions(name)
        if not rows:
            raise _unknown(name)
        return rows

    # --- handing in ---

    async def submit(self, call: Call) -> Response:
        """Take a task or a task array in."""
        user, body = call.user, call.body
        rows = await self._shelf.versions(call.values["function"])
        if not rows:
            raise _unknown(call.values["function"])
        version = call.values["version"]
        published = next((row for row in rows if version in (None, row.version)), None)
        if published is None:
            raise Problem("not-found", f"{rows[0].name} has no version {version}")
        if "map" in body and ("args" in body or "kwargs" in body):
            raise Problem("invalid", "give either `map`, or `args` and `kwargs`")
        if (user.owner, _minor(published)) not in self._submitters:
            self._doors.find("client", user.owner)  # or say that nobody would take it
        calls = [[args, {}] for args in body["map"]] if "map" in body else [_one_call(body)]
        if len(calls) > self._settings.max_array_tasks:
            raise Problem("invalid", f"one request hands in at most {self._settings.max_array_tasks} tasks")
        submitter = self._submitter(user.owner, _minor(published))
        key = call.values["Idempotency-Key"]
        asked = sha256(json.dumps([published.name, version, body], sort_keys=True).encode()).digest()
        made = HandedIn(
            id=secrets.token_hex(12),
            owner=user.owner,
            name=published.name,
            version=published.version,
            digest=published.digest,
            python=_minor(published),
            options=_options(body.get("options", {})),
            tasks=len(calls),
            is_array="map" in body,
            submitted_at=time.time(),
            idempotency=key,
            asked=asked if key else None,
        )
        chunks = _chunks(calls)
        kept = await self._shelf.submit(made, chunks, self._settings.max_open_tasks)
        if kept.id == made.id:
            await submitter.hand_in(kept, chunks)
        elif kept.asked != asked:
            raise Problem("conflict", "another request had this Idempotency-Key", task=kept.id)
        shown = await self._shown_in_time(kept, call.values["wait"])
        status = 202 if shown["state"] in ("waiting", "running") else 200
        return JSONResponse(shown, status, {"Location": f"{self._root}/v1/tasks/{kept.id}"})

    def _submitter(self, owner: str, python: str) -> Submitter:
        submitter = self._submitters.get((owner, python))
        if submitter is None:
            submitter = self._submitters[owner, python] = Submitter(
                owner, python, self._settings, self._doors, self._shelf, self._tell
            )
        return submitter

    # --- looking ---

    async def tasks(self, call: Call) -> Response:
        """What the token's owner has handed in, the newest first."""
        owner = None if call.user.allows("admin") else call.user.owner
        limit, before = call.values["limit"] or PAGE_ITEMS, NEWEST
        if call.values["after"] is not None:
            stamp, _, number = call.values["after"].partition(":")
            before = (float(stamp), number)
        rows = await self._shelf.of_owner(owner, limit + 1, before)
        items = [await self._shown(row) for row in rows[:limit]]
        more = {"next": f"{rows[limit - 1].submitted_at!r}:{rows[limit - 1].id}"} if len(rows) > limit else {}
        return JSONResponse({"items": items, **more})

    async def task(self, call: Call) -> Response:
        """One task, or one array as a whole."""
        submitted, place = await self._find(call)
        return JSONResponse(await self._shown_in_time(submitted, call.values["wait"], place))

    async def items(self, call: Call) -> Response:
        """The tasks of an array."""
        submitted, place = await self._find(call)
        if place is not None or not submitted.is_array:
            raise Problem("not-found", "this is a task, not a task array")
        after = call.values["after"]
        if after is not None and not (after.isdecimal() and len(after) < 10):  # noqa: PLR2004 - no array is longer
            raise Problem("invalid", "after is the `next` of the answer before")
        start = 0 if after is None else min(int(after) + 1, submitted.tasks)
        stop = min(submitted.tasks, start + (call.values["limit"] or PAGE_ITEMS))
        outcomes = {each.place: each for each in await self._shelf.outcomes(submitted.id, start, stop)}
        items = [await self._item(submitted, each, outcomes.get(each)) for each in range(start, stop)]
        more = {"next": str(stop - 1)} if stop < submitted.tasks else {}
        return JSONResponse({"items": items, **more})

    async def result(self, call: Call) -> Response:
        """The bare result of one task."""
        submitted, place = await self._find(call)
        if submitted.is_array and place is None:
            raise Problem("not-found", f"a task array has many results: ask for {submitted.id}.0 and so on")
        await self._wait(submitted, call.values["wait"], place)
        outcomes = await self._shelf.outcomes(submitted.id, place or 0, (place or 0) + 1)
        if not outcomes:
            raise Problem("conflict", "the task has not ended; `wait` waits for it")
        if outcomes[0].result is None:
            text = (outcomes[0].failure or {}).get("text", "")
            raise Problem("conflict", f"the task has no result, it {outcomes[0].state}: {text:.1000}")
        found = read_result(outcomes[0].result)
        return Response(found.data, media_type=JSON if found.is_json else OCTETS)

    async def cancel(self, call: Call) -> Response:
        """Cancel what has not ended."""
        submitted, place = await self._find(call)
        if submitted.is_open:
            spans = ((0, submitted.tasks),) if place is None else ((place, place + 1),)
            await self._submitter(submitted.owner, submitted.python).cancel(submitted, spans)
        return JSONResponse(await self._shown_in_time(submitted, None, place))

    # --- within ---

    async def _find(self, call: Call) -> tuple[HandedIn, int | None]:
        """The submission, and the place in its array, that a task's id names."""
        number, dot, place = call.values["task"].partition(".")
        submitted = await self._shelf.find(number)
        seen = submitted is not None and (call.user.allows("admin") or submitted.owner == call.user.owner)
        fits = not dot or (place.isdecimal() and place.isascii() and len(place) < 10)  # noqa: PLR2004 - as above
        if submitted is None or not seen or not fits or (dot and int(place) >= submitted.tasks):
            raise Problem("not-found", f"there is no task {call.values['task']} (any more)")
        if dot and not submitted.is_array:
            raise Problem("not-found", f"{number} is a task, not a task array")
        return submitted, int(place) if dot else None

    async def _shown_in_time(
        self, submitted: HandedIn, wait_s: float | None, place: int | None = None
    ) -> dict[str, Any]:
        await self._wait(submitted, wait_s, place)
        return await self._shown(submitted, place)

    async def _wait(self, submitted: HandedIn, wait_s: float | None, place: int | None) -> None:
        """Wait for the outcome, for so many seconds at most."""
        if not wait_s:
            return
        news = asyncio.Event()
        watchers = self._waiting.setdefault(submitted.id, set())
        watchers.add(news)
        loop = asyncio.get_running_loop()
        until = loop.time() + min(wait_s, self._settings.max_wait_s)
        try:
            while not await self._has_ended(submitted, place):
                await asyncio.wait_for(news.wait(), until - loop.time())
                if not submitted.is_array:
                    return
                news.clear()  # before the next look, as what comes during that counts
        except asyncio.TimeoutError:
            return
        finally:
            watchers.discard(news)
            if not watchers:
                self._waiting.pop(submitted.id, None)

    async def _has_ended(self, submitted: HandedIn, place: int | None) -> bool:
        if place is not None:
            return bool(await self._shelf.outcomes(submitted.id, place, place + 1))
        now = await self._shelf.find(submitted.id)
        return now is None or not now.is_open

    def _tell(self, owner: str, number: str) -> None:
        """There are new outcomes on the shelf."""
        for news in self._waiting.get(number, ()):
            news.set()
        if self._view.has_listeners:
            task = asyncio.ensure_future(self._publish_news(owner, number))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _publish_news(self, owner: str, number: str) -> None:
        submitted = await self._shelf.find(number)
        if submitted is not None:
            self._view.tell("task", owner, await self._shown(submitted))

    async def _drop_old(self) -> None:
        """Forget what ended long ago."""
        while True:
            dropped = await self._shelf.drop_before(time.time() - self._settings.task_retention_s)
            if not dropped:
                await asyncio.sleep(SWEEP_S)

    async def _shown(self, submitted: HandedIn, place: int | None = None) -> dict[str, Any]:
        """A task or an array as it is told."""
        if place is not None or not submitted.is_array:
            chosen = place or 0
            outcomes = await self._shelf.outcomes(submitted.id, chosen, chosen + 1)
            return await self._item(submitted, chosen, outcomes[0] if outcomes else None)
        now = await self._shelf.find(submitted.id) or submitted
        counts = await self._shelf.counts(submitted.id)
        state = "waiting" if sum(counts.values()) == 0 else "running"
        if not now.is_open:
            state = next((each for each in ("failed", "cancelled") if counts.get(each)), "done")
        shown = {
            "id": submitted.id,
            "function": submitted.name,
            "version": submitted.version,
            "state": state,
            "submitted_at": submitted.submitted_at,
            "tasks": submitted.tasks,
            **{each: counts.get(each, 0) for each in ("done", "failed", "cancelled")},
        }
        return shown if now.settled_at is None else {**shown, "settled_at": now.settled_at}

    async def _item(self, submitted: HandedIn, place: int, outcome: TaskOutcome | None) -> dict[str, Any]:
        """One task as it is told."""
        shown: dict[str, Any] = {
            "id": f"{submitted.id}.{place}" if submitted.is_array else submitted.id,
            "function": submitted.name,
            "version": submitted.version,
            "state": "waiting",
            "submitted_at": submitted.submitted_at,
        }
        if outcome is None:
            submitter = self._submitters.get((submitted.owner, submitted.python))
            if submitter is not None and submitter.is_running(submitted, place):
                shown["state"] = "running"
        else:
            shown.update(state=outcome.state, settled_at=outcome.settled_at, **_told(outcome))
        if submitted.options.get("logs"):
            shown["logs"] = await self._shelf.printed(submitted.id, place) or shown.get("logs", "")
        return shown


def _options(told: dict[str, Any]) -> dict[str, Any]:
    """Options as the scheduler reads them: JSON makes no difference between 2 and 2.0, and others do."""
    makers = {"integer": int, "number": float, "boolean": bool}
    return {name: makers[OPTIONS["properties"][name]["type"]](value) for name, value in told.items()}


def _publication(data: bytes) -> Publication:
    """Read a publication of which everything can be shown to others; raises `ValueError`."""
    made = Publication.from_bytes(data)
    shown = {"parameters": made.parameters, "doc": made.doc}
    try:
        bodies.parse_json(json.dumps([shown, made.bundle_name, made.versions]).encode())
    except RecursionError:
        raise ValueError("its parameters are nested too deeply") from None
    for name, value in shown.items():
        check(FUNCTION["properties"][name], value, f"the publication's {name}")
    return made


def _unknown(name: str) -> Problem:
    return Problem("not-found", f"no function {name} is published; GET /v1/functions lists them")


def _one_call(body: dict[str, Any]) -> list[Any]:
    return [body.get("args", []), body.get("kwargs", {})]


def _chunks(calls: Sequence[list[Any]]) -> list[tuple[int, int, bytes]]:
    """Calls as chunks of their JSON."""
    chunks, start, texts, size_bytes = [], 0, list[bytes](), 0
    for place, call in enumerate(calls):
        text = json.dumps(call, separators=(",", ":")).encode()
        if texts and (size_bytes + len(text) > CHUNK_BYTES or len(texts) >= CHUNK_TASKS):
            chunks.append((start, place, byte_columns.write(texts)))
            start, texts, size_bytes = place, [], 0
        texts.append(text)
        size_bytes += len(text)
    chunks.append((start, len(calls), byte_columns.write(texts)))
    return chunks


def _told(outcome: TaskOutcome) -> dict[str, Any]:
    """What came of a task: a result, or how it is to be had, or a failure."""
    if outcome.result is not None:
        found = read_result(outcome.result)
        if not found.is_json:
            return {"elsewhere": f"JSON cannot carry it: {found.reason:.600}; …/result gives the pickle"}
        if len(found.data) > SHOWN_BYTES:
            return {"elsewhere": f"it has {len(found.data)} bytes; …/result gives it"}
        try:
            return {"result": bodies.parse_json(found.data)}
        except ValueError as error:
            return {"elsewhere": f"it is not the JSON that it should be: {error!s:.600}; …/result gives it"}
    failure = dict(outcome.failure or {})
    attempts, output = failure.pop("attempt", 1), failure.pop("output", "")
    return {"failure": failure, "attempts": attempts, "logs": output}


def _place(row: Published) -> str:
    return f"{row.name}:{row.version}"


def _minor(row: Published) -> str:
    return ".".join(row.header["versions"][1].split(".")[:2])


def _function(row: Published) -> dict[str, Any]:
    return {
        "name": row.name,
        "version": row.version,
        "owner": row.owner,
        "digest": row.digest.hex(),
        "python": row.header["versions"][1],
        "parameters": row.header["parameters"],
        "doc": row.header["doc"],
        "size_bytes": row.size_bytes,
        "published_at": row.published_at,
        "used_at": row.used_at,
        "uses": row.uses,
    }
