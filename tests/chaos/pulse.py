"""A beat beside a run: where it falls out, the machine or its disk stood still."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BEAT_S = 0.05
RECORD = "d"


@contextlib.contextmanager
def beating(path: Path) -> Iterator[None]:
    """Note in a file, in monotonic seconds and durably, that the machine gets on."""
    over = threading.Event()

    def beat() -> None:
        with path.open("ab", buffering=0) as file:
            while True:
                file.write(struct.pack(RECORD, time.monotonic()))
                os.fsync(file.fileno())
                if over.wait(BEAT_S):
                    return

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def standstill_s(path: Path, since: float = 0.0) -> float:
    """The longest time without a beat since a moment."""
    beats = [at for (at,) in struct.iter_unpack(RECORD, path.read_bytes())]
    rests = pairwise([*beats, time.monotonic()])
    return max((after - before for before, after in rests if after >= since), default=0.0)
