from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest

from distcomp.cli import logs
from distcomp.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_line_has_level_text_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    with logs.opened():
        logs.log("info", "worker registered", name="left", host="a b", busy_s=1.23456)
        logs.log("debug", "not shown")
    line = capsys.readouterr().err
    assert line.endswith('info    worker registered name=left host="a b" busy_s=1.235\n')
    assert line.count("\n") == 1


def test_values_cannot_forge_a_second_line(capsys: pytest.CaptureFixture[str]) -> None:
    with logs.opened():
        logs.log("info", "peer closed", reason="x\n2030-01-01 error   all is lost")
    assert capsys.readouterr().err.count("\n") == 1


def test_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with logs.opened("debug", str(file), "json"):
        logs.log("warning", "peer closed", reason="silent", peer=3)
        try:
            int("inside")
        except ValueError:
            logging.getLogger("asyncio").exception("it broke")
    first, second = map(json.loads, file.read_text().splitlines())
    assert (first["level"], first["text"]) == ("warning", "peer closed")
    assert first["values"] == {"reason": "silent", "peer": 3}
    assert "ValueError: invalid literal" in second["traceback"]


def test_a_text_that_comes_too_often_is_held_back_and_counted() -> None:
    now = [0.0]
    limit = logs.RateLimit(lambda: now[0])

    def passes(text: str) -> logging.LogRecord | None:
        record = logging.LogRecord("distcomp", logging.INFO, "", 0, text, (), None)
        return record if limit.filter(record) else None

    shown = [passes("again") for _ in range(logs.LINES_A_PERIOD + 5)]
    assert sum(record is not None for record in shown) == logs.LINES_A_PERIOD
    assert passes("another") is not None
    now[0] = logs.PERIOD_S
    record = passes("again")
    assert record is not None
    assert record.__dict__["held_back"] == 5


def test_what_is_counted_is_bounded() -> None:
    limit = logs.RateLimit(lambda: 0.0)
    for number in range(3 * logs.TEXTS_COUNTED):
        limit.filter(logging.LogRecord("distcomp", logging.INFO, "", 0, f"text {number}", (), None))
    assert len(limit._counts) <= logs.TEXTS_COUNTED


def test_a_log_file_that_cannot_be_opened_is_named() -> None:
    with pytest.raises(ConfigError, match="/nowhere/log"), logs.opened(file="/nowhere/log"):
        pass


def test_nothing_stays_behind() -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    with logs.opened("debug"):
        pass
    assert (root.level, list(root.handlers)) == before
