"""What files say reaches every program, and no task."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from clusters import Programs

SCRIPT = """\
import os
from pathlib import Path
import distcomp

@distcomp.compute_this
def crash(mark):
    with Path(mark).open("a") as file:
        file.write("x")
    os._exit(1)

@distcomp.compute_this
def close_s():
    return distcomp.Client().settings.close_s

with distcomp.Client() as client:
    print(client.is_embedded, client.settings.close_s, client.submit(close_s.local).result())
    try:
        client.submit(crash.local, os.path.abspath("mark")).result()
    except distcomp.TaskCrashedError:
        print(Path("mark").read_text())
"""


def run(cluster: Programs, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these words in a folder, as the user of the cluster."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=cluster.environment(),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_a_projects_file_reaches_an_embedded_cluster_but_no_task(cluster: Programs, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.distcomp]\nclose_s = 7\ncrash_limit = 1\n")
    folder = tmp_path / "package"
    folder.mkdir()
    ran = run(cluster, folder, "-c", SCRIPT)
    assert ran.stdout.split() == ["True", "7.0", "5.0", "x"], ran.stderr


def test_a_file_names_the_cluster_of_clients_and_commands(cluster: Programs, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    cluster.scheduler("left")
    cluster.scheduler("right", "--local-slots", "1", "--crash-limit", "2")
    (address,) = cluster.access(name="right").addresses
    (project / "distcomp.toml").write_text(f'address = "{address}"\nclose_s = 7\n')
    ran = run(cluster, project, "-c", SCRIPT)
    assert ran.stdout.split() == ["False", "7.0", "5.0", "xx"], ran.stderr
    assert "cluster right" in run(cluster, project, "-m", "distcomp.cli.main", "status").stdout


def test_a_wrong_file_ends_a_program_with_one_line(cluster: Programs, tmp_path: Path) -> None:
    cluster.home.mkdir()
    (cluster.home / "distcomp.toml").write_text("prot = 1\n")
    ran = run(cluster, tmp_path, "-m", "distcomp.cli.scheduler", "--port", "0")
    assert ran.returncode == 2
    assert f"{cluster.home}/distcomp.toml: there is no setting prot; did you mean port?" in ran.stderr
    assert ran.stderr.count("\n") == 1
