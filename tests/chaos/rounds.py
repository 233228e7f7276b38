"""Chaos tests again and again, each round with another seed, until one fails or it is enough.

Usage:
    python tests/chaos/rounds.py [--rounds N] [--minutes M] TEST …

TEST is what pytest takes, such as `tests/chaos/test_killed_scheduler.py`. A round that failed can be had
again with the variables that are shown.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Run rounds; returns the exit code of the first that failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1 << 30, help="how many")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="none begins after that")
    parser.add_argument("tests", nargs="+", metavar="TEST")
    wanted = parser.parse_args()
    begun, first = time.monotonic(), int(os.environ.get("CHAOS_SEED", "1"))
    for seed in range(first, first + wanted.rounds):
        if time.monotonic() - begun > 60 * wanted.minutes:
            break
        command = [sys.executable, "-m", "pytest", "-q", "-x", *wanted.tests]
        environment = {**os.environ, "CHAOS_SEED": str(seed)}
        ended = subprocess.run(
            command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True
        )
        if ended.returncode:
            sys.stdout.write(f"{ended.stdout}\nround {seed - first + 1} failed: CHAOS_SEED={seed}\n")
            return ended.returncode
        sys.stdout.write(f"round {seed - first + 1}, seed {seed}: {ended.stdout.splitlines()[-1]}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
