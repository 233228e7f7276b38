from __future__ import annotations

from distcomp.cli import demo_report as report
from distcomp.cli.demo_analysis import FileFacts, Function, Place
from distcomp.ids import WorkerId
from distcomp.rows import WorkerRow

FACTS = [
    FileFacts(100, 3, 7, "Tree.grow", 40, (Function("Tree.grow", 1, 40, (1,)),), ""),
    FileFacts(50, 1, 0, "copy", 30, (Function("copy", 1, 30, (1,)),), ""),
    FileFacts(9, 0, 0, "", 0, (), "SyntaxError: no"),
]
NAMES = ["tree.py", "copy.py", "broken.py"]


def found(*likenesses: float) -> report.Findings:
    return report.Findings(FACTS, [(Place(0, 0), Place(1, 0))] * len(likenesses), list(likenesses))


def test_findings_name_totals_extremes_and_problems() -> None:
    shown = "\n".join(report.findings_lines(NAMES, found(0.93, 0.2), 100))
    assert "3 files, 159 lines, 4 functions, 7 branches" in shown
    assert "longest function: Tree.grow in tree.py, 40 lines" in shown
    assert "broken.py: SyntaxError: no" in shown
    assert "1 pairs (2 were compared)" in shown
    assert "93%  tree.py:Tree.grow  copy.py:copy" in shown


def test_findings_without_any_function_are_possible() -> None:
    shown = report.findings_lines(NAMES[2:], report.Findings(FACTS[2:], [], []), 100)
    assert not [line for line in shown if "longest" in line]


def test_workers_are_shown_by_slot_and_the_killed_one_is_marked() -> None:
    rows = [
        WorkerRow(
            worker=WorkerId(name.encode() * 16),
            name=name,
            host="h",
            pid=1,
            slots=2,
            busy=0,
            leased=0,
            settled=5,
            failed=0,
            busy_s=3.0,
            state="ready",
            python="3.11.7",
            unfit="",
            slot_busy_s=(1.0, 2.0),
            slot_settled=(2, 3),
        )
        for name in "ba"
    ]
    lines = report.worker_lines(rows, "b", 80)
    assert [line.split() for line in lines[1:4]] == [
        ["a", "all", "5", "3.00"],
        ["0", "2", "1.00"],
        ["1", "3", "2.00"],
    ]
    assert lines[4].endswith("killed midway")


def test_no_more_than_the_cores_can_be_hoped_for() -> None:
    (line,) = report.timing_lines(report.Timing(plain_s=9.0, cluster_s=5.0, slots=4, cores=2))
    assert "speed-up 1.80, ideal 2.00 (4 slots on 2 cores)" in line
