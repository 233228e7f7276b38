"""Archives: the same files always give the same bytes, and hostile ones lead nowhere."""

from __future__ import annotations

import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgpack
import pytest

from distcomp.errors import UnloadableTaskError
from distcomp.payload.archive import ArchivedFile, enter_bundle, pack_files, unpack_files

if TYPE_CHECKING:
    from pathlib import Path

ENOUGH = 1 << 20
FILES = [ArchivedFile("b/c.txt", b"data"), ArchivedFile("a.py", b"x = 1\n"), ArchivedFile("run", b"#!", True)]


def hostile(rows: Any) -> bytes:
    return zlib.compress(msgpack.packb(rows))


def test_the_same_files_in_any_order_give_the_same_bytes() -> None:
    assert pack_files(FILES) == pack_files(reversed(FILES))


def test_what_was_packed_is_unpacked_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    unpack_files(pack_files(FILES), folder, ENOUGH)
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {"b/c.txt": b"data", "a.py": b"x = 1\n", "run": b"#!"}
    modes = {path.name: path.stat().st_mode & 0o777 for path in [folder, *folder.rglob("*")]}
    assert modes == {"out": 0o700, "b": 0o700, "c.txt": 0o600, "a.py": 0o600, "run": 0o700}


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a.py", "a/../../b.py", "a//b.py", "", "./a.py", "a\0.py", "a\\b.py", "a/"]
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnloadableTaskError, match="outside"):
        unpack_files(hostile([[name, b"", False]]), tmp_path / "out", ENOUGH)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"nonsense",
        zlib.compress(b"\xc1"),
        hostile({"a.py": b""}),
        hostile([["a.py", "text", False]]),
        hostile([["a.py", b""]]),
        hostile([["a.py", b"", False, "more"]]),
        hostile([[1, b"", False]]),
        hostile(["a.py"]),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, blob: bytes) -> None:
    with pytest.raises(UnloadableTaskError, match="a bundle that"):
        unpack_files(blob, tmp_path / "out", ENOUGH)


def test_one_name_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        unpack_files(hostile([["a", b"1", False], ["a", b"2", False]]), tmp_path / "out", ENOUGH)


def test_a_small_archive_of_much_is_refused_before_it_is_opened_wholly(tmp_path: Path) -> None:
    for files in ([["a", b"0" * (64 << 20), False]], [[str(number), b"", False] for number in range(3000)]):
        with pytest.raises(UnloadableTaskError, match=r"cannot be read|bundle_bytes is"):
            unpack_files(hostile(files), tmp_path / "out", ENOUGH)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a worker makes it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "archive").write_bytes(pack_files(FILES))
    return tmp_path


def test_the_first_process_unpacks_and_all_import_from_it(placed: Path) -> None:
    (placed / "unpacking").mkdir()
    (placed / "unpacking" / "half").touch()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: enter_bundle(str(placed), ENOUGH), range(4)))
    assert sys.path[0] == str(placed / "modules")
    assert sorted(path.name for path in (placed / "modules").iterdir()) == ["a.py", "b", "run"]
    assert sorted(path.name for path in placed.iterdir()) == ["lock", "modules"]


def test_what_cannot_be_unpacked_says_so(placed: Path) -> None:
    (placed / "archive").write_bytes(hostile([["a", b"", False], ["a/b", b"", False]]))
    with pytest.raises(UnloadableTaskError, match="cannot be unpacked"):
        enter_bundle(str(placed), ENOUGH)
    assert sorted(path.name for path in placed.iterdir()) == ["archive", "lock"], "half of it takes no room"
