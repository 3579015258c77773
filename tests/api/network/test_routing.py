"""Routers, gateways, floating IPs: what needs what, and what stays while it is needed."""
from __future__ import annotations

from typing import Any

import pytest

V2 = "/network/v2.0"


class World:
    """An external network, an inner one and a router between them; calls as `demo`."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.ext = self.make("networks", "network", "admin", name="ext", **{"router:external": True})["id"]
        self.ext_subnet = self.make("subnets", "subnet", "admin", network_id=self.ext, ip_version=4, cidr="172.24.4.0/24", enable_dhcp=False)
        self.net = self.make("networks", "network", name="in")["id"]
        self.sub = self.make("subnets", "subnet", network_id=self.net, ip_version=4, cidr="10.5.0.0/24")["id"]
        self.router = self.make("routers", "router", name="r", external_gateway_info={"network_id": self.ext})["id"]

    def make(self, path: str, one: str, as_: str = "demo", **attrs: Any) -> Any:
        response = self.client.post(f"{V2}/{path}", {one: attrs}, as_=as_)
        assert response.status_code == 201, response.text
        return response.json()[one]

    def refused(self, response: Any, status: int, kind: str) -> None:
        assert (response.status_code, response.json()["NeutronError"]["type"]) == (status, kind), response.text

    def interface(self, verb: str, as_: str = "demo", **what: Any) -> Any:
        return self.client.put(f"{V2}/routers/{self.router}/{verb}_router_interface", what, as_=as_)

    def change(self, path: str, one: str, as_: str = "demo", **attrs: Any) -> Any:
        return self.client.put(f"{V2}/{path}", {one: attrs}, as_=as_)


@pytest.fixture
def world(cloud_client: Any) -> World:
    return World(cloud_client)


def test_a_gateway_takes_an_address_nobody_sees_as_theirs(world: World) -> None:
    info = world.client.get(f"{V2}/routers/{world.router}", as_="demo").json()["router"]["external_gateway_info"]
    assert info["enable_snat"] is True and info["external_fixed_ips"][0]["ip_address"] == "172.24.4.2"
    assert world.client.get(f"{V2}/ports?device_owner=network:router_gateway", as_="demo").json()["ports"] == []
    ports = world.client.get(f"{V2}/ports?device_owner=network:router_gateway").json()["ports"]
    assert [port["project_id"] for port in ports] == [""] and ports[0]["device_id"] == world.router


def test_gateway_refusals(world: World) -> None:
    missing = "00000000-0000-0000-0000-000000000000"
    world.refused(world.change(f"routers/{world.router}", "router", external_gateway_info={"network_id": missing}), 404, "NetworkNotFound")
    world.refused(world.change(f"routers/{world.router}", "router", external_gateway_info={"network_id": world.net}), 400, "BadRequest")
    for extra in ({"enable_snat": False}, {"external_fixed_ips": [{"ip_address": "172.24.4.50"}]}):
        info = {"network_id": world.ext, **extra}
        world.refused(world.change(f"routers/{world.router}", "router", external_gateway_info=info), 403, "PolicyNotAuthorized")
        assert world.change(f"routers/{world.router}", "router", "admin", external_gateway_info=info).status_code == 200
    shown = world.client.get(f"{V2}/routers/{world.router}", as_="demo").json()["router"]["external_gateway_info"]
    assert shown["enable_snat"] is False and shown["external_fixed_ips"][0]["ip_address"] == "172.24.4.50"
    assert world.change(f"routers/{world.router}", "router", external_gateway_info={}).json()["router"]["external_gateway_info"] is None
    assert world.client.get(f"{V2}/ports?network_id={world.ext}").json()["ports"] == []


def test_interfaces_by_subnet_and_by_port(world: World) -> None:
    joined = world.interface("add", subnet_id=world.sub).json()
    assert joined["subnet_ids"] == [world.sub]
    port = world.client.get(f"{V2}/ports/{joined['port_id']}", as_="demo").json()["port"]
    assert (port["device_owner"], port["device_id"], port["fixed_ips"][0]["ip_address"]) == ("network:router_interface", world.router, "10.5.0.1")
    world.refused(world.interface("add", subnet_id=world.sub), 400, "BadRequest")
    world.refused(world.interface("add"), 400, "BadRequest")
    world.refused(world.interface("add", subnet_id=world.sub, port_id=port["id"]), 400, "BadRequest")
    world.refused(world.client.delete(f"{V2}/ports/{port['id']}", as_="demo"), 409, "ServicePortInUse")
    world.refused(world.client.delete(f"{V2}/routers/{world.router}", as_="demo"), 409, "RouterInUse")
    world.refused(world.client.delete(f"{V2}/subnets/{world.sub}", as_="demo"), 409, "SubnetInUse")
    world.refused(world.client.delete(f"{V2}/networks/{world.net}", as_="demo"), 409, "NetworkInUse")
    world.refused(world.change(f"subnets/{world.sub}", "subnet", gateway_ip="10.5.0.254"), 409, "GatewayIpInUse")
    # a second network, by a port somebody made; one that overlaps is refused
    other = world.make("networks", "network")["id"]
    world.make("subnets", "subnet", network_id=other, ip_version=4, cidr="10.5.0.0/16", name="overlaps")
    clash = world.make("ports", "port", network_id=other)
    world.refused(world.interface("add", port_id=clash["id"]), 400, "BadRequest")
    third = world.make("networks", "network")["id"]
    world.make("subnets", "subnet", network_id=third, ip_version=4, cidr="10.6.0.0/24")
    own = world.make("ports", "port", network_id=third, fixed_ips=[{"ip_address": "10.6.0.7"}])
    assert world.interface("add", port_id=own["id"]).status_code == 200
    world.refused(world.interface("add", port_id=own["id"]), 409, "PortInUse")
    world.refused(world.interface("remove", port_id=clash["id"]), 404, "RouterInterfaceNotFound")
    world.refused(world.interface("remove", port_id=own["id"], subnet_id=world.sub), 409, "SubnetMismatchForPort")
    assert world.interface("remove", port_id=own["id"]).status_code == 200
    assert world.interface("remove", subnet_id=world.sub).status_code == 200
    world.refused(world.interface("remove", subnet_id=world.sub), 404, "RouterInterfaceNotFoundForSubnet")
    assert world.client.delete(f"{V2}/routers/{world.router}", as_="demo").status_code == 204


def test_ipv6_subnets_of_one_network_share_an_interface(world: World) -> None:
    subs = [world.make("subnets", "subnet", network_id=world.net, ip_version=6, cidr=f"fd00:{number}::/64", ipv6_ra_mode="slaac",
                       ipv6_address_mode="slaac")["id"] for number in (1, 2)]
    ports = {world.interface("add", subnet_id=sub).json()["port_id"] for sub in subs}
    assert len(ports) == 1
    fixed = world.client.get(f"{V2}/ports/{ports.pop()}", as_="demo").json()["port"]["fixed_ips"]
    assert [item["ip_address"] for item in fixed] == ["fd00:1::1", "fd00:2::1"]
    assert world.interface("remove", subnet_id=subs[0]).status_code == 200
    left = world.client.get(f"{V2}/ports?device_id={world.router}&device_owner=network:router_interface", as_="demo").json()["ports"]
    assert [item["ip_address"] for item in left[0]["fixed_ips"]] == ["fd00:2::1"]


def test_routes(world: World) -> None:
    path = f"routers/{world.router}"
    route = {"destination": "192.168.0.0/16", "nexthop": "10.5.0.77"}
    world.refused(world.change(path, "router", routes=[route]), 400, "InvalidRoutes")
    world.interface("add", subnet_id=world.sub)
    assert world.change(path, "router", routes=[route]).json()["router"]["routes"] == [route]
    world.refused(world.change(path, "router", routes=[{**route, "nexthop": "10.5.0.1"}]), 400, "InvalidRoutes")
    more = {"destination": "192.169.0.0/16", "nexthop": "10.5.0.78"}
    assert world.change(path + "/add_extraroutes", "router", routes=[more, route]).json()["router"]["routes"] == [route, more]
    assert world.change(path + "/remove_extraroutes", "router", routes=[route]).json()["router"]["routes"] == [more]
    world.refused(world.interface("remove", subnet_id=world.sub), 409, "RouterInterfaceInUseByRoute")


def test_a_floating_ip_from_birth_to_release(world: World) -> None:
    port = world.make("ports", "port", network_id=world.net)
    world.refused(world.client.post(f"{V2}/floatingips", {"floatingip": {"floating_network_id": world.net}}, as_="demo"), 400, "BadRequest")
    floating = world.make("floatingips", "floatingip", floating_network_id=world.ext)
    path = f"floatingips/{floating['id']}"
    assert (floating["status"], floating["router_id"]) == ("DOWN", None)
    # no router stands in the port's subnet yet
    world.refused(world.change(path, "floatingip", port_id=port["id"]), 404, "ExternalGatewayForFloatingIPNotFound")
    world.interface("add", subnet_id=world.sub)
    led = world.change(path, "floatingip", port_id=port["id"]).json()["floatingip"]
    assert (led["status"], led["router_id"], led["fixed_ip_address"]) == ("ACTIVE", world.router, port["fixed_ips"][0]["ip_address"])
    assert led["port_details"]["mac_address"] == port["mac_address"]
    # while it leads there, the way stays
    world.refused(world.interface("remove", subnet_id=world.sub), 409, "RouterInterfaceInUseByFloatingIP")
    world.refused(world.change(f"routers/{world.router}", "router", external_gateway_info=None), 409, "RouterExternalGatewayInUseByFloatingIp")
    second = world.client.post(f"{V2}/floatingips", {"floatingip": {"floating_network_id": world.ext, "port_id": port["id"]}}, as_="demo")
    world.refused(second, 409, "FloatingIPPortAlreadyAssociated")
    # the refused one left nothing behind
    assert len(world.client.get(f"{V2}/ports?device_owner=network:floatingip").json()["ports"]) == 1
    assert world.change(path, "floatingip", description="d").json()["floatingip"]["port_id"] == port["id"]
    assert world.client.delete(f"{V2}/ports/{port['id']}", as_="demo").status_code == 204
    freed = world.client.get(f"{V2}/{path}", as_="demo").json()["floatingip"]
    assert (freed["status"], freed["port_id"], freed["fixed_ip_address"]) == ("DOWN", None, None)
    assert world.client.delete(f"{V2}/{path}", as_="demo").status_code == 204
    assert world.client.get(f"{V2}/ports?device_owner=network:floatingip").json()["ports"] == []


def test_a_port_of_several_addresses_wants_one_named(world: World) -> None:
    world.interface("add", subnet_id=world.sub)
    port = world.make("ports", "port", network_id=world.net, fixed_ips=[{"subnet_id": world.sub}, {"subnet_id": world.sub}])
    floating = world.make("floatingips", "floatingip", floating_network_id=world.ext)
    path = f"floatingips/{floating['id']}"
    world.refused(world.change(path, "floatingip", port_id=port["id"]), 400, "BadRequest")
    wanted = port["fixed_ips"][1]["ip_address"]
    led = world.change(path, "floatingip", port_id=port["id"], fixed_ip_address=wanted).json()["floatingip"]
    assert led["fixed_ip_address"] == wanted
    world.refused(world.change(path, "floatingip", port_id=port["id"], fixed_ip_address="10.5.0.200"), 400, "BadRequest")
    # the address goes from the port: the floating IP is free again
    kept = [{"ip_address": port["fixed_ips"][0]["ip_address"]}]
    assert world.change(f"ports/{port['id']}", "port", fixed_ips=kept).status_code == 200
    assert world.client.get(f"{V2}/{path}", as_="demo").json()["floatingip"]["status"] == "DOWN"


def test_idle_floating_ips_go_with_their_network(world: World) -> None:
    assert world.client.put(f"{V2}/routers/{world.router}", {"router": {"external_gateway_info": None}}, as_="demo").status_code == 200
    floating = world.make("floatingips", "floatingip", floating_network_id=world.ext)
    assert world.client.delete(f"{V2}/networks/{world.ext}").status_code == 204
    assert world.client.get(f"{V2}/floatingips/{floating['id']}", as_="demo").status_code == 404


def test_the_first_networks_are_made_once(cloud_client: Any) -> None:
    from virga.api.network import bootstrap_network
    from virga.domain.ask import Ask

    ask = Ask(cloud_client.cloud.config, cloud_client.projects["admin"], "u", "req-1", True)
    for _ in range(2):
        cloud_client.run(cloud_client.db.run(lambda tx: bootstrap_network(tx, ask, [cloud_client.projects["demo"]])))
    found = {item["name"]: item for item in cloud_client.get(f"{V2}/networks", as_="demo").json()["networks"]}
    assert set(found) == {"public", "private"}
    assert found["public"]["router:external"] and found["private"]["shared"]
    assert len(cloud_client.get(f"{V2}/routers").json()["routers"]) == 1
    # a project that comes later has the one it makes itself, and no second one by which a server request would be ambiguous
    assert {item["name"] for item in cloud_client.get(f"{V2}/networks", as_="other").json()["networks"]} == {"public"}
    # demo can make a port on private and give it a floating IP
    port = cloud_client.post(f"{V2}/ports", {"port": {"network_id": found["private"]["id"]}}, as_="demo").json()["port"]
    floating = cloud_client.post(f"{V2}/floatingips", {"floatingip": {"floating_network_id": found["public"]["id"], "port_id": port["id"]}},
                                 as_="demo")
    assert floating.status_code == 201 and floating.json()["floatingip"]["status"] == "ACTIVE"


def test_an_interface_may_take_another_address_but_not_leave_what_needs_it(world: World) -> None:
    port = world.interface("add", subnet_id=world.sub).json()["port_id"]
    moved = world.change(f"ports/{port}", "port", fixed_ips=[{"subnet_id": world.sub, "ip_address": "10.5.0.9"}])
    assert [item["ip_address"] for item in moved.json()["port"]["fixed_ips"]] == ["10.5.0.9"]
    world.refused(world.change(f"ports/{port}", "port", fixed_ips=[]), 400, "BadRequest")
    world.refused(world.change(f"ports/{port}", "port", device_id="x"), 409, "ServicePortInUse")
    other = world.make("subnets", "subnet", network_id=world.net, ip_version=4, cidr="10.7.0.0/24")["id"]
    world.change(f"routers/{world.router}", "router", routes=[{"destination": "192.168.0.0/16", "nexthop": "10.5.0.77"}])
    world.refused(world.change(f"ports/{port}", "port", fixed_ips=[{"subnet_id": other}]), 409, "RouterInterfaceInUseByRoute")
    world.change(f"routers/{world.router}", "router", routes=[])
    assert world.change(f"ports/{port}", "port", fixed_ips=[{"subnet_id": other}]).status_code == 200
