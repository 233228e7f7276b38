"""Who may do what: access files, join strings, and the secrets that a scheduler keeps.

An `Access` is the right of one role and owner to use one cluster. It lies in a file that only its user
can read, or travels to another host as a join string, one line to be pasted. Folders, below
`config.user_folder()`:

    access/<cluster name>/<role>-<owner>.json    what this user can use
    schedulers/<name>/cluster.json               what a scheduler on this host knows: its cluster's id
                                                 and every secret; kept, so that old join strings stay valid
"""

from __future__ import annotations

import binascii
import getpass
import hashlib
import json
import os
import secrets
import stat
from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from distcomp.config import as_name, check_name, parse_address, user_folder
from distcomp.errors import ConfigError
from distcomp.ids import ROLES, ClusterId

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

FORMAT_VERSION = 1
SECRET_BYTES = 32
CLUSTER_ID_BYTES = 16

_JOIN = "distcomp-join-"
_CHECK_BYTES = 6
_MAX_FILE_BYTES = 1 << 20
_OUR_FOLDERS = 3
_OTHERS_ANY = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, kw_only=True)
class Access:
    """The right of one role and owner to use one cluster.

    Attributes:
        role: one of `ids.ROLES`.
        owner: whose work it is.
        cluster_id: 16 bytes.
        cluster_name: for people, and for folders.
        addresses: where its scheduler is, in order of trial.
        secret: 32 bytes; None for a cluster that runs without authentication.
        fingerprint: of the scheduler's certificate, or None.

    Example:
        `Access.parse(sys.stdin.read()).save()`
    """

    role: str
    owner: str
    cluster_id: bytes
    cluster_name: str
    addresses: tuple[str, ...]
    secret: bytes | None = field(repr=False)
    fingerprint: bytes | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise ConfigError(
                f"its format version is {self.format_version}, and this distcomp knows {FORMAT_VERSION}: "
                "use the same distcomp version on both hosts"
            )
        if self.role not in ROLES:
            raise ConfigError(f"{self.role!r} is not a role; roles are {', '.join(ROLES)}")
        check_name("an owner", self.owner)
        check_name("a cluster", self.cluster_name)
        for address in self.addresses:
            parse_address(address)
        if len(self.cluster_id) != CLUSTER_ID_BYTES:
            raise ConfigError(f"a cluster id has {CLUSTER_ID_BYTES} bytes")
        if self.secret is not None and len(self.secret) != SECRET_BYTES:
            raise ConfigError(f"a secret has {SECRET_BYTES} bytes")

    def to_join(self) -> str:
        """The join string: everything in one line, with a checksum."""
        raw = json.dumps(self._fields(), separators=(",", ":")).encode()
        checked = hashlib.sha256(raw).digest()[:_CHECK_BYTES] + raw
        return f"{_JOIN}{self.format_version}.{urlsafe_b64encode(checked).decode().rstrip('=')}"

    @classmethod
    def parse(cls, text: str) -> Access:
        """Read a join string, or the text of an access file.

        Raises:
            ConfigError: it is neither, was cut, or comes from another version.
        """
        whole = "".join(text.split())
        if whole.startswith("{"):
            return cls._from_fields(_json_object(text))
        version, dot, encoded = whole.removeprefix(_JOIN).partition(".")
        if not whole.startswith(_JOIN) or not dot:
            raise ConfigError(f"this is no join string: one begins with {_JOIN}{FORMAT_VERSION}.")
        if version != str(FORMAT_VERSION):
            raise ConfigError(
                f"this join string has format version {version[:20]}, and this distcomp knows "
                f"{FORMAT_VERSION}: use the same distcomp version on both hosts"
            )
        try:
            checked = urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
        except (binascii.Error, ValueError):
            checked = b""
        raw = checked[_CHECK_BYTES:]
        if hashlib.sha256(raw).digest()[:_CHECK_BYTES] != checked[:_CHECK_BYTES] or not raw:
            raise ConfigError("this join string is not whole: it was cut or changed; copy it again")
        return cls._from_fields({**_json_object(raw.decode()), "format_version": FORMAT_VERSION})

    @classmethod
    def read(cls, path: Path) -> Access:
        """Read an access file.

        Raises:
            ConfigError: it is missing, readable by others, broken, or from another version.
        """
        try:
            return cls.parse(read_private(path))
        except ConfigError as error:
            raise ConfigError(f"access file {path}: {error}") from None

    def save(self, folder: Path | None = None) -> Path:
        """Write the access file, readable by this user only; where it now lies.

        Args:
            folder: in place of `config.user_folder()`.
        """
        place = (folder or user_folder()) / "access" / self.cluster_name
        path = place / f"{self.role}-{self.owner}.json"
        fields = {"format_version": self.format_version, **self._fields()}
        write_private(path, json.dumps(fields, indent=2) + "\n")
        return path

    def _fields(self) -> dict[str, Any]:
        fields = {name: value for name, value in asdict(self).items() if name != "format_version"}
        return {name: value.hex() if isinstance(value, bytes) else value for name, value in fields.items()}

    @classmethod
    def _from_fields(cls, fields: Mapping[str, Any]) -> Access:
        try:
            secret, fingerprint = fields["secret"], fields.get("fingerprint")
            return cls(
                format_version=int(fields["format_version"]),
                role=str(fields["role"]),
                owner=str(fields["owner"]),
                cluster_id=bytes.fromhex(fields["cluster_id"]),
                cluster_name=str(fields["cluster_name"]),
                addresses=tuple(str(address) for address in fields["addresses"]),
                secret=None if secret is None else bytes.fromhex(secret),
                fingerprint=None if fingerprint is None else bytes.fromhex(fingerprint),
            )
        except ConfigError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"it is broken ({type(error).__name__}: {error}); get a new join string"
            ) from None


def this_user() -> str:
    """The owner that this process works for unless told otherwise: its user, as a name."""
    try:
        return as_name(getpass.getuser())
    except (OSError, KeyError):  # a user without an entry, as in some containers
        return f"uid-{os.getuid()}"


def saved(folder: Path | None = None) -> list[Path]:
    """The access files of this user, by cluster and role."""
    return sorted(((folder or user_folder()) / "access").glob("*/*.json"))


class SchedulerAccess:
    """A cluster's id and secrets, as its scheduler knows them.

    Args:
        cluster_id: 16 bytes.
        cluster_name: for people.
        secrets_by_name: a secret for each `(role, owner)`.
        owner: the user whom the scheduler runs as.
        folder: where `cluster.json` and the access files belong; None to keep everything in memory.

    Example:
        `access = SchedulerAccess.open("7077"); access.publish(["tcp://a.example:7077"])`
    """

    def __init__(
        self,
        cluster_id: ClusterId,
        cluster_name: str,
        secrets_by_name: Mapping[tuple[str, str], bytes],
        *,
        owner: str,
        folder: Path | None = None,
    ) -> None:
        self.cluster_id = cluster_id
        self.cluster_name = cluster_name
        self.owner = owner
        self.addresses: tuple[str, ...] = ()
        self._secrets = dict(secrets_by_name)
        self._folder = folder
        self._read_at_ns = 0
        self._published: list[Path] = []

    @classmethod
    def open(cls, name: str, folder: Path | None = None, owner: str | None = None) -> SchedulerAccess:
        """What the scheduler `name` of this user knows; made at its first start.

        Args:
            name: of the scheduler, and of its cluster.
            folder: in place of `config.user_folder()`.
            owner: gets a secret for every role, if there is none yet; the user of this process if None.

        Raises:
            ConfigError: the files cannot be used; the text says which and why.
        """
        check_name("a scheduler", name)
        cluster_id = ClusterId(secrets.token_bytes(CLUSTER_ID_BYTES))
        access = cls(cluster_id, name, {}, owner=owner or this_user(), folder=folder or user_folder())
        if access._path.exists():
            access._refresh()
        access.add_owner(access.owner)
        return access

    @property
    def owners(self) -> list[str]:
        """Every owner who has a secret."""
        return sorted({owner for _, owner in self._secrets})

    def add_owner(self, owner: str) -> None:
        """Make a secret for each role of `owner` that has none; a running scheduler takes notice."""
        check_name("an owner", owner)
        missing = [(role, owner) for role in ROLES if (role, owner) not in self._secrets]
        self._secrets.update((name, secrets.token_bytes(SECRET_BYTES)) for name in missing)
        if missing:
            self._store()

    def lookup(self, role: str, owner: str) -> bytes | None:
        """The secret of a role and owner, as the files say by now; None if there is none."""
        if self._folder is not None:
            self._refresh()
        return self._secrets.get((role, owner))

    def issue(self, role: str, owner: str, addresses: Iterable[str], *, auth: bool = True) -> Access:
        """The access of a role and owner.

        Raises:
            ConfigError: that owner is unknown; see `add_owner`.
        """
        secret = self.lookup(role, owner)
        if secret is None:
            raise ConfigError(f"{owner!r} has no access as {role}; known owners: {', '.join(self.owners)}")
        return Access(
            role=role,
            owner=owner,
            cluster_id=self.cluster_id,
            cluster_name=self.cluster_name,
            addresses=tuple(addresses),
            secret=secret if auth else None,
        )

    def publish(self, addresses: Iterable[str], *, auth: bool = True) -> list[Path]:
        """Write the access files of the scheduler's own user, and remember the addresses."""
        self.addresses = tuple(addresses)
        if self._folder is None:
            return []
        self._store()
        issued = [self.issue(role, self.owner, self.addresses, auth=auth) for role in ROLES]
        self._published = [access.save(self._folder) for access in issued]
        return self._published

    def withdraw(self) -> None:
        """Remove the access files that `publish` wrote: nothing listens there any more."""
        for path in self._published:
            path.unlink(missing_ok=True)
        for folder in {path.parent for path in self._published}:
            with suppress(OSError):  # other access files of this cluster name lie there
                folder.rmdir()
        self._published = []

    @property
    def _path(self) -> Path:
        return (self._folder or user_folder()) / "schedulers" / self.cluster_name / "cluster.json"

    def _refresh(self) -> None:
        """Read the file again if it is another than last time."""
        try:
            changed_ns = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if changed_ns == self._read_at_ns:
            return
        try:
            fields = _known_format(_json_object(read_private(self._path)))
            self.cluster_id = ClusterId(bytes.fromhex(fields["cluster_id"]))
            self.addresses = tuple(fields["addresses"])
            self._secrets = {
                (role, owner): bytes.fromhex(secret) for role, owner, secret in fields["secrets"]
            }
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{self._path} cannot be used: {error!s:.200}; "
                "mend it, or remove it for a new cluster with new secrets"
            ) from None
        self._read_at_ns = changed_ns

    def _store(self) -> None:
        if self._folder is None:
            return
        fields = {
            "format_version": FORMAT_VERSION,
            "cluster_id": self.cluster_id.hex(),
            "addresses": self.addresses,
            "secrets": [(*name, secret.hex()) for name, secret in sorted(self._secrets.items())],
        }
        write_private(self._path, json.dumps(fields, indent=2) + "\n")
        self._read_at_ns = self._path.stat().st_mtime_ns


def _json_object(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"it is not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise ConfigError("it is not a JSON object")
    return fields


def _known_format(fields: dict[str, Any]) -> dict[str, Any]:
    if fields["format_version"] != FORMAT_VERSION:
        raise ConfigError(f"it has format version {fields['format_version']}, not {FORMAT_VERSION}")
    return fields


def read_private(path: Path) -> str:
    """The text of a file that only this user can read; `ConfigError` if others can."""
    try:
        with path.open("rb") as file:
            file_mode, folder_mode = os.fstat(file.fileno()).st_mode, path.parent.stat().st_mode
            text = file.read(_MAX_FILE_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"it cannot be read: {error}") from None
    if file_mode & _OTHERS_ANY:
        raise ConfigError(f"others can read this secret: chmod 600 {path}")
    if folder_mode & _OTHERS_WRITE:
        raise ConfigError(f"others can write its folder: chmod 700 {path.parent}")
    return text


def write_private(path: Path, text: str) -> None:
    """Write a file for this user only, whole or not at all, with our folders down to it."""
    try:
        folders = list(path.parents)[:_OUR_FOLDERS]
        folders[-1].parent.mkdir(parents=True, exist_ok=True)
        for folder in reversed(folders):
            folder.mkdir(mode=0o700, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        opened = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(opened, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from None
