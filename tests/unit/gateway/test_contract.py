"""The gateway against its own OpenAPI document: whatever is asked, the document said what comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from gateway_world import World, world
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from distcomp.gateway.openapi import document
from distcomp.gateway.table import OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = 6
STREAMS = {"/v1/events", "/v1/tunnel/{tunnel}/down"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(
        tmp_path_factory.mktemp("home"),
        requests_per_s=1e6,
        refusals_per_s=1e6,
        max_tunnels=10_000,
        max_wait_s=0.1,
    ) as made:
        yield made


def with_token_given() -> dict[str, Any]:
    """The document for requests that have a token; `test_gateway_table` shows what becomes of others."""
    found = document()
    del found["security"]
    return found


schema = schemathesis.openapi.from_dict(with_token_given()).exclude(path=sorted(STREAMS))


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_what_comes_back_is_in_the_document(case: Any, gateway: World) -> None:
    takes_bytes = "application/octet-stream" in case.operation.definition.raw.get("requestBody", {}).get(
        "content", {}
    )
    case.call_and_validate(
        base_url=f"http://127.0.0.1:{gateway.port}",
        headers={"Authorization": f"Bearer {gateway.texts['admin']}"},
        excluded_checks=[positive_data_acceptance] if takes_bytes else [],
        timeout=60,
    )


def test_the_document_has_every_operation() -> None:
    paths = document("/below")["paths"]
    found = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert found == {(each.method, each.path) for each in OPERATIONS}
    assert document("/below")["servers"] == [{"url": "/below"}]


def test_what_is_served_is_the_document(gateway: World) -> None:
    assert gateway.ask("GET", "/openapi.json", scope="observe").body == document()
