"""What a client says of a scheduler that remembers its session and is away, and how long it stays for it.

Law: of an absence it tells when that has lasted a while and tasks wait for its end, again rarely, and once
when it is over, but only if it was told of. Who leaves during an absence waits for its end no longer than
`away_close_s`, and says what is left behind.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from distcomp.core.spans import overlap

if TYPE_CHECKING:
    from collections.abc import Iterable

    from distcomp.config import ClientSettings
    from distcomp.core.client_patience import ClientPatience
    from distcomp.core.submission import Submission


class Absence(NamedTuple):
    """What is to be said of an absence.

    Attributes:
        state: `away`, `back`, or `left`: the client does not wait for its end.
        since: monotonic seconds.
        attached: unfinished tasks that the scheduler has, and cancels if their client stays away.
        detached: unfinished tasks that it has and carries on with in any case.
        unsent: tasks that the scheduler has not acknowledged.
        grace_s: seconds that a client may be away.
    """

    state: str
    since: float
    attached: int
    detached: int
    unsent: int
    grace_s: float


class ClientAbsence:
    """The absences of one client's scheduler; all but `end` and `leave` are for while it is away.

    Args:
        settings: the client's settings.
        patience: which knows since when it is away.
        detached: whether all tasks are, as those of a run.

    Attributes:
        is_told: whether the present absence was told of.
    """

    def __init__(self, settings: ClientSettings, patience: ClientPatience, *, detached: bool) -> None:
        self.is_told = False
        self._settings = settings
        self._patience = patience
        self._all_detached = detached
        self._again_at = self._looked_at = -math.inf
        self._leaving_at = math.inf
        self._dropped = (0, 0)

    def leave(self, now: float) -> None:
        """The user leaves as soon as all is done."""
        self._leaving_at = min(self._leaving_at, now)

    def is_overdue(self, now: float) -> bool:
        """Whether the user wants to leave, and waits no longer."""
        return now >= self._overdue_at()

    def news(self, now: float, arrays: Iterable[Submission]) -> Absence | None:
        """What is to be said while it is away, if it is time to say something."""
        self._looked_at = now
        if now < self._due_at():
            return None
        told = self._tell("away", arrays)
        if not told.attached + told.detached + told.unsent:
            return None
        self.is_told = True
        self._again_at = now + self._settings.away_reminder_s
        return told

    def end(self) -> Absence | None:
        """It is back; gives what is to be said of that."""
        was_told, self.is_told, self._dropped = self.is_told, False, (0, 0)
        return self._tell("back", ()) if was_told else None

    def drop(self, array: Submission) -> None:
        """An array is forgotten here that the scheduler cannot be told to cancel."""
        attached, detached, _ = self._count(array, untold=True)
        self._dropped = (self._dropped[0] + attached, self._dropped[1] + detached)

    def left(self, arrays: Iterable[Submission]) -> Absence | None:
        """What is left behind; None if it is nothing."""
        told = self._tell("left", arrays, self._dropped)
        return told if told.attached + told.detached + told.unsent else None

    def wake_times(self) -> list[float]:
        """When to look again; what is handed in has it looked at once, too."""
        return [at for at in (self._due_at(), self._overdue_at()) if self._looked_at < at < math.inf]

    # --- inside -----------------------------------------------------------------------------------

    def _due_at(self) -> float:
        return self._again_at if self.is_told else self._patience.away_since + self._settings.away_notice_s

    def _overdue_at(self) -> float:
        return max(self._leaving_at, self._patience.away_since) + self._settings.away_close_s

    def _tell(self, state: str, arrays: Iterable[Submission], dropped: tuple[int, int] = (0, 0)) -> Absence:
        counts = [(*dropped, 0), *(self._count(array, untold=state == "left") for array in arrays)]
        attached, detached, unsent = map(sum, zip(*counts, strict=True))
        patience = self._patience
        return Absence(state, patience.away_since, attached, detached, unsent, patience.grace_s)

    def _count(self, array: Submission, *, untold: bool) -> tuple[int, int, int]:
        """The unfinished tasks of an array: attached or detached there, and those only here.

        Those that the scheduler has and could not be told to cancel count only if `untold`.
        """
        unsent = min(array.submitted - array.accepted, array.open.count)
        there = array.open.count - unsent
        if untold:
            there += sum(stop - start for start, stop in overlap(array.unwanted.unsaid, 0, array.accepted))
        detached = self._all_detached or array.options.detach
        return (0, there, unsent) if detached else (there, 0, unsent)
