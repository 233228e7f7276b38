"""The folders of a worker's bundles: private, bounded, never taken away from who imports from them."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from distcomp import bundle_store
from distcomp.bundle_store import PREFIX, BundleStore
from distcomp.ids import BundleId, SessionId
from distcomp.protocol import DefineBundle

if TYPE_CHECKING:
    from collections.abc import Iterator

SESSION, OTHER = SessionId(b"s" * 16), SessionId(b"o" * 16)


def bundle(name: bytes, *, files: int = 1) -> DefineBundle:
    return DefineBundle(BundleId(name * 32), "project", files, b"archive " + name)


ONE, TWO = bundle(b"1"), bundle(b"2")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def store(temporary: Path) -> Iterator[BundleStore]:
    made = BundleStore(1)
    yield made
    made.close()
    assert list(temporary.iterdir()) == []


def test_processes_of_a_session_and_bundle_share_a_folder(store: BundleStore) -> None:
    first = store.enter(1, SESSION, ONE)
    assert (Path(first) / "archive").read_bytes() == b"archive 1"
    assert store.enter(2, SESSION, ONE) == first
    assert store.enter(3, OTHER, ONE) != first
    assert store.enter(4, SESSION, TWO) != first


def test_nobody_else_can_look_into_it(store: BundleStore) -> None:
    folder = Path(store.enter(1, SESSION, ONE))
    assert [path.stat().st_mode & 0o777 for path in (folder, folder.parent)] == [0o700, 0o700]


def test_what_needs_no_folder_gets_none(store: BundleStore, temporary: Path) -> None:
    assert store.enter(1, SESSION, bundle(b"0", files=0)) == ""
    store.leave(1)
    assert list(temporary.iterdir()) == []


def test_a_bundle_that_the_disk_has_no_room_for_leaves_nothing_there(
    store: BundleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(store.enter(1, SESSION, bundle(b"a"))).parent
    before = sorted(root.iterdir())
    write = Path.write_bytes

    def write_some(path: Path, data: bytes) -> int:
        write(path, data[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_some)
    with pytest.raises(OSError, match="No space left"):
        store.enter(2, SESSION, bundle(b"b"))
    assert sorted(root.iterdir()) == before
    store.leave(2)
    assert len(store) == 1


def test_a_bounded_number_is_kept_unused_and_none_in_use_goes(store: BundleStore) -> None:
    folders = [Path(store.enter(number, SESSION, bundle(b"%d" % number))) for number in range(4)]
    assert all(folder.exists() for folder in folders)
    for number in (2, 0, 1):
        store.leave(number)
    assert [folder.exists() for folder in folders] == [False, False, True, True]
    assert store.enter(5, SESSION, bundle(b"2")) == str(folders[2])
    assert len(store) == 2


def test_the_end_of_a_session_removes_its_folders_as_they_come_free(store: BundleStore) -> None:
    mine, idle, foreign = (
        Path(store.enter(number, session, definition))
        for number, session, definition in ((1, SESSION, ONE), (2, SESSION, TWO), (3, OTHER, ONE))
    )
    store.leave(2)
    store.end_session(SESSION)
    assert [mine.exists(), idle.exists(), foreign.exists()] == [True, False, True]
    store.leave(1)
    store.leave(1)
    assert [mine.exists(), foreign.exists()] == [False, True]


def test_a_session_that_comes_back_meanwhile_keeps_its_folder(store: BundleStore) -> None:
    folder = store.enter(1, SESSION, ONE)
    store.end_session(SESSION)
    assert store.enter(2, SESSION, ONE) == folder
    store.leave(1)
    store.leave(2)
    assert Path(folder).exists()


def test_what_a_killed_worker_left_behind_is_removed_and_what_lives_is_not(
    store: BundleStore, temporary: Path
) -> None:
    dead, alive = temporary / f"{PREFIX}dead", temporary / f"{PREFIX}alive"
    for folder in (dead, alive):
        folder.mkdir()
        (folder / "lock").touch()
        (folder / "1").mkdir()
    lock = os.open(alive / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    store.enter(1, SESSION, ONE)
    assert [dead.exists(), alive.exists()] == [False, True]
    os.close(lock)
    (alive / "1").rmdir()
    (alive / "lock").unlink()
    alive.rmdir()


@pytest.mark.parametrize("moment", ["before the lock", "after it"])
def test_a_folder_that_another_worker_sweeps_as_it_is_made_is_made_anew(
    store: BundleStore, temporary: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    lock, swept = bundle_store._locked, []

    def locked(path: Path, flags: int = 0) -> int:
        if flags and not swept:
            swept.append(path)
            if moment == "before the lock":
                shutil.rmtree(path.parent)
                raise BlockingIOError
            descriptor = lock(path, flags)
            shutil.rmtree(path.parent)
            return descriptor
        return lock(path, flags)

    monkeypatch.setattr(bundle_store, "_locked", locked)
    assert Path(store.enter(1, SESSION, ONE), "archive").read_bytes() == b"archive 1"
    assert len(swept) == len(list(temporary.glob(f"{PREFIX}*"))) == 1
