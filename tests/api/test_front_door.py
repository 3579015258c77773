"""The front door itself, through the shared client."""
from __future__ import annotations

from typing import Any


def test_a_path_nobody_owns_is_404_with_a_sentence(cloud_client: Any) -> None:
    answer = cloud_client.get("/nothing")
    assert answer.status_code == 404
    assert "/nothing" in answer.json()["error"]["message"]
    assert answer.headers["x-openstack-request-id"].startswith("req-")


def test_every_named_caller_has_a_token_of_its_own(cloud_client: Any) -> None:
    assert set(cloud_client.tokens) == {"admin", "demo", "reader", "manager", "other"}
    assert len(set(cloud_client.tokens.values())) == 5
