from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from distcomp.cli import flags
from distcomp.errors import ConfigError, UnreachableError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from pathlib import Path


def parser(**variables: str) -> flags.Flags:
    made = flags.Flags("program", "It runs.", "program --port 1", environment=variables)
    made.value("--port", "where", default=7, parse=flags.whole(0, 65535))
    made.value("--slots", "how many", parse=flags.slot_count)
    made.switch("--no-auth", "off")
    made.common()
    return made


def test_a_flag_wins_over_its_variable_and_that_over_the_default() -> None:
    assert parser().parse_args([]).port == 7
    assert parser(DISTCOMP_PORT="8").parse_args([]).port == 8
    assert parser(DISTCOMP_PORT="8").parse_args(["--port", "9"]).port == 9


@pytest.mark.parametrize(("text", "expected"), [("1", True), ("Yes", True), ("off", False), ("", False)])
def test_a_switch_has_a_variable(text: str, expected: bool) -> None:  # noqa: FBT001 - a parameter
    assert parser(DISTCOMP_NO_AUTH=text).parse_args([]).no_auth is expected
    assert parser(DISTCOMP_NO_AUTH=text).parse_args(["--no-auth"]).no_auth is True


@pytest.mark.parametrize(
    ("variables", "argv", "words"),
    [
        ({}, ["--port", "x"], "'x' is not a whole number"),
        ({}, ["--port", "70000"], "70000 is not between 0 and 65535"),
        ({}, ["--prot", "1"], "--prot"),
        ({}, ["--log-level", "loud"], "'loud' is none of debug, info"),
        ({"DISTCOMP_PORT": "x"}, [], "DISTCOMP_PORT='x'"),
        ({"DISTCOMP_NO_AUTH": "perhaps"}, [], "DISTCOMP_NO_AUTH='perhaps'"),
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], variables: dict[str, str], argv: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        parser(**variables).parse_args(argv)
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert shown.count("\n") == 1


def test_a_wrong_variable_does_no_harm_where_the_flag_is_given() -> None:
    assert parser(DISTCOMP_PORT="x").parse_args(["--port", "9"]).port == 9


def test_help_names_variable_default_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(["--help"])
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "where [default 7; DISTCOMP_PORT]" in shown
    assert "[DISTCOMP_NO_AUTH]" in shown
    assert "exit codes: 0 ended in order" in shown


def test_auto_slots_mean_none() -> None:
    assert flags.slot_count("auto") is None
    assert flags.slot_count("3") == 3
    with pytest.raises(ValueError, match="not between 1"):
        flags.slot_count("0")


@pytest.mark.parametrize("text", ["x", "-1", "inf", "nan"])
def test_seconds_are_a_finite_number(text: str) -> None:
    with pytest.raises(ValueError, match=r"seconds|time"):
        flags.seconds(text)


def test_a_secret_comes_from_stdin_a_file_or_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "join"
    file.write_text(" distcomp-join-1.file \n")
    monkeypatch.setattr("sys.stdin", io.StringIO("distcomp-join-1.stdin\n"))
    assert flags.secret_text("-", "V", {}) == "distcomp-join-1.stdin"
    assert flags.secret_text(str(file), "V", {"V": "distcomp-join-1.v"}) == "distcomp-join-1.file"
    assert flags.secret_text(None, "V", {"V": "distcomp-join-1.v"}) == "distcomp-join-1.v"
    assert flags.secret_text(None, "V", {"V": str(file)}) == "distcomp-join-1.file"
    assert flags.secret_text(None, "V", {}) is None


def test_a_secret_on_the_command_line_is_refused() -> None:
    with pytest.raises(ConfigError, match="command lines"):
        flags.secret_text("distcomp-join-1.abc", "DISTCOMP_JOIN", {})


def test_a_missing_secret_file_is_named() -> None:
    with pytest.raises(ConfigError, match="/nowhere/at/all"):
        flags.secret_text("/nowhere/at/all", "V", {})


def failing(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def program(_: argparse.Namespace) -> int:
        raise error

    return program


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("no\nsuch thing"), 2),
        (UnreachableError("nobody there"), 3),
        (OSError(98, "Address already in use"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_a_line_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    assert flags.run(parser(), failing(error), []) == code
    assert capsys.readouterr().err.count("\n") == (code != 130)


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(ConfigError):
        flags.run(parser(), failing(ConfigError("no")), ["--debug"])
