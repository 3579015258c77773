"""/virga/v1: who may see what, and bad input."""
from __future__ import annotations

from typing import Any

import pytest

from virga.api.virga.service import service
from virga.domain.operation import Operation, StoredEvent
from virga.domain.server import FlavorSpec, Server


@pytest.fixture
def cloud(cloud_client: Any) -> Any:
    """A server of project demo with one finished operation and three events; /virga among the services."""
    from tests.api.conftest import services

    from virga.api.http import FrontDoor
    from virga.api.identity import authenticate

    known = services()
    if all(each.name != "virga" for each in known):
        known.append(service())
    cloud_client.door = FrontDoor(cloud_client.cloud, known, authenticate)
    cloud_client.http._transport.app = cloud_client.door

    def rows(tx: Any) -> None:
        tx.insert(Server("s1", cloud_client.projects["demo"], "u", "one", FlavorSpec("1", "m1.nano", 1, 128, 1), vm_state="active", host="host-1"))
        tx.insert(Operation("op1", "boot", "s1", cloud_client.projects["demo"], "u", "req-1", 1, state="done", started_at=10.0, ended_at=11.0))
        for number in range(1, 4):
            tx.insert(StoredEvent(number, 10.0 + number, "step", "ops", "ops", f"e{number}", server="s1", operation="op1" if number < 3 else "op2"))

    cloud_client.run(cloud_client.db.run(rows))
    return cloud_client


@pytest.mark.parametrize("path", ["events", "explain", "disk"])
def test_a_server_is_its_projects_own(cloud: Any, path: str) -> None:
    for who, status in (("demo", 200), ("reader", 200), ("admin", 200), ("other", 404), (None, 401)):
        assert cloud.get(f"/virga/v1/servers/s1/{path}", as_=who).status_code == status, who
    answer = cloud.get(f"/virga/v1/servers/nobody/{path}")
    assert answer.status_code == 404
    assert "Instance nobody could not be found" in answer.json()["error"]["message"]


def test_events_in_order_narrowed_and_limited(cloud: Any) -> None:
    def texts(query: str = "") -> list[str]:
        return [event["text"] for event in cloud.get(f"/virga/v1/servers/s1/events{query}").json()["events"]]

    assert texts() == ["e1", "e2", "e3"]
    assert texts("?operation=op1") == ["e1", "e2"]
    assert texts("?limit=1") == ["e3"]  # the newest are kept
    for bad in ("0", "-1", "x", "1.5"):
        assert cloud.get(f"/virga/v1/servers/s1/events?limit={bad}").status_code == 400


def test_operations_of_ones_own_project(cloud: Any) -> None:
    def ids(query: str, who: str) -> list[str]:
        return [op["id"] for op in cloud.get(f"/virga/v1/operations{query}", as_=who).json()["operations"]]

    assert ids("", "admin") == ids("", "demo") == ids("?state=done", "demo") == ids("?server=s1", "demo") == ["op1"]
    assert ids("", "other") == ids("?state=open", "admin") == ids("?server=s2", "admin") == []


def test_the_version_needs_no_token(cloud: Any) -> None:
    assert cloud.get("/virga/v1", as_=None).json()["version"]["status"] == "CURRENT"
