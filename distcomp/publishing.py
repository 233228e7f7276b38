"""Publishing: how a function gets a name under which anybody with a token can call it over HTTP.

The function, its version, its signature and the local modules that it needs are put into one publication,
which is uploaded to a gateway. Nothing of it is opened before it runs in a slot.
"""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from distcomp.access import read_private
from distcomp.config import ClientSettings, user_folder
from distcomp.errors import AuthenticationError, ConfigError, PublishError, UnreachableError
from distcomp.gateway_token import token_for
from distcomp.payload import JsonCall, describe_call, dump_function, function_name, open_project
from distcomp.published_calls import Publication
from distcomp.settings_file import ADDRESS, surroundings
from distcomp.versions import installed_versions
from distcomp.web_address import is_web, parse_web_address

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

ADDRESS_VARIABLE = "DISTCOMP_GATEWAY_ADDRESS"
TIMEOUT_S = 60.0
UNAUTHORIZED = 401


class GatewayAccess(NamedTuple):
    """Where a gateway is, and the token to use it with."""

    address: str
    token: str


def publish(
    function: Callable[..., Any],
    name: str | None = None,
    *,
    version: str = "1",
    gateway: str | None = None,
    token: str | None = None,
    project: str | os.PathLike[str] | bool | None = None,
) -> dict[str, Any]:
    """Give a function a name, by which everybody with a token can call it over HTTP.

    After `publish(square, "square")`, `POST /v1/functions/square/tasks` runs it; see `docs/http.md`.

    Args:
        function: what to publish; it takes and gives what JSON can carry.
        name: its name; the function's own if left out.
        version: of the function. A version never changes: another function needs another one.
        gateway: `http://host:port`; `DISTCOMP_GATEWAY_ADDRESS`, or the one that this user runs on this
            host, if left out.
        token: with the scope submit; `DISTCOMP_TOKEN`, or that of this user's own gateway, if left out.
        project: as for `Client`.

    Returns:
        What the gateway says of it.

    Raises:
        UnpicklableError: it cannot be pickled.
        ConfigError: no gateway is known, or the name cannot be one.
        ConnectError: the gateway cannot be reached, or does not take the token.
        PublishError: it does not take the function.
    """
    publication = make_publication(function, name, version, project=project)
    access = find_gateway(gateway, token)
    path = f"/v1/functions/{quote(publication.name)}/versions/{quote(publication.version)}"
    return ask(access, "PUT", path, publication.to_bytes())


def make_publication(
    function: Callable[..., Any],
    name: str | None = None,
    version: str = "1",
    *,
    project: str | os.PathLike[str] | bool | None = None,
) -> Publication:
    """A function with everything that it needs elsewhere.

    Raises:
        UnpicklableError: it cannot be pickled.
        ConfigError: the name or the version cannot be one.
    """
    files = open_project(project, ClientSettings.from_environment(surroundings()))
    parameters, doc = describe_call(function)
    digest, blob = dump_function(JsonCall(function), shares_path=False)
    bundle = files.current()
    made = Publication(
        name=name or function_name(function).rpartition(".")[2],
        version=version,
        versions=(*installed_versions(),),
        parameters=parameters,
        doc=doc,
        function=digest,
        blob=blob,
        **({} if bundle is None else _modules(bundle)),
    )
    try:
        made.check()
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return made


def _modules(bundle: Any) -> dict[str, Any]:
    return {
        "bundle": bundle.bundle,
        "bundle_name": bundle.name,
        "bundle_files": bundle.files,
        "modules": bundle.blob,
    }


def find_gateway(address: str | None = None, token: str | None = None) -> GatewayAccess:
    """Which gateway is meant, and the token for it.

    Args:
        address: `http://host:port`; without one `DISTCOMP_GATEWAY_ADDRESS` says it, or `DISTCOMP_ADDRESS` if
            that is a gateway's, or it is the one that this user runs on this host.
        token: for it; see `distcomp.gateway_token`.

    Raises:
        ConfigError: none is known, or several are.
    """
    told = surroundings()
    address = address or told.get(ADDRESS_VARIABLE) or None
    if address is None and is_web(told.get(ADDRESS.variable, "")):
        address = told[ADDRESS.variable]
    if address is None:
        address = _running_here()
    web = parse_web_address(address)
    return GatewayAccess(str(web), token_for(web, token))


def _running_here() -> str:
    """The address of the one gateway that this user runs on this host."""
    files = sorted((user_folder() / "gateways").glob("*/gateway.json"))
    running = [str(json.loads(read_private(path))["address"]) for path in files]
    if len(running) == 1:
        return running[0]
    if running:
        listed = ", ".join(running)
        raise ConfigError(f"several gateways run here, say which by {ADDRESS_VARIABLE}: {listed}")
    raise ConfigError(
        f"no gateway runs here: start distcomp-gateway, or say by {ADDRESS_VARIABLE} where one is"
    )


def ask(
    access: GatewayAccess,
    method: str,
    path: str,
    body: bytes | None = None,
    kind: str = "application/octet-stream",
) -> dict[str, Any]:
    """One request to a gateway; what it answers.

    Proxies and certificates are those of the variables HTTPS_PROXY, NO_PROXY and SSL_CERT_FILE.

    Raises:
        UnreachableError: nobody answered.
        AuthenticationError: the token is not taken.
        PublishError: the gateway refuses, and says why.
    """
    headers = {"Authorization": f"Bearer {access.token}", "Content-Type": kind}
    request = urllib.request.Request(access.address + path, body, headers, method=method)  # noqa: S310 - checked
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 - as above
            found: dict[str, Any] = json.loads(answer.read() or b"{}")
            return found
    except urllib.error.HTTPError as error:
        with error:
            text = _detail(error.read())
        if error.code == UNAUTHORIZED:
            raise AuthenticationError(f"{access.address} does not take the token: {text}") from None
        raise PublishError(f"{access.address} refused ({error.code}): {text}") from None
    except (OSError, ssl.SSLError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UnreachableError(f"{access.address} cannot be reached: {reason}") from None


def _detail(body: bytes) -> str:
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")
