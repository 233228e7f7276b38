from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest

from distcomp.config import SLOT_VARIABLE, ClientSettings, SchedulerSettings
from distcomp.errors import ConfigError
from distcomp.settings_file import MAX_FILE_BYTES, PROGRAMS, described, surroundings

if TYPE_CHECKING:
    from pathlib import Path


class Folders:
    """A user's folder, and a project with a folder in it."""

    def __init__(self, root: Path) -> None:
        self.user = root / "user" / "distcomp.toml"
        self.project = root / "project" / "distcomp.toml"
        self.pyproject = root / "project" / "pyproject.toml"
        self.below = root / "project" / "package"
        self.user.parent.mkdir()
        self.below.mkdir(parents=True)
        self.environ = {"DISTCOMP_HOME": str(self.user.parent)}


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def test_a_variable_is_over_the_project_over_the_user_over_the_default(folders: Folders) -> None:
    folders.user.write_text('close_s = 1\nlost_after_s = 2\nwindow_tasks = 3\naddress = "tcp://user"\n')
    folders.project.write_text("close_s = 4\nlost_after_s = 5.5\n")
    told = surroundings({**folders.environ, "DISTCOMP_CLOSE_S": "6"}, folders.below)
    settings = ClientSettings.from_environment(told)
    assert (settings.close_s, settings.lost_after_s, settings.window_tasks) == (6.0, 5.5, 3)
    assert settings.backoff_most_s == ClientSettings().backoff_most_s
    assert told["DISTCOMP_ADDRESS"] == "tcp://user"
    origins = [
        told.origin(f"DISTCOMP_{name}") for name in ("CLOSE_S", "LOST_AFTER_S", "WINDOW_TASKS", "PORT")
    ]
    assert origins == ["DISTCOMP_CLOSE_S", str(folders.project), str(folders.user), "default"]


def test_a_token_stands_in_the_users_own_file_which_nobody_else_can_read(folders: Folders) -> None:
    folders.user.write_text('address = "https://a/b"\ntoken = "dct_1"\n')
    folders.user.chmod(0o640)
    with pytest.raises(ConfigError, match="others can read it: chmod 600"):
        surroundings(folders.environ, folders.below)
    folders.user.chmod(0o600)
    told = surroundings(folders.environ, folders.below)
    assert (told["DISTCOMP_ADDRESS"], told["DISTCOMP_TOKEN"]) == ("https://a/b", "dct_1")


def test_the_nearest_file_is_the_projects(folders: Folders) -> None:
    folders.project.write_text("port = 1\n")
    folders.pyproject.write_text("[tool.distcomp]\nport = 2\n")
    assert surroundings(folders.environ, folders.below)["DISTCOMP_PORT"] == "1"
    (folders.below / "pyproject.toml").write_text('[project]\nname = "x"\n')
    assert surroundings(folders.environ, folders.below)["DISTCOMP_PORT"] == "1"
    (folders.below / "pyproject.toml").write_text("[tool.distcomp]\nport = 3\n")
    assert surroundings(folders.environ, folders.below)["DISTCOMP_PORT"] == "3"


def test_a_settings_file_may_have_the_heading_of_a_project(folders: Folders) -> None:
    folders.project.write_text("[tool.distcomp]\nport = 2\n")
    assert surroundings(folders.environ, folders.below)["DISTCOMP_PORT"] == "2"
    folders.project.write_text("port = 1\n[tool.distcomp]\nclose_s = 2\n")
    assert dict(surroundings(folders.environ, folders.below)).items() >= {
        ("DISTCOMP_PORT", "1"),
        ("DISTCOMP_CLOSE_S", "2"),
    }


def test_without_files_there_are_only_variables(folders: Folders) -> None:
    folders.pyproject.write_text('[project]\ndependencies = ["distcomp"]\n')
    assert dict(surroundings(folders.environ, folders.below)) == folders.environ


def test_a_pyproject_of_others_need_not_even_be_readable(folders: Folders) -> None:
    folders.pyproject.write_text("[[[")
    assert dict(surroundings(folders.environ, folders.below)) == folders.environ


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lease_taget_s = 1", "there is no setting lease_taget_s; did you mean lease_target_s?"),
        ("HEARTBEAT-S = 1", "did you mean heartbeat_s?"),
        ("zzzzzz = 1", "`distcomp config show` lists them"),
        ("[worker]\ngrace_s = 1", "there is no setting worker"),
        ('port = "7077"', "port must be a whole number from 0 to 65,535, not '7077'"),
        ("port = true", "port must be a whole number from 0 to 65,535, not True"),
        ("port = 70000", "port must be a whole number from 0 to 65,535, not 70000"),
        ("close_s = -1", "close_s must be a number from 0, not -1"),
        ("close_s = nan", "close_s must be a number from 0, not nan"),
        ("close_s = inf", "close_s must be a number from 0, not inf"),
        ("allow_plaintext = 1", "allow_plaintext must be true or false, not 1"),
        ("host = 7", "host must be text, not 7"),
        ("output_bytes = 9", "output_bytes must be a whole number from 1,024 to 1,048,576, not 9"),
        ('address = "ftp://a"', "address: 'ftp://a' is not an address like tcp://"),
        ('address = "http://a/?b"', "address: 'http://a/?b' is not the address of a gateway"),
        ('token = "dct_1"', "token cannot be set in a file; it is a secret: set DISTCOMP_TOKEN"),
        ("auth = false", "auth cannot be set in a file; only the flag --no-auth"),
        ('join = "distcomp-join-1"', "join cannot be set in a file; a join string is a secret"),
        ("port = ", "cannot be read: "),
        ("tool = 3", "there is no setting tool"),
        ("[tool]\ndistcomp = 3", "tool.distcomp must be a table of settings, not 3"),
        ("#" * MAX_FILE_BYTES + "\n", "has more than 1,048,576 bytes"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(folders: Folders, text: str, words: str) -> None:
    folders.project.write_text(text)
    with pytest.raises(ConfigError) as caught:
        surroundings(folders.environ, folders.below)
    assert str(caught.value).startswith(str(folders.project))
    assert words in str(caught.value)


def test_a_secret_in_a_file_is_not_repeated(folders: Folders) -> None:
    folders.project.write_text('join = "distcomp-join-1.SECRET"')
    with pytest.raises(ConfigError) as caught:
        surroundings(folders.environ, folders.below)
    assert "SECRET" not in str(caught.value)


def test_a_task_has_no_files(folders: Folders) -> None:
    folders.project.write_text("nonsense = 1\n")
    folders.user.write_text("port = 1\n")
    environ = {**folders.environ, SLOT_VARIABLE: "1"}
    assert dict(surroundings(environ, folders.below)) == environ


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
def test_a_file_of_somebody_else_above_is_skipped(folders: Folders, caplog: pytest.LogCaptureFixture) -> None:
    folders.project.write_text('address = "tcp://stranger"\n')
    os.chown(folders.project, 12345, -1)
    with caplog.at_level(logging.WARNING, logger="distcomp"):
        assert "DISTCOMP_ADDRESS" not in surroundings(folders.environ, folders.below)
    assert f"{folders.project} belongs to another user" in caplog.text
    os.chown(folders.below, 12345, -1)
    assert surroundings(folders.environ, folders.below)["DISTCOMP_ADDRESS"] == "tcp://stranger"


def test_a_user_working_in_the_user_folder_has_one_file(folders: Folders) -> None:
    folders.user.write_text("port = 1\n")
    assert [file.path for file in surroundings(folders.environ, folders.user.parent).files] == [folders.user]


def test_a_working_folder_that_is_gone_has_no_project(folders: Folders) -> None:
    folders.project.write_text("port = 1\n")
    assert surroundings(folders.environ, folders.below / "gone").files == ()


def test_every_setting_has_a_key_that_takes_its_default() -> None:
    known = described()
    for settings in PROGRAMS.values():
        for each in settings.describe():
            assert each.name == "auth" or each in known[each.name]
            assert each.takes(each.default)
    assert SchedulerSettings().auth
