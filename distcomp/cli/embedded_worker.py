"""The worker of an embedded cluster."""

from __future__ import annotations

from typing import Any

from distcomp.access import Access
from distcomp.cli import logs
from distcomp.cli.embedded import run, say_ready, watch_owner
from distcomp.config import WorkerSettings
from distcomp.settings_file import surroundings
from distcomp.worker import WorkerProgram


def main() -> int:
    """Run until the owner is gone; returns the exit code."""
    return run(_work)


async def _work(settings: dict[str, Any]) -> int:
    access = Access(
        role="worker",
        owner=settings["owner"],
        cluster_id=bytes.fromhex(settings["cluster_id"]),
        cluster_name=settings["cluster_name"],
        addresses=(settings["address"],),
        secret=bytes.fromhex(settings["secret"]),
    )
    program = WorkerProgram(
        WorkerSettings.from_environment(surroundings()),
        access,
        name="embedded",
        slots=settings["slots"],
        log=logs.log,
        on_registered=say_ready,
    )
    watch_owner(settings["owner_pid"], program.request_stop)
    await program.run()
    return 0
