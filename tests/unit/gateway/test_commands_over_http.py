"""Console commands with the address of a gateway."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from gateway_world import World, until, world

from distcomp.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("home")) as made:
        yield made


@pytest.fixture
def run(
    gateway: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    monkeypatch.setenv("DISTCOMP_HOME", str(tmp_path))
    monkeypatch.setenv("DISTCOMP_ADDRESS", f"http://127.0.0.1:{gateway.port}")

    def act(scope: str, *words: str) -> tuple[int, str]:
        monkeypatch.setenv("DISTCOMP_TOKEN", gateway.texts[scope])
        code = main(list(words))
        said = capsys.readouterr()
        return code, said.err if code else said.out

    return act


def test_status_goes_through_the_tunnel_and_leaves_none(
    gateway: World, run: Callable[..., tuple[int, str]]
) -> None:
    code, shown = run("submit", "status", "--json")
    assert (code, json.loads(shown)["cluster"]) == (0, "test")
    assert "test" in run("submit", "status")[1]
    until(lambda: gateway.serving.connections == 0)
    code, said = run("observe", "status")
    assert (code, "needs a token with the scope submit" in said) == (3, True)


def test_runs_are_listed_through_the_tunnel(run: Callable[..., tuple[int, str]]) -> None:
    assert run("submit", "runs", "list", "--scheduler") == (0, "the scheduler holds no runs\n")


def test_scale_asks_the_gateway_as_an_admin(run: Callable[..., tuple[int, str]]) -> None:
    code, said = run("admin", "scale", "--slots", "2")
    assert (code, "the cluster has no workers" in said) == (2, True)
