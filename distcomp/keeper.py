"""What one session of a client does with its store: look up, note what is handed in, keep what comes.

Laws:

- The loop's thread never waits for the disk: it hands over, and goes on when it is told. Only `look_up`
  waits, which no loop's thread calls.
- Of a run, what is handed in is sent once the store knows where; whoever comes back then finds it there.
- What came is acknowledged once the store has it. Once the store writes nothing more, that is said, and all
  goes on as without one; what it has can still be found.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from distcomp.core.client_effects import Returned
from distcomp.detours import shared
from distcomp.errors import ClientClosedError, StoreError
from distcomp.futures import wake_all
from distcomp.store import OutcomeToStore, StoredOutcome, SubmittedTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from distcomp.adopted_arrays import AdoptedArray
    from distcomp.client_program import ClientProgram
    from distcomp.core.client_effects import ClientEffects, KeptOutcomes
    from distcomp.detours import Label
    from distcomp.futures import Woken
    from distcomp.handles import Sink
    from distcomp.inline_program import InlineProgram
    from distcomp.recognition import Recogniser
    from distcomp.store import Store, StoredFunction

    Action = Callable[[Any], None]

MOST_REASONED = 100
"""How many of the keys that were not found are looked at for the reason."""
PAUSE_S = 0.02
"""Time between two looks whether the store takes more."""
_log = logging.getLogger("distcomp")


class Home(NamedTuple):
    """The session that tasks of a run are handed in to."""

    run: str
    cluster: bytes
    session: bytes


class Keeper:
    """The store, as one session of a client uses it.

    Args:
        store: where results are kept; several sessions may share it.
        recogniser: gives the keys of tasks.
        fresh: what the store has been handed and cannot be asked for yet, of all sessions that share it.
        program: the session's.
        run: the run's name; empty if the session is no run's.

    Attributes:
        home: the run's session once it is open; None if nobody else can enter it.
        adopted: the arrays that the run had before this process, by number.
    """

    def __init__(
        self,
        store: Store,
        recogniser: Recogniser,
        fresh: dict[bytes, StoredOutcome],
        program: ClientProgram | InlineProgram,
        run: str,
    ) -> None:
        self.store = store
        self.run = run
        self.home: Home | None = None
        self.adopted: dict[int, AdoptedArray] = {}
        self._recogniser = recogniser
        self._program = program
        self._post = program.post
        self._lock = program.lock
        self._tickets = count()
        self._under_way: dict[int, tuple[Action, Action]] = {}
        self._settled = threading.Condition(threading.Lock())
        self._found: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._claimed: Counter[str] = Counter()
        self._reasoned: set[tuple[str, bytes, str]] = set()
        self._fresh = fresh
        self._failed = False

    # --- threads that hand in ---------------------------------------------------------------------

    def key(self, function: StoredFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """What a call is found by; empty if it cannot be."""
        return self._recogniser.key(function, args, kwargs, in_run=bool(self.run))

    def keys(self, function: StoredFunction, columns: Sequence[Sequence[Any]]) -> list[bytes]:
        """What the calls are found by that columns of arguments describe."""
        return self._recogniser.keys(function, columns, in_run=bool(self.run))

    def wait_until_open(self) -> None:
        """Wait until it is known what the run has; raises what that failed with."""
        self._program.wait_until_open()

    def look_up(
        self, front: Sink, function: StoredFunction, places: Sequence[int], keys: Sequence[bytes]
    ) -> list[int]:
        """Settle those tasks of a front that are found, and claim those that the run has under way.

        Args:
            front: what takes in the outcomes.
            function: whose tasks they are.
            places: where they stand in the front.
            keys: what they are found by; an empty one is never found.

        Returns:
            The positions of those that were found nowhere.
        """
        found = self._find([key for key in keys if key])
        missing = [place for place, key in enumerate(keys) if key not in found]
        here = [place for place, key in enumerate(keys) if type(found.get(key)) is StoredOutcome]
        woken: list[Woken] = []
        with self._lock:
            settle_found(front, _at(places, keys, found, here), woken)
            unclaimed = [
                at
                for at, key in enumerate(keys)
                if type(found.get(key)) is SubmittedTask
                and not self._claim(front, places[at], (function, key), found[key], woken)
            ]
        if unclaimed:  # the store has had their outcomes meanwhile, or they have failed
            again = self._find([keys[at] for at in unclaimed])
            late = [at for at in unclaimed if type(again.get(keys[at])) is StoredOutcome]
            with self._lock:
                settle_found(front, _at(places, keys, again, late), woken)
            here += late
            missing = sorted(missing + list(set(unclaimed) - set(late)))
        wake_all(woken)
        under_way = len(keys) - len(here) - len(missing)
        self._note(function, keys, here, missing, under_way)
        return missing

    def wait_for_room(self, given_up: Callable[[], bool]) -> None:
        """Wait until the store takes what a run hands in; meanwhile its disk may be full."""
        while self.run and self.store.is_full and not given_up():
            time.sleep(PAUSE_S)

    def say(self) -> None:
        """Say how many tasks of each function were found since it was last said."""
        with self._lock:
            asked, found, claimed = self._asked, self._found, self._claimed
            self._asked, self._found, self._claimed = Counter(), Counter(), Counter()
        for name, tasks in asked.items():
            also = f", {claimed[name]} under way in the run {self.run!r}" if claimed[name] else ""
            _log.info("%s: %d of %d from the store%s", name, found[name], tasks, also)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all that was handed to the store is durable; whether it came to that in time."""
        with self._settled:
            return self._settled.wait_for(lambda: not self._under_way, timeout_s)

    # --- the loop's thread ------------------------------------------------------------------------

    @property
    def notes_first(self) -> bool:
        """Whether what is handed in has to be `submitted` first."""
        return bool(self.run) and not self._failed

    def submitted(
        self, function: StoredFunction, array: int, start: int, keys: Sequence[bytes], then: Action
    ) -> None:
        """Note where tasks of a run are handed in to, then have `then` called."""
        home = self.home
        ticket = self._begin(then, then)
        with self._or_end(ticket):
            if home is None:  # the tasks run in this process: nobody will find them elsewhere
                self.store.found(self.run, function, [key for key in keys if key])
                self._end(ticket)
            else:
                self.store.submitted(
                    self.run,
                    function,
                    home.cluster,
                    home.session,
                    array,
                    start,
                    keys,
                    lambda: self._end(ticket),
                )

    def keep(self, effects: ClientEffects, sinks: dict[int, Sink]) -> None:
        """Hand outcomes to the store; they are acknowledged when it has them."""
        outcomes, whole, partly = self._named(effects.kept, sinks)

        def forget_fresh() -> None:
            for key, _ in outcomes:
                self._fresh.pop(key, None)

        def stored(state: Any) -> None:
            forget_fresh()
            for kept in whole:
                state.receipts.stored(kept.life, [kept.seq])
            for kept in partly:  # what has no name here is left where it is
                state.receipts.not_stored(kept.life, [kept.seq])
            self._let_go(whole)

        def not_stored(state: Any) -> None:
            forget_fresh()
            for kept in (*whole, *partly):
                state.receipts.not_stored(kept.life, [kept.seq])

        if self._failed:
            self._post(not_stored)
            return
        self._fresh.update(
            (key, StoredOutcome("", "", 0.0, each.blob, each.position))
            for key, each in outcomes
            if each.failure is None
        )
        ticket = self._begin(stored, not_stored)
        with self._or_end(ticket):
            self.store.received(outcomes, lambda: self._end(ticket))

    def fail(self, error: StoreError) -> None:
        """The store writes nothing more; all goes on without. Called in a thread of the store."""
        _log.debug("the store of the run %r is given up: %s", self.run, error)
        self._failed = True
        for ticket in list(self._under_way):
            self._end(ticket, well=False)

    # --- inside -----------------------------------------------------------------------------------

    def _find(self, keys: Sequence[bytes]) -> dict[bytes, StoredOutcome | SubmittedTask]:
        if not keys:
            return {}
        fresh = self._fresh
        # Each is asked for once: as soon as the store has it, the loop's thread takes it away.
        mine = {key: kept for key in keys if (kept := fresh.get(key)) is not None} if fresh else {}
        try:
            return {**self.store.find(keys, self.run if self.adopted else ""), **mine}
        except StoreError as error:
            _log.warning("results are computed that may be there: %s", error)
            return dict(mine)

    def _claim(self, front: Sink, place: int, label: Label, task: Any, woken: list[Woken]) -> bool:
        """Have a task that the run has under way settle one of a front's, with the lock held."""
        home = self.home
        if home is None or (task.cluster, task.session) != (home.cluster, home.session):
            return False
        array = self.adopted.get(task.array)
        if array is None:
            return False
        array.labels_of.setdefault(task.task_index, label)
        return array.claim(task.task_index, front, place, woken)

    def _note(
        self,
        function: StoredFunction,
        keys: Sequence[bytes],
        here: Sequence[int],
        missing: Sequence[int],
        under_way: int,
    ) -> None:
        """Count what was found, and say once why something was not."""
        with self._lock:
            self._asked[function.name] += len(keys)
            self._found[function.name] += len(here)
            self._claimed[function.name] += under_way
        named = function.name, function.digest, function.version
        with contextlib.suppress(StoreError):  # then it is said elsewhere
            if here and self.run:
                self.store.found(self.run, function, [keys[at] for at in here])
            if missing and named not in self._reasoned:
                self._reasoned.add(named)
                text = self.store.reasons(function, [keys[at] for at in missing[:MOST_REASONED] if keys[at]])
                if text:
                    _log.info("%s: %s", function.name, text)

    def _named(
        self, news: Sequence[KeptOutcomes], sinks: dict[int, Sink]
    ) -> tuple[list[tuple[bytes, OutcomeToStore]], list[KeptOutcomes], list[KeptOutcomes]]:
        """What came, as it is stored; and which of it is stored whole, and which only in part or not."""
        outcomes: list[tuple[bytes, OutcomeToStore]] = []
        whole: list[KeptOutcomes] = []
        partly: list[KeptOutcomes] = []
        for kept in news:
            complete = True
            for outcome in kept.outcomes:
                complete = self._label(outcome, sinks.get(outcome.array), outcomes) and complete
            (whole if complete or not self.run else partly).append(kept)
        return outcomes, whole, partly

    def _label(self, outcome: Any, sink: Any, outcomes: list[tuple[bytes, OutcomeToStore]]) -> bool:
        """Add what an outcome is stored as; whether all of it has a name in the store."""
        if sink is None:
            return False
        complete = True
        for place, label in enumerate(sink.labels(outcome.start, outcome.stop), outcome.start):
            if label is None or not label[1]:
                complete = False
            elif isinstance(outcome, Returned):
                outcomes.append((label[1], OutcomeToStore(label[0], outcome.blob, place - outcome.base)))
            elif outcome.failure.kind != "cancelled":
                outcomes.append((label[1], OutcomeToStore(label[0], b"", 0, outcome.failure)))
        return complete

    def _let_go(self, whole: Iterable[KeptOutcomes]) -> None:
        with self._lock:
            for kept in whole:
                for outcome in kept.outcomes:
                    array = self.adopted.get(outcome.array)
                    if array is not None:
                        array.let_go(outcome.start, outcome.stop)

    def _begin(self, well: Action, badly: Action) -> int:
        ticket = next(self._tickets)
        self._under_way[ticket] = (well, badly)
        return ticket

    def _end(self, ticket: int, *, well: bool = True) -> None:
        """What was handed to the store is durable, or never will be; from any thread."""
        actions = self._under_way.pop(ticket, None)
        if actions is not None:
            with contextlib.suppress(ClientClosedError):
                self._post(actions[0 if well else 1])
        with self._settled:
            self._settled.notify_all()

    @contextlib.contextmanager
    def _or_end(self, ticket: int) -> Iterator[None]:
        """What the store refuses inside goes on without it."""
        try:
            yield
        except StoreError as error:
            _log.debug("not stored: %s", error)
            self._end(ticket, well=False)


def _at(
    places: Sequence[int], keys: Sequence[bytes], found: dict[bytes, Any], positions: Sequence[int]
) -> list[tuple[int, StoredOutcome]]:
    return [(places[at], found[keys[at]]) for at in positions]


def settle_found(front: Sink, found: Sequence[tuple[int, StoredOutcome]], woken: list[Woken]) -> None:
    """Settle tasks of a front, by places in order, with results that the store has; with the lock held."""
    blobs: dict[int, bytes] = {}
    pieces = Counter(id(outcome.blob) for _, outcome in found)
    for start, stop, place in _neighbours(found):
        outcome = found[start][1]
        blob = blobs.get(id(outcome.blob))
        if blob is None:
            blob = blobs[id(outcome.blob)] = shared(outcome.blob, pieces[id(outcome.blob)])
        until = place + stop - start
        front.settle(Returned(front.counter, place, until, place - outcome.position, blob), woken)


def _neighbours(found: Sequence[tuple[int, StoredOutcome]]) -> Iterator[tuple[int, int, int]]:
    """Cut what was found into stretches of neighbouring places with neighbouring results of one blob."""
    start = 0
    while start < len(found):
        place, first = found[start]
        stop = start + 1
        while stop < len(found):
            next_place, outcome = found[stop]
            along = stop - start
            if (
                outcome.blob is not first.blob
                or next_place != place + along
                or outcome.position != first.position + along
            ):
                break
            stop += 1
        yield start, stop, place
        start = stop
