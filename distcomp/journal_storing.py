"""What stores large blobs beside a journal's commits: in a thread of its own, a slice of each peer's in turn.

Law: a request is *done* once all its blobs are stored (see `distcomp.journal_blobs`). They are held from
then on, and known by the very objects that they are, until the request is let go of. The requests of one key
are done in their order; keys take turns, so that a small blob of one does not wait for all of another's large
one. What is unwanted before it is done leaves nothing behind. For room on the disk it is tried again and
again; after any other error nothing more is stored.
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
        on_room: called in this thread, with what lacked room in the last round, or None.
        on_failed: called in this thread with the error after which nothing more is stored.
    """

    def __init__(
        self,
        folder: BlobFolder,
        settings: JournalSettings,
        known: KnownBlobs,
        *,
        post: Callable[[Callable[..., None], Any], Any],
        on_room: Callable[[JournalFullError | None], None],
        on_failed: Callable[[JournalError], None],
    ) -> None:
        self._folder, self._settings, self._known = folder, settings, known
        self._post, self._on_room, self._on_failed = post, on_room, on_failed
        self._changed = threading.Condition(threading.Lock())
        self._asked: deque[StoreRequest] = deque()
        self._closing = self._sweeps = False
        self._thread: threading.Thread | None = None
        self._lines: dict[Hashable, deque[_Work]] = {}
        self._written: list[_Work] = []
        self._lack: JournalFullError | None = None

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
        pause_s = self._settings.journal_retry_first_s
        try:
            try:
                while self._take_up(0.0 if self._lack is None else pause_s):
                    self._round()
                    pause_s = min(2 * pause_s, self._settings.journal_retry_most_s)
                    if self._lack is None:
                        pause_s = self._settings.journal_retry_first_s
            finally:
                self._give_up()
        except JournalError as error:
            self._on_failed(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing must be taken for durable
            failed = JournalFailedError(f"storing large arguments or results failed: {error!r}")
            failed.__cause__ = error
            self._on_failed(failed)

    def _take_up(self, pause_s: float) -> bool:
        """Wait for something to do, or for room on the disk; whether there is more to be done."""
        with self._changed:
            until = time.monotonic() + pause_s
            while not self._closing:
                left_s = until - time.monotonic()
                if pause_s and left_s > 0:
                    self._changed.wait(left_s)
                elif self._asked or self._lines or self._written or self._sweeps:
                    break
                else:
                    self._changed.wait()
            self._sweeps = False
            for request in self._asked:
                self._lines.setdefault(request.key, deque()).append(_Work(request, self._steps(request)))
            self._asked.clear()
            return not self._closing

    def _round(self) -> None:
        """Let each key go on by a slice; make what is whole by then durable with one sync of the folder."""
        self._lack = None
        for key, line in list(self._lines.items()):
            self._go_on(line)
            if not line:
                del self._lines[key]
        if self._written:
            try:
                self._finish()
            except JournalFullError as error:
                self._lack = error
        self._on_room(self._lack)
        self._folder.remove()

    def _go_on(self, line: deque[_Work]) -> None:
        spent_bytes = 0
        while line and spent_bytes < SLICE_BYTES:
            work = line[0]
            if work.request.unwanted:
                line.popleft()
                self._drop(work)
                continue
            step_bytes = next(work.steps, None)
            if step_bytes is None:
                self._written.append(line.popleft())
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
                except JournalFullError as error:  # noqa: PERF203 - it is tried again for that
                    self._lack = error
                    yield SLICE_BYTES

    def _finish(self) -> None:
        """Make names durable, and tell of what is stored by that."""
        self._folder.seal([named for work in self._written for named in work.request.named()])
        written, self._written = self._written, []
        for work in written:
            for digest, blob in work.request.named():
                self._known.add(blob, digest)
            self._post(work.request.on_stored, work.request)

    def _drop(self, work: _Work) -> None:
        work.steps.close()
        self._folder.let_go(work.request.digests)

    def _give_up(self) -> None:
        for line in self._lines.values():
            for work in line:
                self._drop(work)
        self._folder.remove()


class _Work:
    """A request that is being done."""

    __slots__ = ("request", "steps")

    def __init__(self, request: StoreRequest, steps: Generator[int, None, None]) -> None:
        self.request, self.steps = request, steps
