"""A client under load, as a program of its own that can be killed: `python load.py PLAN`.

It keeps work of all kinds under way, and notes outside the system what it offered, what was acknowledged
and what it got. The plan is a file with the fields of `Plan`, written by the harness.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections import deque
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chaos_work
from notes import NoteBook

from distcomp import Client, client_program, protocol
from distcomp.core.client_state import ClientState
from distcomp.payload import open_chunk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from distcomp import Future
    from distcomp.bound_client import BoundClient


@dataclass(frozen=True)
class Plan:
    """What a client does.

    Attributes:
        ledger, notes: the files that its tasks and itself write.
        until: it goes on until this file is there; the empty text means that it need not be.
        tasks: and until so many tasks that may be repeated were handed in.
        block: so many of them in an array.
        lanes: so many arrays under way at a time.
        seconds: how long each of them lasts.
        gate: a file that all of them and those that may begin once wait for instead, if it is named.
        once_block: tasks that may begin once in an array, of which one is under way at a time.
        once_seconds: how long each of those lasts.
        single_s: time between two tasks that are submitted alone.
    """

    ledger: str
    notes: str
    until: str = ""
    tasks: int = 1000
    block: int = 500
    lanes: int = 2
    seconds: float = 0.0
    gate: str = ""
    once_block: int = 10
    once_seconds: float = 0.001
    single_s: float = 0.02


class NotingState(ClientState):
    """A client's state that notes what it is handed and what is acknowledged."""

    book: NoteBook

    def extend(self, counter: int, tasks: int, chunk: bytes, *, last: bool, single: bool = False) -> None:
        """Note which tasks are handed in."""
        if tasks and counter in self.arrays:
            calls = open_chunk(chunk).calls(0, tasks)
            numbers = [args[1] for args, _ in calls]
            self.book.offered(self.session.hex(), counter, self.arrays[counter].submitted, numbers)
        super().extend(counter, tasks, chunk, last=last, single=single)

    def receive(self, peer: Any, message: Any, now: float) -> None:
        """Note what is acknowledged."""
        if type(message) is protocol.Accepted:
            self.book.acknowledged(message.array[0].hex(), message.array[1], message.tasks)
        super().receive(peer, message, now)


class Load:
    """All that a client does at the same time."""

    def __init__(self, plan: Plan, client: Client) -> None:
        self.plan = plan
        self.book = NotingState.book
        self._client = client
        self._once = client.options(max_attempts=1)
        self._serials = count()
        self._left = plan.tasks
        self._lock = threading.Lock()
        self._over = threading.Event()

    def run(self) -> None:
        """Do it all, to its end."""
        lanes = [threading.Thread(target=self._many) for _ in range(self.plan.lanes)]
        others = [threading.Thread(target=work) for work in (self._once_only, self._alone)]
        for thread in (*lanes, *others):
            thread.start()
        for thread in lanes:
            thread.join()
        self._over.set()
        for thread in others:
            thread.join()
        self.book.done()

    def _many(self) -> None:
        """One array after the other."""
        while numbers := self._next_block():
            self._map(self._client, numbers, self.plan.seconds)

    def _next_block(self) -> Sequence[int]:
        with self._lock:
            if self._left <= 0 and self._may_end():
                return ()
            self._left -= self.plan.block
            return [2 * serial for serial in islice(self._serials, self.plan.block)]

    def _may_end(self) -> bool:
        return not self.plan.until or Path(self.plan.until).exists()

    def _once_only(self) -> None:
        """Tasks that must not begin twice."""
        while self.plan.once_block and not self._over.is_set():
            with self._lock:
                numbers = [2 * serial + 1 for serial in islice(self._serials, self.plan.once_block)]
            self._map(self._once, numbers, self.plan.once_seconds)

    def _map(self, client: Client | BoundClient, numbers: Sequence[int], seconds: float) -> None:
        """One array, to its end."""
        ledgers = [self.plan.ledger] * len(numbers)
        if self.plan.gate:
            array = client.map(chaos_work.held, ledgers, numbers, [self.plan.gate] * len(numbers))
        else:
            array = client.map(chaos_work.step, ledgers, numbers, [seconds] * len(numbers))
        for number, future in zip(numbers, array.futures, strict=True):
            self._note(number, future)

    def _alone(self) -> None:
        """Tasks submitted one by one, which also tell when the scheduler answers again."""
        pending: deque[tuple[int, Future[int]]] = deque()
        while self.plan.single_s and not self._over.wait(self.plan.single_s):
            with self._lock:
                number = 2 * next(self._serials)
            pending.append((number, self._client.submit(chaos_work.step, self.plan.ledger, number, 0.0)))
            for number, future in _ended(pending):
                self._note(number, future)
        for number, future in pending:
            self._note(number, future)

    def _note(self, number: int, future: Future[int]) -> None:
        try:
            value = future.result()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this task's outcome
            self.book.failed(number, error)
        else:
            self.book.got(number, value)


def _ended(pending: deque[tuple[int, Future[int]]]) -> Iterator[tuple[int, Future[int]]]:
    while pending and pending[0][1].done():
        yield pending.popleft()


def main() -> None:
    """Do what the plan says."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    plan = Plan(**json.loads(Path(sys.argv[1]).read_text()))
    NotingState.book = NoteBook(plan.notes)
    client_program.ClientState = NotingState  # type: ignore[misc] # on purpose: a state that notes
    with Client() as client:
        Load(plan, client).run()


if __name__ == "__main__":
    main()
