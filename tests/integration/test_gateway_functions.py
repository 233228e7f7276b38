"""Published functions over HTTP: real programs, and clients that know nothing but HTTP and JSON."""

from __future__ import annotations

import http.client
import json
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from clusters import until
from gateways import Gatewayed, alices_cluster, ask

from distcomp import Client
from distcomp.cli.main import main
from distcomp.errors import AuthenticationError, ConfigError, PublishError
from distcomp.publishing import publish

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODULE = '''
"""Functions to be published."""

import helper_of_shapes


def area(width, height=1):
    """The area of a rectangle."""
    print("measuring", width)
    return helper_of_shapes.product(width, height)
'''


@pytest.fixture(scope="module")
def alice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gatewayed]:
    with alices_cluster(tmp_path_factory.mktemp("home")) as made:
        yield made


def test_functions_are_published_by_command_and_called_with_json(alice: Gatewayed, tmp_path: Path) -> None:
    port = alice.port
    (tmp_path / "shapes.py").write_text(MODULE)
    (tmp_path / "helper_of_shapes.py").write_text("def product(a, b): return a * b")

    def command(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "distcomp.cli.main", *words],
            cwd=tmp_path,
            env=alice.cluster.environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    assert "area version 1 is published" in command("publish", "shapes:area")
    assert "(width, height)" in command("functions", "list")
    token = alice.token("submit-named")
    status, headers, task = ask(
        port,
        token,
        "POST",
        "/v1/functions/area/tasks?wait=30",
        {"args": [6], "kwargs": {"height": 7}, "options": {"logs": True}},
    )
    assert (status, task["state"], task["result"]) == (200, "done", 42)
    until(
        lambda: "measuring 6" in ask(port, token, "GET", headers["location"])[2]["logs"], "what was printed"
    )
    assert ask(port, token, "GET", f"{headers['location']}/result")[2] == 42
    status, _, listed = ask(port, token, "GET", "/v1/functions/area")
    assert (listed["items"][0]["uses"], listed["items"][0]["doc"]) == (1, "The area of a rectangle.")
    assert ask(port, token, "DELETE", "/v1/functions/area/versions/1")[0] == 403
    command("functions", "withdraw", "area", "1")
    assert ask(port, token, "POST", "/v1/functions/area/tasks", {"args": [1]})[0] == 404


def test_failures_arrays_and_what_json_cannot_carry(alice: Gatewayed) -> None:
    port = alice.port
    publish(lambda number: 1 / number, "inverse")
    publish(lambda: {1, 2}, "odd")
    token = alice.token()
    _, _, failed = ask(port, token, "POST", "/v1/functions/inverse/tasks?wait=30", {"args": [0]})
    assert (failed["state"], failed["failure"]["type"]) == ("failed", "ZeroDivisionError")
    assert "1 / number" in failed["failure"]["traceback"]
    _, _, array = ask(port, token, "POST", "/v1/functions/inverse/tasks?wait=30", {"map": [[1], [0], [4]]})
    assert (array["tasks"], array["done"], array["failed"], array["state"]) == (3, 2, 1, "failed")
    _, _, first = ask(port, token, "GET", f"/v1/tasks/{array['id']}/items?limit=2")
    _, _, rest = ask(port, token, "GET", f"/v1/tasks/{array['id']}/items?after={first['next']}")
    assert [each["state"] for each in first["items"] + rest["items"]] == ["done", "failed", "done"]
    assert ask(port, token, "GET", f"/v1/tasks/{array['id']}.2")[2]["result"] == 0.25
    _, _, odd = ask(port, token, "POST", "/v1/functions/odd/tasks?wait=30", {})
    assert "set" in odd["elsewhere"]
    assert pickle.loads(ask(port, token, "GET", f"/v1/tasks/{odd['id']}/result")[2]) == {1, 2}  # noqa: S301 - ours
    other = alice.token("observe", owner="bob")
    assert ask(port, other, "GET", f"/v1/tasks/{odd['id']}")[0] == 404
    assert ask(port, other, "GET", "/v1/tasks")[2] == {"items": []}
    listed = ask(port, token, "GET", "/v1/tasks")[2]["items"]
    assert [each["id"] for each in listed[:3]] == [odd["id"], array["id"], failed["id"]]


def test_a_killed_gateway_goes_on_where_it_was(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    with alices_cluster(tmp_path / "home") as alice:
        check_a_killed_gateway(alice, runs)


def check_a_killed_gateway(alice: Gatewayed, runs: Path) -> None:
    port = alice.port

    def once(number: int) -> int:
        import os  # noqa: PLC0415 - for the slot
        import time  # noqa: PLC0415 - for the slot

        os.open(f"{runs}/{number}-{time.time_ns()}", os.O_CREAT)
        time.sleep(0.01)
        return number

    publish(once, "once")
    token = alice.token()
    path, body = "/v1/functions/once/tasks", {"map": [[number] for number in range(200)]}
    _, _, array = ask(port, token, "POST", path, body, Idempotency_Key="k1")
    task = f"/v1/tasks/{array['id']}"
    until(lambda: ask(port, token, "GET", task)[2]["done"] > 20, "some are done")
    alice.kill()
    assert ask(port, token, "POST", path, body, Idempotency_Key="k1")[2]["id"] == array["id"]
    assert ask(port, token, "POST", path, {"args": [1]}, Idempotency_Key="k1")[0] == 409
    _, _, array = ask(port, token, "GET", f"{task}?wait=60")
    assert (array["state"], array["done"]) == ("done", 200)
    _, _, page = ask(port, token, "GET", f"{task}/items?limit=1000")
    assert [each["result"] for each in page["items"]] == list(range(200))
    assert len(list(runs.iterdir())) == 200, "none ran twice"


def test_tasks_can_be_cancelled_and_watched(alice: Gatewayed) -> None:
    port = alice.port
    publish(lambda seconds: __import__("time").sleep(seconds), "sleep")
    token = alice.token()
    events = Events(port, token)
    _, _, array = ask(port, token, "POST", "/v1/functions/sleep/tasks", {"map": [[60]] * 5})
    task = f"/v1/tasks/{array['id']}"
    until(lambda: ask(port, token, "GET", f"{task}.0")[2]["state"] == "running", "the first one runs")
    assert ask(port, token, "DELETE", f"{task}.4")[2]["state"] == "cancelled"
    _, _, array = ask(port, token, "GET", task)
    assert (array["state"], array["cancelled"]) == ("running", 1)
    assert ask(port, token, "DELETE", task)[2]["cancelled"] == 5
    assert events.until("task", lambda event: event["cancelled"] == 5)["state"] == "cancelled"
    events.until("status", lambda event: event["totals"]["busy"] == 0)
    events.close()


def test_publishing_needs_a_gateway_a_token_and_a_fresh_version(
    alice: Gatewayed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("DISTCOMP_HOME", str(tmp_path))
        with pytest.raises(ConfigError, match="no gateway runs here"):
            publish(abs, "absolute")
    port = alice.port
    assert publish(abs, "absolute")["version"] == "1"
    with Client(f"http://127.0.0.1:{port}", token=alice.token()) as client:
        assert client.publish(abs, "absolute")["version"] == "1"
        assert client.submit(abs, -2).result() == 2
    with pytest.raises(PublishError, match="another function"):
        publish(len, "absolute")
    assert publish(len, "absolute", version="2")["version"] == "2"
    address = f"http://127.0.0.1:{port}"
    with pytest.raises(AuthenticationError, match="token"):
        publish(abs, "absolute", gateway=address, token="dct_wrong")  # noqa: S106 - it is none
    named = alice.token("submit-named")
    with pytest.raises(PublishError, match="scope submit"):
        publish(abs, "absolute", gateway=address, token=named)
    bob = alice.token("submit", owner="bob")
    with pytest.raises(PublishError, match="alice's"):
        publish(abs, "absolute", version="3", gateway=address, token=bob)


class Events:
    """A stream of server-sent events."""

    def __init__(self, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._connection.request("GET", "/v1/events", headers={"Authorization": f"Bearer {token}"})
        self._answer = self._connection.getresponse()
        assert self._answer.headers["content-type"].startswith("text/event-stream")

    def until(self, wanted: str, fits: Any) -> Any:
        """The next event of a kind that fits."""
        kind = ""
        while True:
            line = self._answer.readline().decode().strip()
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: ") and kind == wanted:
                event = json.loads(line.removeprefix("data: "))
                if fits(event):
                    return event

    def close(self) -> None:
        self._answer.close()
        self._connection.close()


def test_workers_are_scaled_through_the_gateway_by_command(
    alice: Gatewayed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISTCOMP_ADDRESS", f"http://127.0.0.1:{alice.port}")
    monkeypatch.setenv("DISTCOMP_TOKEN", alice.token("admin"))
    assert main(["scale", "--slots", "3", "--json"]) == 0
    (change,) = json.loads(capsys.readouterr().out)
    assert (change["before"], change["slots"], change["problem"]) == (2, 3, "")
    assert main(["scale", "--slots", "2"]) == 0
    monkeypatch.setenv("DISTCOMP_TOKEN", alice.token("submit"))
    assert main(["scale", "--slots", "3"]) == 1
    assert "needs a token with the scope admin" in capsys.readouterr().err
