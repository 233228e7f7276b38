"""Single submits that wait until they were looked for in the store."""

from __future__ import annotations

import threading
from typing import Any

from distcomp.ids import FunctionId
from distcomp.rows import TaskOptions
from distcomp.store import StoredFunction
from distcomp.store_desk import StoreDesk


class Surroundings:
    """As much of a client with its options as a desk needs that looks for nothing."""

    on_wire = TaskOptions()

    def __init__(self) -> None:
        self.lock = threading.Lock()


class SeenDesk(StoreDesk):
    """One that another thread looks at, to see whether all is done, whenever batches come or go."""

    seen: tuple[bool, ...] = ()

    @property
    def _batches(self) -> Any:
        return vars(self)["batches"]

    @_batches.setter
    def _batches(self, batches: Any) -> None:
        vars(self)["batches"] = batches
        if hasattr(self, "_busy"):
            self.seen += (not (self._batches or self._busy),)


def test_what_is_being_looked_for_is_never_taken_for_done() -> None:
    around: Any = Surroundings()
    desk = SeenDesk(around, around, around)
    function = (FunctionId(b"f" * 32), "f", b"code")
    desk.add(around, function, StoredFunction("f", b"digest", "", {}), ((), {}), b"k" * 32)
    assert len(desk._take_batches()) == 1
    assert desk._take_batches() == []
    assert desk.seen == (False, True)
