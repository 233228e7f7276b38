"""What a scheduler remembers beyond its process, and what waits until it is remembered.

State law: `_held` are the acks of turns whose records are not durable yet, in the order of their turns. A
turn that recorded nothing waits for the last one before it that did. `_stored` are large blobs that are on
the disk already, of messages taken in since the last turn: what it does not record of them goes again. What
a full disk, or too great a backlog, keeps from being written down is not accepted: the state is shut until
there is room. Large blobs that do not fit are waited for by their own peers alone.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from distcomp.core.image import Image
from distcomp.versions import installed_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from distcomp.core.effects import Effects
    from distcomp.core.image import OutcomeFiles
    from distcomp.core.recovery import Restored
    from distcomp.core.scheduler_state import SchedulerState
    from distcomp.errors import JournalError, JournalFullError
    from distcomp.ids import Peer
    from distcomp.journal import Journal
    from distcomp.journal_storing import StoreRequest
    from distcomp.protocol import Message

LOOK_S = 1.0
"""Seconds between two looks at how large the journal is, and whether it is worth a compaction."""

FULL = "the scheduler's disk is full: free some room at {path} on its host, and it goes on by itself"
BEHIND = "the scheduler's disk does not keep up with what is submitted"

_COMPACTION = "compaction"
"""Whose large blobs are none of a peer's."""


class SchedulerMemory:
    """A journal between turns and what they say to peers.

    Args:
        journal: opened, and not read yet.
        log: takes facts as `log(level, text, **values)`.
        files: where results go that are too many for memory.

    Attributes:
        restored: what was there of before; None until `recall`.
        failure: why nothing more is written, once that is so.
    """

    def __init__(self, journal: Journal, log: Callable[..., None], files: OutcomeFiles | None = None) -> None:
        self.restored: Restored | None = None
        self.failure: JournalError | None = None
        self._journal = journal
        self._log = log
        self._stored: list[StoreRequest] = []
        self._prepared: StoreRequest | None = None
        self._held: deque[tuple[int, dict[Peer, list[Message]]]] = deque()
        self._committed = 0
        self._committed_at = 0.0
        self._size_bytes = 0
        self._looks = self._begins = self._compacts = self._closing = self._lacks_room = False
        self._image = Image(compacted=journal.recovered.compacted, files=files)

    @property
    def age_s(self) -> float:
        """Seconds since something was last written down before this start; 0 if nothing ever was."""
        recovered = self._journal.recovered
        return recovered.age_s if recovered.last >= recovered.first else 0.0

    @property
    def path(self) -> str:
        """Where it lies."""
        return str(self._journal.path)

    def read(self) -> int:
        """Read the journal; returns the epoch that begins now, above all before it.

        Raises:
            JournalDamagedError: it does not hold what was written to it.
        """
        image = self._image
        with _uncollected():
            for commit in self._journal.recovered:
                image.replay(commit.records)
            image.end()
        return max(time.time_ns(), image.epoch + 1)

    def recall(self, state: SchedulerState, now: float) -> None:
        """Write into a new state what the journal holds; from now on it records what it does."""
        self._state = state
        with _uncollected():
            self.restored = state.remember(self._image, self.path, now)
        state.begin_epoch(time.time(), installed_versions()[0], now)
        del self._image

    async def start(
        self,
        release: Callable[[dict[Peer, list[Message]]], None],
        fail: Callable[[], None],
        turn: Callable[[], None],
        lack_room: Callable[[dict[Peer, int]], None],
    ) -> None:
        """Begin to write, and make this start itself durable, so that none after it is taken for it.

        Args:
            release: gets messages whose commit has been made.
            fail: called when nothing more can be written.
            turn: called when a turn is to be made soon, though nothing came.
            lack_room: gets how many bytes of each peer lack room on the disk, whenever that changes.

        Raises:
            JournalError: it cannot be written.
        """
        self._release, self._fail, self._turn, self._lack_room = release, fail, turn, lack_room
        loop = asyncio.get_running_loop()
        self._begun: asyncio.Future[None] = loop.create_future()
        self._journal.start(
            loop.call_soon_threadsafe,
            on_committed=self._on_committed,
            on_full=self._on_full,
            on_no_room=self._on_no_room,
            on_failed=self._on_failed,
        )
        self.keep(self._state.take_records())
        await self._begun
        self._measure()

    def keep(self, effects: Effects) -> None:
        """Write down what a turn recorded; its acks leave with its sends if they need not wait."""
        if effects.records:
            self._journal.append(effects.batch, effects.records)
            if self._journal.is_full and not self._state.is_shut:
                self._state.shut(BEHIND)
            if self._compacts and not self._state.is_compacting:
                self._end_compaction()
            self._look_soon()
        if self._stored:
            self._journal.let_go(self._stored)
            self._stored = []
        if effects.prepares:
            self._journal.store(_COMPACTION, effects.prepares, self._on_prepared)
        if self._begins:
            self._begin_compaction()
        if not effects.acks:
            return
        if effects.batch > self._committed:
            self._held.append((effects.batch, effects.acks))
            return
        for peer, messages in effects.acks.items():
            effects.sends.setdefault(peer, []).extend(messages)

    def store(
        self, peer: Peer, blobs: Sequence[bytes], on_stored: Callable[[StoreRequest], None]
    ) -> StoreRequest:
        """Have large blobs of a peer written down beside all else; see `Journal.store`."""
        return self._journal.store(peer, blobs, on_stored)

    def let_go(self, request: StoreRequest) -> None:
        """What holds stored blobs is taken in now: what the turn does not record of them need not stay."""
        self._stored.append(request)
        self._turn()

    def close(self) -> None:
        """Wait until all is durable; raises `JournalError` if it cannot be made so."""
        self._closing = True
        self._journal.close()

    def hurry(self) -> None:
        """Do not wait for room on the disk when closing."""
        self._journal.hurry()

    # --- compaction ---

    def _look_soon(self) -> None:
        """Look in a while whether a compaction is worth its while; while nothing changes, no more."""
        if not self._looks and self._begun.done():
            self._looks = True
            asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._looks = False
        if self._closing:
            return
        self._measure()
        if self._compacts:
            return
        if not self._journal.wants_compaction(self._state.live_bytes()):
            return
        self._begins = True
        self._turn()

    def _measure(self) -> None:
        """Have observers told how large the journal is; what is let go of in the background shrinks it."""
        size_bytes = self._journal.size_bytes()
        if size_bytes != self._size_bytes:
            self._size_bytes = size_bytes
            self._look_soon()
        self._state.journal_measured(size_bytes, self._committed_at)

    def _begin_compaction(self) -> None:
        """Begin, right after records were written down: the next ones begin with the compaction."""
        self._begins = False
        self._compacts = True
        self._before_bytes = self._journal.size_bytes()
        self._journal.begin_compaction()
        self._state.begin_compaction(time.monotonic(), self._journal.settings.journal_blob_bytes)
        self._turn()

    def _end_compaction(self) -> None:
        """All is said again: what stands before can go once that is durable."""
        self._compacts = False
        self._journal.end_compaction()
        self._let_go_of_prepared()
        self._log("info", "the journal is compacted", journal=self.path, was_bytes=self._before_bytes)

    def _on_prepared(self, request: StoreRequest) -> None:
        """What is to be said again next is known to the journal, and what was said before no more."""
        self._let_go_of_prepared()
        self._prepared = request
        self._state.prepared()
        self._turn()

    def _let_go_of_prepared(self) -> None:
        if self._prepared is not None:
            self.let_go(self._prepared)
            self._prepared = None

    # --- what the journal says ---

    def _on_committed(self, batch: int) -> None:
        self._committed = batch
        self._committed_at = time.monotonic()
        self._state.committed(batch)
        self._state.journal_measured(self._size_bytes, self._committed_at)
        while self._held and self._held[0][0] <= batch:
            self._release(self._held.popleft()[1])
        if self._state.is_shut and not self._journal.is_full:
            self._state.shut("")
        if not self._begun.done():
            self._begun.set_result(None)
        if self._compacts:
            self._turn()

    def _on_full(self, error: JournalFullError | None) -> None:
        if error is None:
            self._log("info", "there is room on the disk again", journal=self.path)
            self._state.shut("")
            return
        self._state.shut(FULL.format(path=self.path))
        if not self._begun.done():
            self._begun.set_exception(error)
        else:
            self._log("error", "the journal's disk is full: nothing new is accepted", why=str(error))

    def _on_no_room(self, lacking: dict[Any, int]) -> None:
        lacked, self._lacks_room = self._lacks_room, bool(lacking)
        self._lack_room({key: size for key, size in lacking.items() if key != _COMPACTION})
        if lacking and not lacked:
            size_bytes = sum(lacking.values())
            self._log("error", "something large does not fit on the disk, and waits", bytes=size_bytes)
        elif lacked and not lacking:
            self._log("info", "nothing waits for room on the disk any more", journal=self.path)

    def _on_failed(self, error: JournalError) -> None:
        self.failure = error
        if not self._begun.done():
            self._begun.set_exception(error)
        elif self._begun.exception() is None:
            self._log("error", "the journal failed, and the scheduler with it", why=str(error))
            self._fail()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector from looking at what only grows: half of a recovery's time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
