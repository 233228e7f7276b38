"""The store of a client, with real programs and without: what is found, and what is computed again."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import distcomp
from distcomp import AsyncClient, Client, Executor, Pool, UsageError
from distcomp.errors import StoreError
from distcomp.store import Store
from distcomp.store_writer import Commit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clusters import Programs

SCRIPT = """\
import logging, sys
from distcomp import Client, compute_this

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
LEDGER = {ledger!r}

def helper(number):
    return number + {step}

@compute_this(cache=True, version={version!r})
def work(number):
    with open(LEDGER, "a") as file:
        file.write(f"{{number}}\\n")
    return helper(number)

with Client("inline:", store={store!r}) as client:
    print(sum(client.options(version={version!r}).map(work, range({tasks}))))
"""


class Ledger:
    """Notes of tasks, outside of everything."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, number: int) -> int:
        with self.path.open("a") as file:
            file.write(f"{number}\n")
        return 2 * number

    def lines(self) -> list[str]:
        return self.path.read_text().split() if self.path.exists() else []


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "results.db"


@pytest.fixture(params=["inline", "tcp"])
def address(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """Where clients go: to this process, or to real programs."""
    if request.param == "inline":
        yield "inline:"
        return
    cluster: Programs = request.getfixturevalue("cluster")
    cluster.scheduler()
    cluster.worker()
    yield None


def noted(path: str, number: int) -> int:
    with Path(path).open("a") as file:
        file.write(f"{number}\n")
    return 2 * number


def script(tmp_path: Path, **values: Any) -> str:
    """Run the script with other code than before; what it printed."""
    text = SCRIPT.format(
        **{
            "ledger": str(tmp_path / "ledger"),
            "store": str(tmp_path / "results.db"),
            "step": 1,
            "version": None,
            "tasks": 5,
            **values,
        }
    )
    path = tmp_path / "script.py"
    path.write_text(text)
    ran = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=90, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


# --- found again ----------------------------------------------------------------------------------


def test_calls_of_every_kind_are_found_by_another_client(
    address: str | None, store: Path, ledger: Ledger
) -> None:
    path, doubled = str(ledger.path), [2 * number for number in range(30)]
    for _ in range(2):
        with Client(address, store=store) as client:
            assert list(client.map(noted, [path] * 10, range(10))) == doubled[:10]
            assert list(client.map(noted, [path] * 15, iter(range(15)))) == doubled[:15]
            assert [client.submit(noted, path, number).result() for number in range(20)] == doubled[:20]
            assert list(client.map(noted, [path] * 30, range(30), cost=lambda _, number: number)) == doubled
            with Executor(client=client) as executor, Pool(client=client) as pool:
                assert list(executor.map(noted, [path] * 30, range(30))) == doubled
                assert pool.starmap(noted, [(path, number) for number in range(30)]) == doubled
    assert sorted(map(int, ledger.lines()[:30])) == list(range(30))
    before = len(ledger.lines())
    with Client(address, store=store) as client:
        assert list(client.map(noted, [path] * 30, range(30))) == doubled
    assert len(ledger.lines()) == before


def test_results_that_are_found_need_no_worker(cluster: Programs, store: Path, ledger: Ledger) -> None:
    with Client("inline:", store=store) as client:
        assert client.submit(noted, str(ledger.path), 1).result() == 2
    cluster.scheduler()
    with Client(store=store) as client:
        array = client.map(noted, [str(ledger.path)] * 3, [1, 1, 1])
        assert list(array) == [2, 2, 2]
        assert array.futures[0].explain().state == "finished"
        open_one = client.submit(noted, str(ledger.path), 2)
        assert open_one.explain().state in ("sending", "waiting", "unknown")
        assert open_one.cancel()


def test_what_is_partly_found_keeps_its_order_and_its_failures(store: Path, ledger: Ledger) -> None:
    path = str(ledger.path)
    with Client("inline:", store=store) as client:
        client.map(noted, [path] * 10, range(0, 20, 2)).wait()
        client.map(len, ["a", "bb"]).wait()
    with Client("inline:", store=store) as client:
        assert list(client.map(noted, [path] * 20, range(20))) == [2 * number for number in range(20)]
        mixed = client.map(len, ["a", 7, "bb", "ccc"])
        assert mixed.results(on_error="skip") == [1, 2, 3]
        assert list(mixed.failures()) == [1]
        assert mixed.retry().wait(60)
        assert list(mixed.failures()) == [1]
        single = client.submit(len, 7)
        assert isinstance(single.exception(), TypeError)
        with pytest.raises(TypeError):
            single.replay(debugger=lambda _: None)
    assert len(ledger.lines()) == 20


def test_a_function_can_be_left_out_and_without_a_store_cannot_ask_for_one(
    store: Path, ledger: Ledger
) -> None:
    with Client("inline:", store=store) as client:
        for _ in range(2):
            assert client.options(cache=False).submit(noted, str(ledger.path), 1).result() == 2
    assert len(ledger.lines()) == 2
    with Client("inline:") as client:
        with pytest.raises(UsageError, match=r"cache=True finds results in a store"):
            client.options(cache=True)
        assert client.options(cache=False, version=3).submit(abs, -1).result() == 1


def test_asyncio_code_has_a_store_too(address: str | None, store: Path, ledger: Ledger) -> None:
    path = str(ledger.path)

    async def main() -> list[int]:
        async with AsyncClient(address, store=store) as client:
            one = await client.submit(noted, path, 1)
            bound = client.options(run="fit")
            many = [value async for value in bound.map(noted, [path] * 3, range(3))]
            drawn = [value async for value in client.map(noted, [path] * 3, iter(range(3)))]
            return [one, *many, *drawn, await bound.submit(noted, path, 2)]

    for _ in range(2):
        assert asyncio.run(main()) == [2, 0, 2, 4, 0, 2, 4, 4]
    assert sorted(set(ledger.lines())) == ["0", "1", "2"]
    assert len(ledger.lines()) == 3


def test_a_store_is_named_by_the_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTCOMP_STORE", str(tmp_path / "by-variable.db"))
    with Client("inline:") as client:
        assert client.options(cache=True).submit(abs, -1).result() == 1
    with Store(tmp_path / "by-variable.db", must_exist=True) as kept:
        assert [each.name for each in kept.functions()] == ["builtins.abs"]
    monkeypatch.delenv("DISTCOMP_STORE")
    (tmp_path / "distcomp.toml").write_text('store = "by-file.db"\n')
    monkeypatch.chdir(tmp_path)
    with distcomp.connect("inline:") as client:
        assert client.store is not None
        assert client.store.path == tmp_path / "by-file.db"


def nested(number: int) -> tuple[int, bool]:
    with Client() as client:
        return client.options(cache=True, run="inner").submit(abs, number).result(), client.store is None


def test_a_task_has_no_store_unless_it_names_one(
    cluster: Programs, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTCOMP_STORE", str(store))
    cluster.scheduler()
    cluster.worker(DISTCOMP_STORE=str(store))
    with Client() as client:
        assert client.submit(nested, -3).result() == (3, True)


# --- computed again -------------------------------------------------------------------------------


def test_it_is_said_what_is_found_and_why_something_is_computed_again(tmp_path: Path, ledger: Ledger) -> None:
    assert "0 of 5 from the store" in script(tmp_path)
    assert "5 of 5 from the store" in script(tmp_path)
    assert len(ledger.lines()) == 5
    said = script(tmp_path, step=2)
    assert "recomputed because the code of helper changed" in said
    assert len(ledger.lines()) == 10
    assert "version went from none to 2" in script(tmp_path, step=2, version=2)
    said = script(tmp_path, step=2, version=2, tasks=7)
    assert "recomputed because arguments changed" in said
    assert "5 of 7 from the store" in said
    assert "5 of 5 from the store" in script(tmp_path)
    assert len(ledger.lines()) == 17


def test_what_has_no_stable_digest_is_computed_and_said_once(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Client("inline:", store=store) as client, caplog.at_level(logging.WARNING, "distcomp"):
        keyed = [str(number) for number in range(3)]
        values: list[Any] = [*keyed, Odd(), *keyed]
        assert [future.result() for future in [client.submit(str, each) for each in values]][:3] == keyed
        assert list(client.map(str, values))[:3] == keyed
    told = [each.getMessage() for each in caplog.records if "computed each time" in each.getMessage()]
    assert len(told) == 1
    assert re.match(r"builtins\.str is computed each time: .*argument 1", told[0])


class Odd:
    """Says something else of itself each time."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Odd.made, (time.perf_counter_ns(),)

    @staticmethod
    def made(_at: int) -> Odd:
        return Odd()


def test_two_scripts_use_one_store_at_once(tmp_path: Path, ledger: Ledger) -> None:
    path = tmp_path / "both.py"
    path.write_text(
        SCRIPT.format(
            ledger=str(ledger.path), store=str(tmp_path / "results.db"), step=1, version=None, tasks=300
        )
    )
    both = [
        subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in both:
        said, _ = process.communicate(timeout=90)
        assert process.returncode == 0
        assert str(sum(range(1, 301))) in said
    assert set(ledger.lines()) == set(map(str, range(300)))
    assert "300 of 300 from the store" in script(tmp_path, tasks=300)


def test_a_store_that_is_none_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "results.db").write_text("something else, and long enough to be no store at all " * 40)
    with pytest.raises(distcomp.StoreError, match="is no store of distcomp"):
        Client("inline:", store=tmp_path / "results.db")


def test_a_result_that_was_damaged_is_computed_again(store: Path, ledger: Ledger) -> None:
    with Client("inline:", store=store) as client:
        assert client.submit(noted, str(ledger.path), 1).result() == 2
    for each in store.parent.glob("results.db*"):
        each.unlink()
    with Client("inline:", store=store) as client:
        assert client.submit(noted, str(ledger.path), 1).result() == 2
    assert len(ledger.lines()) == 2


def test_a_run_that_begins_when_the_store_has_failed_goes_on_without(
    address: str | None, store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_given: Any) -> None:
        raise StoreError("the disk is gone")

    monkeypatch.setattr(Commit, "write", fail)
    with Client(address, store=store) as client:
        assert client.submit(abs, -1).result() == 1
        assert client.store is not None
        assert client.store._writer._thread is not None
        client.store._writer._thread.join()
        assert client.options(run="late").submit(abs, -2).result() == 2
    assert "from now on results are not kept there" in caplog.text
