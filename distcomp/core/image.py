"""What a scheduler knew, replayed from its records: sets of ranges, without a decision in it.

Law of an image: an index of an array that was accepted and is not settled is `pending`, or it is `open` in
exactly one lease; all others are settled. An array that is closed and has no such index is over: its session
only keeps its counter. A closed session without arrays is gone.

While a compaction is restated, an array is *partial*: what is said of indexes whose chunk has not come yet
finds nothing, and their chunk says what has become of them. So is a session: it is not gone before the
compaction is at its end, though its last array may be over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from distcomp import records
from distcomp.core.effects import Spill
from distcomp.core.flow import alike_bytes, outcome_bytes
from distcomp.core.image_parts import ArrayImage, LeaseImage, SessionImage
from distcomp.core.outbox import Outcome, spans_of
from distcomp.core.sessions import EndedRun, PastArray, add_received
from distcomp.core.spans import cut
from distcomp.ids import FunctionId
from distcomp.protocol import TasksFailed, TasksSettled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from distcomp.core.sessions import RunKey
    from distcomp.core.spans import Span
    from distcomp.ids import ArrayId, SessionId, Token, WorkerId
    from distcomp.records import Record


class OutcomeFiles(Protocol):
    """What takes in outcomes of which there are too many; see `distcomp.spill`."""

    memory_bytes: int

    def store(self, spill: Spill, /) -> None:
        """Keep a message under its number."""

    def drop(self, number: int) -> None:
        """Let go of a message."""


class Image:
    """All that the records say.

    Args:
        compacted: the first records come from a compaction that went to its end.
        files: where outcomes go beyond so many bytes; all stay in memory without it.

    Attributes:
        ended_runs: what became of runs that are no more, the oldest first.
        files: how many outcomes went to files; their numbers go up to it.
        epoch: of the last scheduler that wrote them; 0 before the first.
        began_at: when that one started, in wall-clock seconds.
    """

    def __init__(self, *, compacted: bool = False, files: OutcomeFiles | None = None) -> None:
        self.epoch = 0
        self.began_at = 0.0
        self.sessions: dict[SessionId, SessionImage] = {}
        self.workers: dict[WorkerId, records.WorkerCame] = {}
        self.functions: dict[bytes, records.FunctionDefined] = {}
        self.bundles: dict[bytes, records.BundleDefined] = {}
        self.leases: dict[Token, LeaseImage | records.LeaseGranted] = {}
        self.ended_runs: dict[RunKey, EndedRun] = {}
        self.files = 0
        self._outcome_bytes = 0
        self._files = files
        self._memory_bytes = float("inf") if files is None else files.memory_bytes
        self._restating = compacted
        self._compactions = 0

    def replay(self, batch: Iterable[Record]) -> None:
        """Take in the records of one commit, in order."""
        for record in batch:
            _HANDLERS[type(record)](self, record)

    def end(self) -> None:
        """Note that there are no more records, or no more of a compaction: what is partial is whole."""
        for session in list(self.sessions.values()):
            session.partial = False
            for array in list(session.arrays.values()):
                array.partial = False
                self._finish_if_over(session, array)
            self._forget_if_over(session)

    # --- the scheduler and its workers ---

    def on_epoch_began(self, record: records.EpochBegan) -> None:
        """A scheduler started."""
        self.epoch = max(self.epoch, record.epoch)
        self.began_at = record.began_at

    def on_compaction_began(self, _record: records.CompactionBegan) -> None:
        """Only a compaction that the records begin with counts; a later one repeats what is known."""
        self._compactions += 1
        if self._restating and self._compactions > 1:
            self._restating = False
            self.end()

    def on_compaction_ended(self, _record: records.CompactionEnded) -> None:
        """What is partial is whole."""
        if self._restating:
            self._restating = False
            self.end()

    def on_worker_came(self, record: records.WorkerCame) -> None:
        """Keep what a worker says of itself."""
        self.workers[record.worker] = record

    def on_worker_gone(self, record: records.WorkerGone) -> None:
        """Forget a worker."""
        self.workers.pop(record.worker, None)

    # --- sessions and definitions ---

    def on_session_began(self, record: records.SessionBegan) -> None:
        """Begin a session, unless it is only said again; one that is over may have begun anew meanwhile."""
        before = self.sessions.get(record.session)
        if before is not None:
            if not (self._restating and before.closed):
                return
            for granted in before.begun.values():
                del self.leases[granted.token]
            for array in before.arrays.values():
                self._drop_leases(array)
            del self.sessions[record.session]
        self.sessions[record.session] = SessionImage(record, self.leases, partial=self._restating)

    def on_session_ended(self, record: records.SessionEnded) -> None:
        """Close a session; what its client has not received is dropped."""
        session = self.sessions.get(record.session)
        if session is not None:
            session.closed = True
            for outcome in session.outbox.values():
                self._drop(outcome)
            session.outbox.clear()
            self._forget_if_over(session)

    def on_session_restated(self, record: records.SessionRestated) -> None:
        """Add what is over of a session."""
        session = self.sessions.get(record.session)
        if session is None or not self._restating:
            return
        session.seq = max(session.seq, record.seq)
        session.closed = session.closed or record.closed
        for start, stop in record.finished:
            session.finished.cut(start, stop)
            session.finished.add(start, stop)
        self._forget_if_over(session)

    def on_function_defined(self, record: records.FunctionDefined) -> None:
        """Keep a function."""
        self.functions[record.function] = record

    def on_bundle_defined(self, record: records.BundleDefined) -> None:
        """Keep a bundle."""
        self.bundles[record.bundle] = record

    # --- arrays ---

    def on_tasks_accepted(self, record: records.TasksAccepted) -> None:
        """Add tasks to an array, or begin it."""
        session_id, counter = record.array
        session = self.sessions.get(session_id)
        if session is None:
            return
        array = session.array(counter) if counter in session.untouched else session.arrays.get(counter)
        if array is None:
            if record.start or counter in session.finished:
                return
            if record.last and record.tasks:
                session.untouched[counter] = record
                return
            array = ArrayImage(record.array, record.function, record.options)
            session.arrays[counter] = array
        if record.tasks and record.start >= array.accepted:
            array.add(record)
        if record.last:
            array.closed = True
            self._finish_if_over(session, array)

    def on_array_closed(self, record: records.ArrayClosed) -> None:
        """Nothing more comes to an array."""
        session, array = self._find(record.array)
        if session is not None and array is not None:
            array.closed = array.cut = True
            self._finish_if_over(session, array)

    def on_array_restated(self, record: records.ArrayRestated) -> None:
        """Begin an array that comes chunk by chunk."""
        session = self.sessions.get(record.array[0])
        if session is None or not self._restating:
            return
        array = ArrayImage(record.array, record.function, record.options)
        array.accepted, array.closed, array.partial = record.accepted, record.closed, True
        array.failed, array.retried = record.failed, record.retried
        before = session.array(record.array[1])
        if before is not None:
            self._drop_leases(before)
        session.arrays[record.array[1]] = array

    def on_chunk_restated(self, record: records.ChunkRestated) -> None:
        """Add a chunk to an array that is partial; none of its indexes is leased yet."""
        array = self._find(record.array)[1]
        if array is not None and array.partial and self._restating:
            array.chunks[record.start] = record
            for start, stop in record.unsettled:
                array.pending.add(start, stop)

    # --- leases and tries ---

    def on_lease_granted(self, record: records.LeaseGranted) -> None:
        """Move indexes from what is pending into a lease."""
        session = self.sessions.get(record.array[0])
        if session is None or session.begin(record):
            return
        array = session.array(record.array[1])
        if array is None:
            return
        self._lease(array, record.token, record.worker, ((record.start, record.stop),))
        if array.options.max_attempts:
            array.trial(record.start).starts += 1
        if array.delays:
            array.delays.pop(record.start, None)

    def on_lease_restated(self, record: records.LeaseRestated) -> None:
        """Move indexes of a restated chunk into a lease; there may be others of it."""
        array = self._find(record.array)[1]
        if array is not None and self._restating:
            self._lease(array, record.token, record.worker, record.spans)

    def _lease(self, array: ArrayImage, token: Token, worker: WorkerId, spans: Iterable[Span]) -> None:
        held = [span for start, stop in spans for span in array.pending.cut(start, stop)]
        if not held:
            return
        lease = self._lease_at(token)
        if lease is None:
            lease = self.leases[token] = array.leases[token] = LeaseImage(token, array, worker, [])
        lease.open += held

    def on_indexes_returned(self, record: records.IndexesReturned) -> None:
        """Move indexes of a lease back to what is pending."""
        lease = self._lease_at(record.token)
        if lease is None:
            return
        array = lease.array
        for start, stop in record.spans:
            for span in self._leave(lease, start, stop):
                array.pending.add(*span)
                if array.options.max_attempts and not record.begun:
                    for index in range(*span):
                        array.trial(index).starts -= 1

    def on_task_tried(self, record: records.TaskTried) -> None:
        """Note an index's past, and that it left its lease."""
        array = self._find(record.array)[1]
        if array is None:
            return
        index = record.task_index
        trial = array.trial(index)
        trial.failures, trial.crashes = record.failures, record.crashes
        trial.losses, trial.starts, trial.past = record.losses, record.starts, record.past
        array.retried = max(array.retried, record.retried)
        array.delays.pop(index, None)
        if record.delay_s:
            array.delays[index] = record.delay_s
        lease = self._lease_at(record.token)
        if lease is not None:
            for span in self._leave(lease, index, index + 1):
                array.pending.add(*span)

    def _leave(self, lease: LeaseImage, start: int, stop: int) -> list[Span]:
        taken = cut(lease.open, start, stop)
        if not lease.open:
            self.leases.pop(lease.token, None)
            lease.array.leases.pop(lease.token, None)
        return taken

    # --- ends ---

    def on_tasks_ended(self, record: records.TasksEnded) -> None:
        """Settle indexes, and keep their outcomes for the client."""
        session = self.sessions.get(record.array[0])
        if session is None:
            return
        session.seq = max(session.seq, record.seq)
        if record.seq and not session.closed:
            self._keep(session, record)
        told = session.settle(record)
        if told is not None:
            counter = record.array[1]
            session.finish(counter)
            if session.run is not None:
                self._remember(session, counter, told.function, (told.tasks, len(record.failures)))
            self._forget_if_over(session)
            return
        array = session.array(record.array[1])
        if array is None:
            return
        array.failed += len(record.failures)
        lease = self._lease_at(record.token)
        for start, stop in record.spans:
            if lease is not None:
                self._leave(lease, start, stop)
            else:
                self._settle(array, start, stop)
        if array.trials:
            self._drop_trials(array, record.spans)
        if array.closed:
            self._finish_if_over(session, array)

    def on_spans_failed(self, record: records.SpansFailed) -> None:
        """Keep outcomes that tasks have in common for the client; another record settles them."""
        session, array = self._find(record.array)
        if session is None:
            return
        session.seq = max(session.seq, record.seq)
        if not session.closed:
            self._keep_alike(session, record)
        tasks = sum(stop - start for start, stop in record.spans)
        counter = record.array[1]
        if array is not None:
            array.failed += tasks
        elif counter in session.past:
            past = session.past[counter]
            session.past[counter] = past._replace(failed=past.failed + tasks)

    def on_tasks_cancelled(self, record: records.TasksCancelled) -> None:
        """Settle indexes wherever they are."""
        session, array = self._find(record.array)
        if session is None or array is None:
            return
        for start, stop in record.spans:
            self._settle(array, start, stop)
        self._drop_trials(array, record.spans)
        self._finish_if_over(session, array)

    def _settle(self, array: ArrayImage, start: int, stop: int) -> None:
        array.pending.cut(start, stop)
        for lease in list(array.leases.values()):
            self._leave(lease, start, stop)

    def _drop_trials(self, array: ArrayImage, spans: tuple[Span, ...]) -> None:
        for start, stop in spans:
            inside = range(start, stop) if stop - start < len(array.trials) else list(array.trials)
            for index in inside:
                if start <= index < stop:
                    array.trials.pop(index, None)
                    array.delays.pop(index, None)

    def on_outcomes_received(self, record: records.OutcomesReceived) -> None:
        """Let go of outcomes that the client has."""
        session = self.sessions.get(record.session)
        if session is not None:
            for seq in record.seqs:
                outcome = session.outbox.pop(seq, None)
                if outcome is not None:
                    self._drop(outcome)
                    if session.run is not None:
                        spans = outcome.spans if outcome.message is None else spans_of(outcome.message)
                        add_received(session.received, outcome.array[1], spans)

    def on_outcome_restated(self, record: records.OutcomeRestated) -> None:
        """Keep outcomes that the client does not have."""
        session = self.sessions.get(record.array[0])
        if session is not None and self._restating:
            self._keep(session, record)

    def on_failure_restated(self, record: records.FailureRestated) -> None:
        """Keep outcomes that tasks have in common, which the client does not have."""
        session = self.sessions.get(record.array[0])
        if session is not None and self._restating:
            self._keep_alike(session, record)

    def _keep(self, session: SessionImage, told: records.TasksEnded | records.OutcomeRestated) -> None:
        message = TasksSettled(told.seq, told.array, told.runs, told.failures)
        self._put(session, message, outcome_bytes(told.runs, told.failures))

    def _keep_alike(self, session: SessionImage, told: records.SpansFailed | records.FailureRestated) -> None:
        message = TasksFailed(told.seq, told.array, told.spans, told.failure)
        self._put(session, message, alike_bytes(told.spans, told.failure))

    def _put(self, session: SessionImage, message: TasksSettled | TasksFailed, size_bytes: int) -> None:
        outcome = Outcome(message, message.seq, message.array, size_bytes)
        session.outbox[message.seq] = outcome
        if self._outcome_bytes + size_bytes > self._memory_bytes and self._is_stored(session, message):
            outcome.spans = spans_of(message)
            outcome.number, outcome.message, outcome.here = self.files, None, False
        else:
            self._outcome_bytes += size_bytes

    def _is_stored(self, session: SessionImage, message: TasksSettled | TasksFailed) -> bool:
        """Try to put a message into a file; without room there, it stays in memory."""
        assert self._files is not None  # noqa: S101 - without files, memory has no bound
        self.files += 1
        try:
            self._files.store(Spill(self.files, session.beginning.session, message))
        except OSError:
            return False
        return True

    def _drop(self, outcome: Outcome) -> None:
        if outcome.here:
            self._outcome_bytes -= outcome.size_bytes
        elif self._files is not None:
            self._files.drop(outcome.number)

    # --- runs, and clients that are away ---

    def on_run_opened(self, record: records.RunOpened) -> None:
        """A session is a run, and open."""
        session = self.sessions.get(record.session)
        if session is not None:
            session.run, session.left_at = record, -1.0
            self.ended_runs.pop((session.beginning.owner, record.run), None)

    def on_run_ended(self, record: records.RunEnded) -> None:
        """Remember what became of a run."""
        self.ended_runs[record.owner, record.run] = EndedRun(record.why, record.ended_at)

    def on_client_left(self, record: records.ClientLeft) -> None:
        """A session has no client."""
        session = self.sessions.get(record.session)
        if session is not None:
            session.left_at = record.left_at

    def on_client_came(self, record: records.ClientCame) -> None:
        """A session has its client again."""
        session = self.sessions.get(record.session)
        if session is not None:
            session.left_at = -1.0

    def on_past_array_restated(self, record: records.PastArrayRestated) -> None:
        """Remember more of an array that is over."""
        session = self.sessions.get(record.array[0])
        if session is not None and self._restating:
            past = PastArray(record.function, record.name, record.tasks, record.failed)
            session.past[record.array[1]] = past

    def on_received_restated(self, record: records.ReceivedRestated) -> None:
        """Remember which outcomes of an array were acknowledged."""
        session = self.sessions.get(record.array[0])
        if session is not None and self._restating:
            add_received(session.received, record.array[1], record.spans)

    # --- what follows ---

    def _lease_at(self, token: Token) -> LeaseImage | None:
        """The lease with this token, as one that something is said of."""
        lease = self.leases.get(token)
        if isinstance(lease, records.LeaseGranted):
            self._find(lease.array)
            lease = self.leases[token]
        return cast("LeaseImage | None", lease)

    def _drop_leases(self, array: ArrayImage) -> None:
        for token in array.leases:
            del self.leases[token]

    def _find(self, array: ArrayId) -> tuple[SessionImage | None, ArrayImage | None]:
        session = self.sessions.get(array[0])
        return session, None if session is None else session.array(array[1])

    def _finish_if_over(self, session: SessionImage, array: ArrayImage) -> None:
        if array.closed and not array.pending.count and not array.leases and not array.partial:
            session.finish(array.id[1])
            if session.run is not None or array.cut:
                self._remember(session, array.id[1], array.function, (array.accepted, array.failed))
            self._forget_if_over(session)

    def _remember(
        self, session: SessionImage, counter: int, function: bytes, counts: tuple[int, int]
    ) -> None:
        """Remember an array that is over; `counts` are its tasks and its failures."""
        defined = self.functions.get(function)
        name = "" if defined is None else defined.name
        session.past[counter] = PastArray(FunctionId(function), name, *counts)

    def _forget_if_over(self, session: SessionImage) -> None:
        if session.closed and not (session.arrays or session.untouched or session.partial):
            self.sessions.pop(session.beginning.session, None)


_HANDLERS: dict[type[Any], Callable[[Image, Any], None]] = {
    records.EpochBegan: Image.on_epoch_began,
    records.CompactionBegan: Image.on_compaction_began,
    records.CompactionEnded: Image.on_compaction_ended,
    records.WorkerCame: Image.on_worker_came,
    records.WorkerGone: Image.on_worker_gone,
    records.SessionBegan: Image.on_session_began,
    records.SessionEnded: Image.on_session_ended,
    records.SessionRestated: Image.on_session_restated,
    records.FunctionDefined: Image.on_function_defined,
    records.BundleDefined: Image.on_bundle_defined,
    records.TasksAccepted: Image.on_tasks_accepted,
    records.ArrayClosed: Image.on_array_closed,
    records.ArrayRestated: Image.on_array_restated,
    records.ChunkRestated: Image.on_chunk_restated,
    records.LeaseGranted: Image.on_lease_granted,
    records.LeaseRestated: Image.on_lease_restated,
    records.IndexesReturned: Image.on_indexes_returned,
    records.TaskTried: Image.on_task_tried,
    records.TasksEnded: Image.on_tasks_ended,
    records.TasksCancelled: Image.on_tasks_cancelled,
    records.OutcomesReceived: Image.on_outcomes_received,
    records.OutcomeRestated: Image.on_outcome_restated,
    records.FailureRestated: Image.on_failure_restated,
    records.SpansFailed: Image.on_spans_failed,
    records.RunOpened: Image.on_run_opened,
    records.RunEnded: Image.on_run_ended,
    records.ClientLeft: Image.on_client_left,
    records.ClientCame: Image.on_client_came,
    records.PastArrayRestated: Image.on_past_array_restated,
    records.ReceivedRestated: Image.on_received_restated,
}
