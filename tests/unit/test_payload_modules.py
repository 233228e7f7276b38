"""Where modules come from, and which ones a function imports."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

import pytest

from distcomp.payload import modules
from distcomp.payload.modules import (
    DYNAMIC,
    INSTALLED,
    LOCAL,
    home,
    imports_in,
    is_installed,
    is_local,
    reach_imports,
    reached,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave no module and no memory of one behind."""
    known, found = set(sys.modules), list(reached)
    monkeypatch.setattr(modules, "_homes", dict(modules._homes))
    monkeypatch.setattr(modules, "_noted", set(modules._noted))
    yield
    for name in set(sys.modules) - known:
        del sys.modules[name]
    reached[:] = found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "apart_module.py").write_text("def f(): pass\n")
    (tmp_path / "apart_package").mkdir()
    (tmp_path / "apart_package" / "__init__.py").touch()
    (tmp_path / "apart_package" / "part.py").touch()
    (tmp_path / "apart_space" / "inner").mkdir(parents=True)
    (tmp_path / "apart_space" / "inner" / "__init__.py").touch()
    return tmp_path


@pytest.mark.parametrize("name", ["json", "sys", "distcomp.client", "msgpack", "pytest"])
def test_the_standard_library_and_packages_are_installed(name: str) -> None:
    importlib.import_module(name)
    assert home(name) is INSTALLED
    assert not is_local(name)


@pytest.mark.parametrize("name", ["apart_module", "apart_package.part", "apart_space.inner"])
def test_what_lies_elsewhere_is_local_and_noted(folder: Path, name: str) -> None:
    assert folder.is_dir()
    assert is_local(name)
    assert name not in sys.modules, "looking imports nothing"
    importlib.import_module(name)
    assert home(name) is LOCAL
    assert home(name) is LOCAL
    assert reached.count(name) == 1


@pytest.mark.parametrize("name", [None, "__main__", "never_imported", "made_up"])
def test_what_has_no_file_is_dynamic(name: str | None) -> None:
    sys.modules["made_up"] = type(sys)("made_up")
    assert home(name) is DYNAMIC


def test_a_module_that_is_nowhere_is_not_local() -> None:
    assert not is_local("nowhere_to_be_found")
    assert not is_local("apart_package.nor.here")


@pytest.mark.parametrize(
    ("file", "installed"),
    [
        ("/somebody/.local/lib/python3.11/site-packages/a.py", True),
        ("/usr/lib/python3/dist-packages/a/b.py", True),
        ("C:\\Python\\Lib\\site-packages\\a.py", True),
        ("/somebody/project/a.py", False),
        ("/somebody/site-packages-of-mine/a.py", False),
    ],
)
def test_the_folder_of_a_file_decides(file: str, *, installed: bool) -> None:
    assert is_installed(file) is installed


def function_of(text: str, **scope: Any) -> Any:
    exec(text, scope)  # noqa: S102 - the text is the case
    return scope["f"]


def test_imports_are_found_wherever_they_stand_in_a_function() -> None:
    many = "".join(f"    use_{number}\n" for number in range(300))  # names beyond the first 256
    function = function_of(
        f"def f():\n    import a.b.c\n{many}    from late import x\n    def g():\n        from d import e\n"
    )
    assert list(imports_in(function.__code__)) == ["a.b.c", "late", "d"]


def test_a_function_that_travels_by_value_reaches_what_it_imports(folder: Path) -> None:
    assert folder.is_dir()
    reach_imports(function_of("def f():\n    import json, apart_module, nowhere_to_be_found\n"))
    assert reached[-1] == "apart_module"


def test_a_relative_import_reaches_the_package_of_the_script(folder: Path) -> None:
    assert folder.is_dir()
    reach_imports(function_of("def f():\n    from . import part\n", __package__="apart_package"))
    assert reached[-1] == "apart_package"


def test_a_function_without_imports_reaches_nothing() -> None:
    before = list(reached)
    reach_imports(function_of("def f():\n    return 1\n", __package__="apart_package"))
    assert reached == before
