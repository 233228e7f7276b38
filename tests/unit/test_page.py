from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from distcomp.page import BEGUN, BEGUN_AT, LANES, NOTHING, RUN, STOP, Begun, Page, lane_of, page_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

RING_BYTES = 64


@pytest.fixture
def page() -> Iterator[Page]:
    made = Page(memoryview(bytearray(page_bytes(RING_BYTES))))
    yield made
    made.release()


def begin(page: Page, run: int, index: int, at_ns: int = 7) -> None:
    lane = lane_of(run)
    page.words[RUN] = run
    page.words[lane + BEGUN_AT] = at_ns
    page.words[lane + BEGUN] = index


def test_a_fresh_page_says_that_nothing_runs(page: Page) -> None:
    assert page.begun() == NOTHING
    assert not page.is_wanted()


def test_a_lane_is_laid_out_before_its_first_task(page: Page) -> None:
    page.open_lane(3, 10, 20)
    assert page.lower_stop(3, 15) == 15
    assert page.lower_stop(3, 0) == 10, "nothing had begun, so all of it is taken back"


def test_neighbouring_runs_have_lanes_of_their_own(page: Page) -> None:
    lanes = [lane_of(run) for run in range(1, LANES + 1)]
    assert len(set(lanes)) == LANES
    page.open_lane(1, 0, 5)
    page.open_lane(2, 5, 9)
    begin(page, 1, 4)
    assert page.lower_stop(2, 0) == 5


def test_a_begun_task_is_never_taken_back(page: Page) -> None:
    page.open_lane(1, 0, 10)
    begin(page, 1, 4)
    assert page.lower_stop(1, 2) == 5
    assert page.lower_stop(1, 8) == 5, "a stop is never raised again"


def test_begun_names_run_index_and_time(page: Page) -> None:
    page.open_lane(9, 0, 10)
    begin(page, 9, 3, 12345)
    assert page.begun() == Begun(9, 3, 12345)
    page.words[lane_of(9) + BEGUN_AT] = 0
    assert page.begun() == NOTHING, "between two tasks nothing runs"


def test_an_interrupt_is_meant_for_one_task_only(page: Page) -> None:
    page.open_lane(1, 0, 10)
    page.want_end(1, 3)
    begin(page, 1, 2)
    assert not page.is_wanted()
    begin(page, 1, 3)
    assert page.is_wanted()
    begin(page, 2, 3)
    assert not page.is_wanted()


@pytest.mark.parametrize(
    "pieces", [[b"abc"], [b"x" * 60, b"y" * 10], [b"z" * 200], [b"a" * 64], [b"q"] * 150]
)
def test_the_ring_keeps_the_last_bytes(page: Page, pieces: list[bytes]) -> None:
    begin(page, 1, 0)
    for piece in pieces:
        page.printed(piece)
    assert page.output(1, 0) == b"".join(pieces)[-RING_BYTES:]


def test_the_ring_is_cleared_when_another_task_prints(page: Page) -> None:
    begin(page, 1, 0)
    page.printed(b"first")
    begin(page, 1, 1)
    assert page.output(1, 0) == b"first"
    assert page.output(1, 1) == b""
    page.printed(b"second")
    assert page.output(1, 1) == b"second"
    assert page.output(1, 0) == b""


def test_who_looks_while_something_is_printed_sees_only_bytes_that_are_there(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ring(bytearray):
        def __setitem__(self, place: Any, data: Any) -> None:
            seen.append(page.output(1, 0))
            super().__setitem__(place, data)

    seen: list[bytes] = []
    begin(page, 1, 0)
    monkeypatch.setattr(page, "_ring", Ring(len(page._ring)))
    page.printed(b"first ")
    page.printed(b"second")
    assert set(seen) == {b"", b"first "}


def test_taking_back_while_tasks_begin_shares_no_index(page: Page) -> None:
    """What the two sides together do: every index is run or taken back, and none is both."""
    for run in range(1, 60):
        page.open_lane(run, 0, 3000)
        ran: list[int] = []
        lane = lane_of(run)

        def work(lane: int = lane, ran: list[int] = ran) -> None:
            words, index = page.words, 0
            while True:
                words[lane + BEGUN_AT] = 1
                words[lane + BEGUN] = index
                if words[lane + STOP] <= index:
                    return
                ran.append(index)
                index += 1

        slot = threading.Thread(target=work)
        slot.start()
        while not ran and slot.is_alive():
            pass
        taken_from = page.lower_stop(run, 0)
        slot.join()
        assert len(ran) <= taken_from
        assert taken_from - len(ran) <= 1
