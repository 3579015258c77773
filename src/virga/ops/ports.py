"""Ports: made with their addresses and their MAC in one transaction, released whole, and as an agent sees them.

Used by the network API and by every procedure that gives a server its network. Rules: a port's row, its MAC, its
addresses, its bindings and its wirings come and go together; a floating IP on a port that goes is freed, not deleted.
Every change hints "hostview" (the hosts' picture of networks) and "port:<id>". Who may ask for what (a chosen MAC,
somebody else's network) is the API's business, not this module's.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from virga.domain.ask import Ask
from virga.domain.errors import Problem
from virga.domain.network import FloatingIp, Network, SecurityGroup
from virga.domain.port import Binding, FixedIp, IpAllocation, MacAllocation, Port, Wiring
from virga.ops import addresses, network_quota
from virga.ops.addresses import Wish
from virga.ops.security_groups import default_group
from virga.store.db import Tx

NETWORK_OWNED = "network:"


def create_port(
    tx: Tx, ask: Ask, network: Network, *, name: str = "", mac: str | None = None, fixed_ips: Sequence[Wish] | None = None,
    security_groups: Sequence[str] | None = None, device_id: str = "", device_owner: str = "", preserve: bool = True,
    project_id: str | None = None, description: str = "", admin_state_up: bool = True, port_security_enabled: bool | None = None,
    allowed_address_pairs: Sequence[dict[str, str]] = (), extra_dhcp_opts: Sequence[dict[str, Any]] = (), vnic_type: str = "normal",
    profile: dict[str, Any] | None = None, dns_name: str = "", tags: Sequence[str] = (), only_v4: bool = False,
) -> Port:
    """A new port with addresses: `fixed_ips` None for one of each version, [] for none. `security_groups` None for the project's default group.

    `preserve` False marks a port that goes away with its server. Raises Problem: 409 OverQuota, IpAddressGenerationFailure,
    IpAddressAlreadyAllocated, MacAddressInUse; 400 for an address that does not belong to the network; 404 for an unknown security group.
    """
    owner = ask.project_id if project_id is None else project_id
    network_quota.need_room(tx, ask, owner, "port")
    port_id = tx.new_id()
    mac_address = addresses.take_mac(tx, network.id, port_id, mac)
    if fixed_ips is None:
        fixed = addresses.take_default(tx, network, port_id, mac_address, device_owner, only_v4)
    else:
        fixed = addresses.take_wished(tx, network, port_id, mac_address, device_owner, fixed_ips)
    secure = network.port_security_enabled if port_security_enabled is None else port_security_enabled
    if device_owner.startswith(NETWORK_OWNED) and port_security_enabled is None:
        secure = False
    groups = _groups(tx, owner, security_groups, secure, bool(fixed), device_owner)
    port = Port(
        port_id, owner, network.id, mac_address, name=name, description=description, admin_state_up=admin_state_up,
        device_id=device_id, device_owner=device_owner, fixed_ips=fixed, security_groups=groups,
        allowed_address_pairs=list(allowed_address_pairs), extra_dhcp_opts=list(extra_dhcp_opts),
        port_security_enabled=secure, vnic_type=vnic_type, profile=profile or {}, dns_name=dns_name, tags=list(tags),
        preserve=preserve, created_at=tx.now, updated_at=tx.now)
    tx.insert(port)
    touched(tx, port_id)
    return port


def _groups(
    tx: Tx, project_id: str, wished: Sequence[str] | None, secure: bool, addressed: bool, device_owner: str,
) -> list[str]:
    if wished is None:
        plain = secure and project_id and not device_owner.startswith(NETWORK_OWNED)
        return [default_group(tx, project_id).id] if plain else []
    groups = list(dict.fromkeys(wished))
    for group_id in groups:
        if tx.get(SecurityGroup, group_id) is None:
            raise Problem(404, f"Security group {group_id} does not exist", "SecurityGroupNotFound")
    if groups and not secure:
        raise Problem(400, "Port security must be enabled and the port must have an IP address in order to use security groups.",
                      "PortSecurityAndIPRequiredForSecurityGroups")
    return groups


def change_addresses(tx: Tx, port: Port, network: Network, wishes: Sequence[Wish]) -> list[FixedIp]:
    """Give a port other addresses; those it keeps stay its own. The caller stores the result in `fixed_ips`."""
    fixed = addresses.take_wished(tx, network, port.id, port.mac_address, port.device_owner, wishes, port.fixed_ips)
    gone = {old.ip_address for old in port.fixed_ips} - {new.ip_address for new in fixed}
    for floating in tx.find(FloatingIp, port_id=port.id):
        if floating.fixed_ip_address in gone:
            free_floating(tx, floating)
    return fixed


def change_mac(tx: Tx, port: Port, mac: str) -> None:
    """Take another MAC for a port and give its old one back. Addresses made from the MAC stay as they are."""
    addresses.take_mac(tx, port.network_id, port.id, mac)
    tx.delete(MacAllocation, port.network_id, port.mac_address)


def free_floating(tx: Tx, floating: FloatingIp) -> None:
    """Take a floating IP off its port; it stays its project's."""
    tx.update(FloatingIp, floating.id, port_id=None, fixed_ip_address=None, router_id=None, updated_at=tx.now,
              revision_number=floating.revision_number + 1)


def release_port(tx: Tx, port: Port) -> None:
    """The port goes, with its addresses, MAC, bindings and wirings. Hosts learn by the hint that its tap is nobody's any more."""
    for floating in tx.find(FloatingIp, port_id=port.id):
        free_floating(tx, floating)
    tx.delete_where(IpAllocation, port_id=port.id)
    tx.delete_where(MacAllocation, port_id=port.id)
    for binding in tx.find(Binding, port_id=port.id):
        tx.hint(f"host:{binding.host}")
    tx.delete_where(Binding, port_id=port.id)
    tx.delete_where(Wiring, port_id=port.id)
    tx.delete(Port, port.id)
    touched(tx, port.id)


def touched(tx: Tx, *port_ids: str) -> None:
    tx.hint("hostview", *(f"port:{port_id}" for port_id in port_ids))


def nic_of(tx: Tx, port: Port, generation: int) -> dict[str, Any]:
    """What a host must know of a port to wire generation `generation` of its binding; the fields of agent.hypervisor.Nic."""
    network = tx.need(Network, port.network_id)
    return {
        "port_id": port.id, "generation": generation, "mac": port.mac_address, "network_id": network.id,
        "network_type": network.network_type, "segmentation_id": network.segmentation_id or 0,
        "physical_network": network.physical_network or "", "mtu": network.mtu,
        "admin_up": port.admin_state_up and network.admin_state_up,
    }
