"""A stream without end grows neither its client nor the scheduler nor a worker.

`STREAM_ITEMS=10000000 python -m pytest tests/integration/test_stream_memory.py -s` reads ten million items.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from distcomp import Client
from distcomp.config import ClientSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clusters import Programs

ITEMS = int(os.environ.get("STREAM_ITEMS", "600000"))
WINDOW = 50_000
MIB = 1 << 20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how much memory programs take")


def resident_bytes(pid: int) -> int:
    (line,) = (each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in each)
    return int(line.split()[1]) << 10


def read(results: Iterator[Any], count: int) -> None:
    for _ in itertools.islice(results, count):
        pass


@pytest.mark.parametrize("way", ["in order", "as completed"])
def test_programs_do_not_grow(cluster: Programs, way: str) -> None:
    pids = {
        "client": os.getpid(),
        "scheduler": cluster.scheduler().pid,
        "worker": cluster.worker().pid,
    }
    with Client(settings=ClientSettings(window_tasks=WINDOW)) as client:
        client.wait_for_workers(1, timeout_s=20)
        stream = client.map(abs, itertools.count())
        results: Iterator[Any] = iter(stream) if way == "in order" else stream.as_completed()
        read(results, ITEMS // 3)
        gc.collect()
        before = {name: resident_bytes(pid) for name, pid in pids.items()}
        begin = time.monotonic()
        read(results, ITEMS - ITEMS // 3)
        gc.collect()
        grown = {name: (resident_bytes(pid) - before[name]) / MIB for name, pid in pids.items()}
        rate = (ITEMS - ITEMS // 3) / (time.monotonic() - begin)
        stream.close()
    print(f"{way}: {ITEMS} items, {rate:.0f} a second, MiB grown: {grown}, before: {before}")  # noqa: T201 - figures
    assert max(grown.values()) < 8, grown


def test_the_client_keeps_no_objects(cluster: Programs) -> None:
    cluster.scheduler()
    cluster.worker()
    with Client(settings=ClientSettings(window_tasks=5000)) as client:
        client.wait_for_workers(1, timeout_s=20)
        with client.map(str, itertools.count()) as stream:
            read(stream, 20_000)
            tracemalloc.start()
            try:
                read(stream, 20_000)
                gc.collect()
                before = tracemalloc.get_traced_memory()[0]
                read(stream, 60_000)
                gc.collect()
                assert tracemalloc.get_traced_memory()[0] - before < MIB
            finally:
                tracemalloc.stop()
