"""A scheduler that is killed again and again knows all that it has said is durable."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis.stateful import invariant, rule
from test_scheduler_state import SETTINGS, SchedulerMachine

from distcomp import records
from distcomp.core import invariants
from distcomp.core.image import Image
from distcomp.core.recovery import restore
from distcomp.core.scheduler_state import SchedulerState


def remembered(state: SchedulerState) -> dict[Any, Any]:
    """All of a scheduler's books that must be the same after a restart."""
    books = state.books
    return {
        "runs": {key: session.id for key, session in books.runs.items()},
        "ended": dict(books.ended_runs),
        **{session.id: _of_session(session) for session in books.sessions.values()},
    }


def _of_session(session: Any) -> dict[str, Any]:
    return {
        "owner": session.owner.name,
        "closed": session.closed,
        "seq": session.seq,
        "run": (session.run, session.opening.nonce, session.opening.host, session.opening.pid),
        "outbox": {seq: outcome.message for seq, outcome in session.outbox.by_seq.items()},
        "finished": list(session.finished),
        "past": session.past,
        "received": {counter: list(received) for counter, received in session.received.items()},
        "arrays": {counter: _of_array(array) for counter, array in session.arrays.items()},
    }


def _of_array(array: Any) -> dict[str, Any]:
    return {
        "function": array.definition.id,
        "options": array.options,
        "counts": (array.accepted, array.settled, array.retried),
        "failed": None if array.session.closed else array.failed,  # what nobody waits for is not recorded
        "closed": (array.closed, array.cut),
        "waiting": _indexes([*array.pending, *((index, index + 1) for index in array.delayed)]),
        "leases": {token: _indexes(lease.open) for token, lease in array.leases.items() if lease.open},
        "workers": {token: lease.worker.id for token, lease in array.leases.items() if lease.open},
        "trials": {index: _of_trial(trial) for index, trial in array.trials.items() if any(_of_trial(trial))},
        "chunks": [(c.base, c.start, c.stop, c.blob, c.unsettled) for c in array.chunks if c.unsettled],
    }


def _of_trial(trial: Any) -> tuple[Any, ...]:
    return trial.failures, trial.crashes, trial.losses, trial.starts, trial.past


def _indexes(spans: Any) -> set[int]:
    return {index for start, stop in spans for index in range(start, stop)}


class RememberingMachine(SchedulerMachine):
    def begin_state(self) -> None:
        self.epoch = 5
        self.state = SchedulerState(self.settings_of_state, self.epoch, "c", auth=True)
        self.state.books.journalled = True
        self.journal: list[bytes] = []

    def take_effects(self) -> Any:
        effects = self.state.take_effects(self.now)
        if effects.records:
            self.journal.append(records.pack(effects.records))
        self.state.committed(effects.batch)
        return effects

    def image(self) -> Image:
        image = Image()
        for packed in self.journal:
            image.replay(records.unpack(packed))
        image.end()
        return image

    def recovered(self, epoch: int) -> SchedulerState:
        image = self.image()
        state = SchedulerState(self.settings_of_state, epoch, "c", auth=True)
        state.books.journalled = True
        restore(state.books, image, self.now)
        return state

    @invariant()
    def the_journal_says_all(self) -> None:
        state = self.recovered(0)
        invariants.check(state)
        assert remembered(state) == remembered(self.state)

    @rule()
    def scheduler_restarts(self) -> None:
        self.epoch += 1
        self.state = self.recovered(self.epoch)
        for client in self.clients:
            if not client.gone:
                client.peer, client.away_since = None, self.now
        for worker in self.workers:
            worker.peer, worker.away_since = None, self.now
            worker.running.clear()
            worker.grace_s = SETTINGS.restart_grace_s
        self.turn()


TestRemembering = RememberingMachine.TestCase
TestRemembering.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
