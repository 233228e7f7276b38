"""How long a client waits for a scheduler before it gives up what it handed in.

Law: at most one of two waits is on. *Apart* from a scheduler that had the session: for its grace, or less if
its host says that nothing listens there, but without end if it remembers sessions. *Without* a session:
as long as there is hope.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distcomp.rows import Failure

if TYPE_CHECKING:
    from distcomp.config import ClientSettings


class ClientPatience:
    """The times of one client.

    Attributes:
        durable: the scheduler remembers the session, whatever happens to it.
        grace_s: seconds that it keeps it for a client that is away.
        away_since: when the connection with the session on it was lost last.
        hopes_until: until when there may be a scheduler for what is handed in without a session.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self.durable = False
        self.grace_s = settings.client_grace_s
        self.away_since = 0.0
        self.hopes_until: float | None = None
        self._lost_after_s = settings.lost_after_s
        self._refused_since: float | None = None

    def dial_failed(self, now: float, *, refused: bool) -> None:
        """A try to reach the scheduler came to nothing; `refused` says that its host answered so."""
        if not refused:
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now

    def dialled(self) -> None:
        """A scheduler was reached, or a connection is gone: nothing was refused since."""
        self._refused_since = None

    def part(self, now: float) -> None:
        """The connection with the session on it is gone."""
        self.away_since = now

    def away_s(self, now: float) -> float:
        """How long it has been gone."""
        return now - self.away_since

    def hope_again(self, now: float) -> None:
        """There may be another session soon."""
        self.hopes_until = now + self._lost_after_s

    def forgotten(self, now: float) -> Failure:
        """Why the scheduler does not know the session."""
        if self.away_s(now) >= self.grace_s:
            return Failure("expired", text=f"the client was away for {self.away_s(now):.0f} s")
        return Failure("scheduler_lost", text="the scheduler does not know this session: it started anew")

    def loss(self, now: float) -> Failure | None:
        """Why a session is given up that is apart; None if it is not."""
        if self.durable:
            return None
        if now >= self.away_since + self.grace_s:
            return Failure("expired", text=f"the client was without its scheduler for {self.grace_s:g} s")
        if self._refused_since is not None and now >= self._refused_since + self._lost_after_s:
            return Failure("scheduler_lost", text="nothing listens at the scheduler's address")
        return None

    def despairs(self, now: float) -> bool:
        """Whether there was hope, and is no more."""
        return self.hopes_until is not None and now >= self.hopes_until

    def wake_times(self, phase: str) -> list[float]:
        """When to look again."""
        times = []
        if phase == "unopened" and self.hopes_until is not None:
            times.append(self.hopes_until)
        if phase == "apart" and not self.durable:
            times.append(self.away_since + self.grace_s)
            if self._refused_since is not None:
                times.append(self._refused_since + self._lost_after_s)
        return times
