"""Sockets at which peers are taken in: where, how many may wait, and what is told if there can be none."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack

import pytest

from distcomp import listening
from distcomp.errors import AddressTakenError, ConfigError

DEADLINE_S = 60.0


def test_a_taken_port_is_told_as_such() -> None:
    (first,) = listening.bind("127.0.0.1", 0)
    with first, pytest.raises(AddressTakenError, match="another program listens at port"):
        listening.bind("127.0.0.1", first.getsockname()[1])


def test_peers_may_come_before_they_are_taken_in() -> None:
    (bound,) = listening.bind("127.0.0.1", 0)
    with ExitStack() as stack:
        stack.enter_context(bound)
        peers = []
        for _ in range(16):
            peers.append(stack.enter_context(socket.create_connection(bound.getsockname(), DEADLINE_S)))
            assert peers[-1].getpeername() == bound.getsockname()
        if hasattr(socket, "TCP_INFO"):  # the kernel drops what does not fit, and tries again a second later
            assert [tries_again(peer) for peer in peers] == [0] * 16


def tries_again(peer: socket.socket) -> int:
    """How many packets of a connection were sent again, its first one among them."""
    told = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int.from_bytes(told[100:104], sys.byteorder)


def test_addresses_that_cannot_be_listened_at() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen at 'no\.such\.host\.invalid'"):
        listening.bind("no.such.host.invalid", 0)
    with pytest.raises(ConfigError, match=r"cannot listen at 192\.0\.2\.1"):
        listening.bind("192.0.2.1", 0)


def test_one_port_for_all_addresses_of_a_host() -> None:
    sockets = listening.bind("localhost", 0)
    try:
        assert len({each.getsockname()[1] for each in sockets}) == 1
    finally:
        for each in sockets:
            each.close()
