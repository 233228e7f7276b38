"""How a client enters a run: what it says, and what it is told of the run before it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from distcomp.core.client_effects import Failed
from distcomp.rows import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from distcomp.core.submission import Submission
    from distcomp.protocol import OpenSession, RunDescribed, SessionOpened
    from distcomp.rows import RunArray


_TAKEN = Failure(
    "scheduler_lost",
    text="while this process was away, another one opened the run and has received this result: "
    "attach to the run where it keeps them",
)


class RunEntry(NamedTuple):
    """Which run, and who enters it.

    Attributes:
        name: the run's.
        nonce: tells this process from others, also after a restart of the same number.
        first_array: numbers of its arrays are above it, so that they are none that the run ever had.
        keeps: outcomes of what others handed in go to the disk, too.
        attaches: the run must be there already.
    """

    name: str
    nonce: bytes
    first_array: int
    keeps: bool = False
    attaches: bool = False


class RunEntrance:
    """One client's way into a run.

    Law: on a connection, `begin` comes once, then `take` until it gives what was told.
    """

    def __init__(self, entry: RunEntry) -> None:
        self.entry = entry
        self._entered = False
        self._opened: SessionOpened | None = None
        self._rows: dict[int, RunArray] = {}

    def introduce(self, opening: OpenSession) -> OpenSession:
        """What opens the session, as one of a run."""
        entry = self.entry
        resumes = opening.resumes or (entry.attaches and not self._entered)
        return opening._replace(resumes=resumes, run=entry.name, nonce=entry.nonce)

    def begin(self, opened: SessionOpened) -> bool:
        """The session stands; whether that was not said before."""
        if self._opened is not None:
            return False
        self._opened, self._rows = opened, {}
        return True

    @property
    def is_told(self) -> bool:
        """Whether the session stands, and its arrays are being told."""
        return self._opened is not None

    def take(self, message: RunDescribed) -> tuple[SessionOpened, dict[int, RunArray]] | None:
        """Some of the run's arrays; all of them by number once there are no more."""
        assert self._opened is not None  # noqa: S101 - asked for only when it `is_told`
        for row in message.arrays:
            before = self._rows.get(row.number)
            self._rows[row.number] = (
                row if before is None else row._replace(received=before.received + row.received)
            )
        if message.more:
            return None
        told = self._opened, self._rows
        self._entered, self._opened, self._rows = True, None, {}
        return told

    def disconnect(self) -> None:
        """The connection is gone, and with it what was told so far."""
        self._opened, self._rows = None, {}


def taken_elsewhere(
    arrays: Mapping[int, Submission], rows: Mapping[int, RunArray]
) -> Iterator[tuple[Submission, list[Failed]]]:
    """What is open here and comes no more, as another process has received it: each array, and its ends."""
    for number, row in rows.items():
        array = arrays.get(number)
        if array is not None:
            spans = [fresh for start, stop in row.received for fresh in array.open.cut(start, stop)]
            if spans:
                yield array, [Failed(number, *span, _TAKEN) for span in spans]
