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
from itertools import pairwise
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
LEGS, LEAK_MIB = 3, 3
"""What is lost with every task makes each leg grow by more; how full the window is just then, only some."""

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
        sizes: dict[str, list[int]] = {name: [] for name in pids}
        begin = time.monotonic()
        for _ in range(1 + LEGS):
            read(results, ITEMS // (1 + LEGS))
            gc.collect()
            for name, pid in pids.items():
                sizes[name].append(resident_bytes(pid))
        rate = ITEMS / (time.monotonic() - begin)
        stream.close()
    grown = {name: [(b - a) / MIB for a, b in pairwise(some)] for name, some in sizes.items()}
    print(f"{way}: {ITEMS} items, {rate:.0f} a second, MiB grown: {grown}, sizes: {sizes}")  # noqa: T201 - figures
    assert max(map(min, grown.values())) < LEAK_MIB, grown


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
                sizes = [tracemalloc.get_traced_memory()[0]]
                for _ in range(LEGS):
                    read(stream, 20_000)
                    gc.collect()
                    sizes.append(tracemalloc.get_traced_memory()[0])
                assert min(b - a for a, b in pairwise(sizes)) < MIB // LEGS
            finally:
                tracemalloc.stop()
