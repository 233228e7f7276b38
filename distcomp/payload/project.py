"""`Project`: the local modules that a client's tasks need, as bundles.

Law: there is one current bundle. It covers every local module that was `reached` when it was made, and
what these import; it is looked at again when more are reached, when a module was reloaded, and from time
to time when tasks are handed in. A change of any of its files makes another bundle.
"""

from __future__ import annotations

import sys
import time
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from distcomp.errors import BundleTooLargeError, ConfigError
from distcomp.ids import BundleId
from distcomp.payload.archive import ArchivedFile, pack_files
from distcomp.payload.missing import stub_source
from distcomp.payload.modules import reached
from distcomp.payload.project_files import Scans, SourceFile, Unit, folder_files, unit_of
from distcomp.protocol import DefineBundle

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    from distcomp.config import ClientSettings

DIGEST_BYTES = 32
MAX_NAME_LENGTH = 256


class Project:
    """Makes bundles of the local modules of this process.

    Args:
        folder: all of it travels, whatever of it is reached; None for what is reached alone.
        is_on: whether local modules travel at all.
        max_bytes: of the files in a bundle.
        max_files: in a bundle.
        check_s: files are looked at again after so many seconds.

    Raises:
        ConfigError: the folder is none.

    Example:
        `Project(max_bytes=1 << 20, max_files=100, check_s=0.5).current()`

    Attributes:
        is_on: see above.
        latest: the bundle that `current` gave last, or None.
        is_fresh: whether the next `current` need not look if a module was reloaded; for others to reset.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        is_on: bool = True,
        max_bytes: int,
        max_files: int,
        check_s: float,
    ) -> None:
        if folder is not None and not folder.is_dir():
            raise ConfigError(f"project={str(folder)!r} is no folder")
        self._folder = folder.resolve() if folder is not None else None
        self.is_on = is_on
        self._by_path = False
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._check_s = check_s
        self._scans = Scans()
        self._lock = Lock()
        self.latest: DefineBundle | None = None
        self.is_fresh = False
        self._files: dict[str, SourceFile] | None = None
        self._loaded: list[tuple[str, Any, Any]] = []
        self._reached = self._modules = 0
        self._look_at = 0.0

    def share_path(self) -> None:
        """Slots find local modules where this process does: they only need to know in which state they are.

        A folder that was named travels all the same.
        """
        self._by_path = self._folder is None

    def current(self) -> DefineBundle | None:
        """The bundle for tasks that are handed in now; None if they need no local modules.

        Raises:
            BundleTooLargeError: there is more than may travel.
            OSError: a file cannot be read.
        """
        if not self.is_on or not (reached or self._folder):
            return None
        if self.is_fresh and len(reached) == self._reached:
            return self.latest
        with self._lock:
            self._look_again()
        return self.latest

    def _look_again(self) -> None:
        """Make another bundle if it is time to look for changes, or anything tells of some."""
        before, self._reached = self._reached, -1  # until it is done, whoever asks waits for it
        noted, known = len(reached), sys.modules
        self.is_fresh = True
        is_reloaded = False
        for name, module, spec in self._loaded:
            if known.get(name) is not module or getattr(module, "__spec__", None) is not spec:
                is_reloaded = True
                break
        changed = noted != before or len(known) != self._modules
        if is_reloaded or changed or time.monotonic() >= self._look_at:
            self._renew(read_all=is_reloaded)
        self._reached = noted

    def _renew(self, *, read_all: bool) -> None:
        """Make another bundle if anything is not as it was."""
        self._modules = len(sys.modules)
        files, units = self._collect()
        if files != self._files or read_all:
            self.latest = self._bundled(files, units)
            self._files = files
        prefixes = tuple(f"{name}." for name in units)
        self._loaded = [
            (name, module, getattr(module, "__spec__", None))
            for name, module in list(sys.modules.items())
            if name in units or name.startswith(prefixes)
        ]
        self._look_at = time.monotonic() + self._check_s

    def _collect(self) -> tuple[dict[str, SourceFile], dict[str, Unit]]:
        """The files that belong to it by their names, and the units that they make up."""
        files: dict[str, SourceFile] = {}
        units: dict[str, Unit] = {}
        waiting: list[str] = []
        self._scans.begin()
        if self._folder is not None:
            found = self._add(files, self._folder_files(self._folder), str(self._folder))
            waiting += self._imports(found, units)
        waiting += reached
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            unit = unit_of(name)
            if unit is None or unit.name in units or not unit.place.exists():
                continue
            units[unit.name] = unit
            found = self._add(files, unit.files(), f"{unit.name} ({unit.place})")
            waiting += self._imports(found, units)
        return files, units

    @staticmethod
    def _folder_files(folder: Path) -> Iterator[SourceFile]:
        is_package = (folder / "__init__.py").exists()
        return folder_files(folder, f"{folder.name}/" if is_package else "")

    def _add(self, files: dict[str, SourceFile], more: Iterable[SourceFile], what: str) -> list[SourceFile]:
        """Add files as far as they may travel."""
        added = []
        size_bytes = sum(file.size_bytes for file in files.values())
        for file in more:
            added.append(file)
            files[file.name] = file
            size_bytes += 0 if file.extension else file.size_bytes
            if self._by_path:  # nothing of it travels; beyond the bound, changes go unnoticed
                if len(files) > self._max_files:
                    break
                continue
            if size_bytes > self._max_bytes or len(files) > self._max_files:
                bound = f"{size_bytes} bytes (bundle_bytes is {self._max_bytes})"
                if len(files) > self._max_files:
                    bound = f"more than {self._max_files} files (bundle_files)"
                raise BundleTooLargeError(
                    f"the project's modules take {bound}, with {what}; keep large data out of packages, "
                    "raise the bound, or pass project=False to send functions by value"
                )
        return added

    def _imports(self, files: list[SourceFile], units: dict[str, Unit]) -> list[str]:
        return [name for file in files for name in self._scans.local_imports(file, units)]

    def _bundled(self, files: dict[str, SourceFile], units: dict[str, Unit]) -> DefineBundle | None:
        if not files:
            return None
        if self._by_path:
            state = repr(sorted(files.values())).encode(errors="surrogatepass")
            blob = blake2b(state, digest_size=DIGEST_BYTES).digest()
        else:
            blob = pack_files(found for file in files.values() if (found := _archived(file)) is not None)
        names = [str(self._folder)] if self._folder is not None else sorted(units)
        name = ", ".join(names).encode(errors="replace").decode()[:MAX_NAME_LENGTH]
        digest = BundleId(blake2b(blob, digest_size=DIGEST_BYTES).digest())
        return DefineBundle(digest, name, 0 if self._by_path else len(files), blob)


def open_project(
    given: str | os.PathLike[str] | bool | None,  # noqa: FBT001 - as the user gave it
    settings: ClientSettings,
) -> Project:
    """The project that a user's word for it means.

    Args:
        given: a folder; None for what tasks reach; False for none.
        settings: the client's.

    Raises:
        ConfigError: it is no folder.
    """
    return Project(
        None if given is None or isinstance(given, bool) else Path(given),
        is_on=given is not False,
        max_bytes=settings.bundle_bytes,
        max_files=settings.bundle_files,
        check_s=settings.bundle_check_s,
    )


def _archived(file: SourceFile) -> ArchivedFile | None:
    if file.extension:
        return ArchivedFile(file.name, stub_source(file.extension).encode())
    try:
        return ArchivedFile(file.name, Path(file.path).read_bytes(), file.is_executable)
    except FileNotFoundError:  # an editor's, or a run's of the project: it was gone before it could be read
        return None
