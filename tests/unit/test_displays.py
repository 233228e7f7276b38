from __future__ import annotations

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from distcomp import displays
from distcomp.displays import Bar, Lines, Silence, Tally, follow, line_of


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("tally", "taken_s", "line"),
    [
        (Tally(1000, 250, 0, 0), 5.0, "distcomp: 250 of 1,000 done (25%), 50.0/s, 0:15 left"),
        (Tally(4, 4, 1, 2), 2.0, "distcomp: 4 of 4 done (100%), 1 failed, 2 retried, 2.0/s"),
        (Tally(10**6, 10, 0, 0), 10.0, "distcomp: 10 of 1,000,000 done (0%), 1.0/s, 277:46:30 left"),
        (Tally(None, 3000, 0, 0), 1.0, "distcomp: 3,000 done, 3,000/s"),
        (Tally(0, 0, 0, 0), 0.0, "distcomp: 0 of 0 done (100%), 0.0/s"),
    ],
)
def test_a_tally_as_a_line(tally: Tally, taken_s: float, line: str) -> None:
    assert line_of(tally, taken_s) == line


def test_a_live_line_is_written_over_each_second() -> None:
    clock, stream = Clock(), io.StringIO()
    lines = Lines(stream, live=True, clock=clock)
    for clock.now in (0.5, 1.0, 1.5, 2.0):
        lines.show(Tally(10, 1, int(clock.now < 2.0), 0))
    lines.close(Tally(10, 10, 0, 0))
    *shown, last = stream.getvalue().split("\r")
    assert [line.partition("(")[0] for line in shown] == ["distcomp: 1 of 10 done "] * 2
    assert len(shown[0]) == len(shown[1]), "the longer line is gone"
    assert last.startswith("distcomp: 10 of 10 done (100%)")
    assert last.endswith("\n")


def test_where_lines_stay_there_are_few_and_none_for_short_work() -> None:
    clock, stream = Clock(), io.StringIO()
    short = Lines(stream, live=False, clock=clock)
    clock.now = 9.0
    short.show(Tally(10, 9, 0, 0))
    short.close(Tally(10, 10, 0, 0))
    assert stream.getvalue() == ""
    long = Lines(stream, live=False, clock=clock)
    for second in range(60):
        clock.now = 9.0 + second
        long.show(Tally(100, second, 0, 0))
    long.close(Tally(100, 100, 0, 0))
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["10", "40", "100"]


def test_a_bar_is_there_once_the_work_has_taken_a_while() -> None:
    tqdm = pytest.importorskip("tqdm.std", reason="the extra for progress bars is not installed")
    clock, stream = Clock(), io.StringIO()

    def make(**options: Any) -> Any:
        return tqdm.tqdm(file=stream, **options)

    bar = Bar(make, clock=clock)
    bar.show(Tally(10, 1, 0, 0))
    bar.close(Tally(10, 1, 0, 0))
    assert stream.getvalue() == ""
    clock.now = 1.0
    bar.show(Tally(10, 5, 0, 0))
    bar.show(Tally(10, 6, 1, 2))
    bar.close(Tally(10, 10, 1, 2))
    written = stream.getvalue()
    assert "6/10" in written
    assert "10/10" in written.splitlines()[-1].rpartition("\r")[2]
    assert "1 failed, 2 retried" in written


@pytest.mark.parametrize(
    ("stream", "extra", "kind"),
    [
        (Terminal(), "tqdm", Bar),
        (Terminal(), "", Lines),
        (io.StringIO(), "tqdm", Lines),
        (None, "tqdm", Silence),
    ],
)
def test_what_is_shown_fits_to_where(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None, extra: str, kind: type[Any]
) -> None:
    if extra:
        pytest.importorskip("tqdm.std", reason="the extra for progress bars is not installed")
    else:
        monkeypatch.setattr(displays, "find_spec", lambda _: None)
    display = displays._fitting(stream)
    assert type(display) is kind
    display.show(Tally(1, 0, 0, 0))
    display.close(Tally(1, 1, 0, 0))


def test_a_notebook_is_known_by_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert not displays.in_notebook()
    shell.kernel = object()
    assert displays.in_notebook()


def test_following_ends_with_the_wait_or_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    shows: list[Tally] = []

    class Display(Silence):
        def show(self, tally: Tally) -> None:
            shows.append(tally)

        def close(self, tally: Tally) -> None:
            shows.append(tally._replace(total=-1))

    monkeypatch.setattr(displays, "_fitting", lambda _: Display())
    ended = iter([False, False, True])
    follow(lambda _: next(ended), lambda: Tally(1, 0, 0, 0))
    assert [tally.total for tally in shows] == [1, 1, -1]

    def interrupted(_: float) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow(interrupted, lambda: Tally(1, 0, 0, 0))
    assert len(shows) == 4
