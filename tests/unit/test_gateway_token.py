from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest

from distcomp import discovery
from distcomp.access import write_private
from distcomp.config import SLOT_VARIABLE
from distcomp.errors import ConfigError
from distcomp.gateway_settings import gateway_file
from distcomp.gateway_token import token_for
from distcomp.web_address import parse_web_address

if TYPE_CHECKING:
    from pathlib import Path

HERE = parse_web_address("http://127.0.0.1:8077")
WORD = "dct_1"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTCOMP_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("DISTCOMP_TOKEN", "DISTCOMP_ADDRESS", SLOT_VARIABLE, "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_a_token_is_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no token for http://127\.0\.0\.1:8077: .* DISTCOMP_TOKEN"):
        token_for(HERE)
    write_private(
        gateway_file("a", bytes(16)), json.dumps({"address": "http://127.0.0.1:8078", "token": "other"})
    )
    write_private(gateway_file("b", bytes(16)), json.dumps({"address": str(HERE), "token": "own"}))
    assert token_for(HERE) == "own"
    (tmp_path / "distcomp.toml").write_text('token = "file"\n')
    (tmp_path / "distcomp.toml").chmod(0o600)
    assert token_for(HERE) == "file"
    monkeypatch.setenv("DISTCOMP_TOKEN", "variable")
    assert token_for(HERE) == "variable"
    assert token_for(HERE, "given") == "given"


@pytest.mark.parametrize("text", ["{", "[]", '{"token": "x"}', '{"address": "tcp://a", "token": "x"}'])
def test_a_broken_file_of_a_gateway_is_said_and_skipped(text: str, caplog: pytest.LogCaptureFixture) -> None:
    write_private(gateway_file("a", bytes(16)), text)
    write_private(gateway_file("b", bytes(16)), json.dumps({"address": str(HERE), "token": "own"}))
    assert token_for(HERE) == "own"
    assert "skipped" in caplog.text


def test_a_token_that_others_may_read_on_its_way_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="distcomp")
    token_for(HERE, WORD)
    token_for(parse_web_address("https://a.example"), WORD)
    assert not caplog.records
    token_for(parse_web_address("http://a.example"), WORD)
    assert "in the clear" in caplog.text
    assert WORD not in caplog.text


def test_an_address_may_be_that_of_a_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    target = discovery.find("http://a.example/x", token=WORD)
    assert target.addresses == ("http://a.example/x",)
    assert target.road is not None
    assert not target.shares_path
    assert target.failure() is None
    assert WORD not in repr(target)
    monkeypatch.setenv("DISTCOMP_ADDRESS", "https://a.example")
    monkeypatch.setenv("DISTCOMP_TOKEN", "dct_2")
    target = discovery.find()
    assert "behind https://a.example, as DISTCOMP_ADDRESS says" in target.how
    assert target.road is not None
    assert b"Bearer dct_2\r\n" in target.road.request("GET", "/")
    for address in ("tcp://a.example", "inline:"):
        with pytest.raises(ConfigError, match="a token is for a gateway"):
            discovery.find(address, token=WORD)
