"""What an image makes of an array that is whole in one lease, whatever is said of it next."""

from __future__ import annotations

from typing import Any

import pytest
from scheduler_world import BLOB, FUNCTION, versions

from distcomp import records
from distcomp.core.image import Image
from distcomp.rows import TaskOptions

SESSION, WORKER, OTHER = b"s" * 16, b"w" * 16, b"o" * 16
ARRAY, TOKEN, NEXT = (SESSION, 4), (7, 1), (7, 2)
TASKS = 3


def image_of(*told: Any, options: TaskOptions | None = None, run: bool = False) -> Image:
    """An image of an array of three tasks, leased at once, and of what is told then."""
    image = Image()
    image.replay(
        [
            records.SessionBegan(SESSION, "ann", versions("3.11.4"), "h", 1, "p", b"", 60.0),
            *([records.RunOpened(SESSION, "fit", b"", "h", 1, "p", 1.0, 1.0)] if run else []),
            records.FunctionDefined(FUNCTION, "f", BLOB),
            records.TasksAccepted(ARRAY, FUNCTION, options or TaskOptions(), 0, TASKS, 0, b"args", last=True),
            records.LeaseGranted(TOKEN, ARRAY, 0, TASKS, 1, WORKER),
            *told,
        ]
    )
    return image


def ended(*spans: tuple[int, int], token: Any = TOKEN, seq: int = 1) -> records.TasksEnded:
    return records.TasksEnded(ARRAY, token, seq, spans, tuple((*span, b"r") for span in spans))


def found(image: Image) -> tuple[list[Any], dict[Any, list[Any]]]:
    """What is pending of the array, and what its leases hold."""
    array = image.sessions[SESSION].array(4)
    assert array is not None
    return list(array.pending), {token: sorted(lease.open) for token, lease in array.leases.items()}


def test_two_records_say_it() -> None:
    image = image_of()
    session = image.sessions[SESSION]
    assert (len(session.arrays), len(session.untouched), len(session.begun)) == (0, 1, 1)
    assert found(image) == ([], {TOKEN: [(0, 3)]})
    assert (len(session.arrays), len(session.untouched), len(session.begun)) == (1, 0, 0)


def test_its_end_leaves_its_number_and_its_outcome() -> None:
    image = image_of(ended((0, 3)))
    session = image.sessions[SESSION]
    assert [session.arrays, session.untouched, session.begun, image.leases, session.past] == [{}] * 5
    assert list(session.finished) == [(4, 5)]
    assert session.outbox[1].message == (1, ARRAY, ((0, 3, b"r"),), ())
    image.replay([records.SessionEnded(SESSION)])
    assert not image.sessions


def test_its_end_is_the_end_of_a_closed_session() -> None:
    image = image_of(records.SessionEnded(SESSION), ended((0, 3), seq=0))
    assert not image.sessions


def test_its_end_is_remembered_of_a_run() -> None:
    (past,) = image_of(ended((0, 3)), run=True).sessions[SESSION].past.values()
    assert past == (FUNCTION, "f", 3, 0)


@pytest.mark.parametrize(
    ("told", "pending", "leases"),
    [
        ([ended((0, 1))], [], {TOKEN: [(1, 3)]}),
        ([ended((0, 1)), ended((1, 2), seq=2)], [], {TOKEN: [(2, 3)]}),
        ([ended((0, 1), token=NEXT)], [], {TOKEN: [(1, 3)]}),
        ([records.IndexesReturned(TOKEN, ((1, 3),), begun=False)], [(1, 3)], {TOKEN: [(0, 1)]}),
        ([records.IndexesReturned(TOKEN, ((0, 3),), begun=True)], [(0, 3)], {}),
        ([records.TaskTried(ARRAY, 1, TOKEN, 1, 0, 0, 0, (), 1)], [(1, 2)], {TOKEN: [(0, 1), (2, 3)]}),
        ([records.TasksCancelled(ARRAY, ((0, 2),))], [], {TOKEN: [(2, 3)]}),
        ([records.ArrayClosed(ARRAY)], [], {TOKEN: [(0, 3)]}),
        ([records.LeaseGranted(NEXT, ARRAY, 0, 3, 1, OTHER)], [], {TOKEN: [(0, 3)]}),
        (
            [
                records.IndexesReturned(TOKEN, ((0, 3),), begun=False),
                records.LeaseGranted(NEXT, ARRAY, 0, 3, 1, OTHER),
            ],
            [],
            {NEXT: [(0, 3)]},
        ),
    ],
)
def test_whatever_else_is_said_makes_it_an_array(
    told: list[Any], pending: list[Any], leases: dict[Any, list[Any]]
) -> None:
    image = image_of(*told)
    assert found(image) == (pending, leases)
    assert image.leases.keys() == leases.keys()


def test_a_lease_of_a_part_leaves_the_rest_pending() -> None:
    image = image_of()
    array = (SESSION, 5)
    image.replay(
        [
            records.TasksAccepted(array, FUNCTION, TaskOptions(), 0, 2, 0, b"args", last=True),
            records.LeaseGranted(NEXT, array, 0, 1, 1, WORKER),
            records.LeaseGranted((7, 9), (SESSION, 99), 0, 1, 1, WORKER),
            records.LeaseGranted((7, 9), (OTHER, 0), 0, 1, 1, WORKER),
        ]
    )
    known = image.sessions[SESSION].arrays[5]
    assert (list(known.pending), list(known.leases)) == ([(1, 2)], [NEXT])
    assert image.leases.keys() == {TOKEN, NEXT}


def test_starts_are_counted_where_they_are_bounded() -> None:
    array = image_of(options=TaskOptions(max_attempts=2)).sessions[SESSION].arrays[4]
    assert array.trials[0].starts == 1


def test_a_session_that_begins_anew_leaves_no_lease() -> None:
    image = Image(compacted=True)
    began = records.SessionBegan(SESSION, "ann", versions("3.11.4"), "h", 1, "p", b"", 60.0)
    image.replay(
        [
            records.CompactionBegan(),
            began,
            records.TasksAccepted(ARRAY, FUNCTION, TaskOptions(), 0, 1, 0, b"args", last=True),
            records.LeaseGranted(TOKEN, ARRAY, 0, 1, 1, WORKER),
            records.SessionEnded(SESSION),
            began,
        ]
    )
    assert not image.leases
    assert not image.sessions[SESSION].untouched
