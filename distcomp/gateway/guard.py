"""Who may ask, how often, and by which name: what is checked before anything is done."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from typing import TYPE_CHECKING

from distcomp.allowance import Allowance
from distcomp.config import is_loopback
from distcomp.errors import ConfigError
from distcomp.gateway.problems import Problem, busy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.requests import Request

    from distcomp.gateway.table import Operation
    from distcomp.gateway.tokens import BearerToken, TokenFile
    from distcomp.gateway_settings import GatewaySettings

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'sha256-{style}'; frame-ancestors 'none'; base-uri 'none'; "
        "form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Sent with every answer; `{style}` is the digest of the docs page's own style."""

SCHEMES = ("http", "https")
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_MAX_REMEMBERED = 10_000
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_BEARER, _BASIC = "bearer ", "basic "


class Names:
    """The names by which the gateway is asked, and the origins of pages that may ask.

    Args:
        settings: of the gateway.
        bound: hosts that it listens at.

    Raises:
        ConfigError: a name or an origin of the settings cannot be one.
    """

    def __init__(self, settings: GatewaySettings, bound: Iterable[str] = ()) -> None:
        hosts = {*LOCAL_NAMES, settings.gateway_host, *bound, *_listed(settings.gateway_names)}
        self._hosts = {host.lower().strip("[]") for host in hosts}
        self._origins = {origin.lower().rstrip("/") for origin in _listed(settings.gateway_origins)}
        for name in _listed(settings.gateway_names):
            if _host_of(name) != name.lower().strip("[]"):
                raise ConfigError(f"gateway_names has host names without port, and not {name!r:.200}")
        for origin in self._origins:
            scheme, _, authority = origin.partition("://")
            if scheme not in SCHEMES or not _HOST.fullmatch(authority):
                raise ConfigError(
                    f"gateway_origins has origins like https://a.example, and not {origin!r:.200}"
                )

    def foreign_origin(self, request: Request) -> str | None:
        """The origin of a page elsewhere that may ask, if this request is one's; for after `check`."""
        origin = request.headers.get("origin")
        return origin if origin is not None and origin.lower() in self._origins else None

    def check(self, request: Request) -> None:
        """Refuse a request that names another host, or that a foreign page makes.

        A page of another origin whose name was rebound to this address still names its own host.
        """
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or _host_of(hosts[0]) not in self._hosts:
            raise Problem(
                "foreign-host",
                "the Host header names another host; names that others use belong into gateway_names",
            )
        for origin in request.headers.getlist("origin"):
            scheme, _, authority = origin.lower().partition("://")
            same = scheme in SCHEMES and authority == hosts[0].lower()
            if not same and origin.lower() not in self._origins:
                raise Problem(
                    "foreign-origin",
                    "a page of another origin made this request; allow it by gateway_origins",
                )


class Guard:
    """Tokens and bounds.

    Args:
        settings: of the gateway.
        tokens: of its cluster.
    """

    def __init__(self, settings: GatewaySettings, tokens: TokenFile) -> None:
        self._settings = settings
        self._tokens = tokens
        self._rates: dict[str, Allowance] = {}
        self._under_way: dict[tuple[str, str], int] = {}
        self._refusals: Allowance | None = None

    def admit(self, request: Request, operation: Operation | None) -> BearerToken:
        """The token that a request comes with, if that allows the operation; raises `Problem`."""
        login = operation is not None and operation.login
        said = request.headers.getlist("authorization")
        text = _token_text(said[0], login=login) if len(said) == 1 else ""
        token = self._tokens.find(text) if text else None
        if token is None:
            self._count_refusal()
            schemes = (
                'Bearer realm="distcomp", Basic realm="distcomp"' if login else 'Bearer realm="distcomp"'
            )
            raise Problem(
                "no-token",
                "send `Authorization: Bearer <token>`; `distcomp token create` makes one",
                headers={"WWW-Authenticate": schemes},
            )
        if operation is not None and operation.scope is not None and not token.allows(operation.scope):
            raise Problem(
                "forbidden",
                f"this needs a token with the scope {operation.scope}; this one has {token.scope}",
            )
        return token

    def enter(self, token: BearerToken, operation: Operation) -> tuple[str, str] | None:
        """Count a request of a token as under way; raises `Problem` if that is too much. See `leave`."""
        if operation.limit is None:
            return None
        if operation.limit == "requests":
            self._count_request(token)
        most = {
            "requests": self._settings.max_requests,
            "streams": self._settings.max_streams,
            "tunnel": 4 * self._settings.max_tunnels,
        }[operation.limit]
        key = (token.id, operation.limit)
        count = self._under_way.get(key, 0)
        if count >= most:
            raise busy(f"{count} requests of this token are under way, as many as may be")
        self._under_way[key] = count + 1
        return key

    def leave(self, key: tuple[str, str] | None) -> None:
        """A request is over."""
        if key is None:
            return
        self._under_way[key] -= 1
        if not self._under_way[key]:
            del self._under_way[key]

    def _count_request(self, token: BearerToken) -> None:
        now = asyncio.get_running_loop().time()
        rate = self._rates.get(token.id)
        if rate is None:
            if len(self._rates) >= _MAX_REMEMBERED:
                self._rates.clear()
            rate = self._rates[token.id] = Allowance(max(1.0, self._settings.requests_per_s), 1.0, now)
        if not rate.take(0, now):
            raise busy(f"more than {self._settings.requests_per_s:g} requests of this token in a second")

    def _count_refusal(self) -> None:
        now, most = asyncio.get_running_loop().time(), self._settings.refusals_per_s
        if self._refusals is None:
            self._refusals = Allowance(most, 1.0, now)
        if not self._refusals.take(0, now):
            raise busy("too many requests without a valid token")


def _token_text(header: str, *, login: bool) -> str:
    """The token in an `Authorization` header; empty if there is none."""
    if header[: len(_BEARER)].lower() == _BEARER:
        return header[len(_BEARER) :].strip()
    if login and header[: len(_BASIC)].lower() == _BASIC:
        try:
            return base64.b64decode(header[len(_BASIC) :], validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def _host_of(header: str) -> str:
    fits = _HOST.fullmatch(header)
    return "" if fits is None else fits[1].lower().strip("[]")


def _listed(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def is_exposed(settings: GatewaySettings) -> bool:
    """Whether others can reach the gateway without anything being encrypted."""
    protected = bool(settings.tls_certificate) or settings.behind_proxy
    return not is_loopback(settings.gateway_host) and not protected
