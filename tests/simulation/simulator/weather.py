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


class ClientPlan(NamedTuple):
    owner: str
    python: str
    arrays: list[Plan]
    ending: str
    ends_at_s: float


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
        return sum(plan.tasks for client in self.clients for plan in client.arrays)


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
    return weather


def _draw_resizes(seed: int, tasks: int) -> list[Fault]:
    """Changes of a worker's slots, from random numbers of their own: what else a seed stands for stays."""
    rng = Random(seed ^ 0x51075)  # noqa: S311 - as above
    most = max(1, int(tasks * 0.8))
    return [
        Fault(rng.randint(0, most), rng.choice((0.0, 0.0002, 0.05)), "resize worker", 0.0, rng.random())
        for _ in range(rng.randint(1, 3))
    ]


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
