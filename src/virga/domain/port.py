"""Ports, their bindings per host, and the wired facts: the heart of why a revert cannot lose its race here.

Writers: `Port` and `Binding` are intent (controller only). `Wiring` is observation (written only by fabric/hub from an agent's fact).
A port has one binding per host, each with a generation that rises whenever the binding is opened again; a wiring names the generation it is
about, so a status seen on host_B says nothing about host_A, and a late report about generation g says nothing about g+1.
The API's port `status` is derived, never stored: see `port_status`.
"""
from __future__ import annotations

from typing import Any

import msgspec

from virga.domain.row import Row

# Binding.state: what the controller wants of this host for this port
OPENING, BOUND, RETIRING = "opening", "active", "retiring"


class FixedIp(msgspec.Struct, frozen=True):
    subnet_id: str
    ip_address: str


class Port(Row):
    """A network port. `host` is the host of the active binding ('' when unbound)."""

    __table__ = "ports"

    id: str
    project_id: str
    network_id: str
    mac_address: str
    name: str = ""
    description: str = ""
    admin_state_up: bool = True
    device_id: str = ""
    device_owner: str = ""
    fixed_ips: list[FixedIp] = []
    security_groups: list[str] = []
    allowed_address_pairs: list[dict[str, str]] = []
    extra_dhcp_opts: list[dict[str, Any]] = []
    port_security_enabled: bool = True
    vnic_type: str = "normal"
    profile: dict[str, Any] = {}
    host: str = ""
    dns_name: str = ""
    tags: list[str] = []
    preserve: bool = False  # made by the user, not by the server: unbound, not deleted, when the server goes
    revision_number: int = 1
    created_at: float = 0.0
    updated_at: float = 0.0
    binding_generation: int = 0  # the newest generation any binding of this port ever had; never falls


class IpAllocation(Row):
    """One address taken from a subnet. The primary key makes handing it out twice impossible."""

    __table__ = "ip_allocations"
    __key__ = ("subnet_id", "ip_address")

    subnet_id: str
    ip_address: str
    network_id: str
    port_id: str


class MacAllocation(Row):
    """One MAC address in use on a network."""

    __table__ = "mac_allocations"
    __key__ = ("network_id", "mac_address")

    network_id: str
    mac_address: str
    port_id: str


class Binding(Row):
    """The controller's wish for one port on one host."""

    __table__ = "bindings"
    __key__ = ("port_id", "host")

    port_id: str
    host: str
    generation: int
    state: str = OPENING
    vif_type: str = "bridge"
    vnic_type: str = "normal"
    profile: dict[str, Any] = {}
    updated_at: float = 0.0


class Wiring(Row):
    """What the agent of one host last said of one port: is generation `generation` wired there?"""

    __table__ = "wirings"
    __key__ = ("port_id", "host")

    port_id: str
    host: str
    generation: int
    wired: bool
    revision: int = 0  # the agent's own counter: an older observation never overwrites a newer one
    detail: str = ""
    at: float = 0.0


def port_status(port: Port, binding: Binding | None, wiring: Wiring | None) -> str:
    """ACTIVE, BUILD or DOWN as the network API means them (facts file 1.5), from the active binding's own generation only."""
    if not port.admin_state_up or binding is None:
        return "DOWN"
    if wiring is None or wiring.generation < binding.generation:
        return "BUILD" if binding.state == OPENING else "DOWN"
    return "ACTIVE" if wiring.wired and wiring.generation == binding.generation else "DOWN"
