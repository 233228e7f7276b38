"""`distcomp token`: who may use the gateways of a cluster, on the host of a gateway."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

from distcomp.access import Access, SchedulerAccess, read_private, saved
from distcomp.cli.flags import EXIT_ENDED, Flags, one_of, run
from distcomp.cli.reach import owner_of
from distcomp.config import user_folder
from distcomp.errors import ConfigError
from distcomp.gateway.tokens import SCOPES, BearerToken, TokenFile
from distcomp.gateway_settings import gateway_folder

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

ACTIONS = ("create", "list", "revoke")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
EXAMPLES = """\
  distcomp token create --scope submit --owner alice --expires 30d --name laptop
  distcomp token list
  distcomp token revoke laptop

scopes, each of which includes those before it:
  observe        see the cluster, the published functions, and the owner's tasks
  submit-named   have published functions run
  submit         publish functions, and be a Python client: run any code
  admin          see and cancel the tasks of all owners, withdraw all functions, resize workers
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Flags(
        "distcomp token",
        "Make, list and revoke tokens for the gateways of a cluster, on their host. A token is printed\n"
        "once; what is kept is a hash. A running gateway takes notice of changes.",
        EXAMPLES,
        arguments="{create|list|revoke} [ID|NAME]",
    )
    parser.add_argument("action", choices=ACTIONS, help="what to do")
    parser.add_argument("which", nargs="?", help="the id or name of tokens to revoke")
    parser.value("--scope", f"what the token is for: {', '.join(SCOPES)}", parse=one_of(*SCOPES))
    parser.value("--owner", "the user whose tasks it is for; the one who runs this if not given")
    parser.value("--expires", "how long it is valid, such as 12h or 30d; for ever if not given", parse=period)
    parser.value("--name", "what people call it")
    parser.value("--cluster", "the cluster's name or id, if several are known on this host")
    parser.common()
    return run(parser, _token, argv)


def _token(flags: argparse.Namespace) -> int:
    cluster, cluster_id = _cluster(flags.cluster)
    tokens = TokenFile(gateway_folder(cluster, cluster_id))
    if flags.action == "create":
        if flags.scope is None:
            raise ConfigError(f"say by --scope what the token is for: {', '.join(SCOPES)}")
        owner = _owner(flags.owner, cluster)
        _, text = tokens.create(
            scope=flags.scope, owner=owner, name=flags.name or "", expires_s=flags.expires or 0.0
        )
        print(text)
    elif flags.action == "revoke":
        if not flags.which:
            raise ConfigError("say which token: an id or a name; `distcomp token list` shows them")
        for token in tokens.revoke(flags.which):
            print(f"revoked {token.id} {token.name}")
    else:
        print(f"{'id':12}  {'scope':12}  {'owner':16}  {'expires':16}  name")
        for token in tokens.all():
            print(_line(token))
    return EXIT_ENDED


def _line(token: BearerToken) -> str:
    when = "never"
    if token.expires:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(token.expires))
    return f"{token.id:12}  {token.scope:12}  {token.owner:16}  {when:16}  {token.name}"


def period(text: str) -> float:
    """A period such as `30d`, `12h`, `90m` or `60s`, in seconds.

    Example:
        >>> period("2h")
        7200.0
    """
    fits = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    if not fits or not int(fits[1]):
        raise ValueError(f"{text!r} is not a period like 12h or 30d")
    return float(int(fits[1]) * UNITS[fits[2]])


def _owner(wanted: str | None, cluster: str) -> str:
    """The owner of a new token, known to the cluster's scheduler from now on if that is on this host."""
    owner = wanted or owner_of(cluster)
    if (user_folder() / "schedulers" / cluster / "cluster.json").exists():
        SchedulerAccess.open(cluster, owner=owner)
    return owner


def _cluster(wanted: str | None) -> tuple[str, bytes]:
    """The name and id of the cluster that is meant, among those that this user's folder knows."""
    every = _known()
    known = sorted((name, number) for name, number in every if wanted in (None, name, number))
    if len(known) == 1:
        return known[0][0], bytes.fromhex(known[0][1])
    if len(known) > 1:
        names = [name for name, _ in known]
        listed = ", ".join(name if names.count(name) == 1 else f"{number} ({name})" for name, number in known)
        raise ConfigError(f"several clusters are known here, say which by --cluster: {listed}")
    if every:
        listed = ", ".join(sorted({name for name, _ in every}))
        raise ConfigError(f"no cluster {wanted!r} is known here; known: {listed}")
    raise ConfigError("no cluster is known here: start distcomp-scheduler, or `distcomp join -`")


def _known() -> set[tuple[str, str]]:
    """Names and ids of clusters: of schedulers, of access files, and of gateways that run."""
    accesses = map(Access.read, saved())
    known = {(access.cluster_name, access.cluster_id.hex()) for access in accesses}
    for path in (user_folder() / "schedulers").glob("*/cluster.json"):
        known.add((path.parent.name, str(_fields(path)["cluster_id"])))
    for path in (user_folder() / "gateways").glob("*/gateway.json"):
        told = _fields(path)
        known.add((str(told["cluster"]), str(told["cluster_id"])))
    return known


def _fields(path: Path) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = json.loads(read_private(path))
        bytes.fromhex(fields["cluster_id"])
    except (ConfigError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be used: {error!s:.200}") from None
    return fields
