"""Operations that change workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from distcomp.gateway.problems import Problem
from distcomp.ids import WorkerId
from distcomp.protocol import ResizeWorker
from distcomp.questions import ask

if TYPE_CHECKING:
    from distcomp.gateway.calls import Call
    from distcomp.gateway.doors import Doors

PROBLEMS = {"unknown": "not-found", "away": "conflict"}
"""What kind of problem it is when a worker cannot be asked."""


class WorkerRoutes:
    """Operations that change workers.

    Args:
        doors: the ways to the scheduler; only an admin's will do.
    """

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    async def resize_worker(self, call: Call) -> Response:
        """Ask for another number of slots."""
        worker, slots = call.values["worker"], int(call.body["slots"])
        wish = ResizeWorker(0, WorkerId(bytes.fromhex(worker)), slots)
        (answer,) = await ask(self._doors.admin(), wish)
        if answer.code in PROBLEMS:
            raise Problem(PROBLEMS[answer.code], f"{answer.text}; GET /v1/workers lists them")
        return JSONResponse({"id": worker, "slots": slots}, 202)
