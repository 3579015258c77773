"""Networks: layer-2 segments, who may see them, and the segmentation ids they hold.

Rules: a tenant network is a VXLAN with a free VNI of the configured ranges; admins may choose local, flat, vlan or
vxlan and the id. A VNI or VLAN id is taken in the transaction that makes the network, by the primary key of
`segments`. `shared` and `router:external` are RBAC policies for everybody, mirrored on the row. A network goes with
its subnets and its idle floating IPs, but not while ports of anybody are on it.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from virga.api.network.fields import (
    Field,
    boolean,
    dns_domain,
    integer,
    nullable_text,
    one_of,
    optional,
    text,
    zone_hints,
)
from virga.api.network.noun import (
    EVERYBODY,
    EXTERNAL,
    SHARED,
    Attrs,
    Noun,
    View,
    Who,
    remove_policies,
    shared_ids,
    zone_names,
)
from virga.domain.errors import Problem
from virga.domain.network import AUTO_DELETED, FLOATING, ROUTER_GATEWAY, FloatingIp, Network, RbacPolicy, Segment, Subnet, SubnetPool
from virga.domain.placement import Host
from virga.domain.port import Port
from virga.ops.ports import release_port
from virga.store.db import Tx

VLAN_IDS = (1, 4094)
VXLAN_OVERHEAD_BYTES = 50  # outer Ethernet, IPv4, UDP and VXLAN headers
MTU_MIN, MTU_MAX = 68, 65535
TUNNEL, VLAN, FLAT, LOCAL = "vxlan", "vlan", "flat", "local"


def taken_segment(network_type: str, physical: str, number: int) -> Problem:
    if network_type == FLAT:
        return Problem(409, f"Unable to create the flat network. Physical network {physical} is in use.", "FlatNetworkInUse")
    if network_type == VLAN:
        return Problem(409, f"Unable to create the network. The VLAN {number} on physical network {physical} is in use.", "VlanIdInUse")
    return Problem(409, f"Unable to create the network. The tunnel ID {number} is in use.", "TunnelIdInUse")


def free_segment(tx: Tx, network_type: str, physical: str, ranges: Iterable[Sequence[int]]) -> int:
    """A free id of the ranges, each in its turn: one that was given back is not given out again before all others, since hosts far away may still have
    devices with it. Raises Problem 503 when there is none.
    """
    taken = {row.segmentation_id for row in tx.find(Segment, network_type=network_type, physical_network=physical)}
    spans = [(low, high - low + 1) for low, high in ranges if high >= low]
    size = sum(length for _, length in spans)
    start = tx.next_number(f"segment/{network_type}/{physical}") - 1
    for step in range(min(size, len(taken) + 1)):
        place = (start + step) % size
        for low, length in spans:
            if place < length:
                if low + place not in taken:
                    return low + place
                break
            place -= length
    raise Problem(503, "Unable to create the network. No tenant network is available for allocation.", "NoNetworkAvailable")


def add_policy(tx: Tx, project_id: str, object_type: str, object_id: str, action: str, target: str = EVERYBODY) -> None:
    if tx.one(RbacPolicy, object_type=object_type, object_id=object_id, action=action, target_project=target) is None:
        tx.insert(RbacPolicy(tx.new_id(), project_id, object_type, object_id, action, target, created_at=tx.now))


def drop_policy(tx: Tx, object_id: str, action: str) -> None:
    tx.delete_where(RbacPolicy, object_id=object_id, action=action, target_project=EVERYBODY)


def foreign_users(tx: Tx, network: Network, keep: Iterable[str] = ()) -> bool:
    """Whether projects other than the owner (and those still let in) have ports or subnets on the network."""
    allowed = {network.project_id, "", *keep}
    ports = tx.find(Port, network_id=network.id)
    return any(port.project_id not in allowed for port in ports if not port.device_owner.startswith("network:")) or any(
        subnet.project_id not in allowed for subnet in tx.find(Subnet, network_id=network.id))


def refuse_unshare(tx: Tx, network: Network, keep: Iterable[str] = ()) -> None:
    if foreign_users(tx, network, keep):
        raise Problem(409, f"Unable to reconfigure sharing settings for network {network.id}. Multiple tenants are using it.",
                      "InvalidSharedSetting")


def refuse_internal(tx: Tx, network: Network) -> None:
    if tx.count(Port, network_id=network.id, device_owner=[ROUTER_GATEWAY, FLOATING]):
        raise Problem(409, f"External network {network.id} cannot be updated to be made non-external, since it has existing gateway ports",
                      "ExternalNetworkInUse")


class Networks(Noun[Network]):
    one, many, label = "network", "networks", "Network"
    rbac = "network"
    quota = "network"
    row = Network
    tagged = True
    admin_views = frozenset({"provider:network_type", "provider:physical_network", "provider:segmentation_id"})
    more_filters = frozenset({"status", "subnets", "availability_zones", "ipv4_address_scope", "ipv6_address_scope"})
    fields = {
        "name": Field(text(), default=""),
        "description": Field(nullable_text(), default=""),
        "admin_state_up": Field(boolean, default=True),
        "shared": Field(boolean, default=False, admin=True),
        "router:external": Field(boolean, default=False, admin=True, column="external"),
        "is_default": Field(boolean, default=False, admin=True),
        "mtu": Field(integer(0, MTU_MAX)),
        "port_security_enabled": Field(boolean, default=True),
        "dns_domain": Field(dns_domain, default=""),
        "availability_zone_hints": Field(zone_hints, put=False, default=[]),
        "provider:network_type": Field(one_of(LOCAL, FLAT, VLAN, TUNNEL), put=False, admin=True),
        "provider:physical_network": Field(optional(text(64, empty=False)), put=False, admin=True),
        "provider:segmentation_id": Field(optional(integer(0, (1 << 24) - 1)), put=False, admin=True),
    }

    def views(self, tx: Tx, who: Who, rows: Sequence[Network]) -> list[View]:
        subnets: dict[str, list[str]] = {}
        scopes: dict[tuple[str, int], str | None] = {}
        ids = [row.id for row in rows]
        found = tx.find(Subnet, network_id=ids) if len(ids) < 500 else tx.find(Subnet)
        for subnet in sorted(found, key=lambda subnet: subnet.created_at):
            subnets.setdefault(subnet.network_id, []).append(subnet.id)
            pool = tx.get(SubnetPool, subnet.subnetpool_id) if subnet.subnetpool_id else None
            if pool is not None:
                scopes[subnet.network_id, subnet.ip_version] = pool.address_scope_id
        for_me = shared_ids(tx, "network", who.project_id)
        zones = zone_names(tx.find(Host)) if rows else []
        return [{
            **self.base(row), "admin_state_up": row.admin_state_up, "status": "ACTIVE", "subnets": subnets.get(row.id, []),
            "shared": row.shared or row.id in for_me, "router:external": row.external, "is_default": row.is_default,
            "mtu": row.mtu, "port_security_enabled": row.port_security_enabled, "dns_domain": row.dns_domain,
            "availability_zone_hints": row.availability_zone_hints, "availability_zones": row.availability_zone_hints or zones,
            "ipv4_address_scope": scopes.get((row.id, 4)), "ipv6_address_scope": scopes.get((row.id, 6)),
            "provider:network_type": row.network_type, "provider:physical_network": row.physical_network,
            "provider:segmentation_id": row.segmentation_id,
        } for row in rows]

    def create(self, tx: Tx, who: Who, project_id: str, attrs: Attrs) -> Network:
        config = who.config.network
        network = Network(tx.new_id(), project_id, created_at=tx.now, updated_at=tx.now)
        self._zones(tx, attrs["availability_zone_hints"])
        self._segment(tx, who, network, attrs)
        largest = config.global_physnet_mtu - (VXLAN_OVERHEAD_BYTES if network.network_type == TUNNEL else 0)
        network.mtu = self._mtu(attrs.pop("mtu", 0), largest)
        for name, value in self.columns(attrs).items():
            setattr(network, name, value)
        if network.is_default and not network.external:
            network.is_default = False  # the flag means something for external networks only
        tx.insert(network)
        if network.shared:
            add_policy(tx, project_id, "network", network.id, SHARED)
        if network.external:
            add_policy(tx, project_id, "network", network.id, EXTERNAL)
        return network

    def _mtu(self, wished: int, largest: int) -> int:
        if not wished:
            return largest
        if not MTU_MIN <= wished <= largest:
            raise Problem(400, f"Invalid input for operation: Requested MTU is too big or too small, it must be {MTU_MIN} to {largest}.",
                          "InvalidInput")
        return wished

    def _zones(self, tx: Tx, hints: list[str]) -> None:
        zones = zone_names(tx.find(Host))
        for hint in hints:
            if hint not in zones:
                raise Problem(404, f"AvailabilityZone {hint} could not be found.", "AvailabilityZoneNotFound")

    def _segment(self, tx: Tx, who: Who, network: Network, attrs: Attrs) -> None:
        """Settle type, physical network and id, and take the id. Raises Problem 400 or 409."""
        kind = attrs.pop("provider:network_type", None)
        physical = attrs.pop("provider:physical_network", None)
        number = attrs.pop("provider:segmentation_id", None)
        if kind is None and (physical is not None or number is not None):
            raise Problem(400, "Invalid input for operation: network_type required when other provider attributes are given.", "InvalidInput")
        network.network_type = kind or TUNNEL
        if kind in (FLAT, VLAN) and physical is None:
            raise Problem(400, f"Invalid input for operation: physical_network required for {kind} provider network.", "InvalidInput")
        if kind not in (FLAT, VLAN) and physical is not None:
            raise Problem(400, f"Invalid input for operation: physical_network cannot be specified for {kind} provider network.",
                          "InvalidInput")
        if kind in (FLAT, LOCAL) and number is not None:
            raise Problem(400, f"Invalid input for operation: segmentation_id cannot be specified for {kind} provider network.",
                          "InvalidInput")
        if kind == VLAN and number is not None and not VLAN_IDS[0] <= number <= VLAN_IDS[1]:
            raise Problem(400, f"Invalid input for operation: segmentation_id out of range ({VLAN_IDS[0]} through {VLAN_IDS[1]}).",
                          "InvalidInput")
        if network.network_type == LOCAL:
            return
        if number is None:
            ranges = [list(VLAN_IDS)] if kind == VLAN else who.config.network.vni_ranges
            number = 0 if kind == FLAT else free_segment(tx, network.network_type, physical or "", ranges)
        if tx.get(Segment, network.network_type, physical or "", number) is not None:
            raise taken_segment(network.network_type, physical or "", number)
        tx.insert(Segment(network.network_type, physical or "", number, network.id))
        network.physical_network = physical
        network.segmentation_id = None if kind == FLAT else number

    def change(self, tx: Tx, who: Who, row: Network, attrs: Attrs) -> dict[str, Any]:
        if "mtu" in attrs:
            overhead = VXLAN_OVERHEAD_BYTES if row.network_type == TUNNEL else 0
            attrs["mtu"] = self._mtu(attrs["mtu"], who.config.network.global_physnet_mtu - overhead)
        if "shared" in attrs and attrs["shared"] != row.shared:
            if attrs["shared"]:
                add_policy(tx, row.project_id, "network", row.id, SHARED)
            else:
                refuse_unshare(tx, row, [policy.target_project for policy in tx.find(RbacPolicy, object_id=row.id, action=SHARED)])
                drop_policy(tx, row.id, SHARED)
        if "router:external" in attrs and attrs["router:external"] != row.external:
            if attrs["router:external"]:
                add_policy(tx, row.project_id, "network", row.id, EXTERNAL)
            else:
                refuse_internal(tx, row)
                drop_policy(tx, row.id, EXTERNAL)
        if attrs.get("is_default"):
            for other in tx.find(Network, is_default=1):
                if other.id != row.id:
                    raise Problem(409, f"A default external network already exists: {other.id}.", "DefaultExternalNetworkExists")
        return self.columns(attrs)

    def remove(self, tx: Tx, who: Who, row: Network) -> None:
        ports = tx.find(Port, network_id=row.id)
        idle = {floating.floating_port_id for floating in tx.find(FloatingIp, floating_network_id=row.id, port_id=None)}
        if any(port.device_owner not in AUTO_DELETED and port.id not in idle for port in ports):
            raise Problem(409, f"Unable to complete operation on network {row.id}. There are one or more ports still in use on the network.",
                          "NetworkInUse")
        for port in ports:
            release_port(tx, port)
        # floating IPs that lead nowhere go with the network they were taken from
        tx.delete_where(FloatingIp, floating_network_id=row.id)
        tx.delete_where(Subnet, network_id=row.id)
        tx.delete_where(Segment, network_id=row.id)
        remove_policies(tx, row.id)
        tx.delete(Network, row.id)
