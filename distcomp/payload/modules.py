"""Where modules come from: installed, of the user's own project, or made at run time.

Where its files lie decides: below the standard library's folder or one for installed packages, a module is
installed; so the files of an editable install, which lie elsewhere, are the project's own.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from functools import cache
from opcode import EXTENDED_ARG, opmap
from types import CodeType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FunctionType

INSTALLED, LOCAL, DYNAMIC = "installed", "local", "dynamic"

reached: list[str] = []
"""The local modules that pickles and functions of this process have met so far; it only grows."""

_OWN_PACKAGE = __name__.partition(".")[0]
_SITE_FOLDERS = frozenset({"site-packages", "dist-packages"})
_IMPORT_NAME = opmap["IMPORT_NAME"]
_noted: set[str] = set()
_homes: dict[str, str] = {"__main__": DYNAMIC, "__mp_main__": DYNAMIC}


def home(name: str | None) -> str:
    """Say whether the module `name`, which was imported, is installed, local or dynamic."""
    if name is None:
        return DYNAMIC
    found = _homes.get(name)
    if found is None:
        found = _find_home(name)
        if found is LOCAL:
            _note(name)  # before another thread may find its home, and take it for noted
        if found is not DYNAMIC:
            _homes[name] = found
    return found


def _find_home(name: str) -> str:
    root = name.partition(".")[0]
    module = sys.modules.get(name)
    if module is None:
        return DYNAMIC
    if is_standard(root):
        return INSTALLED
    origin, folders = places_of(name)
    files = [*filter(None, [origin]), *folders]
    if not files:
        return _find_home(root) if root != name else DYNAMIC
    return INSTALLED if all(map(is_installed, files)) else LOCAL


def is_standard(root: str) -> bool:
    """Whether a top-level module is the standard library's, or ours."""
    return root == _OWN_PACKAGE or root in sys.stdlib_module_names or root in sys.builtin_module_names


def is_installed(file: str) -> bool:
    """Whether a file lies where the standard library or installed packages lie."""
    file = file.replace("\\", "/")
    if not _SITE_FOLDERS.isdisjoint(file.split("/")):
        return True
    return file.startswith(_installed_folders())


@cache
def _installed_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(paths[key] + "/" for key in ("stdlib", "platstdlib", "purelib", "platlib"))


def places_of(name: str) -> tuple[str | None, list[str]]:
    """The file of a module, if it has one, and the folders of a package; it is not imported for that."""
    module: Any = sys.modules.get(name)
    if module is not None:
        file = getattr(module, "__file__", None)
        folders = getattr(module, "__path__", ())
    else:
        spec = _spec_of(name)
        file = spec.origin if spec is not None and spec.has_location else None
        folders = (spec.submodule_search_locations or ()) if spec is not None else ()
    try:
        return (file if isinstance(file, str) else None), [each for each in folders if isinstance(each, str)]
    except Exception:  # noqa: BLE001 - a path that a user's import hook made up
        return None, []


def _spec_of(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, AttributeError, ValueError):  # a parent is no package, or a hook says no
        return None


def is_local(name: str) -> bool:
    """Whether a module that may not have been imported is there and of the project."""
    if is_standard(name.partition(".")[0]):
        return False
    origin, folders = places_of(name)
    files = [*filter(None, [origin]), *folders]
    return bool(files) and not all(map(is_installed, files))


def reach_imports(function: FunctionType) -> None:
    """Note the local modules that a function which travels by value imports when it runs."""
    names = dict.fromkeys(imports_in(function.__code__))
    if not names:
        return
    package = function.__globals__.get("__package__")  # where relative imports of a script lead
    for name in filter(None, (*names, package)):
        if name not in _noted and is_local(name):
            _note(name)


def _note(name: str) -> None:
    if name not in _noted:
        reached.append(name)  # twice if two threads meet it at once, which harms nobody
        _noted.add(name)


def imports_in(code: CodeType) -> Iterator[str]:
    """The names in the import statements of a code and those nested in it."""
    argument = 0
    steps = code.co_code
    for place in range(0, len(steps), 2):
        argument = argument << 8 | steps[place + 1]
        if steps[place] == _IMPORT_NAME:
            yield code.co_names[argument]
        if steps[place] != EXTENDED_ARG:
            argument = 0
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from imports_in(constant)
