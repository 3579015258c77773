"""Hostile input to compute, image and placement: whatever a client sends, the answer is not a 5xx and is JSON with a sentence.

Every route is called with bodies of the wrong shape below its own outer key, and with hostile queries and path parts.
The keys are found by asking: a 400 that names a missing field gives the next body its outer key.
"""
from __future__ import annotations

import re
from typing import Any

import pytest
from tests.api.compute import rows

from virga.api import placement
from virga.api.compute.service import service as compute_service
from virga.api.image.service import service as image_service

VALUES: list[Any] = [
    None, [], {}, "x", -1, 2**70, [{}], {"x": {"y": []}}, "\u0000" * 300]
INNER = ("name", "id", "host", "metadata", "public_key", "policies", "availability_zone", "address", "tag", "method", "tags")
QUERIES = (
    "limit=x", "limit=-1", "limit=99999999999999999999", "marker=%00", "marker=none", "sort_key=%27", "sort_dir=%00",
    "changes-since=%00", "changes-since=9999999", "start=0001-01-01T00:00:00&end=9999-12-31T23:59:59", "is_public=%ff",
    "name=in:%22", "created_at=gt:9999-12-31T23:59:59", "created_at=gt:0001-01-01T00:00:00%2B23:59", "size_min=x",
    "resources=VCPU:999999999", "minRam=%F0%9F%98%80", "name=(((((", "ip=*", "user_id=%00", "all_tenants=%00", "tag=%00",
    "visibility=%00", "os_hidden=2", "with_servers=2", "offset=x", "detailed=%00", "tenant_id=%00", "in_tree=%00")
PARTS = ("x", "%00", "99999999999999999999", "%F0%9F%98%80", "..", "a%2Fb", rows.SERVER_ID)
V_LATEST = {"OpenStack-API-Version": "compute latest, placement latest"}
PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
SLOW = {"/os-keypairs"}  # makes keys


def routes() -> list[tuple[str, str]]:
    found = []
    for made in (compute_service(), image_service(), placement.service()):
        for route in made.routes:
            if not route.open and (made.name != "compute" or route.path.startswith("/v2.1/")):
                found.append((route.method, made.prefix + route.path))
    return sorted(set(found))


def wrong(answer: Any, what: str) -> list[str]:
    """What is wrong with an answer: a 5xx (but 501, which says that something is not offered), or no sentence."""
    if answer.status_code >= 500 and answer.status_code != 501:
        return [f"{what}: {answer.status_code}"]
    if answer.status_code >= 400 and answer.content:
        text = answer.text
        if '"message":""' in text or '"detail":""' in text or not text.startswith("{"):
            return [f"{what}: {answer.status_code} without a sentence"]
    return []


def filled(path: str, part: str) -> str:
    return re.sub(r"\{[a-z_]+\}", part, path)


@pytest.mark.parametrize("room", ["compute", "image", "placement"])
def test_no_route_breaks(cloud_client: Any, room: str) -> None:
    rows.hosts(cloud_client)
    rows.server(cloud_client)
    rows.flavor(cloud_client)
    count, bad = 0, []
    for method, path in routes():
        if not path.startswith("/" + room):
            continue
        part = rows.SERVER_ID if "server" in path else "1"
        where = filled(path, part)
        if method in ("GET", "DELETE"):
            for query in QUERIES if method == "GET" else QUERIES[:3]:
                bad += wrong(cloud_client.call(method, f"{where}?{query}", headers=V_LATEST), f"{method} {where}?{query}")
                count += 1
            for other in PARTS if "{" in path else ():
                bad += wrong(cloud_client.call(method, filled(path, other)), f"{method} {filled(path, other)}")
                count += 1
            continue
        headers = {**V_LATEST, **(PATCH if method == "PATCH" else {})}
        outer = outer_key(cloud_client, method, where)
        for value in VALUES:
            bodies = [value, {outer: value}] + [{outer: {key: value}} for key in INNER] if outer else \
                [value] + [{key: value} for key in INNER]
            for body in bodies if path.rpartition("/v2.1")[2] not in SLOW else bodies[:2]:
                bad += wrong(cloud_client.call(method, where, body, headers=headers), f"{method} {where} {body!r:.200}")
                count += 1
        bad += wrong(cloud_client.call(method, where, content=b"{", headers=headers), f"{method} {where} broken JSON")
        bad += wrong(cloud_client.call(method, where, content=b"\xff\xfe", headers=headers), f"{method} {where} no UTF-8")
    assert count > 100
    assert not bad, f"{len(bad)} of {count}:\n" + "\n".join(bad[:20])


def outer_key(client: Any, method: str, where: str) -> str:
    """The key a body must have, as the service's own answer names it."""
    text = client.call(method, where, {}).text
    found = re.search(r"'([a-z_]+)' is a required property", text)
    return found[1] if found else ""
