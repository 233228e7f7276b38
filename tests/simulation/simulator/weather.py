"""What a seed stands for: a cluster, its users' work, and what goes wrong in it when."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, NamedTuple

from distcomp.config import SchedulerSettings
from distcomp.rows import TaskOptions
from simulator.tasks import VALUE_BYTES, Plan, Special

FAULTS = (
    "reset worker",
    "reset client",
    "stall worker",
    "stall client",
    "stop worker",
    "stop machine",
    "stop client",
    "stop scheduler",
    "kill slot",
    "kill sender",
    "kill worker",
    "lose worker",
    "drain worker",
    "join worker",
    "client away",
    "no processes",
    "restart scheduler",
    "kill scheduler",
    "end scheduler",
    "resize worker",
)
RARE = frozenset({"restart scheduler", "stop scheduler", "no processes"})
PYTHONS = ("3.11.4", "3.12.1")
MOMENTS = ("time", "time", "submitting", "submitting", "accepted", "told", "told", "stored")
"""What has to happen for a process of a run to end."""

RUN_EVERY = 4
"""Every so many seeds there is a run whose processes are killed."""

LIVES = (
    "killed before its tasks were accepted",
    "killed while it handed in",
    "killed while tasks ran",
    "killed while results waited",
    "killed while results went to its disk",
    "killed while the scheduler was down",
    "killed together with the scheduler",
    "left",
    "found another process there",
    "came back and found another there",
    "came back and had the run again",
    "found tasks under way",
    "found results that nobody had heard of",
    "found results on its disk",
    "was told again",
    "was whole in the end",
    "cancelled what another had handed in",
)
"""What has to come about in the lives of runs' processes."""

MOODS = ("calm", "gusty", "gusty", "stormy", "stormy")


class Fault(NamedTuple):
    """Something that goes wrong once so many tasks have begun and `delay_s` more has passed.

    `seconds` is how long it lasts, if it does.
    """

    after_tasks: int
    delay_s: float
    kind: str
    seconds: float
    pick: float


class Life(NamedTuple):
    """One process of a run.

    Attributes:
        moment: what has to happen, so many `times`, for it to end `after_s` later, if another one follows.
        ending: how: `kill`, `crash` (what it had written is not sent any more), `lose` (nobody is told that
            its host is gone), `stop` (it stands still, and goes on when there is another one), or `leave`
            (in order).
        still_s: for how long it stands still at least.
        absence_s: how long nobody has the run open then.
        attaches: it collects what is there.
        keeps: results go to its disk, which takes `write_s`, unless it is full.
        falls: it ends, too, if the scheduler stops.
        fells: if that has a journal, it is killed at the same time, and what it has not written down is lost.
        cancels_after_s: when it cancels some of what others have handed in; 0 if it does not.
    """

    arrays: list[Plan]
    moment: str
    times: int
    after_s: float
    ending: str
    absence_s: float
    still_s: float = 0.0
    attaches: bool = False
    keeps: bool = False
    write_s: float = 0.0
    disk_full: bool = False
    falls: bool = False
    fells: bool = False
    cancels_after_s: float = 0.0


class ClientPlan(NamedTuple):
    """One user. Who works for a run has processes one after the other, and all else is theirs."""

    owner: str
    python: str
    arrays: list[Plan]
    ending: str
    ends_at_s: float
    lives: tuple[Life, ...] = ()


@dataclass
class Weather:
    """One world's parameters, drawn from its seed."""

    seed: int
    mood: str
    scheduler: SchedulerSettings
    delay_s: float = 0.0001
    jitter_s: float = 0.0
    cut_chance: float = 0.0
    border_s: float = 0.0
    turn_s: float = 0.0
    checks: bool = True
    journalled: bool = False
    disk_s: float = 0.0
    compact_turns: int = 0
    workers: list[tuple[int, str]] = field(default_factory=list)
    clients: list[ClientPlan] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @property
    def calm(self) -> bool:
        return not self.faults

    @property
    def tasks(self) -> int:
        plans = [plan for client in self.clients for plan in client.arrays]
        plans += [plan for client in self.clients for life in client.lives for plan in life.arrays]
        return sum(plan.tasks for plan in plans)


LITTLE_MEMORY: dict[str, Any] = {
    "session_outcome_bytes": 1 << 10,
    "least_outcome_bytes": 1 << 8,
    "max_outcome_memory_bytes": 1 << 12,
    "outcome_window_bytes": 1 << 10,
}
"""Every third scheduler keeps next to no outcomes in memory, and sends them in small windows."""


def draw(seed: int) -> Weather:
    """The weather of a seed."""
    rng = Random(seed)  # noqa: S311 - weather is no secret
    mood = rng.choice(MOODS)
    scheduler = SchedulerSettings(
        client_grace_s=rng.choice((20.0, 60.0)),
        result_retention_s=30.0,
        max_held_bytes=rng.choice((1 << 20, 8 << 30, 8 << 30)),
        max_unread_bytes=rng.choice((1 << 12, 256 << 20, 256 << 20)),
    )
    if seed % 3 == 0:
        scheduler = replace(scheduler, **LITTLE_MEMORY)
    weather = Weather(seed, mood, scheduler)
    weather.delay_s = rng.choice((0.00005, 0.0005, 0.01))
    weather.jitter_s = weather.delay_s * rng.choice((0.1, 2.0))
    weather.cut_chance = rng.choice((0.0, 0.1))
    weather.border_s = rng.choice((0.0, 0.00001, 0.0003))
    weather.turn_s = rng.choice((0.0, 0.0002))
    pythons = PYTHONS[: rng.choice((1, 1, 1, 2))]
    weather.workers = [
        (rng.randint(1, 4), pythons[place % len(pythons)])
        for place in range(rng.randint(len(pythons), 2 + 2 * len(pythons)))
    ]
    weather.clients = [
        _draw_client(rng, mood, rng.choice(pythons), place) for place in range(rng.choice((1, 1, 2, 3)))
    ]
    if mood != "calm":
        weather.faults = _draw_faults(rng, weather.tasks, {"gusty": 2, "stormy": 6}[mood])
    _draw_journal(rng, weather)
    if mood != "calm" and seed % 2:
        weather.faults = sorted([*weather.faults, *_draw_resizes(seed, weather.tasks)])
    if mood != "calm" and seed % RUN_EVERY == 1:
        weather.clients.append(_draw_run(seed, mood, pythons))
    return weather


def _draw_resizes(seed: int, tasks: int) -> list[Fault]:
    """Changes of a worker's slots, from random numbers of their own: what else a seed stands for stays."""
    rng = Random(seed ^ 0x51075)  # noqa: S311 - as above
    most = max(1, int(tasks * 0.8))
    return [
        Fault(rng.randint(0, most), rng.choice((0.0, 0.0002, 0.05)), "resize worker", 0.0, rng.random())
        for _ in range(rng.randint(1, 3))
    ]


def _draw_run(seed: int, mood: str, pythons: tuple[str, ...]) -> ClientPlan:
    """A user who works for a run, from random numbers of their own."""
    rng = Random(seed ^ 0x0B1E55ED)  # noqa: S311 - as above
    owner, python = rng.choice(("alice", "bob")), rng.choice(pythons)
    keeps = rng.choice((0.0, 0.5, 1.0))
    lives = tuple(
        _draw_life(rng, mood, place, keeps=rng.random() < keeps) for place in range(rng.choice((2, 2, 3, 4)))
    )
    return ClientPlan(owner, python, [], "hand on", 0.0, lives)


def _draw_life(rng: Random, mood: str, place: int, *, keeps: bool) -> Life:
    """The first process of a run hands in what the others may collect."""
    plans = [_draw_plan(rng, mood) for _ in range(rng.choice((1, 2)) if not place else rng.choice((0, 1)))]
    plans = [replace(plan, options=plan.options._replace(detach=True)) for plan in plans]
    moment = rng.choice(MOMENTS)
    if moment == "submitting":
        plans = [replace(plan, chunk_tasks=1 + plan.tasks // 4, pause_s=0.01) for plan in plans]
    return Life(
        plans,
        moment if keeps or moment != "stored" else "told",
        rng.choice((1, 1, 2, 5)) if moment in ("submitting", "told", "stored") else 1,
        rng.choice((0.0, 0.0002, 0.01, 0.05, 0.2) if moment != "time" else (0.0001, 0.02, 0.2, 1.0, 3.0)),
        rng.choice(("kill", "kill", "crash", "lose", "stop", "stop", "leave")),
        rng.choice((0.001, 0.05, 0.5, 3.0, 12.0, 20.0, 20.0, 80.0)),
        still_s=rng.choice((14.1, 15.0, 20.0)),
        attaches=place > 0 and rng.random() < 0.7,
        keeps=keeps,
        write_s=rng.choice((0.0, 0.05, 0.5)),
        disk_full=rng.random() < 0.1,
        falls=rng.random() < 0.7,
        fells=rng.random() < 0.3,
        cancels_after_s=rng.choice((0.001, 0.1)) if rng.random() < 0.3 else 0.0,
    )


def _draw_journal(rng: Random, weather: Weather) -> None:
    """Half of all worlds have a journal; there a scheduler that starts anew knows all that it should."""
    weather.journalled = rng.random() < 0.5
    weather.disk_s = rng.choice((0.0, 0.0002, 0.02, 0.02 if weather.calm else 0.5))
    weather.compact_turns = rng.choice((0, 1, 7, 50))
    weather.scheduler = replace(weather.scheduler, restate_objects=rng.choice((1, 4, 100)))
    restarts = ("kill scheduler", "kill scheduler", "end scheduler")
    weather.faults = [
        fault._replace(kind=rng.choice(restarts))
        if weather.journalled and (fault.kind == "restart scheduler" or rng.random() < 0.4)
        else fault
        for fault in weather.faults
    ]


def _draw_client(rng: Random, mood: str, python: str, place: int) -> ClientPlan:
    plans = [_draw_plan(rng, mood) for _ in range(rng.randint(1, 3))]
    ending = "close" if mood == "calm" else rng.choice(("close",) * 6 + ("hasty", "vanish"))
    return ClientPlan(rng.choice(("alice", "bob")), python, plans, ending, 0.1 + rng.random() * 3 + place)


def _draw_plan(rng: Random, mood: str) -> Plan:
    tasks = rng.choice((1, 1, 2, 7, 30, 60, 150))
    base_s = rng.choice((0.00002, 0.0005, 0.002, 0.01, 0.05, 0.2, 1.0))
    if tasks > 30:
        base_s = min(base_s, 0.05)
    seconds: tuple[float, ...] = (base_s,)
    if rng.random() < 0.4:
        seconds = tuple(base_s * rng.choice((0.01, 1.0, 3.0)) for _ in range(7))
    special = {} if mood == "calm" else _draw_special(rng, tasks)
    cancels: tuple[tuple[float, int, int, bool], ...] = ()
    if mood != "calm" and (
        rng.random() < 0.2 or any(each.kind in ("hangs", "deaf") for each in special.values())
    ):
        cancels = _draw_cancels(rng, tasks)
    timeout_s = 0.0
    if any(each.kind in ("hangs", "deaf") for each in special.values()):
        timeout_s = max(seconds) * 4 + rng.choice((0.1, 1.0))
    options = TaskOptions(
        retries=rng.choice((0, 0, 1, 3)),
        retry_delay_s=rng.choice((0.0, 0.0, 0.5)),
        timeout_s=timeout_s,
        priority=rng.choice((0, 0, 0, 5, -5)),
        max_attempts=rng.choice((0, 0, 0, 0, 1, 2)),
        detach=rng.random() < 0.1,
        retries_timeouts=rng.random() < 0.7,
    )
    large = rng.random() < 0.08
    return Plan(
        at_s=rng.choice((0.0, 0.0, 0.05, 0.5)),
        tasks=tasks,
        seconds=seconds,
        options=options,
        special=special,
        function=rng.choice((b"f", b"g", b"h")),
        chunk_tasks=rng.choice((1, 10, 50, 50, 300)) if tasks <= 30 else rng.choice((50, 300)),
        padding_bytes=rng.choice((0, 100, 100)) if not large else 200_000,
        result_bytes=VALUE_BYTES if rng.random() < 0.9 or tasks > 7 else 150_000,
        pause_s=rng.choice((0.0, 0.0, 0.01)),
        cancels=cancels,
    )


def _draw_special(rng: Random, tasks: int) -> dict[int, Special]:
    if rng.random() < 0.5:
        return {}
    kinds = rng.sample(("raises", "refuses", "crashes", "hangs", "deaf"), rng.choice((1, 1, 2)))
    return {
        rng.randrange(tasks): Special(rng.choice(kinds), rng.choice((1, 2, 1_000_000)))
        for _ in range(min(tasks, rng.randint(1, 5)))
    }


def _draw_cancels(rng: Random, tasks: int) -> tuple[tuple[float, int, int, bool], ...]:
    """When to cancel what, and whether only what no lease holds."""
    at_s = rng.choice((0.001, 0.1, 1.0))
    pending_only = rng.random() < 0.3
    if rng.random() < 0.3:
        return ((at_s, 0, tasks + 1, pending_only),)
    start = rng.randrange(tasks)
    return ((at_s, start, rng.randint(start + 1, tasks), pending_only),)


def _draw_faults(rng: Random, tasks: int, most: int) -> list[Fault]:
    kinds = [kind for kind in FAULTS[:-3] if kind not in RARE or rng.random() < 0.15]
    return sorted(
        Fault(
            rng.randint(0, max(1, int(tasks * 0.8))),
            rng.choice((0.0, 0.0, 0.0002, 0.002, 0.05)),
            rng.choice(kinds),
            rng.choice((0.05, 0.5, 3.0, 11.0, 14.0, 30.0, 70.0)),
            rng.random(),
        )
        for _ in range(rng.randint(1, most))
    )


def draw_bulk() -> Weather:
    """Two thousand workers and a million tasks, some of the workers and connections lost on the way."""
    weather = Weather(0, "bulk", SchedulerSettings(), delay_s=0.0005, jitter_s=0.0001, turn_s=0.001)
    weather.checks = False
    weather.workers = [(1, PYTHONS[0])] * 2000
    bulk = Plan(at_s=1.0, tasks=1_000_000, seconds=(0.000003,), chunk_tasks=1000)
    weather.clients = [ClientPlan("alice", PYTHONS[0], [bulk], "close", 0.0)]
    kinds = ("reset worker", "kill worker", "kill slot", "stop worker", "reset client")
    weather.faults = [
        Fault(10_000 * place, 0.0, kinds[place % len(kinds)], 3.0, (place * 0.618) % 1.0)
        for place in range(1, 60)
    ]
    return weather
