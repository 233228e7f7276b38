"""Taking work back when slots run dry: leases that wait, and the far half of what has not begun."""

from __future__ import annotations

from heapq import nlargest
from typing import TYPE_CHECKING

from distcomp.core.timers import NEVER
from distcomp.worker_protocol import RetractLease

if TYPE_CHECKING:
    from distcomp.core.books import Books, WorkerPool
    from distcomp.core.leases import OpenLease


def retract(books: Books, pool: WorkerPool, now: float) -> None:
    """Ask for work back, one request for each idle slot, where most is to be had.

    All leases that can be divided are looked at, but only so often that the looking costs a bounded part
    of the time however many there are.
    """
    settings = books.settings
    if now < max(pool.look_at, pool.look_after):
        return
    wanted = pool.roster.idle
    victims: list[tuple[float, int, OpenLease]] = []
    pool.look_at = NEVER
    for lease in pool.divisible.values():
        if lease.retract_until > now:
            wanted -= 1
            pool.look_at = min(pool.look_at, lease.retract_until)
            continue
        worth_s, look_at = _worth(lease, settings.retract_worth_s, now)
        if worth_s > 0:
            victims.append((worth_s, -lease.token[1], lease))
        pool.look_at = min(pool.look_at, look_at)
    for _, _, lease in nlargest(wanted, victims):
        lease.retract_until = now + settings.retract_answer_s
        books.follow(lease, RetractLease(lease.token, lease.waits))
    pause_s = max(settings.retract_interval_s, len(pool.divisible) * settings.retract_look_s)
    pool.look_after = now + pause_s
    if victims:
        pool.look_at = now


def _worth(lease: OpenLease, worth_s: float, now: float) -> tuple[float, float]:
    """The seconds of work that could be had from a lease, and when to look again if it is none.

    A lease that has overrun its estimate by `worth_s` is taken to hold tasks as long as the one it has
    been at since it was last heard of.
    """
    if lease.worker.peer is None:
        return 0.0, NEVER
    pace_s = lease.array.pace_s if lease.array.pace_s >= 0 else lease.pace_s
    if lease.waits:
        late_at = lease.begins_at + worth_s
        return (lease.size * pace_s + now - lease.begins_at, NEVER) if now >= late_at else (0.0, late_at)
    rest = lease.size - 1
    if rest <= 0:
        return 0.0, NEVER
    since = max(lease.heard_at, lease.begins_at)
    ends_at = since + lease.size * pace_s
    if ends_at - now >= worth_s:
        return rest * pace_s, NEVER
    if now >= ends_at + worth_s:
        return rest * (now - since), NEVER
    return 0.0, ends_at + worth_s
