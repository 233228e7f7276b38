"""`Run`: the handle on all tasks of a run, wherever they were submitted; made by `Client.attach`."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from distcomp.core.client_effects import Failed
from distcomp.errors import UnknownRunError, UnpicklableError, UsageError
from distcomp.futures import wake_all
from distcomp.keeper import settle_found
from distcomp.rows import Failure
from distcomp.run_session import collected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

    from distcomp.client import Client
    from distcomp.futures import Future, Woken
    from distcomp.rows import RunArray
    from distcomp.run_session import RunSession
    from distcomp.store_rows import RunOutcome
    from distcomp.task_arrays import TaskArray

__all__ = ["Run"]

_US = 1e6
_ELSEWHERE = Failure(
    "scheduler_lost",
    text="another process has received this result, and the store here does not have it: "
    "give store= the file that it was received with",
)
_NOWHERE = Failure(
    "scheduler_lost",
    text="the task was handed in, and neither the scheduler nor the store has it any more: "
    "run the script again, which computes what is missing",
)


class Run:
    """All tasks of a run, in the order in which they were submitted; made by `Client.attach`.

    It does not matter which process has submitted them, nor whether it lives. Iterating gives the results,
    each as soon as it and all before it are there.

    Attributes:
        name: the run's.
        arrays: its tasks, as they were handed in: those of a `map` are one array, and so are calls of one
            function that were submitted together.

    Example:
        >>> with Client("inline:", store="results.db") as client:
        ...     client.options(run="fit").map(abs, [-1, -2]).wait()
        True
        >>> with Client("inline:", store="results.db") as client:
        ...     client.attach("fit")
        <Run fit of 2 tasks, 2 done>
    """

    def __init__(
        self, client: Client, name: str, session: RunSession | None, arrays: list[TaskArray[Any]]
    ) -> None:
        self.name = name
        self.arrays = arrays
        self._client = client
        self._session = session

    def __len__(self) -> int:
        return sum(map(len, self.arrays))

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.arrays)

    @property
    def futures(self) -> list[Future[Any]]:
        """One future for each task."""
        return [future for array in self.arrays for future in array.futures]

    @property
    def done_count(self) -> int:
        """How many tasks have an outcome: a result, a failure or a cancellation."""
        return sum(array.done_count for array in self.arrays)

    @property
    def failed_count(self) -> int:
        """How many tasks have failed or were cancelled."""
        return sum(array.failed_count for array in self.arrays)

    def done(self) -> bool:
        """Whether all tasks have an outcome."""
        return all(array.done() for array in self.arrays)

    def gather(self) -> list[Any]:
        """Wait for all tasks and give their results in order.

        Raises:
            Exception: what a task raised.
        """
        return list(self)

    def cancel(self) -> int:
        """Cancel every task that has no outcome.

        Returns:
            How many tasks that were.
        """
        return sum(array.cancel() for array in self.arrays)

    def forget(self) -> None:
        """Have scheduler and store let go of the run, for good; what is not done of it is cancelled.

        Raises:
            RunTakenError: another process has opened it meanwhile.
            UnreachableError: the scheduler did not answer.
        """
        self.close()
        self._client.forget_run(self.name)

    def close(self) -> None:
        """Leave the run, which goes on. What has not come settles here as cancelled."""
        if self._session is not None:
            self._session.close(cancel=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        """A handle is of use only where its client is."""
        raise UnpicklableError("a Run cannot leave its process; attach to it there")

    def __repr__(self) -> str:
        return f"<Run {self.name} of {len(self)} tasks, {self.done_count} done>"


class Found(NamedTuple):
    """Tasks of a run that stand together in the store: in one array of one session."""

    began_at: float
    outcomes: list[RunOutcome]

    def take(self, tasks: int) -> dict[int, RunOutcome]:
        """Take out the first tasks of the array, by their places."""
        taken = {each.place.task_index: each for each in self.outcomes if each.place.task_index < tasks}
        self.outcomes[:] = [each for each in self.outcomes if each.place.task_index >= tasks]
        return taken


def attach(client: Client, name: str) -> Run:
    """Collect a run; see `Client.attach`."""
    session: RunSession | None = None
    unknown: UnknownRunError | None = None
    try:
        session = client.enter_run(name, attaches=True)
    except UnknownRunError as error:
        unknown = error
    found = _in_store(client, name)  # now, as whoever had the run open till then has written there
    if unknown is not None and not found:
        raise unknown
    if session is not None and not session.attaches:
        raise UsageError(f"this client has submitted to the run {name!r}: it has its handles already")
    if session is not None and session.inline is not None and not found:
        raise UnknownRunError(f"the store has no run {name!r}, and no cluster is asked")
    earlier = _in_store(client, name, earlier=True) if session is not None else {}
    timed: list[tuple[float, TaskArray[Any]]] = []
    for row, handle in session.handles if session is not None else ():
        assert session is not None  # noqa: S101 - whose handles they are
        where, nothing = (session.cluster_id, session.session_id, row.number), Found(0.0, [])
        known = earlier.get(where, nothing).take(row.tasks)
        known.update(found.get(where, nothing).take(row.tasks))
        _complete(handle, known, row)
        timed.append((row.number / _US, handle))
    for there in found.values():
        if there.outcomes:
            handle = collected(session or client, len(there.outcomes))
            _fill(handle, list(enumerate(there.outcomes)))
            timed.append((there.began_at, handle))
    return Run(client, name, session, [handle for _, handle in sorted(timed, key=lambda each: each[0])])


def _in_store(client: Client, name: str, *, earlier: bool = False) -> dict[tuple[bytes, bytes, int], Found]:
    """What the store has of a run, by the arrays in which it was handed in: last, or earlier."""
    found: dict[tuple[bytes, bytes, int], Found] = {}
    if client.store is None:
        return found
    try:
        for each in client.store.outcomes(name, earlier=earlier):
            place = each.place
            key = place.cluster, place.session, place.array
            found.setdefault(key, Found(place.submitted_at, [])).outcomes.append(each)
    except UnknownRunError:
        return {}
    return found


def _complete(handle: TaskArray[Any], there: dict[int, RunOutcome], row: RunArray) -> None:
    """Settle what the scheduler does not have any more, as the store has it."""
    received = [place for start, stop in row.received for place in range(start, min(stop, row.tasks))]
    if not received:
        return
    known = [(place, there[place]) for place in received if place in there]
    _fill(handle, [(place, each) for place, each in known if each.outcome is not None])
    _fail(handle, [(place, _ELSEWHERE) for place in received])


def _fill(handle: TaskArray[Any], outcomes: list[tuple[int, RunOutcome]]) -> None:
    """Settle tasks, by places in order, with what the store has; the others fail."""
    woken: list[Woken] = []
    here = [(place, each.outcome) for place, each in outcomes if each.outcome is not None]
    with handle.host.lock:
        settle_found(handle.legs[0], [(at, each) for at, each in here if each.failure is None], woken)
    wake_all(woken)
    _fail(handle, [(place, each.failure) for place, each in here if each.failure is not None])
    _fail(handle, [(place, _NOWHERE) for place, each in outcomes if each.outcome is None])


def _fail(handle: TaskArray[Any], failures: list[tuple[int, Failure]]) -> None:
    """Let tasks fail that have no outcome yet."""
    woken: list[Woken] = []
    with handle.host.lock:
        for place, failure in failures:
            handle.legs[0].settle(Failed(0, place, place + 1, failure), woken)
    wake_all(woken)
