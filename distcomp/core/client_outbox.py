"""What a client still has to send of its arrays, and in which order.

Laws:

- An array with parts to send stands in the line exactly once (`Submission.queued`), unless it is paused
  because the scheduler had no room. Each turn takes one part of each in turn, while the bytes under way,
  which count parts sent and not accepted, stay within their bound.
- What is said here holds for one connection: the next one begins from what was not accepted.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from distcomp import protocol
from distcomp.kinds import MAX_ITEMS

if TYPE_CHECKING:
    from distcomp.config import ClientSettings
    from distcomp.core.client_needs import ClientNeeds
    from distcomp.core.submission import Submission
    from distcomp.ids import SessionId
    from distcomp.protocol import Message


class ClientOutbox:
    """The line of arrays with something to say.

    Args:
        settings: the client's settings.
        arrays: all open arrays, by number.
        needs: what their tasks need besides arguments.

    Attributes:
        paused: arrays that wait until there may be room again.
        acks: numbers under which came what need not be kept for us any more.
        reads: numbers under which came what is here, and is to be kept for whoever opens the run next.
    """

    def __init__(self, settings: ClientSettings, arrays: dict[int, Submission], needs: ClientNeeds) -> None:
        self._settings = settings
        self._arrays = arrays
        self._needs = needs
        self._unsent: deque[int] = deque()
        self.paused: set[int] = set()
        self._withdrawing: set[int] = set()
        self._under_way_bytes = 0
        self.acks: list[int] = []
        self.reads: list[int] = []

    def queue(self, counter: int, array: Submission) -> None:
        """Put an array in line if it has parts to send and nothing holds it back."""
        if not array.queued and counter not in self.paused and array.sent < len(array.parts):
            array.queued = True
            self._unsent.append(counter)

    def withdraw(self, counter: int) -> None:
        """An array has spans to tell that are not wanted any more."""
        self._withdrawing.add(counter)

    def accepted(self, array: Submission, tasks: int) -> None:
        """The scheduler answers for the first tasks of an array from now on."""
        self._under_way_bytes -= array.accept(tasks)

    def pause(self, counter: int, array: Submission, until: float) -> None:
        """There was no room for an array: what was not accepted goes out again, not before `until`."""
        if counter not in self.paused:
            self._under_way_bytes -= array.under_way_bytes()
            array.unsend()
            array.paused_until = until
            self.paused.add(counter)

    def resume(self, now: float) -> None:
        """Put those arrays in line again whose pause is over."""
        for counter in sorted(each for each in self.paused if self._arrays[each].paused_until <= now):
            self.paused.discard(counter)
            self.queue(counter, self._arrays[counter])

    def pauses(self) -> list[float]:
        """When the pauses end."""
        return [self._arrays[counter].paused_until for counter in self.paused]

    def forget(self, counter: int, array: Submission) -> None:
        """Nothing is to be sent of an array any more."""
        self.paused.discard(counter)
        self._withdrawing.discard(counter)
        if array.sent:
            self._under_way_bytes -= array.under_way_bytes()

    def disconnect(self) -> None:
        """The connection is gone, and with it what was said on it."""
        self._under_way_bytes = 0
        self.acks.clear()
        self.reads.clear()
        self._needs.told.clear()
        self._unsent.clear()
        self.paused.clear()
        self._withdrawing.clear()
        for array in self._arrays.values():
            array.unsend()
            array.queued = False

    # --- what is to be sent -----------------------------------------------------------------------

    def take(self, session: SessionId) -> list[Message]:
        """The messages that can leave now."""
        messages: list[Message] = []
        if self._unsent:
            self._take_parts(session, messages)
        if self._withdrawing:
            self._take_withdrawn(session, messages)
        if self.acks or self.reads:
            messages += self.take_acks()
        return messages

    def take_acks(self) -> list[Message]:
        """Which outcomes have come, and which of them need not be kept for us any more."""
        taken: list[Message] = []
        while self.acks:
            taken.append(protocol.AckOutcomes(tuple(self.acks[:MAX_ITEMS])))
            del self.acks[:MAX_ITEMS]
        while self.reads:
            taken.append(protocol.ReadOutcomes(tuple(self.reads[:MAX_ITEMS])))
            del self.reads[:MAX_ITEMS]
        return taken

    def _take_parts(self, session: SessionId, messages: list[Message]) -> None:
        """One part of each array in turn, while the bytes under way stay within their bound.

        What it needs and the scheduler was not told on this connection is defined before it.
        """
        needs = self._needs
        while self._unsent and self._under_way_bytes < self._settings.under_way_bytes:
            counter = self._unsent.popleft()
            array = self._arrays.get(counter)
            if array is None:
                continue
            array.queued = False
            if counter in self.paused:
                continue
            part = array.take_unsent()
            self._under_way_bytes += part.inline_bytes
            if array.function not in needs.told:
                messages.append(needs.tell(array.function))
            if part.bundle and part.bundle not in needs.told:
                messages.append(needs.tell(part.bundle))
            messages.append(
                protocol.Submit(
                    (session, counter),
                    array.function,
                    array.options,
                    part.start,
                    part.stop - part.start,
                    part.chunk,
                    part.last,
                    part.bundle,
                )
            )
            if not part.last:
                self.queue(counter, array)

    def _take_withdrawn(self, session: SessionId, messages: list[Message]) -> None:
        for counter in sorted(self._withdrawing):
            array = self._arrays[counter]
            unwanted, there = array.unwanted, array.sent_tasks
            taken = (unwanted.take_unsaid(there), False), (unwanted.take_unasked(there), True)
            for spans, pending_only in taken:
                for at in range(0, len(spans), MAX_ITEMS):
                    some = spans[at : at + MAX_ITEMS]
                    messages.append(protocol.CancelTasks((session, counter), some, pending_only))
            if not unwanted.unsaid and not unwanted.unasked:
                self._withdrawing.discard(counter)
