"""Regions, services, endpoints, and how they show in the catalog; policy documents."""
from __future__ import annotations

from typing import Any

import pytest


def catalog(who: Any) -> dict[str, Any]:
    found = who.get("/auth/catalog", as_="demo").json()["catalog"]
    return {service["type"]: service for service in found}


def test_regions(who: Any) -> None:
    made = who.make("region", "regions", id="north", description="d")
    child = who.put("/regions/north-1", {"region": {"parent_region_id": "north"}}).json()["region"]
    assert child["id"] == "north-1"
    assert [item["id"] for item in who.get("/regions?parent_region_id=north", as_="demo").json()["regions"]] == ["north-1"]
    assert who.get("/regions/north", as_="demo").json()["region"] == made
    assert who.post("/regions", {"region": {"id": "north"}}).status_code == 409
    assert who.post("/regions", {"region": {"parent_region_id": "nowhere"}}).status_code == 404
    assert who.patch("/regions/north", {"region": {"parent_region_id": "north-1"}}).status_code == 400, "a circle"
    assert who.delete("/regions/north").status_code == 403, "has one below"
    assert who.delete("/regions/RegionOne").status_code == 403, "has endpoints"
    assert who.patch("/regions/north", {"region": {"description": "e"}}).json()["region"]["description"] == "e"
    assert who.delete("/regions/north-1").status_code == who.delete("/regions/north").status_code == 204
    assert who.get("/regions/north").status_code == 404
    assert len(who.make("region", "regions")["id"]) == 32


def test_a_service_with_an_endpoint_shows_in_the_catalog(who: Any) -> None:
    service = who.make("service", "services", type="dns", name="d", description="x")
    endpoint = who.make("endpoint", "endpoints", service_id=service["id"], interface="public", region="South",
                        url="http://dns.test/v1/$(project_id)s")
    assert endpoint["region_id"] == endpoint["region"] == "South"
    assert who.get("/regions/South").status_code == 200, "made by naming it"
    shown = catalog(who)["dns"]["endpoints"]
    assert [item["url"] for item in shown] == [f"http://dns.test/v1/{who.client.projects['demo']}"]
    path = f"/endpoints/{endpoint['id']}"
    assert who.patch(path, {"endpoint": {"url": "http://dns.test/v2"}}).json()["endpoint"]["url"] == "http://dns.test/v2"
    assert catalog(who)["dns"]["endpoints"][0]["url"] == "http://dns.test/v2"
    who.patch(path, {"endpoint": {"enabled": False}})
    assert catalog(who)["dns"]["endpoints"] == []
    assert [item["id"] for item in who.get(f"/endpoints?service_id={service['id']}").json()["endpoints"]] == [endpoint["id"]]
    assert who.get("/endpoints?interface=admin&region=South").json()["endpoints"] == []
    assert who.patch(f"/services/{service['id']}", {"service": {"enabled": False}}).status_code == 200
    assert "dns" not in catalog(who)
    assert who.delete(f"/services/{service['id']}").status_code == 204
    assert who.get(path).status_code == who.get(f"/services/{service['id']}").status_code == 404


@pytest.mark.parametrize(("change", "field"), [
    ({"interface": "secret"}, "interface"), ({"url": ""}, "url"), ({"enabled": "True"}, "enabled"), ({"url": 5}, "url"),
    ({"service_id": "0" * 32}, "service_id"), ({"region_id": "nowhere"}, "region_id"), ({"url": "http://x/$(shell)s"}, "url"),
])
def test_bad_endpoints_name_the_field(who: Any, change: dict[str, Any], field: str) -> None:
    service = who.make("service", "services", type="dns", name="d")
    body = {"service_id": service["id"], "interface": "public", "url": "http://x", **change}
    answer = who.post("/endpoints", {"endpoint": body})
    assert answer.status_code == 400
    assert field in answer.json()["error"]["message"]


def test_the_catalogs_records_are_an_admins(who: Any) -> None:
    for path in ("/services", "/endpoints", "/policies"):
        assert who.get(path, as_="demo").status_code == 403
    for noun, plural, fields in (
        ("region", "regions", {}), ("service", "services", {"type": "x"}), ("policy", "policies", {"type": "x", "blob": "y"}),
        ("endpoint", "endpoints", {"service_id": "x", "interface": "public", "url": "http://x"}),
    ):
        assert who.post(f"/{plural}", {noun: fields}, as_="demo").status_code == 403


def test_policies(who: Any) -> None:
    made = who.make("policy", "policies", type="application/json", blob="{}")
    path = f"/policies/{made['id']}"
    assert who.get(path).json()["policy"] == made
    assert who.patch(path, {"policy": {"blob": "[]"}}).json()["policy"]["blob"] == "[]"
    assert [item["id"] for item in who.get("/policies?type=application/json").json()["policies"]] == [made["id"]]
    assert who.delete(path).status_code == 204
    assert who.get(path).status_code == 404


def test_what_is_not_offered_says_so(who: Any) -> None:
    for path in ("/limits", "/registered_limits", "/OS-OAUTH1/consumers", "/OS-FEDERATION/mappings", "/domains/default/config"):
        answer = who.get(path)
        assert answer.status_code == 404
        assert "not offered" in answer.json()["error"]["message"]


def test_a_narrowed_project_sees_what_it_was_given(who: Any) -> None:
    project = who.client.projects["demo"]
    compute = who.get("/services?type=compute").json()["services"][0]["id"]
    group = who.make("endpoint_group", "OS-EP-FILTER/endpoint_groups", name="g",
                     filters={"service_id": compute, "interface": "public"})
    base = f"/OS-EP-FILTER/endpoint_groups/{group['id']}"
    tie = f"{base}/projects/{project}"
    assert who.head(tie).status_code == 404
    assert len(catalog(who)) == 5
    assert who.put(tie).status_code == 204
    assert {kind: [item["interface"] for item in service["endpoints"]] for kind, service in catalog(who).items()} == {
        "compute": ["public"]}
    image = who.get("/services?type=image").json()["services"][0]["id"]
    one = who.get(f"/endpoints?service_id={image}&interface=admin").json()["endpoints"][0]["id"]
    assert who.put(f"/OS-EP-FILTER/projects/{project}/endpoints/{one}").status_code == 204
    assert set(catalog(who)) == {"compute", "image"}
    assert len(who.get(f"/OS-EP-FILTER/projects/{project}/endpoints").json()["endpoints"]) == 2
    assert [item["name"] for item in who.get(f"{base}/projects").json()["projects"]] == ["demo"]
    assert [item["id"] for item in who.get(f"/OS-EP-FILTER/projects/{project}/endpoint_groups").json()[
        "endpoint_groups"]] == [group["id"]]
    assert who.get(tie).json()["endpoint_group"]["name"] == "g"
    assert who.patch(base, {"endpoint_group": {"name": "h"}}).json()["endpoint_group"]["filters"] == group["filters"]
    assert who.delete(f"/OS-EP-FILTER/projects/{project}/endpoints/{one}").status_code == 204
    assert who.delete(base).status_code == 204
    assert len(catalog(who)) == 5
    for bad in ({"colour": "x"}, {"interface": "x"}, {"enabled": "true"}, {"service_id": 5}, []):
        answer = who.post("/OS-EP-FILTER/endpoint_groups", {"endpoint_group": {"name": "g", "filters": bad}})
        assert answer.status_code == 400, bad
        assert "filters" in answer.json()["error"]["message"]
    assert who.put(tie, as_="demo").status_code == 403
