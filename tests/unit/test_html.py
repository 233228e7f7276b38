from __future__ import annotations

from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

from test_futures import Group, PlainHost

from distcomp import html
from distcomp.array_legs import Entry
from distcomp.displays import Tally
from distcomp.payload import dump_failure
from distcomp.protocol import StatusReported
from distcomp.rows import Failure, PastAttempt, Totals, WorkerRow
from distcomp.task_arrays import TaskArray

if TYPE_CHECKING:
    import pytest

NASTY = "<script>alert('&')</script>"


class Page(HTMLParser):
    """Reads a piece of HTML strictly: what is opened is closed, in order; gives its texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        assert not {"script", "style", "link", "iframe"} & set(self.seen)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not [name for name, _ in attrs if name != "style"]
        self.open.append(tag)
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_every_text_is_escaped() -> None:
    page = Page(
        html.card(
            NASTY,
            html.line(NASTY),
            html.table((NASTY,), [(NASTY,)]),
            html.folded(NASTY, NASTY),
        )
    )
    assert page.texts == [NASTY] * 6


def test_long_things_are_cut_and_empty_ones_left_out() -> None:
    assert html.table(("a",), []) == html.folded("a", " \n") == ""
    page = Page(html.table(("a",), [(number,) for number in range(1234)]))
    assert page.seen.count("tr") == 1 + html.MOST_ROWS
    assert page.texts[-1] == "and 1,214 more"
    assert len(Page(html.line("x" * 10**6)).texts[0]) < 11_000


def test_a_bar_shows_good_failed_and_open_tasks() -> None:
    assert [
        part.partition("%")[0] for part in html.bar(Tally(8, 4, 1, 0)).split('<span style="width:')[1:]
    ] == [
        "37.50",
        "12.50",
        "50.00",
    ]
    Page(html.bar(Tally(0, 0, 0, 0)))


def test_a_future_shows_where_it_is_or_how_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group(3)
    monkeypatch.setattr(PlainHost, "explain_task", None, raising=False)  # it is not asked for a picture
    assert Page(group.futures[0]._repr_html_()).texts == ["Future: pending"]
    group.give(0, 1)
    assert Page(group.futures[0]._repr_html_()).texts[0] == "Future: finished"
    past = (PastAttempt(1, "lost", "left", "a", "gone"),)
    failure = dump_failure(KeyError(NASTY))._replace(worker="right", host="b", attempt=2, past=past)
    group.fail(1, failure)
    for _ in range(2):
        page = Page(group.futures[1]._repr_html_())
        assert page.texts[0] == "Future: failed"
        assert {"left", "right", "lost", "exception", "traceback"} <= set(page.texts)
        assert any("KeyError" in text for text in page.texts[-1:])
        assert group.futures[1].exception() is not None
    assert Page(group.futures[1].explain()._repr_html_()).texts[0] == "Task: failed"


def array_of(tasks: int, **failures: Failure) -> TaskArray[Any]:
    array: TaskArray[Any] = TaskArray(PlainHost(), tasks, lambda _: None)  # type: ignore[arg-type,return-value]  # neither is used
    for index, failure in failures.items():
        array.take_in(Entry(int(index[1:]), int(index[1:]) + 1, "FINISHED", failure), [])
    return array


def test_an_array_shows_how_far_it_is_and_its_failures() -> None:
    array = array_of(9, i2=dump_failure(ValueError(NASTY)), i5=Failure("lost", text="its worker is gone"))
    page = Page(array._repr_html_())
    assert page.texts == ["TaskArray", "2 of 9 done, 2 failed"]
    failures = array.failures()
    assert list(failures) == [2, 5]
    page = Page(failures._repr_html_())
    assert page.texts[0] == "2 failed tasks"
    assert {"2", "5", "ValueError", NASTY, "TaskLostError", "traceback of task 2"} <= set(page.texts)
    assert Page(array_of(1).failures()._repr_html_()).texts == ["0 failed tasks"]


def test_a_client_shows_its_cluster_if_it_can_be_asked() -> None:
    assert Page(html.client_html("Client of x", None)).texts == ["Client of x"]
    numbers = dict.fromkeys(Totals._fields, 0) | {"workers": 1, "slots": 4, "busy": 3, "pending": 5}
    row = WorkerRow(b"w" * 16, "left", NASTY, 1, 4, 3, 3, 0, 0, 0.0, "ready", "3.11.4", "")
    report = StatusReported(True, "c", 1, True, Totals(**numbers), (row,), (), (), ())  # type: ignore[arg-type]  # numbers
    page = Page(html.client_html("Client of x", report))
    assert page.texts[1] == "1 worker, 4 slots, 3 busy; 5 tasks wait, 0 are done"
    assert page.texts[-5:] == ["left", NASTY, "3.11.4", "3 of 4", "ready"]
    assert not any("journal" in text for text in page.texts)


def test_a_client_shows_whether_its_cluster_forgets() -> None:
    numbers: dict[str, Any] = dict.fromkeys(Totals._fields, 0)
    report = StatusReported(True, "c", 1, True, Totals(**numbers), (), (), (), (), journal="off")
    assert "journal off" in Page(html.client_html("Client of x", report)).texts[2]
    (_, _, text) = Page(html.client_html("Client of x", report, is_embedded=True)).texts
    assert text == "without a journal: an embedded cluster and its tasks end with this program"
    shut = report._replace(journal="/j", shut="its disk is full")
    assert Page(html.client_html("Client of x", shut)).texts[2:] == [
        "nothing new is accepted: its disk is full"
    ]
    waiting = report._replace(journal="/j", no_room="5 bytes do not fit")
    assert Page(html.client_html("Client of x", waiting)).texts[2:] == ["5 bytes do not fit"]
