"""A client within a task, which waits for what it submits; as `distcomp.stay` and `distcomp.relay` are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distcomp.worker_protocol import BindTask
from simulator.client import SimClient
from simulator.weather import ClientPlan

if TYPE_CHECKING:
    from simulator.slot import SimSlot, SlotRun
    from simulator.tasks import Plan
    from simulator.wire import End


class SimChild(SimClient):
    """Submits one array for a task, waits for all of it, and lets the task go on.

    Its session ends with its task, whatever ends that: so all of it may be cancelled at any time.
    """

    def __init__(self, slot: SimSlot, run: SlotRun, plan: Plan) -> None:
        world, grant = slot.worker.world, run.command.grant
        self._slot = slot
        self._binding = BindTask(slot.worker.id, slot.worker.key, grant.token, run.begun)
        world.children += 1
        world.users += 1
        super().__init__(
            world,
            1000 + world.children,
            ClientPlan("in a task", slot.worker.python, [plan], "close", 0.0),
        )
        self.grounds = True
        world.homes[self.state.session[:8]] = world.home_of(grant.array[0])

    def _submit(self, plan: Plan) -> None:
        super()._submit(plan)
        self.state.lend(lent=True)
        self._turn()

    def _accept(self, far: End) -> None:
        self.world.scheduler.accept(far, "worker", "pool")
        assert self.end is not None
        self.end.send([self._binding])

    def close(self) -> None:
        """All of it has ended: the task goes on."""
        if not self.over:
            self.state.lend(lent=False)
            super().close()
            self._slot.go_on_after(self)
