"""`distcomp token`: who may use the gateways of a cluster, on the host of a gateway."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from distcomp.access import SchedulerAccess, saved
from distcomp.cli.flags import EXIT_ENDED, Flags, one_of, run
from distcomp.cli.reach import owner_of
from distcomp.config import user_folder
from distcomp.errors import ConfigError
from distcomp.gateway.tokens import SCOPES, BearerToken, TokenFile

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

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
    parser.value("--cluster", "the cluster's name, if several are known on this host")
    parser.common()
    return run(parser, _token, argv)


def _token(flags: argparse.Namespace) -> int:
    cluster = _cluster(flags.cluster)
    tokens = TokenFile(cluster)
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


def _cluster(wanted: str | None) -> str:
    """The cluster that is meant, among those that this user's folder knows."""
    known = {path.parent.name for path in saved()}
    known |= {path.parent.name for path in (user_folder() / "schedulers").glob("*/cluster.json")}
    if wanted is not None and wanted not in known:
        raise ConfigError(f"no cluster {wanted!r} is known here; known: {', '.join(sorted(known)) or 'none'}")
    if wanted is not None:
        return wanted
    if not known:
        raise ConfigError("no cluster is known here: start distcomp-scheduler, or `distcomp join -`")
    if len(known) > 1:
        raise ConfigError(
            f"several clusters are known here, say which by --cluster: {', '.join(sorted(known))}"
        )
    return known.pop()
