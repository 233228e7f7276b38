"""Outcomes that go to files, and to clients that read when they like, against the model of all tasks."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from test_compaction import CompactingMachine
from test_remembering import remembered
from test_scheduler_state import SETTINGS, Client

from distcomp.core import invariants
from distcomp.protocol import AckOutcomes, ReadOutcomes


class SpillingMachine(CompactingMachine):
    """Memory for next to nothing, a window of two small outcomes, and a disk that works when it likes."""

    settings_of_state = replace(
        SETTINGS,
        session_outcome_bytes=3,
        least_outcome_bytes=1,
        max_outcome_memory_bytes=6,
        outcome_window_bytes=2,
        spill_retry_s=1.0,
        restate_bytes=1 << 12,
    )

    def begin_state(self) -> None:
        super().begin_state()
        self.files: dict[int, Any] = {}
        self.work: deque[tuple[str, int, Any]] = deque()

    def use_disk(self, effects: Any) -> None:
        work = effects.file_work()
        self.work += [("store", spill.number, spill.message) for spill in work.spills]
        self.work += [("load", number, None) for number in work.loads]
        self.work += [("drop", number, None) for number in work.unspills]

    def work_once(self, *, full: bool = False) -> None:
        what, number, message = self.work.popleft()
        if what == "store" and full:
            self.state.not_stored(number, "full", self.now)
        elif what == "store":
            self.files[number] = message
            self.state.stored(number)
        elif what == "drop":
            self.files.pop(number, None)
        elif number in self.files:
            self.state.loaded(number, self.files[number])

    @rule(count=st.integers(1, 5), full=st.booleans())
    @precondition(lambda self: self.work)
    def disk_works(self, count: int, *, full: bool) -> None:
        for _ in range(min(count, len(self.work))):
            self.work_once(full=full)
        self.turn()

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        client = self.some(data, "clients")
        if client is not None:
            self.say(client.peer, ReadOutcomes(tuple(client.unacked)))
            self.turn()

    def remembered_here(self) -> dict[Any, Any]:
        """What the books say, with what is in files."""
        found = remembered(self.state)
        for session in self.state.books.sessions.values():
            found[session.id]["outbox"] = {
                seq: outcome.message or self.files[outcome.number]
                for seq, outcome in session.outbox.by_seq.items()
            }
        return found

    @invariant()
    def the_journal_says_all(self) -> None:
        state = self.recovered(0)
        invariants.check(state)
        assert remembered(state) == self.remembered_here()

    @rule()
    def scheduler_restarts(self) -> None:
        self.files.clear()
        self.work.clear()
        super().scheduler_restarts()

    # --- what a slow client changes of the model ---

    def resent(self, client: Client, seqs: list[int]) -> None:
        """Not all of it comes at once."""

    def compare_outcomes(self, client: Client) -> None:
        for tasks in client.arrays.values():
            assert set(tasks.outcomes) - tasks.cancelled <= tasks.settled - tasks.cancelled

    def read_all(self) -> None:
        """The disk does what it has to, and clients acknowledge what they have."""
        while self.work:
            self.work_once()
        for client in self.clients:
            if client.peer is not None and not client.gone:
                self.say(client.peer, AckOutcomes(tuple(client.unacked)))
                client.unacked.clear()

    def settle_everything(self) -> None:
        for _ in range(2000):
            self.now += 0.1
            self.read_all()
            self.turn()
            if not any(len(session.outbox) for session in self.state.books.sessions.values()):
                break
        while self.work:
            self.work_once()
        for client in self.clients:
            if client.peer is not None and not client.gone:
                for tasks in client.arrays.values():
                    assert set(tasks.outcomes) - tasks.cancelled == tasks.settled - tasks.cancelled
        assert not self.files


TestSpilling = SpillingMachine.TestCase
TestSpilling.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
