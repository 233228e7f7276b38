"""Where the outcomes are that wait for their client: in memory or in files, and how far under way.

Law of a session's outcomes: each has a number, and until the client acknowledges it, it is

    here      in memory
    storing   in memory, and the program writes it to a file
    stored    in a file; only its number there is known here, and its message for as long as it is fetched

and, while the session is open, in one of these places, in the order of their numbers:

    ahead      it waits for its turn
    fetched    it is the next to be sent, once its message is here; at most a window of bytes
    under way  it was sent and not read; at most a window of bytes
    read       it was read, and is kept for whoever opens the run next

An outcome goes to a file when it comes and its session has its share of memory; one that was read, or whose
client stays away, sooner. So a client that reads nothing costs its share and two windows, whatever waits.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from distcomp.core.spans import joined
from distcomp.protocol import TasksFailed

if TYPE_CHECKING:
    from typing import TypeAlias

    from distcomp.core.spans import Span
    from distcomp.ids import ArrayId
    from distcomp.protocol import TasksSettled

    Told: TypeAlias = TasksSettled | TasksFailed

AHEAD, FETCHED, UNDER_WAY, READ = "ahead", "fetched", "under way", "read"


class Outcome:
    """What one message tells of the ends of tasks.

    Attributes:
        array, spans: whose ends; the spans are only known once they are needed.
        message: it, if it is in memory.
        here: it is in memory for its own sake, not only fetched.
        number: of its file; 0 without one.
        place: where it is on the present connection.
        wanted: somebody else than the client has asked for its message; it stays until `release`.
        gone: nobody waits for it any more.
    """

    __slots__ = (
        "array",
        "gone",
        "here",
        "message",
        "number",
        "place",
        "seq",
        "size_bytes",
        "spans",
        "wanted",
    )

    def __init__(self, message: Told | None, seq: int, array: ArrayId, size_bytes: int) -> None:
        self.message = message
        self.seq = seq
        self.array = array
        self.size_bytes = size_bytes
        self.spans: tuple[Span, ...] = ()
        self.here = message is not None
        self.number = 0
        self.place = AHEAD
        self.wanted = self.gone = False


class Outcomes:
    """All outcomes of a session that its client has not acknowledged.

    Attributes:
        by_seq: them, by number, the oldest first.
        ahead, fetched: see the law; what is gone leaves them when its turn comes.
        here_bytes: of those in memory; `stored_bytes` of those in files.
        fetched_bytes, under_way_bytes: of those in these places.
    """

    __slots__ = (
        "ahead",
        "by_seq",
        "fetched",
        "fetched_bytes",
        "here_bytes",
        "stored_bytes",
        "under_way_bytes",
    )

    def __init__(self) -> None:
        self.by_seq: dict[int, Outcome] = {}
        self.ahead: deque[Outcome] = deque()
        self.fetched: deque[Outcome] = deque()
        self.here_bytes = self.stored_bytes = 0
        self.fetched_bytes = self.under_way_bytes = 0

    @property
    def size_bytes(self) -> int:
        """Of all of them."""
        return self.here_bytes + self.stored_bytes

    def __len__(self) -> int:
        return len(self.by_seq)


def spans_of(message: Told) -> tuple[Span, ...]:
    """The indexes whose ends a message tells."""
    if isinstance(message, TasksFailed):
        return message.spans
    ends = [(start, stop) for start, stop, _ in message.runs]
    return tuple(joined([*ends, *((index, index + 1) for index, _ in message.failures)]))
