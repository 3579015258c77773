"""Subnets: blocks of addresses on a network, given outright or cut from a pool.

Rules: subnets of one network never overlap (400, the words clients look for: "overlaps with another subnet");
allocation pools lie inside the block, apart from each other and from the gateway; an IPv6 subnet in an automatic mode
is a /64 and gives every port on its network an address. A subnet stays while a port holds an address of it, but for
addresses that made themselves.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from virga.api.network.fields import (
    Field,
    boolean,
    cidr,
    host_routes,
    integer,
    ip,
    list_of,
    listed,
    name_servers,
    nullable_text,
    one_of,
    optional,
    pools,
    text,
    uuid,
)
from virga.api.network.networks import Networks
from virga.api.network.noun import EXTERNAL, SHARED, Attrs, Noun, View, Who, forbidden, shared_ids
from virga.api.network.subnetpools import cut
from virga.domain import ipam
from virga.domain.errors import Problem
from virga.domain.network import (
    AUTO_DELETED,
    DHCPV6_STATEFUL,
    DHCPV6_STATELESS,
    ROUTER_INTERFACE,
    ROUTER_OWNED,
    SLAAC,
    HostRoute,
    Network,
    Pool,
    Router,
    Subnet,
)
from virga.domain.port import FixedIp, IpAllocation, Port
from virga.ops import addresses
from virga.ops.ports import release_port, touched
from virga.store.db import Tx

MODES = (SLAAC, DHCPV6_STATEFUL, DHCPV6_STATELESS)


def refused(why: str) -> Problem:
    return Problem(400, f"Invalid input for operation: {why}.", "InvalidInput")


def pools_of(net: ipam.Net, gateway: str | None) -> list[Pool]:
    return [Pool(ipam.text_of(net.version, first), ipam.text_of(net.version, last)) for first, last in ipam.default_pools(net, gateway)]


class Subnets(Noun[Subnet]):
    one, many, label = "subnet", "subnets", "Subnet"
    quota = "subnet"
    row = Subnet
    tagged = True
    more_filters = frozenset({"shared", "router:external"})
    fields = {
        "name": Field(text(), default=""),
        "description": Field(nullable_text(), default=""),
        "network_id": Field(uuid, put=False, required=True),
        "ip_version": Field(integer(4, 6), put=False, required=True),
        "cidr": Field(optional(cidr), put=False),
        "subnetpool_id": Field(optional(text(64)), put=False, default=None),
        "use_default_subnetpool": Field(boolean, put=False),
        "prefixlen": Field(optional(integer(0, 128)), put=False),
        "gateway_ip": Field(optional(ip)),
        "enable_dhcp": Field(boolean, default=True),
        "allocation_pools": Field(listed(pools)),
        "dns_nameservers": Field(name_servers, default=[]),
        "host_routes": Field(host_routes, default=[]),
        "ipv6_ra_mode": Field(optional(one_of(*MODES)), put=False, default=None),
        "ipv6_address_mode": Field(optional(one_of(*MODES)), put=False, default=None),
        "service_types": Field(listed(list_of(text(), 16, unique=True)), default=[], admin=True),
        "segment_id": Field(optional(uuid), default=None, admin=True),
    }

    def views(self, tx: Tx, who: Who, rows: Sequence[Subnet]) -> list[View]:
        for_me = shared_ids(tx, "network", who.project_id)
        external = shared_ids(tx, "network", who.project_id, (EXTERNAL,))
        return [{
            **self.base(row), "network_id": row.network_id, "ip_version": row.ip_version, "cidr": row.cidr,
            "gateway_ip": row.gateway_ip, "enable_dhcp": row.enable_dhcp,
            "allocation_pools": row.allocation_pools, "dns_nameservers": row.dns_nameservers, "host_routes": row.host_routes,
            "ipv6_ra_mode": row.ipv6_ra_mode, "ipv6_address_mode": row.ipv6_address_mode, "subnetpool_id": row.subnetpool_id,
            "service_types": row.service_types, "segment_id": None,
            "shared": row.network_id in for_me, "router:external": row.network_id in external,
        } for row in rows]

    def visible(self, tx: Tx, who: Who) -> Callable[[Subnet], bool]:
        """A subnet is seen with its network: shared with the caller, external, or its own."""
        ids = shared_ids(tx, "network", who.project_id, (SHARED, EXTERNAL))
        own = {network.id for network in tx.find(Network, project_id=who.project_id)}
        return lambda row: row.network_id in ids or row.network_id in own

    def owns(self, tx: Tx, who: Who, row: Subnet) -> bool:
        if who.owns(row):
            return True
        network = tx.get(Network, row.network_id)
        return network is not None and who.owns(network)

    # making -----------------------------------------------------------------------------------------------------------
    def create(self, tx: Tx, who: Who, project_id: str, attrs: Attrs) -> Subnet:
        network = NETWORKS.find(tx, who, attrs["network_id"])
        if not who.owns(network):
            raise forbidden("rule:create_subnet", "the network belongs to another project")
        if attrs["segment_id"] is not None:
            raise refused("segments are not offered")
        version = attrs["ip_version"]
        if version == 5:
            raise Problem(400, "Invalid input for ip_version. Reason: 5 is not in [4, 6].", "HTTPBadRequest")
        net, pool_id = self._block(tx, who, project_id, attrs, version)
        self._modes(net, attrs)
        for other in tx.find(Subnet, network_id=network.id):
            if ipam.overlap(net, ipam.network(other.cidr)):
                raise refused(f"Requested subnet with cidr: {net} for network: {network.id} overlaps with another subnet")
        gateway = attrs["gateway_ip"] if "gateway_ip" in attrs else self._default_gateway(net)
        self._gateway(net, gateway)
        given = attrs.get("allocation_pools")
        wanted = pools_of(net, gateway) if given is None else self._pools(net, gateway, given)
        subnet = Subnet(
            tx.new_id(), project_id, network.id, version, str(net), name=attrs["name"], description=attrs["description"],
            gateway_ip=gateway, enable_dhcp=attrs["enable_dhcp"], allocation_pools=wanted,
            dns_nameservers=attrs["dns_nameservers"], host_routes=self._routes(net, attrs["host_routes"]),
            ipv6_address_mode=attrs["ipv6_address_mode"], ipv6_ra_mode=attrs["ipv6_ra_mode"], subnetpool_id=pool_id,
            service_types=attrs["service_types"], created_at=tx.now, updated_at=tx.now)
        self._same_pool(tx, network, subnet)
        tx.insert(subnet)
        if subnet.automatic:
            self._give_addresses(tx, subnet)
        return subnet

    def _block(self, tx: Tx, who: Who, project_id: str, attrs: Attrs, version: int) -> tuple[ipam.Net, str | None]:
        """The CIDR asked for, or one cut from a pool."""
        wished, pool_id, length = attrs.get("cidr"), attrs["subnetpool_id"], attrs.get("prefixlen")
        if attrs.get("use_default_subnetpool"):
            if pool_id is not None:
                raise refused("subnetpool_id and use_default_subnetpool cannot both be specified")
            pool_id = ""
        if pool_id is None and wished is None:
            raise Problem(400, "Bad subnets request: a subnetpool must be specified in the absence of a cidr.", "BadRequest")
        if length is not None and wished is not None:
            raise Problem(400, "Bad subnets request: cidr and prefixlen must not be supplied together.", "BadRequest")
        if pool_id is None:
            assert wished is not None
            net = ipam.network(wished)
            if net.version != version:
                raise refused(f"cidr {wished} does not match the ip_version '{version}'")
            if net.prefixlen == 0:
                raise refused("0 is not allowed as CIDR prefix length")
            return net, None
        return cut(tx, who, pool_id, project_id, version, wished, length)

    def _modes(self, net: ipam.Net, attrs: Attrs) -> None:
        """The IPv6 modes go together, and what they need of the block. Raises Problem 400."""
        ra_mode, address_mode = attrs["ipv6_ra_mode"], attrs["ipv6_address_mode"]
        if net.version == 4:
            if ra_mode or address_mode:
                raise refused("ipv6_ra_mode and ipv6_address_mode are not valid when ip_version is 4")
            if attrs["enable_dhcp"] and net.prefixlen > 30:
                raise refused("Subnet has a prefix length that is incompatible with DHCP service enabled")
        if net.is_multicast or net.is_loopback or (int(net.network_address) == 0 and net.version == 4):
            raise refused(f"{net} cannot be the block of a subnet")
        if (ra_mode or address_mode) and not attrs["enable_dhcp"]:
            raise refused("ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is set to False")
        if ra_mode and address_mode and ra_mode != address_mode:
            raise refused(f"ipv6_ra_mode set to '{ra_mode}' with ipv6_address_mode set to '{address_mode}' is not valid. "
                          "If both attributes are set, they must be the same value")
        if (ra_mode in (SLAAC, DHCPV6_STATELESS) or address_mode in (SLAAC, DHCPV6_STATELESS)) and net.prefixlen != 64:
            raise refused(f"Invalid CIDR {net} for IPv6 address mode. OpenStack uses the EUI-64 address format, which requires the "
                          "prefix to be /64")

    def _default_gateway(self, net: ipam.Net) -> str | None:
        one_address = net.prefixlen == net.max_prefixlen
        return None if one_address else ipam.default_gateway(net)

    def _gateway(self, net: ipam.Net, gateway: str | None) -> None:
        if gateway is None:
            return
        address = ipam.address(gateway)
        if address.version != net.version:
            raise refused(f"gateway_ip '{gateway}' does not match the ip_version '{net.version}'")
        if address in net and not ipam.covers([ipam.usable(net)], int(address)):
            raise refused(f"Gateway {gateway} is not valid on subnet {net}")
        if address.is_multicast or address.is_loopback or int(address) == 0:
            raise refused(f"Gateway {gateway} is not valid on subnet {net}")

    def _pools(self, net: ipam.Net, gateway: str | None, given: list[dict[str, str]]) -> list[Pool]:
        """Pools a user gave, lowest first. Raises Problem 400 or 409."""
        found: list[ipam.Range] = []
        for item in given:
            start, end = ipam.address(item["start"]), ipam.address(item["end"])
            shown = f"{start}-{end}"
            if start.version != net.version or end.version != net.version or int(start) > int(end):
                raise Problem(400, f"The allocation pool {shown} is not valid.", "InvalidAllocationPool")
            if start not in net or end not in net or not (
                    ipam.covers([ipam.usable(net)], int(start)) and ipam.covers([ipam.usable(net)], int(end))):
                raise Problem(400, f"The allocation pool {shown} spans beyond the subnet cidr {net}.", "OutOfBoundsAllocationPool")
            found.append((int(start), int(end)))
        found.sort()
        for (_, last), (first, _) in pairwise(found):
            if first <= last:
                raise Problem(409, f"Found overlapping allocation pools for subnet {net}.", "OverlappingAllocationPools")
        if gateway is not None and ipam.covers(found, int(ipam.address(gateway))):
            raise Problem(409, f"Gateway ip {gateway} conflicts with allocation pool.", "GatewayConflictWithAllocationPools")
        return [Pool(ipam.text_of(net.version, first), ipam.text_of(net.version, last)) for first, last in found]

    def _routes(self, net: ipam.Net, given: list[dict[str, str]]) -> list[HostRoute]:
        for route in given:
            if ipam.address(route["nexthop"]).version != net.version or ipam.network(route["destination"]).version != net.version:
                raise refused(f"host route {route['destination']} via {route['nexthop']} does not match the ip_version '{net.version}'")
        return [HostRoute(route["destination"], route["nexthop"]) for route in given]

    def _same_pool(self, tx: Tx, network: Network, subnet: Subnet) -> None:
        """Subnets of one version on one network come from one pool, or none does."""
        others = {other.subnetpool_id for other in tx.find(Subnet, network_id=network.id, ip_version=subnet.ip_version)}
        if others and others != {subnet.subnetpool_id}:
            raise Problem(400, "Subnets hosted on the same network must be allocated from the same subnet pool.",
                          "NetworkSubnetPoolAffinityError")

    def _give_addresses(self, tx: Tx, subnet: Subnet) -> None:
        """A new automatic subnet: every port of its network has an address of it from now on."""
        for port in tx.find(Port, network_id=subnet.network_id):
            more = addresses.take_automatic(tx, [subnet], port.id, port.mac_address, port.device_owner, port.fixed_ips)
            if more:
                tx.update(Port, port.id, fixed_ips=[*port.fixed_ips, *more], revision_number=port.revision_number + 1,
                          updated_at=tx.now)
                touched(tx, port.id)

    # changing ---------------------------------------------------------------------------------------------------------
    def change(self, tx: Tx, who: Who, row: Subnet, attrs: Attrs) -> dict[str, Any]:
        net = ipam.network(row.cidr)
        if attrs.get("segment_id") is not None:
            raise refused("segments are not offered")
        attrs.pop("segment_id", None)
        gateway = row.gateway_ip
        if "gateway_ip" in attrs and attrs["gateway_ip"] != gateway:
            gateway = attrs["gateway_ip"]
            self._gateway(net, gateway)
            self._gateway_free(tx, row)
        if attrs.get("enable_dhcp") is False and (row.ipv6_ra_mode or row.ipv6_address_mode):
            raise refused("ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is set to False")
        if attrs.get("enable_dhcp") and net.version == 4 and net.prefixlen > 30:
            raise refused("Subnet has a prefix length that is incompatible with DHCP service enabled")
        if "allocation_pools" in attrs:
            attrs["allocation_pools"] = self._pools(net, gateway, attrs["allocation_pools"])
        elif gateway is not None and gateway != row.gateway_ip and ipam.covers(addresses.ranges_of(row), int(ipam.address(gateway))):
            raise Problem(409, f"Gateway ip {gateway} conflicts with allocation pool.", "GatewayConflictWithAllocationPools")
        if "host_routes" in attrs:
            attrs["host_routes"] = self._routes(net, attrs["host_routes"])
        return self.columns(attrs)

    def _gateway_free(self, tx: Tx, row: Subnet) -> None:
        """The old gateway must not be a router's address."""
        if row.gateway_ip is None:
            return
        taken = tx.get(IpAllocation, row.id, row.gateway_ip)
        port = tx.get(Port, taken.port_id) if taken else None
        if port is not None and port.device_owner in ROUTER_OWNED:
            raise Problem(409, f"Current gateway ip {row.gateway_ip} already in use by port {port.id}. Unable to update.", "GatewayIpInUse")

    def remove(self, tx: Tx, who: Who, row: Subnet) -> None:
        held: list[Port] = []
        for allocation in tx.find(IpAllocation, subnet_id=row.id):
            port = tx.need(Port, allocation.port_id)
            if port.device_owner in AUTO_DELETED:
                continue
            if row.automatic and port.device_owner not in ROUTER_OWNED:
                continue
            held.append(port)
        if held:
            raise Problem(409, f"Unable to complete operation on subnet {row.id}: One or more ports have an IP allocation from this subnet.",
                          "SubnetInUse")
        for allocation in tx.find(IpAllocation, subnet_id=row.id):
            self._take_away(tx, row, allocation)
        tx.delete(Subnet, row.id)

    def _take_away(self, tx: Tx, subnet: Subnet, allocation: IpAllocation) -> None:
        """An address that goes with its subnet; a DHCP port that is left without any goes too."""
        port = tx.need(Port, allocation.port_id)
        rest = [fixed for fixed in port.fixed_ips if fixed.subnet_id != subnet.id]
        if port.device_owner in AUTO_DELETED and not rest:
            release_port(tx, port)
            return
        addresses.give_back(tx, FixedIp(subnet.id, allocation.ip_address))
        tx.update(Port, port.id, fixed_ips=rest, revision_number=port.revision_number + 1, updated_at=tx.now)
        touched(tx, port.id)


NETWORKS = Networks()


def routers_on(tx: Tx, subnet: Subnet) -> list[Router]:
    """Routers with an interface that has an address of the subnet."""
    ids = [port.device_id for port in tx.find(Port, network_id=subnet.network_id, device_owner=ROUTER_INTERFACE)
           if any(fixed.subnet_id == subnet.id for fixed in port.fixed_ips)]
    return tx.find(Router, id=ids) if ids else []
