"""Which token a client shows to a gateway.

In this order: the one it was given; `DISTCOMP_TOKEN`; `token` in the user's own `distcomp.toml`; that of a
gateway which this user runs on this host. It never stands on a command line, where others could read it.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from distcomp.access import read_private
from distcomp.config import is_loopback, user_folder
from distcomp.errors import ConfigError
from distcomp.settings_file import TOKEN, surroundings
from distcomp.web_address import parse_web_address

if TYPE_CHECKING:
    from distcomp.web_address import WebAddress

_log = logging.getLogger("distcomp")


def token_for(address: WebAddress, given: str | None = None) -> str:
    """The token for a gateway.

    Raises:
        ConfigError: there is none.
    """
    token = given or surroundings().get(TOKEN.variable) or _own(address)
    if not token:
        raise ConfigError(
            f"there is no token for {address}: `distcomp token create --scope submit` on the gateway's host "
            f"prints one; set {TOKEN.variable}, or say Client(address, token=...)"
        )
    if not address.is_secure and not is_loopback(address.host):
        _log.warning(
            "the token travels to %s in the clear, where others may read it; https:// hides it", address
        )
    return token


def _own(address: WebAddress) -> str:
    """The token of a gateway of this user that listens at an address; empty if there is none."""
    for path in sorted((user_folder() / "gateways").glob("*/gateway.json")):
        try:
            told = json.loads(read_private(path))
            if parse_web_address(told["address"]) == address:
                return str(told["token"])
        except (ConfigError, ValueError, KeyError, TypeError) as error:  # noqa: PERF203 - each may fail by itself
            _log.warning("skipped: %s: %s", path, error)
    return ""
