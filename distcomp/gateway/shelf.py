"""What a gateway keeps on its disk: published functions, tasks handed in, and what came of them.

A task is on the disk before its client is told its id, and an outcome before the scheduler may let go of it,
so that a gateway that is killed goes on where it was. How it gets there: `shelf_file`.

Laws:

- A submission is *open* until each of its indexes has an outcome; arguments are kept exactly so long.
- `open_tasks` of an owner is how many of its tasks have no outcome.
- `session` and `counter` say under which array the scheduler may know it. They are given before anything is
  sent, and no counter of a session is given twice.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from distcomp.gateway.problems import Problem, busy
from distcomp.gateway.shelf_file import ShelfFile

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from distcomp.published_calls import Publication

T = TypeVar("T")
FORMAT_VERSION = 1
REMEMBERED_NAMES = 256

_TABLES = """
CREATE TABLE functions (
    name TEXT NOT NULL, version TEXT NOT NULL, owner TEXT NOT NULL, digest BLOB NOT NULL,
    header TEXT NOT NULL, size_bytes INTEGER NOT NULL, published_at REAL NOT NULL, used_at REAL NOT NULL,
    uses INTEGER NOT NULL,
    publication BLOB NOT NULL, withdrawn INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (name, version));
CREATE TABLE submissions (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL, digest BLOB NOT NULL,
    python TEXT NOT NULL, options TEXT NOT NULL, tasks INTEGER NOT NULL, is_array INTEGER NOT NULL,
    submitted_at REAL NOT NULL, settled_at REAL, is_open INTEGER NOT NULL, session BLOB, counter INTEGER,
    idempotency TEXT, asked BLOB, settled INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX by_key ON submissions (owner, idempotency) WHERE idempotency IS NOT NULL;
CREATE INDEX by_owner ON submissions (owner, submitted_at, id);
CREATE INDEX open_ones ON submissions (owner, python) WHERE is_open;
CREATE INDEX ended_ones ON submissions (settled_at) WHERE NOT is_open;
CREATE TABLE chunks (
    submission TEXT NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL, chunk BLOB NOT NULL,
    PRIMARY KEY (submission, start)) WITHOUT ROWID;
CREATE TABLE outcomes (
    submission TEXT NOT NULL, place INTEGER NOT NULL, state TEXT NOT NULL, result BLOB, failure TEXT,
    settled_at REAL NOT NULL, PRIMARY KEY (submission, place)) WITHOUT ROWID;
CREATE TABLE logs (submission TEXT NOT NULL, place INTEGER NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY (submission, place)) WITHOUT ROWID;
CREATE TABLE owners (owner TEXT PRIMARY KEY, open_tasks INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE sessions (owner TEXT NOT NULL, python TEXT NOT NULL, session BLOB NOT NULL,
    counter INTEGER NOT NULL, PRIMARY KEY (owner, python));
"""


class Published(NamedTuple):
    """A version of a function, as it is listed. `header` is all of its publication but the bytes."""

    name: str
    version: str
    owner: str
    digest: bytes
    header: dict[str, Any]
    size_bytes: int
    published_at: float
    used_at: float
    uses: int


class HandedIn(NamedTuple):
    """A task or a task array that was handed in."""

    id: str
    owner: str
    name: str
    version: str
    digest: bytes
    python: str
    options: dict[str, Any]
    tasks: int
    is_array: bool
    submitted_at: float
    settled_at: float | None = None
    is_open: bool = True
    session: bytes | None = None
    counter: int | None = None
    idempotency: str | None = None
    asked: bytes | None = None


class TaskOutcome(NamedTuple):
    """What came of one task. `state` is `done`, `failed` or `cancelled`."""

    submission: str
    place: int
    state: str
    result: bytes | None
    failure: dict[str, Any] | None
    settled_at: float


_FUNCTION = "name, version, owner, digest, header, size_bytes, published_at, used_at, uses"
_SUBMISSION = ", ".join(HandedIn._fields)


class TaskShelf:
    """One gateway's disk.

    Args:
        path: of the file, which is made if it is not there.
        max_bytes: with so many nothing more is taken in.

    Raises:
        ConfigError: the file cannot be used, or another gateway uses it.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._remembered: dict[str, list[Published]] = {}
        self._changes = 0
        self._file = ShelfFile(path, _TABLES, FORMAT_VERSION)

    async def close(self) -> None:
        """Write all that is under way, and close the file."""
        await self._file.close()

    def _check_room(self, db: sqlite3.Connection, size_bytes: int) -> None:
        (pages,), (free,), (page_bytes,) = (
            db.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count", "page_size")
        )
        if (pages - free) * page_bytes + size_bytes > self._max_bytes:
            raise Problem(
                "full", f"the gateway keeps {self._max_bytes:,} bytes, which is all it may (max_kept_bytes)"
            )

    # --- functions ---

    async def publish(self, owner: str, publication: Publication, data: bytes, most: int) -> Published | None:
        """Keep a publication; None if the same one is there already.

        Raises:
            Problem: another one has this name and version, the name is somebody else's, or there is no room.
        """

        def act(db: sqlite3.Connection) -> Published | None:
            if _is_there(db, owner, publication):
                return None
            self._check_room(db, len(data))
            if db.execute("SELECT count(*) FROM functions").fetchone()[0] >= most:
                raise Problem("full", f"{most:,} functions are published, as many as may be; withdraw some")
            now = time.time()
            header = {
                "versions": publication.versions,
                "parameters": publication.parameters,
                "doc": publication.doc,
            }
            row = (publication.name, publication.version, owner, publication.function)
            db.execute(
                "INSERT INTO functions VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, ?, 0)",
                (*row, json.dumps(header), len(data), now, data),
            )
            return Published(*row, header, len(data), now, 0.0, 0)

        return await self._forgetting(act)

    async def functions(self, name: str | None = None) -> list[Published]:
        """All published functions, or all versions of one, by name and time."""

        def act(db: sqlite3.Connection) -> list[Published]:
            where, values = ("AND name=?", (name,)) if name is not None else ("", ())
            query = (
                f"SELECT {_FUNCTION} FROM functions WHERE NOT withdrawn {where} "  # noqa: S608 - ours
                "ORDER BY name, published_at DESC"
            )
            rows = db.execute(query, values)
            return list(map(_published, rows))

        return await self._file.do(act)

    async def versions(self, name: str) -> list[Published]:
        """The same of one name, as those who call it need it: how much each was used may be old."""
        rows, changes = self._remembered.get(name), self._changes
        if rows is None:
            rows = await self.functions(name)
            if rows and changes == self._changes:
                if len(self._remembered) >= REMEMBERED_NAMES:
                    self._remembered.clear()
                self._remembered[name] = rows
        return rows

    async def withdraw(self, name: str, version: str, owner: str | None) -> None:
        """Forget a version; raises `Problem` if there is none, or if it is another owner's."""

        def act(db: sqlite3.Connection) -> None:
            query = "SELECT owner FROM functions WHERE name=? AND version=? AND NOT withdrawn"
            row = db.execute(query, (name, version)).fetchone()
            if row is None:
                raise Problem("not-found", f"no function {name} has a version {version}")
            if owner not in (None, row[0]):
                raise Problem("forbidden", f"{name} is {row[0]}'s")
            db.execute("UPDATE functions SET withdrawn=1 WHERE name=? AND version=?", (name, version))

        await self._forgetting(act)

    async def _forgetting(self, act: Callable[[sqlite3.Connection], T]) -> T:
        """Change functions; who looks them up afterwards sees it."""
        try:
            return await self._file.write(act)
        finally:
            self._changes += 1
            self._remembered.clear()

    async def publication(self, name: str, version: str) -> bytes:
        """The bytes of a publication, also if it was withdrawn while tasks of it are open."""

        def act(db: sqlite3.Connection) -> bytes:
            query = "SELECT publication FROM functions WHERE name=? AND version=?"
            row = db.execute(query, (name, version)).fetchone()
            return b"" if row is None else bytes(row[0])

        return await self._file.do(act)

    # --- submissions ---

    async def submit(
        self, made: HandedIn, chunks: Sequence[tuple[int, int, bytes]], most_open: int
    ) -> HandedIn:
        """Keep a submission; gives the one that has its idempotency key, if there is one already.

        Raises:
            Problem: there is no room, or its owner has too many tasks that have not ended.
        """

        def act(db: sqlite3.Connection) -> HandedIn:
            if made.idempotency is not None:
                query = f"SELECT {_SUBMISSION} FROM submissions WHERE owner=? AND idempotency=?"  # noqa: S608 - ours
                row = db.execute(query, (made.owner, made.idempotency)).fetchone()
                if row is not None:
                    return _submitted(row)
            self._check_room(db, sum(len(chunk) for _, _, chunk in chunks))
            query = (
                "INSERT INTO owners VALUES (?, ?) ON CONFLICT DO UPDATE "
                "SET open_tasks=open_tasks+excluded.open_tasks RETURNING open_tasks"
            )
            (count,) = db.execute(query, (made.owner, made.tasks)).fetchone()
            if count > most_open:
                raise busy(f"{count - made.tasks} tasks have not ended; at most {most_open} may be open")
            row = (*made[:6], json.dumps(made.options), *made[7:])
            marks = ", ".join("?" * len(row))
            db.execute(f"INSERT INTO submissions VALUES ({marks}, 0)", row)  # noqa: S608 - ours
            db.executemany("INSERT INTO chunks VALUES (?, ?, ?, ?)", [(made.id, *chunk) for chunk in chunks])
            db.execute(
                "UPDATE functions SET used_at=?, uses=uses+? WHERE name=? AND version=?",
                (made.submitted_at, made.tasks, made.name, made.version),
            )
            query = "SELECT session, counter FROM sessions WHERE owner=? AND python=?"
            session = db.execute(query, (made.owner, made.python)).fetchone()
            return made if session is None else _number(db, made, *session)

        return await self._file.write(act)

    async def find(self, number: str) -> HandedIn | None:
        """A submission by its id."""

        def act(db: sqlite3.Connection) -> HandedIn | None:
            query = f"SELECT {_SUBMISSION} FROM submissions WHERE id=?"  # noqa: S608 - ours
            row = db.execute(query, (number,)).fetchone()
            return None if row is None else _submitted(row)

        return await self._file.do(act)

    async def of_owner(self, owner: str | None, limit: int, before: tuple[float, str]) -> list[HandedIn]:
        """Submissions of an owner, or of all, the newest first, from before a time and id on."""

        def act(db: sqlite3.Connection) -> list[HandedIn]:
            where, values = ("owner=? AND", (owner,)) if owner is not None else ("", ())
            query = (
                f"SELECT {_SUBMISSION} FROM submissions WHERE {where} (submitted_at, id) < (?, ?) "  # noqa: S608 - ours
                "ORDER BY submitted_at DESC, id DESC LIMIT ?"
            )
            return [_submitted(row) for row in db.execute(query, (*values, *before, limit))]

        return await self._file.do(act)

    async def open_ones(self, owner: str, python: str) -> list[HandedIn]:
        """Open submissions of one owner and Python version, in the order of their session."""

        def act(db: sqlite3.Connection) -> list[HandedIn]:
            query = (
                f"SELECT {_SUBMISSION} FROM submissions WHERE is_open AND owner=? AND python=? "  # noqa: S608 - ours
                "ORDER BY counter"
            )
            return [_submitted(row) for row in db.execute(query, (owner, python))]

        return await self._file.do(act)

    async def arguments(self, number: str) -> tuple[list[tuple[int, int, bytes]], list[int]]:
        """The chunks of an open submission, and the places that have outcomes already."""

        def act(db: sqlite3.Connection) -> tuple[list[tuple[int, int, bytes]], list[int]]:
            chunks = db.execute(
                "SELECT start, stop, chunk FROM chunks WHERE submission=? ORDER BY start", (number,)
            )
            places = db.execute("SELECT place FROM outcomes WHERE submission=? ORDER BY place", (number,))
            return chunks.fetchall(), [place for (place,) in places]

        return await self._file.do(act)

    async def parties(self) -> list[tuple[str, str]]:
        """Owners and Python versions with open submissions."""
        return await self._file.do(
            lambda db: db.execute("SELECT DISTINCT owner, python FROM submissions WHERE is_open").fetchall()
        )

    async def session(self, owner: str, python: str) -> bytes | None:
        """The session that the open submissions belong to."""

        def act(db: sqlite3.Connection) -> bytes | None:
            query = "SELECT session FROM sessions WHERE owner=? AND python=?"
            row = db.execute(query, (owner, python)).fetchone()
            return None if row is None else row[0]

        return await self._file.do(act)

    async def enter(self, owner: str, python: str, session: bytes) -> list[HandedIn]:
        """Give every open submission a place in a session; gives those that were in another one before."""

        def act(db: sqlite3.Connection) -> list[HandedIn]:
            query = "SELECT session, counter FROM sessions WHERE owner=? AND python=?"
            row = db.execute(query, (owner, python)).fetchone()
            counter = row[1] if row is not None and row[0] == session else 0
            db.execute(
                "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?)", (owner, python, session, counter)
            )
            query = (
                f"SELECT {_SUBMISSION} FROM submissions WHERE is_open AND owner=? AND python=? "  # noqa: S608 - ours
                "AND session IS NOT ? ORDER BY submitted_at"
            )
            strangers = list(map(_submitted, db.execute(query, (owner, python, session)).fetchall()))
            for stranger in strangers:
                _number(db, stranger, session, counter)
                counter += 1
            return [stranger for stranger in strangers if stranger.session is not None]

        return await self._file.write(act)

    # --- outcomes ---

    async def settle(
        self, outcomes: Sequence[TaskOutcome], logs: Sequence[tuple[str, int, str]] = ()
    ) -> None:
        """Keep outcomes, the first of each task, and lines that tasks have printed."""

        def act(db: sqlite3.Connection) -> None:
            rows: dict[str, list[tuple[Any, ...]]] = {}
            for each in outcomes:
                failure = None if each.failure is None else json.dumps(each.failure)
                rows.setdefault(each.submission, []).append((*each[:4], failure, each.settled_at))
            for number, some in rows.items():
                fresh = db.executemany("INSERT OR IGNORE INTO outcomes VALUES (?, ?, ?, ?, ?, ?)", some)
                _count_settled(db, number, fresh.rowcount)
            db.executemany("INSERT OR REPLACE INTO logs VALUES (?, ?, ?)", logs)

        await self._file.write(act)

    async def outcomes(self, number: str, start: int, stop: int) -> list[TaskOutcome]:
        """The outcomes that there are of some places of a submission."""

        def act(db: sqlite3.Connection) -> list[TaskOutcome]:
            query = "SELECT * FROM outcomes WHERE submission=? AND place>=? AND place<? ORDER BY place"
            rows = db.execute(query, (number, start, stop))
            return list(map(_outcome, rows))

        return await self._file.do(act)

    async def counts(self, number: str) -> dict[str, int]:
        """How many outcomes a submission has, by their states."""
        return await self._file.do(
            lambda db: dict(
                db.execute(
                    "SELECT state, count(*) FROM outcomes WHERE submission=? GROUP BY state", (number,)
                ).fetchall()
            )
        )

    async def printed(self, number: str, place: int) -> str:
        """What a task has printed, as far as it was asked for."""

        def act(db: sqlite3.Connection) -> str:
            query = "SELECT text FROM logs WHERE submission=? AND place=?"
            row = db.execute(query, (number, place)).fetchone()
            return "" if row is None else str(row[0])

        return await self._file.do(act)

    async def drop_before(self, settled_at: float) -> int:
        """Forget what ended before a time; how many submissions that were."""

        def act(db: sqlite3.Connection) -> int:
            rows = db.execute(
                "SELECT id FROM submissions WHERE NOT is_open AND settled_at<? LIMIT 1000", (settled_at,)
            ).fetchall()
            for table, column in (("outcomes", "submission"), ("logs", "submission"), ("submissions", "id")):
                db.executemany(f"DELETE FROM {table} WHERE {column}=?", rows)  # noqa: S608 - ours
            db.execute(
                "DELETE FROM functions WHERE withdrawn AND NOT EXISTS (SELECT 1 FROM submissions "
                "WHERE is_open AND submissions.name=functions.name AND submissions.version=functions.version)"
            )
            return len(rows)

        return await self._file.write(act)


def _is_there(db: sqlite3.Connection, owner: str, publication: Publication) -> bool:
    """Whether the same publication is there already; raises `Problem` if another one is in its way."""
    query = "SELECT owner, version, digest FROM functions WHERE name=?"
    for other, version, digest in db.execute(query, (publication.name,)).fetchall():
        if other != owner:
            raise Problem("forbidden", f"the name {publication.name} is {other}'s; choose another one")
        if version == publication.version and digest != publication.function:
            raise Problem("conflict", f"version {version} is another function; choose another version")
        if version == publication.version:
            change = "UPDATE functions SET withdrawn=0 WHERE name=? AND version=?"
            db.execute(change, (publication.name, version))
            return True
    return False


def _number(db: sqlite3.Connection, submitted: HandedIn, session: bytes, counter: int) -> HandedIn:
    """Give a submission the next number of a session."""
    numbered = submitted._replace(session=session, counter=counter + 1)
    change = "UPDATE submissions SET session=?, counter=? WHERE id=?"
    db.execute(change, (session, numbered.counter, submitted.id))
    change = "UPDATE sessions SET counter=? WHERE owner=? AND python=?"
    db.execute(change, (numbered.counter, submitted.owner, submitted.python))
    return numbered


def _count_settled(db: sqlite3.Connection, number: str, fresh: int) -> None:
    """So many tasks more of a submission have ended; with the last one it is closed."""
    db.execute("UPDATE submissions SET settled=settled+? WHERE id=?", (fresh, number))
    change = (
        "UPDATE owners SET open_tasks=open_tasks-? WHERE owner=(SELECT owner FROM submissions WHERE id=?)"
    )
    db.execute(change, (fresh, number))
    change = "UPDATE submissions SET is_open=0, settled_at=? WHERE id=? AND is_open AND settled>=tasks"
    if db.execute(change, (time.time(), number)).rowcount:
        db.execute("DELETE FROM chunks WHERE submission=?", (number,))


def _outcome(row: Any) -> TaskOutcome:
    kept = TaskOutcome(*row)
    return kept._replace(failure=None if row[4] is None else json.loads(row[4]))


def _published(row: Any) -> Published:
    return Published(*row)._replace(header=json.loads(row[4]))


def _submitted(row: Any) -> HandedIn:
    values = dict(zip(HandedIn._fields, row, strict=True))
    flags = {name: bool(values[name]) for name in ("is_array", "is_open")}
    return HandedIn(**{**values, **flags, "options": json.loads(values["options"])})
