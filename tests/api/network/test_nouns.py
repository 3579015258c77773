"""What is particular about subnets, pools, ports, bindings and security groups."""
from __future__ import annotations

from typing import Any

import pytest

from virga.api.network.networks import free_segment
from virga.domain.errors import Problem
from virga.domain.network import Segment
from virga.domain.placement import UP, Host
from virga.domain.port import Binding, Wiring

V2 = "/network/v2.0"


def post(client: Any, path: str, one: str, as_: str = "demo", **attrs: Any) -> Any:
    return client.post(f"{V2}/{path}", {one: attrs}, as_=as_)


def made(client: Any, path: str, one: str, as_: str = "demo", **attrs: Any) -> Any:
    response = post(client, path, one, as_, **attrs)
    assert response.status_code == 201, response.text
    return response.json()[one]


def refused(response: Any, status: int, kind: str) -> None:
    assert (response.status_code, response.json()["NeutronError"]["type"]) == (status, kind), response.text


@pytest.fixture
def net(cloud_client: Any) -> str:
    found: str = made(cloud_client, "networks", "network", name="n")["id"]
    return found


# subnets ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("attrs", "status", "kind"), [
    ({"cidr": "10.0.0.0/0"}, 400, "InvalidInput"),
    ({"cidr": "127.0.0.0/8"}, 400, "InvalidInput"),
    ({"cidr": "224.0.0.0/8"}, 400, "InvalidInput"),
    ({"cidr": "10.0.0.0/32"}, 400, "InvalidInput"),
    ({"cidr": "fd00::/64"}, 400, "InvalidInput"),
    ({}, 400, "BadRequest"),
    ({"cidr": "10.0.0.0/24", "gateway_ip": "10.0.0.0"}, 400, "InvalidInput"),
    ({"cidr": "10.0.0.0/24", "gateway_ip": "10.0.0.255"}, 400, "InvalidInput"),
    ({"cidr": "10.0.0.0/24", "gateway_ip": "fd00::1"}, 400, "InvalidInput"),
    ({"cidr": "10.0.0.0/24", "allocation_pools": [{"start": "10.0.0.9", "end": "10.0.0.2"}]}, 400, "InvalidAllocationPool"),
    ({"cidr": "10.0.0.0/24", "allocation_pools": [{"start": "10.0.0.9", "end": "10.0.1.2"}]}, 400, "OutOfBoundsAllocationPool"),
    ({"cidr": "10.0.0.0/24", "allocation_pools": [{"start": "10.0.0.2", "end": "10.0.0.9"}, {"start": "10.0.0.9", "end": "10.0.0.20"}]},
     409, "OverlappingAllocationPools"),
    ({"cidr": "10.0.0.0/24", "gateway_ip": "10.0.0.5", "allocation_pools": [{"start": "10.0.0.2", "end": "10.0.0.9"}]},
     409, "GatewayConflictWithAllocationPools"),
    ({"cidr": "10.0.0.0/24", "ipv6_ra_mode": "slaac"}, 400, "InvalidInput"),
    ({"cidr": "fd00::/63", "ip_version": 6, "ipv6_address_mode": "slaac"}, 400, "InvalidInput"),
    ({"cidr": "fd00::/64", "ip_version": 6, "ipv6_address_mode": "slaac", "ipv6_ra_mode": "dhcpv6-stateful"}, 400, "InvalidInput"),
    ({"cidr": "fd00::/64", "ip_version": 6, "ipv6_address_mode": "slaac", "enable_dhcp": False}, 400, "InvalidInput"),
    ({"cidr": "10.0.0.0/24", "host_routes": [{"destination": "10.0.0.0/8", "nexthop": "fd00::1"}]}, 400, "InvalidInput"),
])
def test_subnets_that_make_no_sense(cloud_client: Any, net: str, attrs: dict[str, Any], status: int, kind: str) -> None:
    refused(post(cloud_client, "subnets", "subnet", **{"network_id": net, "ip_version": 4, **attrs}), status, kind)


@pytest.mark.parametrize(("attrs", "gateway", "pools"), [
    ({"cidr": "10.0.0.7/24"}, "10.0.0.1", [{"start": "10.0.0.2", "end": "10.0.0.254"}]),
    ({"cidr": "10.0.0.0/24", "gateway_ip": None}, None, [{"start": "10.0.0.1", "end": "10.0.0.254"}]),
    ({"cidr": "10.0.0.0/24", "gateway_ip": "10.0.0.9"}, "10.0.0.9",
     [{"start": "10.0.0.1", "end": "10.0.0.8"}, {"start": "10.0.0.10", "end": "10.0.0.254"}]),
    ({"cidr": "fd00::/120", "ip_version": 6}, "fd00::1", [{"start": "fd00::2", "end": "fd00::ff"}]),
])
def test_what_a_subnet_makes_of_its_block(
    cloud_client: Any, net: str, attrs: dict[str, Any], gateway: str | None, pools: list[dict[str, str]]
) -> None:
    subnet = made(cloud_client, "subnets", "subnet", **{"network_id": net, "ip_version": 4, **attrs})
    assert (subnet["gateway_ip"], subnet["allocation_pools"]) == (gateway, pools)


def test_a_new_automatic_subnet_reaches_ports_that_are_there_and_leaves_them_when_it_goes(cloud_client: Any, net: str) -> None:
    made(cloud_client, "subnets", "subnet", network_id=net, ip_version=4, cidr="10.0.0.0/24")
    port = made(cloud_client, "ports", "port", network_id=net, mac_address="34:56:78:9a:bc:de")
    six = made(cloud_client, "subnets", "subnet", network_id=net, ip_version=6, cidr="fd00:1::/64", ipv6_address_mode="slaac")

    def addresses() -> list[str]:
        shown = cloud_client.get(f"{V2}/ports/{port['id']}", as_="demo").json()["port"]
        return [item["ip_address"] for item in shown["fixed_ips"]]

    assert addresses() == ["10.0.0.2", "fd00:1::3656:78ff:fe9a:bcde"]
    assert cloud_client.delete(f"{V2}/subnets/{six['id']}", as_="demo").status_code == 204
    assert addresses() == ["10.0.0.2"]


def test_subnets_from_a_pool(cloud_client: Any, net: str) -> None:
    pool = made(cloud_client, "subnetpools", "subnetpool", name="p", prefixes=["10.8.1.0/24", "10.8.0.0/24"], default_prefixlen=26,
                min_prefixlen=24, max_prefixlen=28, default_quota=224)
    assert (pool["prefixes"], pool["ip_version"]) == (["10.8.0.0/23"], 4)
    one = made(cloud_client, "subnets", "subnet", network_id=net, ip_version=4, subnetpool_id=pool["id"])
    two = made(cloud_client, "subnets", "subnet", network_id=net, ip_version=4, subnetpool_id=pool["id"], prefixlen=28)
    three = made(cloud_client, "subnets", "subnet", network_id=net, ip_version=4, subnetpool_id=pool["id"])
    assert [item["cidr"] for item in (one, two, three)] == ["10.8.0.0/26", "10.8.0.64/28", "10.8.0.128/26"]
    base = {"network_id": net, "ip_version": 4, "subnetpool_id": pool["id"]}
    refused(post(cloud_client, "subnets", "subnet", **base, prefixlen=29), 400, "MaxPrefixSubnetAllocationError")
    refused(post(cloud_client, "subnets", "subnet", **base, cidr="10.8.0.0/26"), 400, "SubnetAllocationError")
    refused(post(cloud_client, "subnets", "subnet", **base, prefixlen=25), 409, "SubnetPoolQuotaExceeded")
    refused(post(cloud_client, "subnets", "subnet", network_id=net, ip_version=4, cidr="10.99.0.0/24"), 400, "NetworkSubnetPoolAffinityError")
    refused(cloud_client.delete(f"{V2}/subnetpools/{pool['id']}", as_="demo"), 400, "SubnetPoolDeleteError")
    gone = cloud_client.put(f"{V2}/subnetpools/{pool['id']}/remove_prefixes", {"prefixes": ["10.8.1.0/24"]}, as_="demo")
    assert gone.json() == {"prefixes": ["10.8.0.0/24"]}
    refused(cloud_client.put(f"{V2}/subnetpools/{pool['id']}/remove_prefixes", {"prefixes": ["10.8.0.0/25"]}, as_="demo"), 409,
            "IllegalSubnetPoolPrefixUpdate")


def test_pools_of_one_scope_do_not_overlap(cloud_client: Any) -> None:
    scope = made(cloud_client, "address-scopes", "address_scope", name="s", ip_version=4)["id"]
    made(cloud_client, "subnetpools", "subnetpool", name="a", prefixes=["10.8.0.0/16"], address_scope_id=scope)
    refused(post(cloud_client, "subnetpools", "subnetpool", name="b", prefixes=["10.8.3.0/24"], address_scope_id=scope), 409,
            "AddressScopePrefixConflict")
    refused(post(cloud_client, "subnetpools", "subnetpool", name="b", prefixes=["fd00::/32"], address_scope_id=scope), 400,
            "IllegalSubnetPoolIpVersionAssociationToAddressScope")
    refused(cloud_client.delete(f"{V2}/address-scopes/{scope}", as_="demo"), 409, "AddressScopeInUse")


def test_a_segment_given_back_is_not_the_next_one_given_out() -> None:
    """Hosts may still have its devices; with a short range it comes round again, and a full one says so."""
    tx = MemoryCounter()
    given = [free_segment(tx, "vxlan", "", [[5, 6], [9, 9]]) for _ in range(4)]  # type: ignore[arg-type]
    assert given == [5, 6, 9, 5]
    tx.taken = {5, 9}
    assert {free_segment(tx, "vxlan", "", [[5, 6], [9, 9]]) for _ in range(3)} == {6}  # type: ignore[arg-type]
    tx.taken = {5, 6, 9}
    with pytest.raises(Problem):
        free_segment(tx, "vxlan", "", [[5, 6], [9, 9]])  # type: ignore[arg-type]


class MemoryCounter:
    """The two things of a transaction that the choice asks for."""

    def __init__(self) -> None:
        self.taken: set[int] = set()
        self._last = 0

    def next_number(self, counter: str) -> int:
        self._last += 1
        return self._last

    def find(self, row: Any, **equal: Any) -> list[Segment]:
        return [Segment("vxlan", "", number, "n") for number in sorted(self.taken)]


def test_segmentation_ids_belong_to_one_network(cloud_client: Any) -> None:
    attrs = {"provider:network_type": "vlan", "provider:physical_network": "p1", "provider:segmentation_id": 7}
    first = made(cloud_client, "networks", "network", "admin", **attrs)
    refused(post(cloud_client, "networks", "network", "admin", **attrs), 409, "VlanIdInUse")
    refused(post(cloud_client, "networks", "network", "admin", **{**attrs, "provider:segmentation_id": 4095}), 400, "InvalidInput")
    flat = {"provider:network_type": "flat", "provider:physical_network": "p1"}
    made(cloud_client, "networks", "network", "admin", **flat)
    refused(post(cloud_client, "networks", "network", "admin", **flat), 409, "FlatNetworkInUse")
    assert cloud_client.delete(f"{V2}/networks/{first['id']}").status_code == 204
    made(cloud_client, "networks", "network", "admin", **attrs)


# ports --------------------------------------------------------------------------------------------------------------------


def test_port_security_groups_and_pairs_go_together(cloud_client: Any, net: str) -> None:
    made(cloud_client, "subnets", "subnet", network_id=net, ip_version=4, cidr="10.0.0.0/24")
    port = made(cloud_client, "ports", "port", network_id=net, allowed_address_pairs=[{"ip_address": "10.0.0.99"}])
    assert port["allowed_address_pairs"] == [{"ip_address": "10.0.0.99", "mac_address": port["mac_address"]}]
    path = f"{V2}/ports/{port['id']}"

    def change(**attrs: Any) -> Any:
        return cloud_client.put(path, {"port": attrs}, as_="demo")

    refused(change(port_security_enabled=False), 409, "PortSecurityPortHasSecurityGroup")
    refused(change(port_security_enabled=False, security_groups=[]), 409, "AddressPairAndPortSecurityRequired")
    assert change(port_security_enabled=False, security_groups=[], allowed_address_pairs=[]).status_code == 200
    refused(change(security_groups=port["security_groups"]), 400, "PortSecurityAndIPRequiredForSecurityGroups")
    pair = {"ip_address": "10.0.0.98", "mac_address": "fa:16:3e:00:00:01"}
    refused(change(port_security_enabled=True, allowed_address_pairs=[pair, pair]), 400, "DuplicateAddressPairInRequest")
    refused(change(port_security_enabled=True, security_groups=["nothing"]), 404, "SecurityGroupNotFound")
    foreign = made(cloud_client, "security-groups", "security_group", "other", name="g")["id"]
    refused(change(port_security_enabled=True, security_groups=[foreign]), 404, "SecurityGroupNotFound")


def test_dhcp_options_are_merged(cloud_client: Any, net: str) -> None:
    port = made(cloud_client, "ports", "port", network_id=net, extra_dhcp_opts=[
        {"opt_name": "a", "opt_value": "1"}, {"opt_name": "b", "opt_value": "2"}])
    changed = cloud_client.put(f"{V2}/ports/{port['id']}", {"port": {"extra_dhcp_opts": [
        {"opt_name": "a", "opt_value": None}, {"opt_name": "b", "opt_value": "3"}, {"opt_name": "c", "opt_value": "4", "ip_version": 6}]}},
        as_="demo").json()["port"]["extra_dhcp_opts"]
    assert changed == [{"opt_name": "b", "opt_value": "3", "ip_version": 4}, {"opt_name": "c", "opt_value": "4", "ip_version": 6}]


def test_bindings_and_the_status_that_follows_from_them(cloud_client: Any, net: str) -> None:
    def hosts(tx: Any) -> None:
        for name in ("host-1", "host-2"):
            tx.insert(Host(name, f"id-{name}", state=UP))

    cloud_client.run(cloud_client.db.run(hosts))
    port = made(cloud_client, "ports", "port", network_id=net)["id"]
    root = f"{V2}/ports/{port}/bindings"

    def status(as_: str = "demo") -> str:
        return str(cloud_client.get(f"{V2}/ports/{port}", as_=as_).json()["port"]["status"])

    def wired(host: str) -> None:
        def report(tx: Any) -> None:
            binding = tx.need(Binding, port, host)
            tx.put(Wiring(port, host, binding.generation, True))

        cloud_client.run(cloud_client.db.run(report))

    assert status() == "DOWN"
    bound = cloud_client.put(f"{V2}/ports/{port}", {"port": {"binding:host_id": "host-1"}}).json()["port"]
    assert (bound["binding:vif_type"], bound["binding:host_id"], bound["status"]) == ("bridge", "host-1", "DOWN")
    wired("host-1")
    assert status() == "ACTIVE"
    # another host is prepared: what is said of it is not said of the port
    assert cloud_client.get(root, as_="demo").status_code == 403
    second = cloud_client.post(root, {"binding": {"host": "host-2", "profile": {"x": 1}}})
    assert second.status_code == 201 and second.json()["binding"]["status"] == "INACTIVE"
    refused(cloud_client.post(root, {"binding": {"host": "host-2"}}), 409, "PortBindingAlreadyExists")
    refused(cloud_client.post(root, {"binding": {}}), 400, "HTTPBadRequest")
    assert status() == "ACTIVE"
    assert cloud_client.put(f"{root}/host-2/activate").json()["binding"]["status"] == "ACTIVE"
    assert status() == "DOWN"
    wired("host-1")
    assert status() == "DOWN"
    wired("host-2")
    assert status() == "ACTIVE"
    refused(cloud_client.put(f"{root}/host-2/activate"), 409, "PortBindingAlreadyActive")
    refused(cloud_client.put(f"{root}/host-9/activate"), 404, "PortBindingNotFound")
    assert [item["status"] for item in cloud_client.get(root).json()["bindings"]] == ["INACTIVE", "ACTIVE"]
    assert cloud_client.get(f"{root}?status=ACTIVE").json()["bindings"][0]["host"] == "host-2"
    assert cloud_client.put(f"{root}/host-1", {"binding": {"profile": {"y": 2}}}).json()["binding"]["profile"] == {"y": 2}
    assert cloud_client.delete(f"{root}/host-1").status_code == 204
    assert cloud_client.delete(f"{root}/host-2").status_code == 204
    assert cloud_client.get(f"{V2}/ports/{port}").json()["port"]["binding:vif_type"] == "unbound"
    unknown = cloud_client.put(f"{V2}/ports/{port}", {"port": {"binding:host_id": "nowhere"}}).json()["port"]
    assert (unknown["binding:vif_type"], unknown["status"]) == ("binding_failed", "DOWN")


# security groups ----------------------------------------------------------------------------------------------------------


def test_the_default_group_is_there_on_demand_and_stays(cloud_client: Any) -> None:
    groups = cloud_client.get(f"{V2}/security-groups", as_="demo").json()["security_groups"]
    assert [group["name"] for group in groups] == ["default"]
    group = groups[0]
    kinds = sorted((rule["direction"], rule["ethertype"], rule["remote_group_id"] == group["id"]) for rule in group["security_group_rules"])
    assert kinds == [("egress", "IPv4", False), ("egress", "IPv6", False), ("ingress", "IPv4", True), ("ingress", "IPv6", True)]
    path = f"{V2}/security-groups/{group['id']}"
    refused(cloud_client.delete(path, as_="demo"), 409, "SecurityGroupCannotRemoveDefault")
    refused(cloud_client.put(path, {"security_group": {"name": "x"}}, as_="demo"), 409, "SecurityGroupCannotUpdateDefault")
    refused(post(cloud_client, "security-groups", "security_group", name="default"), 409, "SecurityGroupDefaultAlreadyExists")
    assert cloud_client.delete(path).status_code == 204


@pytest.mark.parametrize(("attrs", "status", "kind"), [
    ({"protocol": "nonsense"}, 400, "HTTPBadRequest"),
    ({"protocol": 256}, 400, "HTTPBadRequest"),
    ({"protocol": "tcp", "port_range_min": 80, "port_range_max": 22}, 400, "SecurityGroupInvalidPortRange"),
    ({"protocol": "tcp", "port_range_min": 80}, 400, "SecurityGroupInvalidPortRange"),
    ({"protocol": "17", "port_range_min": 0, "port_range_max": 5}, 400, "SecurityGroupInvalidPortValue"),
    ({"port_range_min": 80, "port_range_max": 80}, 400, "SecurityGroupProtocolRequiredWithPorts"),
    ({"protocol": "icmp", "port_range_min": 256}, 400, "SecurityGroupInvalidIcmpValue"),
    ({"protocol": "icmp", "port_range_max": 3}, 400, "SecurityGroupMissingIcmpType"),
    ({"protocol": "ipv6-icmp"}, 400, "SecurityGroupEthertypeConflictWithProtocol"),
    ({"remote_ip_prefix": "fd00::/64"}, 400, "SecurityGroupRuleParameterConflict"),
    ({"remote_ip_prefix": "10.0.0.0/99"}, 400, "HTTPBadRequest"),
    ({"remote_group_id": "nothing"}, 404, "SecurityGroupNotFound"),
    ({"remote_address_group_id": "nothing"}, 404, "AddressGroupNotFound"),
    ({"remote_group_id": "SELF", "remote_ip_prefix": "10.0.0.0/8"}, 400, "SecurityGroupMultipleRemoteEntitiesProvided"),
    ({"direction": "sideways"}, 400, "HTTPBadRequest"),
    ({"ethertype": "IPX"}, 400, "HTTPBadRequest"),
])
def test_rules_that_make_no_sense(cloud_client: Any, attrs: dict[str, Any], status: int, kind: str) -> None:
    group = made(cloud_client, "security-groups", "security_group", name="g")["id"]
    wish = {name: group if value == "SELF" else value for name, value in attrs.items()}
    refused(post(cloud_client, "security-group-rules", "security_group_rule",
                 **{"security_group_id": group, "direction": "ingress", **wish}), status, kind)


def test_a_rule_exists_once_whatever_it_is_called(cloud_client: Any) -> None:
    group = made(cloud_client, "security-groups", "security_group", name="g")["id"]

    def rule(**attrs: Any) -> Any:
        return post(cloud_client, "security-group-rules", "security_group_rule", security_group_id=group, direction="ingress", **attrs)

    assert rule(protocol="tcp", port_range_min=22, port_range_max=22, remote_ip_prefix="10.0.0.5/8").status_code == 201
    refused(rule(protocol="6", port_range_min="22", port_range_max="22", remote_ip_prefix="10.0.0.0/8"), 409, "SecurityGroupRuleExists")
    assert rule(protocol="tcp", port_range_min=22, port_range_max=22).status_code == 201
    assert rule(protocol="icmp", ethertype="IPv6").status_code == 201
    refused(rule(protocol="ipv6-icmp", ethertype="IPv6"), 409, "SecurityGroupRuleExists")
    assert rule(protocol="icmp", port_range_min=8, port_range_max=0).status_code == 201


def test_a_group_in_use_stays(cloud_client: Any, net: str) -> None:
    made(cloud_client, "subnets", "subnet", network_id=net, ip_version=4, cidr="10.0.0.0/24")
    group = made(cloud_client, "security-groups", "security_group", name="g")["id"]
    port = made(cloud_client, "ports", "port", network_id=net, security_groups=[group])
    refused(cloud_client.delete(f"{V2}/security-groups/{group}", as_="demo"), 409, "SecurityGroupInUse")
    assert cloud_client.delete(f"{V2}/ports/{port['id']}", as_="demo").status_code == 204
    assert cloud_client.delete(f"{V2}/security-groups/{group}", as_="demo").status_code == 204


def test_address_groups(cloud_client: Any) -> None:
    group = made(cloud_client, "address-groups", "address_group", name="a", addresses=["10.0.0.1", "10.1.0.0/16"])
    assert group["addresses"] == ["10.0.0.1/32", "10.1.0.0/16"]
    path = f"{V2}/address-groups/{group['id']}"
    refused(cloud_client.put(path + "/add_addresses", {"addresses": ["10.0.0.1/32"]}, as_="demo"), 409, "AddressesAlreadyExist")
    refused(cloud_client.put(path + "/remove_addresses", {"addresses": ["10.9.0.1/32"]}, as_="demo"), 404, "AddressesNotFound")
    added = cloud_client.put(path + "/add_addresses", {"addresses": ["fd00::1"]}, as_="demo").json()["address_group"]
    assert added["addresses"][-1] == "fd00::1/128"
    sg = made(cloud_client, "security-groups", "security_group", name="g")["id"]
    made(cloud_client, "security-group-rules", "security_group_rule", security_group_id=sg, direction="ingress", protocol="tcp",
         remote_address_group_id=group["id"])
    refused(cloud_client.delete(path, as_="demo"), 409, "AddressGroupInUse")


# ports and servers --------------------------------------------------------------------------------------------------------


def server_with(client: Any, net: str, project: str, name: str = "s1") -> str:
    """An active server on host-1 with one port on `net`; returns the port."""
    from virga.domain.ask import Ask
    from virga.domain.network import Network
    from virga.domain.server import ACTIVE, FlavorSpec, Server
    from virga.ops.ports import create_port

    home = client.projects[project]
    ask = Ask(client.cloud.config, home, "u", "req-1")

    def work(tx: Any) -> str:
        tx.insert(Server(name, home, "u", name, FlavorSpec("1", "f", 1, 64, 1), host="host-1", vm_state=ACTIVE))
        return create_port(tx, ask, tx.need(Network, net), device_id=name, device_owner="compute:nova", preserve=False).id

    return str(client.run(client.db.run(work)))


def test_deleting_a_servers_port_unplugs_it(cloud_client: Any, net: str) -> None:
    from virga.domain.operation import Operation

    port = server_with(cloud_client, net, "demo")
    assert cloud_client.delete(f"{V2}/ports/{port}", as_="demo").status_code == 204
    assert cloud_client.get(f"{V2}/ports/{port}", as_="demo").status_code == 404
    operations = cloud_client.run(cloud_client.db.read(lambda tx: tx.find(Operation, server_id="s1")))
    assert [(op.kind, op.input["port_id"]) for op in operations] == [("detach_interface", port)]


def test_ports_do_not_slip_into_servers_or_out_of_them(cloud_client: Any, net: str) -> None:
    port = server_with(cloud_client, net, "demo")
    change = cloud_client.put(f"{V2}/ports/{port}", {"port": {"device_id": ""}}, as_="demo")
    refused(change, 409, "PortInUse")
    foreign = made(cloud_client, "networks", "network", "other")["id"]
    refused(post(cloud_client, "ports", "port", "other", network_id=foreign, device_id="s1", device_owner="compute:nova"), 403,
            "PolicyNotAuthorized")
