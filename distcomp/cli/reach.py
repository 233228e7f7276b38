"""Which cluster a command means: a join string, an address, or the one running scheduler of this user."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from distcomp.access import Access, saved, this_user
from distcomp.config import parse_address, user_folder
from distcomp.discovery import probe
from distcomp.errors import AmbiguousClusterError, ConfigError, ConnectError, UnreachableError
from distcomp.web_address import is_web, parse_web_address

if TYPE_CHECKING:
    from collections.abc import Sequence


class Reach(NamedTuple):
    """A scheduler to look at, and as whom. Without a cluster id any cluster will do."""

    role: str
    owner: str
    cluster_id: bytes | None
    secret: bytes | None
    addresses: tuple[str, ...]


def accesses(roles: Sequence[str]) -> list[Access]:
    """The saved access to each cluster, with the first of `roles` that there is.

    Raises:
        ConfigError: an access file cannot be used.
    """
    best: dict[bytes, Access] = {}
    for path in saved():
        access = Access.read(path)
        known = best.get(access.cluster_id)
        if access.role in roles and (known is None or roles.index(access.role) < roles.index(known.role)):
            best[access.cluster_id] = access
    return list(best.values())


def find_running(roles: Sequence[str]) -> Access:
    """The access to the one running scheduler that this user has access to.

    Args:
        roles: acceptable ones, the best first.

    Raises:
        UnreachableError: none is running.
        AmbiguousClusterError: several are.
    """
    known = accesses(roles)
    if not known:
        raise ConfigError(
            f"no access files for {' or '.join(roles)} in {user_folder()}: start distcomp-scheduler here, "
            "or save a join string with `distcomp join -`"
        )
    running = [access for access in known if is_running(access)]
    if not running:
        listed = ", ".join(f"{access.cluster_name} ({', '.join(access.addresses)})" for access in known)
        raise UnreachableError(f"no scheduler is running; nobody answers for {listed}")
    if len(running) > 1:
        listed = ", ".join(f"{access.cluster_name} ({access.addresses[0]})" for access in running)
        raise AmbiguousClusterError(f"several schedulers are running: {listed}; say which one is meant")
    return running[0]


def owner_of(cluster_name: str) -> str:
    """The owner that this user is to a cluster: as an access file says, else by its own name."""
    owners = [Access.read(path).owner for path in saved() if path.parent.name == cluster_name]
    return owners[0] if owners else this_user()


def watched(address: str | None, roles: Sequence[str]) -> Reach:
    """What an `--address` means, or, without one, the running scheduler.

    For an address that no access file names, the connection is tried without a secret; a gateway takes a
    token instead, and lets nobody be more than a client.
    """
    if address is None:
        found = find_running(roles)
        return Reach(found.role, found.owner, found.cluster_id, found.secret, found.addresses)
    if is_web(address):
        return Reach("client", this_user(), None, None, (str(parse_web_address(address)),))
    wanted = str(parse_address(address))
    for access in accesses(roles):
        if wanted in {str(parse_address(each)) for each in access.addresses}:
            return Reach(access.role, access.owner, access.cluster_id, access.secret, (wanted,))
    return Reach(roles[0], this_user(), None, None, (wanted,))


def is_running(access: Access) -> bool:
    """Whether the scheduler of `access` answers, and takes its secret."""
    try:
        probe(access)
    except ConnectError:
        return False
    return True
