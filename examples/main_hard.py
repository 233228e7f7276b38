"""A few long problems: very different lengths, the longest first, parts as tasks of their own, one failing.

Runs on every core of this machine, or with `--address` on a cluster.
"""

import argparse
import random
import sys

import distcomp

SIZES = [5, 8, 12, 3, 0, 11, 6, 9, 7, 10, 4]
KNOWN = {3: 0, 4: 2, 5: 10, 6: 4, 7: 40, 8: 92, 9: 352, 10: 724, 11: 2680, 12: 14200}
IN_PARTS = 10


def count_from(row: int, size: int, columns: int, left: int, right: int) -> int:
    """How many ways there are to put queens into the rows from `row` on, given what is threatened."""
    if row == size:
        return 1
    free = ~(columns | left | right) & ((1 << size) - 1)
    ways = 0
    while free:
        queen = free & -free
        free ^= queen
        ways += count_from(row + 1, size, columns | queen, (left | queen) << 1, (right | queen) >> 1)
    return ways


@distcomp.compute_this
def with_first_queen(size: int, column: int) -> int:
    """The ways to place the other queens once that of the first row stands."""
    queen = 1 << column
    return count_from(1, size, queen, queen << 1, queen >> 1)


@distcomp.compute_this
def queens(size: int) -> int:
    """In how many ways so many queens stand on a board of that size, none threatening another.

    A large board is a task that submits tasks: one for each place of the first queen.
    """
    if size < 1:
        raise ValueError(f"there is no board of {size} rows")
    columns = range(size)
    if size < IN_PARTS:
        return sum(with_first_queen.local(size, column) for column in columns)
    return sum(with_first_queen.map([size] * size, columns))


@distcomp.compute_this(retries=50, retry_on=ConnectionError)
def fetch(page: int) -> str:
    """What a service that is down every other time says."""
    if random.getrandbits(1):
        raise ConnectionError("nobody answers")
    return f"page {page}"


def main() -> int:
    """Run the jobs, and check what they give; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", help="of a scheduler, e.g. tcp://a.example:7077")
    distcomp.connect(parser.parse_args().address)

    boards = queens.map(SIZES, cost=lambda size: 4.0**size)
    found = {
        size: ways
        for size, ways in zip(SIZES, boards.results(on_error="return"), strict=True)
        if not isinstance(ways, Exception)
    }
    for size, ways in sorted(found.items()):
        print(f"{size:2} queens: {ways:6,} ways")
    failures = {SIZES[index]: error for index, error in boards.failures().items()}
    for size, error in failures.items():
        print(f"{size:2} queens: {type(error).__name__}: {error}")

    pages = fetch.map(range(20))
    fetched = pages.results()
    print(
        f"{len(fetched)} pages from a service that is down every other time, {pages.retried_count} tries more"
    )

    right = (
        found == KNOWN
        and list(map(str, failures.values())) == ["there is no board of 0 rows"]
        and fetched == [f"page {page}" for page in range(20)]
        and pages.retried_count > 0
    )
    print("all is as it is known to be" if right else "WRONG: something else is known")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
