"""Which cluster a client uses.

An address names a scheduler (`tcp://`), a gateway (`http://`, `https://`, with a token) or this process
(`inline:`). In this order: the address it was given; in a task, the cluster that runs it;
`DISTCOMP_ADDRESS`; `address` in the project's or the user's `distcomp.toml`; the one running scheduler whose
access file is in the user's folder; an embedded cluster of its own. What was named is never replaced by
something else: an address that nobody answers at is an error.
"""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from distcomp import auth, config, inside, open_clients
from distcomp.access import Access, saved
from distcomp.cluster import EmbeddedCluster, user_name
from distcomp.errors import AmbiguousClusterError, ConfigError, ConnectError, UnreachableError, UsageError
from distcomp.relay import RelayHandshake, TunnelHandshake
from distcomp.settings_file import ADDRESS, surroundings
from distcomp.web_address import is_web, parse_web_address

if TYPE_CHECKING:
    from collections.abc import Iterable

    from distcomp.http_roads import Road
    from distcomp.inside import Door

PROBE_TIMEOUT_S = 10.0
"""Long, as tasks run somewhere else once a scheduler that is only slow is taken for gone."""
_READ_BYTES = 4096

_log = logging.getLogger("distcomp")


class Target(NamedTuple):
    """A scheduler, and what proves that we may use it.

    Attributes:
        how: which cluster that is and why it was chosen, in words.
        addresses: where it is, in order of trial.
        owner: for whom.
        cluster_id: which cluster has to answer; None takes any.
        secret: for the role of a client; None if there is no authentication.
        cluster: the embedded cluster, to be closed with its client.
        door: the way out of the slot process in which this is a task; None elsewhere.
        task: the run and index of that task.
        inline: there is none; the client's own threads run the tasks.
        road: the way to a gateway, which speaks with the scheduler in the client's place; None elsewhere.
    """

    how: str
    addresses: tuple[str, ...]
    owner: str
    cluster_id: bytes | None = None
    secret: bytes | None = None
    cluster: EmbeddedCluster | None = None
    door: Door | None = None
    task: tuple[int, int] = (0, -1)
    inline: bool = False
    road: Road | None = None

    @property
    def shares_path(self) -> bool:
        """Whether slots can import this process's local modules."""
        return self.inline or self.cluster is not None or (self.door is not None and self.door.shares_path)

    def handshake(self) -> auth.ClientHandshake | RelayHandshake | TunnelHandshake:
        """A new handshake for a connection to it."""
        if self.road is not None:
            return TunnelHandshake()
        if self.door is not None:
            return RelayHandshake()
        return auth.ClientHandshake("client", self.owner, self.cluster_id, self.secret)

    def connect(self) -> socket.socket:
        """A connection through the worker that runs this task, under way."""
        assert self.door is not None  # noqa: S101 - asked for in tasks only
        try:
            return self.door.connect(self.task)
        except OSError as error:
            raise UnreachableError(f"the worker that runs this task cannot be asked: {error}") from None

    def close(self) -> None:
        """End an embedded cluster."""
        if self.cluster is not None:
            self.cluster.close()

    def failure(self) -> str | None:
        """What ended an embedded cluster, if something did."""
        return None if self.cluster is None else self.cluster.failure()


def find(
    address: str | Access | None = None,
    slots: int | None = None,
    token: str | None = None,
    journal: str | os.PathLike[str] | None = None,
) -> Target:
    """Decide which cluster to use; starts an embedded one if there is no other.

    Args:
        address: `tcp://host:port`, `http://host:port`, `inline:`, or an access; None leaves the choice to
            the surroundings.
        slots: how many slots an embedded cluster gets; as many as cores may be used if None.
        token: for a gateway; None looks for one in the surroundings.
        journal: where an embedded cluster writes down what must outlive it; None does without.

    Raises:
        TypeError: it is neither, or `slots` is no number.
        ValueError: `slots` is below 1.
        ConfigError: an address cannot be read, or a journal is wanted of what is no embedded cluster.
        AmbiguousClusterError: several schedulers run, and nothing says which.
        UsageError: a task started this program, which therefore cannot have a cluster of its own.
        EmbeddedClusterError: no embedded cluster can be started.
    """
    _check_wanted(address, slots, token, journal)
    if isinstance(address, Access):
        return _from_access(address, "as its access says")
    if address is not None:
        if not isinstance(address, str):
            raise TypeError(f"a cluster is named by text like 'tcp://host:7077', not by {address!r:.80}")
        return at(address, "as told", token)
    if inside.door is not None:
        return around(inside.door)
    if open_clients.around.client is not None:
        return at(config.INLINE, "around this task")
    told = surroundings()
    if told.get(ADDRESS.variable):
        return at(told[ADDRESS.variable], f"as {told.origin(ADDRESS.variable)} says", token)
    if os.environ.get(config.SLOT_VARIABLE):
        raise UsageError(
            "this program was started by a task, or forked from it: submit tasks in the task itself, "
            "or name a cluster by Client(address)"
        )
    return running() or embedded(slots, None if journal is None else Path(journal).expanduser())


def _check_wanted(
    address: str | Access | None,
    slots: int | None,
    token: str | None,
    journal: str | os.PathLike[str] | None,
) -> None:
    """Refuse what cannot go together."""
    if slots is not None and slots < 1:
        raise ValueError(f"an embedded cluster needs 1 or more slots, not {slots}")
    if token is not None and (isinstance(address, Access) or (address is None and inside.door is not None)):
        raise ConfigError("a token is for a gateway, and no gateway is meant here")
    if journal is not None and address is not None:
        raise ConfigError("a journal is for an embedded cluster; the scheduler at an address has its own")


def at(address: str, why: str, token: str | None = None) -> Target:
    """What is at an address: this process, a gateway, or a scheduler, with the access file that names it."""
    if is_web(address):
        from distcomp.gateway_token import token_for  # noqa: PLC0415 - nobody else has to pay for it
        from distcomp.http_roads import Road  # noqa: PLC0415 - the same

        web = parse_web_address(address)
        road = Road(web, token_for(web, token))
        return Target(f"the cluster behind {road}, {why}", (str(web),), "", road=road)
    if token is not None:
        raise ConfigError(f"a token is for a gateway, like http://host:8077; {address!r:.80} is none")
    if address.strip() == config.INLINE:
        return Target(f"this process for its tasks, {why}", (), config.as_name(user_name()), inline=True)
    wanted = config.parse_address(address)
    found = [
        (access, path)
        for access, path in _client_accesses(saved())
        if wanted in {config.parse_address(each) for each in access.addresses}
    ]
    chosen = _alive(found) if len(found) > 1 else [access for access, _ in found]
    if chosen:
        return _from_access(chosen[0], why)._replace(addresses=(str(wanted),))
    return Target(f"the cluster at {wanted}, {why}", (str(wanted),), config.as_name(user_name()))


def around(door: Door) -> Target:
    """The cluster that runs the present task, reached through its worker."""
    return Target("the cluster that runs this task", (), "", door=door, task=door.task())


def running() -> Target | None:
    """The one scheduler that runs and that this user has access to; None if there is none."""
    alive = _alive(_client_accesses(saved()))
    if len(alive) > 1:
        lines = "".join(f"\n  {access.cluster_name} at {access.addresses[0]}" for access in alive)
        raise AmbiguousClusterError(
            f"{len(alive)} schedulers are running; name one by Client(address), distcomp.connect(address) "
            f"or DISTCOMP_ADDRESS:{lines}"
        )
    return _from_access(alive[0], "the one that is running") if alive else None


def embedded(slots: int | None = None, journal: Path | None = None) -> Target:
    """A cluster of our own on this host."""
    cluster = EmbeddedCluster.start(slots, journal)
    kept = "" if journal is None else f", with the journal {journal}"
    return Target(
        f"an embedded cluster of {cluster.slots} slots on this host, as there is no other{kept}",
        (cluster.address,),
        cluster.owner,
        cluster.cluster_id,
        cluster.client_secret,
        cluster,
    )


def _from_access(access: Access, why: str) -> Target:
    how = f"cluster {access.cluster_name} at {', '.join(access.addresses)}, {why}"
    return Target(how, access.addresses, access.owner, access.cluster_id, access.secret)


def _client_accesses(paths: Iterable[Path]) -> list[tuple[Access, Path]]:
    """The access files for clients, the newest first; one that cannot be read is said and skipped."""
    found: list[tuple[float, Access, Path]] = []
    for path in paths:
        try:
            access = Access.read(path)
            if access.role == "client" and access.addresses:
                found.append((path.stat().st_mtime, access, path))
        except (ConfigError, OSError) as error:  # noqa: PERF203 - each file may fail by itself
            _log.warning("skipped: %s", error)
    return [(access, path) for _, access, path in sorted(found, key=lambda each: -each[0])]


def _alive(accesses: Iterable[tuple[Access, Path]]) -> list[Access]:
    """Those whose scheduler answers and knows the secret, one for each cluster; others are said."""
    alive: dict[bytes, Access] = {}
    for access, path in accesses:
        try:
            if access.cluster_id not in alive:
                probe(access)
                alive[access.cluster_id] = access
        except ConnectError as error:  # noqa: PERF203 - each cluster may fail by itself
            _log.warning(
                "the access file of cluster %s is stale, skipped: %s; if it is gone for good, delete %s",
                access.cluster_name,
                error,
                path,
            )
    return list(alive.values())


def probe(access: Access, timeout_s: float = PROBE_TIMEOUT_S) -> None:
    """Shake hands with an access's scheduler, and leave.

    Raises:
        ConnectError: none of its addresses will do; the last one's error.
    """
    for place, address in enumerate(access.addresses):
        try:
            _probe_one(access, config.parse_address(address), timeout_s)
        except ConnectError:  # noqa: PERF203 - few rounds, each of which may fail
            if place == len(access.addresses) - 1:
                raise
        else:
            return


def _probe_one(access: Access, address: config.Address, timeout_s: float) -> None:
    shake = auth.ClientHandshake(access.role, access.owner, access.cluster_id, access.secret)
    try:
        with socket.create_connection(address, timeout_s) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(shake.greeting())
            while not shake.done:
                data = connection.recv(_READ_BYTES)
                if not data:
                    raise UnreachableError(f"{address} closed the connection during the handshake")
                connection.sendall(shake.receive(data))
    except ConnectError:
        raise
    except OSError as error:
        raise UnreachableError(f"{address} cannot be reached: {error}") from error
