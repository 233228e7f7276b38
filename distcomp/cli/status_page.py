"""The screen of `distcomp status`, and the same as JSON: pure functions of what the scheduler reported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from distcomp.cli.table import BOLD, RED, Column, count, cut_left, duration, paint, printable, size, table

if TYPE_CHECKING:
    from distcomp.ids import WorkerId
    from distcomp.protocol import StatusReported
    from distcomp.rows import ArrayRow, Totals, WorkerRow

FIXED_LINES = 7
"""Lines of the screen that are neither of its head, nor a worker, nor an array."""

LEAST_UNREAD_BYTES = 1 << 20
"""Results below that are on their way, and no news."""

OFF = "off"
"""What a scheduler without a journal tells of it."""

WORKER_COLUMNS = (
    Column("WORKER", words=True),
    Column("HOST", words=True),
    Column("PYTHON", spare=True),
    Column("SLOTS"),
    Column("BUSY"),
    Column("LEASED", spare=True),
    Column("SETTLED"),
    Column("FAILED"),
    Column("BUSY S", spare=True),
    Column("TASKS/S"),
    Column("STATE", words=True),
)
ARRAY_COLUMNS = (
    Column("FUNCTION", words=True),
    Column("OWNER", words=True),
    Column("PRIORITY"),
    Column("TASKS"),
    Column("WAITING"),
    Column("LEASED"),
    Column("SETTLED"),
    Column("FAILED"),
    Column("AGE"),
)


class Observation(NamedTuple):
    """Two looks at one cluster, so that rates can be told.

    Attributes:
        address: where it was reached.
        first: a whole report.
        last: a later whole report, of the same scheduler.
        apart_s: the time between them.
    """

    address: str
    first: StatusReported
    last: StatusReported
    apart_s: float

    def rate(self) -> float:
        """Tasks settled a second."""
        return self._per_second(self.last.totals.settled - self.first.totals.settled)

    def worker_rates(self) -> dict[WorkerId, float]:
        """Tasks settled a second, by worker."""
        before = {row.worker: row.settled for row in self.first.workers}
        return {
            row.worker: self._per_second(row.settled - before.get(row.worker, 0)) for row in self.last.workers
        }

    def _per_second(self, tasks: int) -> float:
        return max(0, tasks) / self.apart_s if self.apart_s > 0 else 0.0


def screen(seen: Observation, width: int, height: int, *, coloured: bool) -> str:
    """The whole screen as text.

    Args:
        seen: what to show.
        width: signs in a line.
        height: lines; workers and arrays share what the head leaves, and the rest is counted.
        coloured: whether to send colours.
    """
    report, head = seen.last, _head(seen, width, coloured=coloured)
    room = max(2, height - FIXED_LINES - len(head))
    arrays_room = max(1, min(len(report.arrays), room // 2, room - len(report.workers)))
    rates = seen.worker_rates()
    workers = [_worker_cells(row, rates[row.worker]) for row in sorted(report.workers, key=_by_name)]
    arrays = [_array_cells(row) for row in sorted(report.arrays, key=lambda row: (-row.priority, -row.age_s))]
    lines = [*head, ""]
    if workers:
        lines += _limited(WORKER_COLUMNS, workers, width, max(1, room - arrays_room), coloured=coloured)
    else:
        lines.append("no workers: distcomp-worker starts one")
    if arrays:
        lines += ["", *_limited(ARRAY_COLUMNS, arrays, width, arrays_room, coloured=coloured)]
    return "\n".join(lines)


def _head(seen: Observation, width: int, *, coloured: bool) -> list[str]:
    report, totals = seen.last, seen.last.totals
    title = f"cluster {report.cluster} at {seen.address}, up {duration(totals.uptime_s)}"
    warning = "" if report.auth else "  " + paint("AUTH OFF", RED, coloured=coloured)
    nonsense = f", {count(totals.nonsense)} peers talked nonsense" if totals.nonsense else ""
    idle = totals.idle_while_queued_s / totals.slot_s if totals.slot_s else 0.0
    return [
        paint(title, BOLD, coloured=coloured) + warning,
        *_journal(report, width, coloured=coloured),
        (
            f"workers {count(totals.workers)}   slots {count(totals.slots)}, {count(totals.busy)} busy   "
            f"sessions {count(totals.sessions)}{_bundles(totals)}"
        ),
        (
            f"queue   {count(totals.pending)} waiting, {count(totals.leased)} leased   "
            f"rate {count(seen.rate())} tasks/s   idle while queued {idle:.1%}"
        ),
        (
            f"so far  {count(totals.accepted)} accepted, {count(totals.settled)} settled, "
            f"{count(totals.failed)} failed, {count(totals.retried)} retried, "
            f"{count(totals.cancelled)} cancelled, {count(totals.lost)} lost{nonsense}"
        ),
        *_unread(totals),
    ]


def _journal(report: StatusReported, width: int, *, coloured: bool) -> list[str]:
    """Whether a restart of the scheduler costs tasks, and whether it takes any now."""
    lines = []
    if report.journal == OFF:
        lines.append(paint("journal off: a restart forgets all tasks", RED, coloured=coloured))
    elif report.journal:
        told = f"journal {size(report.journal_bytes)}, last commit {duration(report.committed_ago_s)} ago: "
        lines.append(told + cut_left(printable(report.journal), width - len(told)))
    if report.shut:
        lines.append(paint(f"nothing new is accepted: {printable(report.shut)}", RED, coloured=coloured))
    if report.no_room:
        lines.append(paint(printable(report.no_room), RED, coloured=coloured))
    return lines


def _unread(totals: Totals) -> list[str]:
    """Results that their clients have not fetched."""
    if totals.unread_bytes < LEAST_UNREAD_BYTES:
        return []
    in_files = f", {size(totals.spilled_bytes)} of it in files" if totals.spilled_bytes else ""
    return [f"unread  {size(totals.unread_bytes)} of results wait for their clients{in_files}"]


def _bundles(totals: Totals) -> str:
    """The bundles of local modules that the scheduler holds."""
    if not totals.bundles:
        return ""
    return f"   bundles {count(totals.bundles)}, {count(totals.bundle_bytes / 1024)} KiB"


def _limited(
    columns: tuple[Column, ...], rows: list[list[str]], width: int, room: int, *, coloured: bool
) -> list[str]:
    heading, *lines = table(columns, rows[:room], width)
    more = [f"… and {len(rows) - room:,} more"] if len(rows) > room else []
    return [paint(heading, BOLD, coloured=coloured), *lines, *more]


def _by_name(row: WorkerRow) -> tuple[str, WorkerId]:
    return row.name, row.worker


def _worker_cells(row: WorkerRow, rate: float) -> list[str]:
    return [
        row.name,
        row.host,
        row.python,
        count(row.slots),
        count(row.busy),
        count(row.leased),
        count(row.settled),
        count(row.failed),
        f"{row.busy_s:,.1f}",
        count(rate),
        f"unfit: {row.unfit}" if row.unfit else _state_words(row),
    ]


def _state_words(row: WorkerRow) -> str:
    """The state, and how many tasks wait there for tasks that they submitted while others run."""
    return f"{row.state}, {row.lent} lent" if row.lent else row.state


def _array_cells(row: ArrayRow) -> list[str]:
    return [
        row.function,
        row.owner,
        count(row.priority),
        count(row.tasks),
        count(row.pending),
        count(row.leased),
        count(row.settled),
        count(row.failed),
        duration(row.age_s),
    ]


def as_json(seen: Observation) -> dict[str, Any]:
    """Everything that was reported, with ids as hexadecimal text, and the rates."""
    report, rates = seen.last, seen.worker_rates()
    return {
        "address": seen.address,
        "cluster": report.cluster,
        "epoch": report.epoch,
        "auth": report.auth,
        "journal": report.journal,
        "journal_bytes": report.journal_bytes,
        "committed_ago_s": round(report.committed_ago_s, 3),
        "shut": report.shut,
        "no_room": report.no_room,
        "tasks_per_s": round(seen.rate(), 3),
        "totals": report.totals._asdict(),
        "workers": [_readable(row) | {"tasks_per_s": round(rates[row.worker], 3)} for row in report.workers],
        "arrays": [_readable(row) for row in report.arrays],
    }


def _readable(value: Any) -> Any:
    """Records as dictionaries, bytes as hexadecimal text."""
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "_asdict"):
        return {name: _readable(field) for name, field in value._asdict().items()}
    return [_readable(each) for each in value] if isinstance(value, tuple) else value
