from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from distcomp.errors import ConfigError
from distcomp.gateway.tokens import SCOPES, TokenFile

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def tokens(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path)


def test_a_token_is_found_by_its_text_alone(tokens: TokenFile) -> None:
    token, text = tokens.create(scope="submit", owner="alice", name="laptop")
    assert tokens.find(text) == token
    for wrong in ("", "dct_", text[:-1], text + "x", text.replace("dct_", "xyz_"), f"dct_{token.id}_", "é"):
        assert tokens.find(wrong) is None


def test_the_file_is_private_and_holds_no_secret(tokens: TokenFile) -> None:
    _, text = tokens.create(scope="observe", owner="alice")
    assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600
    assert text.rpartition("_")[2] not in tokens.path.read_text()
    tokens.path.chmod(0o640)
    with pytest.raises(ConfigError, match="others can read"):
        TokenFile(tokens.path.parent).find(text)


def test_another_process_takes_notice(tokens: TokenFile, tmp_path: Path) -> None:
    running = TokenFile(tmp_path)
    assert running.all() == []
    token, text = tokens.create(scope="submit", owner="alice", name="laptop")
    assert running.find(text) == token
    assert tokens.revoke("laptop") == [token]
    assert running.find(text) is None
    with pytest.raises(ConfigError, match="no token 'laptop'"):
        tokens.revoke("laptop")


def test_a_token_expires(tokens: TokenFile, monkeypatch: pytest.MonkeyPatch) -> None:
    token, text = tokens.create(scope="submit", owner="alice", expires_s=60)
    monkeypatch.setattr("time.time", lambda: token.created + 59)
    assert tokens.find(text) is not None
    monkeypatch.setattr("time.time", lambda: token.created + 60)
    assert tokens.find(text) is None


@pytest.mark.parametrize("place", range(len(SCOPES)))
def test_a_scope_includes_those_before_it(tokens: TokenFile, place: int) -> None:
    token, _ = tokens.create(scope=SCOPES[place], owner="alice")
    assert [token.allows(scope) for scope in SCOPES] == [other <= place for other in range(len(SCOPES))]


def test_nonsense_is_refused(tokens: TokenFile) -> None:
    with pytest.raises(ConfigError, match="no scope"):
        tokens.create(scope="root", owner="alice")
    with pytest.raises(ConfigError, match="cannot name an owner"):
        tokens.create(scope="submit", owner="../alice")
    tokens.create(scope="submit", owner="alice")
    tokens.path.write_text('{"format_version": 9}')
    with pytest.raises(ConfigError, match="format version 9"):
        tokens.all()


def test_a_running_gateway_has_a_token_that_is_in_no_file(tokens: TokenFile, tmp_path: Path) -> None:
    text = tokens.lend("alice")
    found = tokens.find(text)
    assert found is not None
    assert (found.owner, found.scope) == ("alice", "admin")
    assert tokens.all() == []
    assert TokenFile(tmp_path).find(text) is None
