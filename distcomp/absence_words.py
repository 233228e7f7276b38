"""What users are told when a scheduler is away that remembers their tasks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distcomp.core.client_absence import Absence


def words_of(told: Absence, where: str, now: float) -> str:
    """One line for the log.

    Args:
        told: what is to be said.
        where: which scheduler it is.
        now: monotonic seconds.
    """
    if told.state == "back":
        return f"{where} is back after {now - told.since:.0f} s"
    clock = time.strftime("%H:%M:%S", time.localtime(time.time() - (now - told.since)))
    return _away(told, where, clock) if told.state == "away" else _left(told, where, clock)


def _away(told: Absence, where: str, clock: str) -> str:
    there = told.attached + told.detached
    said = [f"{_tasks(there)} {_is(there)} safe in its journal"] if there else []
    if told.unsent:
        said.append(f"{_tasks(told.unsent)} {'waits' if told.unsent == 1 else 'wait'} here to be sent")
    return (
        f"{where} has been away since {clock}: {', '.join(said)}. Start it again with the same flags "
        "(--name, --journal), and all goes on; Ctrl-C stops waiting"
    )


def _left(told: Absence, where: str, clock: str) -> str:
    said = []
    if told.attached:
        said.append(
            f"{_tasks(told.attached)} {_is(told.attached)} left there, and cancelled when it has been back "
            f"for {told.grace_s:g} s"
        )
    if told.detached:
        goes = "goes" if told.detached == 1 else "go"
        said.append(f"{_tasks(told.detached)} {_is(told.detached)} left there, and {goes} on: detached")
    if told.unsent:
        said.append(f"{_tasks(told.unsent)} {_is(told.unsent)} not acknowledged by it, and may be lost")
    return f"{where} has been away since {clock}, and is not waited for: {'; '.join(said)}"


def _tasks(number: int) -> str:
    return "1 task" if number == 1 else f"{number:,} tasks"


def _is(number: int) -> str:
    return "is" if number == 1 else "are"
