"""openstacksdk's `cloud` layer, as programs use it, unchanged: networks, images, keys, servers with floating IPs, resize there and back, lists."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openstack
import pytest

NAME = "sdk"


@pytest.fixture(scope="module")
def sdk(cloud: Path) -> Iterator[Any]:
    connection = openstack.connect(cloud="virga")
    assert os.environ["OS_CLIENT_CONFIG_FILE"].startswith(str(cloud))
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def network(sdk: Any) -> Iterator[Any]:
    """A network with a subnet, routed to the external network."""
    network = sdk.create_network(NAME)
    subnet = sdk.create_subnet(network.id, cidr="10.44.0.0/24", subnet_name=NAME, dns_nameservers=["9.9.9.9"], enable_dhcp=True)
    public = sdk.get_network("public")
    router = sdk.create_router(NAME, ext_gateway_net_id=public.id)
    sdk.add_router_interface(router, subnet_id=subnet.id)
    assert sdk.get_router(NAME).external_gateway_info["network_id"] == public.id
    yield network
    sdk.remove_router_interface(router, subnet_id=subnet.id)
    assert sdk.delete_router(NAME)
    assert sdk.delete_subnet(NAME)
    assert sdk.delete_network(NAME)
    assert sdk.get_network(NAME) is None


@pytest.fixture(scope="module")
def flavors(sdk: Any) -> Iterator[list[Any]]:
    made = [sdk.create_flavor(f"{NAME}-{ram}", ram, 1, 1) for ram in (64, 96)]
    yield made
    for flavor in made:
        assert sdk.delete_flavor(flavor.id)


def test_image(sdk: Any, tmp_path: Path) -> None:
    file = tmp_path / "image"
    file.write_bytes(os.urandom(70_000))
    image = sdk.create_image(
        NAME, filename=str(file), disk_format="raw", container_format="bare", wait=True, validate_checksum=True, os_distro="x"
    )
    assert (image.status, image.size) == ("active", 70_000)
    assert sdk.get_image(NAME).properties.get("os_distro", sdk.get_image(NAME).get("os_distro")) == "x"
    back = tmp_path / "back"
    sdk.download_image(NAME, output_path=str(back))
    assert back.read_bytes() == file.read_bytes()
    again = sdk.create_image(NAME, filename=str(file), disk_format="raw", container_format="bare", wait=True, validate_checksum=True)
    assert again.id == image.id  # the client sees by its own checksum that the same bytes are there
    sdk.update_image_properties(image=image, min_ram=64, hw_rng_model="virtio")
    assert sdk.get_image(NAME).min_ram == 64
    assert sdk.delete_image(NAME, wait=True)
    assert sdk.get_image(NAME) is None


def test_keypair_and_security_group(sdk: Any) -> None:
    key = sdk.create_keypair(NAME)
    assert key.private_key.startswith("-----BEGIN")
    assert [k.name for k in sdk.search_keypairs(NAME)] == [NAME]
    group = sdk.create_security_group(NAME, "from the client")
    rule = sdk.create_security_group_rule(NAME, port_range_min=22, port_range_max=22, protocol="tcp", remote_ip_prefix="10.0.0.0/8")
    assert sdk.get_security_group(NAME).security_group_rules
    assert sdk.update_security_group(NAME, description="new").description == "new"
    assert sdk.delete_security_group_rule(rule.id)
    assert sdk.delete_security_group(group.id)
    assert sdk.delete_keypair(NAME)


def test_lists(sdk: Any) -> None:
    """Everything the layer can list of what this cloud offers."""
    for name in (
        "networks",
        "subnets",
        "ports",
        "routers",
        "floating_ips",
        "security_groups",
        "flavors",
        "images",
        "keypairs",
        "servers",
        "hypervisors",
        "availability_zone_names",
        "aggregates",
        "server_groups",
        "projects",
        "users",
        "groups",
        "roles",
        "role_assignments",
        "domains",
        "services",
        "endpoints",
    ):
        assert len(list(getattr(sdk, f"list_{name}")())) >= 0, name
    assert {flavor.name for flavor in sdk.list_flavors(get_extra=True)} >= {"m1.nano"}
    assert sdk.get_compute_limits().max_total_cores > 0
    assert sdk.get_compute_quotas("demo").cores > 0
    assert sdk.get_network_quotas("demo").networks > 0
    assert {h.name for h in sdk.list_hypervisors()} == {"host-1", "host-2"}


def test_server_with_an_automatic_floating_ip(sdk: Any, network: Any, flavors: list[Any]) -> None:
    image = sdk.list_images()[0]
    server = sdk.create_server(
        NAME, image=image, flavor=flavors[0], network=network.id, wait=True, auto_ip=True, timeout=60, meta={"a": "b"}
    )
    try:
        assert server.status == "ACTIVE"
        server = sdk.get_server(NAME)  # what create_server returns was read before the address came
        assert server.public_v4 and server.private_v4.startswith("10.44.0.")
        assert [f.fixed_ip_address for f in sdk.list_floating_ips()] == [server.private_v4]
        assert sdk.get_server_by_id(server.id).name == NAME
        assert sdk.search_servers(filters={"status": "ACTIVE"})

        sdk.compute.resize_server(server, flavors[1])
        server = sdk.compute.wait_for_server(sdk.compute.get_server(server), status="VERIFY_RESIZE", interval=1, wait=60)
        moved = server.compute_host
        sdk.compute.confirm_server_resize(server)
        server = sdk.compute.wait_for_server(server, interval=1, wait=60)
        assert (server.flavor.original_name, server.compute_host) == (f"{NAME}-96", moved)

        sdk.compute.resize_server(server, flavors[0])
        server = sdk.compute.wait_for_server(sdk.compute.get_server(server), status="VERIFY_RESIZE", interval=1, wait=60)
        assert server.compute_host != moved
        sdk.compute.revert_server_resize(server)
        server = sdk.compute.wait_for_server(server, interval=1, wait=60)
        assert (server.flavor.original_name, server.compute_host) == (f"{NAME}-96", moved)

        copy = sdk.create_image_snapshot(f"{NAME}-copy", server, wait=True)
        assert copy.status == "active" and sdk.delete_image(copy.id)
        sdk.update_server(server.id, name=f"{NAME}-2")
        sdk.set_server_metadata(server.id, {"c": "d"})
        assert sdk.get_server(f"{NAME}-2").metadata == {"a": "b", "c": "d"}
        assert "fake guest" in sdk.get_server_console(server.id)
    finally:
        assert sdk.delete_server(server.id, wait=True, delete_ips=True, timeout=60)
    assert sdk.get_server_by_id(server.id) is None
    assert sdk.list_floating_ips() == []


def test_floating_ip_by_hand(sdk: Any) -> None:
    given = sdk.create_floating_ip(network="public", wait=True)
    assert sdk.get_floating_ip(given.id).floating_ip_address == given.floating_ip_address
    assert sdk.delete_floating_ip(given.id)
