"""`Client("inline:")`: no cluster; every task runs in this process, in the thread that waits for it.

Nothing runs before somebody asks: by `result()` or `exception()`, by reading an array or a stream, by
`wait`, `as_completed`, a callback or `await`, by looking at `done()`, by closing the client, or by submitting
more than its window holds. Who asks runs what is due, in order, until there is what was asked for. So a
breakpoint stops in the thread that waits, with the line that waits further up the stack; debugger, profiler
and coverage see tasks as they see all else; and as no thread ever waits for another one to run its task,
nothing can lock up. (Running tasks at once in `submit` would leave nothing to cancel, and no priorities; a
thread of its own would be out of a debugger's sight.) A thread in which an event loop runs must not be
blocked: what it asks for is run by a thread of the client's.

What differs from a cluster, because one thread cannot stop itself: a task that runs longer than its
`timeout_s` fails, but only when it has ended; a task that runs cannot be cancelled; Ctrl-C interrupts the
task that runs, whichever it is, and cancels it; a task that ends its process ends this one; what tasks print
is printed here, and is not kept for the failure.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from distcomp import open_clients
from distcomp.futures import wake_all
from distcomp.inline_engine import InlineEngine
from distcomp.payload import PLAIN_TYPES, dump_failure, dump_result, pack_results
from distcomp.rows import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distcomp.config import ClientSettings
    from distcomp.core.client_effects import ClientEffects
    from distcomp.futures import Woken
    from distcomp.handles import Sink
    from distcomp.inline_engine import Spell

SPELL_S = 0.005
"""What has run for so long is told, if there is more to run."""
LOOK_S = 0.05
"""Longest sleep of a thread that waits for another's task, which nobody need tell it of."""


class InlineThread(threading.local):
    """What a thread does for a client: how deep in tasks it is, and whether it tells outcomes."""

    depth = 0
    telling = 0


class InlineProgram:
    """In the place of a `ClientProgram`; see there.

    Args:
        settings: the client's settings.
        prepare: called before each action and decision.
        tell: called with effects, for everything but sinks.
        client: whose tasks they are; tasks find it as their default client.
    """

    def __init__(
        self,
        settings: ClientSettings,
        prepare: Callable[[Any], None],
        tell: Callable[[ClientEffects], None],
        client: Any,
    ) -> None:
        self.lock = threading.Lock()
        self.sinks: dict[int, Sink] = {}
        self.settings = settings
        self._prepare = prepare
        self._tell = tell
        self._client = client
        self._engine = InlineEngine()
        self._mutex = threading.RLock()
        self._changed = threading.Condition(self._mutex)
        self._posts: deque[Callable[[Any], None]] = deque()
        self._thread = InlineThread()
        self._runner: threading.Thread | None = None
        self._host = socket.gethostname()

    # --- as in a `ClientProgram` ------------------------------------------------------------------

    cluster_id = session = bytes(16)

    def start(self, *, waits: bool = True) -> None:
        """Nothing is to be started."""

    def wait_until_open(self) -> None:
        """It is, from the beginning."""

    def post(self, action: Callable[[Any], None]) -> None:
        """Have `action` called now."""
        self._posts.append(action)
        self.wake()

    def post_soon(self, action: Callable[[Any], None]) -> None:
        """Have `action` called before the next task begins; takes no lock."""
        self._posts.append(action)

    def wake(self) -> None:
        """Take in what was posted and gathered: each submit by itself, so that tasks run in their order."""
        with self._mutex:
            self._engine.depth = self._thread.depth
            while self._posts:
                action = self._posts.popleft()
                self._prepare(self._engine)
                action(self._engine)
            self._prepare(self._engine)
            effects = self._engine.take_effects()
            self._changed.notify_all()
        self._deliver(effects)

    @property
    def now(self) -> float:
        """The time."""
        return time.monotonic()

    def is_here(self) -> bool:
        """Whether the calling thread tells outcomes, and must not wait for others."""
        return self._thread.telling > 0

    def let_go(self) -> None:
        """There is nothing to be left to the parent of a forked child."""

    def settle_detached(self, timeout_s: float | None = None) -> None:
        """Nothing outlives its process: there is nobody to be waited for."""

    def stop(self) -> None:
        """End everything."""
        self.post(lambda engine: engine.close())

    # --- for those who wait -----------------------------------------------------------------------

    def work(self, done: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Run what is due in this thread until `done()`; whether it came to that in time.

        At least one task runs if any is due, so that who looks again and again gets on.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not done():
            if not self._run_spell():
                self._sleep(deadline)
            if deadline is not None and time.monotonic() >= deadline:
                return done()
        return True

    def look(self, done: Callable[[], bool]) -> None:
        """Somebody looks whether it is `done()`, or wants to be told: get on with it."""
        if self.is_here():
            return
        if asyncio._get_running_loop() is not None:  # noqa: SLF001 - the public one raises if there is none
            self._have_run()
        else:
            self.work(done, 0.0)

    def want(self, done: Callable[[], bool]) -> None:
        """Somebody wants to be told once it is `done()`, or is about to wait for it in a way of their own."""
        if self.is_here():
            return
        if asyncio._get_running_loop() is not None:  # noqa: SLF001 - the public one raises if there is none
            self._have_run()
        else:
            self.work(done)

    # --- inside -----------------------------------------------------------------------------------

    def _have_run(self) -> None:
        """Have a thread run everything that there is."""
        self.wake()
        with self._mutex:
            if self._runner is None:
                self._runner = threading.Thread(target=self._run_all, name="distcomp-inline", daemon=True)
                self._runner.start()

    def _run_all(self) -> None:
        while True:
            if self._run_spell():
                continue
            with self._mutex:
                if self._engine.next_delay_s(self.now) is None and not self._engine.has_due():
                    self._runner = None
                    return
            self._sleep(None)

    def _sleep(self, deadline: float | None) -> None:
        """Wait for something to do: a delay that ends, or what another thread does."""
        with self._mutex:
            now = time.monotonic()
            delay_s = self._engine.next_delay_s(now)
            times = [LOOK_S, *([] if delay_s is None else [delay_s])]
            if deadline is not None:
                times.append(max(0.0, deadline - now))
            self._changed.wait(min(times))

    def _run_spell(self) -> bool:
        """Run a few tasks and tell their outcomes; whether there were any."""
        self.wake()
        with self._mutex:
            spell = self._engine.take_spell(self.now)
        if spell is None:
            return False
        begun_at = time.monotonic()
        failure: Failure | None = None
        try:
            with self._inside():
                failure = self._run_tasks(spell, begun_at + SPELL_S)
        except KeyboardInterrupt:
            failure = Failure("cancelled", text="interrupted")
            raise
        finally:
            self._end_spell(spell, failure, time.monotonic() - begun_at)
        return True

    def _run_tasks(self, spell: Spell, until: float) -> Failure | None:
        """Run the tasks of a spell, until one fails, one is not wanted any more, or it is time to tell."""
        while spell.wants_next():
            begun_at = time.monotonic()
            failure: Failure | None = None
            value: Any = None
            try:
                value = spell.call_next()
                if type(value) not in PLAIN_TYPES:
                    value = dump_result(value)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - whatever a task raises is its own outcome
                failure = dump_failure(error, retriable=spell.is_retriable(error))
            ended_at = time.monotonic()
            timeout_s = spell.array.options.timeout_s
            if timeout_s and ended_at - begun_at > timeout_s:
                text = f"the task ran {ended_at - begun_at:.3g} s, longer than its timeout of {timeout_s:g} s"
                failure = Failure("timeout", retriable=True, text=text)
            if failure is not None:
                return failure
            spell.values.append(value)
            if ended_at >= until:
                break
        return None

    def _end_spell(self, spell: Spell, failure: Failure | None, busy_s: float) -> None:
        """Tell what came of a spell, and give back what has not run."""
        engine, array = self._engine, spell.array
        most_bytes = self.settings.wire.max_payload_bytes
        packed = pack_results(spell.values, spell.start)
        with self._mutex:
            engine.note_time(busy_s)
            for start, stop, blob in packed:
                if len(blob) > most_bytes:  # then it is one result
                    text = f"the result has {len(blob)} bytes; max_payload_bytes is {most_bytes}"
                    engine.failed(array, start, Failure("unpicklable", text=text), self.now)
                else:
                    engine.returned(array, start, stop, blob)
            index = spell.index
            if failure is not None:
                here = failure._replace(host=self._host, worker="inline", attempt=array.attempt(index))
                engine.failed(array, index, here, self.now)
                index += 1
            engine.give_back(array, index, spell.stop)
        self.wake()

    def _deliver(self, effects: ClientEffects) -> None:
        """Tell what a turn brought: the client, then those who wait."""
        told = effects.outcomes or effects.released_tasks or effects.reports or effects.news
        if not (told or effects.explanations):
            return
        self._thread.telling += 1
        try:
            self._tell(effects)
            woken: list[Woken] = []
            with self.lock:
                for outcome in effects.outcomes:
                    sink = self.sinks.get(outcome.array)
                    if sink is not None:
                        sink.settle(outcome, woken)
                        if sink.open_tasks <= 0:
                            del self.sinks[outcome.array]
            wake_all(woken)
        finally:
            self._thread.telling -= 1
        with self._mutex:
            self._changed.notify_all()

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """This thread is in a task: what it submits goes first, and its default client is this one."""
        before, open_clients.around.client = open_clients.around.client, self._client
        self._thread.depth += 1
        try:
            yield
        finally:
            self._thread.depth -= 1
            open_clients.around.client = before
