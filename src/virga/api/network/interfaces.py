"""The ports by which a router stands in its networks, and what keeps them there.

Rules: a router's subnets never overlap, whether it comes into one by an interface or by another address of an interface it has; and it leaves no subnet
that a floating IP or a route of it needs.
"""
from __future__ import annotations

from collections.abc import Sequence

from virga.domain import ipam
from virga.domain.errors import Problem
from virga.domain.network import ROUTER_INTERFACE, FloatingIp, Router, Subnet
from virga.domain.port import FixedIp, Port
from virga.store.db import Tx


def bad_request(resource: str, why: str) -> Problem:
    return Problem(400, f"Bad {resource} request: {why}.", "BadRequest")


def interfaces_of(tx: Tx, router_id: str) -> list[Port]:
    """The ports by which a router stands in its networks."""
    return tx.find(Port, device_id=router_id, device_owner=ROUTER_INTERFACE)


def subnets_at(tx: Tx, ports: Sequence[Port]) -> list[Subnet]:
    ids = {fixed.subnet_id for port in ports for fixed in port.fixed_ips}
    return tx.find(Subnet, id=list(ids)) if ids else []


def refuse_overlap(tx: Tx, row: Router, subnets: Sequence[Subnet], but: str = "") -> None:
    """Raises Problem 400 when the router stands (by another port than `but`) in one of the subnets, or in one that overlaps."""
    there = subnets_at(tx, [port for port in interfaces_of(tx, row.id) if port.id != but])
    if row.gateway_network_id is not None:
        there += tx.find(Subnet, network_id=row.gateway_network_id)
    for subnet in subnets:
        for other in there:
            if other.id == subnet.id:
                raise bad_request("router", f"Router already has a port on subnet {subnet.id}")
            if ipam.overlap(ipam.network(other.cidr), ipam.network(subnet.cidr)):
                raise bad_request("router", f"Cidr {subnet.cidr} of subnet {subnet.id} overlaps with cidr {other.cidr} of subnet {other.id}")


def refuse_needed(tx: Tx, row: Router, going: Sequence[FixedIp]) -> None:
    """Raises Problem 409 when a floating IP or a route needs the interface."""
    gone = {fixed.subnet_id for fixed in going}
    nets = [ipam.network(subnet.cidr) for subnet in tx.find(Subnet, id=sorted(gone))] if gone else []
    for floating in tx.find(FloatingIp, router_id=row.id):
        if floating.fixed_ip_address and any(ipam.address(floating.fixed_ip_address) in net for net in nets):
            raise Problem(409, f"Router interface for subnet {sorted(gone)[0]} on router {row.id} cannot be deleted, as it is required by "
                               "one or more floating IPs.", "RouterInterfaceInUseByFloatingIP")
    for route in row.routes:
        if any(ipam.address(route.nexthop) in net for net in nets):
            raise Problem(409, f"Router interface for subnet {sorted(gone)[0]} on router {row.id} cannot be deleted, as it is required by "
                               "one or more routes.", "RouterInterfaceInUseByRoute")


def refuse_move(tx: Tx, port: Port, new: Sequence[FixedIp]) -> None:
    """Whether an interface may have these addresses instead of its own. Raises Problem 400 or 409."""
    router = tx.get(Router, port.device_id)
    if router is None:
        return
    if not new:
        raise bad_request("router", f"Port {port.id} is an interface of router {router.id} and needs an address")
    if sum(1 for fixed in new if ":" not in fixed.ip_address) > 1:
        raise bad_request("router", f"Cannot have multiple IPv4 subnets on router port {port.id}")
    stays = {fixed.subnet_id for fixed in new}
    refuse_needed(tx, router, [fixed for fixed in port.fixed_ips if fixed.subnet_id not in stays])
    refuse_overlap(tx, router, tx.find(Subnet, id=sorted(stays)), but=port.id)
