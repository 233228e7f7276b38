"""Bearer tokens: who may use a gateway, and for what.

A token is shown once, when it is created. What is kept, in a file that only this user can read, is a
salted hash of its secret part; the other part only says which hash to compare with. A running gateway
reads the file again whenever it has changed.
"""

from __future__ import annotations

import hmac
import json
import secrets
import time
from base64 import urlsafe_b64encode
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from distcomp.access import read_private, write_private
from distcomp.config import check_name
from distcomp.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

SCOPES = ("observe", "submit-named", "submit", "admin")
"""What a token is for; each scope includes those before it."""

FORMAT_VERSION = 1
MAX_TOKENS = 10_000
_PREFIX = "dct_"
_ID_BYTES = 6
_SECRET_BYTES = 32
_NOBODYS_SALT = secrets.token_bytes(16)


@dataclass(frozen=True, kw_only=True)
class BearerToken:
    """One token, without its secret.

    Attributes:
        id: names it, in lists and logs.
        name: what people call it.
        scope: one of `SCOPES`.
        owner: whose tasks it submits and sees.
        created: seconds since 1970.
        expires: the same; 0 for never.
        salt: of the hash.
        digest: SHA-256 of salt and secret.
    """

    id: str
    name: str
    scope: str
    owner: str
    created: float
    expires: float = 0.0
    salt: str = ""
    digest: str = ""

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise ConfigError(f"{self.scope!r} is no scope; scopes are {', '.join(SCOPES)}")
        check_name("an owner", self.owner)

    def allows(self, scope: str) -> bool:
        """Whether it may do what needs `scope`."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)

    def has_expired(self, now: float) -> bool:
        """Whether its time is over."""
        return 0 < self.expires <= now


class TokenFile:
    """The tokens of one cluster's gateways.

    Args:
        folder: of the cluster's gateways, see `gateway_settings.gateway_folder`.

    Example:
        `_, text = TokenFile(gateway_folder("7077", cluster_id)).create(scope="submit", owner="alice")`
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tokens.json"
        self._tokens: dict[str, BearerToken] = {}
        self._read_at: tuple[int, int] = (0, 0)
        self._own: dict[str, BearerToken] = {}

    def create(
        self, *, scope: str, owner: str, name: str = "", expires_s: float = 0.0
    ) -> tuple[BearerToken, str]:
        """Make a token and keep its hash.

        Args:
            scope: one of `SCOPES`.
            owner: whose tasks it is for.
            name: for people; the id if empty.
            expires_s: seconds for which it is valid; 0 for ever.

        Returns:
            What is kept of it, and the text that is shown now and never again.

        Raises:
            ConfigError: a value cannot be used, or the file cannot be written.
        """
        self._refresh()
        if len(self._tokens) >= MAX_TOKENS:
            raise ConfigError(f"there are {MAX_TOKENS:,} tokens: revoke some first")
        token, text = _made(scope, owner, name, expires_s)
        self._tokens[token.id] = token
        self._store()
        return token, text

    def lend(self, owner: str) -> str:
        """A token for everything that only this object knows, for as long as it lives."""
        token, text = _made("admin", owner, "own", 0.0)
        self._own[token.id] = token
        return text

    def revoke(self, wanted: str) -> list[BearerToken]:
        """Drop the tokens with an id or a name; returns them.

        Raises:
            ConfigError: there is none.
        """
        self._refresh()
        found = [token for token in self._tokens.values() if wanted in (token.id, token.name)]
        if not found:
            raise ConfigError(f"there is no token {wanted!r}; `distcomp token list` shows them")
        for token in found:
            del self._tokens[token.id]
        self._store()
        return found

    def all(self) -> list[BearerToken]:
        """Every token, in the order in which they were made."""
        self._refresh()
        return list(self._tokens.values())

    def find(self, text: str) -> BearerToken | None:
        """The valid token that `text` is; None if it is none. Both take equally long."""
        self._refresh()
        number, _, secret = text.removeprefix(_PREFIX).partition("_")
        known = self._tokens.get(number) or self._own.get(number)
        token = known if text.startswith(_PREFIX) else None
        salt = _NOBODYS_SALT if token is None else bytes.fromhex(token.salt)
        wanted = _NOBODYS_SALT * 2 if token is None else bytes.fromhex(token.digest)
        fits = hmac.compare_digest(_digest(salt, secret), wanted)
        if token is None or not fits or token.has_expired(time.time()):
            return None
        return token

    def _refresh(self) -> None:
        """Read the file again if it is another than last time."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            self._tokens, self._read_at = {}, (0, 0)
            return
        stamp = (found.st_mtime_ns, found.st_ino)
        if stamp == self._read_at:
            return
        try:
            fields: dict[str, Any] = json.loads(read_private(self.path))
            if fields["format_version"] != FORMAT_VERSION:
                raise ConfigError(f"it has format version {fields['format_version']}, not {FORMAT_VERSION}")  # noqa: TRY301 - one way out
            tokens = [BearerToken(**each) for each in fields["tokens"]]
        except (ConfigError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self.path} cannot be used: {error!s:.200}; mend or remove it") from None
        self._tokens = {token.id: token for token in tokens}
        self._read_at = stamp

    def _store(self) -> None:
        fields = {
            "format_version": FORMAT_VERSION,
            "tokens": [asdict(each) for each in self._tokens.values()],
        }
        write_private(self.path, json.dumps(fields, indent=1) + "\n")
        self._read_at = (0, 0)


def _made(scope: str, owner: str, name: str, expires_s: float) -> tuple[BearerToken, str]:
    number = secrets.token_hex(_ID_BYTES)
    secret = urlsafe_b64encode(secrets.token_bytes(_SECRET_BYTES)).decode().rstrip("=")
    salt, now = secrets.token_bytes(16), time.time()
    token = BearerToken(
        id=number,
        name=name or number,
        scope=scope,
        owner=owner,
        created=now,
        expires=now + expires_s if expires_s else 0.0,
        salt=salt.hex(),
        digest=_digest(salt, secret).hex(),
    )
    return token, f"{_PREFIX}{number}_{secret}"


def _digest(salt: bytes, secret: str) -> bytes:
    """A secret of 256 random bits needs no slow hash: nobody can guess it."""
    return sha256(salt + secret.encode("utf-8", "replace")).digest()
