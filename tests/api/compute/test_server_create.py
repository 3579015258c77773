"""POST /servers: what a request may hold, what it makes, and how it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from api.compute.servers_house import LARGE, SMALL, House, refused
from virga.domain.compute import Keypair, QuotaLimit, ServerGroup
from virga.domain.image import Image
from virga.domain.network import NetworkQuota
from virga.domain.port import IpAllocation, Port
from virga.domain.server import Flavor, Server


@pytest.fixture
def house(cloud_client: Any) -> House:
    return House(cloud_client)


def add(house: House, row: Any) -> None:
    house.client.run(house.client.db.run(lambda tx: tx.insert(row)))


def made(answer: Any) -> str:
    assert answer.status_code == 202, answer.text
    found: str = answer.json()["server"]["id"]
    return found


def test_everything_that_is_asked_for_is_kept(house: House) -> None:
    add(house, Keypair(house.client.users["demo"], "key", 1, "ssh-rsa AAAA", "aa:bb"))
    group = house.client.env.new_id()
    add(house, ServerGroup(group, house.client.projects["demo"], "u", "g", "anti-affinity"))
    answer = house.create(
        name="Web Server_1",
        key_name="key",
        metadata={"a": "b"},
        user_data="aGk=",
        config_drive="true",
        tags=["x", "y"],
        description="d",
        accessIPv4="192.0.2.9",
        availability_zone="west",
        hints={"group": group},
        adminPass="secret",
        trusted_image_certificates=["c1"],
        networks=[{"uuid": house.net, "fixed_ip": "10.1.0.42", "tag": "nic"}],
        **{"OS-DCF:diskConfig": "AUTO"},
    )
    body = answer.json()["server"]
    assert body["adminPass"] == "secret"
    assert body["OS-DCF:diskConfig"] == "AUTO"
    assert answer.headers["location"].endswith(body["id"])
    row = house.row(made(answer))
    assert (row.key_name, row.key_public, row.metadata, row.user_data) == ("key", "ssh-rsa AAAA", {"a": "b"}, "aGk=")
    assert (row.config_drive, row.tags, row.description, row.access_ipv4) == (True, ["x", "y"], "d", "192.0.2.9")
    assert (row.availability_zone, row.server_group_id, row.hostname) == ("west", group, "web-server-1")
    assert (row.trusted_certs, row.disk_config, row.admin_pass) == (["c1"], "AUTO", "secret")
    (port,) = house.ports(row.id)
    assert [fixed.ip_address for fixed in port.fixed_ips] == ["10.1.0.42"]
    assert (port.device_owner, port.preserve) == ("compute:west", False)


def test_a_password_is_made_when_none_is_given(house: House) -> None:
    first, second = (house.create().json()["server"]["adminPass"] for _ in range(2))
    assert len(first) == 12 and first != second


@pytest.mark.parametrize(
    ("fields", "version", "word"),
    [
        ({"name": 12345}, "2.96", "server.name"),
        ({"name": "x" * 256}, "2.96", "server.name"),
        ({"name": ""}, "2.96", "server.name"),
        ({"name": None}, "2.96", "name"),
        ({"flavorRef": None}, "2.96", "flavorRef"),
        ({"flavorRef": "none"}, "2.96", "none"),
        ({"flavorRef": {}}, "2.96", "flavorRef"),
        ({"imageRef": "-1"}, "2.96", "imageRef"),
        ({"imageRef": None}, "2.96", "imageRef"),
        ({"imageRef": "a" * 8 + "-1111-2222-3333-" + "b" * 12}, "2.96", "image"),
        ({"networks": None}, "2.37", "networks"),
        ({"networks": [{"uuid": "a-b-c-d-e-f-g-h-i-j"}]}, "2.96", "networks.0.uuid"),
        ({"networks": [{}]}, "2.96", "networks.0"),
        ({"networks": "some"}, "2.96", "networks"),
        ({"networks": 3}, "2.96", "networks"),
        ({"networks": "auto"}, "2.36", "networks"),
        (
            {"networks": [{"uuid": "11111111-2222-3333-4444-555555555555"}]},
            "2.96",
            "11111111-2222-3333-4444-555555555555",
        ),
        (
            {"networks": [{"port": "11111111-2222-3333-4444-555555555555"}]},
            "2.96",
            "11111111-2222-3333-4444-555555555555",
        ),
        (
            {"networks": [{"port": "11111111-2222-3333-4444-555555555555", "fixed_ip": "10.1.0.9"}]},
            "2.96",
            "10.1.0.9",
        ),
        ({"accessIPv4": "1.1.1.1.1"}, "2.96", "accessIPv4"),
        ({"accessIPv6": "notvalid"}, "2.96", "accessIPv6"),
        ({"metadata": {"k": "v" * 256}}, "2.96", "metadata.k"),
        ({"metadata": {"": "v"}}, "2.96", "metadata"),
        ({"metadata": {"k": 1}}, "2.96", "metadata.k"),
        ({"metadata": []}, "2.96", "metadata"),
        ({"key_name": "nokey"}, "2.96", "nokey"),
        ({"user_data": "%%%"}, "2.96", "user_data"),
        ({"user_data": "A" * 65536}, "2.96", "user_data"),
        ({"config_drive": "perhaps"}, "2.96", "config_drive"),
        ({"availability_zone": "nowhere"}, "2.96", "zone"),
        ({"min_count": 0}, "2.96", "min_count"),
        ({"max_count": -1}, "2.96", "max_count"),
        ({"min_count": 3, "max_count": 2}, "2.96", "min_count"),
        ({"min_count": "x"}, "2.96", "min_count"),
        ({"description": "d"}, "2.18", "description"),
        ({"tags": ["a"]}, "2.51", "tags"),
        ({"tags": ["a,b"]}, "2.52", "a,b"),
        ({"tags": [str(n) for n in range(51)]}, "2.52", "50"),
        ({"hostname": "h"}, "2.89", "hostname"),
        ({"hostname": "h.example"}, "2.93", "hostname"),
        ({"trusted_image_certificates": ["a"]}, "2.62", "trusted"),
        ({"trusted_image_certificates": []}, "2.63", "trusted"),
        ({"personality": [{"path": "/x", "contents": "eA=="}]}, "2.1", "personality"),
        ({"personality": []}, "2.57", "personality"),
        ({"unknown": 1}, "2.96", "unknown"),
        ({"security_groups": [{"name": "nope"}]}, "2.96", "nope"),
        ({"security_groups": "default"}, "2.96", "security_groups"),
        ({"security_groups": [{"id": "x"}]}, "2.96", "security_groups.0"),
        ({"OS-DCF:diskConfig": "NONE"}, "2.96", "diskConfig"),
        ({"hints": {"group": "x"}}, "2.96", "group"),
        ({"hints": {"group": "11111111-2222-3333-4444-555555555555"}}, "2.96", "11111111"),
        ({"hints": 3}, "2.96", "hints"),
        (
            {
                "block_device_mapping_v2": [
                    {"source_type": "volume", "destination_type": "volume", "uuid": "x", "boot_index": 0}
                ]
            },
            "2.96",
            "block storage",
        ),
        ({"block_device_mapping": [{"device_name": "vda"}]}, "2.96", "volumes"),
        ({"adminPass": 1}, "2.96", "adminPass"),
        ({"return_reservation_id": "so"}, "2.96", "return_reservation_id"),
        ({"flavorRef": "3"}, "2.96", "3"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_made(
    house: House, fields: dict[str, Any], version: str, word: str
) -> None:
    refused(house.create(version=version, **fields), 400, word)
    assert house.count() == 0
    assert house.client.run(house.client.db.read(lambda tx: tx.count(Port))) == 0


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"3", b'{"server": 1}', b'{"servers": {}}', b'{"server": {}, "x": 1}', b"\xff\xfe"]
)
def test_a_body_that_is_no_request(house: House, body: bytes) -> None:
    answer = house.call("POST", "/servers", content=body)
    assert answer.status_code == 400, answer.text


def test_numbers_and_booleans_may_come_as_text(house: House) -> None:
    answer = house.create(min_count="2", max_count="2", config_drive="True", return_reservation_id="true")
    assert list(answer.json()) == ["reservation_id"]
    assert house.count() == 2


def test_several_servers_are_all_made_or_none(house: House) -> None:
    answer = house.create(name="many", min_count=2, max_count=3, networks=[{"uuid": house.net}])
    first = house.row(made(answer))
    rows = house.client.run(house.client.db.read(lambda tx: tx.find(Server, reservation_id=first.reservation_id)))
    assert sorted((row.name, row.launch_index) for row in rows) == [("many-1", 0), ("many-2", 1), ("many-3", 2)]
    add(house, QuotaLimit(house.client.projects["demo"], "", "instances", 5))
    refused(house.create(min_count=3, networks=[{"uuid": house.net}]), 403, "Quota", "instances")
    assert house.count() == 3
    refused(house.create(min_count=2, networks=[{"uuid": house.net, "fixed_ip": "10.1.0.60"}]), 400, "fixed")


@pytest.mark.parametrize(("resource", "limit"), [("instances", 0), ("cores", 1), ("ram", 1000)])
def test_over_quota_is_403_and_says_of_what(house: House, resource: str, limit: int) -> None:
    add(house, QuotaLimit(house.client.projects["demo"], "", resource, limit))
    refused(house.create(flavorRef=LARGE), 403, resource)
    assert house.count() == 0


def test_too_much_metadata_is_over_quota(house: House) -> None:
    refused(house.create(metadata={f"k{n}": "v" for n in range(129)}), 403, "128")


# networks --------------------------------------------------------------------------------------------------------
def test_the_one_network_of_a_project_is_taken_by_itself(house: House) -> None:
    for networks, version in (("auto", "2.37"), (None, "2.36")):
        server_id = made(house.create(networks=networks, version=version))
        (port,) = house.ports(server_id)
        assert port.network_id == house.net
    assert house.ports(made(house.create(networks="none"))) == []


def test_of_two_networks_one_must_be_named(house: House) -> None:
    second = house.network("second")
    refused(house.create(networks="auto"), 409, "network")
    refused(house.create(networks=None, version="2.1"), 409, "network")
    both = made(house.create(networks=[{"uuid": house.net}, {"uuid": second}]))
    assert {port.network_id for port in house.ports(both)} == {house.net, second}


def test_a_project_without_networks(house: House) -> None:
    refused(house.create(networks="auto", as_="other"), 400, "network")
    assert house.ports(made(house.create(networks=None, version="2.36", as_="other"))) == []


def test_another_projects_network_is_unknown_a_shared_one_is_not(house: House) -> None:
    refused(house.create(networks=[{"uuid": house.net}], as_="other"), 400, house.net)
    shared = house.network("shared", "admin", shared=True)
    (port,) = house.ports(made(house.create(networks=[{"uuid": shared}], as_="other")))
    assert port.project_id == house.client.projects["other"]
    outside = house.network("outside", "admin", external=True)
    refused(house.create(networks=[{"uuid": outside}]), 403, outside)


def test_a_port_of_the_users_own(house: House) -> None:
    port = Port(
        house.client.env.new_id(), house.client.projects["demo"], house.net, "fa:16:3e:00:00:01", preserve=True
    )
    add(house, port)
    server_id = made(house.create(networks=[{"port": port.id}]))
    assert [found.id for found in house.ports(server_id)] == [port.id]
    refused(house.create(networks=[{"port": port.id}]), 409, port.id)
    refused(house.create(networks=[{"port": port.id}], as_="other"), 400, port.id)


def test_an_address_that_is_taken_or_foreign(house: House) -> None:
    made(house.create(networks=[{"uuid": house.net, "fixed_ip": "10.1.0.70"}]))
    refused(house.create(networks=[{"uuid": house.net, "fixed_ip": "10.1.0.70"}]), 400, "10.1.0.70")
    refused(house.create(networks=[{"uuid": house.net, "fixed_ip": "192.0.2.1"}]), 400)
    assert house.count() == 1


def test_no_port_left_is_over_quota(house: House) -> None:
    add(house, NetworkQuota(house.client.projects["demo"], "port", 1))
    refused(house.create(min_count=2, networks=[{"uuid": house.net}]), 403)
    assert house.count() == 0


def test_no_address_left(house: House) -> None:
    for number in range(90):
        add(house, IpAllocation(house.subnet, f"10.1.0.{10 + number}", house.net, "somebody"))
    refused(house.create(networks=[{"uuid": house.net}]), 400)
    assert house.count() == 0


def test_tags_of_nics_exist_only_in_some_versions(house: House) -> None:
    nics = [{"uuid": house.net, "tag": "a"}]
    for version, status in (("2.31", 400), ("2.32", 202), ("2.36", 202), ("2.37", 400), ("2.41", 400), ("2.42", 202)):
        assert house.create(networks=nics, version=version).status_code == status, version


# images, flavors, hosts ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("columns", "word"),
    [
        ({"status": "queued"}, "queued"),
        ({"min_ram": 4096}, "4096"),
        ({"min_disk": 50}, "50"),
        ({"virtual_size": 50 << 30}, "too small"),
        ({"visibility": "private"}, "image"),
    ],
)
def test_an_image_that_cannot_be_booted(house: House, columns: dict[str, Any], word: str) -> None:
    image_id = house.client.env.new_id()
    fields: dict[str, Any] = {"status": "active", "visibility": "public", "size": 1, **columns}
    add(house, Image(image_id, house.client.projects["admin"], **fields))
    refused(house.create(imageRef=image_id), 400, word)


def test_a_private_flavor_is_for_its_projects(house: House) -> None:
    refused(house.create(flavorRef="3"), 400, "3")
    house.client.run(house.client.db.run(lambda tx: tx.update(Flavor, "3", projects=[house.client.projects["demo"]])))
    assert house.create(flavorRef="3").status_code == 202


def test_links_stand_for_ids(house: House) -> None:
    answer = house.create(flavorRef=f"http://cloud/flavors/{SMALL}", imageRef=f"http://cloud/images/{house.image}")
    row = house.row(made(answer))
    assert (row.flavor.id, row.image_id) == (SMALL, house.image)


def test_an_image_on_the_local_disk_may_be_said_the_long_way(house: House) -> None:
    mapping = {"boot_index": 0, "uuid": house.image, "source_type": "image", "destination_type": "local"}
    row = house.row(made(house.create(imageRef="", block_device_mapping_v2=[mapping])))
    assert row.image_id == house.image


def test_naming_the_host_is_for_admins(house: House) -> None:
    refused(house.create(availability_zone="nova:host-1"), 403)
    refused(house.create(host="host-1"), 403)
    refused(house.create(host="host-1", version="2.73"), 400, "host")
    own = house.network("own", "admin")
    nics = [{"uuid": own}]
    for fields in (
        {"availability_zone": "nova:host-1"},
        {"host": "host-1"},
        {"hypervisor_hostname": "host-1"},
        {"availability_zone": "nova::host-1"},
    ):
        assert house.row(made(house.create(as_="admin", networks=nics, **fields))).requested_host == "host-1"
    refused(house.create(as_="admin", networks=nics, host="nobody"), 400, "nobody")
    refused(house.create(as_="admin", networks=nics, host="host-1", hypervisor_hostname="host-2"), 400, "host-2")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("My Server_2", "my-server-2"),
        ("a.b", "a.b"),
        ("--x--", "x"),
        ("Ünïcode", "ncode"),
        ("x" * 80, "x" * 63),
    ],
)
def test_host_names_are_made_from_names(house: House, name: str, expected: str) -> None:
    assert house.row(made(house.create(name=name))).hostname == expected


def test_a_name_that_makes_no_host_name(house: House) -> None:
    row = house.row(made(house.create(name="日本")))
    assert row.hostname == f"server-{row.id}"
