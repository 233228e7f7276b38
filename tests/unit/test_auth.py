from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from distcomp import auth
from distcomp.auth import ClientHandshake, Identity, ServerHandshake
from distcomp.errors import (
    AuthenticationError,
    ConnectError,
    ForeignProtocolError,
    SchedulerBusyError,
    VersionMismatchError,
    WrongClusterError,
)
from distcomp.ids import ROLES, ClusterId

if TYPE_CHECKING:
    from collections.abc import Iterable

CLUSTER = ClusterId(b"c" * 16)
SECRET = b"s" * 32


def lookup(role: str, owner: str) -> bytes | None:
    return SECRET if (role, owner) == ("worker", "alice") else None


def server(**options: bool) -> ServerHandshake:
    return ServerHandshake(CLUSTER, lookup, **options)


def client(
    role: str = "worker", owner: str = "alice", cluster: bytes | None = CLUSTER, secret: bytes | None = SECRET
) -> ClientHandshake:
    return ClientHandshake(role, owner, cluster, secret)


def pieces(data: bytes, size_bytes: int) -> Iterable[bytes]:
    return (data[at : at + size_bytes] for at in range(0, len(data), size_bytes))


def shake(
    near: ClientHandshake, far: ServerHandshake, size_bytes: int = 1000
) -> tuple[ConnectError | None, ConnectError | None]:
    """Carry bytes to and fro until nothing moves; what each side raised."""
    errors: list[ConnectError | None] = [None, None]
    sides = (near, far)
    flying = [(1, near.greeting()), (0, far.greeting())]
    while flying:
        to, data = flying.pop(0)
        for piece in pieces(data, size_bytes):
            if errors[to] is not None:
                break
            try:
                answer = sides[to].receive(piece)
            except ConnectError as error:
                errors[to] = error
                answer = sides[to].farewell
            flying.append((1 - to, answer))
    return errors[0], errors[1]


@pytest.mark.parametrize("size_bytes", [1, 7, 1000])
def test_both_sides_agree(size_bytes: int) -> None:
    near, far = client(), server()
    assert shake(near, far, size_bytes) == (None, None)
    assert near.done
    assert far.done
    assert far.identity == Identity("worker", "alice")


def test_bytes_after_the_handshake_are_kept() -> None:
    near, far = client(), server()
    proof = near.receive(far.receive(near.greeting()))
    verdict = far.receive(proof + b"first message")
    near.receive(verdict + b"x" * 100_000)
    assert far.rest == b"first message"
    assert near.rest == b"x" * 100_000


@pytest.mark.parametrize(
    "stranger",
    [client(secret=b"t" * 32), client(owner="bob"), client(role="admin"), client(cluster=None, owner="bob")],
)
def test_a_wrong_secret_and_an_unknown_name_look_the_same(stranger: ClientHandshake) -> None:
    near, far = shake(stranger, server())
    assert isinstance(near, AuthenticationError)
    assert str(near).startswith("the scheduler does not accept this secret")
    assert isinstance(far, AuthenticationError)
    assert "gave no valid proof" in str(far)


def test_no_secret_is_told_what_to_do() -> None:
    near, far = shake(client(secret=None), server())
    assert isinstance(near, AuthenticationError)
    assert "distcomp join" in str(near)
    assert "has no secret" in str(far)


def test_nobodys_secret_does_not_open() -> None:
    near = client(owner="bob", secret=auth._NOBODYS_SECRET)
    assert isinstance(shake(near, server())[1], AuthenticationError)


def test_without_authentication_nothing_is_proved() -> None:
    near, far = client(owner="carol", secret=None), server(auth_required=False)
    assert shake(near, far) == (None, None)
    assert far.identity == Identity("worker", "carol")


def test_a_secret_is_never_talked_away() -> None:
    near, _ = shake(client(), server(auth_required=False))
    assert isinstance(near, AuthenticationError)


def test_a_server_without_the_secret_is_found_out() -> None:
    impostor = ServerHandshake(CLUSTER, lambda *_: SECRET)
    near = client(secret=b"t" * 32)
    proof = near.receive(impostor.receive(near.greeting()))
    assert len(proof) == auth.PROOF_BYTES
    with pytest.raises(AuthenticationError, match="could not prove"):
        near.receive(auth._prelude() + b"\0" * 32)


def test_a_proof_cannot_be_reflected_or_replayed() -> None:
    near, far = client(), server()
    proof = near.receive(far.receive(near.greeting()))
    with pytest.raises(AuthenticationError):
        near.receive(auth._prelude() + proof)
    again = server()
    again.receive(near.greeting())
    with pytest.raises(AuthenticationError):
        again.receive(proof)


@pytest.mark.parametrize("secret", [SECRET, None])
def test_another_cluster(secret: bytes | None) -> None:
    for auth_required in (True, False):
        near, far = shake(client(cluster=b"d" * 16, secret=secret), server(auth_required=auth_required))
        assert isinstance(near, WrongClusterError)
        assert isinstance(far, WrongClusterError)


def test_a_challenge_of_another_cluster() -> None:
    near = client(cluster=b"d" * 16)
    challenge = server().receive(client().greeting())
    with pytest.raises(WrongClusterError):
        near.receive(challenge)


def test_a_busy_scheduler_says_so() -> None:
    near, far = shake(client(), server(busy=True))
    assert isinstance(near, SchedulerBusyError)
    assert near.heals
    assert isinstance(far, SchedulerBusyError)


@pytest.mark.parametrize(("protocol", "upgrade"), [(0, "upgrade peer"), (9, "upgrade this scheduler")])
def test_another_protocol_version_seen_by_the_scheduler(protocol: int, upgrade: str) -> None:
    far = server()
    with pytest.raises(VersionMismatchError, match=upgrade) as caught:
        far.receive(auth._PRELUDE.pack(b"distcomp", protocol, 0, b"7.8.9"))
    assert f"protocol {protocol} (distcomp 7.8.9)" in str(caught.value)
    assert far.farewell.startswith(b"distcomp")


@pytest.mark.parametrize(("protocol", "upgrade"), [(0, "upgrade scheduler"), (9, "upgrade this side")])
def test_another_protocol_version_seen_by_the_client(protocol: int, upgrade: str) -> None:
    with pytest.raises(VersionMismatchError, match=upgrade):
        client().receive(auth._PRELUDE.pack(b"distcomp", protocol, 1, b"7.8.9") + b"unknown things")


def test_other_protocols_are_known_at_their_first_byte() -> None:
    for peer in (client(), server()):
        with pytest.raises(ForeignProtocolError, match="HTTP"):
            peer.receive(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(ForeignProtocolError):
        server().receive(b"G")


def test_who_mistakes_a_scheduler_for_a_gateway_or_the_other_way_round_is_told() -> None:
    far = server()
    with pytest.raises(ForeignProtocolError):
        far.receive(b"POST /v1/tunnel HTTP/1.1\r\nHost: a\r\n")
    head, _, words = far.farewell.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"Content-Length: %d" % len(words) in head
    assert b"tcp://" in words
    with pytest.raises(ForeignProtocolError, match="begins with http://"):
        client().receive(b"HTTP/1.1 400 Bad Request\r\n")


def test_impossible_roles_and_names() -> None:
    hello = client().greeting()
    at = auth._PRELUDE.size
    with pytest.raises(ForeignProtocolError, match="no role"):
        server().receive(hello[:at] + bytes([len(ROLES)]) + hello[at + 1 :])
    for owner in (b"", b"../x", b"\xff\xfe", b"a\0b"):
        body = struct.pack(">BB64s16s32s", 0, 0, owner, bytes(16), bytes(32))
        with pytest.raises(AuthenticationError, match="impossible name"):
            server(auth_required=False).receive(hello[:at] + body)


@pytest.mark.parametrize("status", [1, 99])
def test_a_status_that_means_nothing(status: int) -> None:
    for peer in (client(), server()):
        with pytest.raises(ForeignProtocolError, match="no meaning"):
            peer.receive(auth._prelude(status))


def test_too_many_bytes_before_the_proof() -> None:
    far = server()
    near = client()
    near.receive(far.receive(near.greeting()))
    with pytest.raises(AuthenticationError):
        far.receive(b"x" * 5000)
    near.rest = b""
    near._needed = 10_000
    with pytest.raises(ForeignProtocolError, match="more bytes"):
        near.receive(auth._prelude() + b"x" * 5000)


def test_nothing_follows_an_ended_handshake() -> None:
    far = server(auth_required=False)
    far.receive(client(secret=None).greeting())
    with pytest.raises(ForeignProtocolError, match="over"):
        far._over(b"")
