"""Ports: a card on a network, its addresses, its filters and where it is bound.

Rules: making and releasing is ops/ports.py's work, here is who may ask for what. Only the network's owner or an admin
chooses a MAC, an address or port security on it; `binding:*` (but for the card's type) is an admin's or a service's.
`status` is derived from the active binding's own generation (domain/port.py); ports the network itself owns are not
wired by a host that would report, so theirs follows their admin state. A port of a router or of a floating IP is not
deleted here (409): it goes with what owns it. One of a server may be: that unplugs it.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from virga.api.network import fields as f
from virga.api.network.fields import Field
from virga.api.network.interfaces import refuse_move
from virga.api.network.noun import SHARED, Attrs, Noun, View, Who, forbidden, shared_ids
from virga.api.network.security_groups import GROUPS
from virga.api.network.subnets import NETWORKS
from virga.domain.errors import Problem
from virga.domain.network import COMPUTE, DHCP, FLOATING, ROUTER_INTERFACE, ROUTER_OWNED, Network
from virga.domain.port import Binding, Port, Wiring, port_status
from virga.domain.server import Server
from virga.ops import front
from virga.ops import ports as making
from virga.ops.addresses import Wish
from virga.ops.port_bindings import bind_to
from virga.store.db import Tx

VNIC_TYPES = ("normal", "direct", "macvtap", "baremetal", "direct-physical", "virtio-forwarder", "smart-nic", "vdpa",
              "accelerator-direct", "accelerator-direct-physical", "remote-managed")
NETWORK_OWNED = "network:"
# what only the owner of the network may choose on it
OWNERS_CHOICE = ("mac_address", "fixed_ips", "port_security_enabled", "allowed_address_pairs")


def wished(attrs: Attrs) -> list[Wish] | None:
    given = attrs.get("fixed_ips")
    return None if given is None else [Wish(item.get("subnet_id"), item.get("ip_address")) for item in given]


def vif(port: Port, binding: Binding | None) -> View:
    """How a binding shows on a port: type and details of the virtual interface."""
    if binding is None:
        return {"binding:vif_type": "unbound", "binding:vif_details": {}}
    details = {"port_filter": True} if binding.vif_type == "bridge" else {}
    return {"binding:vif_type": binding.vif_type, "binding:vif_details": details}


def status_of(port: Port, binding: Binding | None, wiring: Wiring | None) -> str:
    if port.device_owner == FLOATING:
        return "N/A"
    if port.device_owner in (*ROUTER_OWNED, DHCP):
        return "ACTIVE" if port.admin_state_up else "DOWN"
    return port_status(port, binding, wiring)


def active_bindings(tx: Tx, ports: Sequence[Port]) -> dict[str, tuple[Binding | None, Wiring | None]]:
    """port_id -> its active binding and what that host last said."""
    bound = [port.id for port in ports if port.host]
    hosts = {port.id: port.host for port in ports}
    found: dict[str, tuple[Binding | None, Wiring | None]] = {}
    few = len(bound) < 500
    bindings = tx.find(Binding, port_id=bound) if few else tx.find(Binding)
    wirings = {(row.port_id, row.host): row for row in (tx.find(Wiring, port_id=bound) if few else tx.find(Wiring))}
    for binding in bindings:
        if hosts.get(binding.port_id) == binding.host:
            found[binding.port_id] = (binding, wirings.get((binding.port_id, binding.host)))
    return found


class Ports(Noun[Port]):
    one, many, label = "port", "ports", "Port"
    row = Port
    tagged = True
    admin_views = frozenset({"binding:host_id", "binding:profile", "binding:vif_type", "binding:vif_details"})
    more_filters = frozenset({"status", "dns_assignment"})
    fields = {
        "name": Field(f.text(), default=""),
        "description": Field(f.nullable_text(), default=""),
        "network_id": Field(f.uuid, put=False, required=True),
        "admin_state_up": Field(f.boolean, default=True),
        "mac_address": Field(f.optional(f.mac)),
        "fixed_ips": Field(f.wishes),
        "device_id": Field(f.nullable_text(), default=""),
        "device_owner": Field(f.nullable_text(), default=""),
        "security_groups": Field(f.listed(f.list_of(f.text(64), 256))),
        "allowed_address_pairs": Field(f.address_pairs, default=[]),
        "extra_dhcp_opts": Field(f.dhcp_options, default=[]),
        "port_security_enabled": Field(f.boolean),
        "dns_name": Field(f.dns_name, default=""),
        "binding:vnic_type": Field(f.one_of(*VNIC_TYPES), default="normal", column="vnic_type"),
        "binding:host_id": Field(f.nullable_text(), default="", admin=True),
        "binding:profile": Field(f.profile, default={}, admin=True, column="profile"),
        "tags": Field(f.tags, put=False, default=[]),
    }

    def views(self, tx: Tx, who: Who, rows: Sequence[Port]) -> list[View]:
        bound = active_bindings(tx, rows)
        domain = who.config.network.dns_domain
        views = []
        for row in rows:
            binding, wiring = bound.get(row.id, (None, None))
            views.append({
                **self.base(row), "network_id": row.network_id, "admin_state_up": row.admin_state_up,
                "status": status_of(row, binding, wiring), "mac_address": row.mac_address,
                "fixed_ips": [{"subnet_id": fixed.subnet_id, "ip_address": fixed.ip_address} for fixed in row.fixed_ips],
                "device_id": row.device_id, "device_owner": row.device_owner, "security_groups": row.security_groups,
                "allowed_address_pairs": row.allowed_address_pairs, "extra_dhcp_opts": row.extra_dhcp_opts,
                "port_security_enabled": row.port_security_enabled, "dns_name": row.dns_name,
                "dns_assignment": names_of(row, domain), "binding:vnic_type": row.vnic_type,
                "binding:host_id": row.host, "binding:profile": row.profile, **vif(row, binding),
            })
        return views

    def visible(self, tx: Tx, who: Who) -> Callable[[Port], bool]:
        """The owner of a network sees every port on it."""
        own = {network.id for network in tx.find(Network, project_id=who.project_id)}
        return lambda row: row.network_id in own

    def candidates(self, tx: Tx, who: Who, conditions: dict[str, Any]) -> list[Port]:
        """Asked of the database as two questions, because a project is not to pay for the ports of all the others."""
        if who.admin:
            return super().candidates(tx, who, conditions)
        own = {network.id for network in tx.find(Network, project_id=who.project_id)}
        mine = [row for row in tx.find(Port, **{**conditions, "project_id": who.project_id})
                if who.project_id in conditions.get("project_id", [who.project_id])]
        wanted = sorted(own & set(conditions["network_id"])) if "network_id" in conditions else sorted(own)
        there = tx.find(Port, **{**conditions, "network_id": wanted}) if wanted else []
        found = {row.id: row for row in (*mine, *there)}
        return sorted(found.values(), key=lambda row: (row.created_at, row.id))

    def owns(self, tx: Tx, who: Who, row: Port) -> bool:
        if who.owns(row):
            return True
        network = tx.get(Network, row.network_id)
        return network is not None and who.owns(network)

    # making -----------------------------------------------------------------------------------------------------------
    def create(self, tx: Tx, who: Who, project_id: str, attrs: Attrs) -> Port:
        network = NETWORKS.find(tx, who, attrs["network_id"])
        self._may_use(tx, who, network, attrs, "create")
        self._refuse_devices(tx, who, None, attrs)
        groups = attrs.get("security_groups")
        for group_id in groups or ():
            GROUPS.find(tx, who, group_id)
        port = making.create_port(
            tx, who.ask, network, name=attrs["name"], mac=attrs.get("mac_address"), fixed_ips=wished(attrs),
            security_groups=groups, device_id=attrs["device_id"], device_owner=attrs["device_owner"], preserve=True,
            project_id=project_id, description=attrs["description"], admin_state_up=attrs["admin_state_up"],
            port_security_enabled=attrs.get("port_security_enabled"), extra_dhcp_opts=options([], attrs["extra_dhcp_opts"]),
            vnic_type=attrs["binding:vnic_type"], profile=attrs["binding:profile"], dns_name=attrs["dns_name"],
            tags=list(dict.fromkeys(attrs["tags"])))
        if attrs["allowed_address_pairs"]:
            pairs = self._pairs(port, port.port_security_enabled, attrs["allowed_address_pairs"])
            tx.update(Port, port.id, allowed_address_pairs=pairs)
        if attrs["binding:host_id"]:
            bind_to(tx, port, attrs["binding:host_id"])
        return tx.need(Port, port.id)

    def _may_use(self, tx: Tx, who: Who, network: Network, attrs: Attrs, verb: str) -> None:
        """Policy for a port on somebody else's network. Raises Problem 403."""
        owner = attrs.get("device_owner", "")
        if owner in (*ROUTER_OWNED, FLOATING) and not who.admin:
            raise forbidden(f"rule:{verb}_port:device_owner", f"{owner} ports are made by routers and floating IPs")
        if who.owns(network):
            return
        if verb == "create" and network.id not in shared_ids(tx, "network", who.project_id, (SHARED,)):
            raise forbidden("rule:create_port", "the network is not shared with this project")
        if owner.startswith(NETWORK_OWNED):
            raise forbidden(f"rule:{verb}_port:device_owner", "the network belongs to another project")
        for name in OWNERS_CHOICE:
            if not attrs.get(name) and not (name == "port_security_enabled" and attrs.get(name) is False):
                continue
            if name == "fixed_ips" and all("ip_address" not in item for item in attrs[name]):
                continue
            if name == "port_security_enabled" and attrs[name] is True:
                continue
            raise forbidden(f"rule:{verb}_port:{name}", "only the network's owner may choose it")

    def _pairs(self, port: Port, secure: bool, given: list[dict[str, str]]) -> list[dict[str, str]]:
        """Address pairs with the port's own MAC where none is named. Raises Problem 400 or 409."""
        if given and not secure:
            raise Problem(409, "Port Security must be enabled in order to have allowed address pairs on a port.",
                          "AddressPairAndPortSecurityRequired")
        pairs = [{"ip_address": item["ip_address"], "mac_address": item.get("mac_address", port.mac_address)} for item in given]
        for index, pair in enumerate(pairs):
            if pair in pairs[:index]:
                raise Problem(400, f"Request contains duplicate address pair: mac_address {pair['mac_address']} ip_address "
                                   f"{pair['ip_address']}.", "DuplicateAddressPairInRequest")
        return pairs

    # changing ---------------------------------------------------------------------------------------------------------
    def change(self, tx: Tx, who: Who, row: Port, attrs: Attrs) -> dict[str, Any]:
        network = tx.need(Network, row.network_id)
        self._may_use(tx, who, network, {name: value for name, value in attrs.items() if not _same(row, name, value)}, "update")
        self._refuse_devices(tx, who, row, attrs)
        fixed = ("device_id", "device_owner", "mac_address", *(() if row.device_owner == ROUTER_INTERFACE else ("fixed_ips",)))
        if row.device_owner in (*ROUTER_OWNED, FLOATING) and any(name in attrs and not _same(row, name, attrs[name]) for name in fixed):
            raise Problem(409, f"Port {row.id} cannot be changed directly via the port API: has device owner {row.device_owner}.",
                          "ServicePortInUse")
        changes = self.columns(attrs)
        for name in ("fixed_ips", "mac_address", "extra_dhcp_opts", "allowed_address_pairs", "security_groups"):
            changes.pop(name, None)
        if attrs.get("mac_address") and attrs["mac_address"] != row.mac_address:
            if row.host:
                raise Problem(409, f"Unable to complete operation on port {row.id}, port is already bound, port type: bridge, "
                                   f"old_mac {row.mac_address}, new_mac {attrs['mac_address']}.", "PortBound")
            making.change_mac(tx, row, attrs["mac_address"])
            changes["mac_address"] = row.mac_address = attrs["mac_address"]
        if "fixed_ips" in attrs:
            changes["fixed_ips"] = making.change_addresses(tx, row, network, wished(attrs) or [])
            if row.device_owner == ROUTER_INTERFACE:
                refuse_move(tx, row, changes["fixed_ips"])
        changes.update(self._filters(tx, who, row, attrs))
        if "extra_dhcp_opts" in attrs:
            changes["extra_dhcp_opts"] = options(row.extra_dhcp_opts, attrs["extra_dhcp_opts"])
        if "binding:host_id" in attrs:
            row.vnic_type = changes.get("vnic_type", row.vnic_type)
            row.profile = changes.get("profile", row.profile)
            bind_to(tx, row, attrs["binding:host_id"])
        making.touched(tx, row.id)
        if row.device_owner.startswith(COMPUTE) and row.device_id:
            tx.hint("server:" + row.device_id)
        return changes

    def _filters(self, tx: Tx, who: Who, row: Port, attrs: Attrs) -> dict[str, Any]:
        """Port security, groups and address pairs, which only go together. Raises Problem 400 or 409."""
        secure = attrs.get("port_security_enabled", row.port_security_enabled)
        groups = attrs.get("security_groups", row.security_groups)
        changes: dict[str, Any] = {}
        if "security_groups" in attrs:
            for group_id in groups:
                if group_id not in row.security_groups:
                    GROUPS.find(tx, who, group_id)
            changes["security_groups"] = groups = list(dict.fromkeys(groups))
        if groups and not secure:
            if attrs.get("security_groups"):
                raise Problem(400, "Port security must be enabled and the port must have an IP address in order to use security groups.",
                              "PortSecurityAndIPRequiredForSecurityGroups")
            raise Problem(409, "Port has security group associated. Cannot disable port security or IP address until security group is "
                               "removed.", "PortSecurityPortHasSecurityGroup")
        if "allowed_address_pairs" in attrs:
            changes["allowed_address_pairs"] = self._pairs(row, secure, attrs["allowed_address_pairs"])
        elif row.allowed_address_pairs and not secure:
            raise Problem(409, "Port Security must be enabled in order to have allowed address pairs on a port.",
                          "AddressPairAndPortSecurityRequired")
        return changes

    def remove(self, tx: Tx, who: Who, row: Port) -> None:
        if row.device_owner in (*ROUTER_OWNED, FLOATING):
            raise Problem(409, f"Port {row.id} cannot be deleted directly via the port API: has device owner {row.device_owner}.",
                          "ServicePortInUse")
        server = self._server(tx, row)
        if server is not None:
            self._unplug(tx, who, row, server)
        making.release_port(tx, row)

    def _server(self, tx: Tx, row: Port) -> Server | None:
        """The living server a port belongs to."""
        if not row.device_owner.startswith(COMPUTE) or not row.device_id:
            return None
        server = tx.get(Server, row.device_id)
        return None if server is None or server.deleted_at is not None else server

    def _unplug(self, tx: Tx, who: Who, row: Port, server: Server) -> None:
        """Take the card from the guest, as far as its state allows it now; the port itself goes at once, as the networking API has it."""
        tx.hint("server:" + server.id)
        if server.host is None:
            return
        try:
            front.detach_interface(tx, who.ask, server, row.id)
        except Problem:
            # A locked or busy server keeps its card until it is next started: the guest is then defined by the ports there are.
            tx.emit("fact", "network", server.host, f"port {row.id[:8]} was deleted under server {server.id[:8]}", server=server.id)

    def _refuse_devices(self, tx: Tx, who: Who, row: Port | None, attrs: Attrs) -> None:
        """A port gets into a server and out of it by the compute API. Raises Problem 403 or 409."""
        if who.admin or "device_id" not in attrs or (row is not None and attrs["device_id"] == row.device_id):
            return
        server = tx.get(Server, attrs["device_id"]) if attrs["device_id"] else None
        if server is not None and server.project_id != who.project_id:
            raise forbidden("rule:port:device_id", "the device belongs to another project")
        if row is not None and self._server(tx, row) is not None:
            raise Problem(409, f"Unable to complete operation on port {row.id} for network {row.network_id}. Port already has an attached "
                               f"device {row.device_id}; detach it from the server first.", "PortInUse")


def _same(row: Port, name: str, value: Any) -> bool:
    """Whether an update leaves an attribute as it is; such a one needs no right."""
    if name == "fixed_ips":
        return [(item.get("subnet_id"), item.get("ip_address")) for item in value] == [
            (fixed.subnet_id, fixed.ip_address) for fixed in row.fixed_ips]
    return bool(getattr(row, name, None) == value)


def options(have: list[dict[str, Any]], given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """DHCP options after an update: named ones replaced, those without a value removed."""
    merged = {(item["opt_name"], item["ip_version"]): item for item in have}
    for item in given:
        key = (item["opt_name"], item.get("ip_version", 4))
        if item.get("opt_value") is None:
            merged.pop(key, None)
        else:
            merged[key] = {"opt_name": key[0], "opt_value": item["opt_value"], "ip_version": key[1]}
    return list(merged.values())


def names_of(port: Port, domain: str) -> list[View]:
    """dns_assignment: the host name and fully qualified name each address answers to."""
    assigned = []
    for fixed in port.fixed_ips:
        host = port.dns_name or "host-" + fixed.ip_address.replace(".", "-").replace(":", "-")
        fqdn = host if host.endswith(".") else f"{host}.{domain.rstrip('.')}."
        assigned.append({"ip_address": fixed.ip_address, "hostname": host.split(".")[0], "fqdn": fqdn})
    return assigned


PORTS = Ports()
