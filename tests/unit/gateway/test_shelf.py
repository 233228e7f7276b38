from __future__ import annotations

import asyncio
import stat
import threading
import time
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import pytest

from distcomp.errors import ConfigError
from distcomp.gateway.problems import Problem
from distcomp.gateway.shelf import HandedIn, TaskOutcome, TaskShelf
from distcomp.published_calls import Publication

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

PY = "3.11"


def publication(name: str = "f", version: str = "1", blob: bytes = b"x") -> Publication:
    digest = blake2b(blob, digest_size=32).digest()
    return Publication(name, version, ("0", "3.11.0", "3"), [], "", digest, blob)


def submitted(number: str, tasks: int = 1, **more: Any) -> HandedIn:
    values = {"owner": "alice", "name": "f", "version": "1", "digest": b"d", "python": PY, "options": {}}
    base = {"tasks": tasks, "is_array": tasks > 1, "submitted_at": time.time()}
    return HandedIn(id=number, **{**values, **base, **more})


def done(number: str, place: int = 0) -> TaskOutcome:
    return TaskOutcome(number, place, "done", b"j1", None, time.time())


def shelved(path: Path, test: Callable[[TaskShelf], Awaitable[None]], max_bytes: int = 1 << 30) -> None:
    async def within() -> None:
        shelf = TaskShelf(path, max_bytes)
        try:
            await test(shelf)
        finally:
            await shelf.close()

    asyncio.run(within())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "gateway.db"


def test_a_submission_is_open_until_all_of_it_has_ended(path: Path) -> None:
    async def test(shelf: TaskShelf) -> None:
        made = await shelf.submit(submitted("a", 2), [(0, 1, b"0"), (1, 2, b"1")], 10)
        assert made.session is None
        await shelf.settle([done("a", 1), done("a", 1)])
        assert await shelf.arguments("a") == ([(0, 1, b"0"), (1, 2, b"1")], [1])
        await shelf.settle(
            [done("a", 0), TaskOutcome("a", 1, "failed", None, {"kind": "late"}, 0.0)], [("a", 0, "log")]
        )
        found = await shelf.find("a")
        assert found is not None
        assert (found.is_open, found.settled_at is None) == (False, False)
        assert (await shelf.arguments("a"))[0] == []
        assert await shelf.counts("a") == {"done": 2}, "the first outcome counts"
        assert await shelf.printed("a", 0) == "log"

    shelved(path, test)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_idempotency_key_gives_what_it_gave_before(path: Path) -> None:
    async def test(shelf: TaskShelf) -> None:
        await shelf.submit(submitted("a", idempotency="k"), [(0, 1, b"")], 10)
        again = await shelf.submit(submitted("b", idempotency="k"), [(0, 1, b"")], 10)
        other = await shelf.submit(submitted("c", idempotency="k", owner="bob"), [(0, 1, b"")], 10)
        assert (again.id, other.id) == ("a", "c")

    shelved(path, test)


def test_numbers_of_a_session_are_given_once_whatever_is_forgotten(path: Path) -> None:
    async def first(shelf: TaskShelf) -> None:
        await shelf.submit(submitted("a"), [(0, 1, b"")], 10)
        assert await shelf.enter("alice", PY, b"s1") == []
        assert (await shelf.submit(submitted("b"), [(0, 1, b"")], 10)).counter == 2
        await shelf.settle([done("a"), done("b")])
        assert await shelf.drop_before(time.time() + 1) == 2

    async def then(shelf: TaskShelf) -> None:
        assert await shelf.session("alice", PY) == b"s1"
        assert await shelf.enter("alice", PY, b"s1") == []
        made = await shelf.submit(submitted("c"), [(0, 1, b"")], 10)
        assert (made.session, made.counter) == (b"s1", 3)
        assert [each.id for each in await shelf.enter("alice", PY, b"s2")] == ["c"]
        assert [(each.session, each.counter) for each in await shelf.open_ones("alice", PY)] == [(b"s2", 1)]
        assert await shelf.parties() == [("alice", PY)]

    shelved(path, first)
    shelved(path, then)


def test_a_version_never_changes_and_a_name_has_one_owner(path: Path) -> None:
    async def test(shelf: TaskShelf) -> None:
        assert (await shelf.publish("alice", publication(), b"x", 3)) is not None
        assert (await shelf.publish("alice", publication(), b"x", 3)) is None
        for owner, other, kind in (
            ("alice", publication(blob=b"y"), "conflict"),
            ("bob", publication(version="2"), "forbidden"),
        ):
            with pytest.raises(Problem) as problem:
                await shelf.publish(owner, other, b"y", 3)
            assert problem.value.kind == kind
        await shelf.publish("alice", publication(version="2", blob=b"y"), b"y", 3)
        assert [each.version for each in await shelf.functions("f")] == ["2", "1"]
        await shelf.publish("bob", publication("g"), b"x", 3)
        with pytest.raises(Problem, match="3 functions are published"):
            await shelf.publish("bob", publication("h"), b"x", 3)

    shelved(path, test)


def test_a_withdrawn_version_stays_as_long_as_tasks_need_it(path: Path) -> None:
    async def test(shelf: TaskShelf) -> None:
        await shelf.publish("alice", publication(), b"bytes", 3)
        await shelf.submit(submitted("a"), [(0, 1, b"")], 10)
        with pytest.raises(Problem, match="alice's"):
            await shelf.withdraw("f", "1", "bob")
        await shelf.withdraw("f", "1", "alice")
        with pytest.raises(Problem, match="no function f"):
            await shelf.withdraw("f", "1", None)
        assert await shelf.functions() == []
        await shelf.drop_before(0.0)
        assert await shelf.publication("f", "1") == b"bytes"
        assert await shelf.publish("alice", publication(), b"bytes", 3) is None
        assert len(await shelf.functions()) == 1
        await shelf.withdraw("f", "1", None)
        await shelf.settle([done("a")])
        await shelf.drop_before(0.0)
        assert await shelf.publication("f", "1") == b""

    shelved(path, test)


def test_there_are_bounds(path: Path) -> None:
    async def test(shelf: TaskShelf) -> None:
        await shelf.submit(submitted("a", 3), [(0, 3, b"")], 4)
        with pytest.raises(Problem, match="at most 4"):
            await shelf.submit(submitted("b", 2), [(0, 2, b"")], 4)
        await shelf.settle([done("a", 0)])
        await shelf.submit(submitted("b", 2), [(0, 2, b"")], 4)
        with pytest.raises(Problem, match="max_kept_bytes"):
            await shelf.submit(submitted("c"), [(0, 1, bytes(2 << 20))], 100)
        assert await shelf.find("c") is None

    shelved(path, test, max_bytes=2 << 20)


def test_pages_of_tasks_go_back_in_time(path: Path) -> None:
    async def test(shelf: TaskShelf) -> None:
        for place in range(5):
            owner = "bob" if place == 2 else "alice"
            await shelf.submit(
                submitted(f"t{place}", owner=owner, submitted_at=float(place)), [(0, 1, b"")], 10
            )
        end = (float("inf"), "")
        assert [each.id for each in await shelf.of_owner("alice", 2, end)] == ["t4", "t3"]
        assert [each.id for each in await shelf.of_owner("alice", 9, (3.0, "t3"))] == ["t1", "t0"]
        assert len(await shelf.of_owner(None, 9, end)) == 5

    shelved(path, test)


def test_a_disk_that_does_not_play_along_is_said_and_healed(path: Path) -> None:
    async def test(shelf: TaskShelf) -> None:
        await shelf._file.do(lambda db: db.execute("PRAGMA query_only=1"))
        with pytest.raises(Problem, match="disk") as problem:
            await shelf.submit(submitted("a"), [(0, 1, b"")], 10)
        assert problem.value.status == 507
        await shelf._file.do(lambda db: db.execute("PRAGMA query_only=0"))
        await shelf.submit(submitted("a"), [(0, 1, b"")], 10)
        assert (await shelf.find("a")) is not None

    shelved(path, test)


def test_what_comes_while_the_disk_is_busy_is_one_commit_and_fails_alone(path: Path) -> None:
    async def test(shelf: TaskShelf) -> None:
        said: list[str] = []
        await shelf._file.do(lambda db: db.set_trace_callback(said.append))
        busy = threading.Event()
        first = asyncio.ensure_future(shelf._file.do(lambda _: busy.wait(60)))
        wanted = [
            asyncio.ensure_future(shelf.submit(submitted(f"t{number}", 1), [(0, 1, b"")], 8))
            for number in range(10)
        ]
        wrong = asyncio.ensure_future(
            shelf._file.write(lambda db: db.execute("INSERT INTO nowhere VALUES (1)"))
        )
        left = asyncio.ensure_future(shelf._file.write(lambda db: db.execute("DELETE FROM logs")))
        await asyncio.sleep(0)
        left.cancel()
        busy.set()
        await first
        found = await asyncio.gather(*wanted, wrong, left, return_exceptions=True)
        kinds = [each.kind if isinstance(each, Problem) else type(each).__name__ for each in found]
        assert kinds == ["HandedIn"] * 8 + ["too-many"] * 2 + ["full", "CancelledError"]
        assert said.count("COMMIT") == 1
        assert len(await shelf.of_owner("alice", 20, (float("inf"), ""))) == 8

    shelved(path, test)


def test_a_file_belongs_to_one_gateway_of_one_format(path: Path) -> None:
    async def test(shelf: TaskShelf) -> None:
        del shelf

    async def twice(shelf: TaskShelf) -> None:
        del shelf
        with pytest.raises(ConfigError, match="another gateway"):
            TaskShelf(path, 1 << 30)

    shelved(path, test)
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(ConfigError, match="cannot be used"):
        TaskShelf(path, 1 << 30)
    path.unlink()
    shelved(path, twice)
