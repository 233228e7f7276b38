"""What is handed in stays handed in, whatever the scheduler forgets."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from gateway_world import PATIENCE_S, World, until, world

from distcomp.gateway.shelf import TaskShelf
from distcomp.publishing import make_publication
from distcomp.rows import TaskOptions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        data = make_publication(abs, "absolute", project=False).to_bytes()
        assert made.ask("PUT", "/v1/functions/absolute/versions/1", body=data).status == 201
        yield made


def nested(depth: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


def submit(gateway: World, **body: Any) -> str:
    reply = gateway.ask("POST", "/v1/functions/absolute/tasks", body=body)
    assert reply.status == 202
    assert reply.headers["location"] == f"/v1/tasks/{reply.body['id']}"
    return str(reply.body["id"])


def pending(gateway: World) -> int:
    """How many tasks the scheduler has."""
    reply = gateway.ask("GET", "/v1/status")
    return sum(each["pending"] for each in reply.body["arrays"]) if reply.status == 200 else 0


def test_what_a_scheduler_forgets_is_handed_in_again(gateway: World) -> None:
    submit(gateway, map=[[-1], [-2], [-3]])
    cancelled = submit(gateway, args=[-4])
    once = submit(gateway, args=[-5], options={"max_attempts": 1})
    until(lambda: pending(gateway) == 5)
    assert gateway.ask("DELETE", f"/v1/tasks/{cancelled}").body["state"] == "cancelled"
    until(lambda: pending(gateway) == 4)
    gateway.forget()
    until(lambda: pending(gateway) == 3)
    lost = until(lambda: (task := gateway.ask("GET", f"/v1/tasks/{once}").body)["state"] == "failed" and task)
    assert (lost["failure"]["kind"], "max_attempts" in lost["failure"]["text"]) == ("lost", True)
    submit(gateway, args=[-6])
    until(lambda: pending(gateway) == 4)


def test_what_is_over_before_its_turn_comes_is_not_handed_in(
    gateway: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While all that is open is handed in to a new session, more comes, and is cancelled again."""
    first = submit(gateway, args=[-1])
    until(lambda: pending(gateway) == 1)
    real, begun, go_on = TaskShelf.arguments, threading.Event(), threading.Event()

    async def slow(shelf: TaskShelf, number: str) -> Any:
        if number == first:
            begun.set()
            await asyncio.to_thread(go_on.wait, PATIENCE_S)
        return await real(shelf, number)

    monkeypatch.setattr(TaskShelf, "arguments", slow)
    gateway.forget()
    assert begun.wait(PATIENCE_S)
    replies: list[Any] = []
    ask = "POST", "/v1/functions/absolute/tasks"
    submits = threading.Thread(target=lambda: replies.append(gateway.ask(*ask, body={"args": [-2]})))
    submits.start()

    def others() -> list[str]:
        items = gateway.ask("GET", "/v1/tasks").body["items"]
        return [each["id"] for each in items if each["id"] != first]

    (second,) = until(others)
    assert gateway.ask("DELETE", f"/v1/tasks/{second}").body["state"] == "cancelled"
    go_on.set()
    submits.join(PATIENCE_S)
    assert [reply.body["state"] for reply in replies] == ["cancelled"]
    submit(gateway, args=[-3])
    until(lambda: pending(gateway) >= 2)
    assert pending(gateway) == 2


def test_options_reach_the_scheduler_however_json_writes_numbers(gateway: World) -> None:
    submit(gateway, args=[-1], options={"retries": 2.0, "priority": -1e0, "max_attempts": 3.0})
    submit(gateway, args=[-1], options={"timeout_s": 1, "retry_delay_s": 0})
    until(lambda: pending(gateway) == 2)
    (session,) = gateway.scheduler._state.books.sessions.values()
    assert {array.options for array in session.arrays.values()} == {
        TaskOptions(retries=2, priority=-1, max_attempts=3, detach=True),
        TaskOptions(timeout_s=1.0, detach=True),
    }


def test_one_task_of_an_array_can_be_cancelled_where_it_waits(gateway: World) -> None:
    array = submit(gateway, map=[[-1], [-2], [-3]])
    until(lambda: pending(gateway) == 3)
    assert gateway.ask("DELETE", f"/v1/tasks/{array}.1").body["state"] == "cancelled"
    until(lambda: pending(gateway) == 2)
    assert gateway.ask("GET", f"/v1/tasks/{array}.1/result").status == 409
    assert gateway.ask("GET", f"/v1/tasks/{array}.0/result").status == 409
    assert gateway.ask("GET", f"/v1/tasks/{array}/result").status == 404
    for nonsense in (f"{array}.3", f"{array}.", f"{array}.-1", f"{array}.1.1", f"{array}.%C2%B2", "x.0"):
        assert gateway.ask("GET", f"/v1/tasks/{nonsense}").status == 404
    one = submit(gateway, args=[1])
    assert gateway.ask("GET", f"/v1/tasks/{one}.0").status == 404
    assert gateway.ask("GET", f"/v1/tasks/{one}/items").status == 404


def test_tasks_of_others_are_an_admins_alone(gateway: World) -> None:
    gateway.texts["bob"] = gateway.tokens.create(scope="submit", owner="bob")[1]
    gateway.access.add_owner("bob")
    number = submit(gateway, args=[-1])
    for method, path in (("GET", ""), ("GET", "/result"), ("GET", "/items"), ("DELETE", "")):
        assert gateway.ask(method, f"/v1/tasks/{number}{path}", scope="bob").status == 404
    assert gateway.ask("GET", "/v1/tasks", scope="bob").body["items"] == []
    of_bob = gateway.ask("POST", "/v1/functions/absolute/tasks", scope="bob", body={"args": [1]}).body["id"]
    assert gateway.ask("GET", f"/v1/tasks/{of_bob}").status == 200
    assert gateway.ask("GET", f"/v1/tasks/{of_bob}", scope="submit").status == 404
    assert gateway.ask("DELETE", "/v1/functions/absolute/versions/1", scope="bob").status == 403
    statuses = {row["owner"] for row in until(lambda: gateway.ask("GET", "/v1/status").body.get("arrays"))}
    assert statuses <= {"alice", "bob"}
    own = gateway.ask("GET", "/v1/status", scope="bob").body["arrays"]
    assert {row["owner"] for row in own} <= {"bob"}


def test_what_does_not_fit_is_said(gateway: World) -> None:
    def asked(query: str = "", **body: Any) -> tuple[int, str]:
        reply = gateway.ask("POST", f"/v1/functions/absolute/tasks{query}", body=body)
        return reply.status, reply.body["detail"]

    assert asked(map=[[1]], args=[1])[0] == 422
    assert asked("?version=2", args=[1]) == (404, "absolute has no version 2")
    assert asked("?more=1", args=[1])[0] == 422
    assert asked("?wait=1&wait=2", args=[1])[0] == 422
    for after in ("x:y", "nan:y", "inf:y", "1.5"):
        assert gateway.ask("GET", f"/v1/tasks?after={after}").status == 422
    wrong = make_publication(abs, "absolute", "2", project=False).to_bytes()
    assert gateway.ask("PUT", "/v1/functions/absolute/versions/3", body=wrong).status == 400
    assert gateway.ask("PUT", "/v1/functions/absolute/versions/2", body=wrong[:-1]).status == 400


def test_a_publication_that_nobody_could_be_shown_is_refused(gateway: World) -> None:
    base = {"name": "x", "kind": "k", "required": True}
    for fields in (
        {"doc": "\ud800"},
        {"doc": "x" * 70_000},
        {"bundle_name": "\ud800"},
        {"versions": ("\ud800", "3.11.0", "3")},
        {"parameters": ["x"]},
        {"parameters": [{**base, "name": 1}]},
        {"parameters": [{**base, "name": "\ud800"}]},
        {"parameters": [{**base, "default": float("nan")}]},
        {"parameters": [{**base, "default": nested(200)}]},
    ):
        made: Any = make_publication(abs, "broken", project=False)._replace(**fields)
        assert gateway.ask("PUT", "/v1/functions/broken/versions/1", body=made.to_bytes()).status == 400
        assert gateway.ask("GET", "/v1/functions").status == 200
