"""The bundle of a client's local modules: what is in it, when it is another one, what it may hold."""

from __future__ import annotations

import importlib
import os
import sys
import zlib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from overtaking import Overtaken, in_another_thread

from distcomp.config import ClientSettings
from distcomp.errors import BundleTooLargeError, ConfigError
from distcomp.payload import modules, open_project
from distcomp.payload.modules import home, reached
from distcomp.payload.pickler import dumps
from distcomp.payload.project import Project
from distcomp.payload.project_files import folder_files, imported_names, maybe_imported, unit_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distcomp.protocol import DefineBundle

EXTENSION = EXTENSION_SUFFIXES[0]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty project on the path; no module and no memory of one is left behind."""
    known, found = set(sys.modules), list(reached)
    monkeypatch.setattr(modules, "_homes", dict(modules._homes))
    monkeypatch.setattr(modules, "_noted", set())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(tmp_path))
    reached.clear()
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]
    reached[:] = found


def write(folder: Path, **files: str) -> None:
    """Make files; `__` in a name stands for a folder's border."""
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    importlib.invalidate_caches()


def package(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir(parents=True)
    (made / "__init__.py").touch()
    return made


def reach(*names: str) -> None:
    """Import modules and have pickles meet them."""
    for name in names:
        home(importlib.import_module(name).__name__)


def project(folder: Path | None = None, **changes: Any) -> Project:
    values: dict[str, Any] = {
        "max_bytes": 1 << 20,
        "max_files": 100,
        "check_s": 0.0,
        **changes,
    }
    by_path = values.pop("by_path", False)
    made = Project(folder, **values)
    if by_path:
        made.share_path()
    return made


def content(bundle: DefineBundle) -> dict[str, bytes]:
    return {name: data for name, data, _ in msgpack.unpackb(zlib.decompress(bundle.blob))}


# --- what is in it --------------------------------------------------------------------------------


def test_without_local_modules_there_is_none() -> None:
    assert project().current() is None


def test_a_module_comes_with_all_that_it_imports_wherever_the_statement_stands(folder: Path) -> None:
    write(
        folder,
        one="import json, two\n",
        two="def f():\n    from three import x\n",
        three="try: import four\nexcept ImportError: pass\nx = 1\n",
        four="import \\\n  five",
        five="",
        stranger="",
    )
    reach("one")
    assert sorted(content(project().current())) == ["five.py", "four.py", "one.py", "three.py", "two.py"]
    assert "three" not in sys.modules, "looking imports nothing"


def test_a_package_comes_whole_with_its_data_and_without_what_can_be_made_again(folder: Path) -> None:
    made = package(folder, "whole")
    write(
        folder,
        whole__part="from . import other\n",
        whole__other="",
        whole__deep__leaf="import beside",
        beside="",
    )
    (made / "data").mkdir()
    (made / "data" / "table.csv").write_text("1,2")
    for hidden in (".git", "__pycache__", "venv"):
        (made / hidden).mkdir()
        (made / hidden / "file").touch()
    (made / "venv" / "pyvenv.cfg").touch()
    (made / "old.pyc").touch()
    reach("whole.part")
    files = content(project().current())
    assert sorted(files) == [
        "beside.py",
        "whole/__init__.py",
        "whole/data/table.csv",
        "whole/deep/leaf.py",
        "whole/other.py",
        "whole/part.py",
    ]
    assert files["whole/data/table.csv"] == b"1,2"


def test_of_a_namespace_only_the_packages_reached_come(folder: Path) -> None:
    package(folder, "space/mine")
    package(folder, "space/theirs")
    write(folder, space__loose="", user="from space import loose\n")
    reach("space.mine", "user")
    assert sorted(content(project().current())) == ["space/loose.py", "space/mine/__init__.py", "user.py"]


def test_words_in_texts_bring_no_module_in(folder: Path) -> None:
    write(folder, told='"""Much came\nfrom data here;\nimport data or not."""\n')
    (folder / "data").mkdir()
    (folder / "data" / "huge.csv").write_text("x")
    reach("told")
    assert sorted(content(project().current())) == ["told.py"]


def test_a_source_with_an_error_comes_as_it_is(folder: Path) -> None:
    write(folder, fine="import broken, \\\n json", broken="import fine, nothing\ndef (\n")
    home("fine")
    sys.modules["fine"] = type(sys)("fine")
    sys.modules["fine"].__file__ = str(folder / "fine.py")
    home("fine")
    assert sorted(content(project().current())) == ["broken.py", "fine.py"]


def test_pickles_reach_modules(folder: Path) -> None:
    write(folder, met="class Outer:\n    class Inner: pass\ndef f(): pass\n")
    met = importlib.import_module("met")
    for value in (met.f, met.Outer(), met.Outer.Inner):
        reached.clear()
        modules._homes.pop("met", None)
        modules._noted.clear()
        blob = dumps(value, shares_path=True)
        assert reached == ["met"]
        assert b"met" in blob
        assert b"cloudpickle" not in blob, "it goes by reference"


def test_a_compiled_extension_leaves_a_word_about_itself(folder: Path) -> None:
    made = package(folder, "quick")
    (made / f"_fast{EXTENSION}").write_bytes(b"\x7fELF")
    (made / f"both{EXTENSION}").write_bytes(b"\x7fELF")
    (made / "both.py").write_text("pure = 1\n")
    reach("quick")
    files = content(project(max_bytes=100).current())
    assert sorted(files) == ["quick/__init__.py", "quick/_fast.py", "quick/both.py"]
    assert files["quick/both.py"] == b"pure = 1\n"
    with pytest.raises(ModuleNotFoundError, match=r"compiled extension quick\._fast \(of no version at the"):
        exec(files["quick/_fast.py"], {})  # noqa: S102 - that is what it is for


def test_a_single_compiled_extension_leaves_a_word_too(folder: Path) -> None:
    (folder / f"alone{EXTENSION}").write_bytes(b"\x7fELF")
    write(folder, needs="def f():\n    import alone\n")
    reach("needs")
    assert sorted(content(project().current())) == ["alone.py", "needs.py"]


def test_a_named_folder_comes_whole_with_what_it_imports(folder: Path) -> None:
    source = folder / "src"
    write(folder, src__app__main="import beside\n", beside="")
    (source / "notes.txt").write_text("read me")
    assert sorted(content(project(source).current())) == ["app/main.py", "beside.py", "notes.txt"]


def test_a_named_folder_that_is_a_package_keeps_its_name(folder: Path) -> None:
    assert sorted(content(project(package(folder, "lone")).current())) == ["lone/__init__.py"]


def test_a_named_folder_must_be_there(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"project=.*missing' is no folder"):
        project(folder / "missing")


def test_a_user_says_which_project(folder: Path) -> None:
    settings = ClientSettings()
    write(folder, loose="")
    reach("loose")
    assert open_project(False, settings).current() is None
    assert open_project(None, settings).current() == open_project(True, settings).current() is not None
    named = open_project(str(folder), settings)
    write(folder, loose="")
    named.share_path()
    assert list(content(named.current())) == ["loose.py"], (
        "a named folder travels even where paths are shared"
    )


# --- when it is another one -----------------------------------------------------------------------


def test_the_same_files_are_the_same_bundle_in_every_client(folder: Path) -> None:
    write(folder, same="")
    reach("same")
    first = project().current()
    (folder / "same.py").touch()
    assert project().current() == first
    assert (first.name, first.files, len(first.bundle)) == ("same", 1, 32)


def test_an_edited_file_is_another_bundle(folder: Path) -> None:
    write(folder, edited="x = 1\n")
    reach("edited")
    made = project()
    first = made.current()
    assert made.current() is first
    write(folder, edited="x = 22\n")
    made.is_fresh = False
    assert content(made.current()) == {"edited.py": b"x = 22\n"}


def test_a_reloaded_module_is_looked_at_at_once(folder: Path) -> None:
    write(folder, again="x = 1\n")
    reach("again")
    made = project(check_s=3600.0)
    made.current()
    before = (folder / "again.py").stat()
    write(folder, again="x = 2\n")
    os.utime(folder / "again.py", ns=(before.st_atime_ns, before.st_mtime_ns))
    made.is_fresh = False
    assert content(made.current()) == {"again.py": b"x = 1\n"}, "nothing tells that it changed"
    importlib.reload(sys.modules["again"])
    assert content(made.current()) == {"again.py": b"x = 1\n"}, "within one turn nothing is looked at"
    made.is_fresh = False
    assert content(made.current()) == {"again.py": b"x = 2\n"}


def test_a_reloaded_module_is_looked_at_before_another_thread_goes_on(folder: Path) -> None:
    write(folder, again="x = 1\n")
    reach("again")
    made = project(check_s=3600.0)
    made.current()
    write(folder, again="x = 22\n")
    importlib.reload(sys.modules["again"])
    made.is_fresh = False
    seen: list[DefineBundle | None] = []
    made._lock = Overtaken(lambda: seen.append(made.current()))
    assert made.current() is seen[0]
    assert content(seen[0]) == {"again.py": b"x = 22\n"}


def test_a_module_that_two_threads_reach_at_once_is_in_the_bundle_of_both(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, shared="")
    importlib.import_module("shared")
    made, note = project(), modules._note
    seen: list[DefineBundle | None] = []

    def other() -> None:
        home("shared")
        seen.append(made.current())

    def overtaken(name: str) -> None:
        monkeypatch.setattr(modules, "_note", note)
        in_another_thread(other)
        note(name)

    monkeypatch.setattr(modules, "_note", overtaken)
    home("shared")
    assert made.current() == seen[0]
    assert sorted(content(seen[0])) == ["shared.py"]


def test_it_grows_as_more_is_reached(folder: Path) -> None:
    write(folder, early="", late="")
    reach("early")
    made = project(check_s=3600.0)
    made.current()
    reach("late")
    assert sorted(content(made.current())) == ["early.py", "late.py"]
    assert made.latest.name == "early, late"


def test_files_are_looked_at_now_and_then_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, seldom="")
    reach("seldom")
    made = project(check_s=3600.0)
    made.current()
    monkeypatch.setattr(Path, "stat", None)
    made.is_fresh = False
    assert made.current() is made.latest


def test_a_module_that_is_gone_is_left_out(folder: Path) -> None:
    write(folder, here="", gone="")
    reach("here", "gone")
    (folder / "gone.py").unlink()
    assert sorted(content(project().current())) == ["here.py"]


def test_where_paths_are_shared_only_the_state_of_the_files_travels(folder: Path) -> None:
    write(folder, near="x = 1\n")
    (package(folder, "built") / f"_fast{EXTENSION}").write_bytes(b"\x7fELF")
    reach("near", "built")
    made = project(by_path=True, max_bytes=1)
    first = made.current()
    assert (first.files, first.name) == (0, "built, near")
    write(folder, near="x = 22\n")
    made.is_fresh = False
    assert made.current().bundle != first.bundle


# --- what it may hold -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "words"), [("max_bytes", "bundle_bytes is 5"), ("max_files", "more than 5 files")]
)
def test_more_than_may_travel_is_refused_each_time(folder: Path, bound: str, words: str) -> None:
    made = package(folder, "heavy")
    for number in range(6):
        (made / f"{number}.csv").write_text("12")
    reach("heavy")
    refused = project(**{bound: 5}, check_s=3600.0)
    for _ in range(2):
        with pytest.raises(BundleTooLargeError, match=words) as told:
            refused.current()
        assert "with heavy (" in str(told.value)
        assert "project=False" in str(told.value)


def test_where_paths_are_shared_a_large_package_is_not_walked_to_its_end(folder: Path) -> None:
    made = package(folder, "vast")
    for number in range(20):
        (made / f"{number}.csv").touch()
    reach("vast")
    bounded = project(by_path=True, max_files=5)
    assert bounded.current() is not None
    assert len(bounded._files or ()) == 6


# --- reading sources ------------------------------------------------------------------------------


def test_imports_are_read_exactly() -> None:
    source = b"import a.b, c as d\nfrom e.f import g\nfrom . import h\nfrom .i import j\nx = 'import k'\n"
    assert list(imported_names(source)) == ["a.b", "c", "e.f", "e.f.g"]


def test_imports_are_guessed_generously() -> None:
    source = b"import a.b\n  from c import d\nif x: import e; import f\n"
    source += b"'''\nfrom here import\n'''\nfrom .g import h\n"
    assert maybe_imported(source) == ["a", "c", "e", "f", "here"]
    assert maybe_imported(b"import a, b\n") is None
    assert maybe_imported(b"import \\\n a\n") is None
    assert maybe_imported(b"from a \\\n import b\n") is None
    assert maybe_imported(b"from a import b, c\n") == ["a"]
    assert maybe_imported(b"if x: from a import b, c\n") is None


def test_what_has_no_file_makes_no_unit() -> None:
    assert unit_of("nowhere_to_be_found") is None
    assert unit_of("json") is None


def test_links_to_folders_are_not_followed(folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "real" / "file").touch()
    (folder / "linked").symlink_to(folder)
    assert [file.name for file in folder_files(folder)] == ["real/file"]


def test_a_file_that_vanishes_while_it_is_packed_is_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = package(folder, "brisk")
    (made / "4913").touch()
    reach("brisk")
    read = Path.read_bytes

    def vanishing(path: Path) -> bytes:
        if path.name == "4913":
            path.unlink()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", vanishing)
    assert sorted(content(project().current())) == ["brisk/__init__.py"]
