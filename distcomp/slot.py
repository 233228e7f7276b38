"""What runs in a slot process: tasks of one session, one after the other.

The law of this file:

- The main thread alone runs tasks, appends to `Finished.values` and reads the socket.
- A task is *begun* once the page says so and *finished* once its value is appended or its failure is
  recorded; `Finished.next_index` is always the first task of the run that is not finished.
- Nothing of a user's (function, arguments, result, exception) is touched before its task is begun.
- What is finished is sent under `Finished.lock`, by the main thread between two tasks or by a second
  thread while a task runs. An append needs no lock: it is one step for the interpreter.
- An interrupt is raised only within a task, never within the sending of what is finished.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

from distcomp import inside
from distcomp.errors import UnloadableTaskError
from distcomp.kinds import INLINE_BLOB_BYTES, MAX_BLOB_BYTES
from distcomp.page import BEGUN, BEGUN_AT, RUN, STOP, Page, lane_of
from distcomp.payload import (
    PLAIN_TYPES,
    dump_failure,
    dump_result,
    enter_bundle,
    enter_environment,
    load_function,
    open_chunk,
    pack_results,
)
from distcomp.rows import Failure
from distcomp.slot_output import capture_streams, end_offspring, plain_streams
from distcomp.slot_protocol import (
    INTERRUPT_SIGNAL,
    RECEIVE_BYTES,
    STACKS_SIGNAL,
    ForgetFunction,
    LoadFunction,
    PrepareSlot,
    RunProgressed,
    RunTasks,
    SlotReady,
    SlotStream,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from distcomp.ids import FunctionId
    from distcomp.payload import LoadedFunction
    from distcomp.slot_log import SlotLog
    from distcomp.slot_output import PageStream
    from distcomp.slot_protocol import RunLogged

    Result = tuple[int, int, bytes]
    Failed = tuple[int, Failure]

SEND_AFTER_NS = 5_000_000
"""Before it begins a task, a slot sends what is finished if it sent nothing for so long."""

SEND_LATE_S = 0.05
"""While a task runs, what was finished before it is sent within this time."""

QUIET_ROUNDS = 20
"""After so many rounds without a run the second thread sleeps until the next one."""

MESSAGE_BYTES = 256 << 10
"""A report holds about so many bytes, or one outcome."""

IMPORTER = "<frozen importlib._bootstrap>"
"""The file that the interpreter's own importing is said to be in."""

EXIT_UNSENT = 70
"""Exit code when a report broke off in the middle: nothing readable could follow it."""


class TaskInterrupted(BaseException):
    """Raised within a task that was cancelled or has run for too long."""


class Finished:
    """Outcomes of the run in hand that were not sent yet.

    Args:
        channel: the socket to the supervisor.
        stream: what is spoken over it.
    """

    def __init__(self, channel: socket.socket, stream: SlotStream) -> None:
        self.values: list[Any] = []
        self.due_ns = 0
        self.max_payload_bytes = MAX_BLOB_BYTES
        self.run = 0
        self._eager = self._held = False
        self._channel, self._stream = channel, stream
        self._lock = threading.Lock()
        self._base = 0  # the index of values[0]
        self._reached = 0  # all below was sent
        self._busy_since_ns = 0
        self._runs: list[Result] = []
        self._failures: list[Failed] = []
        self.log: SlotLog | None = None

    def open(self, run: RunTasks) -> None:
        """Begin with another run; the last one was flushed."""
        with self._lock:
            self.run, self._eager, self._held = run.run, run.eager, False
            self._base = self._reached = run.start
            self._busy_since_ns = time.monotonic_ns()
            if run.eager:
                self.due_ns = 0

    def hold(self) -> None:
        """Send what is finished; what comes of the task that runs goes after `release`, but then at once."""
        self.flush()
        with self._lock:
            self._held = self._eager = True
            self.due_ns = 0

    def release(self) -> None:
        """Hold back no longer what is finished."""
        self._held = False

    def waited(self, seconds: float) -> None:
        """Take no time for work in which a task waited for others."""
        with self._lock:
            self._busy_since_ns += int(seconds * 1e9)

    def next_index(self) -> int:
        """Give the first index of the run that is not finished."""
        with self._lock:
            return self._base + len(self.values)

    def fail(self, index: int, failure: Failure) -> None:
        """Record how a task failed. All before it are finished."""
        with self._lock:
            self._collect()
            self._failures.append((index, failure))
            self._base = index + 1

    def flush(self, *, ended: bool = False) -> None:
        """Send what is finished."""
        with self._lock:
            if self.log is not None:
                self._send_log(self.log)
                if ended:
                    self.log = None  # what threads of its tasks say from now on is nobody's
            self._collect()
            if not (ended or self._runs or self._failures):
                return
            self._send(self._reports(ended=ended))
            now = time.monotonic_ns()
            self.due_ns = 0 if self._eager else now + SEND_AFTER_NS
            self._busy_since_ns = now

    def _send_log(self, log: SlotLog) -> None:
        """Send what tasks have printed and logged: before their outcomes."""
        logged = log.take(self.run)
        if logged is not None:
            self._send([logged])

    def _send(self, messages: Sequence[RunProgressed | RunLogged]) -> None:
        try:
            for view in self._stream.encode(messages):
                self._channel.sendall(view)
        except BaseException:  # noqa: BLE001 - whatever it was, half a frame may have left
            os._exit(EXIT_UNSENT)

    def flush_late(self) -> None:
        """Send what is finished while a task runs, if there is anything."""
        with self._lock:
            if self.log is not None:
                self._send_log(self.log)
        if not self._held and (self.values or self._failures):
            self.flush()

    def _collect(self) -> None:
        # The main thread may append between the two steps: what it adds stays for the next time.
        kept = self.values[:]
        del self.values[: len(kept)]
        most_bytes = self.max_payload_bytes
        for packed in pack_results(kept, self._base, max_bytes=min(INLINE_BLOB_BYTES, most_bytes)):
            if len(packed.blob) > most_bytes:  # then it is one result
                text = f"the result has {len(packed.blob)} bytes; max_payload_bytes is {most_bytes}"
                self._failures.append((packed.start, Failure("unpicklable", text=text)))
            else:
                self._runs.append(packed)
        self._base += len(kept)

    def _reports(self, *, ended: bool) -> list[RunProgressed]:
        """Everything collected, in reports of a bounded size; only the last one says how far we are."""
        runs, failures = self._runs, self._failures
        self._runs, self._failures = [], []
        reports: list[RunProgressed] = []
        if len(runs) + len(failures) > 1:
            *before, (runs, failures) = _batches(runs, failures)
            reports = [
                RunProgressed(self.run, tuple(some), tuple(others), 0.0, self._reached, ended=False)
                for some, others in before
            ]
        self._reached = reached = self._base
        busy_s = max(0, time.monotonic_ns() - self._busy_since_ns) / 1e9
        reports.append(RunProgressed(self.run, tuple(runs), tuple(failures), busy_s, reached, ended))
        return reports


def _batches(runs: list[Result], failures: list[Failed]) -> Iterator[tuple[list[Result], list[Failed]]]:
    """Outcomes in parts of about `MESSAGE_BYTES`, or of one outcome."""
    sizes: list[tuple[int, Any]] = [(len(each[2]), each) for each in runs]
    sizes += [(_failure_bytes(each[1]), each) for each in failures]
    runs, failures, total = [], [], 0
    for size, each in sizes:
        if total and total + size > MESSAGE_BYTES:
            yield runs, failures
            runs, failures, total = [], [], 0
        (runs if type(each[1]) is int else failures).append(each)
        total += size
    yield runs, failures


def _failure_bytes(failure: Failure) -> int:
    return len(failure.text) + len(failure.traceback) + len(failure.exception) + len(failure.output)


class Slot:
    """A slot process from within.

    Args:
        channel: the socket to the supervisor, which it blocks on when idle.
        door: the socket over which its tasks ask for connections.
        page: the page it shares with the supervisor.
        streams: what its tasks print to.
    """

    def __init__(
        self, channel: socket.socket, door: socket.socket, page: Page, streams: Sequence[PageStream] = ()
    ) -> None:
        self._channel = channel
        self._page = page
        self._pid = os.getpid()
        self._stream = SlotStream()
        self._finished = finished = Finished(channel, self._stream)
        self._door = inside.Door(door, page, finished.hold, finished.waited)
        inside.set_door(self._door)
        self._blobs: dict[FunctionId, bytes] = {}
        self._loaded: dict[FunctionId, LoadedFunction] = {}
        self._lacks_modules = ""
        self._streams = streams
        self._log: SlotLog | None = None
        self._active = threading.Event()
        self._sender: threading.Thread | None = None
        self._sender_sleeps = True
        self._handlers: dict[type[Any], Any] = {
            PrepareSlot: self.on_prepare_slot,
            LoadFunction: self.on_load_function,
            ForgetFunction: self.on_forget_function,
            RunTasks: self.on_run_tasks,
        }

    def serve(self) -> None:
        """Do what the supervisor says until it closes the socket."""
        signal.signal(INTERRUPT_SIGNAL, self._on_interrupt)
        os.register_at_fork(after_in_child=self._become_stranger)
        while data := self._channel.recv(RECEIVE_BYTES):
            for message in self._stream.feed(data):
                self._handlers[type(message)](message)

    def on_prepare_slot(self, message: PrepareSlot) -> None:
        """Take over the session's environment, as far as it goes here."""
        self._finished.max_payload_bytes = message.max_payload_bytes
        problem = ""
        try:
            self._door.shares_path = bool(message.environment)
            enter_environment(message.environment)
            if message.bundle_folder:
                enter_bundle(message.bundle_folder, message.bundle_bytes)
        except UnloadableTaskError as error:
            problem = str(error)
            self._lacks_modules = problem if message.bundle_folder else ""
        for view in self._stream.encode([SlotReady(problem)]):
            self._channel.sendall(view)

    def on_load_function(self, message: LoadFunction) -> None:
        """Keep a function's bytes; they are loaded when its first task has begun."""
        self._blobs[message.function] = message.blob

    def on_forget_function(self, message: ForgetFunction) -> None:
        """Let go of a function."""
        self._blobs.pop(message.function, None)
        self._loaded.pop(message.function, None)

    def on_run_tasks(self, run: RunTasks) -> None:
        """Run what the page lets us run of `run`, and report it."""
        words, finished = self._page.words, self._finished
        finished.open(run)
        words[RUN] = run.run
        if self._sender_sleeps:
            self._wake_sender()
        if run.log_lines_per_s:
            self._begin_log(run)
        index = run.start
        while True:
            try:
                self._run_from(run, index)
                break
            except BaseException as error:  # noqa: BLE001 - whatever a task raises is its own outcome
                index = self._fail_begun(run, error)
        if self._door.guests:
            self._end_guests()
        if finished.log is not None:
            finished.log.end()
        words[RUN] = 0
        finished.flush(ended=True)

    def _begin_log(self, run: RunTasks) -> None:
        """Pass on what the tasks of a run print and log."""
        if self._log is None:
            from distcomp.slot_log import SlotLog  # noqa: PLC0415 - few runs need it

            self._log = SlotLog(self._door.task, self._page.printed)
            for stream in self._streams:
                stream.log = self._log
        self._log.begin(run.log_lines_per_s, run.log_bytes_per_s)
        self._finished.log = self._log

    def _run_from(self, run: RunTasks, index: int) -> None:
        """Run tasks from `index` on. What is raised here is the outcome of the task that is begun."""
        words, lane = self._page.words, lane_of(run.run)
        begun, stop, begun_at = lane + BEGUN, lane + STOP, lane + BEGUN_AT
        finished, clock = self._finished, time.monotonic_ns
        keep = finished.values.append
        words[begun_at] = clock()
        words[begun] = index
        if words[stop] <= index:
            return
        function = (self._loaded.get(run.function) or self._load(run.function)).function
        chunk = open_chunk(run.chunk)
        for args, kwargs in chunk.calls(index - run.chunk_start, run.stop - run.chunk_start):
            value = function(*args, **kwargs)
            keep(value if type(value) in PLAIN_TYPES else dump_result(value))
            del value
            index += 1
            now = clock()
            if now >= finished.due_ns and index < run.stop:  # the last outcome goes with the end of the run
                # Whoever looks must not take the time of sending for a task's.
                words[begun_at] = 0
                if self._door.guests:
                    self._end_guests()
                finished.flush()
                now = clock()
            words[begun_at] = now
            words[begun] = index
            if words[stop] <= index:
                return
        raise UnloadableTaskError(f"the chunk holds no arguments for index {index}")

    def _load(self, function: FunctionId) -> LoadedFunction:
        if self._lacks_modules:
            raise UnloadableTaskError(self._lacks_modules)
        loaded = self._loaded[function] = load_function(self._blobs[function])
        del self._blobs[function]
        return loaded

    def _fail_begun(self, run: RunTasks, error: BaseException) -> int:
        """Record the outcome of the task that is begun; returns the index to go on with."""
        if os.getpid() != self._pid:
            _leave(error)
        begun, begun_at_ns = (self._page.words[lane_of(run.run) + place] for place in (BEGUN, BEGUN_AT))
        index = self._finished.next_index()
        if index > begun:
            return index  # raised too late, by a signal handler: the task had finished
        if self._door.guests:
            self._end_guests()
        output = self._page.output(run.run, begun).decode("utf-8", "replace")
        loaded = self._loaded.get(run.function)
        retriable = loaded is not None and loaded.is_retriable(error)
        failure = dump_failure(error, retriable=retriable)._replace(output=output)
        if isinstance(error, TaskInterrupted):
            failure = failure._replace(kind="interrupted", retriable=False, exception=b"")
            end_offspring(begun_at_ns / 1e9)
        self._finished.fail(begun, failure)
        return begun + 1

    def _end_guests(self) -> None:
        """End the clients of a task that has ended, before anybody hears of its outcome."""
        self._door.end_task()
        self._finished.release()

    def _on_interrupt(self, _signal: int, frame: FrameType | None) -> None:
        """Raise in the task, if it is the one that is meant and it still runs.

        Not in the middle of an import: half a module would be left for later tasks. A task that is not over
        soon after is killed.
        """
        ours = Finished.flush.__code__, Slot._end_guests.__code__
        while frame is not None and self._page.is_wanted():
            if frame.f_code.co_filename == IMPORTER or frame.f_code in ours:
                return
            if frame.f_code is Slot._run_from.__code__:
                raise TaskInterrupted("the task was stopped")
            frame = frame.f_back

    # --- the second thread ------------------------------------------------------------------------

    def _wake_sender(self) -> None:
        if self._sender is None:
            self._sender = threading.Thread(target=self._send_late, name="distcomp-sender", daemon=True)
            self._sender.start()
        self._sender_sleeps = False
        self._active.set()

    def _send_late(self) -> None:
        # Signals are for the main thread: only there do they interrupt what it waits for.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            self._active.wait()
            quiet, last = 0, 0
            while quiet < QUIET_ROUNDS:
                time.sleep(SEND_LATE_S)
                self._finished.flush_late()
                quiet = 0 if self._page.words[RUN] or self._finished.run != last else quiet + 1
                last = self._finished.run
            self._active.clear()
            self._sender_sleeps = True
            if self._page.words[RUN]:  # it began after we looked, and before it could see us sleep
                self._wake_sender()

    # --- a fork made by a task --------------------------------------------------------------------

    def _become_stranger(self) -> None:
        """In a child that a task forked: neither socket nor page nor signals are its own."""
        self._channel.close()
        self._door.shut()
        inside.set_door(None)
        self._page.release()
        signal.signal(INTERRUPT_SIGNAL, signal.SIG_DFL)
        faulthandler.disable()
        faulthandler.unregister(STACKS_SIGNAL)
        if self._finished.log is not None:
            self._finished.log.leave()
        for stream in self._streams:
            stream.leave_page()


def _leave(error: BaseException) -> NoReturn:
    """End a child that a task forked, and that came back from the task."""
    code = getattr(error, "code", 1) if isinstance(error, SystemExit) else 1
    os._exit(code if isinstance(code, int) else int(code is not None))


def run_slot(channel: socket.socket, door: socket.socket, page: Page, stacks: int) -> NoReturn:
    """Be a slot process until the supervisor closes the socket, then end this process."""
    code = 0
    try:
        faulthandler.enable(stacks)
        faulthandler.register(STACKS_SIGNAL, stacks, all_threads=True)
        streams = capture_streams(page)
        Slot(channel, door, page, streams).serve()
        atexit._run_exitfuncs()  # noqa: SLF001 - os._exit runs none, and a plain exit would wait for threads
    except BaseException:  # noqa: BLE001 - the last stop of this process
        code = 1
        plain_streams()
        sys.excepthook(*sys.exc_info())
    os._exit(code)
