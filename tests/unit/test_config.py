from __future__ import annotations

from pathlib import Path

import pytest

from distcomp.config import (
    Address,
    ClientSettings,
    SchedulerSettings,
    Settings,
    WireLimits,
    WorkerSettings,
    check_name,
    is_loopback,
    parse_address,
    parse_value,
    user_folder,
)
from distcomp.errors import ConfigError


@pytest.mark.parametrize("settings", [SchedulerSettings, WorkerSettings, ClientSettings, WireLimits])
def test_every_setting_has_words_and_one_variable(settings: type[Settings]) -> None:
    described = list(settings.describe())
    assert all(each.words for each in described)
    assert len({each.variable for each in described}) == len(described)
    assert all(each.kind in (bool, int, float, str) for each in described)


def test_settings_come_from_variables_and_overrides_win() -> None:
    environ = {"DISTCOMP_PORT": "0", "DISTCOMP_HEARTBEAT_S": "0.5", "DISTCOMP_AUTH": "no"}
    settings = SchedulerSettings.from_environment(environ, port=9, crash_limit=None)
    assert (settings.port, settings.auth, settings.wire.heartbeat_s) == (9, False, 0.5)
    assert settings.crash_limit == SchedulerSettings().crash_limit


def test_overrides_reach_the_parts() -> None:
    assert SchedulerSettings.from_environment({}, silence_s=3.0).wire.silence_s == 3.0


def test_an_unknown_override_is_refused() -> None:
    with pytest.raises(ConfigError, match="no setting named colour"):
        SchedulerSettings.from_environment({}, colour="red")


@pytest.mark.parametrize(
    ("variable", "text", "wanted"),
    [
        ("DISTCOMP_PORT", "http", "whole number"),
        ("DISTCOMP_PORT", "70000", "from 0 to 65535"),
        ("DISTCOMP_AUTH", "maybe", "yes or no"),
        ("DISTCOMP_SILENCE_S", "soon", "a number"),
        ("DISTCOMP_SILENCE_S", "nan", "finite"),
        ("DISTCOMP_SILENCE_S", "-1", "silence_s"),
    ],
)
def test_a_wrong_variable_is_named(variable: str, text: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        SchedulerSettings.from_environment({variable: text})


def test_parse_value_keeps_text() -> None:
    assert parse_value("NAME", " as is ", str) == " as is "


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://a.example:12", Address("a.example", 12)),
        ("a.example", Address("a.example", 7077)),
        (" 10.0.0.1:5 ", Address("10.0.0.1", 5)),
        ("tcp://[::1]:7", Address("::1", 7)),
        ("tcp://host/", Address("host", 7077)),
    ],
)
def test_parse_address(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://a:1",
        "tcp://",
        "tcp://a:x",
        "tcp://a:99999",
        "tcp://u@a:1",
        "a b:1",
        "a:1/path",
        "a:1?q",
        "[::1",
    ],
)
def test_parse_address_refuses(text: str) -> None:
    with pytest.raises(ConfigError, match="is not an address like tcp://"):
        parse_address(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "a.example", ""])  # noqa: S104 - the point
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_names() -> None:
    assert check_name("an owner", "alice@host-1.x_y+z") == "alice@host-1.x_y+z"
    for name in ["", "../up", "a/b", "-a", "a b", "x" * 65, "a\n"]:
        with pytest.raises(ConfigError, match="cannot name an owner"):
            check_name("an owner", name)


def test_user_folder() -> None:
    assert user_folder({"DISTCOMP_HOME": "/d", "XDG_CONFIG_HOME": "/x", "HOME": "/h"}) == Path("/d")
    assert user_folder({"XDG_CONFIG_HOME": "/x", "HOME": "/h"}) == Path("/x/distcomp")
    assert user_folder({"HOME": "/h"}) == Path("/h/.config/distcomp")
    assert user_folder({}).parts[-2:] == (".config", "distcomp")
