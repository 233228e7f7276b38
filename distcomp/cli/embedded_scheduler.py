"""The scheduler of an embedded cluster; takes over the socket that its owner listens at."""

from __future__ import annotations

import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distcomp.access import SchedulerAccess
from distcomp.cli import logs
from distcomp.cli.embedded import run, say_ready, watch_owner
from distcomp.config import JournalSettings, SchedulerSettings
from distcomp.errors import JournalError
from distcomp.ids import ClusterId
from distcomp.scheduler import SchedulerProgram
from distcomp.settings_file import surroundings

if TYPE_CHECKING:
    from distcomp.journal import Journal


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
    try:
        journal = _journal(settings["journal"], access.cluster_id)
        wanted = SchedulerSettings.from_environment(surroundings())
        if journal is not None:  # the workers of before have ended with their owner: nobody waits for them
            wanted = replace(wanted, restart_grace_s=0.0)
        program = SchedulerProgram(wanted, access, log=logs.log, journal=journal)
        await program.start([socket.socket(fileno=settings["listen_fd"])])
        watch_owner(settings["owner_pid"], lambda: program.request_stop(at_once=True))
        say_ready()
        await program.wait_closed()
    except JournalError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _journal(path: str | None, cluster: ClusterId) -> Journal | None:
    if path is None:
        return None
    from distcomp.journal import Journal  # noqa: PLC0415 - nobody else has to wait for it

    return Journal(Path(path), cluster, JournalSettings.from_environment(surroundings()))
