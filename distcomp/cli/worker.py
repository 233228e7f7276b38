"""`distcomp-worker`: joins a cluster and runs its tasks until it is stopped."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING

from distcomp import transport
from distcomp.access import Access
from distcomp.cli import logs
from distcomp.cli.embedded import watch_owner
from distcomp.cli.flags import EXIT_ENDED, Flags, run, secret_text, slot_count
from distcomp.cli.reach import accesses, find_running
from distcomp.cli.settings_flags import add_settings, settings_from
from distcomp.cli.stopping import Stops
from distcomp.cluster import usable_cores
from distcomp.config import WorkerSettings, as_name, check_name
from distcomp.errors import ConfigError
from distcomp.worker import WorkerProgram

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

JOIN_VARIABLE = "DISTCOMP_JOIN"
EXAMPLES = """\
  distcomp-worker                    on the scheduler's host, as the same user
  distcomp-worker --join -           paste the join string for the role worker
  distcomp-worker --join FILE --slots 8 --name left
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    parser = Flags(
        "distcomp-worker",
        "Join a cluster and run its tasks. SIGTERM or Ctrl-C drains: what has not begun goes back, what\n"
        "runs may finish within --grace-s; the same again stops at once. A scheduler that cannot be\n"
        "reached is tried again for ever; one that refuses this worker ends it.",
        EXAMPLES,
    )
    parser.value(
        "--join",
        "where the join string is: - for a line on standard input, or a file; the variable may hold the "
        "string itself; without it, the access file of this user's scheduler",
        metavar="-|FILE",
        is_secret=True,
    )
    parser.value("--slots", "tasks at a time; auto: as many as cores may be used", parse=slot_count)
    parser.value("--name", "what people call this worker; the host's name if not given")
    parser.switch("--owned", "end at once when standard input ends, for programs that start workers")
    add_settings(parser, WorkerSettings, first=("grace_s",))
    parser.common(log_level="info")
    return run(parser, _work, argv)


def _work(flags: argparse.Namespace) -> int:
    text = secret_text(flags.join, JOIN_VARIABLE, os.environ)
    os.environ.pop(JOIN_VARIABLE, None)  # no task shall find it in its environment
    name = check_name("a worker", flags.name or as_name(socket.gethostname()))
    loop = transport.new_event_loop()
    try:
        program = WorkerProgram(
            settings_from(flags, WorkerSettings),
            _joined(text) if text else _own_access(),
            name=name,
            slots=flags.slots or usable_cores(),
            log=logs.log,
        )
        return loop.run_until_complete(_run(program, owned=flags.owned))
    finally:
        loop.close()


def _joined(text: str) -> Access:
    access = Access.parse(text)
    if access.role != "worker":
        raise ConfigError(
            f"this join string is for the role {access.role}, and a worker needs one for the role worker: "
            "`distcomp access show --role worker` prints it on the scheduler's host"
        )
    return access


def _own_access() -> Access:
    """The access to this user's scheduler: the only one, running or not yet, or the one that is running."""
    known = accesses(("worker",))
    return known[0] if len(known) == 1 else find_running(("worker",))


async def _run(program: WorkerProgram, *, owned: bool) -> int:
    Stops(lambda at_once: program.request_stop() if at_once else program.request_drain())
    if owned:
        watch_owner(os.getppid(), program.request_stop)
    logs.log("info", "worker ended", reason=await program.run())
    return EXIT_ENDED


if __name__ == "__main__":
    sys.exit(main())
