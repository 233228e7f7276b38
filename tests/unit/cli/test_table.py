from __future__ import annotations

import pytest

from distcomp.cli import table

COLUMNS = (table.Column("NAME", words=True), table.Column("TASKS"), table.Column("STATE", words=True))


def test_words_left_numbers_right() -> None:
    assert table.table(COLUMNS, [["left", "1", "ready"], ["a", "1,000", "busy"]], 80) == [
        "NAME  TASKS  STATE",
        "left      1  ready",
        "a     1,000  busy",
    ]


def test_words_are_cut_to_the_width_and_numbers_are_not() -> None:
    lines = table.table(COLUMNS, [["a very long name", "1,000,000", "ready"]], 26)
    assert lines[1] == "a very …  1,000,000  ready"
    assert all(len(line) <= 26 for line in lines)


@pytest.mark.parametrize("width", [1, 5, 10])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    lines = table.table(COLUMNS, [["a very long name", "1,000,000", "ready"]], width)
    assert all(len(line) <= width for line in lines)


def test_of_a_path_the_end_is_kept() -> None:
    assert table.cut_left("/a/long/path.db", 15) == "/a/long/path.db"
    assert table.cut_left("/a/long/path.db", 9) == "…/path.db"
    assert table.cut_left("/a/long/path.db", -3) == "…"


def test_names_cannot_steer_the_terminal() -> None:
    assert table.table(COLUMNS, [["\x1b[2J\n", "1", "x"]], 80)[1].startswith("?[2J?")


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0"), (1234567, "1,234,567"), (0.25, "0.2"), (9.99, "10.0"), (12.5, "12")]
)
def test_counts(number: float, shown: str) -> None:
    assert table.count(number) == shown


@pytest.mark.parametrize(
    ("time_s", "shown"),
    [(0.12, "0.1 s"), (59, "59 s"), (61, "1 min 01 s"), (3725, "1 h 02 min"), (90000, "1 d 01 h")],
)
def test_durations(time_s: float, shown: str) -> None:
    assert table.duration(time_s) == shown


def test_colour_only_where_wanted() -> None:
    assert table.paint("x", table.RED, coloured=False) == "x"
    assert table.paint("x", table.RED, coloured=True) == "\x1b[1;31mx\x1b[0m"


def test_spare_columns_go_before_words_are_cut() -> None:
    columns = (*COLUMNS, table.Column("HOST", spare=True), table.Column("LOAD", spare=True))
    rows = [["a name", "1", "ready", "b", "9"]]
    assert table.table(columns, rows, 40)[0] == "NAME    TASKS  STATE  HOST  LOAD"
    assert table.table(columns, rows, 28)[0] == "NAME    TASKS  STATE  HOST"
    assert table.table(columns, rows, 20) == ["NAME    TASKS  STATE", "a name      1  ready"]
