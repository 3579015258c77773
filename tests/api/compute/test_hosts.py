"""Hosts as operators see them: hypervisors, services, zones, aggregates, os-hosts."""
from __future__ import annotations

from typing import Any

import pytest
from tests.api.compute import rows

from virga.domain.placement import Host

ROOT = "/compute/v2.1"
ONE = rows.HOST_IDS["one"]


def at(version: str) -> dict[str, str]:
    return {"OpenStack-API-Version": f"compute {version}"}


@pytest.mark.parametrize("path", [
    "/os-hypervisors", "/os-hypervisors/detail", "/os-hypervisors/statistics", "/os-hypervisors/1",
    "/os-hypervisors/1/uptime", "/os-hypervisors/one/search", "/os-hypervisors/one/servers", "/os-services",
    "/os-availability-zone/detail", "/os-aggregates", "/os-aggregates/1", "/os-hosts", "/os-hosts/one",
    "/os-instance_usage_audit_log", "/os-migrations", "/os-simple-tenant-usage", "/os-quota-class-sets/default"])
def test_operators_only(cloud_client: Any, path: str) -> None:
    rows.hosts(cloud_client)
    assert cloud_client.get(ROOT + path, as_="demo").status_code == 403


def test_hypervisors_tell_what_is_taken(cloud_client: Any) -> None:
    rows.hosts(cloud_client)
    rows.server(cloud_client)
    one = cloud_client.get(f"{ROOT}/os-hypervisors/1").json()["hypervisor"]
    assert (one["vcpus"], one["vcpus_used"], one["memory_mb_used"], one["local_gb_used"]) == (8, 2, 512, 11)
    assert (one["free_ram_mb"], one["running_vms"], one["hypervisor_hostname"]) == (3584, 1, "one")
    assert isinstance(one["cpu_info"], str)
    whole = cloud_client.get(f"{ROOT}/os-hypervisors/statistics").json()["hypervisor_statistics"]
    assert (whole["count"], whole["vcpus"], whole["vcpus_used"], whole["running_vms"]) == (2, 16, 2, 1)


def test_hypervisor_ids_are_uuids_from_253(cloud_client: Any) -> None:
    rows.hosts(cloud_client)
    rows.server(cloud_client)
    listed = cloud_client.get(f"{ROOT}/os-hypervisors?with_servers=true", headers=at("2.53")).json()["hypervisors"]
    assert listed[0]["id"] == ONE and listed[0]["servers"] == [{"uuid": rows.SERVER_ID, "name": "s"}]
    assert cloud_client.get(f"{ROOT}/os-hypervisors/1", headers=at("2.53")).status_code == 400
    assert cloud_client.get(f"{ROOT}/os-hypervisors/{ONE}", headers=at("2.53")).status_code == 200
    assert cloud_client.get(f"{ROOT}/os-hypervisors/{ONE}", headers=at("2.52")).status_code == 404
    named = cloud_client.get(f"{ROOT}/os-hypervisors?hypervisor_hostname_pattern=tw", headers=at("2.53")).json()
    assert [item["hypervisor_hostname"] for item in named["hypervisors"]] == ["two"]
    none = cloud_client.get(f"{ROOT}/os-hypervisors?hypervisor_hostname_pattern=x", headers=at("2.53"))
    assert none.status_code == 404
    assert cloud_client.get(f"{ROOT}/os-hypervisors/one/search", headers=at("2.53")).status_code == 404
    assert cloud_client.get(f"{ROOT}/os-hypervisors/none/search").status_code == 404
    page = cloud_client.get(f"{ROOT}/os-hypervisors?limit=1", headers=at("2.53")).json()
    assert len(page["hypervisors"]) == 1 and f"marker={ONE}" in page["hypervisors_links"][0]["href"]


def test_from_288_amounts_are_gone_and_uptime_is_there(cloud_client: Any) -> None:
    rows.hosts(cloud_client)
    one = cloud_client.get(f"{ROOT}/os-hypervisors/{ONE}", headers=at("2.88")).json()["hypervisor"]
    assert "vcpus" not in one and "up 1 day, 1:00" in one["uptime"]
    for path in ("/os-hypervisors/statistics", f"/os-hypervisors/{ONE}/uptime"):
        assert cloud_client.get(ROOT + path, headers=at("2.88")).status_code == 404
    rows.put(cloud_client, Host("down", "0a0a0a0a-1111-4222-8333-444444444403", "down", 3))
    assert cloud_client.get(f"{ROOT}/os-hypervisors/3/uptime").status_code == 400


def test_services_by_verb_until_252(cloud_client: Any) -> None:
    rows.hosts(cloud_client)
    path = f"{ROOT}/os-services"
    body = {"host": "one", "binary": "nova-compute"}
    assert cloud_client.put(f"{path}/disable", body).json()["service"]["status"] == "disabled"
    reason = cloud_client.put(f"{path}/disable-log-reason", {**body, "disabled_reason": "tea"}).json()["service"]
    assert reason["disabled_reason"] == "tea"
    shown = cloud_client.get(f"{path}?host=one").json()["services"][0]
    assert (shown["status"], shown["disabled_reason"], shown["state"], shown["id"]) == ("disabled", "tea", "up", 1)
    assert cloud_client.put(f"{path}/enable", body).json()["service"]["status"] == "enabled"
    assert cloud_client.get(f"{path}?host=one").json()["services"][0]["disabled_reason"] is None
    assert cloud_client.put(f"{path}/force-down", {**body, "forced_down": True}).status_code == 404
    down = cloud_client.put(f"{path}/force-down", {**body, "forced_down": True}, headers=at("2.11"))
    assert down.json()["service"] == {"host": "one", "binary": "nova-compute", "forced_down": True}
    assert cloud_client.get(f"{path}?host=one").json()["services"][0]["state"] == "down"
    assert rows.row(cloud_client, Host, "one").forced_down is True
    assert cloud_client.put(f"{path}/enable", {**body, "host": "none"}).status_code == 404
    assert cloud_client.put(f"{path}/enable", {"host": "one"}).status_code == 400
    assert cloud_client.get(f"{path}?binary=xxx").json() == {"services": []}


def test_services_by_uuid_from_253(cloud_client: Any) -> None:
    rows.hosts(cloud_client)
    path, late = f"{ROOT}/os-services/{ONE}", at("2.53")
    changed = cloud_client.put(path, {"status": "disabled", "disabled_reason": "tea"}, headers=late).json()["service"]
    assert (changed["id"], changed["status"], changed["disabled_reason"]) == (ONE, "disabled", "tea")
    for body in ({}, {"disabled_reason": "x"}, {"status": "enabled", "disabled_reason": "x"}, {"status": "off"},
                 {"forced_down": "perhaps"}, {"status": "disabled", "disabled_reason": " "}):
        assert cloud_client.put(path, body, headers=late).status_code == 400
    assert cloud_client.put(path, {"forced_down": True}, as_="demo", headers=late).status_code == 403
    assert cloud_client.put(f"{ROOT}/os-services/1", {"forced_down": True}, headers=late).status_code == 400
    missing = f"{ROOT}/os-services/{ONE[:-1]}9"
    assert cloud_client.put(missing, {"forced_down": True}, headers=late).status_code == 404


def test_deleting_a_service_takes_an_empty_host_away(cloud_client: Any) -> None:
    rows.hosts(cloud_client)
    rows.server(cloud_client)
    cloud_client.post(f"{ROOT}/os-aggregates", {"aggregate": {"name": "a"}})
    cloud_client.post(f"{ROOT}/os-aggregates/1/action", {"add_host": {"host": "two"}})
    busy = cloud_client.delete(f"{ROOT}/os-services/{ONE}", headers=at("2.53"))
    assert busy.status_code == 409 and "hosting instances" in busy.json()["conflictingRequest"]["message"]
    rows.move(cloud_client, 1)
    moving = cloud_client.delete(f"{ROOT}/os-services/2")
    assert moving.status_code == 409
    rows.move(cloud_client, 1, status="confirmed")
    assert cloud_client.delete(f"{ROOT}/os-services/2").status_code == 204
    assert rows.row(cloud_client, Host, "two") is None
    assert cloud_client.get(f"{ROOT}/os-aggregates/1").json()["aggregate"]["hosts"] == []
    assert cloud_client.delete(f"{ROOT}/os-services/2").status_code == 404
    assert cloud_client.delete(f"{ROOT}/os-services/x").status_code == 400


def zones(client: Any) -> dict[str, bool]:
    listed = client.get(f"{ROOT}/os-availability-zone", as_="reader").json()["availabilityZoneInfo"]
    return {zone["zoneName"]: zone["zoneState"]["available"] for zone in listed}


def test_aggregates_make_zones(cloud_client: Any) -> None:
    rows.hosts(cloud_client)
    path = f"{ROOT}/os-aggregates"
    assert zones(cloud_client) == {"nova": True}
    made = cloud_client.post(path, {"aggregate": {"name": "a", "availability_zone": "z"}}).json()["aggregate"]
    assert made["id"] == 1 and made["availability_zone"] == "z" and "hosts" not in made
    added = cloud_client.post(f"{path}/1/action", {"add_host": {"host": "one"}}).json()["aggregate"]
    assert added["hosts"] == ["one"] and added["metadata"] == {"availability_zone": "z"}
    assert zones(cloud_client) == {"z": True, "nova": True}
    detail = cloud_client.get(f"{ROOT}/os-availability-zone/detail").json()["availabilityZoneInfo"]
    assert {zone["zoneName"]: list(zone["hosts"]) for zone in detail} == {"z": ["one"], "nova": ["two"]}
    assert cloud_client.post(f"{path}/1/action", {"add_host": {"host": "one"}}).status_code == 409
    assert cloud_client.post(f"{path}/1/action", {"add_host": {"host": "none"}}).status_code == 404
    cloud_client.post(path, {"aggregate": {"name": "b", "availability_zone": "y"}})
    clash = cloud_client.post(f"{path}/2/action", {"add_host": {"host": "one"}})
    assert clash.status_code == 409 and "zone z" in clash.json()["conflictingRequest"]["message"]
    assert cloud_client.delete(f"{path}/1").status_code == 400
    changed = cloud_client.put(f"{path}/1", {"aggregate": {"name": "c", "availability_zone": "x"}}).json()["aggregate"]
    assert (changed["name"], changed["availability_zone"]) == ("c", "x") and set(zones(cloud_client)) == {"x", "nova"}
    noted = cloud_client.post(f"{path}/1/action", {"set_metadata": {"metadata": {
        "ssd": "true", "availability_zone": None}}}).json()["aggregate"]
    assert noted["metadata"] == {"ssd": "true"} and set(zones(cloud_client)) == {"nova"}
    assert cloud_client.post(f"{path}/1/action", {"remove_host": {"host": "two"}}).status_code == 404
    assert cloud_client.post(f"{path}/1/action", {"remove_host": {"host": "one"}}).json()["aggregate"]["hosts"] == []
    assert cloud_client.delete(f"{path}/1").status_code == 200
    assert cloud_client.get(f"{path}/1").status_code == 404


def test_a_zone_is_not_taken_from_under_servers_that_asked_for_it(cloud_client: Any) -> None:
    rows.hosts(cloud_client)
    rows.server(cloud_client, availability_zone="nova")
    cloud_client.post(f"{ROOT}/os-aggregates", {"aggregate": {"name": "a", "availability_zone": "z"}})
    refused = cloud_client.post(f"{ROOT}/os-aggregates/1/action", {"add_host": {"host": "one"}})
    assert refused.status_code == 409 and "one" in refused.json()["conflictingRequest"]["message"]
    assert cloud_client.post(f"{ROOT}/os-aggregates/1/action", {"add_host": {"host": "two"}}).status_code == 200


@pytest.mark.parametrize(("body", "word"), [
    ({"aggregate": {"name": ""}}, "name"), ({"aggregate": {"name": "a" * 256}}, "name"), ({"aggregate": {}}, "name"),
    ({"aggregate": {"name": "a", "availability_zone": "a:b"}}, "availability_zone"),
    ({"aggregate": {"name": "a", "hosts": []}}, "hosts"), ({}, "aggregate")])
def test_bad_aggregates_name_the_field(cloud_client: Any, body: Any, word: str) -> None:
    answer = cloud_client.post(f"{ROOT}/os-aggregates", body)
    assert answer.status_code == 400 and word in answer.json()["badRequest"]["message"]


def test_aggregate_actions_and_names(cloud_client: Any) -> None:
    path = f"{ROOT}/os-aggregates"
    cloud_client.post(path, {"aggregate": {"name": "a"}})
    cloud_client.post(path, {"aggregate": {"name": "b"}})
    assert cloud_client.post(path, {"aggregate": {"name": "a"}}).status_code == 409
    assert cloud_client.put(f"{path}/2", {"aggregate": {"name": "a"}}).status_code == 409
    assert cloud_client.put(f"{path}/2", {"aggregate": {}}).status_code == 400
    for body in ({}, {"paint": {}}, {"add_host": {}}, {"add_host": {"host": 7}}, {"set_metadata": {"metadata": {"a": 1}}}):
        assert cloud_client.post(f"{path}/1/action", body).status_code == 400
    for wanted in ("-1", "x", "99"):
        assert cloud_client.get(f"{path}/{wanted}").status_code == 404
        assert cloud_client.delete(f"{path}/{wanted}").status_code == 404


def test_images_may_be_asked_for_from_281(cloud_client: Any) -> None:
    cloud_client.post(f"{ROOT}/os-aggregates", {"aggregate": {"name": "a"}})
    path, late = f"{ROOT}/os-aggregates/1/images", at("2.81")
    image = cloud_client.post("/image/v2/images", {"name": "i"}).json()["id"]
    assert cloud_client.post(path, {"cache": [{"id": image}]}).status_code == 404
    assert cloud_client.post(path, {"cache": [{"id": image}]}, headers=late).status_code == 202
    for body in ({"cache": []}, {"cache": [{"id": "x"}]}, {"cache": [{"id": image}, {"id": image}]},
                 {"cache": [{"id": rows.SERVER_ID}]}):
        assert cloud_client.post(path, body, headers=late).status_code == 400


def test_os_hosts_until_242(cloud_client: Any) -> None:
    rows.hosts(cloud_client)
    rows.server(cloud_client)
    listed = cloud_client.get(f"{ROOT}/os-hosts").json()["hosts"]
    assert listed[0] == {"host_name": "one", "service": "compute", "zone": "nova"}
    assert cloud_client.get(f"{ROOT}/os-hosts?zone=xxx").json() == {"hosts": []}
    shown = cloud_client.get(f"{ROOT}/os-hosts/one").json()["host"]
    assert [item["resource"]["project"] for item in shown] == [
        "(total)", "(used_now)", "(used_max)", cloud_client.projects["demo"]]
    assert shown[1]["resource"]["memory_mb"] == 512
    path = f"{ROOT}/os-hosts/one"
    assert cloud_client.put(path, {"status": " Disable "}).json() == {"host": "one", "status": "disabled"}
    assert rows.row(cloud_client, Host, "one").disabled is True
    for body, status in (({}, 400), ({"status": "off"}, 400), ({"maintenance_mode": "enable"}, 501), ({"x": 1}, 400)):
        assert cloud_client.put(path, body).status_code == status
    assert cloud_client.put(f"{ROOT}/os-hosts/none", {"status": "enable"}).status_code == 404
    assert cloud_client.get(f"{path}/reboot").status_code == 501
    assert cloud_client.get(f"{ROOT}/os-hosts/none/reboot").status_code == 404
    assert cloud_client.get(path, headers=at("2.43")).status_code == 404
