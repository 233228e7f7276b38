"""Feeders of clients with a store: what is found there does not leave this process."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from distcomp.core.client_effects import Failed
from distcomp.detour_feed import DetourFeed
from distcomp.errors import ClientClosedError
from distcomp.feeder import Feeder
from distcomp.futures import wake_all
from distcomp.handles import routes
from distcomp.kinds import MAX_COUNTER
from distcomp.payload import Constant
from distcomp.rows import Failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distcomp.array_legs import Leg
    from distcomp.core.client_state import ClientState
    from distcomp.detour_feed import KnownTasks
    from distcomp.feeder import FedClient
    from distcomp.futures import Woken
    from distcomp.keeper import Keeper
    from distcomp.payload import Packed


class StoredFeeder(Feeder):
    """Looks for the tasks of one leg, and hands in those that are not found.

    Args:
        client: whose tasks they are.
        leg: what takes in their outcomes.
        work: what the tasks are handed in with.
        columns: the arguments of all tasks of the array.
        keeper: the store.
    """

    def __init__(
        self,
        client: FedClient,
        leg: Leg,
        work: KnownTasks,
        columns: Sequence[Any],
        keeper: Keeper,
    ) -> None:
        super().__init__(client, leg, work.function, work.options, columns)
        self._keeper = keeper
        self._known = work.known
        self._feed = DetourFeed(client, keeper, leg, work, grows=True)

    def begin(self) -> None:
        """Nothing is opened before something is missing."""

    def run(self) -> None:
        """Draw, look for, and hand in what is missing, until all tasks are seen to."""
        super().run()
        with contextlib.suppress(ClientClosedError):  # with the client, all of it has settled
            self._feed.close()
        self._keeper.say()

    def _first_rows(self) -> int:
        self._keeper.wait_until_open()
        return super()._first_rows()

    def _take(self, columns: Sequence[Sequence[Any]]) -> list[Packed] | None:
        start = self._handed_in
        keys = self._keeper.keys(self._known, columns)
        missing = self._feed.look_up(range(start, start + len(keys)), keys)
        self._handed_in += len(keys)
        if not missing:
            return None if self._leg.ended else []
        packed = self._pack([_chosen(column, missing) for column in columns])
        for part in packed:
            chosen = missing[part.start : part.stop]
            if not self._send([start + at for at in chosen], [keys[at] for at in chosen], part):
                return None
        return packed

    def _send(self, places: list[int], keys: list[bytes], part: Packed) -> bool:
        """Hand in one chunk; whether more is wanted."""
        size_bytes, most_bytes = len(part.blob), self._client.max_payload_bytes
        if size_bytes > most_bytes:  # then it is one task
            text = f"the arguments take {size_bytes} bytes; max_payload_bytes is {most_bytes}"
            self._settle(Failed(0, places[0], places[0] + 1, Failure("too_large", text=text)))
            return True
        self._keeper.wait_for_room(lambda: self._leg.ended)
        if self._leg.ended or not self._client.make_room(self._leg, len(places), size_bytes):
            self._client.post(self._cancel_pending)
            self._handed_in = places[0]
            self._end(Failure("cancelled", text="cancelled by its client"))
            return False
        self._feed.send(places, keys, [part._replace(start=0, stop=len(places))])
        return True

    def _cancel_pending(self, state: ClientState) -> None:
        for counter, spans in routes(self._leg, ()):
            state.cancel_pending(counter, spans)

    def _end(self, failure: Failure) -> None:
        """Let everything fail that was not seen to."""
        self._settle(Failed(0, self._handed_in, MAX_COUNTER, failure))

    def _settle(self, failed: Failed) -> None:
        woken: list[Woken] = []
        with self._client.lock:
            self._leg.settle(failed, woken)
        wake_all(woken)


def _chosen(column: Sequence[Any], places: Sequence[int]) -> Sequence[Any]:
    """The items at some places of a column."""
    if len(places) == len(column):
        return column
    if type(column) is Constant:
        return Constant(column.value, len(places))
    return [column[at] for at in places]
