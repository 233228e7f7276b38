"""What a client's machine asks of its program, besides sending, and what it is told at its start."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from distcomp.core.effects import Effects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distcomp.core.client_absence import Absence
    from distcomp.protocol import LendRefused, Message, Refused, StatusReported
    from distcomp.rows import Failure, RunArray, Versions


class Introduction(NamedTuple):
    """What a client says of itself when it opens a session; see `protocol.OpenSession`."""

    versions: Versions
    host: str
    pid: int
    program: str
    environment: bytes


class Returned(NamedTuple):
    """The results of indexes `start` to `stop` of an array; the blob begins at index `base`."""

    array: int
    start: int
    stop: int
    base: int
    blob: bytes


class Failed(NamedTuple):
    """The indexes `start` to `stop` of an array ended with the same failure.

    A `stop` of `MAX_COUNTER` also means those that were never handed in.
    """

    array: int
    start: int
    stop: int
    failure: Failure


class KeptOutcomes(NamedTuple):
    """Outcomes that came under one number, and go to the disk before the scheduler may let go of them.

    `life` is the session's that they belong to: numbers of another one mean other outcomes.
    """

    life: int
    seq: int
    outcomes: tuple[Returned | Failed, ...]


class Explanation(NamedTuple):
    """Why nothing runs; see `protocol.WaitExplained`."""

    code: str
    text: str


class ClientEffects(Effects):
    """What a client's program has to do.

    Attributes:
        outcomes: what settled, in the order in which it did.
        kept: those of them that are to be on the disk before they are acknowledged, by `Receipts`.
        adopted: the arrays of a run that were there before this process, told once.
        began: arrays with the indexes that a worker said it runs.
        released_tasks: how many tasks have left the window.
        released_bytes: how many bytes of arguments have left the window.
        released_singles: how many of these tasks were submitted one by one.
        released_single_bytes: how many of these bytes were theirs.
        notices: codes and texts for the user to read.
        explanations: answers to `explain`.
        reports: snapshots of the cluster that were asked for.
        news: other messages that change nothing here; for those who asked, or look on.
        absence: what is to be said of a scheduler that was away, if something is.
        opened: whether the session was opened in this turn.
        refused: the scheduler's refusal of this turn, if there was one.
        lend_refused: why the slot of the task that this client is in cannot be lent, if that came.

    Most turns bring little of this, so only those lists are made at once that may grow long.
    """

    adopted: Sequence[RunArray] = ()
    released_tasks = released_bytes = 0
    released_singles = released_single_bytes = 0
    notices: tuple[tuple[str, str], ...] = ()
    explanations: tuple[Explanation, ...] = ()
    reports: tuple[StatusReported, ...] = ()
    absence: Absence | None = None
    opened = False
    refused: Refused | None = None
    lend_refused: LendRefused | None = None

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: list[Returned | Failed] = []
        self.kept: list[KeptOutcomes] = []
        self.began: list[tuple[int, tuple[int, ...]]] = []
        self.news: list[Message] = []

    def release(self, tasks: int, size_bytes: int, *, single: bool) -> None:
        """Tasks have left the window, which were submitted one by one, or not."""
        self.released_tasks += tasks
        self.released_bytes += size_bytes
        if single:
            self.released_singles += tasks
            self.released_single_bytes += size_bytes
