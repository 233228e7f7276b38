"""Damage to the files of a journal: everything in it is read as it was written, or the damage is named.

A journal is left as a kill leaves it, with its log beside it. Then a bit of one of its files is turned, and
what the next start makes of that is compared with what was written. Where all can still be read, nothing is
missing; where not, the error names the first commit that cannot, and all before it were read as they were.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from clusters import Programs, until

from distcomp.config import JournalSettings
from distcomp.errors import JournalDamagedError, JournalFailedError, JournalFormatError
from distcomp.ids import ClusterId, FunctionId, SessionId
from distcomp.journal import Journal
from distcomp.records import CompactionBegan, EpochBegan, FunctionDefined, Record, SessionEnded

if TYPE_CHECKING:
    from collections.abc import Iterator

FLIPS = int(os.environ.get("CHAOS_FLIPS", "1000"))
"""How many bits are turned, one at a time; 0 for one in every byte."""

SEED = int(os.environ.get("CHAOS_SEED", "1"))
CLUSTER = ClusterId(b"c" * 16)
COMMITS = 60
COMPACTED_AT = 25
CASE_S = 90.0
NOBODY = 65534
SHARED = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - all in it get names of their own
SETTINGS = JournalSettings(
    journal_checkpoint_bytes=1 << 17, journal_drop_bytes=1 << 14, journal_blob_bytes=64 << 10
)
ROWS = "SELECT * FROM commits WHERE sequence >= ? ORDER BY sequence"
BLOBS = "journal.db-blobs"
SHARES = {"journal.db": 0.45, "journal.db-wal": 0.35, "journal.db-last": 0.05}
"""How much of the damage hits which file; the rest hits blobs."""


class Life(NamedTuple):
    """The files that a journal left, by name; its commits and what their rows hold, by number.

    `other` are those of another journal of the same cluster, with the same records.
    """

    files: dict[str, bytes]
    commits: dict[int, list[Record]]
    rows: dict[int, tuple[Any, ...]]
    other: dict[str, bytes]


class Flip(NamedTuple):
    """One bit of one file."""

    file: str
    byte: int
    bit: int


def said(number: int) -> list[Record]:
    """What a commit holds: mostly little, sometimes pages, sometimes a file of its own."""
    size_bytes = 66_000 if number == COMPACTED_AT + 5 else 50 + number**3 % 6000
    blob = random.Random(number).randbytes(size_bytes)  # noqa: S311 - no secret
    function = FunctionDefined(FunctionId(blob[:32]), "f", blob)
    return [EpochBegan(number, 1.0, "1"), SessionEnded(SessionId(blob[:16])), function]


def killed(path: Path) -> dict[str, bytes]:
    """What is there of a journal whose scheduler was killed."""
    journal = Journal(path, CLUSTER, SETTINGS)
    list(journal.recovered)
    told = threading.Semaphore(0)

    def fail(error: object) -> None:
        raise AssertionError(error)

    journal.start(
        lambda function, value: function(value),
        on_committed=lambda _: told.release(),
        on_full=fail,
        on_no_room=fail,
        on_failed=fail,
    )
    for number in range(1, COMMITS + 1):
        if number == COMPACTED_AT:
            journal.begin_compaction()
        journal.append(number, [CompactionBegan(), *said(number)] if number == COMPACTED_AT else said(number))
        if number == COMPACTED_AT:
            journal.end_compaction()
        assert told.acquire(timeout=CASE_S)
    files = until(lambda: unmoved(path.parent), "the journal has tidied up")
    journal.close()
    return files


def unmoved(folder: Path) -> dict[str, bytes]:
    """What is in the files of a folder, if nobody changes them; else nothing."""

    def look() -> dict[str, bytes]:
        there = [each for each in folder.rglob("*") if each.is_file()]
        return {str(each.relative_to(folder)): each.read_bytes() for each in there}

    with contextlib.suppress(FileNotFoundError):
        files = look()
        return files if files == look() else {}
    return {}


def lived(folder: Path) -> Life:
    files, other = killed(folder / "one" / "journal.db"), killed(folder / "other" / "journal.db")
    path = lay_out(files, folder / "copy")
    commits, error = opened(path)
    assert error is None
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = list(connection.execute(ROWS, (COMPACTED_AT,)))
    return Life(files, commits, {row[0]: row for row in rows}, other)


def lay_out(files: dict[str, bytes], folder: Path) -> Path:
    """Put the files of a journal into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / "journal.db"


def flips(files: dict[str, bytes], count: int) -> Iterator[Flip]:
    """Bits to turn: those of every head, then any; or one of every byte."""
    chance = random.Random(SEED)  # noqa: S311 - no secret
    named = {name: len(content) for name, content in files.items() if content and name in SHARES}
    blobs = {name: len(content) for name, content in files.items() if name.startswith(BLOBS)}
    if not count:
        for name, size_bytes in {**named, **blobs}.items():
            yield from (Flip(name, byte, chance.randrange(8)) for byte in range(size_bytes))
        return
    yield from (Flip("journal.db", byte, chance.randrange(8)) for byte in range(100))
    yield from (Flip("journal.db-wal", byte, chance.randrange(8)) for byte in range(56))
    kinds = [*SHARES, BLOBS]
    weights = [*SHARES.values(), 1 - sum(SHARES.values())]
    for kind in chance.choices(kinds, weights, k=count - 156):
        name = chance.choice(sorted(blobs)) if kind == BLOBS else kind
        yield Flip(name, chance.randrange(len(files[name])), chance.randrange(8))


@pytest.fixture(scope="module")
def quick_folder() -> Iterator[Path]:
    """A folder, in memory where there is such a disk."""
    with tempfile.TemporaryDirectory(dir=SHARED) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def life(quick_folder: Path) -> Life:
    return lived(quick_folder)


def first_unreadable(path: Path, life: Life) -> int:
    """The first commit that SQLite does not give as it was written; one past the last if it gives all."""
    expected = min(life.rows)
    connection = sqlite3.connect(path)
    with contextlib.closing(connection), contextlib.suppress(sqlite3.Error):
        for row in connection.execute(ROWS, (expected,)):
            if row != life.rows.get(expected):
                break
            expected += 1
    return expected


def opened(path: Path) -> tuple[dict[int, list[Record]], JournalDamagedError | None]:
    """What a damaged journal gives, and how it is refused. Any other error passes."""
    found: dict[int, list[Record]] = {}
    begin = time.monotonic()
    try:
        journal = Journal(path, CLUSTER, SETTINGS)
        try:
            for commit in journal.recovered:
                found[commit.sequence] = commit.records
        finally:
            journal.close()
    except JournalDamagedError as error:
        return found, error
    finally:
        assert time.monotonic() - begin < CASE_S
    return found, None


def check(files: dict[str, bytes], folder: Path, life: Life, number: int) -> str:
    """What becomes of a damaged journal: `read`, or `refused`. Anything else fails."""
    path = lay_out(files, folder)
    found, error = opened(path)
    if error is None:
        assert found == life.commits
        return "read"
    assert found == {number: life.commits[number] for number in found}
    assert all(number < error.sequence for number in found)
    assert "\n" not in str(error)
    assert str(path) in str(error)
    assert "--fresh" in str(error)
    assert (f"commit {error.sequence}:" if error.sequence else "its head:") in str(error)
    if number % 5 == 0:
        _, again = opened(path)
        assert again is not None, "it is refused for as long as it is damaged"
        assert again.sequence == error.sequence
        if error.sequence and BLOBS not in str(error) and "beside another journal" not in str(error):
            assert error.sequence == first_unreadable(lay_out(files, folder), life)
    return "refused"


def named(files: dict[str, bytes], kind: str) -> str:
    """The full name of a file of a journal; of its blobs the first."""
    return min(name for name in files if name.startswith(f"journal.db{kind}"))


@pytest.mark.parametrize("kind", ["", "-wal", "-last", "-blobs"])
def test_a_file_cut_short_or_missing_or_another_journals_is_harmless_or_named(
    life: Life, quick_folder: Path, kind: str
) -> None:
    folder = quick_folder / "damaged"
    name = named(life.files, kind) if kind else "journal.db"
    whole = life.files[name]
    for place in range(20):
        cut = {**life.files, name: whole[: len(whole) * place // 20]}
        check(cut, folder, life, place)
    missing = {each: content for each, content in life.files.items() if each != name}
    assert check(missing, folder, life, 0) == ("read" if kind == "-last" else "refused")
    foreign = b"another" if kind == "-blobs" else life.other[name]
    assert check({**life.files, name: foreign}, folder, life, 0) == "refused"


def test_files_in_each_others_places_are_named(life: Life, quick_folder: Path) -> None:
    folder, files, other = quick_folder / "damaged", life.files, life.other
    exchanged = {**files, "journal.db": files["journal.db-wal"], "journal.db-wal": files["journal.db"]}
    assert check(exchanged, folder, life, 0) == "refused"
    ends = {name: other[name] for name in ("journal.db-wal", "journal.db-last")}
    assert check({**files, **ends}, folder, life, 0) == "refused"
    assert check({**other, **ends, "journal.db": files["journal.db"]}, folder, life, 0) == "refused"
    assert check({**other, "journal.db-last": files["journal.db-last"]}, folder, life, 0) == "refused"
    note = {"journal.db-last": files["journal.db-last"]}
    assert check(note, folder, life, 0) == "refused"


@pytest.mark.parametrize("kind", ["", "-wal", "-last", "-lock"])
def test_a_folder_where_a_file_should_be_is_told(life: Life, quick_folder: Path, kind: str) -> None:
    name = f"journal.db{kind}"
    path = lay_out(
        {each: data for each, data in life.files.items() if each != name}, quick_folder / "damaged"
    )
    Path(f"{path}{kind}").mkdir()
    with pytest.raises((JournalFormatError, JournalFailedError), match=r"is no file|Is a directory"):
        opened(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("kind", ["", "-wal", "-last", "-lock"])
def test_a_file_that_may_not_be_written_is_told(life: Life, kind: str) -> None:
    with tempfile.TemporaryDirectory(dir=SHARED) as parent:
        Path(parent).chmod(0o755)
        path = lay_out(life.files, Path(parent) / "state")
        for each in (path.parent, *path.parent.rglob("*")):
            os.chown(each, NOBODY, NOBODY)
        Path(f"{path}{kind}").chmod(0o400)
        os.seteuid(NOBODY)
        try:
            with pytest.raises(
                JournalFailedError, match=r"may not read and write|Permission denied"
            ) as refusal:
                opened(path)
        finally:
            os.seteuid(0)
    assert str(path) in str(refusal.value)


# --- the same through the program ------------------------------------------------------------------


def refused(cluster: Programs, path: Path, *flags: str) -> str:
    """The one line with which a scheduler refuses a journal."""
    process = cluster.start(
        "scheduler", "--quiet", "--port", "0", "--name", "test", "--journal", str(path), *flags
    )
    until(lambda: process.poll() is not None, "the scheduler ends")
    (line,) = cluster.said(process).splitlines()
    assert process.returncode == 1, line
    assert line.startswith("distcomp-scheduler: ")
    assert str(path) in line
    return line


def test_a_scheduler_tells_in_one_line_why_it_does_not_start_and_what_helps(
    cluster: Programs, tmp_path: Path, life: Life
) -> None:
    letter, folder = tmp_path / "letter.txt", tmp_path / "folder"
    letter.write_text("Dear reader, " * 100)
    folder.mkdir()
    assert "no journal of distcomp: name another file with --journal" in refused(cluster, letter)
    assert "is no file: name another journal with --journal" in refused(cluster, folder)
    path = lay_out(life.files, tmp_path / "other")
    line = refused(cluster, path)
    assert f"belongs to cluster {CLUSTER.hex()[:12]}" in line
    assert "set it aside with --fresh" in line


def test_a_damaged_journal_is_refused_by_number_until_it_is_set_aside(
    cluster: Programs, tmp_path: Path
) -> None:
    path = tmp_path / "journal.db"
    first = cluster.scheduler("test", "--journal", str(path))
    until(lambda: "nothing to recover" in cluster.said(first), "the journal is begun")
    first.kill()
    first.wait()
    log = Path(f"{path}-wal")
    log.write_bytes(log.read_bytes()[:-100])
    for _ in range(2):
        line = refused(cluster, path)
        assert f"the journal {path} is damaged at commit 1: commits up to 1 were written" in line
        assert "--fresh" in line
    again = cluster.scheduler("test", "--journal", str(path), "--fresh")
    until(lambda: "nothing to recover" in cluster.said(again), "a new journal is begun")
    assert "set the old journal aside as" in cluster.said(again)
    assert len(list(tmp_path.glob("journal.db.*-wal-damaged"))) == 1


def test_every_bit_turned_is_harmless_or_named(life: Life, quick_folder: Path) -> None:
    assert min(life.commits) == COMPACTED_AT
    assert max(life.commits) == COMMITS
    outcomes: dict[str, set[str]] = {}
    for number, flip in enumerate(flips(life.files, FLIPS)):
        content = bytearray(life.files[flip.file])
        content[flip.byte] ^= 1 << flip.bit
        files = {**life.files, flip.file: bytes(content)}
        try:
            became = check(files, quick_folder / "damaged", life, number)
        except BaseException as error:
            raise AssertionError(f"after {flip}: {type(error).__name__}: {error}") from error
        outcomes.setdefault(flip.file.split("/")[0], set()).add(became)
    assert outcomes == {
        "journal.db": {"read", "refused"},
        "journal.db-wal": {"read", "refused"},
        "journal.db-last": {"read"},
        BLOBS: {"refused"},
    }
