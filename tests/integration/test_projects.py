"""A user's own project on workers that do not have it: what travels, what stays one class, what is told."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import cloudpickle
import msgpack
import pytest
from clusters import Programs, until

import distcomp

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S = 90.0
OPENING = """\
import sys, importlib, pathlib, time
import distcomp
ADDRESS = sys.argv[1] if len(sys.argv) > 1 else None
"""


class Projects:
    """A folder with a user's files, and scripts run in it against a cluster or an embedded one."""

    def __init__(self, folder: Path, cluster: Programs) -> None:
        self.folder = folder
        self.cluster = cluster
        self.address: str | None = None

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def run(self, script: str, *, name: str = "script.py") -> list[str]:
        """Run a script to its end; the lines that it printed."""
        self.write({name: OPENING + script})
        done = subprocess.run(
            [sys.executable, str(self.folder / name), *filter(None, [self.address])],
            env=self.cluster.environment(PYTHONDONTWRITEBYTECODE="1"),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()


@pytest.fixture(params=["far", "embedded"])
def projects(request: pytest.FixtureRequest, tmp_path: Path, cluster: Programs) -> Iterator[Projects]:
    """A project, with a worker that works in another folder, or with an embedded cluster."""
    yield from _projects(tmp_path, cluster, far=request.param == "far")


@pytest.fixture
def far(tmp_path: Path, cluster: Programs) -> Iterator[Projects]:
    """A project, with a worker that works in another folder."""
    yield from _projects(tmp_path, cluster, far=True)


def _projects(folder: Path, cluster: Programs, *, far: bool) -> Iterator[Projects]:
    made = Projects(folder / "project", cluster)
    made.folder.mkdir()
    if far:
        cluster.scheduler()
        cluster.worker(PYTHONPATH="")
        made.address = cluster.access().addresses[0]
    yield made


def test_a_script_and_a_module_beside_it(projects: Projects) -> None:
    projects.write({"helper.py": "FACTOR = 7\n\ndef times(x):\n    return x * FACTOR\n"})
    lines = projects.run(
        "import helper\n"
        "def through(x):\n    return helper.times(x) + 1\n"
        "with distcomp.Client(ADDRESS) as client:\n"
        "    print(client.submit(helper.times, 6).result(), client.submit(through, 6).result())\n"
        "    print(list(client.map(helper.times, range(4))))\n"
    )
    assert lines == ["42 43", "[0, 7, 14, 21]"]


LATECOMER = """\
import helper, threading

class Turnstile:
    'The lock of a client, at which a task overtakes the turn that takes what was handed in before it.'
    def __init__(self, client):
        self.client, self.lock, self.found = client, client.lock, []
    def __enter__(self):
        if threading.current_thread() is not threading.main_thread() and client.begun and not self.found:
            self.found.append(None)
            late = threading.Thread(target=lambda: self.found.append(client.submit(helper.times, 6)))
            late.start()
            late.join()
        return self.lock.__enter__()
    def __exit__(self, *error):
        return self.lock.__exit__(*error)

with distcomp.Client(ADDRESS) as client:
    client.begun = False
    client.lock = turnstile = Turnstile(client)
    client.begun = True
    print(client.submit(abs, -1).result(), turnstile.found[1].result())
"""


def test_a_task_handed_in_while_the_client_takes_others_has_its_modules(far: Projects) -> None:
    far.write({"helper.py": "def times(x):\n    return x * 7\n"})
    assert far.run(LATECOMER) == ["1 42"]


PACKAGE = {
    "zoo/__init__.py": "from .animals import Animal\n",
    "zoo/animals.py": (
        "from dataclasses import dataclass\n"
        "from importlib import resources\n"
        "from pathlib import Path\n"
        "from . import errors\n\n"
        "@dataclass\n"
        "class Animal:\n    name: str\n    legs: int = 0\n\n"
        "def count(animal):\n"
        "    from .data import legs\n"
        "    assert isinstance(animal, Animal)\n"
        "    if animal.name not in legs.table():\n        raise errors.UnknownError(animal)\n"
        "    return Animal(animal.name, legs.table()[animal.name])\n\n"
        "def beside():\n    return (Path(__file__).parent / 'data' / 'legs.txt').read_text().split()[0]\n"
    ),
    "zoo/errors.py": (
        "class UnknownError(Exception):\n"
        "    def __init__(self, animal):\n"
        "        super().__init__(f'no {animal.name}')\n"
        "        self.animal = animal\n"
    ),
    "zoo/data/__init__.py": "",
    "zoo/data/legs.py": (
        "from importlib import resources\n"
        "def table():\n"
        "    text = resources.files('zoo.data').joinpath('legs.txt').read_text()\n"
        "    return {name: int(legs) for name, legs in map(str.split, text.splitlines())}\n"
    ),
    "zoo/data/legs.txt": "ant 6\ncat 4\n",
}


def test_a_package_with_data_keeps_its_classes(projects: Projects) -> None:
    projects.write(PACKAGE)
    lines = projects.run(
        "import zoo\nfrom zoo import animals, errors\n"
        "with distcomp.Client(ADDRESS) as client:\n"
        "    cat = client.submit(animals.count, zoo.Animal('cat')).result()\n"
        "    print(cat, isinstance(cat, zoo.Animal), client.submit(animals.beside).result())\n"
        "    try:\n        client.submit(animals.count, zoo.Animal('cow')).result()\n"
        "    except errors.UnknownError as error:\n"
        "        print(error, error.animal == zoo.Animal('cow'))\n"
        "    print(sum(animal.legs for animal in client.map(animals.count, [zoo.Animal('ant')] * 50)))\n"
    )
    assert lines == ["Animal(name='cat', legs=4) True ant", "no cow True", "300"]


def test_what_a_function_of_the_script_imports_when_it_runs(projects: Projects) -> None:
    projects.write({**PACKAGE, "late.py": "from zoo.data import legs\n"})
    lines = projects.run(
        "def work():\n    import late\n    return late.legs.table()['cat']\n"
        "with distcomp.Client(ADDRESS) as client:\n    print(client.submit(work).result())\n"
        "print('late' in sys.modules)\n"
    )
    assert lines == ["4", "False"]


def test_an_edited_and_reloaded_module_runs_as_edited(projects: Projects) -> None:
    projects.write({"helper.py": "from inner import X\ndef f(): return X\n", "inner.py": "X = 1\n"})
    lines = projects.run(
        "import helper, inner\n"
        "with distcomp.Client(ADDRESS) as client:\n"
        "    print(client.submit(helper.f).result())\n"
        "    for number in range(2, 5):\n"
        "        pathlib.Path('inner.py').write_text(f'X = {number}' + ' ' * number)\n"
        "        importlib.reload(inner), importlib.reload(helper)\n"
        "        print(client.submit(helper.f).result())\n"
    )
    assert lines == ["1", "2", "3", "4"]


def test_a_module_that_only_tasks_import_runs_as_edited(projects: Projects) -> None:
    projects.write({"inner.py": "X = 1\n"})
    lines = projects.run(
        "def f():\n    import inner\n    return inner.X\n"
        "with distcomp.Client(ADDRESS) as client:\n"
        "    print(client.submit(f).result())\n"
        "    pathlib.Path('inner.py').write_text('X = 22\\n')\n"
        "    while (seen := client.submit(f).result()) == 1: time.sleep(0.05)\n"
        "    print(seen)\n"
    )
    assert lines == ["1", "22"]


@pytest.mark.parametrize("call", ["client.submit(f, 1).result()", "list(client.map(f, [1]))"])
def test_a_store_knows_at_once_that_a_module_which_only_tasks_import_was_edited(
    far: Projects, call: str
) -> None:
    far.write({"inner.py": "X = 1\n"})
    lines = far.run(
        "def f(_):\n    import inner\n    return inner.X\n"
        "import os\nos.environ['DISTCOMP_BUNDLE_CHECK_S'] = '0'\n"
        "with distcomp.Client(ADDRESS, store='results.db') as client:\n"
        f"    print({call}, {call})\n"
        "    pathlib.Path('inner.py').write_text('X = 22\\n')\n"
        f"    print({call})\n"
    )
    assert [line.replace("[", "").replace("]", "") for line in lines] == ["1 1", "22"]


def test_without_a_project_functions_go_by_value_as_before(projects: Projects) -> None:
    projects.write({"helper.py": "FACTOR = 7\ndef times(x):\n    return x * FACTOR, __file__\n"})
    lines = projects.run(
        "import helper\n"
        "with distcomp.Client(ADDRESS, project=False) as client:\n"
        "    print(client.submit(helper.times, 6).result() == (42, helper.__file__))\n"
        "    print(client.status().totals.bundles)\n"
    )
    assert lines == ["True", "0"]


def test_a_named_folder_travels_whole(projects: Projects) -> None:
    projects.write({"src/plugins/one.py": "NAME = 'one'\n", "src/core.py": "", "src/notes.txt": "read me\n"})
    lines = projects.run(
        "def work(name):\n"
        "    import core, importlib, pathlib\n"
        "    text = (pathlib.Path(core.__file__).parent / 'notes.txt').read_text()\n"
        "    return importlib.import_module('plugins.' + name).NAME, text.strip()\n"
        "with distcomp.Client(ADDRESS, project='src/') as client:\n"
        "    print(*client.submit(work, 'one').result())\n"
        "    totals = client.status().totals\n"
        "    print(totals.bundles, 0 < totals.bundle_bytes < 1000)\n"
    )
    assert lines == ["one read me", "1 True"]


def test_a_folder_that_is_not_there_is_refused_before_anything_is_started(far: Projects) -> None:
    assert not (far.folder / "missing").exists()
    with pytest.raises(distcomp.ConfigError, match="is no folder"):
        distcomp.Client(project=far.folder / "missing")


def test_a_project_that_is_too_large_is_refused_at_submit(far: Projects) -> None:
    far.write({"big/__init__.py": "def f(): return 1\n", "big/table.csv": "x" * 2000})
    lines = far.run(
        "import big\nfrom distcomp.config import ClientSettings\n"
        "with distcomp.Client(ADDRESS, settings=ClientSettings(bundle_bytes=1000)) as client:\n"
        "    for call in (lambda: client.submit(big.f), lambda: list(client.map(big.f, []))):\n"
        "        try:\n            call()\n"
        "        except distcomp.errors.BundleTooLargeError as error:\n            print(error)\n"
    )
    assert lines[0].startswith("the project's modules take ")
    assert "bundle_bytes is 1000" in lines[0]


GROWING = """\
from distcomp.config import ClientSettings
import helper

class Growing:
    'Arguments, of which the second makes the project too large.'
    def __len__(self):
        return 3
    def __iter__(self):
        yield from [0]
        pathlib.Path('helper.py').write_text(pathlib.Path('helper.py').read_text() + '#' * 1000)
        client._project.is_fresh = False  # as after any turn of the client's
        yield from [1, 2]

settings = ClientSettings(bundle_bytes=1000, bundle_check_s=1e-6)
with distcomp.Client(ADDRESS, settings=settings) as client:
    tasks = client.map(helper.times, MADE)
    try:
        print(list(tasks))
    except distcomp.errors.BundleTooLargeError as error:
        print(error)
"""


@pytest.mark.parametrize("made", ["Growing()", "iter(Growing())"])
def test_a_project_that_becomes_too_large_ends_the_tasks_it_is_for(far: Projects, made: str) -> None:
    far.write({"helper.py": "def times(x):\n    return x * 7\n"})
    (line,) = far.run(GROWING.replace("MADE", made))
    assert "bundle_bytes is 1000" in line


def test_a_map_whose_project_is_too_large_leaves_nothing_to_wait_for(far: Projects) -> None:
    far.write({"helper.py": "def times(x):\n    return x * 7\n" + "#" * 1000})
    lines = far.run(
        "from distcomp.config import ClientSettings\nimport helper\n"
        "with distcomp.Client(ADDRESS, settings=ClientSettings(bundle_bytes=1000)) as client:\n"
        "    try:\n        client.map(helper.times, [1, 2])\n"
        "    except distcomp.errors.BundleTooLargeError as error:\n        print(error)\n"
    )
    assert "bundle_bytes is 1000" in lines[0]


def test_tasks_that_submit_tasks_take_the_project_along(projects: Projects) -> None:
    projects.write(
        {
            "tree.py": (
                "import distcomp\n\n"
                "class Leaf:\n    def __init__(self, n): self.n = n\n\n"
                "@distcomp.compute_this\n"
                "def grow(n):\n"
                "    return Leaf(n) if n < 2 else Leaf(sum(leaf.n for leaf in grow.map([n - 1, n - 2])))\n"
            )
        }
    )
    lines = projects.run(
        "import tree\n"
        "with distcomp.Client(ADDRESS) as client:\n"
        "    leaf = client.submit(tree.grow, 5).result()\n"
        "    print(leaf.n, isinstance(leaf, tree.Leaf))\n"
    )
    assert lines == ["5 True"]


def test_a_worker_in_an_environment_of_its_own_that_lacks_nearly_everything(
    tmp_path: Path, cluster: Programs
) -> None:
    made = Projects(tmp_path / "project", cluster)
    cluster.scheduler()
    worker = cluster.worker(python=bare_environment(tmp_path / "env"), PYTHONPATH="")
    made.address = cluster.access().addresses[0]
    made.write({**PACKAGE, "tested.py": "import pytest\ndef f(): return 1\n"})
    lines = made.run(
        "import zoo, tested\nfrom zoo import animals\n"
        "def where():\n    import sys\n    return sys.prefix\n"
        "with distcomp.Client(ADDRESS) as client:\n"
        "    print(client.submit(animals.count, zoo.Animal('cat')).result() == zoo.Animal('cat', 4))\n"
        "    print(client.submit(where).result())\n"
        "    try:\n        client.submit(tested.f).result()\n"
        "    except distcomp.errors.UnloadableTaskError as error:\n        print(error)\n"
    )
    assert worker.poll() is None, cluster.said(worker)
    assert lines[:2] == ["True", str(tmp_path / "env")]
    assert f"lacks package pytest ({pytest.__version__} at the client); install it there" in lines[2]


def bare_environment(folder: Path) -> str:
    """The interpreter of a virtual environment with distcomp and what that needs, and nothing else."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for package in (distcomp, msgpack, cloudpickle):
        source = Path(str(package.__file__)).parent
        (site / source.name).symlink_to(source)
    return str(folder / "bin" / "python")


# --- what a worker lacks --------------------------------------------------------------------------


def installed(folder: Path, name: str, version: str) -> None:
    """Make what looks like an installed package."""
    site = folder / "site-packages"
    (site / name).mkdir(parents=True)
    (site / name / "__init__.py").write_text("def f(): return 1\n")
    about = site / f"{name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_a_package_that_the_worker_lacks_is_named_in_one_line(far: Projects) -> None:
    installed(far.folder, "onlyhere", "2.1.0")
    far.write({"helper.py": "import onlyhere\ndef f(): return onlyhere.f()\n"})
    lines = far.run(
        "sys.path.append('site-packages')\n"
        "import helper, onlyhere\n"
        "def inside():\n    import onlyhere\n    return onlyhere.f()\n"
        "with distcomp.Client(ADDRESS) as client:\n"
        "    for function in (helper.f, onlyhere.f, inside):\n"
        "        try:\n            client.submit(function).result()\n"
        "        except Exception as error:\n            print(type(error).__name__, error)\n"
    )
    host = os.uname().nodename
    said = f"worker {host} on host {host} lacks package onlyhere (2.1.0 at the client); install it there"
    assert lines == [
        f"{kind} {said}" for kind in ("UnloadableTaskError", "UnloadableTaskError", "ModuleNotFoundError")
    ]


def test_a_compiled_extension_of_the_project_is_named_in_one_line(far: Projects) -> None:
    far.write(
        {
            "quick/__init__.py": "def f():\n    from . import _fast\n    return _fast.x\n",
            "quick/_fast.abi3.so": "",
        }
    )
    lines = far.run(
        "import quick\n"
        "with distcomp.Client(ADDRESS) as client:\n"
        "    try:\n        client.submit(quick.f).result()\n"
        "    except ModuleNotFoundError as error:\n        print(error)\n"
    )
    host = os.uname().nodename
    said = "lacks the compiled extension quick._fast (of no version at the client), which does not travel"
    assert lines == [f"worker {host} on host {host} {said}; install it there"]


# --- what is left ---------------------------------------------------------------------------------


def test_a_worker_keeps_bundles_in_a_private_folder_that_goes_with_it(far: Projects) -> None:
    far.write({"helper.py": "import pathlib\ndef f(): return __file__\n"})
    (file,) = far.run(
        "import helper\n"
        "with distcomp.Client(ADDRESS) as client:\n    print(client.submit(helper.f).result())\n"
    )
    folder = next(path for path in Path(file).parents if path.name.startswith("distcomp-bundles-"))
    assert folder.stat().st_mode & 0o777 == 0o700
    until(lambda: not Path(file).exists(), "the session's folder goes with it")
    far.cluster.stop()
    assert not folder.exists()
