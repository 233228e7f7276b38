"""What goes wrong in a world, when so much of its work has begun."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.client import SimClient
    from simulator.weather import Fault
    from simulator.worker import SimWorker
    from simulator.world import World


MOST_SLOTS = 5
"""Slots that an admin gives a worker."""


class Storm:
    """The faults of one world.

    Attributes:
        happened: faults by kind that came about while work was under way.
        missed: how many found nothing to hurt.
        lives: what came about in the lives of runs' processes.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.happened: Counter[str] = Counter()
        self.missed = 0
        self.lives: Counter[str] = Counter()
        self._faults = list(world.weather.faults)
        self._sender_doomed = False

    @property
    def is_proof(self) -> bool:
        """Whether what was to go wrong did so while work was under way."""
        return not self.world.weather.faults or sum(self.happened.values()) > self.missed

    def set_alarm(self) -> None:
        """Have the ledger call when so many tasks have begun that the next fault is due."""
        self.world.ledger.alarm_at = self._faults[0].after_tasks if self._faults else None

    def go_on(self) -> None:
        fault = self._faults.pop(0)
        self.world.clock.after(fault.delay_s, self._strike, fault)
        self.set_alarm()

    def takes_sender(self) -> bool:
        """Whether a slot process that is about to send what it has finished is to be killed."""
        doomed, self._sender_doomed = self._sender_doomed, False
        return doomed

    def _strike(self, fault: Fault) -> None:
        hit = self.world.ledger.open > 0 and self._carry_out(fault)
        self.world.say(f"*** {fault.kind} {fault.seconds:g} s {'' if hit else '(nothing to hurt)'}")
        if hit:
            self.happened[fault.kind] += 1
        else:
            self.missed += 1

    def _carry_out(self, fault: Fault) -> bool:
        """Let a fault happen; says whether it hurt anything."""
        if fault.kind == "kill sender":
            self._sender_doomed = True
            return True
        what, whom = fault.kind.split(" ")
        if whom == "scheduler" or what == "no":
            return self._strike_all(fault)
        if whom == "away":
            what, whom = "away", "client"
        if fault.kind == "join worker":
            self.world.join(1 + int(fault.pick * 3), self.world.workers[0].python)
            return True
        if whom == "client":
            clients = [client for client in self.world.clients if not client.over]
            return bool(clients) and self._strike_client(clients[int(fault.pick * len(clients))], what, fault)
        busy = [worker for worker in self.world.workers if any(not p.idle for p in worker.processes.values())]
        return bool(busy) and self._strike_worker(busy[int(fault.pick * len(busy))], what, fault)

    def _strike_all(self, fault: Fault) -> bool:
        if fault.kind in ("restart scheduler", "kill scheduler", "end scheduler"):
            return self._end_scheduler(fault)
        if fault.kind == "stop scheduler":
            self.world.scheduler.freeze(min(fault.seconds, 14.0))
            for end in self.world.scheduler.ends.values():
                end.far.miss(self.world.scheduler.frozen_until)
        else:
            for worker in self.world.workers:
                worker.without_processes = True
            self.world.clock.after(min(fault.seconds, 3.0), self._allow_processes)
        return True

    def _end_scheduler(self, fault: Fault) -> bool:
        scheduler, forgets = self.world.scheduler, fault.kind == "restart scheduler"
        if scheduler.down or (scheduler.frozen and not forgets):
            return False
        pause_s, in_order = min(fault.seconds, 14.0), fault.kind == "end scheduler"
        scheduler.restart(pause_s, in_order=in_order, heard=forgets or fault.pick < 0.5)
        for client in list(self.world.clients):
            if forgets:
                client.grounds = True
            client.scheduler_fell()
        return True

    def _allow_processes(self) -> None:
        for worker in self.world.workers:
            worker.without_processes = False

    def _strike_client(self, client: SimClient, what: str, fault: Fault) -> bool:
        if what == "away":
            client.go_away(fault.seconds)
        elif what == "stop":
            client.stop(fault.seconds)
        elif client.end is None:
            return False
        elif what == "reset":
            client.end.reset()
        else:
            client.end.stall(fault.seconds)
        return True

    def _strike_worker(self, worker: SimWorker, what: str, fault: Fault) -> bool:
        if what == "stop":
            worker.stop(fault.seconds, wholly=fault.kind == "stop machine")
        elif what == "resize":
            return self.world.scheduler.resize(worker.id, 1 + int(fault.pick * 997) % MOST_SLOTS)
        elif what == "drain":
            self.world.join(worker.slots, worker.python)
            worker.run(worker.drain)
        elif what in ("kill", "lose") and fault.kind.endswith("worker"):
            self.world.workers.remove(worker)
            self.world.join(worker.slots, worker.python)
            worker.crash(silently=what == "lose")
        elif what == "kill":
            busy = [process for process in worker.processes.values() if not process.idle]
            busy[int(fault.pick * 997) % len(busy)].die("killed from outside")
        elif worker.end is None:
            return False
        elif what == "reset":
            worker.end.reset()
        else:
            worker.end.stall(fault.seconds)
        return True
