from __future__ import annotations

import pytest

from distcomp.cli.main import main
from distcomp.cli.scale import Change, choose, screen
from distcomp.errors import ConfigError
from distcomp.ids import WorkerId
from distcomp.rows import WorkerRow


def row(name: str, number: int) -> WorkerRow:
    counts = 9, 4, 1, 2, 10, 0, 1.0
    return WorkerRow(WorkerId(bytes([number]) * 16), name, f"host-of-{name}", *counts, "ready", "3.11.4", "")


ROWS = [row("left", 1), row("right", 2), row("right", 3)]


def test_workers_are_chosen_by_name_or_id() -> None:
    assert choose(ROWS, None) == ROWS
    assert choose(ROWS, "right") == ROWS[1:]
    assert choose(ROWS, "03" * 16) == ROWS[2:]


def test_names_near_an_unknown_one_are_named() -> None:
    with pytest.raises(ConfigError, match=r"no worker 'rigth'; there is 'right'$"):
        choose(ROWS, "rigth")
    with pytest.raises(ConfigError, match="there is 'left', 'right'"):
        choose(ROWS, "x")
    with pytest.raises(ConfigError, match="distcomp-worker"):
        choose([], None)


def test_what_was_done_is_a_table() -> None:
    head, first, second = screen([Change(ROWS[0], 8, ""), Change(ROWS[1], 8, "it is away")], 100).splitlines()
    assert head.split() == ["WORKER", "HOST", "BEFORE", "SLOTS"]
    assert first.split() == ["left", "host-of-left", "4", "8"]
    assert second.split() == ["right", "host-of-right", "4", "4", "it", "is", "away"]


@pytest.mark.parametrize("flags", [[], ["--slots", "0"], ["--slots", "4097"], ["--slots", "many"]])
def test_what_cannot_be_is_said_at_once(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["scale", *flags])
    except SystemExit as end:
        code = int(str(end.code))
    assert code == 2
    assert "slots" in capsys.readouterr().err
