"""Floating IPs: an address of an external network that a project holds, and the port it leads to.

Rules: the address is held by a port of its own on the external network, which belongs to no project. It leads to one
fixed IPv4 address of one port, by the router that stands both in that address's subnet and in the external network;
without such a router there is nothing to associate (404). It is freed, not deleted, when its port goes.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from virga.api.network import fields as f
from virga.api.network.fields import Field
from virga.api.network.noun import Attrs, Noun, View, Who
from virga.api.network.ports import PORTS, active_bindings, status_of
from virga.api.network.subnets import NETWORKS, routers_on
from virga.domain.errors import Problem
from virga.domain.network import FLOATING, FloatingIp, Network, Subnet
from virga.domain.port import Port
from virga.ops.addresses import Wish
from virga.ops.ports import create_port, release_port
from virga.store.db import Tx


class FloatingIps(Noun[FloatingIp]):
    one, many, label = "floatingip", "floatingips", "Floating IP"
    kind = "FloatingIPNotFound"
    absent = "Floating IP {id} could not be found"
    quota = "floatingip"
    row = FloatingIp
    tagged = True
    more_filters = frozenset({"status", "router_id"})
    fields = {
        "floating_network_id": Field(f.uuid, put=False, required=True),
        "subnet_id": Field(f.optional(f.uuid), put=False, default=None),
        "floating_ip_address": Field(f.optional(f.ip), put=False, default=None, admin=True),
        "port_id": Field(f.optional(f.uuid), default=None),
        "fixed_ip_address": Field(f.optional(f.ip)),
        "description": Field(f.nullable_text(), default=""),
        "dns_name": Field(f.dns_name, put=False, default=""),
        "dns_domain": Field(f.dns_domain, put=False, default=""),
    }

    def views(self, tx: Tx, who: Who, rows: Sequence[FloatingIp]) -> list[View]:
        ids = sorted({row.port_id for row in rows if row.port_id})
        ports = tx.find(Port, id=ids) if ids else []
        bound = active_bindings(tx, ports)
        details = {port.id: {
            "name": port.name, "network_id": port.network_id, "mac_address": port.mac_address, "admin_state_up": port.admin_state_up,
            "status": status_of(port, *bound.get(port.id, (None, None))), "device_id": port.device_id, "device_owner": port.device_owner,
        } for port in ports}
        return [{
            **self.base(row), "floating_network_id": row.floating_network_id, "floating_ip_address": row.floating_ip_address,
            "port_id": row.port_id, "fixed_ip_address": row.fixed_ip_address, "router_id": row.router_id, "status": row.status,
            "port_details": details.get(row.port_id or ""), "dns_name": row.dns_name, "dns_domain": row.dns_domain,
        } for row in rows]

    def create(self, tx: Tx, who: Who, project_id: str, attrs: Attrs) -> FloatingIp:
        network = NETWORKS.find(tx, who, attrs["floating_network_id"])
        if not network.external:
            raise Problem(400, f"Bad floatingip request: Network {network.id} is not a valid external network.", "BadRequest")
        if attrs.get("fixed_ip_address") and not attrs["port_id"]:
            raise Problem(400, "Bad floatingip request: fixed_ip_address cannot be specified without a port_id.", "BadRequest")
        floating_id = tx.new_id()
        port = self._outer_port(tx, who, network, floating_id, attrs)
        address = next((fixed.ip_address for fixed in port.fixed_ips if ":" not in fixed.ip_address), None)
        if address is None:
            raise Problem(400, f"Bad floatingip request: Network {network.id} does not contain any IPv4 subnet.", "BadRequest")
        floating = FloatingIp(floating_id, project_id, network.id, address, port.id, description=attrs["description"],
                              dns_name=attrs["dns_name"], dns_domain=attrs["dns_domain"], created_at=tx.now, updated_at=tx.now)
        tx.insert(floating)
        if attrs["port_id"]:
            tx.update(FloatingIp, floating_id, **self._lead_to(tx, who, floating, attrs["port_id"], attrs.get("fixed_ip_address")))
        return tx.need(FloatingIp, floating_id)

    def _outer_port(self, tx: Tx, who: Who, network: Network, floating_id: str, attrs: Attrs) -> Port:
        """The port that holds the address. Raises Problem 400, 404 or 409."""
        wishes = None
        if attrs["subnet_id"] or attrs["floating_ip_address"]:
            if attrs["subnet_id"]:
                subnet = tx.get(Subnet, attrs["subnet_id"])
                if subnet is None or subnet.network_id != network.id:
                    raise Problem(400, f"Bad floatingip request: Subnet {attrs['subnet_id']} is not on network {network.id}.", "BadRequest")
            wishes = [Wish(attrs["subnet_id"], attrs["floating_ip_address"])]
        return create_port(tx, who.ask, network, fixed_ips=wishes, device_id=floating_id, device_owner=FLOATING, project_id="",
                           only_v4=True)

    def change(self, tx: Tx, who: Who, row: FloatingIp, attrs: Attrs) -> dict[str, Any]:
        changes = {name: attrs[name] for name in ("description",) if name in attrs}
        if "port_id" not in attrs and "fixed_ip_address" not in attrs:
            return changes
        port_id = attrs.get("port_id", row.port_id)
        if port_id is None:
            if attrs.get("fixed_ip_address"):
                raise Problem(400, "Bad floatingip request: fixed_ip_address cannot be specified without a port_id.", "BadRequest")
            return {**changes, "port_id": None, "fixed_ip_address": None, "router_id": None}
        return {**changes, **self._lead_to(tx, who, row, port_id, attrs.get("fixed_ip_address"))}

    def _lead_to(self, tx: Tx, who: Who, row: FloatingIp, port_id: str, wished: str | None) -> dict[str, Any]:
        """The columns of a floating IP that leads to a port. Raises Problem 400, 404 or 409."""
        port = PORTS.find(tx, who, port_id)
        if port.project_id != row.project_id and not who.admin:
            raise Problem(404, f"Port {port_id} could not be found.", "PortNotFound")
        inner = [fixed for fixed in port.fixed_ips if ":" not in fixed.ip_address]
        if wished is not None:
            chosen = [fixed for fixed in inner if fixed.ip_address == wished]
            if not chosen:
                raise Problem(400, f"Bad floatingip request: Port {port.id} does not have fixed ip {wished}.", "BadRequest")
        elif not inner:
            raise Problem(400, f"Bad floatingip request: Cannot add floating IP to port {port.id} that has no fixed IPv4 addresses.",
                          "BadRequest")
        elif len(inner) > 1:
            kept = [fixed for fixed in inner if row.port_id == port.id and fixed.ip_address == row.fixed_ip_address]
            if not kept:
                raise Problem(400, f"Bad floatingip request: Port {port.id} has multiple fixed IPv4 addresses. Must provide a specific IPv4 "
                                   "address when assigning a floating IP.", "BadRequest")
            chosen = kept
        else:
            chosen = inner
        fixed = chosen[0]
        for other in tx.find(FloatingIp, port_id=port.id, fixed_ip_address=fixed.ip_address, floating_network_id=row.floating_network_id):
            if other.id != row.id:
                raise Problem(409, f"Cannot associate floating IP {row.floating_ip_address} ({row.id}) with port {port.id} using fixed IP "
                                   f"{fixed.ip_address}, as that fixed IP already has a floating IP on external network "
                                   f"{row.floating_network_id}.", "FloatingIPPortAlreadyAssociated")
        routers = [router for router in routers_on(tx, tx.need(Subnet, fixed.subnet_id)) if router.gateway_network_id == row.floating_network_id]
        if not routers:
            raise Problem(404, f"External network {row.floating_network_id} is not reachable from subnet {fixed.subnet_id}. Therefore, cannot "
                               f"associate Port {port.id} with a Floating IP.", "ExternalGatewayForFloatingIPNotFound")
        return {"port_id": port.id, "fixed_ip_address": fixed.ip_address, "router_id": min(router.id for router in routers)}

    def remove(self, tx: Tx, who: Who, row: FloatingIp) -> None:
        tx.delete(FloatingIp, row.id)
        port = tx.get(Port, row.floating_port_id)
        if port is not None:
            release_port(tx, port)


FLOATINGIPS = FloatingIps()
