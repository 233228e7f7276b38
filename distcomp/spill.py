"""Files for results that wait: written, read again and let go of by one thread, while the scheduler goes on.

The files have no names, so nothing is ever left of them, however a scheduler ends; after a restart what
waits is known from the journal, and written anew.

State law: a message is in one *segment*, a file of about `segment_bytes` at most; only the *last* one grows.
A segment goes with the last message in it. Of one that has become too empty, the rest moves into the last,
so all files together take at most four times what waits. Before `start` the caller's thread does it all,
afterwards only the one of the files.
"""

from __future__ import annotations

import os
import tempfile
import threading
from contextlib import suppress
from itertools import count
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple, TypeAlias
from zlib import crc32

from distcomp.errors import DistcompError
from distcomp.protocol import codec
from distcomp.wire import detach_blobs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from distcomp.ids import SessionId
    from distcomp.protocol import TasksFailed, TasksSettled
    from distcomp.wire import Message

Spilled: TypeAlias = "tuple[int, SessionId, Message]"
"""A message of a session, and its number."""

MOVE_BELOW = 4
"""A segment is given up once less than this part of it is of use."""


class FileNews(NamedTuple):
    """What became of a message: `stored`, `failed` (to be stored), `loaded`, or `lost`."""

    what: str
    number: int
    message: TasksSettled | TasksFailed | None = None
    why: str = ""


class _Work(NamedTuple):
    """What one turn asks for."""

    stores: Sequence[Spilled]
    loads: Sequence[int]
    drops: Sequence[int]


class _Segment:
    """One file.

    Attributes:
        size_bytes: how long it is; `used_bytes` are those of messages that are needed.
    """

    __slots__ = ("fd", "numbers", "size_bytes", "used_bytes")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size_bytes = self.used_bytes = 0
        self.numbers: set[int] = set()


class _Place(NamedTuple):
    """Where a message is: its own bytes first, then each blob's; `crc` is of all."""

    segment: _Segment
    offset: int
    sizes_bytes: tuple[int, ...]
    crc: int


class SpillFiles:
    """Messages in files, by number.

    Args:
        folder: where the files are.
        memory_bytes: how much may stay in memory of what is read from a journal.
        segment_bytes: after so many bytes another file is begun.

    Example:
        `files = SpillFiles(folder, memory_bytes=1 << 26, segment_bytes=1 << 26)`, then
        `files.start(loop.call_soon_threadsafe, on_news)` and `files.work(stores, loads, drops)`.
    """

    def __init__(self, folder: Path, *, memory_bytes: int, segment_bytes: int) -> None:
        self.memory_bytes = memory_bytes
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._places: dict[int, _Place] = {}
        self._last: _Segment | None = None
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._call_soon: Callable[..., object] | None = None

    def start(
        self,
        call_soon: Callable[..., object],
        on_news: Callable[[list[FileNews]], None],
    ) -> None:
        """Work in a thread from now on, begun when there is something to do.

        Args:
            call_soon: lets the scheduler's loop call something, from another thread.
            on_news: called there with what became of messages.
        """
        self._call_soon, self._on_news = call_soon, on_news

    def work(
        self,
        stores: Sequence[Spilled],
        loads: Sequence[int],
        drops: Sequence[int],
    ) -> None:
        """Have messages stored, then others read, then others dropped; returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="distcomp-files", daemon=True)
            self._thread.start()
        self._queue.put(_Work(stores, loads, drops))

    def close(self) -> None:
        """End the thread, and with it all files."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        for number in list(self._places):
            self._leave(number, self._places.pop(number))
        if self._last is not None:
            os.close(self._last.fd)
            self._last = None

    # --- in one thread ---

    def store(self, spill: Spilled) -> None:
        """Keep a message.

        Raises:
            OSError: it cannot be written.
        """
        number, _, message = spill
        detached, blobs = detach_blobs(message, count().__next__)
        parts = [codec.body([detached]), *(blob for _, blob in blobs)]
        crc = 0
        for part in parts:
            crc = crc32(part, crc)
        self._append(number, parts, crc)

    def load(self, number: int) -> TasksSettled | TasksFailed:
        """A message that was kept.

        Raises:
            OSError: it cannot be read.
            DistcompError: it is not what was written.
        """
        place = self._places[number]
        parts = _read(place)
        crc = 0
        for part in parts:
            crc = crc32(part, crc)
        if crc != place.crc:
            raise DistcompError("the file does not hold what was written to it")
        message: TasksSettled | TasksFailed
        (message,) = codec.decode(parts[0], lambda blob: parts[1 + blob])  # type: ignore[assignment] # stored so
        return message

    def drop(self, number: int) -> None:
        """Let go of a message, if it is here."""
        place = self._places.pop(number, None)
        if place is None:
            return
        self._leave(number, place)
        segment = place.segment
        if segment is not self._last and 0 < segment.used_bytes * MOVE_BELOW < segment.size_bytes:
            self._move_rest(segment)

    def _append(self, number: int, parts: Sequence[bytes], crc: int) -> None:
        segment = self._last
        if segment is None or segment.size_bytes >= self._segment_bytes:
            segment = self._begin_segment()
        offset = position = segment.size_bytes
        for part in parts:
            view = memoryview(part)
            while view:
                written_bytes = os.pwrite(segment.fd, view, position)
                view = view[written_bytes:]
                position += written_bytes
        segment.size_bytes = position
        segment.used_bytes += position - offset
        segment.numbers.add(number)
        self._places[number] = _Place(segment, offset, tuple(map(len, parts)), crc)

    def _begin_segment(self) -> _Segment:
        with tempfile.TemporaryFile(dir=self._folder, buffering=0) as file:
            segment = _Segment(os.dup(file.fileno()))
        before, self._last = self._last, segment
        if before is not None and not before.used_bytes:
            os.close(before.fd)
        return segment

    def _leave(self, number: int, place: _Place) -> None:
        """A message is not in its segment any more, which goes if it was the last one there."""
        segment = place.segment
        segment.used_bytes -= sum(place.sizes_bytes)
        segment.numbers.discard(number)
        if segment.used_bytes:
            return
        if segment is self._last:
            os.ftruncate(segment.fd, 0)
            segment.size_bytes = 0
        else:
            os.close(segment.fd)

    def _move_rest(self, segment: _Segment) -> None:
        for number in sorted(segment.numbers):
            place = self._places[number]
            self._append(number, _read(place), place.crc)
            self._leave(number, place)

    # --- the thread ---

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            news = [self._store(store) for store in work.stores]
            news += [self._load(number) for number in work.loads if number in self._places]
            for number in work.drops:
                with suppress(OSError):  # what cannot be moved stays where it is
                    self.drop(number)
            if news and self._call_soon is not None:
                self._call_soon(self._on_news, news)
            del work, news  # what they hold is not to wait for the next work

    def _store(self, spill: Spilled) -> FileNews:
        try:
            self.store(spill)
        except OSError as error:
            return FileNews("failed", spill[0], why=str(error))
        return FileNews("stored", spill[0])

    def _load(self, number: int) -> FileNews:
        try:
            return FileNews("loaded", number, self.load(number))
        except (OSError, DistcompError) as error:
            return FileNews("lost", number, why=str(error))


def _read(place: _Place) -> list[bytes]:
    """The parts of a message, as they are in its file; too short if the file is."""
    parts, offset = [], place.offset
    for size_bytes in place.sizes_bytes:
        part = b""
        while len(part) < size_bytes:
            more = os.pread(place.segment.fd, size_bytes - len(part), offset + len(part))
            if not more:
                break
            part = part + more if part else more
        parts.append(part)
        offset += size_bytes
    return parts
