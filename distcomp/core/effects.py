"""What a state machine asks its program to do.

The three machines of `distcomp.core` share one contract:

    connect(peer, ..., now)        a peer has proved who it is
    receive(peer, message, now)    one message came from it
    disconnect(peer, now)          its connection is gone
    tick(now)                      time passed; also where the one placement pass of a turn is made
    take_effects() -> Effects      what must leave, handed over exactly once; a worker's, which has one peer
                                   and no journal, are `WorkerEffects`

A machine never looks at a clock, a socket or a file: `now` is monotonic seconds, handed in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distcomp.ids import Peer, SessionId
    from distcomp.protocol import Message
    from distcomp.records import Record


class Close(NamedTuple):
    """A connection to be closed, and the reason that is logged and, where possible, sent."""

    peer: Peer
    reason: str


class Event(NamedTuple):
    """A fact worth a log line: a level (`debug` … `error`), a short text, and its values."""

    level: str
    text: str
    values: dict[str, Any]


class Spill(NamedTuple):
    """A message of a session that is to be kept in a file, under a number."""

    number: int
    session: SessionId
    message: Message


class FileWork:
    """What is to be done with files.

    Attributes:
        spills: messages to be kept in files.
        loads: numbers of some to be read again.
        unspills: numbers of some that nobody needs any more.
    """

    __slots__ = ("loads", "spills", "unspills")

    def __init__(self) -> None:
        self.spills: list[Spill] = []
        self.loads: list[int] = []
        self.unspills: list[int] = []


class Effects:
    """Everything one turn of a machine asks for.

    A turn makes one anew, so what most turns have nothing of is made when first used.

    Attributes:
        sends: messages by peer, in the order in which they must leave.
        records: facts for the journal, in the order in which they came about; none without a journal.
        acks: messages by peer that may leave only once `records`, and all before them, are durable; none
            without a journal.
        batch: number of the last turn that recorded something; what `acks` wait for.
        closes: connections to end, after their sends.
        prepares: large blobs that a record is soon to hold; see `SchedulerState.begin_compaction`.
        files: what is to be done with files, or None; see `file_work`.
        events: facts for the log.
        wake_at: when the machine wants its next `tick` at the latest, or None.
    """

    batch: int = 0
    prepares: Sequence[bytes] = ()
    files: FileWork | None = None
    wake_at: float | None = None

    def __init__(self) -> None:
        self.sends: dict[Peer, list[Message]] = {}
        self.records: list[Record] = []
        self.acks: dict[Peer, list[Message]] = {}
        self.closes: list[Close] = []
        self.events: list[Event] = []

    def file_work(self) -> FileWork:
        """What is to be done with files, to be added to."""
        if self.files is None:
            self.files = FileWork()
        return self.files

    def log(self, level: str, text: str, **values: Any) -> None:
        """Add a fact for the log."""
        self.events.append(Event(level, text, values))
