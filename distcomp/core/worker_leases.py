"""The leases a worker holds, and the definitions they need.

Law of a lease: each of its indexes is in exactly one place. It is *answered* (settled or given back),
or it is `open`; an open index is `waiting`, or it lies in one of the lease's runs. `waiting` and
`cancelled` are parts of `open`. When nothing is open, the lease leaves the book.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

from distcomp.core.spans import Span, cut, cut_all, joined, overlap
from distcomp.protocol import DefineBundle, DefineFunction

if TYPE_CHECKING:
    from distcomp.ids import BundleId, SessionId, Token
    from distcomp.worker_protocol import DefineSession, GrantLease

M = TypeVar("M", DefineFunction, DefineBundle)


class Lease:
    """One lease, from its grant to its last answer.

    Attributes:
        open: indexes that this worker still answers for.
        waiting: those of them that no run holds.
        waiting_since: when the first of `waiting` came to wait.
        cancelled: those of `open` whose end the scheduler asked for.
        order: how many leases came before it.
        realm: the session whose slot processes can run it, which is another one if a task submitted it, and
            the bundle it needs: only slot processes of both can run it.
    """

    __slots__ = ("cancelled", "grant", "open", "order", "realm", "waiting", "waiting_since")

    def __init__(self, grant: GrantLease, order: int, now: float) -> None:
        span = (grant.start, grant.stop)
        self.grant = grant
        self.order = order
        self.realm = (grant.array[0], grant.bundle)
        self.open: list[Span] = [span]
        self.waiting: list[Span] = [span]
        self.waiting_since = now
        self.cancelled: list[Span] = []

    @property
    def session(self) -> SessionId:
        """The session that it is of."""
        return self.grant.array[0]

    def __lt__(self, other: Lease) -> bool:
        """Whether this lease goes before another one that waits."""
        ours, theirs = self.grant, other.grant
        if ours.urgent != theirs.urgent:
            return ours.urgent
        return (-ours.priority, self.order) < (-theirs.priority, other.order)

    def answer(self, start: int, stop: int) -> list[Span]:
        """Take `start` to `stop` out of the lease; gives what of it was open."""
        answered = cut(self.open, start, stop)
        if self.waiting:
            cut(self.waiting, start, stop)
        if self.cancelled:
            cut(self.cancelled, start, stop)
        return answered

    def wait(self, spans: list[Span], now: float) -> None:
        """Put open indexes that came back from a run among those that wait."""
        if not self.waiting:
            self.waiting_since = now
        self.waiting = joined([*self.waiting, *spans])

    def cancel(self, spans: list[Span]) -> list[Span]:
        """Mark what of `spans` is open as to be ended; gives the part that no run holds."""
        marked = [part for start, stop in spans for part in overlap(self.open, start, stop)]
        self.cancelled = joined([*self.cancelled, *marked])
        return cut_all(self.waiting, marked)


class LeaseBook(dict["Token", Lease]):
    """All leases by token.

    Attributes:
        queue: those that wait, in order of urgency.
    """

    def __init__(self) -> None:
        super().__init__()
        self._order = 0
        self.queue: list[Lease] = []

    def add(self, grant: GrantLease, now: float) -> Lease:
        """Take up a lease; all of it waits."""
        self._order += 1
        lease = Lease(grant, self._order, now)
        self[grant.token] = lease
        insort(self.queue, lease)
        return lease

    def settle_place(self, lease: Lease) -> None:
        """After a change: the lease is in the queue while it waits, and in the book while it is open."""
        if lease.waiting:
            if lease not in self.queue:
                insort(self.queue, lease)
        elif lease in self.queue:
            self.queue.remove(lease)
        if not lease.open:
            self.pop(lease.grant.token, None)

    def spans(self) -> dict[Token, list[Span]]:
        """What is open, by lease."""
        return {token: list(lease.open) for token, lease in self.items()}


class Kept(OrderedDict[bytes, M], Generic[M]):
    """Definitions by digest; the one used least recently goes when room is needed.

    Args:
        max_bytes: bytes of definitions kept, or one.
    """

    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self._most_bytes = max_bytes
        self._bytes = 0

    def put(self, digest: bytes, definition: M) -> None:
        """Keep a definition, and let go of others if that takes their room."""
        self.drop(digest)
        self[digest] = definition
        self._bytes += len(definition.blob)
        while self._bytes > self._most_bytes and len(self) > 1:
            self.drop(next(iter(self)))

    def drop(self, digest: bytes) -> None:
        """Let go of a definition, if it is here."""
        definition = self.pop(digest, None)
        if definition is not None:
            self._bytes -= len(definition.blob)

    def use(self, digest: bytes) -> M | None:
        """The definition, now the one used last; None if it is not here."""
        definition = self.get(digest)
        if definition is not None:
            self.move_to_end(digest)
        return definition


class Shelf:
    """Definitions of sessions, functions and bundles, as the scheduler sent them.

    Law: sessions stay until `end_session`, functions and bundles until room is needed; they come back by
    `MissingFunction` and `MissingBundle`.

    Args:
        max_function_bytes: bytes of function definitions kept.
        max_bundle_bytes: bytes of bundles kept.
    """

    def __init__(self, max_function_bytes: int, max_bundle_bytes: int) -> None:
        self.functions: Kept[DefineFunction] = Kept(max_function_bytes)
        self.bundles: Kept[DefineBundle] = Kept(max_bundle_bytes)
        self.sessions: dict[SessionId, DefineSession] = {}

    def lacks_bundle(self, bundle: BundleId) -> bool:
        """Whether tasks that need this bundle, if it is one, cannot begin."""
        return bool(bundle) and self.bundles.use(bundle) is None
