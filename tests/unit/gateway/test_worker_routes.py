from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from gateway_world import World, world

from distcomp.errors import ConfigError
from distcomp.gateway.doors import Doors

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = f"/v1/workers/{'0f' * 16}/slots"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("home")) as made:
        yield made


def test_a_worker_that_is_not_there_is_said_so(gateway: World) -> None:
    reply = gateway.ask("POST", PATH, body={"slots": 4})
    assert reply.status == 404
    assert "there is no worker 0f0f" in reply.body["detail"]
    assert "GET /v1/workers" in reply.body["detail"]
    assert gateway.ask("POST", PATH, body={"slots": 4.0}).status == 404, "JSON knows no other whole numbers"
    assert gateway.ask("POST", "/v1/workers/left/slots", body={"slots": 4}).status == 404


@pytest.mark.parametrize("slots", [0, 4097, "4", None, 1.5])
def test_numbers_out_of_bounds_are_refused(gateway: World, slots: object) -> None:
    assert gateway.ask("POST", PATH, body={"slots": slots}).status == 422


def test_only_an_admins_token_will_do(gateway: World) -> None:
    assert gateway.ask("POST", PATH, scope="submit", body={"slots": 4}).status == 403


def test_a_gateway_without_an_admins_access_says_what_it_lacks(
    gateway: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Doors) -> None:
        raise ConfigError("this gateway has no access as an admin")

    monkeypatch.setattr(Doors, "admin", refuse)
    reply = gateway.ask("POST", PATH, body={"slots": 4})
    assert (reply.status, reply.headers["content-type"]) == (403, "application/problem+json")
    assert "no access as an admin" in reply.body["detail"]
