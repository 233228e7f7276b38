"""A worker beside the scheduler (`distcomp-scheduler --local-slots`): a child process, ended with it."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from typing import TYPE_CHECKING

from distcomp.cluster import program_command

if TYPE_CHECKING:
    from collections.abc import Sequence

GRACE_EXTRA_S = 5.0
"""What a worker gets beyond its own grace to end in order."""


class LocalWorker:
    """The worker process of a scheduler program.

    Args:
        process: as `start` made it.
    """

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, join_string: str, slots: str, more: Sequence[str]) -> LocalWorker:
        """Start a worker by command line; the join string goes through its standard input.

        Args:
            join_string: for the role worker.
            slots: how many, or `auto`.
            more: further flags, e.g. for its log.
        """
        command = program_command(
            "distcomp.cli.worker", "--join", "-", "--owned", "--name", "local", "--slots", slots, *more
        )
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, start_new_session=True)
        assert process.stdin is not None  # noqa: S101 - it was asked for above
        process.stdin.write(join_string.encode() + b"\n")
        with suppress(ConnectionError):  # it has ended; `wait_ended` tells
            await process.stdin.drain()
        return cls(process)

    async def wait_ended(self) -> int:
        """Wait until the worker has ended; returns its exit code."""
        return await self._process.wait()

    async def stop(self, grace_s: float, at_once: asyncio.Event) -> None:
        """End it in order, or, if that takes too long or `at_once` is set, by force.

        Args:
            grace_s: how long it lets running tasks finish.
            at_once: waited for meanwhile.
        """
        if self._process.returncode is not None:
            return
        self._process.terminate()
        waiting = [asyncio.ensure_future(each) for each in (self._process.wait(), at_once.wait())]
        await asyncio.wait(waiting, timeout=grace_s + GRACE_EXTRA_S, return_when=asyncio.FIRST_COMPLETED)
        for each in waiting:
            each.cancel()
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
