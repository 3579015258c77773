"""Bad input never ends in a 5xx, and always in Neutron's error body with a sentence.

Every route of the table is driven with wrong types, huge numbers, odd text and missing parts; seeds make a failure repeatable.
"""
from __future__ import annotations

import random
from typing import Any

import pytest

from virga.api.network import service
from virga.api.network.floatingips import FLOATINGIPS
from virga.api.network.ports import PORTS
from virga.api.network.rbac import RBAC
from virga.api.network.routers import ROUTERS, SUBNETS
from virga.api.network.security_groups import ADDRESS_GROUPS, GROUPS, RULES
from virga.api.network.subnetpools import POOLS, SCOPES
from virga.api.network.subnets import NETWORKS

NOUNS = (NETWORKS, SUBNETS, POOLS, SCOPES, PORTS, GROUPS, RULES, ADDRESS_GROUPS, ROUTERS, FLOATINGIPS, RBAC)
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 4, 6, 5, 2**31, 2**63, 2**64, -(2**63) - 1, 10**40, 1.5, 1e300, "", " ", "x", "x" * 256, "x" * 5000,
    "\x00", "é☃😀", "\u202e", "' OR 1=1 --", "%", "10.0.0.0/8", "10.0.0.1", "10.0.0.0/33", "300.0.0.1", "::/0", "fd00::/64", "fd00::1",
    "fe80::1%eth0", "0.0.0.0/0", "0.0.0.0", "255.255.255.255", "224.0.0.0/4", "fa:16:3e:00:00:01", "ff:ff:ff:ff:ff:ff", "slaac",
    "tcp", "1", "-1", "²", "٣", "99999999999999999999", "00000000-0000-0000-0000-000000000000", "default", "vlan", "flat", "ingress", "IPv6",
    [], [None], [1], ["x"], [[]], [{}], [["10.0.0.0/8"]], ["10.0.0.0/8", "fd00::/64"], ["10.0.0.1"] * 300, {}, {"x": 1}, {"": None},
    {"network_id": None}, {"network_id": "x"}, {"network_id": "00000000-0000-0000-0000-000000000000", "enable_snat": "?"},
    [{"start": "10.0.0.9", "end": "10.0.0.2"}], [{"start": "10.0.0.2"}], [{"destination": "10.0.0.0/8", "nexthop": "fd00::1"}],
    [{"ip_address": "10.0.0.1"}], [{"subnet_id": 1}], [{"subnet_id": "x", "ip_address": []}], [{"opt_name": 1, "opt_value": []}],
    [{"mac_address": "zz", "ip_address": "10.0.0.1"}], {"a": {"b": [{"c": "d" * 9000}]}},
]


@pytest.fixture(autouse=True)
def faults(cloud_client: Any) -> Any:
    """What the cloud recorded of its own errors is part of a failure's text."""
    found: list[str] = []
    cloud_client.trace.add_sink(lambda event: found.append(str(event.data)) if event.kind == "fault" else None)
    yield
    assert not found, found[0]


def refused(response: Any) -> None:
    """2xx or a proper refusal."""
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        error = response.json()["NeutronError"]
        assert error["type"] and len(error["message"]) > 5 and error["detail"] == ""


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.many)
def test_every_field_with_some_odd_values(cloud_client: Any, noun: Any) -> None:
    drive(cloud_client, noun, random.Random(noun.many).sample(ODD, 12))


@pytest.mark.slow
@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.many)
def test_every_field_with_every_odd_value(cloud_client: Any, noun: Any) -> None:
    drive(cloud_client, noun, ODD)


def drive(cloud_client: Any, noun: Any, values: list[Any]) -> None:
    """Every field, at creation and at update, with each of the values; then bodies and queries that are broken as a whole."""
    root = f"/network/v2.0/{noun.many.replace('_', '-')}"
    net = cloud_client.post("/network/v2.0/networks", {"network": {"name": "n"}}).json()["network"]["id"]
    sub = cloud_client.post("/network/v2.0/subnets", {"subnet": {"network_id": net, "ip_version": 4, "cidr": "10.1.0.0/24"}}).json()
    group = cloud_client.get("/network/v2.0/security-groups").json()["security_groups"][0]["id"]
    good = {
        "networks": {"name": "a"}, "subnets": {"network_id": net, "ip_version": 4, "cidr": "10.2.0.0/24"},
        "subnetpools": {"name": "a", "prefixes": ["10.0.0.0/8"]}, "address_scopes": {"name": "a", "ip_version": 4}, "ports": {"network_id": net},
        "security_groups": {"name": "a"}, "security_group_rules": {"security_group_id": group, "direction": "ingress", "protocol": "tcp"},
        "address_groups": {"name": "a"}, "routers": {"name": "a"}, "floatingips": {"floating_network_id": net},
        "rbac_policies": {"object_type": "network", "object_id": net, "action": "access_as_shared", "target_tenant": "p"},
    }[noun.many]
    assert "subnet" in sub
    made = cloud_client.post(root, {noun.one: good})
    refused(made)
    one = made.json()[noun.one]["id"] if made.status_code == 201 else "none"
    for name in [*noun.fields, "project_id", "tenant_id", "no-such-thing"]:
        for value in values:
            refused(cloud_client.post(root, {noun.one: {**good, name: value}}))
            refused(cloud_client.put(f"{root}/{one}", {noun.one: {name: value}}))
    for body in ({}, [], "x", 1, None, {noun.one: None}, {noun.one: []}, {noun.many: None}, {noun.many: []}, {noun.many: [1]},
                 {noun.many: {}}, {"other": {}}, {noun.one: {}}):
        response = cloud_client.post(root, body)
        refused(response)
        # a router, a network and a group need no attribute at all
        assert response.status_code >= 400 or body == {noun.one: {}}
        refused(cloud_client.put(f"{root}/{one}", body))
    refused(cloud_client.call("POST", root, content=b"{nonsense"))
    refused(cloud_client.call("POST", root, content=b"\xff\xfe"))
    for query in ("limit=-1", "limit=x", "limit=" + "9" * 60, "marker=x", "sort_key=x", "sort_key=name&sort_dir=up", "sort_dir=asc",
                  "nonsense=1", "name=%00%ff%F0%9F", "id=" + "&id=".join(["x"] * 2000), "fields=%ff&fields=", "tags=,,", "limit=0",
                  "limit=1&page_reverse=yes", "revision_number=x", "fixed_ips=", "fixed_ips==&fixed_ips=ip_address", "created_at=x"):
        refused(cloud_client.get(f"{root}?{query}"))


def test_every_route_with_ids_and_bodies_that_mean_nothing(cloud_client: Any) -> None:
    rng = random.Random(5)
    for route in service().routes:
        for wanted in ("x", "%00", "%F0%9F%98%80", "a" * 3000, "00000000-0000-0000-0000-000000000000", "..%2f"):
            path = "/network" + route.path
            while "{" in path:
                path = path[: path.index("{")] + wanted + path[path.index("}") + 1:]
            for who in ("admin", "demo"):
                body = rng.choice(ODD) if rng.random() < 0.5 else {name: rng.choice(ODD) for name in (
                    "router", "port_id", "subnet_id", "quota", "binding", "tags", "prefixes", "addresses", "address_group")}
                refused(cloud_client.call(route.method, path, None if route.method in ("GET", "DELETE") else body, as_=who))


@pytest.mark.parametrize(("path", "body", "says"), [
    ("networks", {"network": {"mtu": "big"}}, "mtu"),
    ("subnets", {"subnet": {"network_id": "x", "ip_version": 4}}, "network_id"),
    ("subnets", {"subnet": {"ip_version": 4}}, "network_id"),
    ("ports", {"port": {"network_id": "00000000-0000-0000-0000-000000000000", "fixed_ips": [{"ip_address": "x"}]}}, "fixed_ips"),
    ("routers", {"router": {"external_gateway_info": {"enable_snat": True}}}, "external_gateway_info"),
    ("networks", {"network": {"colour": "red"}}, "colour"),
])
def test_a_refusal_names_the_field(cloud_client: Any, path: str, body: Any, says: str) -> None:
    response = cloud_client.post(f"/network/v2.0/{path}", body)
    assert response.status_code == 400
    assert says in response.json()["NeutronError"]["message"]
