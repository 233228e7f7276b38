from __future__ import annotations

import getpass
import json
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from distcomp import access
from distcomp.access import Access, SchedulerAccess
from distcomp.errors import ConfigError
from distcomp.ids import ROLES, ClusterId

if TYPE_CHECKING:
    from pathlib import Path

ADDRESS = "tcp://a.example:7077"


def make(**changes: Any) -> Access:
    fields: dict[str, Any] = {
        "role": "worker",
        "owner": "alice",
        "cluster_id": b"c" * 16,
        "cluster_name": "7077",
        "addresses": (ADDRESS, "tcp://[::1]:1"),
        "secret": b"s" * 32,
    }
    return Access(**{**fields, **changes})


@pytest.mark.parametrize(
    "changes", [{}, {"secret": None}, {"fingerprint": b"f" * 32}, {"addresses": ()}, {"owner": "a.b@c"}]
)
def test_a_join_string_carries_everything(changes: dict[str, Any]) -> None:
    one = make(**changes)
    text = one.to_join()
    assert text.startswith("distcomp-join-1.")
    assert " " not in text
    assert Access.parse(text) == one


def test_a_join_string_survives_wrapping_and_white_space() -> None:
    text = make().to_join()
    assert Access.parse(f"  {text[:40]}\r\n {text[40:]}\n") == make()


def test_every_cut_join_string_is_told_as_such() -> None:
    text = make().to_join()
    for length in range(len("distcomp-join-1."), len(text)):
        with pytest.raises(ConfigError, match="not whole"):
            Access.parse(text[:length])


def test_a_changed_join_string_is_told_as_such() -> None:
    text = make().to_join()
    for at in range(len("distcomp-join-1."), len(text)):
        other = "A" if text[at] != "A" else "B"
        with pytest.raises(ConfigError, match="not whole"):
            Access.parse(text[:at] + other + text[at + 1 :] + "")


@pytest.mark.parametrize("text", ["", "hello", "distcomp-join-", "distcomp-join-1"])
def test_other_texts_are_no_join_strings(text: str) -> None:
    with pytest.raises(ConfigError, match="no join string"):
        Access.parse(text)


def test_a_join_string_of_another_version() -> None:
    with pytest.raises(ConfigError, match=r"format version 2.*same distcomp version"):
        Access.parse(make().to_join().replace("join-1.", "join-2."))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"role": "king"}, "not a role"),
        ({"owner": "../x"}, "cannot name an owner"),
        ({"cluster_name": "a/b"}, "cannot name a cluster"),
        ({"addresses": ("http://x",)}, "not an address"),
        ({"cluster_id": b"short"}, "16 bytes"),
        ({"secret": b"short"}, "32 bytes"),
        ({"format_version": 2}, "format version"),
    ],
)
def test_impossible_accesses(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make(**changes)


def test_a_secret_is_not_shown() -> None:
    assert "secret" not in repr(make())
    assert str(b"s" * 32) not in repr(make())


def test_saved_files_are_private_and_come_back(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    path = make().save(home)
    assert path == home / "access" / "7077" / "worker-alice.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in list(path.parents)[:3]] == [0o700] * 3
    assert Access.read(path) == make()
    make(role="client").save(home)
    assert access.saved(home) == [path.with_name("client-alice.json"), path]
    assert sorted(each.name for each in path.parent.iterdir()) == ["client-alice.json", "worker-alice.json"]


def test_the_text_of_an_access_file_can_be_pasted(tmp_path: Path) -> None:
    assert Access.parse(make().save(tmp_path).read_text()) == make()


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = make().save(tmp_path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=f"chmod 600 {path}"):
        Access.read(path)
    path.chmod(0o600)
    path.parent.chmod(0o770)
    with pytest.raises(ConfigError, match=f"chmod 700 {path.parent}"):
        Access.read(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("{}", "broken"),
        ('{"secret": null, "format_version": "x"}', "broken"),
        ("[]", "no join string"),
        ("\xff", "no join string"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = make().save(tmp_path)
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        Access.read(path)
    assert str(path) in str(caught.value)


def test_a_file_of_another_version_or_none(tmp_path: Path) -> None:
    path = make().save(tmp_path)
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(ConfigError, match="format version is 9"):
        Access.read(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        Access.read(path)
    path.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        Access.read(path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "access").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be written"):
        make().save(tmp_path)


def test_a_draft_that_cannot_be_put_in_place_is_removed(tmp_path: Path) -> None:
    path = make().save(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        make().save(tmp_path)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_scheduler_keeps_its_secrets_between_starts(tmp_path: Path) -> None:
    first = SchedulerAccess.open("main", tmp_path, "alice")
    again = SchedulerAccess.open("main", tmp_path, "alice")
    assert again.cluster_id == first.cluster_id
    for role in ROLES:
        secret = first.lookup(role, "alice")
        assert secret is not None
        assert again.lookup(role, "alice") == secret
    assert len({first.lookup(role, "alice") for role in ROLES}) == len(ROLES)
    assert first.lookup("worker", "bob") is None
    path = tmp_path / "schedulers" / "main" / "cluster.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_name_is_another_cluster(tmp_path: Path) -> None:
    one, two = (SchedulerAccess.open(name, tmp_path, "alice") for name in ("one", "two"))
    assert one.cluster_id != two.cluster_id


def test_a_running_scheduler_notices_new_owners(tmp_path: Path) -> None:
    running = SchedulerAccess.open("main", tmp_path, "alice")
    SchedulerAccess.open("main", tmp_path, "alice").add_owner("bob")
    assert running.lookup("client", "bob") is not None
    assert running.owners == ["alice", "bob"]


def test_issued_accesses(tmp_path: Path) -> None:
    scheduler = SchedulerAccess.open("main", tmp_path, "alice")
    one = scheduler.issue("worker", "alice", [ADDRESS])
    assert (one.secret, one.cluster_id) == (scheduler.lookup("worker", "alice"), scheduler.cluster_id)
    assert scheduler.issue("worker", "alice", [ADDRESS], auth=False).secret is None
    with pytest.raises(ConfigError, match="'bob' has no access as worker; known owners: alice"):
        scheduler.issue("worker", "bob", [])


def test_access_files_are_published_and_withdrawn(tmp_path: Path) -> None:
    scheduler = SchedulerAccess.open("main", tmp_path, "alice")
    paths = scheduler.publish([ADDRESS])
    assert sorted(paths) == access.saved(tmp_path)
    assert {Access.read(path).role for path in paths} == set(ROLES)
    assert SchedulerAccess.open("main", tmp_path, "alice").addresses == (ADDRESS,)
    scheduler.withdraw()
    scheduler.withdraw()
    assert access.saved(tmp_path) == []
    assert not (tmp_path / "access" / "main").exists()


def test_withdrawing_leaves_other_files(tmp_path: Path) -> None:
    scheduler = SchedulerAccess.open("main", tmp_path, "alice")
    scheduler.publish([ADDRESS])
    other = make(cluster_name="main", owner="bob").save(tmp_path)
    scheduler.withdraw()
    assert access.saved(tmp_path) == [other]


def test_an_embedded_scheduler_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTCOMP_HOME", str(tmp_path / "home"))
    embedded = SchedulerAccess(ClusterId(b"c" * 16), "embedded", {("client", "a"): b"s" * 32}, owner="a")
    assert embedded.lookup("client", "a") == b"s" * 32
    embedded.add_owner("b")
    assert embedded.publish([ADDRESS]) == []
    embedded.withdraw()
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "text", ["", "{}", '{"format_version": 7}', '{"format_version": 1, "cluster_id": 5}', "[]"]
)
def test_a_broken_scheduler_file_is_named(tmp_path: Path, text: str) -> None:
    SchedulerAccess.open("main", tmp_path, "alice")
    path = tmp_path / "schedulers" / "main" / "cluster.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"cluster\.json cannot be used"):
        SchedulerAccess.open("main", tmp_path, "alice")


def test_a_removed_scheduler_file_leaves_a_running_one_alone(tmp_path: Path) -> None:
    scheduler = SchedulerAccess.open("main", tmp_path, "alice")
    (tmp_path / "schedulers" / "main" / "cluster.json").unlink()
    assert scheduler.lookup("worker", "alice") is not None


def test_this_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "DOMAIN\\al ice")
    assert access.this_user() == "DOMAIN-al-ice"

    def nobody() -> str:
        raise KeyError("no such user")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert access.this_user() == f"uid-{os.getuid()}"


def test_the_default_folder_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTCOMP_HOME", str(tmp_path))
    path = make().save()
    assert path.is_relative_to(tmp_path)
    assert access.saved() == [path]
    assert json.loads(path.read_text())["owner"] == "alice"
    assert SchedulerAccess.open("main").owner == access.this_user()
