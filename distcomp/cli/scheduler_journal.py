"""The journal of `distcomp-scheduler`: where it lies, and what a start tells of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from distcomp.cli.table import duration
from distcomp.config import JournalSettings, state_folder
from distcomp.errors import ConfigError
from distcomp.journal import Journal
from distcomp.journal_lock import set_aside
from distcomp.settings_file import surroundings

if TYPE_CHECKING:
    from distcomp.access import SchedulerAccess
    from distcomp.scheduler_memory import SchedulerMemory

OFF = "off"
MOST_OWNERS = 5


def open_journal(wanted: str | None, access: SchedulerAccess, *, fresh: bool) -> Journal | None:
    """The journal of a scheduler; None if it is to remember nothing.

    Args:
        wanted: a path, `off`, or None for the one by the scheduler's name.
        access: whose name and cluster it is.
        fresh: set an old one aside first.

    Raises:
        ConfigError: `--fresh` without a journal.
        JournalError: it cannot be used.
    """
    if wanted == OFF:
        if fresh:
            raise ConfigError("--fresh begins a new journal, and --journal off wants none: leave out one")
        return None
    path = Path(wanted).expanduser() if wanted else journal_path(access.cluster_name)
    if fresh and (aside := set_aside(path)) is not None:
        print(f"set the old journal aside as {aside}", flush=True)
    return Journal(path, access.cluster_id, JournalSettings.from_environment(surroundings()))


def journal_path(name: str) -> Path:
    """Where the scheduler of a name has its journal, unless told otherwise."""
    return state_folder() / "schedulers" / name / "journal.db"


def told_of(memory: SchedulerMemory | None) -> str:
    """One line: what was there of before, whose it is, and how old."""
    if memory is None or memory.restored is None:
        return "journal off: a restart forgets all tasks"
    found = memory.restored
    if not found.sessions:
        return f"journal {memory.path}: nothing to recover"
    owners = ", ".join(found.owners[:MOST_OWNERS])
    if len(found.owners) > MOST_OWNERS:
        owners += f" and {len(found.owners) - MOST_OWNERS} more"
    return (
        f"journal {memory.path}: recovered {found.pending} tasks pending, {found.leased} running and "
        f"{found.outcomes} results waiting, of {owners}; written {duration(memory.age_s)} ago"
    )
