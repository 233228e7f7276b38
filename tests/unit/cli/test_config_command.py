from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from distcomp.cli import config, flags
from distcomp.cli.settings_flags import add_settings, settings_from
from distcomp.config import SchedulerSettings
from distcomp.settings_file import described, surroundings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings file of the project that the working folder is in."""
    monkeypatch.setenv("DISTCOMP_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DISTCOMP_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "distcomp.toml"


def shown(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert config.main(["show", *flags]) == 0
    return capsys.readouterr().out


def test_every_setting_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    names = {line.split(" = ")[0] for line in shown(capsys).splitlines() if " = " in line}
    assert names == described().keys()


def test_what_is_shown_could_stand_in_a_file(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    for line in shown(capsys, "--origin").splitlines():
        project.write_text(line)
        assert len(surroundings().files[0].variables) == (" = " in line)


def test_the_origin_is_a_variable_a_file_or_the_default(
    capsys: pytest.CaptureFixture[str], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write_text('address = "tcp://a.example:1"\nport = 8\n')
    monkeypatch.setenv("DISTCOMP_PORT", "9")
    monkeypatch.setenv("DISTCOMP_JOIN", "distcomp-join-1.SECRET")
    text = shown(capsys, "--origin")
    lines = {line.split(" = ")[0]: line.split(" = ", 1)[1] for line in text.splitlines() if " = " in line}
    assert lines["address"].split() == ['"tcp://a.example:1"', "#", str(project)]
    assert lines["port"].split() == ["9", "#", "DISTCOMP_PORT"]
    assert lines["host"].split() == ['"127.0.0.1"', "#", "default"]
    assert "SECRET" not in text


def test_a_wrong_file_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    project.write_text("prot = 8\n")
    with pytest.raises(SystemExit) as caught:
        config.main(["show"])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert f"{project}: there is no setting prot; did you mean port?" in said
    assert said.count("\n") == 1


def test_help_is_there_even_with_a_wrong_file(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    project.write_text("prot = 8\n")
    with pytest.raises(SystemExit) as caught:
        config.main(["--help"])
    assert caught.value.code == 0
    assert "DISTCOMP_ORIGIN" in capsys.readouterr().out


def test_a_flag_is_over_a_variable_over_the_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write_text("port = 1\nallow_plaintext = true\nlease_target_s = 0.5\ncrash_limit = 5\n")
    monkeypatch.setenv("DISTCOMP_PORT", "2")
    monkeypatch.setenv("DISTCOMP_CRASH_LIMIT", "6")
    parser = flags.Flags("program", "It runs.")
    parser.switch("--allow-plaintext", "trust")
    add_settings(parser, SchedulerSettings)
    parsed = parser.parse_args(["--port", "3"])
    settings = settings_from(parsed, SchedulerSettings, allow_plaintext=parsed.allow_plaintext)
    assert (settings.port, settings.crash_limit, settings.lease_target_s) == (3, 6, 0.5)
    assert settings.allow_plaintext
