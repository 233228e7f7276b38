"""Roads: how to reach a gateway, directly or through a proxy, in the clear or by TLS, and with which token.

Proxies are those of HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, in capitals or not; certificates are
checked against those of the system, or against what SSL_CERT_FILE and SSL_CERT_DIR name.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from base64 import b64encode
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from distcomp import __version__
from distcomp.config import is_loopback
from distcomp.errors import (
    AuthenticationError,
    CertificateError,
    ConfigError,
    ConnectError,
    ForeignProtocolError,
    UnreachableError,
)
from distcomp.http_wires import MAX_HEAD_BYTES, MAX_LINE_BYTES, READ_BYTES, HttpWire, read_head

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distcomp.web_address import WebAddress

_PROXY_PORT = 3128
_PROXY_AUTHENTICATION = 407
_FINE = 200


class WebProxy(NamedTuple):
    """A proxy. `login` is what its Proxy-Authorization field says; empty if it asks for none."""

    host: str
    port: int
    login: str = ""

    def __str__(self) -> str:
        return f"the proxy {self.host}:{self.port}"


class Road:
    """The way to one gateway.

    Args:
        address: of the gateway.
        token: what the gateway is asked with.
        environ: the variables that name proxies.

    Raises:
        ConfigError: the token or the proxy cannot be one.

    Example:
        `wire = await Road(parse_web_address("http://host:8077"), token).open(timeout_s=10)`
    """

    def __init__(self, address: WebAddress, token: str, environ: Mapping[str, str] | None = None) -> None:
        if not token.isascii() or not token.isprintable() or len(token.split()) != 1:
            raise ConfigError("a token is one word of ASCII, as `distcomp token create` prints it")
        self.address = address
        self.proxy = proxy_of(address, os.environ if environ is None else environ)
        self._fields = (
            f"Host: {address.authority}\r\nAuthorization: Bearer {token}\r\n"
            f"User-Agent: distcomp/{__version__}\r\n"
        )
        self._start = address.prefix
        self._tls = ssl.create_default_context() if address.is_secure else None
        if self.proxy is not None and not address.is_secure:
            self._start = str(address)
            self._fields += _login_field(self.proxy)

    def __repr__(self) -> str:
        return f"<Road to {self}>"

    def __str__(self) -> str:
        return str(self.address) if self.proxy is None else f"{self.address} through {self.proxy}"

    def request(
        self, method: str, path: str, body: bytes = b"", kind: str = "application/octet-stream"
    ) -> bytes:
        """A whole request."""
        sized = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n" if method == "POST" else ""
        return f"{method} {self._start}{path} HTTP/1.1\r\n{self._fields}{sized}\r\n".encode() + body

    async def open(self, timeout_s: float) -> HttpWire:
        """Connect.

        Raises:
            UnreachableError: nobody answered in time.
            CertificateError: the gateway's certificate does not convince.
            ForeignProtocolError: what answers speaks no TLS, or is no proxy.
            AuthenticationError: the proxy wants a login.
        """
        try:
            return await self._open_within(timeout_s)
        except ConnectError:
            raise
        except asyncio.TimeoutError:
            raise UnreachableError(f"{self} did not answer within {timeout_s:g} s") from None
        except ssl.SSLCertVerificationError as error:
            raise CertificateError(
                f"the certificate of {self.address} does not convince: {error.verify_message}; if "
                "its authority is your own, SSL_CERT_FILE names the file with that one's certificate"
            ) from None
        except ssl.SSLError as error:
            raise ForeignProtocolError(
                f"{self} speaks no TLS that can be understood ({error.reason}); if it is reached in the "
                "clear, its address begins with http://"
            ) from None
        except socket.gaierror as error:
            raise UnreachableError(f"{self}: the name is unknown here ({error.strerror})") from None
        except OSError as error:
            raise UnreachableError(f"{self} cannot be reached: {error.strerror or error}") from None

    async def _open_within(self, timeout_s: float) -> HttpWire:
        """Connect; `asyncio.wait_for` may pass over that it is cancelled, or lose what was opened."""
        opening = asyncio.ensure_future(self._open())
        try:
            await asyncio.wait([opening], timeout=timeout_s)
            if not opening.done():
                raise asyncio.TimeoutError  # noqa: TRY301 - as if it were given up from without
            return opening.result()
        except BaseException:
            opening.cancel()
            await asyncio.wait([opening])
            if not opening.cancelled() and opening.exception() is None:
                opening.result().abort()
            raise

    async def _open(self) -> HttpWire:
        if self.proxy is not None and self._tls is not None:
            sock = await _joined(self.proxy, self.address)
            try:
                streams = await asyncio.open_connection(
                    sock=sock, limit=READ_BYTES, ssl=self._tls, server_hostname=self.address.host
                )
            except BaseException:
                sock.close()
                raise
        else:
            first = self.proxy or self.address
            streams = await asyncio.open_connection(first.host, first.port, limit=READ_BYTES, ssl=self._tls)
        return HttpWire(*streams, str(self))


def proxy_of(address: WebAddress, environ: Mapping[str, str]) -> WebProxy | None:
    """The proxy that variables name for an address; None if it is reached directly, as this host itself is.

    Raises:
        ConfigError: the proxy cannot be used.

    Example:
        `proxy_of(parse_web_address("http://a.example"), {"http_proxy": "http://p.example:8080"})`
    """
    names = [f"{address.scheme}_proxy", "all_proxy"]
    if "REQUEST_METHOD" in environ:  # there HTTP_PROXY may be what a request says in its field Proxy
        names = [name for name in names if name != "http_proxy"]
    told = next(filter(None, (_variable(environ, name) for name in names)), "")
    if not told or is_loopback(address.host) or _is_exempt(address, _variable(environ, "no_proxy")):
        return None
    try:
        parts = urlsplit(told if "://" in told else f"http://{told}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme != "http":
        raise ConfigError(
            f"the proxy for {address} has to be named like http://host:8080; others, such as those "
            "reached by TLS or SOCKS, are not known here, and NO_PROXY names hosts that are reached without"
        )
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
    return WebProxy(host, port or _PROXY_PORT, b64encode(login.encode()).decode())


def _variable(environ: Mapping[str, str], name: str) -> str:
    return (environ.get(name) or environ.get(name.upper()) or "").strip()


def _is_exempt(address: WebAddress, no_proxy: str) -> bool:
    """Whether NO_PROXY names a host: itself, a domain or a network that it is in, or all by `*`."""
    for entry in filter(None, (each.strip().lower() for each in no_proxy.split(","))):
        if entry == "*" or _is_within(address.host, entry):
            return True
        name, _, port = entry.rpartition(":")
        name = (name if port.isdigit() and int(port) == address.port else entry).strip("[]")
        name = name.removeprefix("*").removeprefix(".")
        if address.host == name or address.host.endswith(f".{name}"):
            return True
    return False


def _is_within(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False


def _login_field(proxy: WebProxy) -> str:
    return f"Proxy-Authorization: Basic {proxy.login}\r\n" if proxy.login else ""


async def _joined(proxy: WebProxy, address: WebAddress) -> socket.socket:
    """A socket that a proxy has connected with a gateway."""
    sock = await _connected(proxy)
    try:
        host = f"[{address.host}]" if ":" in address.host else address.host
        await _ask_to_join(sock, proxy, f"{host}:{address.port}")
    except BaseException:
        sock.close()
        raise
    return sock


async def _ask_to_join(sock: socket.socket, proxy: WebProxy, where: str) -> None:
    loop = asyncio.get_running_loop()
    asked = f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n{_login_field(proxy)}\r\n"
    await loop.sock_sendall(sock, asked.encode())
    raw = b""
    while b"\r\n\r\n" not in raw:
        part = await loop.sock_recv(sock, MAX_LINE_BYTES)
        raw += part
        if not part or len(raw) > MAX_HEAD_BYTES:
            raise ForeignProtocolError(f"{proxy} does not answer as a proxy does: {raw[:40]!r}")
    status = _status_of(raw, proxy)
    if status == _PROXY_AUTHENTICATION:
        raise AuthenticationError(
            f"{proxy} wants another login: HTTPS_PROXY may say http://user:password@host:port"
        )
    if status // 100 != _FINE // 100:
        raise UnreachableError(f"{proxy} does not connect to {where}: it answers {status}")


def _status_of(raw: bytes, proxy: WebProxy) -> int:
    try:
        return read_head(raw[: raw.index(b"\r\n\r\n") + 4]).status
    except ValueError as error:
        raise ForeignProtocolError(f"{proxy} does not answer as a proxy does: {error}") from None


async def _connected(proxy: WebProxy) -> socket.socket:
    """A socket at one of the addresses that a proxy's name has."""
    loop = asyncio.get_running_loop()
    problem: OSError = socket.gaierror(0, "it has no address")
    for family, kind, protocol, _, where in await loop.getaddrinfo(
        proxy.host, proxy.port, type=socket.SOCK_STREAM
    ):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, where)
        except OSError as error:
            sock.close()
            problem = error
        except BaseException:
            sock.close()
            raise
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
    raise problem
