"""Random users on one cloud: whatever they do in whatever order, nothing ends in a 5xx and the tables agree with each other."""
from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from virga.domain import ipam
from virga.domain.network import ROUTER_INTERFACE, FloatingIp, Network, RbacPolicy, Router, SecurityGroup, SecurityGroupRule, Segment, Subnet
from virga.domain.port import Binding, IpAllocation, MacAllocation, Port
from virga.store.db import Tx

V2 = "/network/v2.0"
USERS = ("demo", "demo", "other", "admin")


def sound(tx: Tx) -> None:
    """What must hold between the tables, always."""
    ports = {port.id: port for port in tx.find(Port)}
    networks = {network.id: network for network in tx.find(Network)}
    subnets = {subnet.id: subnet for subnet in tx.find(Subnet)}
    allocated = Counter((row.subnet_id, row.ip_address, row.port_id) for row in tx.find(IpAllocation))
    assert allocated == Counter((fixed.subnet_id, fixed.ip_address, port.id) for port in ports.values() for fixed in port.fixed_ips)
    assert {(row.network_id, row.mac_address, row.port_id) for row in tx.find(MacAllocation)} == {
        (port.network_id, port.mac_address, port.id) for port in ports.values()}
    for port in ports.values():
        assert port.network_id in networks
        for fixed in port.fixed_ips:
            assert subnets[fixed.subnet_id].network_id == port.network_id
            assert ipam.address(fixed.ip_address) in ipam.network(subnets[fixed.subnet_id].cidr)
        assert all(tx.get(SecurityGroup, group) is not None for group in port.security_groups)
    for one in subnets.values():
        assert one.network_id in networks
        assert not any(ipam.overlap(ipam.network(one.cidr), ipam.network(other.cidr)) for other in subnets.values()
                       if other.id != one.id and other.network_id == one.network_id)
    routers = {router.id: router for router in tx.find(Router)}
    for router in routers.values():
        assert router.gateway_port_id is None or ports[router.gateway_port_id].network_id == router.gateway_network_id
        joined = [subnets[fixed.subnet_id] for port in ports.values() if port.device_id == router.id and port.device_owner == ROUTER_INTERFACE
                  for fixed in port.fixed_ips]
        assert not any(ipam.overlap(ipam.network(one.cidr), ipam.network(other.cidr)) for one in joined for other in joined if one is not other)
    assert all(port.device_id in routers for port in ports.values() if port.device_owner.startswith("network:router"))
    for floating in tx.find(FloatingIp):
        assert ports[floating.floating_port_id].fixed_ips[0].ip_address == floating.floating_ip_address
        assert (floating.port_id is None) == (floating.fixed_ip_address is None) == (floating.router_id is None)
        if floating.port_id is not None:
            assert floating.fixed_ip_address in [fixed.ip_address for fixed in ports[floating.port_id].fixed_ips]
            assert routers[floating.router_id or ""].gateway_network_id == floating.floating_network_id
    floating_ports = {floating.floating_port_id for floating in tx.find(FloatingIp)}
    assert floating_ports == {port.id for port in ports.values() if port.device_owner == "network:floatingip"}
    assert {row.network_id for row in tx.find(Segment)} <= set(networks)
    assert {row.object_id for row in tx.find(RbacPolicy, object_type="network")} <= set(networks)
    assert {row.port_id for row in tx.find(Binding)} <= set(ports)
    assert all(tx.get(SecurityGroup, rule.security_group_id) is not None for rule in tx.find(SecurityGroupRule))


class Walk:
    """Picks a user, a thing to do, and things to do it with, from a seed."""

    def __init__(self, client: Any, seed: int) -> None:
        self.client = client
        self.rng = random.Random(seed)
        self.codes: Counter[int] = Counter()

    def any_id(self, path: str) -> str:
        found = self.client.get(f"{V2}/{path}").json()[path.replace("-", "_")]
        return str(self.rng.choice(found)["id"]) if found else "none"

    def call(self, method: str, path: str, body: Any = None) -> None:
        response = self.client.call(method, f"{V2}/{path}", body, as_=self.rng.choice(USERS))
        assert response.status_code < 500, response.text
        self.codes[response.status_code] += 1

    def make(self) -> None:
        rng, net = self.rng, self.any_id("networks")
        kind = rng.choice(["network", "subnet", "subnet", "port", "port", "port", "router", "floatingip", "rbac_policy", "group"])
        if kind == "network":
            self.call("POST", "networks", {"network": {"router:external": True} if rng.random() < 0.3 else {}})
        elif kind == "subnet":
            six = rng.random() < 0.3
            self.call("POST", "subnets", {"subnet": {
                "network_id": net, "ip_version": 6 if six else 4, "cidr": f"fd00:{rng.randrange(4)}::/64" if six else f"10.{rng.randrange(6)}.0.0/29",
                **({"ipv6_address_mode": "slaac"} if six and rng.random() < 0.6 else {})}})
        elif kind == "port":
            wishes = rng.choice([None, None, [{"ip_address": f"10.{rng.randrange(6)}.0.{rng.randrange(8)}"}], [{"subnet_id": self.any_id("subnets")}] * 2])
            self.call("POST", "ports", {"port": {"network_id": net, **({"fixed_ips": wishes} if wishes else {})}})
        elif kind == "router":
            self.call("POST", "routers", {"router": {"external_gateway_info": rng.choice([None, {"network_id": net}])}})
        elif kind == "floatingip":
            body = {"floating_network_id": net, **({"port_id": self.any_id("ports")} if rng.random() < 0.5 else {})}
            self.call("POST", "floatingips", {"floatingip": body})
        elif kind == "rbac_policy":
            self.call("POST", "rbac-policies", {"rbac_policy": {"object_type": "network", "object_id": net, "target_tenant": rng.choice(
                ["*", self.client.projects["demo"]]), "action": rng.choice(["access_as_shared", "access_as_external"])}})
        else:
            self.call("POST", "security-groups", {"security_group": {"name": "g"}})

    def change(self) -> None:
        rng = self.rng
        what = rng.choice(["join", "join", "join", "leave", "gateway", "lead", "lead", "address", "groups", "external", "bind"])
        router, port, net = self.any_id("routers"), self.any_id("ports"), self.any_id("networks")
        if what == "join":
            body = {"port_id": port} if rng.random() < 0.3 else {"subnet_id": self.any_id("subnets")}
            self.call("PUT", f"routers/{router}/add_router_interface", body)
        elif what == "leave":
            self.call("PUT", f"routers/{router}/remove_router_interface", rng.choice([{"port_id": port}, {"subnet_id": self.any_id("subnets")}]))
        elif what == "gateway":
            self.call("PUT", f"routers/{router}", {"router": {"external_gateway_info": rng.choice([None, {"network_id": net}])}})
        elif what == "lead":
            self.call("PUT", f"floatingips/{self.any_id('floatingips')}", {"floatingip": {"port_id": rng.choice([None, port, port])}})
        elif what == "address":
            wishes = rng.choice([[], [{"subnet_id": self.any_id("subnets")}], [{"ip_address": f"10.{rng.randrange(6)}.0.{rng.randrange(8)}"}]])
            self.call("PUT", f"ports/{port}", {"port": {"fixed_ips": wishes}})
        elif what == "groups":
            self.call("PUT", f"ports/{port}", {"port": {"security_groups": rng.choice([[], [self.any_id("security-groups")]])}})
        elif what == "external":
            self.call("PUT", f"networks/{net}", {"network": {rng.choice(["shared", "router:external"]): rng.random() < 0.5}})
        else:
            self.call("PUT", f"ports/{port}", {"port": {"binding:host_id": rng.choice(["", "host-1", "host-2"])}})

    def delete(self) -> None:
        path = self.rng.choice(["networks", "subnets", "ports", "ports", "routers", "floatingips", "rbac-policies", "security-groups"])
        self.call("DELETE", f"{path}/{self.any_id(path)}")

    def step(self) -> None:
        self.rng.choices([self.make, self.change, self.delete], [5, 5, 2])[0]()


def walk(client: Any, seed: int, steps: int) -> Walk:
    found = Walk(client, seed)
    for _ in range(steps):
        found.step()
        client.run(client.db.read(sound))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_random_walk(cloud_client: Any, seed: int) -> None:
    found = walk(cloud_client, seed, 250)
    # the walk is worth its name only if a good part of it was done and a good part refused
    assert sum(count for code, count in found.codes.items() if code < 300) > 40
    assert found.codes[409] + found.codes[400] > 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 116))
def test_long_random_walks(cloud_client: Any, seed: int) -> None:
    walk(cloud_client, seed, 600)
