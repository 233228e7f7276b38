"""One slot process as its supervisor sees it: a socket, a page, an output pipe and a stacks file.

The law of this file:

- Runs are numbered from 1 and executed in order. A run is *outstanding* from `start_run` until the slot
  has said that it ended; its lane of the page is its own for that time.
- What `lower_stop` gave back will never begin here. What lies below, the slot reports, or leaves out
  below `reached` of its last report.
- The end of a process is reported once, after everything that it sent while it lived.
- Nothing here waits: what the socket does not take at once is written when it can.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import tempfile
from collections import OrderedDict, deque
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, NamedTuple, Protocol

from distcomp.errors import ProtocolError
from distcomp.ids import NO_BUNDLE
from distcomp.inside import REQUEST, TASK_OVER
from distcomp.kinds import MAX_COUNTER
from distcomp.page import LANES, Page, page_bytes
from distcomp.slot_protocol import (
    INTERRUPT_SIGNAL,
    RECEIVE_BYTES,
    SIGNAL,
    SIGNAL_GROUP,
    STACKS_SIGNAL,
    ForgetFunction,
    LoadFunction,
    PrepareSlot,
    RunLogged,
    RunProgressed,
    RunTasks,
    SlotReady,
    SlotStream,
)

if TYPE_CHECKING:
    import asyncio

    from distcomp.config import SlotSettings
    from distcomp.ids import FunctionId, SessionId
    from distcomp.protocol import DefineFunction

OUTPUT_READS = 8
"""Reads of a full output pipe in one turn; a task that floods it must not keep the loop busy."""

MAX_WORDS = 64 << 10
_OWN_FRAME = '/distcomp/slot.py", line '


class Progress(NamedTuple):
    """What a slot process runs now, and since when by `time.monotonic`; run 0 and task -1 if nothing."""

    run: int
    task_index: int
    begun_at: float


IDLE = Progress(0, -1, 0.0)


class SlotEnd(NamedTuple):
    """How a slot process ended.

    Attributes:
        words: for people, such as "killed by signal 11 (SIGSEGV)".
        run: the run of the task that had begun and not finished; 0 if there was none.
        task_index: that task's index, or -1.
        killed_for: the run and index that our own kill was for; (0, -1) for `kill_now`; else None.
        output: the last that the task printed.
        stacks: the Python stacks written last, asked for or by a crash.
    """

    words: str
    run: int
    task_index: int
    killed_for: tuple[int, int] | None
    output: str
    stacks: str


class SlotListener(Protocol):
    """Who hears of slot processes; always on the loop's thread."""

    def slot_ready(self, process: SlotProcess, problem: str) -> None:
        """The process took over its session's environment, or had a `problem` with it."""

    def run_progressed(self, process: SlotProcess, progress: RunProgressed) -> None:
        """Outcomes came, or a run ended."""

    def run_logged(self, process: SlotProcess, logged: RunLogged) -> None:
        """Tasks of a run have printed or logged something."""

    def connection_wanted(
        self, process: SlotProcess, run: int, task_index: int, channel: socket.socket
    ) -> None:
        """The task that runs wants `channel`, which is the listener's now, connected to the scheduler."""

    def slot_exited(self, process: SlotProcess, end: SlotEnd) -> None:
        """The process is gone; nothing comes after this."""


class Orders(Protocol):
    """The way to the template."""

    def order(self, what: bytes, number: int, argument: int = 0, descriptors: tuple[int, ...] = ()) -> None:
        """Have something done to the slot process with this number."""


class SlotProcess:
    """One slot process. Made by `SlotPool`.

    Attributes:
        number: its name, never used again within a worker.
        pid: its process id; 0 until it is forked.
        session: whose tasks it runs; None while it is a spare.
        bundle: what these tasks find their modules in.
        alive: whether its end has not been seen yet.
        started: how many runs it was handed; the number of the last one.
        files: the descriptors that the forked process needs, in the template's order.
    """

    def __init__(
        self,
        number: int,
        orders: Orders,
        listener: SlotListener,
        settings: SlotSettings,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.number = number
        self.pid = 0
        self.session: SessionId | None = None
        self.bundle = NO_BUNDLE
        self.alive = True
        self._orders, self._listener, self._settings, self._loop = orders, listener, settings, loop
        with ExitStack() as opened:  # who gets no more files keeps none of these
            self._channel, far_channel = map(opened.enter_context, socket.socketpair())
            shared = shared_file(page_bytes(settings.output_bytes))
            opened.callback(os.close, shared)
            self._map = opened.enter_context(mmap.mmap(shared, page_bytes(settings.output_bytes)))
            self._stacks = shared_file(0)
            opened.callback(os.close, self._stacks)
            self._door, far_door = map(
                opened.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            )
            self._output, far_output = os.pipe()
            opened.pop_all()
        self._channel.setblocking(False)
        self._door.setblocking(False)
        os.set_blocking(self._output, False)
        self._page = Page(memoryview(self._map))
        self.files = (far_channel.detach(), shared, far_output, far_door.detach(), self._stacks)
        self._unwritten: deque[memoryview] = deque()
        self._stream = SlotStream()
        self.started = 0
        self._runs: dict[int, range] = {}
        self._functions: OrderedDict[FunctionId, None] = OrderedDict()
        self._raw_task = (0, -1)
        self._raw = b""
        self._killed_for: tuple[int, int] | None = None
        self._complaint = ""
        self._open = True
        loop.add_reader(self._channel, self._on_readable)
        loop.add_reader(self._output, self._on_output)
        loop.add_reader(self._door, self._on_door)

    # --- what it is told --------------------------------------------------------------------------

    @property
    def outstanding(self) -> tuple[int, ...]:
        """Runs started and not ended, oldest first."""
        return tuple(self._runs)

    def hand_over_files(self) -> None:
        """Close what only the forked process needs; it is under way to the template."""
        for descriptor in self.files[:-1]:
            os.close(descriptor)

    def prepare(self, session: SessionId, preparation: PrepareSlot) -> None:
        """Make the process `session`'s, and its bundle's, for good."""
        self.session, self.bundle = session, preparation.bundle
        self._send(preparation)

    def start_run(
        self,
        definition: DefineFunction,
        start: int,
        stop: int,
        chunk_start: int,
        chunk: bytes,
        *,
        eager: bool,
        logs: bool = False,
    ) -> int:
        """Hand over the indexes `start` to `stop`, to be run after the runs that are outstanding.

        Args:
            definition: the function; its bytes are sent only if the process does not have them.
            start: the first index.
            stop: the index after the last.
            chunk_start: the index that the chunk begins with.
            chunk: the arguments.
            eager: send each result at once.
            logs: pass on what the tasks print and log.

        Returns:
            The run's number.

        Raises:
            ValueError: as many runs are outstanding as may be, or there is nothing to run.
        """
        if len(self._runs) >= LANES or not chunk_start <= start < stop:
            raise ValueError(f"run {start} to {stop} cannot start with {len(self._runs)} outstanding")
        if definition.function in self._functions:
            self._functions.move_to_end(definition.function)
        else:
            self._teach(definition)
        self.started = run = self.started + 1
        self._runs[run] = range(start, stop)
        if self.alive:
            self._page.open_lane(run, start, stop)
        message = RunTasks(run, definition.function, start, stop, chunk_start, chunk, eager)
        if logs:
            settings = self._settings
            message = message._replace(
                log_lines_per_s=settings.slot_log_lines_per_s, log_bytes_per_s=settings.slot_log_bytes_per_s
            )
        self._send(message)
        return run

    def lower_stop(self, run: int, stop: int) -> int:
        """Take back what of a run has not begun, from `stop` on.

        Returns:
            The first index that will never begin here: nothing was taken if it is the run's stop or
            beyond, as it is for a run that has ended.
        """
        known = self._runs.get(run)
        if known is None:
            return MAX_COUNTER
        if not self.alive:
            return known.stop
        return min(known.stop, self._page.lower_stop(run, max(stop, known.start)))

    def dismiss(self) -> None:
        """Let the process end by itself; it is killed if it takes too long."""
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_WR)
        self._loop.call_later(self._settings.exit_grace_s, self._kill_group)

    # --- what it is doing -------------------------------------------------------------------------

    def progress(self) -> Progress:
        """What runs now."""
        if not self.alive:
            return IDLE
        begun = self._page.begun()
        run = self._runs.get(begun.run)
        if run is None or not run.start <= begun.task_index < run.stop:
            return IDLE
        return Progress(begun.run, begun.task_index, begun.at_ns / 1e9)

    def output(self, run: int, task_index: int) -> str:
        """What a task printed so far: through Python, then by other ways."""
        printed = self._page.output(run, task_index) if self.alive else b""
        raw = self._raw if self._raw_task == (run, task_index) else b""
        return (printed + raw).decode("utf-8", "replace")[-MAX_WORDS:]

    def stacks(self) -> str:
        """The Python stacks written last, the parts that are not the task's cut off."""
        size = os.fstat(self._stacks).st_size
        return own_stacks(
            os.pread(self._stacks, MAX_WORDS, max(0, size - MAX_WORDS)).decode("utf-8", "replace")
        )

    # --- what is done to it -----------------------------------------------------------------------

    def dump_stacks(self) -> None:
        """Have the Python stacks written, whatever the process is doing; read them with `stacks`."""
        if self.progress() != IDLE:
            os.ftruncate(self._stacks, 0)
            os.lseek(self._stacks, 0, os.SEEK_SET)
            self._orders.order(SIGNAL, self.number, STACKS_SIGNAL)

    def interrupt(self, run: int, task_index: int) -> bool:
        """Raise in the task if it is still this one that runs; says whether it was."""
        if self.progress()[:2] != (run, task_index):
            return False
        self._page.want_end(run, task_index)
        self._orders.order(SIGNAL, self.number, INTERRUPT_SIGNAL)
        return True

    def kill(self, run: int, task_index: int) -> bool:
        """Kill the process and what its tasks started, if it still runs this task; says whether."""
        self.lower_stop(run, task_index + 1)
        if self.progress()[:2] != (run, task_index):
            return False
        self._killed_for = (run, task_index)
        self._kill_group()
        return True

    def kill_now(self) -> None:
        """Kill the process and what its tasks started, whatever it runs."""
        self._killed_for = (0, -1)
        self._kill_group()

    def _kill_group(self) -> None:
        if self.alive:
            self._orders.order(SIGNAL_GROUP, self.number, signal.SIGKILL)

    # --- its socket -------------------------------------------------------------------------------

    def _teach(self, definition: DefineFunction) -> None:
        """Hand over a function; the one that was not used for longest makes room."""
        self._functions[definition.function] = None
        self._send(LoadFunction(definition.function, definition.blob))
        if len(self._functions) > self._settings.functions_per_slot:
            oldest, _ = self._functions.popitem(last=False)
            self._send(ForgetFunction(oldest))

    def _send(self, message: tuple[object, ...]) -> None:
        if not self.alive:
            return
        idle = not self._unwritten
        self._unwritten += self._stream.encode([message])
        if idle and not self._written():
            self._loop.add_writer(self._channel, self._write_rest)

    def _write_rest(self) -> None:
        if self._written():
            self._loop.remove_writer(self._channel)

    def _written(self) -> bool:
        """Write what the socket takes; returns whether nothing is left."""
        unwritten = self._unwritten
        try:
            while unwritten:
                sent = self._channel.send(unwritten[0])
                if sent < len(unwritten[0]):
                    unwritten[0] = unwritten[0][sent:]
                else:
                    unwritten.popleft()
        except BlockingIOError:
            return False
        except OSError:
            unwritten.clear()  # it has ended, or is about to; its end is reported
        return True

    def _on_readable(self) -> None:
        self._receive()
        if not self._open and self.alive:
            # It can send nothing any more: nobody would hear of what it runs.
            self._loop.remove_reader(self._channel)
            self._kill_group()

    def _receive(self) -> bool:
        """Take in what has come; returns whether it was anything."""
        try:
            data = self._channel.recv(RECEIVE_BYTES) if self._open else b""
            for message in self._stream.feed(data):
                if self.alive:  # the listener may close us over an earlier message
                    self._on_message(message)
        except BlockingIOError:
            return False
        except ProtocolError as error:
            self._complaint = f"spoke nonsense: {error}"
            data = b""
        except OSError:  # it ended before it had read all that it was sent
            data = b""
        self._open = bool(data)
        return self._open

    def _on_message(self, message: tuple[object, ...]) -> None:
        if isinstance(message, RunProgressed) and message.run in self._runs:
            if not _is_inside(self._runs[message.run], message):
                raise ProtocolError("outcomes of other tasks than it was given")
            if message.ended:
                del self._runs[message.run]
            if message.failures:
                message = self._with_raw_output(message)
            self._listener.run_progressed(self, message)
        elif isinstance(message, RunLogged) and message.run in self._runs:
            # What threads print that an earlier task left behind is nobody's.
            lines = tuple(line for line in message.lines if line.task_index in self._runs[message.run])
            self._listener.run_logged(self, message._replace(lines=lines))
        elif isinstance(message, SlotReady):
            self._listener.slot_ready(self, message.problem)
        else:
            raise ProtocolError(f"{type(message).__name__} came from a slot")

    # --- what its tasks ask for -------------------------------------------------------------------

    def _on_door(self) -> None:
        """A task wants a connection; only the one that runs may have one."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._door, REQUEST.size, 1)
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                self._loop.remove_reader(self._door)
            return
        if len(descriptors) != 1:
            return
        channel = socket.socket(fileno=descriptors[0])
        task = REQUEST.unpack(data) if len(data) == REQUEST.size else None
        if self.progress()[:2] == task:
            self._listener.connection_wanted(self, *task, channel)
        else:
            refuse(channel, TASK_OVER)

    # --- what it writes to descriptors 1 and 2 ----------------------------------------------------

    def _on_output(self) -> None:
        self._receive()  # a failure that came before these bytes were read is theirs
        if not self.alive:
            return
        begun = self._page.begun()
        self._drain_output((begun.run, begun.task_index))

    def _drain_output(self, task: tuple[int, int]) -> None:
        """Keep what came by the output pipe as written by `task`."""
        for _ in range(OUTPUT_READS):
            try:
                data = os.read(self._output, MAX_WORDS)
            except BlockingIOError:
                return
            if not data:
                self._loop.remove_reader(self._output)
                return
            if self._raw_task != task:
                self._raw_task, self._raw = task, b""
            self._raw = (self._raw + data)[-self._settings.output_bytes :]

    def _with_raw_output(self, message: RunProgressed) -> RunProgressed:
        """Attach what came by the pipe to the failure of the task that wrote it."""
        self._drain_output((message.run, message.failures[-1][0]))
        failures = tuple(
            (
                index,
                failure._replace(output=(failure.output + self._raw.decode("utf-8", "replace"))[-MAX_WORDS:]),
            )
            if self._raw_task == (message.run, index)
            else (index, failure)
            for index, failure in message.failures
        )
        return message._replace(failures=failures)

    # --- its end ----------------------------------------------------------------------------------

    def end(self, words: str) -> SlotEnd:
        """Take in what the ended process left, close everything, and tell how it ended."""
        while self._receive():
            pass
        progress = self.progress()
        if progress != IDLE:
            self._drain_output(progress[:2])
        end = SlotEnd(
            self._complaint or words,
            progress.run,
            progress.task_index,
            self._killed_for,
            self.output(*progress[:2]) if progress != IDLE else "",
            self.stacks(),
        )
        self.close()
        return end

    def close(self) -> None:
        """Close what this side holds."""
        if not self.alive:
            return
        self.alive = False
        self._unwritten.clear()
        for reader in (self._channel, self._output, self._door):
            self._loop.remove_reader(reader)
        self._loop.remove_writer(self._channel)
        self._channel.close()
        self._door.close()
        os.close(self._output)
        os.close(self._stacks)
        self._page.release()
        self._map.close()


def _is_inside(run: range, message: RunProgressed) -> bool:
    """Whether all outcomes are of tasks of this run."""
    low, high = run.start, run.stop
    for start, stop, _ in message.runs:
        if not low <= start < stop <= high:
            return False
    for index, _ in message.failures:
        if not low <= index < high:
            return False
    return low <= message.reached <= high


def refuse(channel: socket.socket, verdict: bytes, text: str = "") -> None:
    """Tell a task why it has no connection, and end what it wanted to use for it."""
    with channel, suppress(OSError):  # it may have given it up
        channel.sendall(verdict + text.encode()[:MAX_WORDS])


def shared_file(size_bytes: int) -> int:
    """A file without a name, to be shared with another process, as a descriptor that is ours to close."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("distcomp")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size_bytes)
    return descriptor


def own_stacks(text: str) -> str:
    """The parts of a faulthandler dump that show the user's code, innermost call first."""
    kept: list[str] = []
    for block in text.split("\n\n"):
        lines = block.splitlines()
        ours = [place for place, line in enumerate(lines) if _OWN_FRAME in line]
        if any("in _send_late" in lines[place] for place in ours):
            continue
        kept.append("\n".join(lines[: ours[0]] if ours else lines))
    return "\n\n".join(part for part in kept if part.strip())
