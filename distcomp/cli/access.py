"""`distcomp access`: join strings again, and for further owners, on the scheduler's host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distcomp.access import SchedulerAccess
from distcomp.cli.flags import EXIT_ENDED, Flags, one_of, run
from distcomp.cli.reach import is_running
from distcomp.config import parse_address, user_folder
from distcomp.errors import ConfigError
from distcomp.ids import ROLES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

ACTIONS = ("show", "create")
EXAMPLES = """\
  distcomp access show --role worker               the join string for another host's worker
  distcomp access create --owner bob               secrets for a further user, and his join string
  distcomp access show --role client --owner bob | ssh b.example distcomp join -
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Flags(
        "distcomp access",
        "Print a join string of a scheduler on this host. It holds a secret: whoever has it can run code.",
        EXAMPLES,
        arguments="{show|create}",
    )
    parser.add_argument("action", choices=ACTIONS, help="show a join string, or create an owner first")
    parser.value("--role", "what the join string allows", default="client", parse=one_of(*ROLES))
    parser.value("--owner", "the user it is for; the scheduler's own if not given")
    parser.value("--name", "the scheduler's name; the one that is running, or the only one, if not given")
    parser.value("--address", "put this address into it instead of those the scheduler last had")
    parser.common()
    return run(parser, _access, argv)


def _access(flags: argparse.Namespace) -> int:
    access = SchedulerAccess.open(_scheduler_name(flags.name))
    owner = flags.owner or access.owner
    if flags.action == "create":
        if owner in access.owners:
            raise ConfigError(f"{owner!r} has access already; `distcomp access show` prints the join string")
        access.add_owner(owner)
    addresses = (str(parse_address(flags.address)),) if flags.address else access.addresses
    print(access.issue(flags.role, owner, addresses).to_join())
    return EXIT_ENDED


def _scheduler_name(wanted: str | None) -> str:
    """The scheduler that is meant, among those with secrets in this user's folder."""
    folder = user_folder() / "schedulers"
    names = sorted(path.parent.name for path in folder.glob("*/cluster.json"))
    if wanted is not None:
        if wanted in names:
            return wanted
        raise ConfigError(f"no scheduler named {wanted!r} has run here; known: {', '.join(names) or 'none'}")
    if not names:
        raise ConfigError(f"no scheduler of this user has run here: {folder} has no secrets")
    running = names if len(names) == 1 else list(filter(_runs, names))
    if len(running) != 1:
        raise ConfigError(f"several schedulers have run here, say which by --name: {', '.join(names)}")
    return running[0]


def _runs(name: str) -> bool:
    access = SchedulerAccess.open(name)
    return bool(access.addresses) and is_running(access.issue("client", access.owner, access.addresses))
