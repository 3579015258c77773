"""Placement: hosts as providers, claims as allocations, microversions, and that nothing can be written."""
from __future__ import annotations

from typing import Any

import pytest
from tests.api.compute import rows

from virga.domain.placement import Claim, Host

ROOT = "/placement"
ONE, TWO = rows.HOST_IDS["one"], rows.HOST_IDS["two"]


def at(version: str) -> dict[str, str]:
    return {"OpenStack-API-Version": f"placement {version}"}


def names(client: Any, query: str = "", version: str = "1.39") -> list[str]:
    answer = client.get(f"{ROOT}/resource_providers{query}", headers=at(version))
    assert answer.status_code == 200, answer.text
    return [provider["name"] for provider in answer.json()["resource_providers"]]


def test_root_and_versions(cloud_client: Any) -> None:
    root = cloud_client.get(ROOT, as_=None).json()["versions"][0]
    assert (root["min_version"], root["max_version"]) == ("1.0", "1.39")
    seen = cloud_client.get(f"{ROOT}/resource_providers", headers=at("latest"))
    assert seen.headers["OpenStack-API-Version"] == "placement 1.39"
    assert cloud_client.get(f"{ROOT}/resource_providers", headers=at("1.99")).status_code == 406
    assert cloud_client.get(f"{ROOT}/resource_providers", headers=at("soon")).status_code == 400
    refused = cloud_client.get(f"{ROOT}/resource_providers", as_="demo")
    assert refused.status_code == 403 and refused.json()["errors"][0]["status"] == 403


def test_providers_and_their_parts(cloud_client: Any) -> None:
    rows.hosts(cloud_client)
    rows.server(cloud_client)
    assert names(cloud_client) == ["one", "two"] and names(cloud_client, "?name=two") == ["two"]
    assert names(cloud_client, f"?uuid={ONE}") == ["one"]
    assert names(cloud_client, "?resources=MEMORY_MB:3585") == ["two"]
    assert names(cloud_client, "?resources=VGPU:1") == []
    path = f"{ROOT}/resource_providers/{ONE}"
    provider = cloud_client.get(path, headers=at("1.14")).json()
    assert provider["root_provider_uuid"] == ONE and provider["generation"] == 3
    assert "root_provider_uuid" not in cloud_client.get(path).json()
    inventory = cloud_client.get(f"{path}/inventories").json()["inventories"]
    assert (inventory["VCPU"]["total"], inventory["VCPU"]["allocation_ratio"]) == (8, 16.0)
    assert cloud_client.get(f"{path}/inventories/MEMORY_MB").json()["total"] == 4096
    assert cloud_client.get(f"{path}/inventories/VGPU").status_code == 404
    assert cloud_client.get(f"{path}/usages").json()["usages"] == {"VCPU": 2, "MEMORY_MB": 512, "DISK_GB": 11}
    held = cloud_client.get(f"{path}/allocations").json()["allocations"]
    assert held == {rows.SERVER_ID: {"resources": {"VCPU": 2, "MEMORY_MB": 512, "DISK_GB": 11}}}
    assert "COMPUTE_NODE" in cloud_client.get(f"{path}/traits", headers=at("1.6")).json()["traits"]
    assert cloud_client.get(f"{path}/traits").status_code == 404
    assert cloud_client.get(f"{ROOT}/resource_providers/none").status_code == 404
    assert cloud_client.get(f"{ROOT}/resource_providers?resources=lots").status_code == 400


def test_allocations_and_usages(cloud_client: Any) -> None:
    rows.hosts(cloud_client)
    rows.server(cloud_client)
    rows.put(cloud_client, Claim("two", "m1", "migration", rows.SERVER_ID, 1, 64, 1))
    whole = cloud_client.get(f"{ROOT}/allocations/{rows.SERVER_ID}", headers=at("1.38")).json()
    assert list(whole["allocations"]) == [ONE] and whole["consumer_type"] == "INSTANCE"
    assert whole["project_id"] == cloud_client.projects["demo"]
    moving = cloud_client.get(f"{ROOT}/allocations/m1", headers=at("1.38")).json()
    assert list(moving["allocations"]) == [TWO] and moving["consumer_type"] == "MIGRATION"
    assert cloud_client.get(f"{ROOT}/allocations/none").json() == {"allocations": {}}
    demo = cloud_client.projects["demo"]
    used = cloud_client.get(f"{ROOT}/usages?project_id={demo}", headers=at("1.9")).json()["usages"]
    assert used == {"VCPU": 3, "MEMORY_MB": 576, "DISK_GB": 12}
    typed = cloud_client.get(f"{ROOT}/usages?project_id={demo}", headers=at("1.38")).json()["usages"]
    assert typed["INSTANCE"]["consumer_count"] == 1 and typed["MIGRATION"]["VCPU"] == 1
    assert cloud_client.get(f"{ROOT}/usages", headers=at("1.9")).status_code == 400


def candidates(client: Any, query: str, version: str = "1.39") -> dict[str, Any]:
    answer = client.get(f"{ROOT}/allocation_candidates?{query}", headers=at(version))
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_candidates_are_hosts_that_could_take_it_emptiest_first(cloud_client: Any) -> None:
    rows.hosts(cloud_client)
    rows.server(cloud_client)
    found = candidates(cloud_client, "resources=VCPU:1,MEMORY_MB:64")
    assert [list(item["allocations"]) for item in found["allocation_requests"]] == [[TWO], [ONE]]
    assert found["allocation_requests"][0]["mappings"] == {"": [TWO]}
    assert found["provider_summaries"][ONE]["resources"]["MEMORY_MB"] == {"capacity": 4096, "used": 512}
    assert len(candidates(cloud_client, "resources=VCPU:1&limit=1")["allocation_requests"]) == 1
    assert candidates(cloud_client, "resources=MEMORY_MB:9999")["allocation_requests"] == []
    old = candidates(cloud_client, "resources=VCPU:1", "1.10")["allocation_requests"][0]["allocations"]
    assert old == [{"resource_provider": {"uuid": TWO}, "resources": {"VCPU": 1}}]
    rows.put(cloud_client, Host("two", TWO, "up", 2, disabled=True, vcpus=8, ram_mb=4096, disk_gb=100))
    only = candidates(cloud_client, "resources=VCPU:1")["allocation_requests"]
    assert [list(item["allocations"]) for item in only] == [[ONE]]


@pytest.mark.parametrize("query", ["", "resources=", "resources=VCPU", "resources=VCPU:0", "resources=VCPU:1&limit=0"])
def test_bad_candidate_queries(cloud_client: Any, query: str) -> None:
    assert cloud_client.get(f"{ROOT}/allocation_candidates?{query}", headers=at("1.39")).status_code == 400


def test_classes_and_traits(cloud_client: Any) -> None:
    classes = cloud_client.get(f"{ROOT}/resource_classes", headers=at("1.2")).json()["resource_classes"]
    assert {"VCPU", "MEMORY_MB", "DISK_GB"} <= {item["name"] for item in classes}
    assert cloud_client.get(f"{ROOT}/resource_classes/NOPE", headers=at("1.2")).status_code == 404
    some = cloud_client.get(f"{ROOT}/traits?name=startswith:COMPUTE_STATUS", headers=at("1.6")).json()["traits"]
    assert some == ["COMPUTE_STATUS_DISABLED"]
    assert cloud_client.get(f"{ROOT}/traits/COMPUTE_NODE", headers=at("1.6")).status_code == 204
    assert cloud_client.get(f"{ROOT}/traits/NOPE", headers=at("1.6")).status_code == 404


def test_nothing_can_be_written(cloud_client: Any) -> None:
    rows.hosts(cloud_client)
    assert cloud_client.put(f"{ROOT}/allocations/{rows.SERVER_ID}", {}).status_code == 405
    assert cloud_client.delete(f"{ROOT}/resource_providers/{ONE}").status_code == 405
