"""Networks, security groups and floating IPs in compute's older words: the network service's rows, until 2.35."""
from __future__ import annotations

from typing import Any

import pytest
from tests.api.compute import rows

from virga.domain.port import FixedIp, Port

ROOT = "/compute/v2.1"


def at(version: str) -> dict[str, str]:
    return {"OpenStack-API-Version": f"compute {version}"}


def network(client: Any, name: str, as_: str = "demo", cidr: str = "10.0.0.0/24", **more: Any) -> tuple[str, str]:
    made = client.post("/network/v2.0/networks", {"network": {"name": name, **more}}, as_=as_).json()["network"]["id"]
    subnet = client.post("/network/v2.0/subnets", {"subnet": {
        "network_id": made, "cidr": cidr, "ip_version": 4}}, as_=as_)
    assert subnet.status_code == 201, subnet.text
    return made, subnet.json()["subnet"]["id"]


def group(client: Any, name: str = "g", as_: str = "demo") -> Any:
    return client.post(f"{ROOT}/os-security-groups", {"security_group": {"name": name, "description": "d"}}, as_=as_)


@pytest.mark.parametrize("path", [
    "/os-networks", "/os-tenant-networks", "/os-security-groups", "/os-floating-ips", "/os-floating-ip-pools"])
def test_they_ended_with_235(cloud_client: Any, path: str) -> None:
    assert cloud_client.get(ROOT + path, as_="demo", headers=at("2.35")).status_code == 200
    assert cloud_client.get(ROOT + path, as_="demo", headers=at("2.36")).status_code == 404


def test_networks(cloud_client: Any) -> None:
    mine, _ = network(cloud_client, "mine")
    theirs, _ = network(cloud_client, "theirs", as_="other")
    for path in ("os-networks", "os-tenant-networks"):
        listed = cloud_client.get(f"{ROOT}/{path}", as_="demo").json()["networks"]
        assert [(item["id"], item["label"]) for item in listed] == [(mine, "mine")]
        assert cloud_client.get(f"{ROOT}/{path}/{mine}", as_="reader").json()["network"]["id"] == mine
        assert cloud_client.get(f"{ROOT}/{path}/{theirs}", as_="demo").status_code == 404
        assert cloud_client.post(f"{ROOT}/{path}", {}, as_="demo").status_code == 410


def test_security_groups(cloud_client: Any) -> None:
    made = group(cloud_client)
    assert made.status_code == 200, made.text
    group_id = made.json()["security_group"]["id"]
    path = f"{ROOT}/os-security-groups/{group_id}"
    listed = cloud_client.get(f"{ROOT}/os-security-groups", as_="reader").json()["security_groups"]
    assert {item["name"] for item in listed} == {"default", "g"}
    everyone = cloud_client.get(f"{ROOT}/os-security-groups?all_tenants=1").json()["security_groups"]
    assert group_id in {item["id"] for item in everyone}
    assert cloud_client.get(path, as_="other").status_code == 404
    body = {"security_group": {"name": "h", "description": "e"}}
    assert cloud_client.put(path, body, as_="other").status_code == 404
    assert cloud_client.put(path, body, as_="demo").json()["security_group"]["name"] == "h"
    for fields in ({"name": " ", "description": ""}, {"name": "x" * 256, "description": ""}, {"description": ""},
                   {"name": "x", "description": "d" * 256}, {"name": "x", "description": "", "colour": "red"}):
        assert cloud_client.post(f"{ROOT}/os-security-groups", {"security_group": fields}, as_="demo").status_code == 400
    assert group(cloud_client, as_="reader").status_code == 403
    default = next(item["id"] for item in listed if item["name"] == "default")
    assert cloud_client.delete(f"{ROOT}/os-security-groups/{default}", as_="demo").status_code == 400
    assert cloud_client.delete(path, as_="demo").status_code == 202
    assert cloud_client.delete(path, as_="demo").status_code == 404
    assert cloud_client.delete(f"{ROOT}/os-security-groups/", as_="demo").status_code == 404


def test_rules(cloud_client: Any) -> None:
    group_id, other_id = (group(cloud_client, name).json()["security_group"]["id"] for name in ("g", "o"))
    path = f"{ROOT}/os-security-group-rules"

    def add(as_: str = "demo", **fields: Any) -> Any:
        return cloud_client.post(path, {"security_group_rule": {"parent_group_id": group_id, **fields}}, as_=as_)

    ssh = {"ip_protocol": "TCP", "from_port": 22, "to_port": "22"}
    rule = add(**ssh, cidr="10.0.0.0/8").json()["security_group_rule"]
    assert (rule["ip_protocol"], rule["from_port"], rule["to_port"]) == ("tcp", 22, 22)
    assert (rule["ip_range"], rule["group"], rule["parent_group_id"]) == ({"cidr": "10.0.0.0/8"}, {}, group_id)
    peer = add(**ssh, group_id=other_id).json()["security_group_rule"]
    assert peer["group"] == {"name": "o", "tenant_id": cloud_client.projects["demo"]} and peer["ip_range"] == {}
    seen = cloud_client.get(f"{ROOT}/os-security-groups/{group_id}", as_="demo").json()["security_group"]["rules"]
    assert [item["id"] for item in seen] == [rule["id"], peer["id"]]
    assert add(**ssh, cidr="10.0.0.0/8").status_code == 400  # twice
    for fields in ({**ssh, "from_port": 23}, {**ssh, "from_port": "x"}, {**ssh, "to_port": 70000}, {"ip_protocol": "tcp"},
                   {**ssh, "ip_protocol": "gre"}, {**ssh, "cidr": "10.0.0.0/8", "group_id": other_id}, {},
                   {**ssh, "parent_group_id": "x"}, {**ssh, "cidr": "nowhere"}):
        assert add(**fields).status_code == 400, fields
    assert add(as_="other", **ssh).status_code == 404
    assert add(as_="reader", **ssh).status_code == 403
    assert cloud_client.delete(f"{path}/{rule['id']}", as_="other").status_code == 404
    assert cloud_client.delete(f"{path}/{rule['id']}", as_="demo").status_code == 202
    assert cloud_client.delete(f"{path}/{rule['id']}", as_="demo").status_code == 404


def test_floating_ips_and_servers(cloud_client: Any) -> None:
    _, public_subnet = network(cloud_client, "public", as_="admin", cidr="203.0.113.0/24", **{"router:external": True})
    inner, subnet = network(cloud_client, "inner")
    public = cloud_client.get(f"/network/v2.0/subnets/{public_subnet}").json()["subnet"]["network_id"]
    router = cloud_client.post("/network/v2.0/routers", {"router": {
        "name": "r", "external_gateway_info": {"network_id": public}}}, as_="demo").json()["router"]["id"]
    cloud_client.put(f"/network/v2.0/routers/{router}/add_router_interface", {"subnet_id": subnet}, as_="demo")
    rows.hosts(cloud_client)
    rows.server(cloud_client)
    rows.put(cloud_client, Port("9a9a9a9a-1111-4222-8333-444444444444", cloud_client.projects["demo"], inner, "fa:16:3e:00:00:01",
                                device_id=rows.SERVER_ID, fixed_ips=[FixedIp(subnet, "10.0.0.50")]))
    path = f"{ROOT}/os-floating-ips"
    assert cloud_client.get(f"{ROOT}/os-floating-ip-pools", as_="demo").json() == {"floating_ip_pools": [{"name": "public"}]}
    assert cloud_client.post(path, {"pool": "none"}, as_="demo").status_code == 404
    assert cloud_client.post(path, {"pool": "public"}, as_="reader").status_code == 403
    made = cloud_client.post(path, {"pool": "public"}, as_="demo").json()["floating_ip"]
    assert (made["pool"], made["instance_id"], made["fixed_ip"]) == ("public", None, None)
    act = f"{ROOT}/servers/{rows.SERVER_ID}/action"
    assert cloud_client.post(act, {"addFloatingIp": {"address": "0.0.0.0"}}, as_="demo").status_code == 404
    assert cloud_client.post(act, {"addFloatingIp": {"address": "x"}}, as_="demo").status_code == 400
    assert cloud_client.post(act, {"removeFloatingIp": {"address": made["ip"]}}, as_="demo").status_code == 409
    added = cloud_client.post(act, {"addFloatingIp": {"address": made["ip"]}}, as_="demo")
    assert added.status_code == 202, added.text
    shown = cloud_client.get(f"{path}/{made['id']}", as_="demo").json()["floating_ip"]
    assert (shown["instance_id"], shown["fixed_ip"]) == (rows.SERVER_ID, "10.0.0.50")
    second = cloud_client.post(path, None, as_="demo").json()["floating_ip"]
    assert cloud_client.post(act, {"addFloatingIp": {"address": second["ip"]}}, as_="demo").status_code == 400
    assert cloud_client.post(act, {"removeFloatingIp": {"address": made["ip"]}}, as_="demo").status_code == 202
    assert len(cloud_client.get(path, as_="demo").json()["floating_ips"]) == 2
    assert cloud_client.get(f"{path}/{made['id']}", as_="other").status_code == 404
    assert cloud_client.delete(f"{path}/{made['id']}", as_="other").status_code == 404
    assert cloud_client.delete(f"{path}/{made['id']}", as_="demo").status_code == 202
    assert cloud_client.get(f"{path}/{made['id']}", as_="demo").status_code == 404
    late = cloud_client.post(act, {"addFloatingIp": {"address": second["ip"]}}, as_="demo", headers=at("2.44"))
    assert late.status_code in (400, 404)
