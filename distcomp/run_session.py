"""`RunSession`: the session of a run, by a connection of its client's of its own."""

from __future__ import annotations

import logging
import math
import os
import time
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from distcomp.adopted_arrays import AdoptedArray
from distcomp.array_legs import Leg
from distcomp.client_session import ClientSession
from distcomp.core.client_runs import RunEntry
from distcomp.errors import StoreError, UsageError
from distcomp.keeper import Home
from distcomp.task_arrays import TaskArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distcomp.bound_client import BoundClient
    from distcomp.client_session import Belongings
    from distcomp.core.client_effects import ClientEffects
    from distcomp.handles import Host
    from distcomp.options import Options
    from distcomp.rows import RunArray
    from distcomp.store import StoredFunction

_log = logging.getLogger("distcomp")


class Binds(Protocol):
    """The client, as its runs need it."""

    def bind(self, options: Options) -> BoundClient:
        """The client with these options."""


class RunSession(ClientSession):
    """The session of one run.

    It is a session as others, but for three things: arrays that other processes have handed in are adopted;
    what is handed in goes on when this process ends; and numbers of arrays begin with the time, so that none
    is ever used twice in a run, whatever a scheduler may have forgotten.

    Args:
        belongings: what it shares with others of its client.
        client: its client.
        name: the run's.
        attaches: collect what the run has; it must be there.
        waits: whether to wait until it is open.

    Attributes:
        handles: what is collected, and the scheduler's description of each.
        described: all arrays that the run had when it was opened.
    """

    def __init__(
        self, belongings: Belongings, client: Binds, name: str, *, attaches: bool = False, waits: bool = True
    ) -> None:
        self.name = name
        self.attaches = attaches
        self.handles: list[tuple[RunArray, TaskArray[Any]]] = []
        self.described: list[RunArray] = []
        self._client = client
        self._labels: dict[int, dict[int, tuple[StoredFunction, bytes]]] = {}
        self._store = belongings.store
        if self._store is not None and waits:
            self._read_labels()
        first_array = time.time_ns() // 1000
        keeps = self._store is not None
        entry = RunEntry(name, os.urandom(16), first_array, keeps=keeps, attaches=attaches)
        super().__init__(belongings, entry, waits=waits)
        self._labels.clear()
        if waits and not attaches:
            self._say_what_there_is()

    @property
    def cluster_id(self) -> bytes:
        """The cluster that it is in."""
        return self._program.cluster_id

    @property
    def session_id(self) -> bytes:
        """The session's id, the same for every process of its owner."""
        return self._program.session

    def bind(self, options: Options) -> BoundClient:
        """The client with these options, of which one may be another run."""
        return self._client.bind(options)

    def close(self, *, cancel: bool = False) -> None:
        """See to it that all that was handed in is the scheduler's, and leave; the run goes on.

        What would end with this process is waited for instead.

        Args:
            cancel: leave at once.
        """
        if self.forked or self.closed:
            return
        self.check_may_wait()
        try:
            if not cancel and (self.is_embedded or self.inline is not None):
                self.window.wait_until_idle()
            elif not cancel:
                self.window.wait_until_fed()
                if self.keeper is not None:
                    self._desk.drain()
                    self.keeper.flush()
                self._program.settle_detached(math.inf)
        finally:
            if self.keeper is not None:
                self.keeper.flush(self.settings.close_s)
            self.end()

    # --- inside -----------------------------------------------------------------------------------

    def _read_labels(self) -> None:
        """Look up by what names the store knows what others have handed in."""
        assert self._store is not None  # noqa: S101 - asked for only then
        try:
            for function, task, key in self._store.submissions(self.name):
                self._labels.setdefault(task.array, {})[task.task_index] = (function, key)
        except StoreError as error:
            _log.warning("what was handed in before is not known: %s", error)

    def _say_what_there_is(self) -> None:
        tasks = sum(row.tasks for row in self.described)
        if tasks and self._store is None:
            _log.warning(
                "the run %r already holds %d tasks; what is submitted now comes on top of them "
                "(with store= they would be recognised)",
                self.name,
                tasks,
            )
        elif tasks:
            _log.info("the run %r already holds %d tasks", self.name, tasks)

    # --- on the loop's thread ---------------------------------------------------------------------

    def _tell(self, effects: ClientEffects) -> None:
        if effects.opened and self.keeper is not None and self.inline is None:
            self.keeper.home = Home(self.name, self.cluster_id, self.session_id)
        for row in effects.adopted:
            self._adopt(row)
        super()._tell(effects)

    def _adopt(self, row: RunArray) -> None:
        """Take in what comes of an array that another process has handed in."""
        self.described.append(row)
        leg = None
        if self.attaches:
            handle = collected(self, row.tasks)
            leg = handle.legs[0]
            leg.counter = row.number
            self.handles.append((row, handle))
        array = AdoptedArray(row, leg)
        array.labels_of = self._labels.pop(row.number, {})
        if self.keeper is not None:
            self.keeper.adopted[row.number] = array
        if array.open_tasks and (leg is not None or self.keeper is not None):
            self.sinks[row.number] = array


def collected(host: Host, tasks: int) -> TaskArray[Any]:
    """A handle on tasks that another process has handed in, to be settled through its leg."""

    def refuse(_indexes: Sequence[int]) -> NoReturn:
        raise UsageError("the arguments of these tasks are not here; run the script again that has them")

    handle: TaskArray[Any] = TaskArray(host, tasks, refuse)
    handle.begin(Leg(handle, tasks, None))
    return handle
