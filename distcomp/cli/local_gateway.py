"""A gateway beside the scheduler (`distcomp-scheduler --gateway`): a child process, started again if it dies.

State law: from `start` to `stop` there is a process, or a wait for the next one; after `stop` there is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from asyncio.subprocess import PIPE, Process
from typing import TYPE_CHECKING

from distcomp.cli import logs
from distcomp.cluster import program_command

if TYPE_CHECKING:
    from collections.abc import Sequence

BACKOFF_FIRST_S, BACKOFF_MOST_S = 0.2, 10.0
STEADY_S = 30.0
"""After so long a life the next start comes soon again."""
GRACE_S = 5.0


class LocalGateway:
    """The gateway process of a scheduler program, and whoever watches it.

    Args:
        name: the scheduler's.
        port: to listen at for HTTP.
        more: further flags, e.g. for its log.
    """

    def __init__(self, name: str, port: int, more: Sequence[str]) -> None:
        flags = ("--owned", "--name", name, "--port", str(port), *more)
        self._command = program_command("distcomp.cli.gateway", *flags)
        self._process: Process | None = None
        self._watch: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start it, and again whenever it ends."""
        self._watch = asyncio.ensure_future(self._keep_up())

    async def stop(self) -> None:
        """End it in order, or by force if that takes too long."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), GRACE_S)
        except asyncio.TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _keep_up(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        while True:
            began_at = time.monotonic()
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=PIPE, start_new_session=True
            )
            code = await self._process.wait()
            if time.monotonic() - began_at > STEADY_S:
                backoff_s = BACKOFF_FIRST_S
            logs.log("error", "the gateway ended and is started again", code=code, after_s=backoff_s)
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, BACKOFF_MOST_S)
