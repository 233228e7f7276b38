"""What this process is told about its settings: by variables, and below them by files.

Two files count: the project's, which is `distcomp.toml`, or `[tool.distcomp]` of `pyproject.toml`, in the
nearest folder from the working folder upwards that has one; and below it `distcomp.toml` in the user's
folder. A file is checked as a whole when it is read, and its values then stand below the variables as
if they were variables themselves, so that whatever reads settings has one source.

A task has no files: it runs where its worker was started, which says nothing about it.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections import ChainMap
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from distcomp.config import (
    INLINE,
    PREFIX,
    SLOT_VARIABLE,
    ClientSettings,
    Described,
    SchedulerSettings,
    Settings,
    WorkerSettings,
    parse_address,
    user_folder,
)
from distcomp.errors import ConfigError
from distcomp.gateway_settings import GatewaySettings
from distcomp.web_address import is_web, parse_web_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, MutableMapping

FILE_NAME = "distcomp.toml"
MAX_FILE_BYTES = 1 << 20
ADDRESS = Described(
    "address",
    PREFIX + "ADDRESS",
    str,
    "",
    "the cluster of clients that are given no other: tcp://host:port, or http://host:port of a gateway",
)
TOKEN = Described(
    "token", PREFIX + "TOKEN", str, "", "what gateways are asked with; only in the user's own file"
)
PROGRAMS: dict[str, type[Settings]] = {
    "client": ClientSettings,
    "scheduler": SchedulerSettings,
    "worker": WorkerSettings,
    "gateway": GatewaySettings,
}
"""Whose settings a file may have, by their names and without tables; what several share, it says once."""

NOT_HERE = {
    "auth": "only the flag --no-auth of distcomp-scheduler lets everybody in",
    "join": "a join string is a secret: save it by `distcomp join -`",
    "secret": "secrets lie in access files: `distcomp join -` saves one",
    "token": "it is a secret: set DISTCOMP_TOKEN, or write it into distcomp.toml in your user folder",
}
"""Keys that somebody may try, and what to do instead."""

_READER = "tomllib" if sys.version_info >= (3, 11) else "tomli"

_OTHERS_ANY = stat.S_IRWXG | stat.S_IRWXO
_log = logging.getLogger("distcomp")


class SettingsFile(NamedTuple):
    """A file that has been read: its values as variables."""

    path: Path
    variables: dict[str, str]


class Surroundings(ChainMap[str, str]):
    """Variables, and below them those of the project's file and of the user's."""

    def __init__(self, environ: MutableMapping[str, str], files: Iterable[SettingsFile]) -> None:
        self.files = tuple(files)
        super().__init__(environ, *(file.variables for file in self.files))

    def origin(self, variable: str) -> str:
        """Where a variable's value comes from: the variable itself, a file, or `default`."""
        if variable in self.maps[0]:
            return variable
        return next((str(file.path) for file in self.files if variable in file.variables), "default")


def surroundings(environ: MutableMapping[str, str] | None = None, folder: Path | None = None) -> Surroundings:
    """All that this process is told about its settings, short of flags and arguments.

    Args:
        environ: the variables; those of this process if left out.
        folder: where the search for the project's file begins; the working folder if left out.

    Returns:
        Variables by name, to be handed to `Settings.from_environment`.

    Raises:
        ConfigError: a file cannot be read, or has a wrong key or value; the text names file and key.

    Example:
        >>> surroundings({"DISTCOMP_HOME": "/nowhere", "DISTCOMP_PORT": "0"}).origin("DISTCOMP_PORT")
        'DISTCOMP_PORT'
    """
    variables = os.environ if environ is None else environ
    return Surroundings(variables, () if variables.get(SLOT_VARIABLE) else _files(variables, folder))


def _files(environ: Mapping[str, str], folder: Path | None) -> Iterator[SettingsFile]:
    """The project's file and the user's, as far as there are any."""
    of_user = user_folder(environ) / FILE_NAME
    of_project = _project_file(folder, of_user)
    if of_project is not None and of_project.path != of_user:
        yield of_project
    if of_user.is_file():
        yield SettingsFile(of_user, _variables(of_user, _contents(of_user), may_be_secret=True))


def _project_file(folder: Path | None, of_user: Path) -> SettingsFile | None:
    try:
        start = (folder or Path()).resolve(strict=True)
    except OSError:
        return None  # the working folder is gone, and no project is around it
    owners = {os.getuid(), 0, start.stat().st_uid}
    for each in (start, *start.parents):
        for path in (each / FILE_NAME, each / "pyproject.toml"):
            values = _contents(path) if path.is_file() else None
            if values is None:
                continue
            if path.stat().st_uid in owners:
                return SettingsFile(path, _variables(path, values, may_be_secret=path == of_user))
            _log.warning("skipped: %s belongs to another user", path)
    return None


def _contents(path: Path) -> dict[str, Any] | None:
    """The keys of a file; None if it is a `pyproject.toml` that says nothing about us."""
    data = _bytes(path)
    if path.name != FILE_NAME and b"distcomp" not in data:
        return None
    try:
        read: dict[str, Any] = import_module(_READER).loads(data.decode())
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    tools = read.get("tool")
    section = tools.get("distcomp") if isinstance(tools, dict) else None
    if section is not None and not isinstance(section, dict):
        raise ConfigError(f"{path}: tool.distcomp must be a table of settings, not {section!r:.80}")
    if path.name != FILE_NAME:
        return section
    return read if section is None else {**{key: read[key] for key in read if key != "tool"}, **section}


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} has more than {MAX_FILE_BYTES:,} bytes")
    return data


def described() -> dict[str, list[Described]]:
    """Every key that a file may have, as each program means it."""
    found = {"address": [ADDRESS]}
    for settings in PROGRAMS.values():
        for each in settings.describe():
            if each.name not in NOT_HERE:
                found.setdefault(each.name, []).append(each)
    return found


def _variables(
    path: Path, values: Mapping[str, Any] | None, *, may_be_secret: bool = False
) -> dict[str, str]:
    """The values of a file as variables, checked."""
    known = described()
    if may_be_secret:
        known[TOKEN.name] = [TOKEN]
    found = {}
    for key, value in (values or {}).items():
        if key not in known:
            raise ConfigError(f"{path}: {_unknown(key, known)}")
        for each in known[key]:
            _check(path, each, value)
        found[known[key][0].variable] = str(value)
    return found


def _unknown(key: str, known: Iterable[str]) -> str:
    if key in NOT_HERE:
        return f"{key} cannot be set in a file; {NOT_HERE[key]}"
    near = get_close_matches(key.lower().replace("-", "_"), known, n=1)
    advice = f"did you mean {near[0]}?" if near else "`distcomp config show` lists them"
    return f"there is no setting {key}; {advice}"


def _check(path: Path, setting: Described, value: Any) -> None:
    if setting is TOKEN and path.stat().st_mode & _OTHERS_ANY:
        raise ConfigError(f"{path} has a token, and others can read it: chmod 600 {path}")
    if not setting.takes(value):
        raise ConfigError(f"{path}: {setting.name} must be {setting.allowed()}, not {value!r:.80}")
    if setting is ADDRESS and value and value.strip() != INLINE:
        try:
            parse_web_address(value) if is_web(value) else parse_address(value)
        except ConfigError as error:
            raise ConfigError(f"{path}: address: {error}") from None
