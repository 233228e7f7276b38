"""What the demo computes: facts about Python files, and functions that resemble each other.

Everything here is a pure function of its arguments, so that the plain loop and the cluster must agree.
The work has two stages. `analyse` takes the bytes of one file; `candidate_pairs` finds, among the
functions of all files, pairs that may be alike; `compare` takes the sources of some pairs and decides.

Likeness is that of the sets of shingles: all runs of `SHINGLE_TOKENS` neighbouring tokens, comments
left out. A function's sketch is the least `SKETCH_HASHES` hashes of its shingles: functions that are
alike share some of them, and comparing sketches is cheap.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections import defaultdict
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SHINGLE_TOKENS = 6
SKETCH_HASHES = 8
LEAST_LINES = 10
LEAST_TOKENS = 80
"""Shorter functions resemble each other without anybody having copied anything."""

LARGEST_BUCKET = 12
"""A hash that more functions share than this is boilerplate, and leads to no comparison."""

LEAST_SHARED = 3
"""A pair is compared if so many of the hashes of its sketches are the same."""

LEAST_LIKENESS = 0.8

_TOKEN = re.compile(r"\w+|[^\w\s#]|#.*")
_BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Function(NamedTuple):
    """A function long enough to be compared: where it stands, and its sketch."""

    name: str
    first_line: int
    last_line: int
    sketch: tuple[int, ...]


class FileFacts(NamedTuple):
    """What is found in one file. `problem` says why it could not be parsed, or is empty."""

    lines: int
    functions: int
    branches: int
    longest_name: str
    longest_lines: int
    comparable: tuple[Function, ...]
    problem: str


class Place(NamedTuple):
    """A comparable function by file number and its number within that file's `comparable`."""

    file: int
    number: int


def analyse(data: bytes) -> FileFacts:
    r"""Find the facts of one Python file.

    Args:
        data: the file as it is.

    Example:
        >>> analyse(b"def f(x):\n    if x:\n        return 1\n")[:5]
        (3, 1, 1, 'f', 3)
    """
    lines = data.count(b"\n") + (not data.endswith(b"\n") and data != b"")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return FileFacts(lines, 0, 0, "", 0, (), f"{type(error).__name__}: {error}")
    functions, branches = _statements(tree)
    named = [(name, node.lineno, node.end_lineno or node.lineno) for name, node in functions]
    longest = max(named, key=lambda each: each[2] - each[1], default=("", 1, 0))
    comparable = tuple(_comparable(named, source_lines(data)))
    return FileFacts(lines, len(named), branches, longest[0], longest[2] - longest[1] + 1, comparable, "")


def _statements(
    tree: ast.Module,
) -> tuple[list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]], int]:
    """Every function with its dotted name, and the number of branches. Looks at statements only."""
    functions = []
    branches = 0
    waiting: list[tuple[str, ast.AST]] = [("", tree)]
    while waiting:
        prefix, node = waiting.pop()
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            prefix = f"{prefix}.{node.name}" if prefix else node.name
            if isinstance(node, _FUNCTIONS):
                functions.append((prefix, node))
        elif isinstance(node, _BRANCHES):
            branches += 1
        for field in ("body", "orelse", "handlers", "finalbody", "cases"):
            inner = getattr(node, field, None)
            if isinstance(inner, list):
                branches += len(inner) if field == "cases" else 0
                waiting.extend((prefix, child) for child in inner)
    functions.sort(key=lambda each: (each[1].lineno, each[1].col_offset))
    return functions, branches


def _comparable(named: Iterable[tuple[str, int, int]], lines: Sequence[str]) -> Iterable[Function]:
    """The functions that are long enough, each without the functions it lies in."""
    for name, first, last in named:
        if last - first + 1 < LEAST_LINES:
            continue
        found = tokens("\n".join(lines[first - 1 : last]))
        if len(found) >= LEAST_TOKENS:
            sketch = tuple(sorted(shingles(found))[:SKETCH_HASHES])
            yield Function(name, first, last, sketch)


def source_lines(data: bytes) -> list[str]:
    """A file's lines as Python counts them, whatever its encoding: likeness needs no exact letters."""
    return data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").split("\n")


def tokens(source: str) -> list[str]:
    """Words and signs of a piece of Python, without comments and white space."""
    return [token for token in _TOKEN.findall(source) if token[0] != "#"]


def shingles(found: Sequence[str]) -> set[int]:
    """Hashes of all runs of neighbouring tokens."""
    runs = zip(*(found[shift:] for shift in range(SHINGLE_TOKENS)), strict=False)
    return set(map(crc32, map(str.encode, map(" ".join, runs))))


def candidate_pairs(facts: Sequence[FileFacts]) -> list[tuple[Place, Place]]:
    """Pairs of functions of different files whose sketches share enough, in the order of files."""
    buckets: defaultdict[int, list[Place]] = defaultdict(list)
    for file, each in enumerate(facts):
        for number, function in enumerate(each.comparable):
            for value in function.sketch:
                buckets[value].append(Place(file, number))
    shared: defaultdict[tuple[Place, Place], int] = defaultdict(int)
    for places in buckets.values():
        if len(places) <= LARGEST_BUCKET:
            for left, right in combinations(places, 2):
                if left.file != right.file:
                    shared[left, right] += 1
    return sorted(pair for pair, count in shared.items() if count >= LEAST_SHARED)


def source_of(data: bytes, function: Function) -> str:
    """The source of one function of a file."""
    return "\n".join(source_lines(data)[function.first_line - 1 : function.last_line])


def compare(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """The likeness of each pair of sources: shared shingles by all shingles, from 0 to 1.

    Example:
        >>> compare([("a = 1 + 2 + 3", "a = 1 + 2 + 3")])
        [1.0]
    """
    likenesses = []
    for left_source, right_source in pairs:
        left, right = shingles(tokens(left_source)), shingles(tokens(right_source))
        everything = left | right
        likenesses.append(round(len(left & right) / len(everything), 4) if everything else 1.0)
    return likenesses
