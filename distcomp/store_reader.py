"""What reads from a store: outcomes by key, each checked, and what runs have.

One thread at a time uses a `StoreReader`. It sees what is durable.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from distcomp.errors import UnknownRunError
from distcomp.store_rows import (
    FunctionSummary,
    RunOutcome,
    RunSummary,
    StoredFunction,
    StoredOutcome,
    SubmittedTask,
    check_of_outcome,
    check_of_place,
    digest_of,
    unpack_failure,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from distcomp.store_files import ResultFiles

CHUNK = 500
"""How many keys one statement asks for."""

CACHE_BYTES = 16 << 20
"""How many bytes of results are kept, as the next keys often stand in the same run of results."""


class _Row(NamedTuple):
    """A row of `outcomes`, with the digest of its payload."""

    key: bytes
    function: int
    payload: int
    place: int
    failed: int
    crc: int
    stored_at: float
    digest: bytes

    @property
    def is_whole(self) -> bool:
        try:
            return self.crc == check_of_outcome(self.key, self.digest, self.place, failed=bool(self.failed))
        except Exception:  # noqa: BLE001 - damage may put values of any type there
            return False


class StoreReader:
    """Reads from one store.

    Args:
        connection: to the store.
        files: of its large results.
    """

    def __init__(self, connection: sqlite3.Connection, files: ResultFiles) -> None:
        self._connection = connection
        self._files = files
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._functions: dict[int, tuple[str, str]] = {}

    # --- outcomes ---

    def outcomes(self, keys: Sequence[bytes]) -> tuple[dict[bytes, StoredOutcome], list[bytes]]:
        """What is stored under keys, failures too; and the keys whose values are not what was written."""
        found: dict[bytes, StoredOutcome] = {}
        damaged: list[bytes] = []
        for start in range(0, len(keys), CHUNK):
            rows = self._rows(keys[start : start + CHUNK])
            blobs = self._blobs({row.payload: row.digest for row in rows})
            for row in rows:
                outcome = self._outcome(row, blobs.get(row.payload))
                if outcome is None:
                    damaged.append(row.key)
                else:
                    found[row.key] = outcome
        return found, damaged

    def _rows(self, keys: Sequence[bytes]) -> list[_Row]:
        marks = ",".join("?" * len(keys))
        # An outcome whose payload is gone is damaged, and has to be seen.
        rows = self._connection.execute(
            "SELECT key, function, payload, place, failed, crc, stored_at, ifnull(digest, x'') FROM outcomes "  # noqa: S608 - marks only
            f"LEFT JOIN payloads ON id = payload WHERE key IN ({marks})",
            keys,
        ).fetchall()
        return list(map(_Row._make, rows))

    def _blobs(self, wanted: dict[int, bytes]) -> dict[int, bytes]:
        """Payloads by number, of those that are what was written."""
        found: dict[int, bytes] = {}
        for number, digest in wanted.items():
            blob = self._cache.get(number)
            if blob is None:
                blob = self._read(number)
                if digest_of(blob) != digest:
                    continue
                self._keep(number, blob)
            found[number] = blob
        return found

    def _read(self, number: int) -> bytes:
        rows = self._connection.execute("SELECT file, data FROM payloads WHERE id = ?", (number,)).fetchall()
        file, data = rows[0] if rows else (None, None)
        if isinstance(file, str):
            return self._files.read(file)
        return data if isinstance(data, bytes) else b""

    def _keep(self, number: int, blob: bytes) -> None:
        self._cache[number] = blob
        self._cached_bytes += len(blob)
        while self._cached_bytes > CACHE_BYTES:
            self._cached_bytes -= len(self._cache.popitem(last=False)[1])

    def _outcome(self, row: _Row, blob: bytes | None) -> StoredOutcome | None:
        if blob is None or not row.is_whole:
            return None
        name, version = self._named(row.function)
        if not row.failed:
            return StoredOutcome(name, version, row.stored_at, blob, row.place)
        failure = unpack_failure(blob)
        return None if failure is None else StoredOutcome(name, version, row.stored_at, b"", 0, failure)

    def _named(self, function: int) -> tuple[str, str]:
        """Name and version of a function."""
        if function not in self._functions:
            rows = self._connection.execute(
                "SELECT name, version FROM functions WHERE id = ?", (function,)
            ).fetchall()
            if not rows:
                return "", ""
            self._functions[function] = rows[0]
        return self._functions[function]

    # --- runs ---

    def places(self, run: str, keys: Sequence[bytes]) -> dict[bytes, SubmittedTask]:
        """Where a run's tasks were submitted, whether or not they have ended."""
        found: dict[bytes, SubmittedTask] = {}
        number = self._run_number(run)
        calls: dict[int, Any] = {}
        for start in range(0, len(keys) if number is not None else 0, CHUNK):
            chunk = keys[start : start + CHUNK]
            rows = self._connection.execute(
                "SELECT key, call, place, crc FROM places WHERE run = ? "  # noqa: S608 - marks only
                f"AND key IN ({','.join('?' * len(chunk))})",
                (number, *chunk),
            ).fetchall()
            found.update(self._placed(rows, calls))
        return found

    def _placed(self, rows: list[Any], calls: dict[int, Any]) -> Iterator[tuple[bytes, SubmittedTask]]:
        for key, call, index, crc in rows:
            if call not in calls:
                calls[call] = self._connection.execute(
                    "SELECT function, submitted_at, cluster, session, array FROM calls WHERE id = ?", (call,)
                ).fetchone()
            if calls[call] is None:
                continue
            function, submitted_at, cluster, session, array = calls[call]
            if crc == check_of_place(key, cluster, session, array, index):
                named = self._named(function)
                yield key, SubmittedTask(*named, submitted_at, cluster, session, array, index)

    def run_outcomes(self, run: str, *, earlier: bool) -> Iterator[RunOutcome]:
        """All tasks of a run where they were submitted last, or earlier, in the order of these places."""
        number = self._known_run(run)
        calls: dict[int, Any] = {}
        table = "earlier_places" if earlier else "places"
        rows = self._connection.execute(
            f"SELECT key, call, place, crc FROM {table} WHERE run = ? ORDER BY call, place",  # noqa: S608 - constants
            (number,),
        )
        while chunk := rows.fetchmany(CHUNK):
            placed = list(self._placed(chunk, calls))
            found, _ = self.outcomes(list(dict(placed)))
            for key, place in placed:
                yield RunOutcome(key, place, found.get(key))

    def submissions(self, run: str) -> Iterator[tuple[StoredFunction, SubmittedTask, bytes]]:
        """Where tasks of a run were handed in to a cluster, all places, with their functions and keys."""
        found = self._run_number(run)
        if found is None:
            return
        calls: dict[int, Any] = {}
        functions = {
            number: StoredFunction(name, digest, version, _parts(parts))
            for number, name, digest, version, parts in self._connection.execute(
                "SELECT id, name, digest, version, parts FROM functions"
            )
        }
        rows = self._connection.execute(
            "SELECT key, call, place, crc FROM places WHERE run = ?1 UNION ALL "
            "SELECT key, call, place, crc FROM earlier_places WHERE run = ?1 ORDER BY call, place",
            (found,),
        )
        while chunk := rows.fetchmany(CHUNK):
            placed = list(self._placed(chunk, calls))
            function_of = {key: calls[call][0] for key, call, _, _ in chunk if calls[call] is not None}
            for key, task in placed:
                function = functions.get(function_of[key])
                if task.cluster and function is not None:
                    yield function, task, key

    def was_submitted(self, keys: Sequence[bytes]) -> bool:
        """Whether any run has handed in one of these tasks; for a few keys."""
        marks = ",".join("?" * len(keys))
        ((found,),) = self._connection.execute(
            f"SELECT EXISTS (SELECT 1 FROM runs JOIN places ON run = runs.id WHERE key IN ({marks}))",  # noqa: S608 - marks only
            keys,
        ).fetchall()
        return bool(found)

    def _run_number(self, run: str) -> int | None:
        rows = self._connection.execute("SELECT id FROM runs WHERE name = ?", (run,)).fetchall()
        return rows[0][0] if rows else None

    def _known_run(self, run: str) -> int:
        number = self._run_number(run)
        if number is None:
            raise UnknownRunError(unknown_run(run, self.run_names()))
        return number

    def run_names(self) -> list[str]:
        """The names of all runs."""
        return [name for (name,) in self._connection.execute("SELECT name FROM runs ORDER BY began_at")]

    def summary(self, run: str) -> RunSummary:
        """A run with its functions."""
        number = self._known_run(run)
        ((began_at,),) = self._connection.execute("SELECT began_at FROM runs WHERE id = ?", (number,))
        rows = self._connection.execute(
            "SELECT function, count(*), sum(ifnull(NOT failed, 0)), sum(ifnull(failed, 0)), sum(bytes), "
            "min(submitted_at), max(max(submitted_at, ifnull(stored_at, 0))) FROM ("
            "  SELECT c.function AS function, failed, c.submitted_at AS submitted_at, stored_at, "
            "    iif(payload IS NULL OR row_number() OVER (PARTITION BY c.function, payload) > 1, 0, "
            "      (SELECT size_bytes FROM payloads WHERE id = payload)) AS bytes "
            "  FROM places JOIN calls c ON c.id = call LEFT JOIN outcomes o ON o.key = places.key "
            "  WHERE places.run = ?) GROUP BY function ORDER BY min(submitted_at), function",
            (number,),
        ).fetchall()
        functions = tuple(self._summed(*row) for row in rows)
        ((handed_in,),) = self._connection.execute(
            "SELECT count(*) FROM (SELECT call FROM places WHERE run = ?1 "
            "UNION ALL SELECT call FROM earlier_places WHERE run = ?1) "
            "JOIN calls ON calls.id = call WHERE cluster != x''",
            (number,),
        )
        return RunSummary(run, began_at, functions, handed_in)

    def functions(self) -> list[FunctionSummary]:
        """All functions of the store, whatever run their tasks belong to; only tasks with outcomes count."""
        rows = self._connection.execute(
            "SELECT function, count(*), sum(NOT failed), sum(failed), ("
            "  SELECT sum(size_bytes) FROM payloads WHERE id IN ("
            "    SELECT payload FROM outcomes p WHERE p.function = outcomes.function)), "
            "min(stored_at), max(stored_at) FROM outcomes GROUP BY function ORDER BY min(stored_at)"
        ).fetchall()
        return [self._summed(*row) for row in rows]

    def _summed(self, function: int, *counted: Any) -> FunctionSummary:
        name, version = self._named(function)
        tasks, done, failed, size_bytes, began_at, changed_at = counted
        return FunctionSummary(
            name, version, tasks, done, failed, size_bytes or 0, began_at, changed_at, self._reasons_of(name)
        )

    def _reasons_of(self, function: str) -> tuple[str, ...]:
        rows = self._connection.execute(
            "SELECT text FROM reasons WHERE function = ? ORDER BY said_at", (function,)
        )
        return tuple(text for (text,) in rows)

    # --- functions ---

    def known_versions(self, name: str) -> list[StoredFunction]:
        """Every function of that name that the store has met, the latest used first."""
        rows = self._connection.execute(
            "SELECT name, digest, version, parts FROM functions WHERE name = ? "
            "ORDER BY used_at DESC, id DESC",
            (name,),
        ).fetchall()
        return [StoredFunction(name, digest, version, _parts(parts)) for name, digest, version, parts in rows]


def _parts(text: str) -> dict[str, bytes]:
    try:
        return {name: bytes.fromhex(digest) for name, digest in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError):  # damage; then no part can be told
        return {}


def unknown_run(run: str, names: Sequence[str]) -> str:
    """The words for a run that is not there."""
    known = f"it has {', '.join(map(repr, names[-10:]))}" if names else "it has no runs"
    return f"the store has no run {run!r}; {known}"
