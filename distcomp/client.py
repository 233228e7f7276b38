"""`Client`: hands functions to a cluster."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, overload

from distcomp import discovery, open_clients
from distcomp.bound_client import BoundClient
from distcomp.client_session import Belongings, ClientSession
from distcomp.config import ClientSettings
from distcomp.errors import (
    ClientClosedError,
    RunTakenError,
    StoreError,
    UnknownRunError,
    UnpicklableError,
    UsageError,
)
from distcomp.futures import Future
from distcomp.html import client_html
from distcomp.options import Options
from distcomp.payload import FunctionCache, open_project
from distcomp.recognition import Recogniser
from distcomp.run_handles import attach
from distcomp.run_session import RunSession
from distcomp.settings_file import surroundings
from distcomp.store import Store
from distcomp.task_arrays import TaskArray
from distcomp.task_streams import TaskStream
from distcomp.waiting import gather

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from distcomp.access import Access
    from distcomp.discovery import Target
    from distcomp.feeder import Cost, SizedIterable
    from distcomp.options import OptionValues
    from distcomp.protocol import StatusReported
    from distcomp.rows import WorkerRow
    from distcomp.run_handles import Run

    Handle = Future[Any] | TaskArray[Any] | TaskStream[Any]

__all__ = ["BoundClient", "Client"]

P = ParamSpec("P")
T = TypeVar("T")

POLL_S = 0.05
MAX_BOUND = 256
_log = logging.getLogger("distcomp")


class Client(ClientSession):
    """Hands functions to a cluster and gives handles on what comes of them.

    Args:
        address: `tcp://host:port` of a scheduler, `http://host:port` or `https://...` of a gateway, or an
            `Access`; `inline:` runs the tasks in this process, in the threads that wait for them, where a
            debugger sees them. None leaves the choice to the surroundings: `DISTCOMP_ADDRESS`, `address` in
            `distcomp.toml`, the one running scheduler that this user has access to, or an embedded cluster
            that is gone with this client.
        token: for a gateway; `DISTCOMP_TOKEN`, `token` in the user's own `distcomp.toml`, or that of this
            user's own gateway, if left out.
        slots: how many tasks at a time an embedded cluster runs, if it comes to one; as many as there
            are cores if left out.
        journal: where an embedded cluster, if it comes to one, writes down what must outlive it: a file on
            a local disk, made if there is none, which belongs to its place. Whoever opens it there next
            goes on with the runs in it. None does without: with such a cluster ends all that it had.
        settings: the client's settings; from `DISTCOMP_...` variables and `distcomp.toml` if left out.
        store: a file in which results are kept on this machine, made if there is none. Calls that were made
            before, by any process, are then found there instead of being computed; see the options `cache`
            and `run`. None takes `DISTCOMP_STORE` or `store` in `distcomp.toml`; without these there is none.
        project: a folder of which everything is to travel to the workers; None sends those local modules
            and packages that tasks reach; False none, so that local functions and classes go by value.

    Attributes:
        is_embedded: whether it has an embedded cluster of its own.
        window: how much is handed in and has not settled.

    Raises:
        ConfigError: the address or a setting cannot be read, or there are an address and a journal.
        UnreachableError: nobody answered within `connect_timeout_s`.
        ConnectError: what answered is not what was wanted; see `distcomp.errors`.
        AmbiguousClusterError: several schedulers run, and nothing says which is meant.
        StoreError: the store cannot be used.

    Example:
        >>> Client("inline:").submit(pow, 2, 10).result()
        1024
    """

    def __init__(
        self,
        address: str | Access | None = None,
        *,
        token: str | None = None,
        slots: int | None = None,
        journal: str | os.PathLike[str] | None = None,
        settings: ClientSettings | None = None,
        project: str | os.PathLike[str] | bool | None = None,
        store: str | os.PathLike[str] | None = None,
    ) -> None:
        open_clients.check_time()
        settings = settings or ClientSettings.from_environment(surroundings())
        mine = open_project(project, settings)
        target = discovery.find(address, slots, token, journal)
        _log.info("using %s", target.how)
        if target.shares_path:
            mine.share_path()
        self._bound: dict[Options, BoundClient] = {}
        self._runs: dict[str, RunSession] = {}
        self._entering = threading.Lock()
        self._token = token
        self._store: Store | None = None
        self.outlived = False
        try:
            self._store = self._open_store(store, target, settings)
            functions = FunctionCache(shares_path=target.shares_path or mine.is_on)
            self._belongings = Belongings(settings, target, mine, functions, Recogniser(), self._store, {})
            super().__init__(self._belongings)
        except BaseException:
            self._let_go(target)
            raise
        self._plain = self.bind(Options())
        try:
            open_clients.remember(self)
        except ClientClosedError:
            self.close(cancel=True)
            raise
        if target.door is not None:
            target.door.take_in(self)

    # --- what users call --------------------------------------------------------------------------

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have `function(*args, **kwargs)` run in the cluster.

        Function and arguments are pickled before this returns, so what changes afterwards changes nothing.

        Returns:
            The future of its result.

        Raises:
            UnpicklableError: something cannot be pickled; the text names the path to it.
            PayloadTooLargeError: the arguments or the function take more than `max_payload_bytes`.
            WindowFullError: on the client's own loop thread, far too much is under way.
            ClientClosedError: the client is closed.
            ForkedClientError: the client was made by another process.

        Example:
            >>> client.submit(pow, 2, 10).result()
            1024
        """
        return self.submit_with(self._plain, function, args, kwargs)

    @overload
    def map(  # type: ignore[overload-overlap]  # what has a length is looked for first
        self, function: Callable[..., T], /, *iterables: SizedIterable, cost: Cost = None
    ) -> TaskArray[T]: ...

    @overload
    def map(self, function: Callable[..., T], /, *iterables: Iterable[Any]) -> TaskStream[T]: ...

    def map(self, function: Callable[..., T], /, *iterables: Iterable[Any], cost: Cost = None) -> Any:
        """Have `function` run for the items of `iterables`, taken together as by the built-in `map`.

        Args:
            function: what to call.
            *iterables: the arguments; the shortest counts. A list is copied at once, by reference.
            cost: how long each task takes, in any unit: a callable of its arguments, or a sequence. The
                longest start first, which ends the whole sooner.

        Returns:
            A `TaskArray`, which gives results in the order of the items; if one of the iterables has no
            length, as a generator has none, a `TaskStream`, which is read once and may be endless.

        Raises:
            TypeError: there is no iterable, or a stream was given a `cost`.
            ValueError: `cost` is a sequence of another length.
            UnpicklableError: the function cannot be pickled.

        Example:
            >>> list(client.map(pow, [2, 3], [3, 2]))
            [8, 9]
        """
        return self.map_with(self._plain, function, iterables, cost)

    def options(self, **values: Unpack[OptionValues]) -> BoundClient:
        """This client with task options; see `distcomp.options.Options`.

        Example:
            >>> client.options(retries=2, timeout_s=60).submit(len, "abc").result()
            3
        """
        return self.bind(Options().replace(**values))

    def attach(self, name: str) -> Run:
        """Collect a run, from any process: what the scheduler has of it, completed by the store.

        Args:
            name: the run's, as tasks were given it by `options(run=...)`.

        Returns:
            A handle on all its tasks, in the order in which they were submitted.

        Raises:
            UnknownRunError: neither the scheduler nor the store has such a run.
            RunTakenError: another process has it open.
            UsageError: this client has submitted to it, and so has its handles.

        Example:
            >>> with Client("inline:", store="results.db") as client:
            ...     client.options(run="fit").map(abs, [-1, -2]).wait()
            True
            >>> with Client("inline:", store="results.db") as client:
            ...     client.attach("fit").gather()
            [1, 2]
        """
        self.check_usable()
        self.check_may_wait()
        return attach(self, name)

    def publish(
        self, function: Callable[..., Any], name: str | None = None, *, version: str = "1"
    ) -> dict[str, Any]:
        """Give a function a name, under which whoever has a token can call it over HTTP, with JSON.

        After `client.publish(square)`, `POST /v1/functions/square/tasks` runs it; see `docs/http.md`.
        A client of a gateway publishes there, any other one at the gateway that `distcomp.publish` finds.

        Args:
            function: what to publish; it takes and gives what JSON can carry.
            name: its name; the function's own if left out.
            version: of the function. A version never changes: another function needs another one.

        Returns:
            What the gateway says of it: name, version, owner, parameters and more.

        Raises:
            UnpicklableError: it cannot be pickled.
            PublishError: the gateway does not take it.
        """
        from distcomp.publishing import publish  # noqa: PLC0415 - few scripts need it, and it loads long

        road = self._target.road
        gateway = None if road is None else str(road.address)
        return publish(function, name, version=version, gateway=gateway, token=self._token)

    def gather(self, futures: Iterable[Future[T]]) -> list[T]:
        """The results of futures, in order; see `distcomp.gather`."""
        return gather(futures)

    def cancel(self, handles: Handle | Iterable[Handle], *, pending_only: bool = False) -> None:
        """Cancel a future, a `TaskArray`, a `TaskStream`, or several of them.

        Args:
            handles: what to cancel.
            pending_only: leave alone what runs or was given to a worker. Which tasks that are, the scheduler
                decides: the others settle as cancelled as soon as it says so.

        Example:
            >>> client.cancel([client.submit(abs, -1), client.map(abs, [-2, -3])])
        """
        for handle in [handles] if isinstance(handles, Future | TaskArray | TaskStream) else handles:
            handle.cancel_pending() if pending_only else handle.cancel()

    def status(self) -> StatusReported:
        """The cluster in numbers, as the scheduler sees it now.

        Raises:
            UnreachableError: there was no answer within `connect_timeout_s`.
        """
        self.check_usable()
        self.check_may_wait()
        return self._news.status()

    def workers(self) -> tuple[WorkerRow, ...]:
        """The cluster's workers, as the scheduler sees them now."""
        return self.status().workers

    def wait_for_workers(self, n: int = 1, timeout_s: float | None = None) -> tuple[WorkerRow, ...]:
        """Wait until at least `n` workers can run this client's tasks.

        Args:
            n: how many.
            timeout_s: seconds to wait at most; None waits for ever.

        Returns:
            These workers.

        Raises:
            TimeoutError: there were too few in time.

        Example:
            >>> len(client.wait_for_workers(1, timeout_s=60))
            1
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            fit = tuple(row for row in self.workers() if not row.unfit)
            if len(fit) >= n:
                return fit
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"{len(fit)} of {n} workers after {timeout_s} s")
            time.sleep(POLL_S)

    def close(self, *, cancel: bool = False) -> None:
        """Wait for the tasks handed in, then leave the cluster. Calling it again does nothing.

        Args:
            cancel: cancel the tasks instead of waiting for them.

        Example:
            >>> client.close(cancel=True)
        """
        if self.forked or self.closed:
            return
        self.check_may_wait()
        for session in (self, *self._runs.values()):
            session.leave()
        try:
            for run in list(self._runs.values()):
                run.close(cancel=cancel)
            if cancel:
                self.cancel_all()
            self.window.wait_until_idle()
        except BaseException:
            self.cancel_all()
            raise
        finally:
            for run in self._runs.values():
                run.close(cancel=True)
            self.end()
            open_clients.forget(self)
            self._let_go(self._target)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(cancel=kind is not None)

    def _repr_html_(self) -> str:
        told = None if self.closed or self.forked else self._news.glance()
        return client_html(repr(self).strip("<>"), told, is_embedded=self.is_embedded)

    def __reduce__(self) -> NoReturn:
        """A client is of use only in its process."""
        raise UnpicklableError("a Client cannot leave its process; in a task, Client() is one of its own")

    def __repr__(self) -> str:
        return f"<Client of {self._target.how}{', closed' if self.closed else ''}>"

    # --- what bound clients and handles call ------------------------------------------------------

    def bind(self, options: Options) -> BoundClient:
        """This client with these options; the same one each time, so that its submits travel together.

        Raises:
            UsageError: results are to be found in a store, and there is none.
            RunTakenError: another process has the run open.
        """
        bound = self._bound.get(options)
        if bound is None or (bound.session.closed and not self.closed):
            in_task = self._target.door is not None
            if options.cache and self._store is None and not in_task:
                raise UsageError('cache=True finds results in a store: Client(store="results.db") has one')
            session = self if options.run is None or in_task else self.enter_run(options.run)
            if len(self._bound) >= MAX_BOUND:
                self._bound.clear()
            bound = self._bound[options] = BoundClient(session, options)
        return bound

    @property
    def store(self) -> Store | None:
        """Where its results are kept, if anywhere."""
        return self._store

    def forget_run(self, name: str) -> None:
        """Have scheduler and store let go of a run; see `Run.forget`."""
        self.check_usable()
        told = None if self.inline is not None else self._news.forget_run(name)
        if told is not None and told.code == "taken":
            raise RunTakenError(told.text)
        here = 0
        if self._store is not None:
            with contextlib.suppress(UnknownRunError):
                here = 1 + self._store.forget(name)
        if told is not None and told.code == "unknown" and not here:
            raise UnknownRunError(told.text)

    def enter_run(self, name: str, *, attaches: bool = False) -> RunSession:
        """The client of a run, by a connection of its own; opened if it is not."""
        self.check_usable()
        with self._entering:  # two threads would each open it, and one would find it taken
            run = self._runs.get(name)
            if run is None or run.closed:
                self._runs = {name: run for name, run in self._runs.items() if not run.closed}
                if len(self._runs) >= self.settings.max_runs:
                    raise UsageError(f"the client has {len(self._runs)} runs open, and max_runs is no more")
                may_block = self.window.may_block
                run = RunSession(self._belongings, self, name, attaches=attaches, waits=may_block or attaches)
                run.window.may_block = may_block
                self._runs[name] = run
        return run

    def leave_task(self) -> None:
        """End with the task that made this client; what runs still is cancelled, unless it is detached."""
        self.outlived = True
        if self.closed or self.forked:
            return
        self.closed = True
        self._program.settle_detached()
        self.end()
        open_clients.forget(self)
        self._let_go(self._target)

    def become_forked(self) -> None:
        """Be of no use: this is a forked child of the process that made it."""
        super().become_forked()
        for run in self._runs.values():
            run.become_forked()

    # --- inside -----------------------------------------------------------------------------------

    def _open_store(
        self, store: str | os.PathLike[str] | None, target: Target, settings: ClientSettings
    ) -> Store | None:
        """Open the store that is wanted; a task's client has only one that it is given."""
        path = store or ("" if target.door is not None else settings.store)
        return Store(path, settings.disk, on_failed=self._on_store_failed) if path else None

    def _let_go(self, target: Target) -> None:
        """Let go of what the sessions shared."""
        target.close()
        if self._store is not None:
            try:
                self._store.close()
            except StoreError as error:
                _log.error("not all results are in the store: %s", error)

    def _on_store_failed(self, error: StoreError) -> None:
        _log.error("%s; from now on results are not kept there", error)
        for client in (self, *self._runs.values()):
            if client.keeper is not None:
                client.keeper.fail(error)
