"""Taking and giving back addresses: which subnet, which address, inside the caller's transaction.

Rules: an address is a row of `ip_allocations` whose primary key is (subnet, address), and it is chosen in the
transaction that inserts it, so that it cannot be handed out twice, whatever the load. IPv6 subnets in an automatic
mode (SLAAC, stateless DHCPv6) give every port the address its MAC makes, except the ports of routers. A port that
names no addresses gets one of each IP version its network has.
"""
from __future__ import annotations

from collections.abc import Sequence

import msgspec

from virga.domain import ipam
from virga.domain.errors import Problem
from virga.domain.network import ROUTER_OWNED, Network, Subnet
from virga.domain.port import FixedIp, IpAllocation, MacAllocation
from virga.store.db import Tx

MAC_BASE = "fa:16:3e"
MAC_TRIES = 32
FIXED_IPS_MAX = 64


class Wish(msgspec.Struct, frozen=True):
    """What somebody wants of one address: the subnet, the address, or both."""

    subnet_id: str | None = None
    ip_address: str | None = None


def take_mac(tx: Tx, network_id: str, port_id: str, mac: str | None) -> str:
    """Take the wished MAC, or a fresh one. Raises Problem 409 MacAddressInUse."""
    if mac is not None:
        if tx.get(MacAllocation, network_id, mac) is not None:
            raise Problem(409, f"Unable to complete operation for network {network_id}. The mac address {mac} is in use.", "MacAddressInUse")
        tx.insert(MacAllocation(network_id, mac, port_id))
        return mac
    for _ in range(MAC_TRIES):
        tail = tx.token_hex(3)
        fresh = f"{MAC_BASE}:{tail[:2]}:{tail[2:4]}:{tail[4:]}"
        if tx.get(MacAllocation, network_id, fresh) is None:
            tx.insert(MacAllocation(network_id, fresh, port_id))
            return fresh
    raise Problem(503, f"Unable to generate a unique MAC address on network {network_id}.", "MacAddressGenerationFailure")


def ranges_of(subnet: Subnet) -> list[ipam.Range]:
    return [(int(ipam.address(pool.start)), int(ipam.address(pool.end))) for pool in subnet.allocation_pools]


def free_address(tx: Tx, subnet: Subnet) -> str | None:
    """A free address of the subnet's pools, not yet taken."""
    version = subnet.ip_version

    def is_taken(number: int) -> bool:
        return tx.get(IpAllocation, subnet.id, ipam.text_of(version, number)) is not None

    def all_taken() -> list[int]:
        return [int(ipam.address(row.ip_address)) for row in tx.find(IpAllocation, subnet_id=subnet.id)]

    def draw(below: int) -> int:
        return int(tx.token_hex(16), 16) % below

    number = ipam.choose_address(ranges_of(subnet), is_taken, all_taken, draw)
    return None if number is None else ipam.text_of(version, number)


def take(tx: Tx, subnet: Subnet, port_id: str, text: str) -> FixedIp:
    """Take one particular address. Raises Problem 409 IpAddressAlreadyAllocated."""
    if tx.get(IpAllocation, subnet.id, text) is not None:
        raise Problem(409, f"IP address {text} already allocated in subnet {subnet.id}.", "IpAddressAlreadyAllocated")
    tx.insert(IpAllocation(subnet.id, text, subnet.network_id, port_id))
    return FixedIp(subnet.id, text)


def none_left(network_id: str) -> Problem:
    return Problem(409, f"No more IP addresses available on network {network_id}.", "IpAddressGenerationFailure")


def subnets_for(tx: Tx, network_id: str, device_owner: str) -> list[Subnet]:
    """Subnets this kind of port may use: those reserved for its owner if there are any, otherwise those reserved for nobody."""
    subnets = tx.find(Subnet, network_id=network_id, sort=[("created_at", False), ("id", False)])
    fitting = [subnet for subnet in subnets if any(device_owner.startswith(owner) for owner in subnet.service_types)]
    return fitting or [subnet for subnet in subnets if not subnet.service_types]


def take_default(tx: Tx, network: Network, port_id: str, mac: str, device_owner: str, only_v4: bool = False) -> list[FixedIp]:
    """One address a version, and one of each automatic subnet. A network without subnets gives none."""
    subnets = subnets_for(tx, network.id, device_owner)
    taken: list[FixedIp] = []
    for version in (4,) if only_v4 else (4, 6):
        counted = [subnet for subnet in subnets if subnet.ip_version == version and not subnet.automatic]
        for subnet in counted:
            free = free_address(tx, subnet)
            if free is not None:
                taken.append(take(tx, subnet, port_id, free))
                break
        else:
            if counted:
                raise none_left(network.id)
    if not only_v4:
        taken += take_automatic(tx, subnets, port_id, mac, device_owner, ())
    return taken


def take_automatic(
    tx: Tx, subnets: Sequence[Subnet], port_id: str, mac: str, device_owner: str, have: Sequence[FixedIp],
) -> list[FixedIp]:
    """The address a MAC makes, on every automatic subnet the port has none of yet."""
    if device_owner in ROUTER_OWNED:
        return []
    there = {fixed.subnet_id for fixed in have}
    return [take(tx, subnet, port_id, ipam.eui64(ipam.network(subnet.cidr), mac))
            for subnet in subnets if subnet.automatic and subnet.id not in there]


def _subnet_of(subnets: Sequence[Subnet], network: Network, wish: Wish) -> Subnet:
    """The subnet a wish means. Raises Problem 400."""
    if wish.subnet_id is not None:
        found = [subnet for subnet in subnets if subnet.id == wish.subnet_id]
        if not found:
            raise Problem(400, f"Invalid input for operation: Failed to create port on network {network.id}, because fixed_ips included "
                               f"invalid subnet {wish.subnet_id}.", "InvalidInput")
        if wish.ip_address is not None:
            net, address = ipam.network(found[0].cidr), ipam.address(wish.ip_address)
            if address not in net or not ipam.covers([ipam.usable(net)], int(address)):
                raise Problem(400, f"IP address {wish.ip_address} is not a valid IP for the specified subnet.", "InvalidIpForSubnet")
        return found[0]
    if wish.ip_address is None:
        raise Problem(400, "Invalid input for fixed_ips. Reason: a fixed IP needs a subnet or an address.", "InvalidInput")
    address = ipam.address(wish.ip_address)
    for subnet in subnets:
        net = ipam.network(subnet.cidr)
        if address in net and ipam.covers([ipam.usable(net)], int(address)):
            return subnet
    raise Problem(400, f"IP address {wish.ip_address} is not a valid IP for any of the subnets on the specified network.",
                  "InvalidIpForNetwork")


def take_wished(
    tx: Tx, network: Network, port_id: str, mac: str, device_owner: str, wishes: Sequence[Wish], have: Sequence[FixedIp] = (),
) -> list[FixedIp]:
    """Meet every wish, in order; addresses in `have` are the port's already and may be wished again. `have` that is not wished is given back.

    Raises Problem 400 for an address or subnet that does not belong here, 409 for a taken address or an exhausted subnet.
    """
    if len(wishes) > FIXED_IPS_MAX:
        raise Problem(400, f"Exceeded maximum amount of fixed ips per port: {FIXED_IPS_MAX}.", "InvalidInput")
    subnets = tx.find(Subnet, network_id=network.id, sort=[("created_at", False), ("id", False)])
    router = device_owner in ROUTER_OWNED
    plan: list[tuple[Subnet, str | None]] = []
    for wish in wishes:
        subnet = _subnet_of(subnets, network, wish)
        text = wish.ip_address
        if subnet.automatic and not router:
            made = ipam.eui64(ipam.network(subnet.cidr), mac)
            kept = FixedIp(subnet.id, text or "") in have
            if text is not None and text != made and not kept:
                raise Problem(400, f"Invalid input for operation: IPv6 address {text} can not be directly assigned to a port on subnet "
                                   f"{subnet.id} since the subnet is configured for automatic addresses.", "InvalidInput")
            text = text or made
        if text is not None and (subnet, text) in plan:
            raise Problem(400, f"Invalid input for fixed_ips. Reason: Duplicate IP address '{text}'.", "InvalidInput")
        plan.append((subnet, text))
    asked = {(subnet.id, text) for subnet, text in plan if text is not None}
    # A wish for a subnet alone is met by an address the port has there already.
    spare = [fixed for fixed in have if (fixed.subnet_id, fixed.ip_address) not in asked]
    kept_now: list[FixedIp] = []
    for subnet, text in plan:
        if text is None:
            match = next((fixed for fixed in spare if fixed.subnet_id == subnet.id), None)
            if match is not None:
                spare.remove(match)
                kept_now.append(match)
    for fixed in spare:
        give_back(tx, fixed)
    result: list[FixedIp] = []
    for subnet, text in plan:
        if text is not None:
            fixed = FixedIp(subnet.id, text)
            result.append(fixed if fixed in have else take(tx, subnet, port_id, text))
            continue
        match = next((fixed for fixed in kept_now if fixed.subnet_id == subnet.id), None)
        if match is not None:
            kept_now.remove(match)
            result.append(match)
            continue
        free = free_address(tx, subnet)
        if free is None:
            raise none_left(network.id)
        result.append(take(tx, subnet, port_id, free))
    return result + take_automatic(tx, subnets, port_id, mac, device_owner, result)


def give_back(tx: Tx, fixed: FixedIp) -> None:
    tx.delete(IpAllocation, fixed.subnet_id, fixed.ip_address)
