"""`distcomp-scheduler`: listens, prints join strings, and with `--local-slots` brings its own worker."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

from distcomp import listening, transport
from distcomp.access import Access, SchedulerAccess
from distcomp.cli import logs
from distcomp.cli.embedded import watch_owner
from distcomp.cli.flags import EXIT_ENDED, EXIT_FAILED, Flags, run, whole
from distcomp.cli.gateway_extra import check_extra
from distcomp.cli.local_gateway import LocalGateway
from distcomp.cli.local_worker import LocalWorker
from distcomp.cli.reach import is_running
from distcomp.cli.scheduler_journal import open_journal, told_of
from distcomp.cli.settings_flags import add_settings, settings_from
from distcomp.cli.stopping import Stops
from distcomp.cli.table import RED, is_coloured, paint
from distcomp.config import SchedulerSettings, WorkerSettings, parse_address
from distcomp.errors import ConfigError
from distcomp.ids import ROLES
from distcomp.scheduler import SchedulerProgram, check_exposure
from distcomp.settings_file import surroundings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

EXAMPLES = """\
  distcomp-scheduler                                 for programs of this host
  distcomp-scheduler --local-slots auto              the same, with a worker
  distcomp-scheduler --local-slots auto --gateway 8077
                                                     the same, and over HTTP: all in one
  distcomp-scheduler --host 0.0.0.0 --advertise a.example --allow-plaintext
                                                     for other hosts, on a network that you trust
  distcomp-scheduler --name lab --journal /disk/lab.db
                                                     started so again, it goes on with what it had
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    parser = Flags(
        "distcomp-scheduler",
        "Keep a cluster together: clients hand it tasks, workers take them. Prints where it listens and a\n"
        "join string for each role; whoever has one can use the cluster. SIGTERM or Ctrl-C stops in order,\n"
        "the same again at once. What it accepts is in its journal: however it ends, start it again in the\n"
        "same way, and all goes on.",
        EXAMPLES,
    )
    parser.value("--name", "names the cluster, and its secrets on this host; the port if not given")
    parser.switch("--no-auth", "let everybody on this host in; works on loopback only")
    parser.switch("--allow-plaintext", "listen beyond loopback although nothing is encrypted")
    parser.value(
        "--local-slots",
        "start a worker of so many slots too; auto: as many as cores may be used",
        parse=_local_slots,
        metavar="N|auto",
    )
    parser.value(
        "--gateway",
        "offer the cluster over HTTP at this port too, by a program of its own",
        parse=whole(0, 65535),
        metavar="PORT",
    )
    parser.value(
        "--journal",
        "where to write down what must outlive the scheduler: a file on a local disk; off: a restart forgets "
        "all tasks; if not given, schedulers/NAME/journal.db in the state folder",
        metavar="PATH|off",
    )
    parser.switch("--fresh", "begin a new journal; an old one is renamed, never deleted, and not taken up")
    parser.value("--owner", "the user whose access files are written; the one who runs this if not given")
    parser.switch("--owned", "end at once when standard input ends, for programs that start schedulers")
    parser.switch("--quiet", "print no join strings")
    add_settings(parser, SchedulerSettings, first=("host", "port", "advertise"))
    parser.common(log_level="info")
    return run(parser, _serve, argv)


def _local_slots(text: str) -> str:
    return text if text == "auto" else str(whole(1, 4096)(text))


def _serve(flags: argparse.Namespace) -> int:
    settings = settings_from(
        flags, SchedulerSettings, auth=not flags.no_auth, allow_plaintext=flags.allow_plaintext
    )
    if flags.gateway is not None:
        check_extra()
    loop = transport.new_event_loop()
    try:
        return loop.run_until_complete(_run(flags, settings))
    finally:
        loop.close()


async def _run(flags: argparse.Namespace, settings: SchedulerSettings) -> int:
    check_exposure(settings, [settings.host])
    sockets = listening.bind(settings.host, settings.port, backlog=settings.listen_backlog)
    try:
        access = _open_access(flags, sockets[0].getsockname()[1])
        journal = open_journal(flags.journal, access, fresh=flags.fresh)
        program = SchedulerProgram(settings, access, log=logs.log, journal=journal)
    except BaseException:
        for each in sockets:
            each.close()
        raise
    stops = Stops()
    if flags.owned:
        watch_owner(os.getppid(), stops.ask_now)
    worker = gateway = None
    await program.start(sockets)
    try:
        access.publish(program.addresses, auth=settings.auth)
        _announce(access, auth=settings.auth, quiet=flags.quiet)
        print(told_of(program.memory), flush=True)
        if flags.local_slots:
            worker = await LocalWorker.start(
                _issue(access, "worker", auth=settings.auth).to_join(), flags.local_slots, _log_flags(flags)
            )
        if flags.gateway is not None:
            gateway = LocalGateway(access.cluster_name, flags.gateway, _gateway_flags(flags))
            gateway.start()
        return await _until_stopped(stops, worker, program)
    finally:
        access.withdraw()
        if gateway is not None:
            await gateway.stop()
        if worker is not None:
            await worker.stop(WorkerSettings.from_environment(surroundings()).grace_s, stops.asked_twice)
        await _stop(stops, program)


def _open_access(flags: argparse.Namespace, port: int) -> SchedulerAccess:
    """The secrets of the scheduler's name, unless another one of that name is running."""
    name = flags.name or str(port)
    access = SchedulerAccess.open(name, owner=flags.owner)
    before = [each for each in access.addresses if parse_address(each).port != port]
    if before and is_running(access.issue("client", access.owner, before)):
        raise ConfigError(f"a scheduler named {name} runs already, at {before[0]}: choose another --name")
    return access


def _issue(access: SchedulerAccess, role: str, *, auth: bool) -> Access:
    return access.issue(role, access.owner, access.addresses, auth=auth)


def _announce(access: SchedulerAccess, *, auth: bool, quiet: bool) -> None:
    """Print, on purpose to standard output, where others find this scheduler and what lets them in."""
    print(f"cluster {access.cluster_name} listens at {', '.join(access.addresses)}")
    if not auth:
        print(paint("AUTH OFF: every program of this host can run code here", RED, coloured=is_coloured()))
    if not quiet:
        width = max(map(len, ROLES))
        for role in ROLES:
            print(f"{role:{width}}  {_issue(access, role, auth=auth).to_join()}")
    sys.stdout.flush()


def _log_flags(flags: argparse.Namespace) -> list[str]:
    """The log flags of a local worker: the same as ours."""
    file = [] if flags.log_file is None else ["--log-file", flags.log_file]
    return ["--log-level", flags.log_level, "--log-format", flags.log_format, *file]


async def _stop(stops: Stops, program: SchedulerProgram) -> None:
    """Stop in order, or at once as soon as that is asked for."""
    program.request_stop(at_once=stops.asked_twice.is_set())
    closing = asyncio.ensure_future(program.wait_closed())
    asked_again = asyncio.ensure_future(stops.asked_twice.wait())
    await asyncio.wait((closing, asked_again), return_when=asyncio.FIRST_COMPLETED)
    asked_again.cancel()
    if not closing.done():
        program.request_stop(at_once=True)
    await closing


def _gateway_flags(flags: argparse.Namespace) -> list[str]:
    """The flags of a gateway of ours; what else it has to know comes by variables and files."""
    return [*_log_flags(flags), *(["--no-auth"] if flags.no_auth else [])]


async def _until_stopped(stops: Stops, worker: LocalWorker | None, program: SchedulerProgram) -> int:
    """Wait for a signal, or for the end of what this program is not whole without: journal, local worker."""
    waiting: list[asyncio.Future[Any]] = [asyncio.ensure_future(stops.asked.wait())]
    waiting.append(asyncio.ensure_future(program.wait_stopped()))
    if worker is not None:
        waiting.append(asyncio.ensure_future(worker.wait_ended()))
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()
    if stops.asked.is_set():
        return EXIT_ENDED
    if program.memory is not None and program.memory.failure is not None:
        return EXIT_FAILED
    logs.log("error", "the local worker ended by itself, and the scheduler with it")
    return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
