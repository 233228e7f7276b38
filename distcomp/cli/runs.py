"""`distcomp runs`: what a store on this machine has of runs, without a cluster; or what a scheduler has.

Each action is a function from a store and flags to an exit code; for a scheduler see `cli.scheduler_runs`.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from distcomp.cli import scheduler_runs
from distcomp.cli.flags import EXIT_ENDED, EXIT_FAILED, Flags, run
from distcomp.cli.runs_page import run_as_json, run_screen, runs_screen
from distcomp.cli.table import count, is_coloured, size
from distcomp.config import StoreSettings
from distcomp.errors import ConfigError
from distcomp.settings_file import surroundings
from distcomp.store import Store
from distcomp.store_export import export_run

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

EXAMPLES = """\
  distcomp runs list --store results.db
  distcomp runs show fit --store results.db
  distcomp runs export fit --to fit-results       results as pickles, with an index.json
  distcomp runs forget fit --yes
  distcomp runs list --scheduler                  what the scheduler holds of runs
  distcomp runs forget fit --scheduler
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Flags(
        "distcomp runs",
        "Look at the runs in a store: which tasks are done, what they take, why they were computed again.",
        EXAMPLES,
        arguments="{list,show,export,forget} [NAME]",
    )
    parser.add_argument("action", choices=tuple(_ACTIONS), help="what to do")
    parser.add_argument("name", nargs="?", metavar="NAME", help="of a run; `list` takes none")
    parser.value("--store", "the file that results are kept in, as Client(store=...) was given it")
    parser.add_argument("--to", metavar="FOLDER", help="where `export` writes; has to be new or empty")
    parser.add_argument("--yes", action="store_true", help="`forget` does not ask")
    parser.switch("--scheduler", "`list` and `forget` mean what the scheduler holds, not a store")
    parser.value("--address", "the scheduler's; the one running scheduler of this user if not given")
    parser.switch("--json", "print everything as JSON")
    parser.common()
    return run(parser, _act, argv)


def _act(flags: argparse.Namespace) -> int:
    if (flags.action == "list") != (flags.name is None):
        raise ConfigError(f"`runs {flags.action}` takes {'no' if flags.name else 'the'} name of a run")
    if flags.scheduler:
        return scheduler_runs.act(flags)
    if not flags.store:
        raise ConfigError("no store is named: give --store, DISTCOMP_STORE, or store in distcomp.toml")
    settings = StoreSettings.from_environment(surroundings())
    with Store(Path(flags.store).expanduser(), settings, must_exist=True) as store:
        return _ACTIONS[flags.action](store, flags)


def _list(store: Store, flags: argparse.Namespace) -> int:
    runs, functions = store.runs(), store.functions()
    if flags.json:
        told = {
            "store": str(store.path),
            "runs": list(map(run_as_json, runs)),
            "functions": [each._asdict() for each in functions],
        }
        print(json.dumps(told, indent=2))
    else:
        width = shutil.get_terminal_size().columns
        print(runs_screen(store.path, runs, functions, width, now=time.time(), coloured=is_coloured()))
    return EXIT_ENDED


def _show(store: Store, flags: argparse.Namespace) -> int:
    found = store.run(flags.name)
    if flags.json:
        print(json.dumps(run_as_json(found), indent=2))
    else:
        width = shutil.get_terminal_size().columns
        print(run_screen(found, width, now=time.time(), coloured=is_coloured()))
    return EXIT_ENDED


def _export(store: Store, flags: argparse.Namespace) -> int:
    if not flags.to:
        raise ConfigError("`runs export` needs a folder to write to: --to FOLDER")
    written = export_run(store, flags.name, Path(flags.to).expanduser())
    if flags.json:
        print(json.dumps(written._asdict()))
    else:
        lacking = f"; {count(written.lacking)} tasks have no result" if written.lacking else ""
        print(f"{count(written.results)} results, {size(written.size_bytes)}, in {flags.to}{lacking}")
    return EXIT_ENDED


def _forget(store: Store, flags: argparse.Namespace) -> int:
    found = store.run(flags.name)
    if not flags.yes:
        question = f"Forget {count(found.done)} results of the run {found.name} in {store.path}? [y/N] "
        print(question, end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("nothing was forgotten", file=sys.stderr)
            return EXIT_FAILED
    removed = store.forget(flags.name)
    if flags.json:
        print(json.dumps({"forgotten": removed}))
    else:
        print(f"{count(removed)} outcomes were forgotten")
    return EXIT_ENDED


_ACTIONS: dict[str, Callable[[Store, argparse.Namespace], int]] = {
    "list": _list,
    "show": _show,
    "export": _export,
    "forget": _forget,
}
