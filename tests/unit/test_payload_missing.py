"""One line about a module that a worker lacks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgpack
import pytest

from distcomp.errors import UnloadableTaskError
from distcomp.payload import dump_failure, load_failure
from distcomp.payload.missing import missing_words
from distcomp.payload.pickler import loads
from distcomp.payload.versions import version_of

if TYPE_CHECKING:
    from pathlib import Path

WHERE = {"host": "east", "worker": "left"}


def lacking(name: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_a_package_is_named_with_its_version_here_and_the_host() -> None:
    version = ".".join(map(str, msgpack.version))
    line = missing_words(lacking("msgpack"), "left", "east")
    assert (
        line == f"worker left on host east lacks package msgpack ({version} at the client); install it there"
    )
    assert "lacks msgpack.new of package msgpack (" in missing_words(lacking("msgpack.new"), "left", "east")


def test_a_distribution_of_another_name_is_found() -> None:
    assert version_of("_pytest.main") == pytest.__version__
    assert version_of("nowhere_to_be_found") == ""


def test_other_modules_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "of_the_project.py").touch()
    assert "is the project's own and did not travel" in missing_words(
        lacking("of_the_project"), "left", "east"
    )
    assert "lacks sqlite3, which belongs to Python" in missing_words(lacking("sqlite3"), "left", "east")


@pytest.mark.parametrize(
    "error",
    [None, ValueError("no"), ImportError("no", name="json"), ModuleNotFoundError("no"), lacking("nowhere")],
)
def test_what_is_about_something_else_gives_no_line(error: BaseException | None) -> None:
    assert missing_words(error, "left", "east") == ""


def test_where_nothing_is_known_of_the_host_nothing_is_said() -> None:
    assert missing_words(lacking("msgpack"), "", "") == ""


def test_a_body_that_imports_what_is_not_there_fails_with_the_line() -> None:
    told = load_failure(dump_failure(lacking("msgpack"), **WHERE))
    assert type(told) is ModuleNotFoundError
    assert told.name == "msgpack"
    assert str(told).startswith("worker left on host east lacks package msgpack (")
    assert "\n" not in str(told)


def test_an_error_type_of_the_users_keeps_its_words() -> None:
    told = load_failure(dump_failure(lacking("nowhere_to_be_found"), **WHERE))
    assert str(told) == "No module named 'nowhere_to_be_found'"


def test_a_task_that_cannot_be_rebuilt_for_that_fails_with_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as there:
        there.setitem(sys.modules, "msgpack", None)
        with pytest.raises(UnloadableTaskError) as raised:
            loads(b"cmsgpack\npackb\n.", "the function")
    told = load_failure(dump_failure(raised.value, **WHERE))
    assert type(told) is UnloadableTaskError
    assert str(told).startswith("worker left on host east lacks package msgpack (")
