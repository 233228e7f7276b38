"""Run every benchmark, one after the other.

Usage: python benchmarks/run.py [--repeats N]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PARTS = ("speed.py", "journal.py", "recovery.py", "evenness.py", "fairness.py", "gateway.py")


def main() -> int:
    """Run the parts; the exit code is that of the first that fails."""
    for part in PARTS:
        code = subprocess.run(
            [sys.executable, str(Path(__file__).with_name(part)), *sys.argv[1:]], check=False
        )
        if code.returncode:
            return code.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
