"""Sockets at which peers are taken in."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Any

from distcomp.config import Address
from distcomp.errors import AddressTakenError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BACKLOG = 1024
"""Peers that may wait to be taken in, unless a setting says otherwise."""


def bind(host: str, port: int, *, backlog: int = BACKLOG) -> list[socket.socket]:
    """Sockets bound to `port` at every address that `host` stands for; 0 takes one free port for all.

    Peers may come from now on, and wait until they are taken in.

    Args:
        host: a name or an address; empty for all addresses.
        port: 0 takes a free one.
        backlog: how many may wait. The kernel drops what comes beyond that, and its peer tries again after a
            second at the earliest.

    Raises:
        AddressTakenError: another program has that port.
        ConfigError: the host is unknown, or the port not allowed.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ConfigError(f"cannot listen at {host!r}: {error.strerror}") from None
    bound: list[socket.socket] = []
    try:
        for family, _, _, _, where in dict.fromkeys(found):
            bound.append(_bind_one(family, where, bound, backlog))
    except OSError as error:
        for each in bound:
            each.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressTakenError(
                f"another program listens at port {port} of {host}; choose another --port, or stop it"
            ) from None
        raise ConfigError(f"cannot listen at {host}, port {port}: {error.strerror}") from None
    return bound


def _bind_one(family: int, where: Any, before: Sequence[socket.socket], backlog: int) -> socket.socket:
    if before:
        where = (where[0], before[0].getsockname()[1], *where[2:])
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(where)
        made.listen(backlog)
    except OSError:
        made.close()
        raise
    return made


class Listener:
    """Sockets that take in connections, until `close`. `addresses` is where."""

    def __init__(self, servers: Sequence[asyncio.AbstractServer], addresses: Sequence[Address]) -> None:
        self.addresses = tuple(addresses)
        self._servers = servers

    def close(self) -> None:
        """Take in no more; connections that stand are left alone."""
        for server in self._servers:
            server.close()


async def listen(
    sockets: Sequence[socket.socket], make: Callable[[], asyncio.BaseProtocol], *, backlog: int = BACKLOG
) -> Listener:
    """Take in connections at bound sockets, which belong to the listener from now on.

    Args:
        sockets: from `bind`, or inherited.
        make: makes a connection, with a new handshake, for each peer.
        backlog: how many may wait to be taken in.
    """
    loop = asyncio.get_running_loop()
    addresses = [Address(*each.getsockname()[:2]) for each in sockets]
    servers = [await loop.create_server(make, sock=each, backlog=backlog) for each in sockets]
    return Listener(servers, addresses)
