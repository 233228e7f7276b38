"""What a worker has to tell of its leases, kept until the scheduler says that it has it.

Law: every message has a number; it is held from the moment it is made until `ack`. Of what is held, all
before the first that waits is on its way over the present connection: at most `settle_window_bytes` are on
their way, so that a worker that comes back with a great backlog neither fills a connection's buffer nor
starves its heartbeat. A lost connection puts everything back to waiting, in the order in which it was made.
"""

from __future__ import annotations

from collections import deque
from itertools import zip_longest
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from distcomp.core.spans import joined
from distcomp.kinds import INLINE_BLOB_BYTES
from distcomp.rows import Failure, HeldLease
from distcomp.worker_protocol import LeaseReturned, LeaseSettled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from distcomp.config import WorkerSettings
    from distcomp.core.spans import Span
    from distcomp.ids import Token

Results: TypeAlias = "tuple[tuple[int, int, bytes], ...]"
Failures: TypeAlias = "tuple[tuple[int, Failure], ...]"
T = TypeVar("T")

MESSAGE_BYTES = 64
"""What a message is counted as besides its payload."""

RUN_HEAD_BYTES, SPAN_BYTES = 24, 16
"""What a run of results is counted as besides its blob, and a span that is given back."""

RUNS_BYTES = 256 << 10
"""Results that ride in one message; beside `FAILURES_BYTES` of failures they fit into a frame."""

FAILURES_BYTES = 512 << 10
"""Failures in one message."""


class Outbox:
    """Settles and returns that the scheduler has not acknowledged.

    Args:
        settings: for `settle_window_bytes` and `max_held_result_bytes`.

    Attributes:
        waiting: numbers of what is to leave.
        held_bytes: of all that is held.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._window_bytes = settings.settle_window_bytes
        self._most_bytes = settings.max_held_result_bytes
        self._seq = 1
        self._held: dict[int, tuple[LeaseSettled | LeaseReturned, int]] = {}
        self.waiting: deque[int] = deque()
        self._sent_bytes = 0
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def full(self) -> bool:
        """Whether so much is held that no further task should begin."""
        return self.held_bytes > self._most_bytes

    def settle(self, token: Token, runs: Results, failures: Failures, busy_s: float, slot: int) -> None:
        """Tell outcomes, in as many messages as it takes to keep each within a frame."""
        if not failures and len(runs) == 1:
            self._hold(
                LeaseSettled(self._seq, token, runs, (), busy_s, slot), RUN_HEAD_BYTES + len(runs[0][2])
            )
            return
        fitting = [(index, fit(failure)) for index, failure in failures]
        for some_runs, some_failures in zip_longest(
            _batches(runs, _inline_bytes, RUNS_BYTES),
            _batches(fitting, lambda pair: _size_of(pair[1]), FAILURES_BYTES),
            fillvalue=(),
        ):
            size_bytes = sum(RUN_HEAD_BYTES + len(blob) for _, _, blob in some_runs)
            size_bytes += sum(_size_of(failure) for _, failure in some_failures)
            self._hold(LeaseSettled(self._seq, token, some_runs, some_failures, busy_s, slot), size_bytes)
            busy_s = 0.0

    def give_back(self, token: Token, spans: Iterable[Span], reason: str) -> None:
        """Tell that these indexes will not be run here."""
        message = LeaseReturned(self._seq, token, tuple(spans), reason)
        self._hold(message, SPAN_BYTES * len(message.spans))

    def ack(self, seqs: Iterable[int]) -> None:
        """Let go of what came under these numbers; numbers not held are nothing new."""
        for seq in seqs:
            held = self._held.pop(seq, None)
            if held is not None:
                _, size_bytes = held
                self.held_bytes -= size_bytes
                if not self.waiting or seq < self.waiting[0]:
                    self._sent_bytes -= size_bytes

    def rewind(self) -> None:
        """The connection is gone: what was on its way has to leave once more."""
        self.waiting = deque(self._held)
        self._sent_bytes = 0

    def take(self) -> list[LeaseSettled | LeaseReturned]:
        """What may leave now, in order."""
        leaving = []
        while self.waiting and self._sent_bytes < self._window_bytes:
            held = self._held.get(self.waiting.popleft())
            if held is not None:
                self._sent_bytes += held[1]
                leaving.append(held[0])
        return leaving

    def leases(self) -> dict[Token, list[Span]]:
        """The indexes that held messages speak of, by lease."""
        spans: dict[Token, list[Span]] = {}
        for message, _ in self._held.values():
            spans.setdefault(message.token, []).extend(_spans_of(message))
        return spans

    def _hold(self, message: LeaseSettled | LeaseReturned, payload_bytes: int) -> None:
        size_bytes = MESSAGE_BYTES + payload_bytes
        self._held[self._seq] = message, size_bytes
        self.waiting.append(self._seq)
        self._seq += 1
        self.held_bytes += size_bytes


def held_leases(parts: Iterable[dict[Token, list[Span]]]) -> tuple[HeldLease, ...]:
    """One row for each lease that any of `parts` names, with all its indexes."""
    spans: dict[Token, list[Span]] = {}
    for part in parts:
        for token, some in part.items():
            spans.setdefault(token, []).extend(some)
    return tuple(HeldLease(token, tuple(joined(some))) for token, some in sorted(spans.items()))


def _spans_of(message: LeaseSettled | LeaseReturned) -> list[Span]:
    if isinstance(message, LeaseReturned):
        return list(message.spans)
    ranges = [(start, stop) for start, stop, _ in message.runs]
    return ranges + [(index, index + 1) for index, _ in message.failures]


def _batches(items: Sequence[T], size_of: Callable[[T], int], most_bytes: int) -> Iterator[tuple[T, ...]]:
    batch: list[T] = []
    total = 0
    for item in items:
        size = size_of(item)
        if batch and total + size > most_bytes:
            yield tuple(batch)
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield tuple(batch)


def _inline_bytes(run: tuple[int, int, bytes]) -> int:
    """What a run adds to its message's frame: a large blob travels apart."""
    return RUN_HEAD_BYTES + (len(run[2]) if len(run[2]) <= INLINE_BLOB_BYTES else 0)


def _size_of(failure: Failure) -> int:
    """Bytes of a failure; its exception rides apart when it is large."""
    texts = (failure.text, failure.traceback, failure.output, failure.stacks)
    return 200 + sum(map(_utf8_bytes, texts)) + len(failure.exception)


def fit(failure: Failure) -> Failure:
    """The failure with texts that fit into one frame: ends are kept, where the news is."""
    if _size_of(failure) - len(failure.exception) <= FAILURES_BYTES:
        return failure
    return failure._replace(
        text=failure.text[: 8 << 10],
        traceback=failure.traceback[-(32 << 10) :],
        output=failure.output[-(32 << 10) :],
        stacks=failure.stacks[-(32 << 10) :],
    )


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="replace"))
