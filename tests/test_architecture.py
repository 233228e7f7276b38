"""The floors of the house, its cycles and its sizes, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "distcomp"
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 70

FLOORS: dict[str, int] = {
    "errors": 0,
    "forking": 0,
    "ids": 0,
    "inside": 1,
    "kinds": 1,
    "allowance": 0,
    "config": 1,
    "gateway_settings": 1,
    "web_address": 1,
    "options": 1,
    "ordering": 1,
    "page": 1,
    "payload": 1,
    "protocol": 1,
    "records": 1,
    "byte_columns": 1,
    "published_calls": 1,
    "publishing": 4,
    "rows": 1,
    "slot_protocol": 1,
    "settings_file": 1,
    "versions": 1,
    "wire": 1,
    "worker_protocol": 1,
    "core": 2,
    "access": 3,
    "auth": 3,
    "bundle_store": 3,
    "cluster": 3,
    "journal": 3,
    "journal_backlog": 3,
    "journal_blobs": 3,
    "journal_file": 3,
    "journal_lock": 3,
    "journal_note": 3,
    "journal_rows": 3,
    "journal_storing": 3,
    "memory_journal": 3,
    "relay": 3,
    "gateway_token": 3,
    "http_answers": 3,
    "http_link": 3,
    "listening": 3,
    "http_roads": 3,
    "http_wires": 3,
    "slot": 3,
    "slot_log": 3,
    "slot_output": 3,
    "slot_process": 3,
    "slots": 3,
    "spill": 3,
    "store": 3,
    "store_export": 3,
    "store_file": 3,
    "store_files": 3,
    "store_reader": 3,
    "store_reasons": 3,
    "store_rows": 3,
    "store_writer": 3,
    "template": 3,
    "transfers": 3,
    "transport": 3,
    "absence_words": 4,
    "bound_client": 4,
    "client": 4,
    "adopted_arrays": 4,
    "client_session": 4,
    "detour_feed": 4,
    "detours": 4,
    "keeper": 4,
    "recognition": 4,
    "run_handles": 4,
    "run_session": 4,
    "store_desk": 4,
    "stored_feeder": 4,
    "stored_streams": 4,
    "client_program": 4,
    "default_client": 4,
    "discovery": 4,
    "displays": 3,
    "explanations": 4,
    "feeder": 4,
    "future_groups": 4,
    "futures": 4,
    "handles": 4,
    "html": 4,
    "news": 4,
    "questions": 4,
    "anteroom": 4,
    "scheduler": 4,
    "scheduler_memory": 4,
    "stay": 4,
    "waiting": 4,
    "waits_here": 4,
    "window": 4,
    "inline_engine": 4,
    "inline_program": 4,
    "open_clients": 4,
    "remembered_calls": 4,
    "task_arrays": 4,
    "task_links": 4,
    "stream_source": 4,
    "task_prints": 3,
    "task_streams": 4,
    "worker": 4,
    "async_client": 5,
    "array_legs": 4,
    "async_handles": 5,
    "cli": 5,
    "watching": 5,
    "decorator": 5,
    "executor": 5,
    "gateway": 5,
    "pool": 5,
    "pool_results": 5,
    "turnstile": 5,
    "wrapped_calls": 5,
}
"""The floor of every top-level module or package of distcomp."""

FAMILIES: list[set[str]] = [
    {"async_client", "async_handles"},
    {"cli", "gateway"},
    {"executor", "pool", "pool_results", "turnstile", "wrapped_calls"},
    {"core"},
    {
        "kinds",
        "wire",
        "config",
        "ordering",
        "protocol",
        "records",
        "rows",
        "slot_protocol",
        "worker_protocol",
        "page",
        "inside",
        "options",
        "payload",
        "settings_file",
        "gateway_settings",
        "web_address",
        "byte_columns",
        "published_calls",
    },
    {"bundle_store", "slot", "slot_log", "slot_output", "slot_process", "slots", "template"},
    {
        "journal",
        "journal_backlog",
        "journal_blobs",
        "journal_file",
        "journal_lock",
        "journal_note",
        "journal_rows",
        "journal_storing",
        "memory_journal",
    },
    {
        "store",
        "store_export",
        "store_file",
        "store_files",
        "store_reader",
        "store_reasons",
        "store_rows",
        "store_writer",
    },
    {"transfers", "transport"},
    {"http_answers", "http_link", "http_roads", "http_wires"},
    {"access", "gateway_token"},
    {"task_links", "worker"},
    {"anteroom", "scheduler", "scheduler_memory"},
    {
        "absence_words",
        "bound_client",
        "client",
        "client_program",
        "adopted_arrays",
        "client_session",
        "detour_feed",
        "detours",
        "keeper",
        "recognition",
        "run_handles",
        "run_session",
        "store_desk",
        "stored_feeder",
        "stored_streams",
        "default_client",
        "discovery",
        "explanations",
        "feeder",
        "future_groups",
        "futures",
        "handles",
        "html",
        "news",
        "waiting",
        "waits_here",
        "window",
        "inline_engine",
        "inline_program",
        "open_clients",
        "publishing",
        "remembered_calls",
        "stay",
        "array_legs",
        "task_arrays",
        "stream_source",
        "task_streams",
    },
]
"""Modules of one floor that make one thing together and may import each other, without cycles."""

KNIT: list[set[str]] = [
    {
        f"distcomp.core.{name}"
        for name in ("arrays", "books", "functions", "leases", "nesting", "queue", "roster", "sessions")
    },
    {"distcomp.futures", "distcomp.future_groups", "distcomp.handles", "distcomp.detours"},
    {"distcomp.client_session", "distcomp.bound_client", "distcomp.store_desk"},
    {"distcomp.client", "distcomp.run_handles"},
    {"distcomp.array_legs", "distcomp.task_arrays"},
]
"""Modules whose classes hold each other, and so name each other's types."""

FORBIDDEN: dict[str, set[str]] = {
    "floors 0 to 2": {"asyncio", "uvloop"},
    "core": {"time", "random", "socket", "os", "threading", "logging", "pickle", "cloudpickle", "select"},
}
PICKLERS = {"pickle", "cloudpickle", "marshal", "dill"}


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text())
    return found


MODULES = modules()


def imports_of(tree: ast.Module, *, typing_too: bool = True) -> set[str]:
    """Every module that `tree` imports, wherever in it the import stands."""
    hidden: set[ast.AST] = set()
    if not typing_too:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                hidden.update(inner for child in node.body for inner in ast.walk(child))
    names: set[str] = set()
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name in MODULES and name != "distcomp"}


def top(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("module", [name for name in MODULES if name != "distcomp"])
def test_a_module_imports_only_from_floors_below(module: str) -> None:
    for other in ours(imports_of(MODULES[module])):
        pair = {top(module), top(other)}
        below = FLOORS[top(other)] < FLOORS[top(module)]
        assert below or any(pair <= family for family in FAMILIES), f"{module} imports {other}"


def test_every_module_has_a_floor() -> None:
    tops = {top(name) for name in MODULES if name != "distcomp"}
    assert tops == set(FLOORS), "FLOORS lists exactly the modules that exist"


def knot(name: str) -> str:
    """What stands for a module where all that is knit together counts as one."""
    return next((min(together) for together in KNIT if name in together), name)


def test_no_import_cycles_lazy_ones_included() -> None:
    """At run time there is none at all.

    With what is imported for types alone there is none but within `KNIT`. An array knows its session and
    its leases, a lease its worker, a worker its pool, a pool its queue and roster, and these their arrays
    and workers: the scheduler's books are a graph that is walked in both directions. In one module they
    have 1,200 lines; Protocols would say all their attributes twice.
    """
    edges = {name: ours(imports_of(tree, typing_too=False)) - {name} for name, tree in MODULES.items()}
    edges.pop("distcomp")
    check_acyclic(edges)
    tied: dict[str, set[str]] = {}
    for name in edges:
        others = set(map(knot, ours(imports_of(MODULES[name]))))
        tied.setdefault(knot(name), set()).update(others - {knot(name)})
    check_acyclic(tied)


def check_acyclic(edges: dict[str, set[str]]) -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(edges[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in sorted(edges):
        visit(name, ())


@pytest.mark.parametrize("module", [name for name in MODULES if name != "distcomp"])
def test_the_lower_floors_touch_no_world(module: str) -> None:
    roots = {name.split(".")[0] for name in imports_of(MODULES[module], typing_too=False)}
    if FLOORS[top(module)] <= FLOORS["core"]:
        assert not roots & FORBIDDEN["floors 0 to 2"]
    if top(module) == "core":
        assert not roots & FORBIDDEN["core"]
    if not top(module).startswith("payload"):
        assert not roots & PICKLERS, f"{module} opens pickles; only payload may"


@pytest.mark.parametrize("program", ["distcomp.scheduler", "distcomp.worker", "distcomp.core"])
def test_scheduler_worker_and_core_never_open_a_payload(program: str) -> None:
    for name, tree in MODULES.items():
        if name == program or name.startswith(program + "."):
            assert not {other for other in ours(imports_of(tree)) if top(other).startswith("payload")}


def test_nothing_that_the_gateway_imports_opens_a_payload() -> None:
    reached: set[str] = set()
    todo = [name for name in MODULES if name == "distcomp.gateway" or name.startswith("distcomp.gateway.")]
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += ours(imports_of(MODULES[name], typing_too=False))
    assert len(reached) > len([name for name in reached if ".gateway." in name]), "it uses what others do"
    for name in reached:
        roots = {each.split(".")[0] for each in imports_of(MODULES[name], typing_too=False)}
        assert not roots & PICKLERS, f"{name} opens pickles, and the gateway imports it"


def test_faces_use_no_private_names_of_lower_floors() -> None:
    for name, tree in MODULES.items():
        if name == "distcomp" or FLOORS[top(name)] < FLOORS["decorator"]:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("distcomp"):
                if top(f"{node.module}.x") == top(name):
                    continue
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert not [item for item in private if item != "__version__"], f"{name} imports {private}"


def test_files_and_functions_stay_readable() -> None:
    for name, tree in MODULES.items():
        last = max((node.end_lineno or 0 for node in tree.body), default=0)
        assert last <= MAX_FILE_LINES, f"{name} has {last} lines"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                assert length <= MAX_FUNCTION_LINES, f"{name}.{node.name} has {length} lines"


def test_no_two_classes_share_a_name() -> None:
    owners: dict[str, str] = {}
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert node.name not in owners, f"{node.name} in {name} and {owners[node.name]}"
                owners[node.name] = name
                assert not node.name.endswith(("Manager", "Helper", "Util", "Utils")), node.name


def test_modules_come_with_the_future_import_and_a_docstring() -> None:
    for name, tree in MODULES.items():
        assert ast.get_docstring(tree), f"{name} says nothing about itself"
        if len(tree.body) > 1 and name != "distcomp":
            assert "__future__" in imports_of(tree), f"{name} lacks the future import"
