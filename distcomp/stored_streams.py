"""Streams of clients with a store: what is found there does not leave this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distcomp.core.client_effects import Failed
from distcomp.detour_feed import DetourFeed
from distcomp.payload import CHUNK_BYTES, pack_columns
from distcomp.rows import Failure
from distcomp.stream_source import StreamSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from distcomp.detour_feed import KnownTasks
    from distcomp.keeper import Keeper
    from distcomp.stream_source import StreamClient, StreamLeg


class StoredStreamSource(StreamSource):
    """Draws arguments as a `StreamSource` does, looks for the tasks, and hands in those that are not found.

    Law: what was drawn is the leg's at once, and settles or is handed in before more is drawn.

    Args:
        host: the client.
        leg: what takes in the outcomes.
        work: what the tasks are handed in with.
        iterables: the arguments; the first that comes to its end ends all.
        keeper: the store.
    """

    def __init__(
        self,
        host: StreamClient,
        leg: StreamLeg,
        work: KnownTasks,
        iterables: Sequence[Iterable[Any]],
        keeper: Keeper,
    ) -> None:
        super().__init__(host, leg, work.function, work.options, iterables)
        self._keeper = keeper
        self._known = work.known
        self._feed = DetourFeed(host, keeper, leg, work, grows=True)

    def _hand_in_part(self) -> int:
        """Draw, look for, and hand in what is missing; returns how many tasks were drawn, or 0 for none."""
        leg, host = self._leg, self._host
        room = leg.room(self._row_bytes)
        if leg.ended or self._rows is None or not room:
            return 0
        host.check_usable()
        host.check_may_wait()
        self._keeper.wait_until_open()
        drawn = self._draw_rows(min(self._next_rows, room))
        start = leg.admit(len(drawn), 0) if drawn else None
        if start is not None:
            self._opened = True
            self._take(start, self._columns(drawn))
        self._close_if_through()
        return len(drawn) if start is not None else 0

    def _take(self, start: int, columns: list[list[Any]]) -> None:
        """Settle what is found, hand in the rest."""
        keys = self._keeper.keys(self._known, columns)
        missing = self._feed.look_up(range(start, start + len(keys)), keys)
        if not missing:
            self._grow(len(keys), 0)
            return
        host = self._host
        most_bytes = min(CHUNK_BYTES, host.max_payload_bytes)
        chosen = [[column[at] for at in missing] for column in columns]
        size_bytes = 0
        for part in pack_columns(chosen, shares_path=host.shares_path, max_bytes=most_bytes):
            at = missing[part.start : part.stop]
            size_bytes += len(part.blob)
            if len(part.blob) > host.max_payload_bytes:
                self._fail(start + at[0], len(part.blob))
                continue
            self._keeper.wait_for_room(lambda: self._leg.ended)
            host.wait_for_room(len(at), len(part.blob))
            if host.make_room(self._leg, len(at), len(part.blob)):
                places, chunk = [start + each for each in at], part._replace(start=0, stop=len(at))
                self._feed.send(places, [keys[each] for each in at], [chunk])
        self._grow(len(keys), size_bytes)

    def _fail(self, place: int, size_bytes: int) -> None:
        """Let a task whose arguments are too large fail here."""
        text = f"the arguments take {size_bytes} bytes; max_payload_bytes is {self._host.max_payload_bytes}"
        with self._host.lock:
            self._leg.settle(Failed(0, place, place + 1, Failure("too_large", text=text)), [])

    def _close_if_through(self) -> None:
        if self._rows is None and not self._closed:
            self._closed = True
            with self._host.lock:
                self._leg.open_tasks -= 1
            self._feed.close()
            self._keeper.say()
