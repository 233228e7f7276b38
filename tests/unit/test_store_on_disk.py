"""A store gives back what was written to it, or nothing; never anything else."""

from __future__ import annotations

import json
import logging
import os
import pickle
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from distcomp.config import StoreSettings
from distcomp.errors import (
    ConfigError,
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFormatError,
    StoreFullError,
    UnknownRunError,
)
from distcomp.payload import dump_result, open_results, pack_results
from distcomp.rows import Failure
from distcomp.store import OutcomeToStore, Store, StoredFunction, StoredOutcome, SubmittedTask
from distcomp.store_export import export_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIT = StoredFunction("model.fit", b"f" * 32, "", {"code of fit": b"1", "code of helper": b"2"})
CLUSTER, SESSION = b"c" * 16, b"s" * 16
FAILURE = Failure("exception", type_name="ValueError", text="no", traceback="Traceback …", exception=b"e")


def opened(path: Path) -> closing[sqlite3.Connection]:
    """The file of a store, or another, as SQLite sees it."""
    return closing(sqlite3.connect(path, isolation_level=None))


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def run_of_results(*values: Any) -> bytes:
    return pack_results([dump_result(value) for value in values])[0].blob


def store_results(store: Store, *values: Any, first: int = 0, run: str = "") -> None:
    """Store results under the keys from `first` on, as one run of results."""
    keys = [key(first + place) for place in range(len(values))]
    if run:
        store.submitted(run, FIT, CLUSTER, SESSION, 1, first, keys)
    blob = run_of_results(*values)
    settle(store, [(each, OutcomeToStore(FIT, blob, place)) for place, each in enumerate(keys)])


def settle(store: Store, outcomes: Any) -> None:
    durable = threading.Event()
    store.received(outcomes, durable.set)
    assert durable.wait(60)


def value_of(found: Any) -> Any:
    assert isinstance(found, StoredOutcome)
    return open_results(found.blob)[found.position]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store(path) as made:
        yield made


# --- what is found --------------------------------------------------------------------------------


def test_results_are_found_by_their_keys(store: Store) -> None:
    store_results(store, 1, "two", [3])
    found = store.find([key(0), key(1), key(2), key(3)])
    assert [value_of(found[key(number)]) for number in range(3)] == [1, "two", [3]]
    assert key(3) not in found


def test_results_are_found_by_the_next_process(path: Path) -> None:
    with Store(path) as store:
        store_results(store, {"a": 1})
    program = (
        "import sys; from distcomp.store import Store; from distcomp.payload import open_results\n"
        "with Store(sys.argv[1]) as store:\n"
        "    (found,) = store.find([bytes(32)]).values()\n"
        "    print(open_results(found.blob)[found.position])"
    )
    said = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert said.stdout == "{'a': 1}\n"


def test_a_run_of_results_is_stored_once_and_given_back_as_one_object(store: Store, path: Path) -> None:
    store_results(store, *range(1000))
    found = store.find([key(number) for number in range(1000)])
    assert len({id(each.blob) for each in found.values() if isinstance(each, StoredOutcome)}) == 1
    with opened(path) as connection:
        assert connection.execute("SELECT count(*) FROM payloads").fetchone() == (1,)


def test_a_large_result_has_a_file_of_its_own(store: Store, path: Path) -> None:
    large = os.urandom(300_000)
    store_results(store, large, first=1)
    assert value_of(store.find([key(1)])[key(1)]) == large
    (file,) = (path.parent / "results.db-files").iterdir()
    assert file.stat().st_size > 300_000
    assert path.stat().st_size < 300_000


def test_a_failure_is_kept_but_not_found_and_gives_way(store: Store) -> None:
    store.submitted("fit", FIT, CLUSTER, SESSION, 1, 0, [key(0)])
    settle(store, [(key(0), OutcomeToStore(FIT, b"", 0, FAILURE))])
    assert store.find([key(0)], "fit") == {}
    (kept,) = store.outcomes("fit")
    assert kept.outcome is not None
    assert kept.outcome.failure == FAILURE
    assert store.run("fit").failed == 1
    store_results(store, 5)
    assert value_of(store.find([key(0)])[key(0)]) == 5
    settle(store, [(key(0), OutcomeToStore(FIT, b"", 0, FAILURE))])
    assert value_of(store.find([key(0)])[key(0)]) == 5


def test_the_payload_of_a_failure_that_gave_way_is_gone(store: Store, path: Path) -> None:
    for number in range(3):
        settle(store, [(key(0), OutcomeToStore(FIT, b"", 0, FAILURE._replace(attempt=number)))])
    with opened(path) as connection:
        assert connection.execute("SELECT count(*) FROM payloads").fetchone() == (1,)


def test_what_was_submitted_is_found_in_its_run_until_it_has_ended(store: Store) -> None:
    store.submitted("fit", FIT, CLUSTER, SESSION, 7, 10, [key(0), key(1)])
    store_results(store, "a", first=1)
    assert store.find([key(0)]) == {}
    assert store.find([key(0)], "other") == {}
    found = store.find([key(0), key(1)], "fit")
    task = found[key(0)]
    assert isinstance(task, SubmittedTask)
    assert (task.function, task.cluster, task.session) == ("model.fit", CLUSTER, SESSION)
    assert (task.array, task.task_index) == (7, 10)
    assert value_of(found[key(1)]) == "a"


def test_a_task_that_is_submitted_again_is_where_it_went_last(store: Store) -> None:
    durable = threading.Event()
    store.submitted("fit", FIT, CLUSTER, SESSION, 1, 0, [key(0)])
    store.submitted("fit", FIT, CLUSTER, b"t" * 16, 2, 5, [key(0)], durable.set)
    assert durable.wait(60)
    found = store.find([key(0)], "fit")[key(0)]
    assert isinstance(found, SubmittedTask)
    assert (found.session, found.array, found.task_index) == (b"t" * 16, 2, 5)


def test_a_result_that_the_store_had_belongs_to_the_run_that_used_it(store: Store) -> None:
    store_results(store, 1, 2)
    store.found("again", FIT, [key(0)])
    store_results(store, 3, first=5)
    assert store.run("again").done == 1


def test_many_keys_are_found_at_once(store: Store) -> None:
    store_results(store, *range(3000))
    keys = [key(number) for number in range(0, 6000, 2)]
    found = store.find(keys)
    assert [value_of(found[each]) for each in keys[:1500]] == list(range(0, 3000, 2))
    assert len(found) == 1500


# --- runs -----------------------------------------------------------------------------------------


def test_a_run_says_what_it_has(store: Store) -> None:
    store_results(store, 1, 2, 3, run="fit")
    other = StoredFunction("model.score", b"g" * 32, "2", {})
    store.submitted("fit", other, CLUSTER, SESSION, 2, 0, [key(8), key(9)])
    settle(store, [(key(9), OutcomeToStore(other, b"", 0, FAILURE))])
    run = store.run("fit")
    assert (run.tasks, run.done, run.failed, run.submitted) == (5, 3, 1, 1)
    assert [(each.name, each.version, each.tasks) for each in run.functions] == [
        ("model.fit", "", 3),
        ("model.score", "2", 2),
    ]
    assert run.functions[0].size_bytes == len(run_of_results(1, 2, 3))
    assert store.runs() == [run]
    assert [each.name for each in store.functions()] == ["model.fit", "model.score"]


def test_outcomes_of_a_run_come_in_the_order_of_its_tasks(store: Store) -> None:
    store.submitted("fit", FIT, CLUSTER, SESSION, 1, 0, [key(9), key(3)])
    store.submitted("fit", FIT, CLUSTER, SESSION, 1, 2, [key(5)])
    store_results(store, "three", first=3)
    tasks = list(store.outcomes("fit"))
    assert [each.key for each in tasks] == [key(9), key(3), key(5)]
    assert [each.place.task_index for each in tasks] == [0, 1, 2]
    assert [each.outcome and value_of(each.outcome) for each in tasks] == [None, "three", None]


def test_forgetting_a_run_leaves_what_others_have(store: Store, path: Path) -> None:
    large = os.urandom(300_000)
    store_results(store, large, run="a")
    store_results(store, 2, first=1, run="a")
    store.found("b", FIT, [key(1)])
    store_results(store, 3, first=2, run="b")
    assert store.forget("a") == 1
    assert [run.name for run in store.runs()] == ["b"]
    assert list(store.find([key(0), key(1), key(2)])) == [key(1), key(2)]
    assert list((path.parent / "results.db-files").iterdir()) == []
    with pytest.raises(UnknownRunError, match="no run 'a'; it has 'b'"):
        store.forget("a")


def test_an_unknown_run_is_named_with_those_that_there_are(store: Store) -> None:
    with pytest.raises(UnknownRunError, match="no run 'fit'; it has no runs"):
        store.run("fit")
    with pytest.raises(UnknownRunError):
        next(store.outcomes("fit"))


def test_an_export_can_be_read_with_pickle_alone(store: Store, tmp_path: Path) -> None:
    store_results(store, 1, [2, {"a": (3,)}], "four", run="fit")
    store.submitted("fit", FIT, CLUSTER, SESSION, 1, 3, [key(3), key(4)])
    settle(store, [(key(3), OutcomeToStore(FIT, b"", 0, FAILURE))])
    folder = tmp_path / "out"
    written = export_run(store, "fit", folder)
    assert (written.results, written.lacking) == (3, 2)
    index = json.loads((folder / "index.json").read_text())
    assert [task["state"] for task in index["tasks"]] == ["done"] * 3 + ["failed", "submitted"]
    assert index["tasks"][3]["text"] == "no"
    values = []
    for task in index["tasks"][:3]:
        with (folder / task["file"]).open("rb") as file:
            file.seek(task["offset"])
            values.append(pickle.load(file))  # noqa: S301 - written a moment ago
    assert values == [1, [2, {"a": (3,)}], "four"]
    with pytest.raises(ConfigError, match="not empty"):
        export_run(store, "fit", folder)


# --- reasons --------------------------------------------------------------------------------------


def reason(path: Path, function: StoredFunction, *keys: bytes) -> str | None:
    with Store(path) as store:
        return store.reasons(function, keys)


def test_why_something_is_computed_again_is_said_once(store: Store, path: Path) -> None:
    assert store.reasons(FIT) is None
    store_results(store, 1, run="fit")
    assert reason(path, FIT) == "recomputed because arguments changed"
    changed = FIT._replace(digest=b"g" * 32, parts={**FIT.parts, "code of helper": b"3"})
    said = "recomputed because the code of helper changed"
    with Store(path) as second:
        assert second.reasons(changed) == said
        assert second.reasons(changed) is None
    assert store.run("fit").functions[0].reasons[-1] == said
    versioned = changed._replace(version="2")
    assert reason(path, versioned) == "recomputed because version went from none to 2"
    settle(store, [(key(7), OutcomeToStore(versioned, b"", 0, FAILURE))])
    assert reason(path, versioned, key(7)) == "recomputed because it failed before"
    reached = versioned._replace(digest=b"h" * 32, parts={**changed.parts, "class Model": b"1"})
    assert reason(path, reached) == "recomputed because it reaches other code (the class Model)"
    assert reason(path, reached._replace(digest=b"i")) == "recomputed because its code changed"


def test_what_never_ended_is_not_computed_again(store: Store, path: Path) -> None:
    store_results(store, 1, run="fit")
    store.submitted("fit", FIT, CLUSTER, SESSION, 2, 0, [key(5)])
    store_results(store, 2, first=1)
    assert reason(path, FIT, key(5)) is None
    assert reason(path, FIT, key(6)) == "recomputed because arguments changed"


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_damaged_value_is_no_value(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Store(path) as store:
        store_results(store, 1)
        store_results(store, os.urandom(300_000), first=1)
        store_results(store, 3, first=2)
        store_results(store, "long enough " * 20, first=3)
    (file,) = (path.parent / "results.db-files").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with opened(path) as connection:
        connection.execute("UPDATE payloads SET data = replace(data, x'4b01', x'4b02') WHERE id = 1")
        connection.execute("UPDATE outcomes SET place = 1 WHERE key = ?", (key(3),))
        connection.execute("DELETE FROM payloads WHERE id = 4")
    with Store(path) as store, caplog.at_level(logging.WARNING):
        assert list(store.find([key(0), key(1), key(2), key(3)])) == [key(2)]
    assert "3 results in" in caplog.text
    with Store(path) as store:  # they are forgotten, and can be stored again
        store_results(store, "anew")
        assert value_of(store.find([key(0)])[key(0)]) == "anew"


def test_a_row_under_another_key_is_damage(path: Path) -> None:
    with Store(path) as store:
        store_results(store, 1)
        store.submitted("fit", FIT, CLUSTER, SESSION, 1, 0, [key(5)])
    with opened(path) as connection:
        connection.execute("UPDATE outcomes SET key = ?", (key(4),))
        connection.execute("UPDATE places SET place = 3")
    with Store(path) as store:
        assert store.find([key(4), key(5)], "fit") == {}


def test_every_flipped_byte_is_found_out(path: Path) -> None:
    with Store(path) as store:
        store_results(store, *range(50))
    whole = path.read_bytes()
    keys = [key(number) for number in range(50)]
    for place in range(0, len(whole), max(1, len(whole) // 150)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        try:
            with Store(path) as store:
                found = store.find(keys)
        except StoreError:
            continue
        for number, each in enumerate(keys):
            if each in found:
                assert value_of(found[each]) == number


def test_another_file_is_refused(tmp_path: Path) -> None:
    text, other, newer = tmp_path / "text", tmp_path / "other.db", tmp_path / "newer.db"
    text.write_text("no database at all, but long enough to be looked at" * 20)
    with opened(other) as connection:
        connection.execute("CREATE TABLE mine (a)")
    Store(newer).close()
    with opened(newer) as connection:
        connection.execute("PRAGMA user_version=7")
    for path, said in ((text, "no store"), (other, "no store"), (newer, "format 7, and this distcomp uses")):
        before = path.read_bytes()
        with pytest.raises(StoreFormatError, match=said):
            Store(path)
        assert path.read_bytes() == before


def test_a_damaged_file_is_refused(path: Path) -> None:
    with Store(path) as store:
        store_results(store, *map(str, range(2000)))
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + os.urandom(len(whole) - 4096))
    with pytest.raises(StoreDamagedError, match="restore it from a backup"), Store(path) as store:
        store.find([key(0)])


def test_a_store_that_is_not_there_or_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store at"):
        Store(tmp_path / "none.db", must_exist=True)
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(StoreError, match="No such file or directory"):
        Store(tmp_path / "none" / "none.db")
    with pytest.raises(StoreError, match="cannot be used"):
        Store(tmp_path)


def test_a_store_that_others_keep_locked_is_given_up(path: Path) -> None:
    failed: list[StoreError] = []
    store = Store(path, StoreSettings(store_busy_s=0.05), on_failed=failed.append)
    with opened(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        store.submitted("fit", FIT, CLUSTER, SESSION, 1, 0, [key(0)])
        with pytest.raises(StoreBusyError, match="store_busy_s"):
            store.close()
    assert [type(error) for error in failed] == [StoreBusyError]


def test_a_full_disk_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = threading.Event()
    full.set()
    write = os.fsync

    def fsync(descriptor: int) -> None:
        if full.is_set():
            raise OSError(28, "No space left on device")
        write(descriptor)

    monkeypatch.setattr("distcomp.store_files.os.fsync", fsync)
    settings = StoreSettings(store_retry_first_s=0.01, store_retry_most_s=0.01)
    with Store(path, settings) as store:
        durable = threading.Event()
        blob = run_of_results(os.urandom(300_000))
        store.received([(key(0), OutcomeToStore(FIT, blob))], durable.set)
        deadline = time.monotonic() + 60
        while not store.is_full:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert not durable.is_set()
        full.clear()
        assert durable.wait(60)
        assert list(store.find([key(0)])) == [key(0)]


def test_a_disk_that_stays_full_is_told_at_the_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("distcomp.store_files.os.fsync", fsync)
    settings = StoreSettings(store_retry_first_s=0.01, store_retry_most_s=0.01, store_close_s=0.05)
    store = Store(path, settings)
    store.received([(key(0), OutcomeToStore(FIT, run_of_results(os.urandom(300_000))))])
    with pytest.raises(StoreFullError, match="no room"):
        store.close()
    with pytest.raises(StoreFullError):
        store.received([])
    assert list((path.parent / "results.db-files").iterdir()) == []


def test_a_closed_store_says_so(path: Path) -> None:
    store = Store(path)
    store.close()
    store.close()
    for call in (lambda: store.find([key(0)]), lambda: store.received([])):
        with pytest.raises(StoreError, match="was closed"):
            call()


def test_a_store_is_not_inherited(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(path) as store, monkeypatch.context() as patched:
        patched.setattr("distcomp.store.os.getpid", lambda: 1)
        for call in (lambda: store.find([key(0)]), lambda: store.received([]), lambda: store.forget("a")):
            with pytest.raises(StoreError, match="open it again after a fork"):
                call()


# --- several at once ------------------------------------------------------------------------------

WRITER = """
import sys
from distcomp.store import OutcomeToStore, Store, StoredFunction
who = int(sys.argv[2])
function = StoredFunction("f", b"f", "", {})
with Store(sys.argv[1]) as store:
    for number in range(200):
        key = (who * 1000 + number).to_bytes(32, "big")
        store.submitted(f"run{who}", function, b"c", b"s", 1, number, [key])
        store.received([(key, OutcomeToStore(function, bytes([who]) * 100))])
"""


def test_several_processes_write_to_one_store(path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, str(who)]) for who in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    with Store(path) as store:
        assert [(run.done, run.tasks) for run in store.runs()] == [(200, 200)] * 4
        found = store.find([key(who * 1000 + number) for who in range(4) for number in range(200)])
    assert [found[key(who * 1000)].blob for who in range(4)] == [bytes([who]) * 100 for who in range(4)]  # type: ignore[union-attr] # all were received
    assert len(found) == 800
