"""What hangs below a server: metadata, tags, interfaces, security groups; and that nothing a user sends is a 500."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.compute.servers_house import House, refused
from virga.api.compute.service import MODULES
from virga.domain.network import SecurityGroup
from virga.domain.port import Port
from virga.domain.server import BUILDING, SHELVED_OFFLOADED


@pytest.fixture
def house(cloud_client: Any) -> House:
    return House(cloud_client)


# metadata --------------------------------------------------------------------------------------------------------
def test_metadata_is_set_merged_replaced_and_taken_away(house: House) -> None:
    here = f"/servers/{house.server(metadata={'a': '1'})}/metadata"
    assert house.call("POST", here, {"metadata": {"b": "2"}}).json() == {"metadata": {"a": "1", "b": "2"}}
    assert house.call("PUT", here, {"metadata": {"c": "3"}}).json() == {"metadata": {"c": "3"}}
    assert house.call("PUT", f"{here}/d", {"meta": {"d": "4"}}).json() == {"meta": {"d": "4"}}
    assert house.call("GET", here).json() == {"metadata": {"c": "3", "d": "4"}}
    assert house.call("GET", f"{here}/d").json() == {"meta": {"d": "4"}}
    assert house.call("DELETE", f"{here}/d").status_code == 204
    refused(house.call("DELETE", f"{here}/d"), 404, "d")
    refused(house.call("GET", f"{here}/d"), 404, "d")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "", {}),
        ("POST", "", {"metadata": 1}),
        ("POST", "", {"metadata": {"k": 1}}),
        ("POST", "", {"metadata": {"": "v"}}),
        ("PUT", "", {"metadata": {"k" * 256: "v"}}),
        ("PUT", "", {"meta": {"k": "v"}}),
        ("PUT", "/k", {"meta": {"other": "v"}}),
        ("PUT", "/k", {"meta": {"k": "v", "l": "v"}}),
        ("PUT", "/k", {"meta": {}}),
        ("PUT", "/k", {"metadata": {"k": "v"}}),
    ],
)
def test_metadata_that_is_wrong(house: House, method: str, path: str, body: Any) -> None:
    server_id = house.server(metadata={"a": "1"})
    refused(house.call(method, f"/servers/{server_id}/metadata{path}", body), 400)
    assert house.row(server_id).metadata == {"a": "1"}


def test_metadata_and_tags_wait_for_a_server_at_rest(house: House) -> None:
    for columns in (
        {"vm_state": BUILDING},
        {"task_state": "rebooting"},
        {"locked": True},
        {"vm_state": SHELVED_OFFLOADED},
    ):
        server_id = house.server(**columns)
        refused(house.call("POST", f"/servers/{server_id}/metadata", {"metadata": {"a": "b"}}), 409, server_id)
        refused(house.call("PUT", f"/servers/{server_id}/tags/t"), 409, server_id)
    locked = house.server(locked=True)
    assert house.call("PUT", f"/servers/{locked}/tags/t", as_="admin").status_code == 201


def test_more_metadata_than_the_quota_is_403(house: House) -> None:
    server_id = house.server(metadata={f"k{number}": "" for number in range(128)})
    refused(house.call("POST", f"/servers/{server_id}/metadata", {"metadata": {"one": "more"}}), 403, "128")


# tags ------------------------------------------------------------------------------------------------------------
def test_tags(house: House) -> None:
    here = f"/servers/{house.server()}/tags"
    made = house.call("PUT", f"{here}/a%20b")
    assert made.status_code == 201
    assert (
        house.call("GET", made.headers["location"].removeprefix("http://cloud.test/compute/v2.1")).status_code == 204
    )
    assert house.call("PUT", f"{here}/a%20b").status_code == 204
    assert house.call("PUT", here, {"tags": ["x", "y", "x"]}).json() == {"tags": ["x", "y"]}
    assert house.call("GET", here).json() == {"tags": ["x", "y"]}
    assert house.call("GET", f"{here}/x").status_code == 204
    assert house.call("DELETE", f"{here}/x").status_code == 204
    refused(house.call("DELETE", f"{here}/x"), 404, "x")
    refused(house.call("GET", f"{here}/x"), 404, "x")
    assert house.call("DELETE", here).status_code == 204
    assert house.call("GET", here).json() == {"tags": []}
    refused(house.call("GET", here, version="2.25"), 404)


def test_tags_that_are_wrong(house: House) -> None:
    server_id = house.server(tags=[f"t{number}" for number in range(50)])
    here = f"/servers/{server_id}/tags"
    refused(house.call("PUT", f"{here}/another"), 400, "50")
    refused(house.call("PUT", f"{here}/{'x' * 61}"), 400)
    for tags in (["a/b"], [""], "a", [1], [f"n{number}" for number in range(51)]):
        refused(house.call("PUT", here, {"tags": tags}), 400, "tags")
    assert len(house.row(server_id).tags) == 50


# interfaces ------------------------------------------------------------------------------------------------------
def attached(house: House, server_id: str, **fields: Any) -> Any:
    return house.call("POST", f"/servers/{server_id}/os-interface", {"interfaceAttachment": fields})


def test_a_nic_more(house: House) -> None:
    server_id = house.server()
    answer = attached(house, server_id, net_id=house.net, fixed_ips=[{"ip_address": "10.1.0.33"}], tag="t")
    assert answer.status_code == 200, answer.text
    found = answer.json()["interfaceAttachment"]
    (port,) = house.ports(server_id)
    assert (found["port_id"], found["net_id"], found["mac_addr"]) == (port.id, house.net, port.mac_address)
    assert found["fixed_ips"] == [{"subnet_id": house.subnet, "ip_address": "10.1.0.33"}]
    assert found["tag"] == "t"
    assert (
        house.call("GET", f"/servers/{server_id}/os-interface").json()["interfaceAttachments"][0]["port_id"]
        == port.id
    )
    shown = house.call("GET", f"/servers/{server_id}/os-interface/{port.id}", version="2.69").json()[
        "interfaceAttachment"
    ]
    assert "tag" not in shown


def test_the_projects_one_network_is_taken_when_none_is_named(house: House) -> None:
    server_id = house.server()
    assert attached(house, server_id).json()["interfaceAttachment"]["net_id"] == house.net


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"net_id": "x"}, 400),
        ({"port_id": "x"}, 400),
        ({"net_id": "11111111-2222-3333-4444-555555555555"}, 400),
        ({"port_id": "11111111-2222-3333-4444-555555555555"}, 400),
        ({"fixed_ips": [{"ip_address": "10.1.0.9"}]}, 400),
        ({"net_id": "NET", "port_id": "11111111-2222-3333-4444-555555555555"}, 400),
        ({"net_id": "NET", "fixed_ips": []}, 400),
        ({"net_id": "NET", "fixed_ips": [{"ip_address": "x"}]}, 400),
        ({"net_id": "NET", "fixed_ips": [{"ip_address": "192.0.2.1"}]}, 400),
        ({"net_id": "NET", "unknown": 1}, 400),
        ({"net_id": "NET", "tag": "a,b"}, 400),
    ],
)
def test_a_nic_that_cannot_be_had(house: House, fields: dict[str, Any], status: int) -> None:
    server_id = house.server()
    refused(attached(house, server_id, **{k: house.net if v == "NET" else v for k, v in fields.items()}), status)
    assert house.ports(server_id) == []


def test_nics_come_and_go_only_in_some_states(house: House) -> None:
    server_id = house.server(vm_state=SHELVED_OFFLOADED, host=None)
    refused(attached(house, server_id, net_id=house.net), 409, "shelved_offloaded")
    refused(house.call("DELETE", f"/servers/{server_id}/os-interface/nobody"), 404, "nobody")
    refused(house.call("GET", f"/servers/{server_id}/os-interface/nobody"), 404, "nobody")
    foreign = Port(house.client.env.new_id(), "p", house.net, "fa:16:3e:00:00:09", device_id="else")
    house.client.run(house.client.db.run(lambda tx: tx.insert(foreign)))
    refused(house.call("DELETE", f"/servers/{server_id}/os-interface/{foreign.id}"), 404, foreign.id)


def test_addresses_more_and_less_as_before_2_44(house: House) -> None:
    made = house.create(networks=[{"uuid": house.net}]).json()["server"]["id"]
    house.change(made, vm_state="active", task_state=None)
    assert house.act(made, {"addFixedIp": {"networkId": house.net}}, version="2.43").status_code == 202
    (port,) = house.ports(made)
    assert len(port.fixed_ips) == 2
    gone = {"removeFixedIp": {"address": port.fixed_ips[0].ip_address}}
    assert house.act(made, gone, version="2.43").status_code == 202
    assert len(house.ports(made)[0].fixed_ips) == 1
    refused(house.act(made, gone, version="2.43"), 400, port.fixed_ips[0].ip_address)
    refused(house.act(made, {"addFixedIp": {"networkId": house.server()}}, version="2.43"), 400)


# security groups -------------------------------------------------------------------------------------------------
def test_security_groups_of_all_ports(house: House) -> None:
    made = house.create(networks=[{"uuid": house.net}]).json()["server"]["id"]
    group = SecurityGroup(house.client.env.new_id(), house.client.projects["demo"], "web")
    house.client.run(house.client.db.run(lambda tx: tx.insert(group)))
    assert house.act(made, {"addSecurityGroup": {"name": "web"}}).status_code == 202
    assert group.id in house.ports(made)[0].security_groups
    shown = {found["name"] for found in house.call("GET", f"/servers/{made}").json()["server"]["security_groups"]}
    assert shown == {"default", "web"}
    listed = house.call("GET", f"/servers/{made}/os-security-groups").json()["security_groups"]
    assert {found["name"] for found in listed} == shown
    assert house.act(made, {"removeSecurityGroup": {"name": group.id}}).status_code == 202
    assert group.id not in house.ports(made)[0].security_groups
    refused(house.act(made, {"removeSecurityGroup": {"name": "web"}}), 404, "web")
    refused(house.act(made, {"addSecurityGroup": {"name": "nobody"}}), 404, "nobody")
    twin = SecurityGroup(house.client.env.new_id(), house.client.projects["demo"], "web")
    house.client.run(house.client.db.run(lambda tx: tx.insert(twin)))
    refused(house.act(made, {"addSecurityGroup": {"name": "web"}}), 409, "web")


# nothing is a 500 ------------------------------------------------------------------------------------------------
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    "name",
    "flavorRef",
    "imageRef",
    "networks",
    "metadata",
    "tags",
    "min_count",
    "availability_zone",
    "user_data",
    "security_groups",
    "block_device_mapping_v2",
    "config_drive",
    "accessIPv4",
    "hostname",
    "uuid",
    "port",
    "fixed_ip",
)
ACTIONS = (
    "reboot",
    "resize",
    "rebuild",
    "lock",
    "createImage",
    "createBackup",
    "os-migrateLive",
    "evacuate",
    "unshelve",
    "os-resetState",
    "migrate",
    "os-getConsoleOutput",
    "addSecurityGroup",
    "changePassword",
    "addFixedIp",
    "shelve",
)
INNER = (
    "type",
    "flavorRef",
    "imageRef",
    "name",
    "metadata",
    "host",
    "block_migration",
    "rotation",
    "backup_type",
    "length",
    "locked_reason",
    "state",
    "availability_zone",
    "networkId",
    "adminPass",
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_sent_is_no_fault_of_ours(house: House, data: st.DataObject) -> None:
    server_id = house.server()
    version = data.draw(st.sampled_from(["2.1", "2.37", "2.57", "2.96"]))
    kind = data.draw(st.sampled_from(["create", "action", "update", "metadata", "tags", "interface", "query"]))
    if kind == "create":
        body = {"server": data.draw(st.dictionaries(st.sampled_from(FIELDS), JSON))}
        body["server"].setdefault("flavorRef", "1")
        answer = house.call("POST", "/servers", body, version=version)
    elif kind == "action":
        value = data.draw(JSON | st.dictionaries(st.sampled_from(INNER), JSON))
        answer = house.act(server_id, {data.draw(st.sampled_from(ACTIONS)): value}, version=version, as_="admin")
    elif kind == "query":
        name = data.draw(
            st.sampled_from(
                [
                    "limit",
                    "marker",
                    "sort_key",
                    "sort_dir",
                    "name",
                    "ip",
                    "status",
                    "tags",
                    "changes-since",
                    "flavor",
                    "image",
                    "all_tenants",
                    "deleted",
                    "locked",
                    "power_state",
                    "created_at",
                ]
            )
        )
        from urllib.parse import quote

        answer = house.call(
            "GET", f"/servers/detail?{name}={quote(data.draw(st.text(max_size=12)))}", version=version, as_="admin"
        )
    else:
        method, path, key = {
            "update": ("PUT", "", "server"),
            "metadata": ("POST", "/metadata", "metadata"),
            "tags": ("PUT", "/tags", "tags"),
            "interface": ("POST", "/os-interface", "interfaceAttachment"),
        }[kind]
        answer = house.call(method, f"/servers/{server_id}{path}", {key: data.draw(JSON)}, version=version)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        (fault,) = json.loads(answer.content).values()
        assert fault["code"] == answer.status_code and fault["message"]


def test_no_two_modules_claim_one_path() -> None:
    seen: set[tuple[str, str]] = set()
    for module in MODULES:
        for method, path, _ in module.ROUTES:
            shape = "/".join("{}" if part.startswith("{") else part for part in path.split("/"))
            assert (method, shape) not in seen, (method, path)
            seen.add((method, shape))
