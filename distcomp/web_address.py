"""Addresses of gateways: `http://host:8077`, `https://host/prefix`."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from distcomp.errors import ConfigError

WEB_PORTS = {"http": 80, "https": 443}
"""The schemes of gateways, and the port of an address that has none."""

_PREFIX = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*")
_HOST = re.compile(r"[A-Za-z0-9._:%-]+")


class WebAddress(NamedTuple):
    """Where a gateway is. `str()` gives `http://host:port/prefix`.

    Attributes:
        scheme: `http` or `https`.
        host: a name, or an address without brackets.
        port: of the host.
        prefix: what stands in front of every path; empty, or `/a/b`.
    """

    scheme: str
    host: str
    port: int
    prefix: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.prefix}"

    @property
    def authority(self) -> str:
        """Host and port, as they stand in a URL and in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == WEB_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def is_secure(self) -> bool:
        """Whether what is said is encrypted."""
        return self.scheme == "https"


def is_web(text: str) -> bool:
    """Whether an address is meant to be that of a gateway.

    Example:
        >>> is_web("https://a.example/cluster"), is_web("tcp://a.example:7077")
        (True, False)
    """
    return text.strip().partition("://")[0].lower() in WEB_PORTS


def parse_web_address(text: str) -> WebAddress:
    """Read `http://host:port/prefix`, where port and prefix may be missing.

    Raises:
        ConfigError: the text is no such address.

    Example:
        >>> parse_web_address("https://a.example/cluster/")
        WebAddress(scheme='https', host='a.example', port=443, prefix='/cluster')
    """
    wanted = f"{text!r:.200} is not the address of a gateway, like http://host:8077"
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{wanted}: {error}") from None
    if parts.scheme not in WEB_PORTS:
        raise ConfigError(f"{wanted}: it begins with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"{parts.scheme}://{parts.hostname}: a token is no part of an address; see DISTCOMP_TOKEN"
        )
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise ConfigError(f"{wanted}: it has no query")
    if not _HOST.fullmatch(parts.hostname or "") or port == 0:
        raise ConfigError(f"{wanted}: it has to have a host, written in ASCII, and a port above 0 if any")
    prefix = parts.path.rstrip("/")
    if not _PREFIX.fullmatch(prefix):
        raise ConfigError(f"{wanted}: {prefix!r} cannot be a path")
    return WebAddress(parts.scheme, parts.hostname or "", port or WEB_PORTS[parts.scheme], prefix)
