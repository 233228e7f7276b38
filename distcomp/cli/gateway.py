"""`distcomp-gateway`: the cluster over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import sys
from typing import TYPE_CHECKING

from distcomp import listening, transport
from distcomp.access import Access, SchedulerAccess, saved, write_private
from distcomp.cli import logs
from distcomp.cli.embedded import watch_owner
from distcomp.cli.flags import EXIT_ENDED, EXIT_FAILED, Flags, run, secret_text
from distcomp.cli.gateway_extra import check_extra
from distcomp.cli.reach import find_running, owner_of
from distcomp.cli.settings_flags import add_settings, settings_from
from distcomp.cli.stopping import Stops
from distcomp.config import state_folder, user_folder
from distcomp.errors import ConfigError
from distcomp.gateway_settings import GatewaySettings, gateway_file, gateway_folder

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from distcomp.gateway.doors import Doors
    from distcomp.gateway.serving import Serving

JOIN_VARIABLE = "DISTCOMP_JOIN"
PREFIX = "gateway_"
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
EXAMPLES = """\
  distcomp-gateway                       on the scheduler's host, as the same user
  distcomp-gateway --join - --port 8077  paste join strings, one a line, for the roles client and observer
  distcomp-gateway --host 0.0.0.0 --tls-certificate cert.pem --tls-key key.pem --names a.example
  distcomp token create --scope submit   a token to use it with
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    parser = Flags(
        "distcomp-gateway",
        "Offer a cluster over HTTP: to Python clients as http://host:port, to everybody else by published\n"
        "functions; /docs describes it. Whoever asks needs a token. SIGTERM or Ctrl-C stops in order.",
        EXAMPLES,
    )
    parser.value(
        "--join",
        "where join strings are, one a line: - for standard input, or a file; the variable may hold one "
        "itself; without it, what this user's folder has",
        metavar="-|FILE",
        is_secret=True,
    )
    parser.value("--name", "the scheduler's name, if several have run on this host")
    parser.switch("--behind-proxy", "listen beyond loopback without TLS, as a proxy of yours provides it")
    parser.switch("--owned", "end at once when standard input ends, for programs that start gateways")
    parser.switch("--no-auth", "the scheduler lets everybody on this host in")
    first = ("gateway_port", "gateway_host", "tls_certificate", "tls_key", "root_path", "gateway_names")
    add_settings(parser, GatewaySettings, first=first, prefix=PREFIX)
    parser.common(log_level="info")
    return run(parser, _serve, argv)


def _serve(flags: argparse.Namespace) -> int:
    check_extra()
    settings = settings_from(flags, GatewaySettings, PREFIX, behind_proxy=flags.behind_proxy)
    _check(settings)
    doors = _doors(flags)
    loop = transport.new_event_loop()
    try:
        return loop.run_until_complete(_run(flags, settings, doors))
    finally:
        loop.close()


async def _run(flags: argparse.Namespace, settings: GatewaySettings, doors: Doors) -> int:
    serving, url, token = _make(settings, doors)
    stops = Stops()
    if flags.owned:
        watch_owner(os.getppid(), stops.ask_now)
    await serving.start()
    own = gateway_file(doors.cluster_name, doors.cluster_id)
    told = {"address": url, "token": token, "pid": os.getpid(), "cluster": doors.cluster_name}
    write_private(own, json.dumps({**told, "cluster_id": doors.cluster_id.hex()}) + "\n")
    print(f"gateway of cluster {doors.cluster_name} listens at {url}", flush=True)
    ended = asyncio.ensure_future(serving.wait_ended())
    asked = asyncio.ensure_future(stops.asked.wait())
    try:
        await asyncio.wait([ended, asked], return_when=asyncio.FIRST_COMPLETED)
    finally:
        own.unlink(missing_ok=True)
        asked.cancel()
        await serving.stop()
    if stops.asked.is_set():
        return EXIT_ENDED
    logs.log("error", "the gateway ended by itself")
    return EXIT_FAILED


def _make(settings: GatewaySettings, doors: Doors) -> tuple[Serving, str, str]:
    """Everything that is served, where, and a token for this user."""
    from distcomp.gateway.app import Gateway  # noqa: PLC0415 - needs the extra, see `check_extra`
    from distcomp.gateway.serving import (  # noqa: PLC0415 - the same
        SPARE_FILES,
        Serving,
        allow_files,
    )
    from distcomp.gateway.shelf import TaskShelf  # noqa: PLC0415 - the same
    from distcomp.gateway.tokens import TokenFile  # noqa: PLC0415 - the same

    wanted = 2 * settings.max_http_connections + SPARE_FILES
    files = allow_files(wanted)
    if 0 <= files < wanted:
        logs.log("warning", "fewer files may be open than connections need", files=files, wanted=wanted)
    sockets = listening.bind(settings.gateway_host, settings.gateway_port)
    place = gateway_folder(doors.cluster_name, doors.cluster_id, state_folder())
    try:
        shelf = TaskShelf(place / "gateway.db", settings.max_kept_bytes)
    except BaseException:
        for each in sockets:
            each.close()
        raise
    tokens = TokenFile(gateway_folder(doors.cluster_name, doors.cluster_id))
    bound = [each.getsockname()[0] for each in sockets]
    gateway = Gateway(settings, doors, tokens, shelf, bound)
    url = _url(settings, *sockets[0].getsockname()[:2])
    return Serving(gateway, settings, sockets), url, tokens.lend(doors.observer().owner)


def _url(settings: GatewaySettings, host: str, port: int) -> str:
    """The address by which this host reaches the gateway."""
    scheme = "https" if settings.tls_certificate else "http"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read from the socket
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{port}{settings.root_path.rstrip('/')}"


def _check(settings: GatewaySettings) -> None:
    """Refuse settings that cannot be meant, before anything is opened."""
    from distcomp.gateway.guard import Names, is_exposed  # noqa: PLC0415 - needs the extra, see `check_extra`

    Names(settings)
    root = settings.root_path.rstrip("/")
    if root and (not _PATH.fullmatch(root) or {".", ".."}.intersection(root.split("/"))):
        raise ConfigError(f"--root-path is a path like /cluster, and not {settings.root_path!r:.200}")
    if bool(settings.tls_certificate) != bool(settings.tls_key):
        raise ConfigError("TLS needs both --tls-certificate and --tls-key")
    if is_exposed(settings):
        raise ConfigError(
            f"others can reach {settings.gateway_host!r}, and nothing on the way there is encrypted: give "
            "--tls-certificate and --tls-key, or say --behind-proxy if a proxy of yours does that"
        )
    if settings.tls_certificate:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(settings.tls_certificate, settings.tls_key, password="")
        except OSError as error:
            raise ConfigError(
                "the files of --tls-certificate and --tls-key cannot be used: "
                f"{getattr(error, 'reason', None) or error.strerror or error}; they have to be PEM, belong "
                "together, and the key has no password"
            ) from None


def _doors(flags: argparse.Namespace) -> Doors:
    """The ways to the scheduler: what was handed over, else what this user's folder has."""
    from distcomp.gateway.doors import Doors  # noqa: PLC0415 - needs the extra, see `check_extra`

    if flags.join == "-":
        texts = [line for line in map(str.strip, sys.stdin) if line]
    else:
        texts = (secret_text(flags.join, JOIN_VARIABLE, os.environ) or "").split()
    if texts:
        return Doors(map(Access.parse, texts))
    if flags.name is not None:
        return Doors((), _known_here(flags.name), auth=not flags.no_auth)
    found = find_running(("client",))
    if _path_of(found.cluster_name).exists():
        scheduler = _known_here(found.cluster_name)
        if scheduler.cluster_id == found.cluster_id:
            return Doors((), scheduler, auth=found.secret is not None)
    every = [Access.read(path) for path in saved()]
    return Doors(access for access in every if access.cluster_id == found.cluster_id)


def _known_here(name: str) -> SchedulerAccess:
    if not _path_of(name).exists():
        raise ConfigError(f"no scheduler named {name!r} of this user has run on this host")
    return SchedulerAccess.open(name, owner=owner_of(name))


def _path_of(name: str) -> Path:
    return user_folder() / "schedulers" / name / "cluster.json"


if __name__ == "__main__":
    sys.exit(main())
