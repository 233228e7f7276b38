"""The examples of docs/http.md answer what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clusters import until
from gateways import ask, make_token, start_gateway

from distcomp.gateway.problems import TITLES
from distcomp.gateway.tokens import SCOPES
from distcomp.gateway_settings import GatewaySettings

if TYPE_CHECKING:
    from clusters import Programs

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "http.md").read_text()
BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)
STEP = re.compile(r"((?:(?!#>).*\n)+)((?:#> .*\n)*)")


@pytest.mark.skipif(subprocess.call(["which", "curl"], stdout=subprocess.DEVNULL) != 0, reason="needs curl")
def test_the_examples_answer_what_is_shown(cluster: Programs, tmp_path: Path) -> None:
    cluster.scheduler("test")
    cluster.worker()
    _, port = start_gateway(cluster)
    token = make_token(cluster, "observe", owner="reader")
    until(lambda: ask(port, token, "GET", "/v1/workers")[2].get("items"), "the worker is there")
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "distcomp").write_text(f'#!/bin/sh\nexec {sys.executable} -m distcomp.cli.main "$@"\n')
    (commands / "distcomp").chmod(0o755)
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    told = cluster.environment(GATEWAY=f"http://127.0.0.1:{port}", PATH=path)
    steps = [step for block in BLOCK.findall(PAGE) for step in STEP.findall(block)]
    assert len(steps) >= 14
    shell = subprocess.Popen(
        ["bash", "-e"], cwd=tmp_path, env=told, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        for commands_shown, answers in steps:
            shell.stdin.write(f"{commands_shown}echo; echo END OF STEP\n")
            shell.stdin.flush()
            lines = iter(shell.stdout.readline, "END OF STEP\n")
            said = "".join(line for line in lines if line or pytest.fail(f"{commands_shown} failed"))
            for answer in re.findall(r"#> (.*)\n", answers):
                assert re.search(re.escape(answer).replace("…", ".*"), said, re.DOTALL), (
                    commands_shown,
                    said,
                )
        shell.stdin.close()


def test_the_page_tells_of_every_scope_and_names_real_settings() -> None:
    assert all(f"| `{scope}` |" in PAGE for scope in SCOPES)
    known = {each.name for each in GatewaySettings.describe()}
    named = set(re.findall(r"`((?:max|body|head|requests|task)_\w+)`", PAGE))
    assert named - {"max_attempts"} <= known
    statuses = set(
        map(int, re.findall(r"\b([45]\d\d)\b", PAGE.partition("| status |")[2].partition("##")[0]))
    )
    assert statuses <= {status for status, _ in TITLES.values()}
