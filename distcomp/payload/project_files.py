"""Which files a set of local modules consists of: the modules, what they import, and the data beside them.

A local package travels whole, from its topmost folder with an `__init__.py`, data files included; any other
local module is its file. What they import is found by reading them, statements within functions too.
"""

from __future__ import annotations

import ast
import os
import re
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from distcomp.payload.modules import is_installed, is_local, places_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

_LINE = re.compile(rb"import[^\n]*")
_IMPORT = re.compile(rb"(?:^|[;:])[ \t]*(?:from|import)[ \t]+([^\W\d]\w*)")
_MORE = re.compile(rb"\bimport[ \t][^\n]*[,\\]")
_COMPILED = (*EXTENSION_SUFFIXES, ".pyd", ".pyc", ".pyo")


class SourceFile(NamedTuple):
    """A file that is to travel: its name in the archive, where it is, and what tells one state from another.

    Attributes:
        extension: the module that a compiled extension makes; only a word about it travels.
    """

    name: str
    path: str
    modified_ns: int
    size_bytes: int
    is_executable: bool
    extension: str = ""


class Unit(NamedTuple):
    """A module or package that travels as a whole; `place` is its file or folder."""

    name: str
    place: Path
    is_package: bool

    def files(self) -> Iterator[SourceFile]:
        """Its files, in order."""
        if self.is_package:
            yield from folder_files(self.place, self.name.replace(".", "/") + "/")
        else:
            stem, dot, _ = self.place.name.partition(".")
            prefix = self.name.replace(".", "/").removesuffix(stem)
            yield _source_file(prefix + stem + dot + self.place.name[len(stem + dot) :], self.place)


def unit_of(name: str) -> Unit | None:
    """The unit that a local module is part of; None if there is none with a file."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        head = ".".join(parts[:count])
        origin, folders = places_of(head)
        if origin is not None:
            file = Path(origin)
            place = file.parent if folders else file
            return None if is_installed(origin) else Unit(head, place, bool(folders))
        if not folders:
            return None
    return None


def folder_files(folder: Path, prefix: str = "") -> Iterator[SourceFile]:
    """The files of a folder and those below it, in order.

    Hidden ones, caches, compiled code and virtual environments are left out.

    Args:
        folder: where to look.
        prefix: what to put before their names, ending in `/`.
    """
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    names = {entry.name for entry in entries}
    if "pyvenv.cfg" in names:
        return
    for entry in entries:
        name = entry.name
        if name.startswith(".") or name == "__pycache__":
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from folder_files(Path(entry.path), f"{prefix}{name}/")
        elif entry.is_file():
            stem = name.partition(".")[0]
            if not name.endswith(_COMPILED) or (_is_extension(name) and f"{stem}.py" not in names):
                yield _source_file(prefix + name, Path(entry.path))


def _is_extension(name: str) -> bool:
    return name.endswith((*EXTENSION_SUFFIXES, ".pyd"))


def _source_file(name: str, path: Path) -> SourceFile:
    found = path.stat()
    extension = ""
    if _is_extension(name):
        stem = name.rpartition("/")[2].partition(".")[0]
        folder = name.rpartition("/")[0]
        name = f"{folder}/{stem}.py" if folder else f"{stem}.py"
        extension = name.removesuffix(".py").replace("/", ".")
    return SourceFile(
        name, str(path), found.st_mtime_ns, found.st_size, bool(found.st_mode & 0o100), extension
    )


# --- what they import -----------------------------------------------------------------------------


def imported_names(source: bytes) -> Iterator[str]:
    """The modules that a source imports absolutely, each `from a import b` also as `a.b`.

    Raises:
        SyntaxError: it is no Python source.
        ValueError: likewise.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def maybe_imported(source: bytes) -> list[str] | None:
    """The top-level modules that a source may import: a few too many at most; None if that takes parsing.

    It takes a hundredth of the time of parsing, and nearly all sources import nothing that is new.
    """
    names: dict[str, None] = {}
    for found in _LINE.finditer(source):
        begin = source.rfind(b"\n", 0, found.start()) + 1
        line = source[begin : found.end()]
        plain = not line.lstrip().startswith(b"from")
        if (plain and _MORE.search(line)) or source[begin - 2 : begin - 1] == b"\\":
            return None
        names.update(dict.fromkeys(name.decode() for name in _IMPORT.findall(line)))
    return list(names)


class Scan:
    """What one file imports, in one state of it."""

    __slots__ = ("exact", "names", "state")

    def __init__(self, state: tuple[int, int], source: bytes) -> None:
        self.state = state
        names = maybe_imported(source)
        self.exact = names is None
        self.names = _parsed(source) if names is None else names


class Scans:
    """What sources import, read once for each state of a file."""

    def __init__(self) -> None:
        self._known: dict[str, Scan] = {}
        self._local: dict[str, bool] = {}

    def begin(self) -> None:
        """Look anew which modules there are."""
        self._local.clear()

    def local_imports(self, file: SourceFile, known: Container[str]) -> list[str]:
        """The local modules that a file imports and that are not `known`, by their full names."""
        if not file.name.endswith(".py") or file.extension:
            return []
        state = file.modified_ns, file.size_bytes
        scan = self._known.get(file.path)
        if scan is None or scan.state != state:
            scan = self._known[file.path] = Scan(state, Path(file.path).read_bytes())
        found = [name for name in scan.names if name not in known and self._is_local(name)]
        if found and not scan.exact:
            scan.exact, scan.names = True, _parsed(Path(file.path).read_bytes())
            found = [name for name in scan.names if name not in known and self._is_local(name)]
        return found

    def _is_local(self, name: str) -> bool:
        root = name.partition(".")[0]
        local = self._local.get(root)
        if local is None:
            local = self._local[root] = is_local(root)
        return local


def _parsed(source: bytes) -> list[str]:
    try:
        return list(dict.fromkeys(imported_names(source)))
    except (SyntaxError, ValueError):  # whoever imports it hears of it
        return []
