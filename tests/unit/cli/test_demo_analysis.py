from __future__ import annotations

import pytest

from distcomp.cli import demo_analysis as analysis

SOURCE = b"""\
class Tree:
    def grow(self, depth):
        for branch in range(depth):
            if branch % 2:
                continue
            elif branch:
                pass
        def leaf():
            return 1
        try:
            return leaf()
        except ValueError:
            return None

async def wait(it):
    while it:
        match it:
            case 1:
                return
            case _:
                pass
"""


def long_function(name: str, seed: int, lines: int = 30) -> str:
    body = "\n".join(f"    value_{seed}_{line} = compute(argument, {line}, {seed})" for line in range(lines))
    return f"def {name}(argument):\n{body}\n"


def test_counts_lines_functions_and_branches() -> None:
    facts = analysis.analyse(SOURCE)
    assert facts.lines == 21
    assert facts.functions == 3
    assert facts.branches == 7  # for, if, elif, except, while, two cases
    assert (facts.longest_name, facts.longest_lines) == ("Tree.grow", 12)
    assert facts.problem == ""


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"print 'old'\n", "SyntaxError"),
        (b"\xff = 1\n", "SyntaxError"),
        (b"x = '\x00'\n", "Error"),
        (b"# -*- coding: nonsense -*-\n", "SyntaxError"),
    ],
)
def test_a_file_that_cannot_be_parsed_is_a_finding(data: bytes, word: str) -> None:
    facts = analysis.analyse(data)
    assert word in facts.problem
    assert facts.lines == 1
    assert facts.functions == 0


def test_an_empty_file_has_nothing() -> None:
    assert analysis.analyse(b"") == analysis.FileFacts(0, 0, 0, "", 0, (), "")


def test_short_functions_are_not_compared() -> None:
    assert analysis.analyse(SOURCE).comparable == ()


def test_a_copy_in_another_file_is_found_and_confirmed() -> None:
    original = long_function("first", 1).encode()
    copied = b"import os\n\n" + original.replace(b"first", b"second") + b"    # a remark\n    return 0\n"
    other = long_function("third", 2).encode()
    files = [original, copied, other]
    facts = [analysis.analyse(data) for data in files]
    ((left, right),) = analysis.candidate_pairs(facts)
    assert (left.file, right.file) == (0, 1)
    sources = [
        analysis.source_of(files[place.file], facts[place.file].comparable[place.number])
        for place in (left, right)
    ]
    (likeness,) = analysis.compare([(sources[0], sources[1])])
    assert likeness > analysis.LEAST_LIKENESS


def test_copies_within_one_file_are_no_pair() -> None:
    twice = (long_function("first", 1) + long_function("second", 1)).encode()
    assert analysis.candidate_pairs([analysis.analyse(twice)]) == []


def test_boilerplate_that_everybody_has_leads_to_no_comparison() -> None:
    facts = analysis.analyse(long_function("same", 1).encode())
    assert analysis.candidate_pairs([facts] * (analysis.LARGEST_BUCKET + 1)) == []
    assert analysis.candidate_pairs([facts] * 3) != []


def test_comments_and_layout_do_not_count() -> None:
    plain = "def f(a):\n    return g(a, 1) + h(a)"
    remarked = "def f( a ):  # what f does\n\n    return g(a,1)+h(a)  # that"
    assert analysis.tokens(plain) == analysis.tokens(remarked)


def test_likeness_of_strangers_is_nothing() -> None:
    assert analysis.compare([(long_function("f", 1), "a = b\n" * 30), ("", "")]) == [0.0, 1.0]


def test_results_do_not_depend_on_the_process() -> None:
    assert analysis.shingles(["a", "b", "c", "d", "e", "f"]) == {811136073}
