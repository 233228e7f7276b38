"""`Store`: results on the client's own disk, found again by what was called with what.

A task's key is made of the function, the user's version and the arguments, by `distcomp.payload.digests`. The
store holds for each key how the task ended, and for each run which tasks it has and where they were
submitted. It needs no cluster, and several processes may use one store at once.

Law: nothing is found that was not written as it is found. A value that is damaged is computed again.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from distcomp.config import StoreSettings
from distcomp.errors import StoreError, UnknownRunError
from distcomp.store_file import open_store, transaction, translated
from distcomp.store_files import ResultFiles
from distcomp.store_reader import StoreReader, unknown_run
from distcomp.store_reasons import reason_for
from distcomp.store_rows import OutcomeToStore, StoredFunction, StoredOutcome, SubmittedTask
from distcomp.store_writer import Damaged, Reasoned, Received, StoreWriter, Submitted

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence

    from typing_extensions import Self

    from distcomp.store_rows import FunctionSummary, RunOutcome, RunSummary

__all__ = ["OutcomeToStore", "Store", "StoredFunction", "StoredOutcome", "SubmittedTask"]

_log = logging.getLogger("distcomp.store")


class Store:
    """A store on the disk, to be used from any thread of the process that opened it.

    Args:
        path: its SQLite file; made if there is none. Large results lie in `<path>-files`.
        settings: the bounds to keep to.
        must_exist: make none.
        on_failed: gets the error after which nothing more is written, in a thread of the store.

    Raises:
        StoreError: it cannot be used; the kind and the text say why.

    Example:
        ```
        with Store("results.db") as store:
            known = store.find(keys)
            store.received([(key, OutcomeToStore(function, blob))], on_durable=...)
        ```
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: StoreSettings | None = None,
        *,
        must_exist: bool = False,
        on_failed: Callable[[StoreError], None] | None = None,
    ) -> None:
        self.path = Path(path).absolute()
        self._settings = settings or StoreSettings()
        self._files = ResultFiles(Path(f"{self.path}-files"))
        self._connection = open_store(self.path, self._settings, must_exist=must_exist)
        self._reader = StoreReader(self._connection, self._files)
        self._writer = StoreWriter(self.path, self._files, self._settings, on_failed)
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._closed = False
        self._earlier: dict[tuple[str, bytes, str], list[StoredFunction]] = {}
        self._said: set[tuple[str, bytes, str, str]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait until all that was handed in is durable, then let go of the file.

        Raises:
            StoreError: it could not be made durable.
        """
        if self._process != os.getpid():
            return
        try:
            self._writer.close()
        finally:
            with self._lock:
                if not self._closed:
                    self._closed = True
                    self._connection.close()

    # --- looking up ---

    def find(self, keys: Sequence[bytes], run: str = "") -> dict[bytes, StoredOutcome | SubmittedTask]:
        """Look for results, and for where tasks of a run were submitted that have none.

        Failures are not found: they are computed again.

        Args:
            keys: of tasks, as many as one likes.
            run: whose submissions to look for; empty for none.

        Returns:
            What there is, by key.

        Raises:
            StoreError: the store cannot be read.
        """
        with self._reading() as reader:
            outcomes, damaged = reader.outcomes(keys)
            found: dict[bytes, StoredOutcome | SubmittedTask] = {
                key: outcome for key, outcome in outcomes.items() if outcome.failure is None
            }
            if run and len(found) < len(keys):
                # Where a task has failed it is not waited for any more.
                open_keys = [key for key in keys if key not in outcomes]
                found.update(reader.places(run, open_keys))
        if damaged:
            _log.warning(
                "%d results in %s are not what was written there; they are computed again",
                len(damaged),
                self.path,
            )
            self._writer.add(Damaged(damaged))
        return found

    def reasons(self, function: StoredFunction, keys: Sequence[bytes] = ()) -> str | None:
        """Say why tasks of a function are computed although the store has met the function before.

        Args:
            function: as it is now.
            keys: of a few tasks that are to be computed, to see whether they have failed or never ended.

        Returns:
            `recomputed because …`; None if they were never computed, or it was said before by this object.

        Raises:
            StoreError: the store cannot be read.
        """
        named = (function.name, function.digest, function.version)
        with self._reading() as reader:
            if named not in self._earlier:
                self._earlier[named] = reader.known_versions(function.name)
            outcomes, _ = reader.outcomes(keys)
            is_open = not outcomes and reader.was_submitted(keys)
        has_failed = any(outcome.failure is not None for outcome in outcomes.values())
        text = reason_for(function, self._earlier[named], has_failed=has_failed, is_open=is_open)
        if not text or (*named, text) in self._said:
            return None
        self._said.add((*named, text))
        self._writer.add(Reasoned(function, text))
        return text

    # --- writing ---

    @property
    def is_full(self) -> bool:
        """Whether nothing should be handed in now that can wait: too much is to be written already."""
        return self._writer.is_full

    @property
    def backlog_bytes(self) -> int:
        """About how many bytes wait to be written."""
        return self._writer.backlog_bytes

    def submitted(  # noqa: PLR0917 - each says where it goes, and there is no default for any
        self,
        run: str,
        function: StoredFunction,
        cluster: bytes,
        session: bytes,
        array: int,
        start: int,
        keys: Sequence[bytes],
        on_durable: Callable[[], None] | None = None,
    ) -> None:
        """Note that tasks of a run are handed in to a cluster. Never waits.

        Args:
            run: its name.
            function: whose tasks they are.
            cluster: where they go; empty if they go nowhere, because the store has their results.
            session: see `cluster`.
            array: see `cluster`.
            start: the index of the first.
            keys: of neighbouring tasks; the list belongs to the store from now on.
            on_durable: called in the store's thread once it is durable.

        Raises:
            StoreError: nothing is written any more.
        """
        self._check_process()
        self._writer.add(Submitted(run, function, cluster, session, array, start, keys), on_durable)

    def found(self, run: str, function: StoredFunction, keys: Sequence[bytes]) -> None:
        """Note that a run has tasks whose results the store had. Arguments and errors as `submitted`."""
        self.submitted(run, function, b"", b"", 0, 0, keys)

    def received(
        self,
        outcomes: Sequence[tuple[bytes, OutcomeToStore]],
        on_durable: Callable[[], None] | None = None,
    ) -> None:
        """Store how tasks have ended. Never waits.

        Args:
            outcomes: by key; the list belongs to the store from now on. Outcomes of one run of results should
                share its bytes, which are stored once then.
            on_durable: called in the store's thread once they are durable.

        Raises:
            StoreError: nothing is written any more.
        """
        self._check_process()
        self._writer.add(Received(outcomes), on_durable)

    # --- runs ---

    def runs(self) -> list[RunSummary]:
        """All runs, the oldest first; raises as `find`."""
        with self._reading() as reader:
            return [reader.summary(name) for name in reader.run_names()]

    def run(self, name: str) -> RunSummary:
        """One run; raises as `find`, and `UnknownRunError`."""
        with self._reading() as reader:
            return reader.summary(name)

    def functions(self) -> list[FunctionSummary]:
        """All functions with outcomes, whatever run they belong to; raises as `find`."""
        with self._reading() as reader:
            return reader.functions()

    def outcomes(self, name: str, *, earlier: bool = False) -> Iterator[RunOutcome]:
        """Go through the tasks of a run in the order in which they were submitted.

        A task that a run has twice comes once. An outcome that is damaged counts as not there.

        Args:
            name: of the run.
            earlier: go through where tasks stood that were submitted again, instead of where they were last.

        Raises:
            UnknownRunError: there is no such run.
            StoreError: the store cannot be read.
        """
        with translated(self.path):
            connection = open_store(self.path, self._settings, must_exist=True)
            try:
                yield from StoreReader(connection, self._files).run_outcomes(name, earlier=earlier)
            finally:
                connection.close()

    def submissions(self, name: str) -> Iterator[tuple[StoredFunction, SubmittedTask, bytes]]:
        """Go through the tasks of a run that were handed in to a cluster, with their functions and keys.

        Args:
            name: of the run; one that is not there has none.

        Raises:
            StoreError: the store cannot be read.
        """
        with translated(self.path):
            connection = open_store(self.path, self._settings, must_exist=True)
            try:
                yield from StoreReader(connection, self._files).submissions(name)
            finally:
                connection.close()

    def forget(self, name: str) -> int:
        """Remove a run, and the outcomes of its tasks that no other run has.

        Args:
            name: of the run.

        Returns:
            How many outcomes were removed.

        Raises:
            UnknownRunError: there is no such run.
            StoreError: the store cannot be written.
        """
        self._check_process()
        with translated(self.path):
            connection = open_store(self.path, self._settings, must_exist=True)
            try:
                return self._forget(connection, name)
            finally:
                connection.close()

    def _forget(self, connection: sqlite3.Connection, name: str) -> int:
        with transaction(connection):
            rows = connection.execute("SELECT id FROM runs WHERE name = ?", (name,)).fetchall()
            if not rows:
                raise UnknownRunError(unknown_run(name, StoreReader(connection, self._files).run_names()))
            run = rows[0]
            removed = connection.execute(
                "DELETE FROM outcomes WHERE key IN (SELECT key FROM places WHERE run = ?1) "
                "AND key NOT IN (SELECT key FROM places WHERE run <> ?1)",
                run,
            ).rowcount
            connection.execute("DELETE FROM places WHERE run = ?", run)
            connection.execute("DELETE FROM earlier_places WHERE run = ?", run)
            connection.execute("DELETE FROM calls WHERE run = ?", run)
            connection.execute("DELETE FROM runs WHERE id = ?", run)
            unnamed = "id NOT IN (SELECT payload FROM outcomes)"
            files = connection.execute(
                f"SELECT file FROM payloads WHERE file IS NOT NULL AND {unnamed}"  # noqa: S608 - a constant
            ).fetchall()
            connection.execute(f"DELETE FROM payloads WHERE {unnamed}")  # noqa: S608 - a constant
            kept = connection.execute("SELECT file FROM payloads WHERE file IS NOT NULL").fetchall()
        self._files.remove(file for (file,) in files)
        self._files.sweep({file for (file,) in kept}, self._settings.store_orphan_s)
        return removed

    # --- inside ---

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise StoreError(
                f"the store {self.path} was opened by another process: open it again after a fork"
            )

    @contextmanager
    def _reading(self) -> Iterator[StoreReader]:
        """The right to read, held by one thread at a time."""
        self._check_process()
        with self._lock, translated(self.path):
            if self._closed:
                raise StoreError(f"the store {self.path} was closed")
            yield self._reader
