"""The slot processes of a worker: where they come from, who has them, and where they go.

The law of this file. A slot process is in exactly one place:

    spare     forked ahead of its need, of no session yet; at most one
    taken     by the program, which hears of all it does and of its end
    idle      given back, kept for more tasks of its session; bounded, the longest idle goes first
    leaving   told to end, and killed if it does not

It never changes its session. All of them are children of one template process; if that ends, they have
ended, and another template takes its place, a bounded number of times a minute.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from distcomp.bundle_store import BundleStore
from distcomp.config import PREFIX, SLOT_VARIABLE
from distcomp.errors import SlotsUnavailableError
from distcomp.ids import NO_BUNDLE
from distcomp.kinds import MAX_BLOB_BYTES
from distcomp.slot_process import IDLE, Progress, SlotEnd, SlotListener, SlotProcess
from distcomp.slot_protocol import ENDED, FORK, FORKED, LEARN, NEWS, ORDER, UNFORKED, PrepareSlot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from distcomp.config import SlotSettings
    from distcomp.ids import SessionId
    from distcomp.protocol import DefineBundle

__all__ = ["IDLE", "Progress", "SlotEnd", "SlotListener", "SlotPool", "SlotProcess", "thread_limits"]

INNER_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""What numerical libraries read, once, for how many threads they may start."""

RESTART_WINDOW_S = 60.0
NEWS_READS = 256
MOST_UNSENT = 1 << 14
"""Orders that a template may be behind; one that does not read at all is given up."""

LESSONS = ("distcomp.decorator",)
"""What the template imports once tasks submit tasks. It names faces that it must not know otherwise."""

PROGRAM = "from distcomp.template import main; main()"
CLOSE_CHECK_S = 0.002


def thread_limits(slots: int) -> int:
    """How many threads the libraries in one of `slots` slots may use, so that all share the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // slots)


def task_environment(environ: Mapping[str, str], slots: int) -> dict[str, str]:
    """The variables that tasks see: none of ours, which may hold secrets, and bounds for inner threads."""
    kept = {name: value for name, value in environ.items() if not name.startswith(PREFIX)}
    return {**dict.fromkeys(INNER_THREADS, str(thread_limits(slots))), **kept, SLOT_VARIABLE: "1"}


def exit_words(code: int) -> str:
    """Say how a process ended, given its exit code, negative for a signal."""
    if code >= 0:
        return f"exited with code {code}"
    with suppress(ValueError):
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    return f"killed by signal {-code}"


class TemplateProcess:
    """The supervisor's end of a template process.

    Args:
        environ: the variables that slot processes begin with.
        on_news: called with what happened, to which slot process, and a number.
        on_gone: called once if the template ends without being told to.
        loop: where its socket is watched.
    """

    def __init__(
        self,
        environ: dict[str, str],
        on_news: Callable[[bytes, int, int], None],
        on_gone: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._on_news, self._on_gone, self._loop = on_news, on_gone, loop
        self._control, far = socket.socketpair()
        self._control.setblocking(False)
        with far:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own words
                [sys.executable, "-c", PROGRAM, str(far.fileno()), *LESSONS],
                stdin=subprocess.DEVNULL,
                pass_fds=[far.fileno()],
                start_new_session=True,
                env=environ,
            )
        self._open = True
        self._unsent: deque[tuple[bytes, tuple[int, ...]]] = deque()
        loop.add_reader(self._control, self._on_readable)

    def order(self, what: bytes, number: int, argument: int = 0, descriptors: tuple[int, ...] = ()) -> None:
        """Have something done to a slot process."""
        if not self._open:
            return
        order = ORDER.pack(what, number, argument)
        if not self._unsent and self._sent(order, descriptors):
            return
        try:
            self._unsent.append((order, tuple(map(os.dup, descriptors))))  # whose they are closes its own
        except OSError:
            self._loop.call_soon(self._give_up)
        if len(self._unsent) > MOST_UNSENT:
            self._loop.call_soon(self._give_up)
        self._loop.add_writer(self._control, self._send_rest)

    def _sent(self, order: bytes, descriptors: tuple[int, ...]) -> bool:
        """Send an order; whether it is not to be tried again."""
        try:
            socket.send_fds(self._control, [order], descriptors)
        except BlockingIOError:  # it has not read hundreds of others yet
            return False
        except OSError:  # it is gone
            self._loop.call_soon(self._give_up)
        return True

    def _send_rest(self) -> None:
        while self._unsent and self._sent(*self._unsent[0]):
            self._drop_first()
        if not self._unsent:
            self._loop.remove_writer(self._control)

    def _drop_first(self) -> None:
        for descriptor in self._unsent.popleft()[1]:
            os.close(descriptor)

    def shut(self) -> None:
        """Let the template end, and all slot processes with it."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._control)
            self._loop.remove_writer(self._control)
            while self._unsent:
                self._drop_first()
            self._control.close()

    async def wait_ended(self, within_s: float) -> None:
        """Wait until it has ended after `shut`; a template that does not is killed."""
        deadline = time.monotonic() + within_s
        while self._process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(CLOSE_CHECK_S)
        self._process.kill()
        self._process.wait()

    def _on_readable(self) -> None:
        for _ in range(NEWS_READS):
            if not self._open:
                return
            try:
                data = self._control.recv(NEWS.size)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if len(data) != NEWS.size:
                self._give_up()
                return
            self._on_news(*NEWS.unpack(data))

    def _give_up(self) -> None:
        if self._open:
            self.shut()
            self._process.kill()
            self._process.wait()
            self._on_gone()


class SlotPool:
    """Gives out slot processes and takes them back.

    Args:
        settings: bounds.
        listener: hears of processes that were taken.
        slots: how many tasks the worker runs at once; inner thread pools share the cores by it.
        max_payload_bytes: a larger result is its task's failure.
        variables: settings of ours that tasks see, in place of all that `environ` has.
        environ: the variables to hand on to tasks; this process's if left out.

    Example:
        ```
        pool = SlotPool(SlotSettings(), listener, slots=2)
        await pool.start()
        process = pool.take(session, environment=b"")
        run = process.start_run(definition, 0, 10, 0, chunk, eager=False)
        await pool.close()
        ```
    """

    def __init__(
        self,
        settings: SlotSettings,
        listener: SlotListener,
        *,
        slots: int,
        max_payload_bytes: int = MAX_BLOB_BYTES,
        variables: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._settings, self._listener = settings, listener
        self._max_payload_bytes = max_payload_bytes
        self._environ = task_environment(os.environ if environ is None else environ, slots)
        self._environ.update(variables or {})
        self._processes: dict[int, SlotProcess] = {}
        self._spare: SlotProcess | None = None
        self._idle: dict[int, SlotProcess] = {}
        self._taken: set[int] = set()
        self._bundles = BundleStore(settings.unused_bundles)
        self._last_number = 0
        self._starts: deque[float] = deque(maxlen=settings.template_restarts + 1)
        self._spare_timer: asyncio.TimerHandle | None = None
        self._template_gone = True
        self._learned: TemplateProcess | None = None
        self._answered = asyncio.Event()
        self._unavailable: SlotsUnavailableError | None = None
        self._closed = False

    @property
    def processes(self) -> int:
        """How many slot processes there are, idle and spare ones included."""
        return len(self._processes)

    async def start(self) -> None:
        """Start the template and one spare process, on the thread that ends last: the main one."""
        self._loop = asyncio.get_running_loop()
        self._start_spare()

    async def ready(self) -> None:
        """Wait until a template has tried to fork a process.

        Raises:
            SlotsUnavailableError: none did: they keep ending before.
        """
        await self._answered.wait()
        if self._unavailable is not None:
            raise self._unavailable

    def take(self, session: SessionId, environment: bytes, bundle: DefineBundle | None = None) -> SlotProcess:
        """Have a process of `session` and `bundle`: an idle one, else the spare, else a new one. Never waits.

        Args:
            session: whose tasks it will run.
            environment: what it takes over from the session's client, if it is not an idle one.
            bundle: what they find their modules in.

        Raises:
            SlotsUnavailableError: the template keeps ending.
        """
        name = NO_BUNDLE if bundle is None else bundle.bundle
        for process in self._idle.values():
            if process.session == session and process.bundle == name:
                del self._idle[process.number]
                self._taken.add(process.number)
                return process
        process = self._spare or self._new()
        self._spare = None
        if self._spare_timer is None:
            self._spare_timer = self._loop.call_later(self._settings.spare_delay_s, self._start_spare)
        process.prepare(session, self._preparation(process, session, environment, bundle))
        self._taken.add(process.number)
        return process

    def _preparation(
        self, process: SlotProcess, session: SessionId, environment: bytes, bundle: DefineBundle | None
    ) -> PrepareSlot:
        if bundle is None:
            return PrepareSlot(environment, self._max_payload_bytes)
        try:
            folder = self._bundles.enter(process.number, session, bundle)
        except OSError as error:
            process.kill_now()
            raise SlotsUnavailableError(f"a bundle of modules cannot be kept: {error}") from error
        most_bytes = self._settings.bundle_bytes
        return PrepareSlot(environment, self._max_payload_bytes, bundle.bundle, folder, most_bytes)

    def give_back(self, process: SlotProcess) -> None:
        """Keep a process for more tasks of its session, as long as there is room.

        Raises:
            ValueError: it has runs outstanding, or was not taken.
        """
        if process.outstanding or process.number not in self._taken:
            raise ValueError(f"slot process {process.number} cannot be given back now")
        self._taken.discard(process.number)
        self._idle[process.number] = process
        while len(self._idle) > self._settings.idle_processes:
            self._idle.pop(next(iter(self._idle))).dismiss()

    def learn(self) -> None:
        """Have slot processes that come from now on begin with what tasks need that submit tasks."""
        if not self._template_gone and self._learned is not self._template:
            self._learned = self._template
            self._template.order(LEARN, 0)

    def end_session(self, session: SessionId) -> None:
        """Let go of the idle processes of a session."""
        for process in [each for each in self._idle.values() if each.session == session]:
            del self._idle[process.number]
            process.dismiss()
        self._bundles.end_session(session)

    async def close(self) -> None:
        """Kill everything and wait until it is gone. Nobody is told."""
        if self._closed:
            return
        self._closed = True
        if self._spare_timer is not None:
            self._spare_timer.cancel()
        template = getattr(self, "_template", None)
        if template is not None:
            template.shut()
        for process in self._processes.values():
            process.close()
        self._processes.clear()
        if template is not None:
            await template.wait_ended(self._settings.exit_grace_s)
        self._bundles.close()

    # --- the template and what it says ------------------------------------------------------------

    def _start_template(self) -> None:
        now = time.monotonic()
        full = len(self._starts) == self._starts.maxlen
        if full and now - self._starts[0] < RESTART_WINDOW_S:
            raise SlotsUnavailableError(
                f"the template that slot processes are forked from ended {len(self._starts)} times "
                f"within {RESTART_WINDOW_S:g} s; what it wrote to standard error may say why"
            )
        self._starts.append(now)
        self._template = TemplateProcess(self._environ, self._on_news, self._on_template_gone, self._loop)
        self._template_gone = False

    def _new(self) -> SlotProcess:
        self._last_number += 1
        try:
            if self._template_gone:
                self._start_template()
            process = SlotProcess(
                self._last_number, self._template, self._listener, self._settings, self._loop
            )
        except OSError as error:
            raise SlotsUnavailableError(f"no slot process can be started: {error}") from error
        self._processes[process.number] = process
        self._template.order(FORK, process.number, 0, process.files)
        process.hand_over_files()
        return process

    def _start_spare(self) -> None:
        self._spare_timer = None
        if self._spare is None and not self._closed:
            try:
                self._spare = self._new()
            except SlotsUnavailableError as error:  # who waits to be ready is told, and who takes one
                if not self._answered.is_set():
                    self._unavailable = error
                    self._answered.set()

    def _on_news(self, what: bytes, number: int, value: int) -> None:
        self._answered.set()
        process = self._processes.get(number)
        if process is None:
            return
        if what == FORKED:
            process.pid = value
        elif what == ENDED:
            self._end(process, exit_words(value))
        elif what == UNFORKED:
            self._end(process, f"could not be started: {os.strerror(value)}")

    def _on_template_gone(self) -> None:
        self._template_gone = True
        for process in list(self._processes.values()):
            if process.pid:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
            self._end(process, "the template process ended")
        if self._spare_timer is None and not self._closed:
            self._spare_timer = self._loop.call_later(self._settings.spare_delay_s, self._start_spare)

    def _end(self, process: SlotProcess, words: str) -> None:
        if self._processes.pop(process.number, None) is None:
            return
        self._idle.pop(process.number, None)
        self._bundles.leave(process.number)
        if process is self._spare:
            self._spare = None
        end = process.end(words)
        if process.number in self._taken:
            self._taken.discard(process.number)
            self._listener.slot_exited(process, end)
