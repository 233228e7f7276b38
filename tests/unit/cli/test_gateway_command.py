from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from distcomp.access import Access, SchedulerAccess, write_private
from distcomp.cli import gateway, gateway_extra
from distcomp.cli.main import main as distcomp_main
from distcomp.cli.token import period
from distcomp.gateway.tokens import TokenFile
from distcomp.gateway_settings import gateway_file, gateway_folder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DISTCOMP_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--host", "0.0.0.0"], "nothing on the way there is encrypted"),  # noqa: S104 - it is refused
        (["--tls-certificate", "c.pem"], "both --tls-certificate and --tls-key"),
        (["--tls-certificate", "c.pem", "--tls-key", "k.pem"], "and --tls-key cannot be used: No such file"),
        (["--names", "http://a.example"], "host names without port"),
        (["--origins", "a.example"], "origins like https://a.example"),
        (["--root-path", "cluster"], "--root-path is a path like /cluster"),
        (["--root-path", "/a/../b"], "--root-path is a path like /cluster"),
        (["--name", "nobody"], "no scheduler named 'nobody'"),
        (["--port", "70000"], "from 0 to 65535"),
        ([], "no access files for client"),
    ],
)
def test_what_cannot_be_followed_is_one_line(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gateway.main(flags) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_join_strings_come_one_a_line_and_belong_to_one_cluster(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    accesses = [SchedulerAccess.open(name, home, owner="alice") for name in ("one", "two")]
    joins = [each.issue("client", "alice", ["tcp://127.0.0.1:1"]).to_join() for each in accesses]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(joins) + "\n"))
    assert gateway.main(["--join", "-"]) == 2
    assert "one cluster, not to one, two" in capsys.readouterr().err


def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gateway_extra, "find_spec", lambda name: None if name == "uvicorn" else name)
    assert gateway.main([]) == 2
    assert "needs uvicorn: pip install 'distcomp[gateway]'" in capsys.readouterr().err


def test_tokens_are_created_listed_and_revoked(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert distcomp_main(["token", "create", "--scope", "observe"]) == 2
    assert "no cluster is known here" in capsys.readouterr().err
    SchedulerAccess.open("test", home, owner="alice")
    assert distcomp_main(["token", "create", "--scope", "observe", "--owner", "bob", "--expires", "2h"]) == 0
    text = capsys.readouterr().out.strip()
    tokens = TokenFile(gateway_folder("test", SchedulerAccess.open("test", home, owner="alice").cluster_id))
    found = tokens.find(text)
    assert found is not None
    assert (found.owner, found.scope, round(found.expires - found.created)) == ("bob", "observe", 7200)
    assert SchedulerAccess.open("test", home, owner="alice").owners == ["alice", "bob"]
    assert distcomp_main(["token", "list"]) == 0
    listed = capsys.readouterr().out
    assert (found.id in listed, text in listed) == (True, False)
    assert distcomp_main(["token", "revoke", found.id]) == 0
    assert tokens.find(text) is None
    assert distcomp_main(["token", "revoke"]) == 2
    assert distcomp_main(["token", "create"]) == 2
    SchedulerAccess.open("other", home, owner="alice")
    assert distcomp_main(["token", "list"]) == 2
    assert "say which by --cluster: other, test" in capsys.readouterr().err
    assert distcomp_main(["token", "list", "--cluster", "test"]) == 0


def test_clusters_of_one_name_have_tokens_of_their_own(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = SchedulerAccess.open("test", home, owner="alice")
    elsewhere = Access.parse(here.issue("client", "alice", ["tcp://a.example:7077"]).to_join())
    replace(elsewhere, cluster_id=bytes(16)).save(home)
    create = ["token", "create", "--scope", "observe"]
    assert distcomp_main(create) == 2
    told = capsys.readouterr().err
    assert f"{bytes(16).hex()} (test)" in told
    assert f"{here.cluster_id.hex()} (test)" in told
    assert distcomp_main([*create, "--cluster", here.cluster_id.hex()]) == 0
    text = capsys.readouterr().out.strip()
    assert TokenFile(gateway_folder("test", here.cluster_id)).find(text) is not None
    assert TokenFile(gateway_folder("test", bytes(16))).find(text) is None
    assert distcomp_main([*create, "--cluster", "other"]) == 2
    assert "no cluster 'other' is known here; known: test" in capsys.readouterr().err


def test_a_gateway_that_runs_makes_its_cluster_known(capsys: pytest.CaptureFixture[str]) -> None:
    told = {"address": "http://127.0.0.1:9", "cluster": "far", "cluster_id": bytes(16).hex()}
    write_private(gateway_file("far", bytes(16)), json.dumps(told))
    assert distcomp_main(["token", "create", "--scope", "observe"]) == 0
    text = capsys.readouterr().out.strip()
    assert TokenFile(gateway_folder("far", bytes(16))).find(text) is not None
    write_private(gateway_file("far", bytes(16)), "{}")
    assert distcomp_main(["token", "list"]) == 2
    assert "gateway.json cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "d", "0d", "1w", "-1d", "1.5h"])
def test_a_period_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a period"):
        period(text)


def test_publishing_what_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert distcomp_main(["publish", "math:sqrt"]) == 2
    assert "no gateway runs here" in capsys.readouterr().err
    write_private(gateway_file("test", bytes(16)), '{"address": "http://127.0.0.1:9", "token": "t"}')
    for name in ("math", "math:nothing", "no_such_module:f"):
        assert distcomp_main(["publish", name]) == 2
    assert distcomp_main(["publish", "math:sqrt"]) == 3
    assert "cannot be reached" in capsys.readouterr().err
    assert distcomp_main(["functions", "withdraw", "sqrt"]) == 2
