"""Fixtures for clusters of real programs, and a look after each test at what it left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from clusters import Programs, programs
from gateways import make_token, start_gateway
from leftovers import nothing_left_behind
from processes import adopt_orphans

from distcomp import transport
from distcomp.access import this_user

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAYS = {"tcp": None, "http": None, "embedded": "", "inline": "inline:"}
"""Ways to connect, and the addresses that need no programs."""


@pytest.fixture(scope="session", autouse=True)
def _nothing_gets_out_of_sight() -> None:
    adopt_orphans()
    transport.new_event_loop().close()  # the first loop of a process opens what all later ones share


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail a test after which a process, a descriptor or a temporary file is left."""
    with nothing_left_behind(tmp_path_factory.mktemp("tmp"), monkeypatch):
        yield


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Programs]:
    """A user folder, also for clients of this process, in which a test starts programs."""
    home = tmp_path / "home"
    monkeypatch.setenv("DISTCOMP_HOME", str(home))
    monkeypatch.delenv("DISTCOMP_ADDRESS", raising=False)
    with programs(home) as made:
        yield made


@pytest.fixture(scope="module", params=list(WAYS))
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An address, with everything that it needs under way; empty for a cluster of the client's own."""
    with pytest.MonkeyPatch.context() as patch, programs(tmp_path_factory.mktemp("home")) as cluster:
        patch.setenv("DISTCOMP_HOME", str(cluster.home))
        patch.delenv("DISTCOMP_ADDRESS", raising=False)
        patch.delenv("DISTCOMP_TOKEN", raising=False)
        address = WAYS[request.param]
        if address is None:
            cluster.scheduler()
            cluster.worker()
            address = cluster.access().addresses[0]
        if request.param == "http":
            _, port = start_gateway(cluster)
            address = f"http://127.0.0.1:{port}"
            patch.setenv("DISTCOMP_TOKEN", make_token(cluster, owner=this_user()))
        yield address
