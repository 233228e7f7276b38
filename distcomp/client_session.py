"""`ClientSession`: one session of a client with a cluster, as bound clients, handles and feeders see it.

What threads share is guarded by the program's lock: the batches of single submits that wait for the next
turn, and the window.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from distcomp.array_legs import Leg
from distcomp.bound_client import Batch, BoundClient
from distcomp.client_program import ClientProgram, introduce
from distcomp.detour_feed import KnownTasks
from distcomp.errors import (
    BlockingCallError,
    ClientClosedError,
    ForkedClientError,
    PayloadTooLargeError,
)
from distcomp.feeder import Feeder, columns_of, have_lengths, order_by_cost, row_of
from distcomp.future_groups import FutureGroup
from distcomp.handles import routes
from distcomp.keeper import Keeper
from distcomp.news import News
from distcomp.payload import call_size_bytes, dump_call, dump_environment, function_name, pack_calls
from distcomp.remembered_calls import RememberedCall
from distcomp.stay import Stay
from distcomp.store_desk import StoreDesk
from distcomp.stored_feeder import StoredFeeder
from distcomp.stored_streams import StoredStreamSource
from distcomp.stream_source import StreamLeg, StreamSource
from distcomp.task_arrays import TaskArray
from distcomp.task_streams import TaskStream
from distcomp.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from distcomp.config import ClientSettings
    from distcomp.core.client_effects import ClientEffects
    from distcomp.core.client_runs import RunEntry
    from distcomp.core.client_state import ClientState
    from distcomp.discovery import Target
    from distcomp.feeder import Cost, Wanted
    from distcomp.futures import Future
    from distcomp.handles import Sink
    from distcomp.ids import FunctionId
    from distcomp.inline_program import InlineProgram
    from distcomp.options import Options
    from distcomp.payload import FunctionCache, Project
    from distcomp.protocol import TaskExplained
    from distcomp.recognition import Recogniser
    from distcomp.store import Store, StoredFunction, StoredOutcome
    from distcomp.waits_here import RunsHere

    Named = tuple[FunctionId, str, bytes]


class Belongings(NamedTuple):
    """What all sessions of a client share.

    Attributes:
        settings: the client's settings.
        target: its cluster.
        project: the local modules that its tasks need.
        functions: their bytes.
        recogniser: what the store knows them by.
        store: where results are kept, if anywhere.
        fresh: what it was handed and cannot be asked for yet.
    """

    settings: ClientSettings
    target: Target
    project: Project
    functions: FunctionCache
    recogniser: Recogniser
    store: Store | None
    fresh: dict[bytes, StoredOutcome]


class ClientSession:
    """One session: of a client, or of one of its runs.

    Args:
        belongings: what it shares with others of its client.
        run: which run it is; None for a client's own session.
        waits: whether to wait until it is open.

    Attributes:
        window: how much is handed in and has not settled.
    """

    def __init__(self, belongings: Belongings, run: RunEntry | None = None, *, waits: bool = True) -> None:
        self.settings = belongings.settings
        self._target = target = belongings.target
        self._project = belongings.project
        self._functions = belongings.functions
        self._recogniser = belongings.recogniser
        self.is_embedded = target.cluster is not None
        self.is_run = run is not None
        self.shares_path = target.shares_path or self._project.is_on
        self.max_payload_bytes = self.settings.wire.max_payload_bytes
        self.patience_s = self.settings.explain_after_s
        self._batches: dict[tuple[BoundClient, FunctionId], Batch] = {}
        self._batch_bytes = 0
        self._news_at = time.monotonic()
        self._explained = False
        self.closed = self.forked = False
        self._program: ClientProgram | InlineProgram
        self.inline: RunsHere | None = None
        if target.inline:
            self._program = self.inline = self._run_inline()
        else:
            greeting = introduce(dump_environment() if self.is_embedded else b"")
            self._program = ClientProgram(target, self.settings, greeting, self._prepare, self._tell, run=run)
        self._news = News(self._program)
        self.lock = self._program.lock
        self.sinks = self._program.sinks
        self.stay = None if target.door is None else Stay(target.door, self._program.post)
        self.window = Window(self, self.settings, self.lock, self._program.is_here)
        self.keeper: Keeper | None = None
        if belongings.store is not None:
            named = "" if run is None else run.name
            self.keeper = Keeper(
                belongings.store, belongings.recogniser, belongings.fresh, self._program, named
            )
            self._desk = StoreDesk(self, self.window, self.keeper)
        self._enter(waits=waits)

    def _enter(self, *, waits: bool) -> None:
        try:
            self._program.start(waits=waits)
        except BaseException:
            self.closed = True
            raise

    def bind(self, options: Options) -> BoundClient:
        """The client with these options."""
        raise NotImplementedError

    # --- what bound clients and handles call ------------------------------------------------------

    def submit_with(
        self, bound: BoundClient, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[Any]:
        """Put one call into the batch of the present turn."""
        if self.closed or self.forked:
            self._refuse()
        digest, blob = dumped = self._functions.dump(function, bound.retry_types)
        known, key = None, b""
        if self.keeper is not None:
            known = self._known(bound, function, dumped)
            if known is not None:
                key = self.keeper.key(known, args, kwargs)
        call = dump_call(args, kwargs, shares_path=self.shares_path)
        self._project.current()
        size_bytes = call_size_bytes(call)
        if size_bytes > self.max_payload_bytes or len(blob) > self.max_payload_bytes:
            self._refuse_size(size_bytes, len(blob))
        with self.lock:
            self.window.enter(size_bytes)
            if self.closed:  # meanwhile, by another thread
                self._refuse()
            if key and known is not None:
                future = self._desk.add(bound, (digest, known.name, blob), known, call, key)
            else:
                named = (bound, digest)
                batch = self._batches.get(named)
                if batch is None:
                    function_named = (digest, function_name(function), blob)
                    batch = self._batches[named] = Batch(function_named, bound.on_wire, FutureGroup(self))
                batch.calls.append(call)
                self._batch_bytes += size_bytes
                future = batch.group.add()
        (self._desk if key else self._program).wake()
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
        digest, blob = dumped = self._functions.dump(function, bound.retry_types)
        known = self._known(bound, function, dumped)
        self._project.current()
        if len(blob) > self.max_payload_bytes:
            self._refuse_size(0, len(blob))
        named = (digest, function_name(function), blob)
        if is_stream:
            stream_leg = StreamLeg(self)
            return TaskStream(self._source(stream_leg, named, bound, known, iterables), stream_leg)

        def travel(order: Sequence[int] | None, count: int) -> Leg:
            leg = Leg(array, count, order)
            self._feed(self._feeder(leg, named, bound, known, columns))
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

    def check_process(self) -> None:
        """Raise if this process only has a copy of the client, by a fork; takes no lock."""
        if self.forked:
            self._refuse()

    def check_may_wait(self) -> None:
        """Raise if the calling thread or process must not wait for outcomes."""
        if self.forked:
            self._refuse()
        if self._program.is_here():
            raise BlockingCallError("a blocking call on the client's own loop thread would never return")
        if self.stay is not None:
            self.stay.check()

    def become_forked(self) -> None:
        """Be of no use: this is a forked child of the process that made it."""
        self.forked = True
        self._program.let_go()

    def leave(self) -> None:
        """Say that the user leaves, and waits only a bounded time for a scheduler that is away."""
        if self.inline is None and not self.closed:
            self._program.post(lambda state: state.leave(self._program.now))

    def end(self) -> None:
        """End the session."""
        with self.lock:  # what was handed in before is in a batch, and settles as what is open does
            self.closed = True
        if self.keeper is not None:
            self._desk.close()
            self.keeper.say()
        self._program.stop()
        self._news.close()

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
            for counter, places in routes(sink, spans):
                (state.cancel_pending if pending_only else state.cancel)(counter, places)

        if not self.closed and not self.forked:
            self._program.post_soon(cancel)

    def cancel_all(self) -> None:
        """Cancel everything that was handed in."""

        def cancel(state: ClientState) -> None:
            for counter in list(self.sinks):
                state.cancel(counter, ())

        if self.keeper is not None:
            self._desk.cancel_all()
        self._program.post(cancel)

    # --- what feeders call ------------------------------------------------------------------------

    def post(self, action: Callable[[ClientState], None]) -> None:
        """Have the loop's thread call `action`."""
        self._program.post(action)

    def make_room(self, leg: Wanted, tasks: int, size_bytes: int, *, waits: bool = True) -> bool:
        """Count tasks as handed in, waiting for room if need be; see `feeder.FedClient`.

        What they need of the project is known then. If that is too much, they are not handed in.
        """
        if not self.window.make_room(leg, tasks, size_bytes, waits=waits):
            return False
        try:
            self._project.current()
        except BaseException:
            with self.lock:
                self.window.release(tasks, size_bytes, singles=(0, 0))
            raise
        return True

    def wait_for_room(self, tasks: int, size_bytes: int) -> None:
        """Wait until there is room for so many tasks."""
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

    def _known(
        self, bound: BoundClient, function: Callable[..., Any], dumped: tuple[FunctionId, bytes]
    ) -> StoredFunction | None:
        """The function as the store knows it; None if its results are not to be found there."""
        if self.keeper is None or bound.options_given.cache is False:
            return None
        self._project.is_fresh = False  # what the store has takes no turn, after which one looks again
        return self._recogniser.function(function, dumped, bound.options_given, self._project.current())

    def _feeder(
        self,
        leg: Leg,
        named: Named,
        bound: BoundClient,
        known: StoredFunction | None,
        columns: Sequence[Any],
    ) -> Feeder:
        """What draws and hands in the tasks of a leg."""
        if self.keeper is None or known is None:
            return Feeder(self, leg, named, bound.on_wire, columns)
        work = KnownTasks(named, bound.on_wire, known)
        return StoredFeeder(self, leg, work, columns, self.keeper)

    def _source(
        self,
        leg: StreamLeg,
        named: Named,
        bound: BoundClient,
        known: StoredFunction | None,
        iterables: Sequence[Iterable[Any]],
    ) -> StreamSource:
        """What draws and hands in the tasks of a stream."""
        if self.keeper is None or known is None:
            return StreamSource(self, leg, named, bound.on_wire, iterables)
        work = KnownTasks(named, bound.on_wire, known)
        return StoredStreamSource(self, leg, work, iterables, self.keeper)

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
        state.bundle = self._project.latest  # again: the calls may have come since, with what they need
        size_bytes = 0
        for batch in batches.values():
            group, count = batch.group, len(batch.calls)
            digest, name, blob = batch.function
            group.counter = counter = state.submit(digest, name, blob, batch.options)
            group.open_tasks = count
            self.sinks[counter] = group
            parts = pack_calls(batch.calls)
            group.keep_calls(blob, parts)
            for start, stop, chunk in parts:
                state.extend(counter, stop - start, chunk, last=stop == count, single=True)
                size_bytes += len(chunk)
        with self.lock:
            self.window.weigh_singles(size_bytes - counted_bytes)

    def _tell(self, effects: ClientEffects) -> None:
        """Pass on what a turn brought besides outcomes."""
        if effects.released_tasks or effects.outcomes:
            self._news_at, self._explained = time.monotonic(), False
            with self.lock:
                singles = effects.released_singles, effects.released_single_bytes
                self.window.release(effects.released_tasks, effects.released_bytes, singles=singles)
        if self.stay is not None:
            self.stay.hear(effects.lend_refused, is_idle=not self.window.open_tasks)
        for code, words in effects.explanations:
            text = words if code != "away" else self.window.awaited_words(words)
            if code != "running" and text and not self._explained:
                self._explained = True
                with contextlib.suppress(OSError, ValueError):  # nobody reads there any more
                    print(f"distcomp: still waiting: {text}", file=sys.stderr)  # noqa: T201 - for the user
        if effects.reports or effects.news or effects.notices:
            self._news.take_in(effects)
        if effects.kept and self.keeper is not None:
            self.keeper.keep(effects, self.sinks)
