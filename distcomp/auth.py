"""The handshake: two peers prove to each other that they know the same secret, before anything is decoded.

Four messages of fixed layout, in this order; all begin with a prelude (magic, protocol, status,
distcomp version) whose layout no version ever changes, so that any two versions can name each other:

    client  hello      prelude, role, whether it has a secret, owner, the cluster it means, nonce
    server  challenge  prelude, whether it wants a proof, its cluster, nonce      (or a refusing status)
    client  proof      HMAC-SHA256(secret, "client" + hello + challenge)
    server  verdict    prelude, HMAC-SHA256(secret, "server" + hello + challenge)  (or a refusing status)

Without authentication the handshake ends with the challenge. Neither side goes on without proof when
it has a secret: a peer cannot talk another out of authentication. An owner whom the server does not
know is treated like a wrong secret to the end, with a secret that nobody has.

State law: `_step` is what to read next; it only moves forward, and is `_over` once `done` is true. An
error ends a handshake: nothing may be handed to it afterwards.
"""

from __future__ import annotations

import hmac
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from distcomp import __version__
from distcomp.config import is_name
from distcomp.errors import (
    AuthenticationError,
    ConnectError,
    ForeignProtocolError,
    SchedulerBusyError,
    VersionMismatchError,
    WrongClusterError,
)
from distcomp.ids import ROLES, ClusterId
from distcomp.protocol import PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET_BYTES = 32
PROOF_BYTES = 32

_MAGIC = b"distcomp"
_PRELUDE = struct.Struct(">8sHB29s")
_HELLO = struct.Struct(">BB64s16s32s")
_CHALLENGE = struct.Struct(">B16s32s")
_HELLO_BYTES = _PRELUDE.size + _HELLO.size
_CHALLENGE_BYTES = _PRELUDE.size + _CHALLENGE.size
_VERDICT_BYTES = _PRELUDE.size + PROOF_BYTES
_MAX_WAITING_BYTES = 4096
_NOBODYS_SECRET = os.urandom(SECRET_BYTES)

_FINE, _VERSION, _CLUSTER, _AUTHENTICATION, _BUSY = range(5)

_HTTP_BEGINNINGS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PRI * HTTP/2")
_HTTP_WORDS = (
    b"This is a distcomp scheduler: its address begins with tcp://. Those that begin with http:// are of "
    b"gateways, started by distcomp-gateway.\n"
)
_HTTP_FAREWELL = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_HTTP_WORDS), _HTTP_WORDS)
)
_GATEWAY_ADVICE = ": if this is a gateway, its address begins with http:// or https://"


class Identity(NamedTuple):
    """Whom a connection has proved to be."""

    role: str
    owner: str


class _Prelude(NamedTuple):
    magic: bytes
    protocol: int
    status: int
    version: bytes

    def text(self) -> str:
        return f"protocol {self.protocol} (distcomp {_words(self.version)})"


def _prelude(status: int = _FINE) -> bytes:
    return _PRELUDE.pack(_MAGIC, PROTOCOL, status, __version__.encode()[:29])


def _words(padded: bytes) -> str:
    text = padded.rstrip(b"\0").decode("ascii", "replace")
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _proof(secret: bytes, label: bytes, transcript: bytes) -> bytes:
    return hmac.digest(secret, label + transcript, "sha256")


class _Handshake:
    """What both sides share: bytes are gathered until the next step has as many as it needs."""

    serves = False

    def __init__(self) -> None:
        self.done = False
        self.rest = b""
        self.identity: Identity | None = None
        self.farewell = b""
        self._needed = 0
        self._prelude_next = True
        self._step: Callable[[bytes], bytes] = self._over
        self._seen = b""
        self._secret = _NOBODYS_SECRET

    def greeting(self) -> bytes:
        """What to send before anything was received."""
        return b""

    def receive(self, data: bytes) -> bytes:
        """Take in what came, give back what is to be sent now.

        Raises:
            ConnectError: no connection can come of this; `farewell` is to be sent, then the end.
        """
        self.rest += data
        answer = b""
        self._check_prelude()
        while not self.done and len(self.rest) >= self._needed:
            taken, self.rest = self.rest[: self._needed], self.rest[self._needed :]
            answer += self._step(taken)
            self._check_prelude()
        if not self.done and len(self.rest) > _MAX_WAITING_BYTES:
            raise ForeignProtocolError("more bytes than a handshake has")
        return answer

    def _check_prelude(self) -> None:
        """Refuse a foreign or another version's peer as soon as it shows, whatever length it sends."""
        if self.done or not self._prelude_next:
            return
        if not _MAGIC.startswith(self.rest[: len(_MAGIC)]):
            if self.serves and self.rest.startswith(_HTTP_BEGINNINGS):
                self.farewell = _HTTP_FAREWELL
            advice = "" if self.serves or not self.rest.startswith(b"HTTP/") else _GATEWAY_ADVICE
            raise ForeignProtocolError(
                f"the peer does not speak distcomp's protocol; it sent {self.rest[:16]!r}{advice}"
            )
        if len(self.rest) < _PRELUDE.size:
            return
        prelude = _Prelude(*_PRELUDE.unpack_from(self.rest))
        if prelude.protocol != PROTOCOL:
            self.farewell = _prelude(_VERSION) if self.serves else b""
            raise VersionMismatchError(self._mismatch(prelude))
        if prelude.status != _FINE:
            raise self._refused(prelude.status)

    def _mismatch(self, theirs: _Prelude) -> str:
        ours = _Prelude(_MAGIC, PROTOCOL, _FINE, __version__.encode()).text()
        this, that = ("scheduler", "peer") if self.serves else ("side", "scheduler")
        older = that if theirs.protocol < PROTOCOL else f"this {this}"
        return f"this {this} speaks {ours}, the {that} speaks {theirs.text()}: upgrade {older}"

    def _refused(self, status: int) -> ConnectError:
        return ForeignProtocolError(f"a status of {status} has no meaning here")

    def _over(self, _taken: bytes) -> bytes:
        raise ForeignProtocolError("the handshake is over")

    def _expect(self, size_bytes: int, step: Callable[[bytes], bytes], *, prelude: bool = True) -> None:
        self._needed, self._step, self._prelude_next = size_bytes, step, prelude

    def _finish(self) -> None:
        self.done = True
        self._step = self._over


class ClientHandshake(_Handshake):
    """The side that connects.

    Args:
        role: one of `ids.ROLES`.
        owner: for whom it connects.
        cluster_id: the cluster it means; None for any, which only a client without secret may want.
        secret: what it and the scheduler know; None if it has no access file.

    Example:
        Send `greeting()`; then send what `receive(data)` returns until `done`; `rest` is what came after.
    """

    def __init__(
        self, role: str, owner: str, cluster_id: bytes | None = None, secret: bytes | None = None
    ) -> None:
        super().__init__()
        self.met_cluster_id = bytes(16)
        self._cluster_id = cluster_id
        self._has_secret = secret is not None
        self._secret = secret if secret is not None else _NOBODYS_SECRET
        fields = (
            ROLES.index(role),
            self._has_secret,
            owner.encode(),
            cluster_id or bytes(16),
            os.urandom(32),
        )
        self._hello = _prelude() + _HELLO.pack(*fields)
        self._expect(_CHALLENGE_BYTES, self._on_challenge)

    def greeting(self) -> bytes:
        """The hello."""
        return self._hello

    def _refused(self, status: int) -> ConnectError:
        if status == _CLUSTER:
            return WrongClusterError("another cluster answers there than the access file was made for")
        if status == _BUSY:
            return SchedulerBusyError("the scheduler has as many connections as it may hold")
        if status == _AUTHENTICATION and not self._has_secret:
            return AuthenticationError(
                "the scheduler asks for a secret: save its join string with `distcomp join -` first"
            )
        if status == _AUTHENTICATION:
            return AuthenticationError(
                "the scheduler does not accept this secret for this role and owner: get a new join string"
            )
        return super()._refused(status)

    def _on_challenge(self, challenge: bytes) -> bytes:
        wants_proof, cluster_id, _nonce = _CHALLENGE.unpack_from(challenge, _PRELUDE.size)
        if self._cluster_id is not None and cluster_id != self._cluster_id:
            raise self._refused(_CLUSTER)
        self.met_cluster_id = cluster_id
        if not wants_proof:
            if self._has_secret:
                raise AuthenticationError(
                    "the scheduler runs without authentication, but there is a secret for it: not connected"
                )
            self._finish()
            return b""
        if not self._has_secret:
            raise self._refused(_AUTHENTICATION)
        self._seen = self._hello + challenge
        self._expect(_VERDICT_BYTES, self._on_verdict)
        return _proof(self._secret, b"client", self._seen)

    def _on_verdict(self, verdict: bytes) -> bytes:
        if not hmac.compare_digest(verdict[_PRELUDE.size :], _proof(self._secret, b"server", self._seen)):
            raise AuthenticationError(
                "what answers there could not prove that it knows this cluster's secret"
            )
        self._finish()
        return b""


class ServerHandshake(_Handshake):
    """The side that listens.

    Args:
        cluster_id: 16 bytes that name this cluster.
        lookup: gives the secret of a role and owner, or None.
        auth_required: whether the peer must prove that it knows the secret.
        busy: refuse whoever it is, because there is no room.
    """

    serves = True

    def __init__(
        self,
        cluster_id: ClusterId,
        lookup: Callable[[str, str], bytes | None],
        *,
        auth_required: bool = True,
        busy: bool = False,
    ) -> None:
        super().__init__()
        self._cluster_id, self._lookup = cluster_id, lookup
        self._auth_required, self._busy = auth_required, busy
        self._claimed = Identity("", "")
        self._expect(_HELLO_BYTES, self._on_hello)

    def _refuse(self, status: int, error: ConnectError) -> ConnectError:
        self.farewell = _prelude(status)
        return error

    def _on_hello(self, hello: bytes) -> bytes:
        role, has_secret, owner, cluster_id, _nonce = _HELLO.unpack_from(hello, _PRELUDE.size)
        if role >= len(ROLES):
            raise self._refuse(_AUTHENTICATION, ForeignProtocolError(f"no role has the number {role}"))
        self._claimed = Identity(ROLES[role], _words(owner))
        if not is_name(self._claimed.owner):
            raise self._refuse(_AUTHENTICATION, AuthenticationError(f"{self._who()} has an impossible name"))
        if self._busy:
            raise self._refuse(_BUSY, SchedulerBusyError("no room for another connection"))
        if any(cluster_id) and cluster_id != self._cluster_id:
            raise self._refuse(_CLUSTER, WrongClusterError("the peer means another cluster"))
        if self._auth_required and not has_secret:
            raise self._refuse(_AUTHENTICATION, AuthenticationError(f"{self._who()} has no secret"))
        challenge = _prelude() + _CHALLENGE.pack(self._auth_required, self._cluster_id, os.urandom(32))
        if not self._auth_required:
            self._accept()
            return challenge
        self._secret = self._lookup(*self._claimed) or _NOBODYS_SECRET
        self._seen = hello + challenge
        self._expect(PROOF_BYTES, self._on_proof, prelude=False)
        return challenge

    def _on_proof(self, proof: bytes) -> bytes:
        known = self._secret is not _NOBODYS_SECRET
        fits = hmac.compare_digest(proof, _proof(self._secret, b"client", self._seen))
        if not (fits and known):
            raise self._refuse(_AUTHENTICATION, AuthenticationError(f"{self._who()} gave no valid proof"))
        self._accept()
        return _prelude() + _proof(self._secret, b"server", self._seen)

    def _accept(self) -> None:
        self.identity = self._claimed
        self._finish()

    def _who(self) -> str:
        return f"a peer that says it is the {self._claimed.role} of {self._claimed.owner!r}"
