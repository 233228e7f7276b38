"""Ways to the scheduler: with which secret a gateway connects as whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distcomp import transport
from distcomp.auth import ClientHandshake
from distcomp.config import parse_address
from distcomp.errors import ConfigError, ConnectError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from distcomp.access import Access, SchedulerAccess
    from distcomp.gateway_settings import GatewaySettings
    from distcomp.transport import Connection


class Doors:
    """The access that a gateway has: what join strings say, or all that a scheduler on this host knows.

    Args:
        joined: from join strings or access files, of one cluster.
        scheduler: the secrets of a scheduler on this host; owners that are added later count at once.
        auth: whether that scheduler asks for secrets.

    Attributes:
        cluster_name: of the cluster.
        cluster_id: the same, as 16 bytes.

    Raises:
        ConfigError: there is none, or they are of several clusters.
    """

    def __init__(
        self, joined: Iterable[Access] = (), scheduler: SchedulerAccess | None = None, *, auth: bool = True
    ) -> None:
        every = list(joined)
        self._joined = {(access.role, access.owner): access for access in every}
        self._scheduler = scheduler
        self._auth = auth
        clusters = {(access.cluster_name, bytes(access.cluster_id)) for access in every}
        if scheduler is not None:
            clusters.add((scheduler.cluster_name, bytes(scheduler.cluster_id)))
        if len(clusters) != 1:
            names = ", ".join(sorted(name for name, _ in clusters))
            raise ConfigError(f"a gateway belongs to one cluster, not to {names or 'none'}")
        ((self.cluster_name, self.cluster_id),) = clusters

    def find(self, role: str, owner: str) -> Access:
        """The access for a role and owner.

        Raises:
            ConfigError: there is none.
        """
        access = self._joined.get((role, owner))
        if access is None and self._scheduler is not None and self._scheduler.lookup(role, owner):
            access = self._scheduler.issue(role, owner, self._scheduler.addresses, auth=self._auth)
        if access is None:
            raise ConfigError(
                f"this gateway has no access as {role} for {owner!r}: on the scheduler's host "
                f"`distcomp access create --owner {owner}` makes it; one that runs elsewhere needs the join "
                "string, too"
            )
        return access

    def observer(self) -> Access:
        """What to look at the cluster with: as an observer if possible, else as some client.

        Raises:
            ConfigError: there is neither.
        """
        if self._scheduler is not None:
            return self.find("observer", self._scheduler.owner)
        for role in ("observer", "client"):
            for access in self._joined.values():
                if access.role == role:
                    return access
        raise ConfigError("a gateway needs a join string for the role client, or observer, or both")

    def admin(self) -> Access:
        """What to change the cluster with.

        Raises:
            ConfigError: there is nothing.
        """
        if self._scheduler is not None:
            return self.find("admin", self._scheduler.owner)
        for (role, _), access in self._joined.items():
            if role == "admin":
                return access
        raise ConfigError(
            "this gateway has no access as an admin: start it with the join string for that role, too, which "
            "`distcomp access show --role admin` prints on the scheduler's host"
        )


async def dial(
    access: Access,
    settings: GatewaySettings,
    make: Callable[[ClientHandshake], Connection],
) -> Connection:
    """Connect to an access's scheduler, at its addresses in order; raises the last one's `ConnectError`."""
    problem: ConnectError = UnreachableError("no address of the scheduler is known")

    def made() -> Connection:
        return make(ClientHandshake(access.role, access.owner, access.cluster_id, access.secret))

    for text in access.addresses:
        try:
            return await transport.dial(parse_address(text), made, timeout_s=settings.connect_timeout_s)
        except ConnectError as error:  # noqa: PERF203 - few rounds, each of which may fail
            problem = error
    raise problem
