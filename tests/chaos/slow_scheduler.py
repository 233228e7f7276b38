"""The scheduler on a disk that takes its time: each commit waits before it is written.

What was promised before its commit is lost by a kill in between; on a fast disk few kills come so well.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from distcomp.cli.scheduler import main
from distcomp.journal_file import JournalFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distcomp.journal_rows import PackedRecords

DISK_S = float(os.environ["CHAOS_DISK_S"])
write_now = JournalFile.write


def write_late(file: JournalFile, pieces: Sequence[PackedRecords]) -> None:
    """Make a commit, after a while."""
    time.sleep(DISK_S)
    write_now(file, pieces)


if __name__ == "__main__":
    JournalFile.write = write_late  # type: ignore[method-assign] # on purpose: a slow disk
    sys.exit(main())
