"""`distcomp demo`: the main job on real input, beside the same work in a plain loop."""

from __future__ import annotations

import shutil
import sys
import sysconfig
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distcomp import Client
from distcomp.cli.demo_analysis import analyse, candidate_pairs, compare, source_of
from distcomp.cli.demo_cluster import WORKERS, DemoCluster
from distcomp.cli.demo_report import Findings, Timing, findings_lines, timing_lines, worker_lines
from distcomp.cli.flags import EXIT_ENDED, EXIT_FAILED, Flags, run, whole
from distcomp.cluster import usable_cores
from distcomp.errors import ConfigError, DemoError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from distcomp import TaskArray
    from distcomp.rows import WorkerRow

PAIRS_A_TASK = 16
POLL_S = 0.1
KILL_AT = 0.4
"""The part of the files after which `--kill` strikes."""

REGISTER_TIMEOUT_S = 20.0
MOST_FILES = 1_000_000

EXAMPLES = """\
  distcomp demo            a scheduler and two workers of its own, with auth
  distcomp demo --kill     the same, and one worker is killed midway
  distcomp demo --address tcp://a.example:7077
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Flags(
        "distcomp demo",
        "Analyse every file of Python's standard library on a cluster: lines, functions, branches, longest\n"
        "functions, and near-duplicate functions across files. Then do the same in a plain loop and compare.",
        EXAMPLES,
    )
    parser.value("--address", "use this running cluster instead of starting one")
    parser.switch("--kill", "kill one of the two workers midway, and still end right")
    parser.value("--files", "analyse at most so many files", default=MOST_FILES, parse=whole(1, MOST_FILES))
    parser.common()
    return run(parser, _demo, argv)


def _demo(flags: argparse.Namespace) -> int:
    if flags.kill and flags.address:
        raise ConfigError("--kill kills a worker that the demo started: it does not go with --address")
    files = standard_library(flags.files)
    names, contents = list(files), list(files.values())
    width = shutil.get_terminal_size().columns
    print(f"{len(files):,} files, {sum(map(len, contents)) / 1e6:.1f} MB of Python's standard library")
    with ExitStack() as stack:
        cluster = None if flags.address else stack.enter_context(closing(DemoCluster()))
        client = stack.enter_context(_client(cluster, flags.address))
        client.wait_for_workers(len(WORKERS) if cluster else 1, timeout_s=REGISTER_TIMEOUT_S)
        watch = WatchedRun(client, cluster if flags.kill else None, round(len(files) * KILL_AT))
        began_at = time.perf_counter()
        found = investigate(contents, watch.map)
        cluster_s = time.perf_counter() - began_at
        watch.look()
    show = ProgressLine()
    began_at = time.perf_counter()
    expected = investigate(contents, show.plain_map)
    slots = sum(row.slots for row in watch.rows.values())
    timing = Timing(time.perf_counter() - began_at, cluster_s, slots, usable_cores())
    print("\n".join(["", *findings_lines(names, found, width), ""]))
    print("\n".join([*worker_lines(watch.rows.values(), watch.killed, width), "", *timing_lines(timing)]))
    if found != expected:
        print("the results DIFFER from the plain loop's", file=sys.stderr)
        return EXIT_FAILED
    print("the results are the plain loop's")
    return EXIT_ENDED


def standard_library(most: int) -> dict[str, bytes]:
    """The files of the standard library found here, by name relative to its folder."""
    root = Path(sysconfig.get_path("stdlib"))
    found = sorted(
        path
        for path in root.rglob("*.py")
        if not {"site-packages", "dist-packages", "__pycache__"} & set(path.parts) and path.is_file()
    )
    if not found:
        raise DemoError(f"no file of the standard library is found in {root}")
    return {str(path.relative_to(root)): path.read_bytes() for path in found[:most]}


def investigate(
    contents: list[bytes], map_all: Callable[[str, Callable[[Any], Any], list[Any]], list[Any]]
) -> Findings:
    """Both stages of the analysis.

    Args:
        contents: the files.
        map_all: applies a function to all of a list, here or on a cluster; gets the stage's name first.
    """
    facts = map_all("files", analyse, contents)
    pairs = candidate_pairs(facts)
    sources = [
        tuple(source_of(contents[place.file], facts[place.file].comparable[place.number]) for place in pair)
        for pair in pairs
    ]
    batches = [sources[start : start + PAIRS_A_TASK] for start in range(0, len(sources), PAIRS_A_TASK)]
    likenesses = [each for batch in map_all("comparisons", compare, batches) for each in batch]
    return Findings(facts, pairs, likenesses)


def _client(cluster: DemoCluster | None, address: str | None) -> Client:
    return Client(address if cluster is None else cluster.access())


class ProgressLine:
    """One line on stderr that says how far a stage is; on a terminal it is written over itself."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = ""

    def show(self, stage: str, done: int, total: int) -> None:
        """Say how far it is, where that is news: by quarters if not on a terminal."""
        step = done * 100 // total if self._terminal else done * 4 // total * 25
        words = f"{stage}: {step}% of {total:,}"
        if words != self._shown:
            ending = "\n" if done == total or not self._terminal else ""
            print(f"\r{words}" if self._terminal else words, end=ending, file=sys.stderr, flush=True)
            self._shown = words

    def plain_map(self, stage: str, function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        """Apply `function` to all items in this process, one after the other."""
        results = []
        for number, item in enumerate(items, 1):
            results.append(function(item))
            self.show(f"plain loop, {stage}", number, len(items))
        return results


class WatchedRun:
    """Runs stages on the cluster, watches its workers, and kills one midway if told to.

    Attributes:
        rows: every worker as it was last seen, by its id.
        killed: the name of the worker that was killed, or nothing.
    """

    def __init__(self, client: Client, to_kill: DemoCluster | None, kill_at: int) -> None:
        self._client = client
        self._to_kill = to_kill
        self._kill_at = kill_at
        self._progress = ProgressLine()
        self.rows: dict[bytes, WorkerRow] = {}
        self.killed = ""

    def map(self, stage: str, function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        """Apply `function` to all items on the cluster."""
        array = self._client.map(function, items)
        while not array.done():
            self._progress.show(f"cluster, {stage}", array.done_count, len(items))
            self.look()
            self._strike(array)
            time.sleep(POLL_S)
        if items:
            self._progress.show(f"cluster, {stage}", len(items), len(items))
        return list(array)

    def look(self) -> None:
        """Remember how the workers are doing."""
        self.rows.update((row.worker, row) for row in self._client.workers())

    def _strike(self, array: TaskArray[Any]) -> None:
        if self._to_kill is not None and not self.killed and array.done_count >= self._kill_at:
            self.killed = self._to_kill.kill_worker()
            print(f"\nworker {self.killed} is killed with signal 9", file=sys.stderr)
