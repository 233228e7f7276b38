"""What stores large blobs beside a journal's commits: in a thread of its own, a slice of each peer's in turn.

Law: a request is *done* once all its blobs are stored (see `distcomp.journal_blobs`). They are held from
then on, and known by the very objects that they are, until the request is let go of. The requests of one key
are done in their order; keys take turns, so that a small blob of one does not wait for all of another's large
one. What is unwanted before it is done leaves nothing behind. For what lacks room on the disk it is tried
again and again, while others go on; after any other error nothing more is stored.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from distcomp.errors import JournalError, JournalFailedError, JournalFullError
from distcomp.journal_blobs import SLICE_BYTES, digest_of, digesting
from distcomp.records import codec
from distcomp.wire import detach_blobs

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable, Iterable, Sequence

    from distcomp.config import JournalSettings
    from distcomp.journal_blobs import BlobFolder
    from distcomp.records import Record

NO_ROOM = 0
"""A step in storing that found no room on the disk."""


class StoreRequest:
    """Blobs to be stored together.

    Attributes:
        key: whose they are.
        blobs: they themselves.
        on_stored: called in the asking thread once it is done.
        digests: what names those that are held for it.
        unwanted: set it, and it need not be done; `on_stored` may be called nevertheless.
    """

    __slots__ = ("blobs", "digests", "key", "on_stored", "unwanted")

    def __init__(
        self, key: Hashable, blobs: Sequence[bytes], on_stored: Callable[[StoreRequest], None]
    ) -> None:
        self.key, self.blobs, self.on_stored = key, blobs, on_stored
        self.digests: list[bytes] = []
        self.unwanted = False

    def named(self) -> Iterable[tuple[bytes, bytes]]:
        """The blobs that are held, each with its digest."""
        return zip(self.digests, self.blobs, strict=False)


class KnownBlobs:
    """The digests of blobs that are stored or about to be, by the objects that these are."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[bytes, bytes]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, blob: bytes, digest: bytes) -> None:
        """Know a blob, which is kept in memory as long."""
        self._known[id(blob)] = (blob, digest)

    def bytes_in(self, records: Iterable[Record]) -> int:
        """What records hold of them."""
        return sum(
            len(blob)
            for record in records
            if codec.is_large(record)
            for _, blob in detach_blobs(record, int).blobs
            if id(blob) in self._known
        )

    def forget(self, blobs: Sequence[bytes]) -> None:
        """Know blobs no more."""
        for blob in blobs:
            self._known.pop(id(blob), None)

    def digest_of(self, blob: bytes) -> bytes:
        """What names a blob; one that is not known is read for it."""
        known = self._known.get(id(blob))
        return digest_of(blob) if known is None else known[1]


class BlobStoring:
    """A thread that stores blobs, begun with the first request.

    Args:
        folder: where.
        settings: how long to wait for room on the disk.
        known: gets what is stored.
        post: as for `Journal.start`.
        on_no_room: likewise.
        on_failed: called in this thread with the error after which nothing more is stored.
    """

    def __init__(
        self,
        folder: BlobFolder,
        settings: JournalSettings,
        known: KnownBlobs,
        *,
        post: Callable[[Callable[..., None], Any], Any],
        on_no_room: Callable[[dict[Hashable, int]], None],
        on_failed: Callable[[JournalError], None],
    ) -> None:
        self._folder, self._settings, self._known = folder, settings, known
        self._post, self._on_no_room, self._on_failed = post, on_no_room, on_failed
        self._changed = threading.Condition(threading.Lock())
        self._asked: deque[StoreRequest] = deque()
        self._closing = self._sweeps = False
        self._thread: threading.Thread | None = None
        self._lines: dict[Hashable, _Line] = {}
        self._written = _Line()
        self._told: dict[Hashable, int] = {}

    # --- other threads ---

    def ask(self, request: StoreRequest) -> None:
        """Have blobs stored."""
        with self._changed:
            self._asked.append(request)
            self._wake()

    def sweep(self) -> None:
        """Have files removed that lost their names."""
        with self._changed:
            self._sweeps = True
            self._wake()

    def close(self) -> None:
        """Give up what is not done, once the slice under way is."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _wake(self) -> None:
        if self._thread is None and not self._closing:
            self._thread = threading.Thread(target=self._run, name="journal-blobs", daemon=True)
            self._thread.start()
        self._changed.notify()

    # --- its thread ---

    def _run(self) -> None:
        try:
            try:
                while self._take_up():
                    self._round()
            finally:
                self._give_up()
        except JournalError as error:
            self._on_failed(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing must be taken for durable
            failed = JournalFailedError(f"storing large arguments or results failed: {error!r}")
            failed.__cause__ = error
            self._on_failed(failed)

    def _take_up(self) -> bool:
        """Wait for something to do, or to try again; whether there is more to be done."""
        with self._changed:
            while not (self._closing or self._asked or self._sweeps):
                left_s = self._left_s()
                if left_s is not None and left_s <= 0:
                    break
                self._changed.wait(left_s)
            self._sweeps = False
            for request in self._asked:
                line = self._lines.setdefault(request.key, _Line())
                line.works.append(_Work(request, self._steps(request)))
            self._asked.clear()
            return not self._closing

    def _left_s(self) -> float | None:
        """Seconds until there is something to do; None if nothing is left."""
        lines = [line for line in (*self._lines.values(), self._written) if line.works]
        return min(line.due_at for line in lines) - time.monotonic() if lines else None

    def _round(self) -> None:
        """Let each key go on by a slice; make what is whole by then durable with one sync of the folder."""
        now = time.monotonic()
        for key, line in list(self._lines.items()):
            if line.due_at <= now:
                self._go_on(line)
            if not line.works:
                del self._lines[key]
        if self._written.works and self._written.due_at <= now:
            self._finish()
        self._tell_room()
        self._folder.remove()

    def _go_on(self, line: _Line) -> None:
        spent_bytes = 0
        while line.works and spent_bytes < SLICE_BYTES:
            work = line.works[0]
            if work.request.unwanted:
                line.works.popleft()
                self._drop(work)
                continue
            step_bytes = next(work.steps, None)
            if step_bytes == NO_ROOM:
                line.put_off(self._settings)
                return
            if step_bytes is None:
                line.pause_s = 0.0
                self._written.works.append(line.works.popleft())
            else:
                spent_bytes += step_bytes

    def _steps(self, request: StoreRequest) -> Generator[int, None, None]:
        """All that is to be done for a request, slice by slice."""
        for blob in request.blobs:
            digest = yield from digesting(blob)
            request.digests.append(digest)
            is_stored = self._folder.hold(digest)
            while not is_stored:
                try:
                    yield from self._folder.writing(digest, blob)
                    is_stored = True
                except JournalFullError:  # noqa: PERF203 - it is tried again for that
                    yield NO_ROOM

    def _finish(self) -> None:
        """Make names durable, and tell of what is stored by that."""
        works = self._written.works
        try:
            self._folder.seal([named for work in works for named in work.request.named()])
        except JournalFullError:
            self._written.put_off(self._settings)
            return
        self._written = _Line()
        for work in works:
            for digest, blob in work.request.named():
                self._known.add(blob, digest)
            self._post(work.request.on_stored, work.request)

    def _tell_room(self) -> None:
        """Tell whose blobs lack room on the disk, if that has changed."""
        lacking: dict[Hashable, int] = {}
        for line in (*self._lines.values(), self._written):
            if line.pause_s:
                for work in line.works:
                    key = work.request.key
                    lacking[key] = lacking.get(key, 0) + sum(map(len, work.request.blobs))
        if lacking != self._told:
            self._told = lacking
            self._post(self._on_no_room, lacking)

    def _drop(self, work: _Work) -> None:
        work.steps.close()
        self._folder.let_go(work.request.digests)

    def _give_up(self) -> None:
        for line in (*self._lines.values(), self._written):
            for work in line.works:
                self._drop(work)
        self._folder.remove()


class _Work:
    """A request that is being done."""

    __slots__ = ("request", "steps")

    def __init__(self, request: StoreRequest, steps: Generator[int, None, None]) -> None:
        self.request, self.steps = request, steps


class _Line:
    """Requests that are done in their order; what lacks room is put off, for longer each time."""

    __slots__ = ("due_at", "pause_s", "works")

    def __init__(self) -> None:
        self.works: deque[_Work] = deque()
        self.due_at = self.pause_s = 0.0

    def put_off(self, settings: JournalSettings) -> None:
        """Try again after a pause."""
        self.pause_s = min(2 * self.pause_s or settings.journal_retry_first_s, settings.journal_retry_most_s)
        self.due_at = time.monotonic() + self.pause_s
