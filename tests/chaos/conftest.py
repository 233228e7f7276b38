"""What all chaos tests have: the programs of the integration tests, and a look at what is left afterwards."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))

from clusters import Programs, programs
from leftovers import nothing_left_behind
from processes import adopt_orphans
from pulse import beating

from distcomp import transport

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def cluster(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Programs]:
    """A user folder, also for this process, in which a test starts programs; nothing of them may be left."""
    adopt_orphans()
    transport.new_event_loop().close()  # the first loop of a process opens what all later ones share
    monkeypatch.setenv("DISTCOMP_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DISTCOMP_ADDRESS", raising=False)
    temporary = tmp_path_factory.mktemp("tmp")
    with (
        nothing_left_behind(temporary, monkeypatch),
        beating(tmp_path / "pulse"),
        programs(tmp_path / "home") as made,
    ):
        yield made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is made longer by hand may last as long as it takes."""
    if any(name.startswith(("CHAOS_", "SLOW_READER_")) for name in os.environ):
        for item in items:
            item.add_marker(pytest.mark.timeout(0))
