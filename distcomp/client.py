"""`Client`: hands functions to a cluster.

What threads share is guarded by the program's lock: the batches of single submits that wait for the next
turn, and the window.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, overload

from distcomp import discovery, open_clients
from distcomp.bound_client import Batch, BoundClient
from distcomp.client_program import ClientProgram, introduce
from distcomp.config import ClientSettings
from distcomp.errors import (
    BlockingCallError,
    ClientClosedError,
    ForkedClientError,
    PayloadTooLargeError,
    UnpicklableError,
)
from distcomp.feeder import Feeder, columns_of, have_lengths, order_by_cost, row_of
from distcomp.future_groups import FutureGroup
from distcomp.futures import Future
from distcomp.html import client_html
from distcomp.news import News
from distcomp.options import Options
from distcomp.payload import (
    Boxed,
    FunctionCache,
    dump_call,
    dump_environment,
    function_name,
    open_project,
    pack_calls,
)
from distcomp.remembered_calls import RememberedCall
from distcomp.settings_file import surroundings
from distcomp.stay import Stay
from distcomp.stream_source import StreamLeg, StreamSource
from distcomp.task_arrays import Leg, TaskArray
from distcomp.task_streams import TaskStream
from distcomp.waiting import gather
from distcomp.window import Window

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from distcomp.access import Access
    from distcomp.core.client_effects import ClientEffects
    from distcomp.core.client_state import ClientState
    from distcomp.feeder import Cost, SizedIterable, Wanted
    from distcomp.handles import Sink
    from distcomp.ids import FunctionId
    from distcomp.inline_program import InlineProgram
    from distcomp.options import OptionValues
    from distcomp.protocol import StatusReported, TaskExplained
    from distcomp.rows import WorkerRow
    from distcomp.waits_here import RunsHere

    Handle = Future[Any] | TaskArray[Any] | TaskStream[Any]

__all__ = ["BoundClient", "Client"]

P = ParamSpec("P")
T = TypeVar("T")

POLL_S = 0.05
MAX_BOUND = 256
_log = logging.getLogger("distcomp")


class Client:
    """Hands functions to a cluster and gives handles on what comes of them.

    Args:
        address: `tcp://host:port` of a scheduler, or an `Access`; `inline:` runs the tasks in this
            process, in the threads that wait for them, where a debugger sees them. None leaves the choice
            to the surroundings: `DISTCOMP_ADDRESS`, `address` in `distcomp.toml`, the one running
            scheduler that this user has access to, or an embedded cluster that is gone with this client.
        slots: how many tasks at a time an embedded cluster runs, if it comes to one; as many as there
            are cores if left out.
        settings: the client's settings; from `DISTCOMP_...` variables and `distcomp.toml` if left out.
        project: a folder of which everything is to travel to the workers; None sends those local modules
            and packages that tasks reach; False none, so that local functions and classes go by value.

    Attributes:
        is_embedded: whether it has an embedded cluster of its own.
        window: how much is handed in and has not settled.

    Raises:
        ConfigError: the address or a setting cannot be read.
        UnreachableError: nobody answered within `connect_timeout_s`.
        ConnectError: what answered is not what was wanted; see `distcomp.errors`.
        AmbiguousClusterError: several schedulers run, and nothing says which is meant.

    Example:
        >>> Client("inline:").submit(pow, 2, 10).result()
        1024
    """

    def __init__(
        self,
        address: str | Access | None = None,
        *,
        slots: int | None = None,
        settings: ClientSettings | None = None,
        project: str | os.PathLike[str] | bool | None = None,
    ) -> None:
        self.settings = settings or ClientSettings.from_environment(surroundings())
        self._project = open_project(project, self.settings)
        self._target = target = discovery.find(address, slots)
        _log.info("using %s", target.how)
        self.is_embedded = target.cluster is not None
        self.shares_path = target.shares_path or self._project.is_on
        if target.shares_path:
            self._project.share_path()
        self.max_payload_bytes = self.settings.wire.max_payload_bytes
        self.patience_s = self.settings.explain_after_s
        self._cache = FunctionCache(shares_path=self.shares_path)
        self._bound: dict[Options, BoundClient] = {}
        self._plain = self.bind(Options())
        self._batches: dict[tuple[BoundClient, FunctionId], Batch] = {}
        self._batch_bytes = 0
        self._news_at = time.monotonic()
        self._explained = False
        self.closed = False
        self.forked = False
        self._program: ClientProgram | InlineProgram
        self.inline: RunsHere | None = None
        if target.inline:
            self._program = self.inline = self._run_inline()
        else:
            greeting = introduce(dump_environment() if self.is_embedded else b"")
            self._program = ClientProgram(target, self.settings, greeting, self._prepare, self._tell)
        self._news = News(self._program)
        self.lock = self._program.lock
        self.sinks = self._program.sinks
        self.stay = None if target.door is None else Stay(target.door, self._program.post)
        self.outlived = False
        self.window = Window(self, self.settings, self.lock, self._program.is_here)
        try:
            self._program.start()
        except BaseException:
            self.closed = True
            target.close()
            raise
        open_clients.remember(self)
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
        try:
            if cancel:
                self.cancel_all()
            self.window.wait_until_idle()
        except BaseException:
            self.cancel_all()
            raise
        finally:
            self.closed = True
            self._program.stop()
            self._news.close()
            self._target.close()
            open_clients.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(cancel=kind is not None)

    def _repr_html_(self) -> str:
        told = None if self.closed or self.forked else self._news.glance()
        return client_html(repr(self).strip("<>"), told)

    def __reduce__(self) -> NoReturn:
        """A client is of use only in its process."""
        raise UnpicklableError("a Client cannot leave its process; in a task, Client() is one of its own")

    def __repr__(self) -> str:
        return f"<Client of {self._target.how}{', closed' if self.closed else ''}>"

    # --- what bound clients and handles call ------------------------------------------------------

    def bind(self, options: Options) -> BoundClient:
        """This client with these options; the same one each time, so that its submits travel together."""
        bound = self._bound.get(options)
        if bound is None:
            if len(self._bound) >= MAX_BOUND:
                self._bound.clear()
            bound = self._bound[options] = BoundClient(self, options)
        return bound

    def submit_with(
        self, bound: BoundClient, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[Any]:
        """Put one call into the batch of the present turn."""
        if self.closed or self.forked:
            self._refuse()
        digest, blob = self._cache.dump(function, bound.retry_types)
        call = dump_call(args, kwargs, shares_path=self.shares_path)
        self._project.current()
        size_bytes = len(call.blob) if type(call) is Boxed else 0
        if size_bytes > self.max_payload_bytes or len(blob) > self.max_payload_bytes:
            self._refuse_size(size_bytes, len(blob))
        key = (bound, digest)
        with self.lock:
            if self.window.is_full:
                self.window.wait_until_not_full()
            batch = self._batches.get(key)
            if batch is None:
                named = (digest, function_name(function), blob)
                batch = self._batches[key] = Batch(named, bound.on_wire, FutureGroup(self))
            batch.calls.append(call)
            self.window.add(1, size_bytes)
            self._batch_bytes += size_bytes
            future = batch.group.add()
        self._program.wake()
        return future

    def map_with(
        self, bound: BoundClient, function: Callable[..., Any], iterables: Sequence[Iterable[Any]], cost: Cost
    ) -> TaskArray[Any] | TaskStream[Any]:
        """Make an array, and have a feeder hand in its tasks; or a stream, which draws them itself."""
        self.check_usable()
        is_stream = not have_lengths(iterables)
        if is_stream and cost is not None:
            raise TypeError("cost needs arguments with a length: nobody knows what a stream will bring")
        columns, tasks = ([], 0) if is_stream else columns_of(iterables)
        order = None if cost is None else order_by_cost(cost, columns, tasks)
        digest, blob = self._cache.dump(function, bound.retry_types)
        if len(blob) > self.max_payload_bytes:
            self._refuse_size(0, len(blob))
        named = (digest, function_name(function), blob)
        if is_stream:
            stream_leg = StreamLeg(self)
            return TaskStream(StreamSource(self, stream_leg, named, bound.on_wire, iterables), stream_leg)

        def travel(order: Sequence[int] | None, count: int) -> Leg:
            leg = Leg(array, count, order)
            self._feed(Feeder(self, leg, named, bound.on_wire, columns))
            return leg

        def recall(index: int) -> RememberedCall:
            call = dump_call(row_of(columns, index), {}, shares_path=self.shares_path)
            return RememberedCall(blob, pack_calls([call])[0].blob, 0)

        array: TaskArray[Any] = TaskArray(
            self, tasks, lambda again: travel(again, len(again)), recall=recall, in_order=order is None
        )
        if tasks:
            array.begin(travel(order, tasks))
        return array

    def check_usable(self) -> None:
        """Raise if nothing can be handed in by this client, or by this process."""
        if self.closed or self.forked:
            self._refuse()

    def check_may_wait(self) -> None:
        """Raise if the calling thread or process must not wait for outcomes."""
        if self.forked:
            self._refuse()
        if self._program.is_here():
            raise BlockingCallError("a blocking call on the client's own loop thread would never return")
        if self.stay is not None:
            self.stay.check()

    def leave_task(self) -> None:
        """End with the task that made this client; what runs still is cancelled, unless it is detached."""
        self.outlived = True
        if self.closed or self.forked:
            return
        self.closed = True
        self._program.settle_detached()
        self._program.stop()
        self._news.close()
        open_clients.forget(self)

    def become_forked(self) -> None:
        """Be of no use: this is a forked child of the process that made it."""
        self.forked = True
        self._program.let_go()

    def explain_wait(self) -> None:
        """Ask why nothing runs, if nothing has come for long; the answer is said once."""
        if not self._explained and time.monotonic() - self._news_at >= self.patience_s:
            self._program.post(lambda state: state.explain(self._program.now))

    def explain_task(self, sink: Sink, place: int) -> TaskExplained:
        """Ask the scheduler where a task is; for `Future.explain`."""
        self.check_usable()
        self.check_may_wait()
        return self._news.explain_task(sink, place)

    def cancel_tasks(
        self, sink: Sink, spans: tuple[tuple[int, int], ...], *, pending_only: bool = False
    ) -> None:
        """Have tasks of an array cancelled in the cluster; no spans means all of them."""

        def cancel(state: ClientState) -> None:
            (state.cancel_pending if pending_only else state.cancel)(sink.counter, spans)

        if not self.closed and not self.forked:
            self._program.post_soon(cancel)

    def cancel_all(self) -> None:
        """Cancel everything that was handed in."""

        def cancel(state: ClientState) -> None:
            for counter in list(self.sinks):
                state.cancel(counter, ())

        self._program.post(cancel)

    # --- what feeders call ------------------------------------------------------------------------

    def post(self, action: Callable[[ClientState], None]) -> None:
        """Have the loop's thread call `action`, with the modules known that its tasks need."""
        self._project.current()
        self._program.post(action)

    def make_room(self, leg: Wanted, tasks: int, size_bytes: int, *, waits: bool = True) -> bool:
        """Count tasks as handed in, waiting for room if need be; see `feeder.FedClient`."""
        return self.window.make_room(leg, tasks, size_bytes, waits=waits)

    def wait_for_room(self, tasks: int = 1, size_bytes: int = 0) -> None:
        """Wait until so many tasks fit into the window, or it is empty."""
        self.window.wait_for_room(tasks, size_bytes)

    def fed(self) -> None:
        """Take note that a feeder is through."""
        self.window.end_feeding()

    # --- inside -----------------------------------------------------------------------------------

    def _refuse(self) -> None:
        if self.forked:
            raise ForkedClientError("this client belongs to the process that made it; make another one here")
        raise ClientClosedError("the client is closed")

    def _refuse_size(self, arguments_bytes: int, function_bytes: int) -> NoReturn:
        limit = self.max_payload_bytes
        what = f"the arguments take {arguments_bytes} bytes"
        if function_bytes > limit:
            what = f"the function takes {function_bytes} bytes with all that it refers to"
        raise PayloadTooLargeError(f"{what}; max_payload_bytes is {limit}")

    def _feed(self, feeder: Feeder) -> None:
        self.window.begin_feeding()
        feeder.begin()
        if feeder.is_quick and self.window.may_block and not self._program.is_here():
            feeder.run()
        else:
            threading.Thread(target=feeder.run, name="distcomp-feeder", daemon=True).start()

    def _run_inline(self) -> InlineProgram:
        from distcomp.inline_program import InlineProgram  # noqa: PLC0415 - few need it

        return InlineProgram(self.settings, self._prepare, self._tell, self)

    # --- on the loop's thread ---------------------------------------------------------------------

    def _prepare(self, state: ClientState) -> None:
        """Open an array for each batch of single submits."""
        self._project.is_fresh = False
        state.bundle = self._project.latest
        if not self._batches:
            return
        with self.lock:
            batches, self._batches = self._batches, {}
            counted_bytes, self._batch_bytes = self._batch_bytes, 0
        size_bytes = 0
        for batch in batches.values():
            group, count = batch.group, len(batch.calls)
            group.counter = state.submit(*batch.function, batch.options)
            group.open_tasks = count
            self.sinks[group.counter] = group
            parts = pack_calls(batch.calls)
            group.keep_calls(batch.function[2], parts)
            for part in parts:
                state.extend(group.counter, part.stop - part.start, part.blob, last=part.stop == count)
                size_bytes += len(part.blob)
        with self.lock:
            self.window.add(0, size_bytes - counted_bytes)

    def _tell(self, effects: ClientEffects) -> None:
        """Pass on what a turn brought besides outcomes."""
        if effects.released_tasks or effects.outcomes:
            self._news_at, self._explained = time.monotonic(), False
            with self.lock:
                self.window.release(effects.released_tasks, effects.released_bytes)
        if self.stay is not None:
            self.stay.hear(effects.lend_refused, is_idle=not self.window.open_tasks)
        for code, text in effects.explanations:
            if code != "running" and not self._explained:
                self._explained = True
                print(f"distcomp: still waiting: {text}", file=sys.stderr)  # noqa: T201 - it is for the user
        if effects.reports or effects.news or effects.notices:
            self._news.take_in(effects)
