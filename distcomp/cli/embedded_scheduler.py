"""The scheduler of an embedded cluster; takes over the socket that its owner listens at."""

from __future__ import annotations

import socket
from typing import Any

from distcomp.access import SchedulerAccess
from distcomp.cli import logs
from distcomp.cli.embedded import run, say_ready, watch_owner
from distcomp.config import SchedulerSettings
from distcomp.ids import ClusterId
from distcomp.scheduler import SchedulerProgram
from distcomp.settings_file import surroundings


def main() -> int:
    """Run until the owner is gone; returns the exit code."""
    return run(_serve)


async def _serve(settings: dict[str, Any]) -> int:
    owner = settings["owner"]
    access = SchedulerAccess(
        ClusterId(bytes.fromhex(settings["cluster_id"])),
        settings["cluster_name"],
        {(role, owner): bytes.fromhex(secret) for role, secret in settings["secrets"].items()},
        owner=owner,
    )
    program = SchedulerProgram(SchedulerSettings.from_environment(surroundings()), access, log=logs.log)
    await program.start([socket.socket(fileno=settings["listen_fd"])])
    watch_owner(settings["owner_pid"], lambda: program.request_stop(at_once=True))
    say_ready()
    await program.wait_closed()
    return 0
