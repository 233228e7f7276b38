"""What sessions find in their store while other threads hand over and look up."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from overtaking import in_another_thread

from distcomp.future_groups import FutureGroup
from distcomp.keeper import Keeper
from distcomp.payload import pack_results
from distcomp.recognition import Recogniser
from distcomp.store import StoredFunction, StoredOutcome

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

KEY = b"k" * 32


class Surroundings:
    """As much of a client, its program and its store as a keeper needs; the store finds nothing."""

    run = ""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inline = None

    def post(self, action: Callable[[Any], None]) -> None:
        """Nothing comes of it."""

    def find(self, _keys: Any, _run: str) -> dict[bytes, Any]:
        return {}

    def reasons(self, *_given: Any) -> None:
        """Nobody knows."""


def keeper_of(fresh: dict[bytes, StoredOutcome] | None = None) -> tuple[Keeper, FutureGroup]:
    """A keeper, and what settles with what it finds."""
    around: Any = Surroundings()
    group = FutureGroup(around)
    group.add()
    group.open_tasks = 1
    return Keeper(around, Recogniser(), fresh or {}, around, ""), group


class Fleeting(dict[bytes, StoredOutcome]):
    """What is gone as soon as it was seen: another thread has heard that the store has it."""

    def __contains__(self, key: object) -> bool:
        return self.pop(key, None) is not None  # type: ignore[call-overload]  # any key may be asked for

    def get(self, key: bytes, default: Any = None) -> Any:
        return self.pop(key, default)


def test_what_the_store_has_just_got_is_found_all_the_same() -> None:
    (packed,) = pack_results(["here"])
    keeper, group = keeper_of(Fleeting({KEY: StoredOutcome("", "", 0.0, packed.blob, 0)}))
    future = group.futures[0]
    assert future is not None
    assert keeper.look_up(group, StoredFunction("f", b"digest", "", {}), [0], [KEY]) == []
    assert future.result() == "here"


def test_what_two_threads_say_at_once_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "distcomp")
    keeper, group = keeper_of()
    for name in ("f", "g"):
        keeper.look_up(group, StoredFunction(name, b"digest", "", {}), [0], [KEY])
    overtaking = iter([keeper.say])

    def overtake(_record: logging.LogRecord) -> bool:
        for say in overtaking:
            in_another_thread(say)
        return True

    logging.getLogger("distcomp").addFilter(overtake)
    try:
        keeper.say()
    finally:
        logging.getLogger("distcomp").removeFilter(overtake)
    assert sorted(caplog.messages) == ["f: 0 of 1 from the store", "g: 0 of 1 from the store"]
