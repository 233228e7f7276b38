from __future__ import annotations

from distcomp.cli.scheduler_runs import screen
from distcomp.rows import RunRow

ROW = RunRow("ann", "fit", ("f", "g"), 1200, 700, 3, 9, 5 << 20, 0, 1000.0, 0.0, 0.0, "h1", 42, "fit.py")


def test_runs_are_a_table() -> None:
    away = ROW._replace(run="other", left_at=3600.0, drop_at=90_000.0)
    head, *lines = screen([ROW, away], 200, now=4600.0).splitlines()
    assert head.split()[:3] == ["RUN", "OWNER", "FUNCTIONS"]
    text = "\n".join(lines)
    for word in ("f, g", "1,200", "700", "5 MiB", "1 h 00 min ago", "process 42 (fit.py) on h1"):
        assert word in text
    assert "none for 16 min 40 s, kept" in text


def test_no_runs_are_said_so() -> None:
    assert screen([], 80, now=0.0) == "the scheduler holds no runs"
