"""Many tiny problems: a lot at once, with progress, and an endless stream that is read until it is enough.

Runs on every core of this machine, or with `--address` on a cluster.
"""

import argparse
import sys
from itertools import count

import distcomp

BELOW = 1_000_000
ABOVE = 1_000_000_000
PAIRS = 20


@distcomp.compute_this
def smallest_factor(number: int) -> int:
    """The smallest factor of `number` above 1: the number itself if it is a prime."""
    if number % 2 == 0:
        return 2
    factor = 3
    while factor * factor <= number:
        if number % factor == 0:
            return factor
        factor += 2
    return number


def count_primes() -> int:
    """A million tasks, handed in by one call and read in order."""
    factors = smallest_factor.map(range(2, BELOW)).progress()
    return sum(number == factor for number, factor in enumerate(factors, 2))


def first_twins() -> list[int]:
    """The first pairs of primes with one number between; nobody knows how far to look for them."""
    found: list[int] = []
    before = 0
    with smallest_factor.map(count(ABOVE + 1, 2)) as stream:
        for number, factor in zip(count(ABOVE + 1, 2), stream, strict=False):
            if number == factor:
                if before == number - 2:
                    found.append(before)
                before = number
            if len(found) == PAIRS:
                break
    return found


def main() -> int:
    """Run the jobs, and check what they give; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", help="of a scheduler, e.g. tcp://a.example:7077")
    distcomp.connect(parser.parse_args().address)

    primes = count_primes()
    print(f"many:   {primes:,} of the numbers below {BELOW:,} are primes")
    twins = first_twins()
    print(f"stream: pair {PAIRS} of twin primes above {ABOVE:,} is {twins[-1]:,} and {twins[-1] + 2:,}")

    sieve = bytearray([1]) * BELOW
    for number in range(2, int(BELOW**0.5) + 1):
        sieve[number * number :: number] = bytes(len(sieve[number * number :: number]))
    right = primes == sum(sieve[2:]) and all(
        smallest_factor.local(number) == number for twin in twins for number in (twin, twin + 2)
    )
    print("all is as a plain loop finds it" if right else "WRONG: a plain loop finds something else")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
