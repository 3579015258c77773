"""Routers: interfaces into subnets, a gateway to an external network, extra routes.

Rules: an interface is a port of the router with the subnet's gateway address (by subnet) or a port somebody made (by
port); the gateway is a port on the external network that belongs to no project. A router's subnets never overlap. An
interface stays while a floating IP or a route needs it, a gateway while a floating IP does, a router while it has
interfaces. Routes are what `routes` holds: the next hop lies in a subnet the router stands in.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from virga.api.http import Call, Service, reply
from virga.api.network import fields as f
from virga.api.network.bodies import bodies_of
from virga.api.network.fields import Bad, Field, quoted
from virga.api.network.interfaces import bad_request, interfaces_of, refuse_needed, refuse_overlap, subnets_at
from virga.api.network.noun import SHARED, Attrs, Noun, View, Who, forbidden, guarded, shared_ids, who_of, zone_names
from virga.api.network.ports import PORTS
from virga.api.network.subnets import NETWORKS, Subnets
from virga.domain import ipam
from virga.domain.errors import Problem
from virga.domain.network import ROUTER_GATEWAY, ROUTER_INTERFACE, FloatingIp, HostRoute, Network, Router, Subnet
from virga.domain.placement import Host
from virga.domain.port import IpAllocation, Port
from virga.ops.addresses import Wish
from virga.ops.ports import change_addresses, create_port, release_port, touched
from virga.store.db import Tx

ROUTES_MAX = 30
SUBNETS = Subnets()

_gateway_parts = f.parts({}, {"network_id": f.optional(f.uuid), "enable_snat": f.boolean,
                              "external_fixed_ips": f.listed(f.list_of(f.parts({}, {"subnet_id": f.uuid, "ip_address": f.ip}), 64)),
                              "qos_policy_id": f.optional(f.uuid)})


def gateway_info(value: Any) -> dict[str, Any] | None:
    """None and {} mean no gateway."""
    if value is None or value == {}:
        return None
    found: dict[str, Any] = _gateway_parts(value)
    if not found.get("network_id"):
        raise Bad(f"{quoted(value)} lacks the key 'network_id'")
    if found.get("qos_policy_id"):
        raise Bad("qos policies are not offered")
    return found


class Routers(Noun[Router]):
    one, many, label = "router", "routers", "Router"
    quota = "router"
    row = Router
    tagged = True
    more_filters = frozenset({"status", "availability_zones"})
    fields = {
        "name": Field(f.text(), default=""),
        "description": Field(f.nullable_text(), default=""),
        "admin_state_up": Field(f.boolean, default=True),
        "external_gateway_info": Field(gateway_info, default=None),
        "routes": Field(f.host_routes, post=False),
        "availability_zone_hints": Field(f.zone_hints, put=False, default=[]),
    }

    def views(self, tx: Tx, who: Who, rows: Sequence[Router]) -> list[View]:
        gates = {row.gateway_port_id for row in rows if row.gateway_port_id}
        ports = {port.id: port for port in (tx.find(Port, id=sorted(gates)) if gates else [])}
        zones = zone_names(tx.find(Host)) if rows else []
        return [{
            **self.base(row), "admin_state_up": row.admin_state_up, "status": "ACTIVE",
            "external_gateway_info": self._gateway_view(row, ports.get(row.gateway_port_id or "")), "routes": row.routes,
            "availability_zone_hints": row.availability_zone_hints, "availability_zones": row.availability_zone_hints or zones,
            "flavor_id": None,
        } for row in rows]

    def _gateway_view(self, row: Router, port: Port | None) -> View | None:
        if row.gateway_network_id is None or port is None:
            return None
        return {"network_id": row.gateway_network_id, "enable_snat": row.enable_snat,
                "external_fixed_ips": [{"subnet_id": fixed.subnet_id, "ip_address": fixed.ip_address} for fixed in port.fixed_ips]}

    def create(self, tx: Tx, who: Who, project_id: str, attrs: Attrs) -> Router:
        for hint in attrs["availability_zone_hints"]:
            if hint not in zone_names(tx.find(Host)):
                raise Problem(404, f"AvailabilityZone {hint} could not be found.", "AvailabilityZoneNotFound")
        router = Router(tx.new_id(), project_id, attrs["name"], attrs["description"], attrs["admin_state_up"],
                        availability_zone_hints=attrs["availability_zone_hints"], created_at=tx.now, updated_at=tx.now)
        tx.insert(router)
        if attrs["external_gateway_info"] is not None:
            tx.update(Router, router.id, **self._set_gateway(tx, who, router, attrs["external_gateway_info"], "create"))
        return tx.need(Router, router.id)

    def change(self, tx: Tx, who: Who, row: Router, attrs: Attrs) -> dict[str, Any]:
        changes = self.columns(attrs)
        if "external_gateway_info" in attrs:
            info = attrs["external_gateway_info"]
            changes.update(self._clear_gateway(tx, row) if info is None else self._set_gateway(tx, who, row, info, "update"))
        if "routes" in attrs:
            changes["routes"] = self._routes(tx, row, attrs["routes"])
        return changes

    # gateway ----------------------------------------------------------------------------------------------------------
    def _set_gateway(self, tx: Tx, who: Who, row: Router, info: dict[str, Any], verb: str) -> dict[str, Any]:
        """Give the router its gateway, or change the one it has; the columns that change. Raises Problem 400, 403, 404 or 409."""
        if not who.admin:
            for name in ("enable_snat", "external_fixed_ips"):
                if name in info and not (name == "enable_snat" and info[name] == row.enable_snat):
                    raise forbidden(f"rule:{verb}_router:external_gateway_info:{name}")
        network = NETWORKS.find(tx, who, info["network_id"])
        if not network.external:
            raise bad_request("router", f"Network {network.id} is not an external network")
        wishes = None
        if info.get("external_fixed_ips"):
            wishes = [Wish(item.get("subnet_id"), item.get("ip_address")) for item in info["external_fixed_ips"]]
        snat = info.get("enable_snat", True if verb == "create" or row.gateway_network_id is None else row.enable_snat)
        if row.gateway_network_id == network.id and row.gateway_port_id is not None:
            port = tx.need(Port, row.gateway_port_id)
            if wishes is not None:
                fixed = change_addresses(tx, port, network, wishes)
                tx.update(Port, port.id, fixed_ips=fixed, revision_number=port.revision_number + 1, updated_at=tx.now)
                touched(tx, port.id)
            return {"enable_snat": snat}
        for subnet in subnets_at(tx, interfaces_of(tx, row.id)):
            for other in tx.find(Subnet, network_id=network.id):
                if ipam.overlap(ipam.network(subnet.cidr), ipam.network(other.cidr)):
                    raise bad_request("router", f"Cidr {subnet.cidr} of subnet {subnet.id} overlaps with cidr {other.cidr} of subnet {other.id}")
        if row.gateway_port_id is not None:
            self._clear_gateway(tx, row)
        if wishes is None and not tx.count(Subnet, network_id=network.id):
            raise bad_request("router", f"Network {network.id} has no subnet to take a gateway address from")
        # the gateway is the operator's port: it counts for no project and no project sees it
        port = create_port(tx, who.ask, network, fixed_ips=wishes, device_id=row.id, device_owner=ROUTER_GATEWAY, project_id="")
        return {"gateway_network_id": network.id, "gateway_port_id": port.id, "enable_snat": snat}

    def _clear_gateway(self, tx: Tx, row: Router) -> dict[str, Any]:
        if row.gateway_port_id is not None:
            if tx.count(FloatingIp, router_id=row.id):
                raise Problem(409, f"Gateway cannot be updated for router {row.id}, since a gateway to external network "
                                   f"{row.gateway_network_id} is required by one or more floating IPs.",
                              "RouterExternalGatewayInUseByFloatingIp")
            port = tx.get(Port, row.gateway_port_id)
            if port is not None:
                release_port(tx, port)
        return {"gateway_network_id": None, "gateway_port_id": None, "enable_snat": True}

    # routes -----------------------------------------------------------------------------------------------------------
    def _routes(self, tx: Tx, row: Router, given: list[dict[str, str]]) -> list[HostRoute]:
        """Routes as they are stored. Raises Problem 400 for an unreachable next hop, 409 for too many."""
        if len(given) > ROUTES_MAX:
            raise Problem(409, f"Unable to complete operation for {row.id}. The number of routes exceeds the maximum {ROUTES_MAX}.",
                          "RoutesExhausted")
        gateway = tx.get(Port, row.gateway_port_id) if row.gateway_port_id else None
        ports = [*interfaces_of(tx, row.id), *([gateway] if gateway else [])]
        nets = [ipam.network(subnet.cidr) for subnet in subnets_at(tx, ports)]
        own = {fixed.ip_address for port in ports for fixed in port.fixed_ips}
        for route in given:
            hop = ipam.address(route["nexthop"])
            if not any(hop in net for net in nets):
                raise Problem(400, f"Invalid format for routes: {[route]}, the nexthop is not connected with router", "InvalidRoutes")
            if route["nexthop"] in own:
                raise Problem(400, f"Invalid format for routes: {[route]}, the nexthop is used by router", "InvalidRoutes")
            if ipam.network(route["destination"]).version != hop.version:
                raise Problem(400, f"Invalid format for routes: {[route]}, IP versions differ", "InvalidRoutes")
        return [HostRoute(route["destination"], route["nexthop"]) for route in given]

    async def on_add_routes(self, call: Call) -> Response:
        return await self._extra(call, adding=True)

    async def on_remove_routes(self, call: Call) -> Response:
        return await self._extra(call, adding=False)

    async def _extra(self, call: Call, adding: bool) -> Response:
        who = who_of(call)
        self.may_write(who, "update")
        body = bodies_of(await call.json(), "router", "routers", False)[0]
        try:
            given = f.host_routes(body.get("routes") if isinstance(body, dict) else body)
        except Bad as bad:
            raise Problem(400, f"Invalid input for routes. Reason: {bad}.", "HTTPBadRequest") from bad

        def work(tx: Tx) -> View:
            row = self.mine(tx, who, call.params["id"], "update")
            have = [{"destination": route.destination, "nexthop": route.nexthop} for route in row.routes]
            now = [*have, *(route for route in given if route not in have)] if adding else [
                route for route in have if route not in given]
            return self.shown(tx, who, [self.change_row(tx, who, row, {"routes": now})])[0]

        return reply(200, {"router": await guarded(call, work)})

    # interfaces -------------------------------------------------------------------------------------------------------
    async def _interface_body(self, call: Call) -> tuple[str | None, str | None]:
        """(subnet_id, port_id) of the body. Raises Problem 400."""
        body = await call.json()
        if not isinstance(body, dict) or not body:
            raise bad_request("router", "Either subnet_id or port_id must be specified")
        found: list[str | None] = []
        for name in ("subnet_id", "port_id"):
            value = body.get(name)
            if value is not None:
                try:
                    value = f.uuid(value)
                except Bad as bad:
                    raise Problem(400, f"Invalid input for {name}. Reason: {bad}.", "HTTPBadRequest") from bad
            found.append(value)
        if found == [None, None]:
            raise bad_request("router", "Either subnet_id or port_id must be specified")
        return found[0], found[1]

    async def on_add_interface(self, call: Call) -> Response:
        who = who_of(call)
        self.may_write(who, "add_interface")
        subnet_id, port_id = await self._interface_body(call)
        if subnet_id and port_id:
            raise bad_request("router", "Cannot specify both subnet-id and port-id")

        def work(tx: Tx) -> View:
            row = self.mine(tx, who, call.params["id"], "add_interface")
            port = self._by_port(tx, who, row, port_id) if port_id else self.join(tx, who, row, subnet_id or "")
            tx.update(Router, row.id, revision_number=row.revision_number + 1, updated_at=tx.now)
            touched(tx, port.id)
            return self._interface_view(row, tx.need(Port, port.id), subnet_id)

        return reply(200, await guarded(call, work))

    def _interface_view(self, row: Router, port: Port, subnet_id: str | None) -> View:
        ids = [subnet_id] if subnet_id else list(dict.fromkeys(fixed.subnet_id for fixed in port.fixed_ips))
        return {"id": row.id, "project_id": row.project_id, "tenant_id": row.project_id, "port_id": port.id,
                "network_id": port.network_id, "subnet_id": ids[0] if ids else None, "subnet_ids": ids}

    def join(self, tx: Tx, who: Who, row: Router, subnet_id: str) -> Port:
        """Stand in a subnet with its gateway address. Raises Problem 400, 404 or 409."""
        subnet = SUBNETS.find(tx, who, subnet_id)
        if subnet.gateway_ip is None:
            raise bad_request("router", "Subnet for router interface must have a gateway IP")
        network = tx.need(Network, subnet.network_id)
        if not who.owns(network) and network.id not in shared_ids(tx, "network", who.project_id, (SHARED,)):
            raise forbidden("rule:add_router_interface", "the subnet's network is not shared with this project")
        refuse_overlap(tx, row, [subnet])
        wish = Wish(subnet.id, subnet.gateway_ip)
        if subnet.ip_version == 6:
            # all IPv6 subnets of one network share the router's one IPv6 port there
            for port in interfaces_of(tx, row.id):
                if port.network_id == network.id and all(":" in fixed.ip_address for fixed in port.fixed_ips):
                    fixed = change_addresses(tx, port, network, [*(Wish(item.subnet_id, item.ip_address) for item in port.fixed_ips), wish])
                    tx.update(Port, port.id, fixed_ips=fixed, revision_number=port.revision_number + 1, updated_at=tx.now)
                    return port
        return create_port(tx, who.ask, network, fixed_ips=[wish], device_id=row.id, device_owner=ROUTER_INTERFACE,
                           project_id=row.project_id)

    def _by_port(self, tx: Tx, who: Who, row: Router, port_id: str) -> Port:
        port = PORTS.mine(tx, who, port_id, "update")
        if port.device_id or port.device_owner:
            raise Problem(409, f"Unable to complete operation on port {port.id} for network {port.network_id}. Port already has an attached "
                               f"device {port.device_id}.", "PortInUse")
        subnets = subnets_at(tx, [port])
        if not subnets:
            raise bad_request("router", f"Port {port.id} has no fixed IPs and cannot be a router's interface")
        if sum(1 for fixed in port.fixed_ips if ":" not in fixed.ip_address) > 1:
            raise bad_request("router", f"Cannot have multiple IPv4 subnets on router port {port.id}")
        refuse_overlap(tx, row, subnets)
        tx.update(Port, port.id, device_id=row.id, device_owner=ROUTER_INTERFACE, security_groups=[], port_security_enabled=False,
                  allowed_address_pairs=[], revision_number=port.revision_number + 1, updated_at=tx.now)
        return port

    async def on_remove_interface(self, call: Call) -> Response:
        who = who_of(call)
        self.may_write(who, "remove_interface")
        subnet_id, port_id = await self._interface_body(call)

        def work(tx: Tx) -> View:
            row = self.mine(tx, who, call.params["id"], "remove_interface")
            if subnet_id is not None:
                SUBNETS.find(tx, who, subnet_id)
            port = self._interface(tx, row, subnet_id, port_id)
            going = [fixed for fixed in port.fixed_ips if subnet_id is None or port_id is not None or fixed.subnet_id == subnet_id]
            refuse_needed(tx, row, going)
            shown = self._interface_view(row, port, subnet_id)
            if len(going) < len(port.fixed_ips):
                rest = [fixed for fixed in port.fixed_ips if fixed not in going]
                for fixed in going:
                    tx.delete(IpAllocation, fixed.subnet_id, fixed.ip_address)
                tx.update(Port, port.id, fixed_ips=rest, revision_number=port.revision_number + 1, updated_at=tx.now)
                touched(tx, port.id)
            else:
                release_port(tx, port)
            tx.update(Router, row.id, revision_number=row.revision_number + 1, updated_at=tx.now)
            return shown

        return reply(200, await guarded(call, work))

    def _interface(self, tx: Tx, row: Router, subnet_id: str | None, port_id: str | None) -> Port:
        """The interface port that is meant. Raises Problem 404 or 409."""
        ports = interfaces_of(tx, row.id)
        if port_id is not None:
            found = [port for port in ports if port.id == port_id]
            if not found:
                raise Problem(404, f"Router {row.id} does not have an interface with id {port_id}", "RouterInterfaceNotFound")
            if subnet_id is not None and all(fixed.subnet_id != subnet_id for fixed in found[0].fixed_ips):
                raise Problem(409, f"Subnet on port {port_id} does not match the requested subnet {subnet_id}.", "SubnetMismatchForPort")
            return found[0]
        for port in ports:
            if any(fixed.subnet_id == subnet_id for fixed in port.fixed_ips):
                return port
        raise Problem(404, f"Router {row.id} has no interface on subnet {subnet_id}", "RouterInterfaceNotFoundForSubnet")

    def remove(self, tx: Tx, who: Who, row: Router) -> None:
        if interfaces_of(tx, row.id):
            raise Problem(409, f"Router {row.id} still has ports", "RouterInUse")
        self._clear_gateway(tx, row)
        tx.delete(Router, row.id)

    def mount(self, service: Service) -> None:
        super().mount(service)
        root = "/v2.0/routers/{id}/"
        service.table([
            ("PUT", root + "add_router_interface", self.on_add_interface),
            ("PUT", root + "remove_router_interface", self.on_remove_interface),
            ("PUT", root + "add_extraroutes", self.on_add_routes), ("PUT", root + "remove_extraroutes", self.on_remove_routes),
        ])


ROUTERS = Routers()
