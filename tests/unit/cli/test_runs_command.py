"""`distcomp runs` on a store, without any cluster."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from distcomp.cli import runs
from distcomp.cli.main import main
from distcomp.cli.runs_page import run_screen, runs_screen
from distcomp.cli.table import size
from distcomp.payload import dump_result, pack_results
from distcomp.rows import Failure
from distcomp.store import OutcomeToStore, Store, StoredFunction
from distcomp.store_rows import FunctionSummary, RunSummary

FIT = StoredFunction("model.fit", b"f" * 32, "2", {"code of fit": b"1"})


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with the run `fit`: two results, a failure, and a task without outcome."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTCOMP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("DISTCOMP_STORE", str(tmp_path / "results.db"))
    keys = [bytes([number]) * 32 for number in range(4)]
    blob = pack_results([dump_result(value) for value in (1, "two")])[0].blob
    with Store(tmp_path / "results.db") as store:
        store.submitted("fit", FIT, b"c" * 16, b"s" * 16, 1, 0, keys)
        store.received([(keys[0], OutcomeToStore(FIT, blob, 0)), (keys[1], OutcomeToStore(FIT, blob, 1))])
        store.received([(keys[2], OutcomeToStore(FIT, b"", 0, Failure("exception", text="no")))])
    return tmp_path / "results.db"


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["runs", *words]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = runs.main(words)
    return code, capsys.readouterr().err


def test_list_shows_runs_and_how_much_there_is(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    head, _, heading, row = said(capsys, "list").splitlines()
    assert head.startswith(f"{path}: 2 results of 1 functions, ")
    assert heading.split()[:3] == ["RUN", "FUNCTIONS", "TASKS"]
    assert row.split()[:6] == ["fit", "model.fit", "4", "2", "1", "1"]
    told = json.loads(said(capsys, "list", "--json"))
    assert [run["name"] for run in told["runs"]] == ["fit"]
    assert told["functions"][0]["done"] == 2


def test_show_tells_each_function(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    with Store(path) as store:
        changed = FIT._replace(digest=b"g" * 32, parts={"code of fit": b"2"})
        assert store.reasons(changed)
    lines = said(capsys, "show", "fit").splitlines()
    assert "4 tasks, 2 done, 1 failed, 1 submitted" in lines[0]
    assert "handed in" not in lines[0]
    assert lines[3].split()[:6] == ["model.fit", "2", "4", "2", "1", "1"]
    assert lines[-1] == "model.fit: recomputed because the code of fit changed"
    told = json.loads(said(capsys, "show", "fit", "--json"))
    assert (told["tasks"], told["functions"][0]["submitted"]) == (4, 1)


def test_equal_calls_are_one_task_and_counted(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    with Store(path) as store:
        store.submitted("fit", FIT, b"c" * 16, b"s" * 16, 2, 0, [b"\x01" * 32] * 5)
    assert said(capsys, "show", "fit").splitlines()[0].endswith("; handed in 9 times")
    assert json.loads(said(capsys, "show", "fit", "--json"))["handed_in"] == 9


def test_export_writes_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert said(capsys, "export", "fit", "--to", "out").startswith("2 results, ")
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert [task["state"] for task in index["tasks"]] == ["done", "done", "failed", "submitted"]
    assert json.loads(said(capsys, "export", "fit", "--to", "more", "--json"))["results"] == 2


def test_forget_asks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, question = refused(capsys, "forget", "fit")
    assert code == 1
    assert "Forget 2 results of the run fit" in question
    assert "fit" in said(capsys, "list")
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    assert said(capsys, "forget", "fit") == "3 outcomes were forgotten\n"
    assert said(capsys, "list").endswith("no runs\n")


def test_forget_can_be_told_not_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(said(capsys, "forget", "fit", "--yes", "--json")) == {"forgotten": 3}


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("list", "fit"), 2, "takes no name"),
        (("show",), 2, "takes the name of a run"),
        (("export", "fit"), 2, "--to FOLDER"),
        (("show", "fti"), 1, "no run 'fti'; it has 'fit'"),
        (("list", "--store", "none.db"), 1, "there is no store at"),
        (("list", "--store", ""), 2, "no store is named"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, text: str
) -> None:
    found, line = refused(capsys, *words)
    assert found == code
    assert text in line
    assert line.count("\n") == 1


def test_the_store_can_be_named_in_a_file(
    capsys: pytest.CaptureFixture[str], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISTCOMP_STORE")
    (path.parent / "distcomp.toml").write_text(f'store = "{path}"\n')
    assert "fit" in said(capsys, "list")


def function(**fields: Any) -> FunctionSummary:
    return FunctionSummary("model.fit", "", 10, 8, 1, 5 << 20, 1000.0, 2000.0)._replace(**fields)


def test_screens_fit_their_terminal() -> None:
    run = RunSummary("fit", 1000.0, (function(), function(name="model.score", reasons=("why",))))
    for width in (40, 80, 200):
        for text in (
            runs_screen(Path("r.db"), [run], [], width, now=3000.0, coloured=False),
            run_screen(run, width, now=3000.0, coloured=False),
        ):
            assert all(len(line) <= width for line in text.splitlines()[2:])
    assert run_screen(run, 80, now=3000.0, coloured=False).endswith("model.score: why")
    assert "1970-01-01" in run_screen(run, 200, now=1e6, coloured=False)


def test_sizes_are_said_as_people_do() -> None:
    assert [size(number) for number in (0, 1023, 1536, 5 << 30, 1 << 60)] == [
        "0 B",
        "1,023 B",
        "1.5 KiB",
        "5 GiB",
        "1,048,576 TiB",
    ]
