from __future__ import annotations

import io
from typing import Any

import pytest

from distcomp.cli import runs, scheduler_runs
from distcomp.cli.reach import Reach
from distcomp.cli.scheduler_runs import screen
from distcomp.protocol import ForgetRun, ListRuns, RunForgotten, RunsListed
from distcomp.rows import RunRow

ROW = RunRow("ann", "fit", ("f", "g"), 1200, 700, 3, 9, 5 << 20, 0, 1000.0, 0.0, 0.0, "h1", 42, "fit.py")


def test_runs_are_a_table() -> None:
    away = ROW._replace(run="other", left_at=3600.0, drop_at=90_000.0)
    head, *lines = screen([ROW, away], 200, now=4600.0).splitlines()
    assert head.split()[:3] == ["RUN", "OWNER", "FUNCTIONS"]
    text = "\n".join(lines)
    for word in ("f, g", "1,200", "700", "5 MiB", "1 h 00 min ago", "process 42 (fit.py) on h1"):
        assert word in text
    assert "none for 16 min 40 s, kept" in text


def test_no_runs_are_said_so() -> None:
    assert screen([], 80, now=0.0) == "the scheduler holds no runs"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a scheduler is asked for that holds a run of one owner and one of another, and answers no."""
    questions: list[Any] = []

    async def ask(_: Reach, question: Any) -> list[Any]:
        questions.append(question)
        if isinstance(question, ListRuns):
            rows = ROW._replace(left_at=3600.0), ROW._replace(owner="bob", run="theirs")
            return [RunsListed(1, rows[:1], more=True), RunsListed(1, rows[1:], more=False)]
        known = question.run == "fit"
        return [RunForgotten(1, "forgotten" if known else "unknown", f"there is {known}")]

    monkeypatch.setattr(scheduler_runs, "ask", ask)
    monkeypatch.setattr(scheduler_runs, "watched", lambda *_: Reach("admin", "ann", None, None, ()))
    monkeypatch.setattr("sys.stdin", io.StringIO("no\n"))
    return questions


@pytest.mark.parametrize("name", ["fti", "theirs"])
def test_a_run_that_is_not_there_needs_no_confirmation(
    asked: list[Any], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert runs.main(["forget", name, "--scheduler"]) == 1
    said = capsys.readouterr()
    assert said.out == f"{name}: unknown, there is False\n"
    assert said.err == ""
    assert asked == [ListRuns(1), ForgetRun(1, name)]


def test_forget_says_what_there_is_and_asks(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.main(["forget", "fit", "--scheduler"]) == 1
    assert "the run fit at the scheduler, with 700 of 1,200 tasks done and 5 MiB waiting? [y/N]" in (
        capsys.readouterr().err
    )
    assert asked == [ListRuns(1)]
    assert runs.main(["forget", "fit", "--scheduler", "--yes"]) == 0
    assert asked == [ListRuns(1), ForgetRun(1, "fit")]
