"""Networks, security groups and floating IPs as compute showed them until 2.35 (floating IPs of servers until 2.43).

Rules: the network service's own nouns do the work, so what one API shows and refuses, the other does too; only the
words are compute's. Calls that administered compute's own network service ended with it and answer 410.
"""
from __future__ import annotations

from typing import Any

from starlette.responses import Response

from virga.api.compute import inputs
from virga.api.compute.access import must_write
from virga.api.compute.inputs import Fields, bad, body_of
from virga.api.compute.microversion import Version, need
from virga.api.compute.server_actions import ACTIONS, Action
from virga.api.compute.server_security_groups import rule_view
from virga.api.compute.servers import own_server
from virga.api.http import Call, Handler, plain_json, reply
from virga.api.network.floatingips import FLOATINGIPS
from virga.api.network.noun import guarded, who_of
from virga.api.network.security_groups import GROUPS, RULES
from virga.api.network.subnets import NETWORKS
from virga.domain.errors import Problem
from virga.domain.network import FloatingIp, Network, SecurityGroup, SecurityGroupRule, Subnet
from virga.domain.port import Port
from virga.ops.security_groups import default_group
from virga.store.db import Tx

UNTIL: Version = (2, 35)
UNTIL_SERVERS: Version = (2, 43)
PROTOCOLS = ("tcp", "udp", "icmp")
# what compute's own network service told of a network and nobody tells any more
NETWORK_NULLS = (
    "bridge", "vpn_public_port", "dhcp_start", "bridge_interface", "updated_at", "cidr_v6", "deleted_at", "gateway",
    "rxtx_base", "priority", "project_id", "vpn_private_address", "deleted", "vlan", "broadcast", "netmask", "injected",
    "cidr", "vpn_public_address", "multi_host", "dns2", "created_at", "host", "gateway_v6", "netmask_v6", "dns1", "mtu",
    "dhcp_server", "enable_dhcp", "share_address")


def until(handler: Handler, last: Version = UNTIL) -> Handler:
    """The handler, as long as the microversion has it."""

    async def at_version(call: Call) -> Response:
        need(call, (2, 1), last)
        return await handler(call)

    return at_version


# networks ---------------------------------------------------------------------------------------------------------
def _network(network: Network) -> dict[str, Any]:
    return {"id": network.id, "label": network.name, **dict.fromkeys(NETWORK_NULLS)}


def _tenant_network(network: Network) -> dict[str, Any]:
    return {"id": network.id, "label": network.name, "cidr": "None"}


async def _networks(call: Call) -> list[Network]:
    return await call.cloud.db.read(lambda tx: NETWORKS.candidates(tx, who_of(call), {}))


async def _one_network(call: Call) -> Network:
    try:
        return await call.cloud.db.read(lambda tx: NETWORKS.find(tx, who_of(call), call.params["network_id"]))
    except Problem:
        raise Problem(404, "Network not found.") from None


async def list_networks(call: Call) -> Response:
    return reply(200, {"networks": [_network(network) for network in await _networks(call)]})


async def show_network(call: Call) -> Response:
    return reply(200, {"network": _network(await _one_network(call))})


async def list_tenant_networks(call: Call) -> Response:
    return reply(200, {"networks": [_tenant_network(network) for network in await _networks(call)]})


async def show_tenant_network(call: Call) -> Response:
    return reply(200, {"network": _tenant_network(await _one_network(call))})


async def gone(call: Call) -> Response:
    raise Problem(410, "This API ended with compute's own network service; use the network API.")


# security groups --------------------------------------------------------------------------------------------------
def _group(tx: Tx, group: SecurityGroup) -> dict[str, Any]:
    rules = tx.find(SecurityGroupRule, security_group_id=group.id, direction="ingress",
                    sort=[("created_at", False), ("id", False)])
    return {"id": group.id, "name": group.name, "description": group.description, "tenant_id": group.project_id,
            "rules": [rule_view(tx, group, rule) for rule in rules]}


def _found(find: Any, tx: Tx, call: Call, group_id: str) -> Any:
    """A thing of the network API; what is not there is told in compute's words."""
    try:
        return find(tx, who_of(call), group_id)
    except Problem as problem:
        raise Problem(404 if problem.status == 403 else problem.status, problem.message) from None


async def list_groups(call: Call) -> Response:
    who = who_of(call)
    everyone = call.arg("all_tenants") is not None and inputs.boolean(call.arg("all_tenants"), "all_tenants")
    if who.project_id:
        await guarded(call, lambda tx: default_group(tx, who.project_id))
    conditions = {} if everyone and who.admin else {"project_id": [who.project_id]}

    def work(tx: Tx) -> list[dict[str, Any]]:
        return [_group(tx, group) for group in GROUPS.candidates(tx, who, conditions)]

    return reply(200, {"security_groups": await call.cloud.db.read(work)})


async def show_group(call: Call) -> Response:
    view = await call.cloud.db.read(lambda tx: _group(tx, _found(GROUPS.find, tx, call, call.params["group_id"])))
    return reply(200, {"security_group": view})


async def _group_fields(call: Call) -> dict[str, str]:
    fields = Fields(call, await body_of(call, "security_group"), "security_group")
    given = {"name": fields.take("name", _clean, required=True),
             "description": fields.take("description", _clean_or_nothing, required=True)}
    fields.done()
    return given


def _clean(value: Any, place: str) -> str:
    text: str = inputs.string(1)(value, place)
    if not text.strip():
        raise bad(place, "it must not be blank.")
    return text


def _clean_or_nothing(value: Any, place: str) -> str:
    text: str = inputs.string()("" if value is None else value, place)
    return text


async def no_group_id(call: Call) -> Response:
    raise Problem(404, "No security group has an empty id.")


async def create_group(call: Call) -> Response:
    must_write(call, "os_compute_api:os-security-groups:create")
    given, who = await _group_fields(call), who_of(call)

    def work(tx: Tx) -> dict[str, Any]:
        attrs = GROUPS.checked(who, given, creating=True)
        return _group(tx, GROUPS.create(tx, who, GROUPS.home_of(who, attrs), attrs))

    return reply(200, {"security_group": await guarded(call, work)})


async def update_group(call: Call) -> Response:
    must_write(call, "os_compute_api:os-security-groups:update")
    given, who = await _group_fields(call), who_of(call)

    def work(tx: Tx) -> dict[str, Any]:
        group = _found(_mine, tx, call, call.params["group_id"])
        changed = GROUPS.change_row(tx, who, group, GROUPS.checked(who, given, creating=False))
        return _group(tx, changed)

    return reply(200, {"security_group": await guarded(call, work)})


def _mine(tx: Tx, who: Any, group_id: str) -> SecurityGroup:
    return GROUPS.mine(tx, who, group_id, "update")


async def delete_group(call: Call) -> Response:
    must_write(call, "os_compute_api:os-security-groups:delete")
    who = who_of(call)

    def work(tx: Tx) -> None:
        group = _found(_mine, tx, call, call.params["group_id"])
        try:
            GROUPS.remove(tx, who, group)
        except Problem as problem:  # compute said 400 to what the network API calls a conflict
            raise Problem(400, problem.message) from None
        GROUPS.touched(tx)

    await guarded(call, work)
    return reply(202)


def _port(least: int, most: int) -> inputs.Check:
    return inputs.optional(inputs.integer(least, most))


async def create_rule(call: Call) -> Response:
    must_write(call, "os_compute_api:os-security-groups:rule:create")
    who = who_of(call)
    fields = Fields(call, await body_of(call, "security_group_rule"), "security_group_rule")
    group_id = fields.take("parent_group_id", inputs.uuid, required=True)
    protocol = fields.take("ip_protocol", inputs.optional(_protocol))
    low, high = fields.take("from_port", _port(-1, 65535)), fields.take("to_port", _port(-1, 65535))
    cidr = fields.take("cidr", inputs.optional(inputs.string()))
    remote = fields.take("group_id", inputs.optional(inputs.string(1)))
    fields.done()
    if cidr and remote:
        raise Problem(400, "Give either cidr or group_id, not both.")
    if protocol in ("tcp", "udp") and (low is None or high is None or not 1 <= low <= high):
        raise bad("security_group_rule", f"{protocol} needs from_port and to_port of 1 to 65535, the lower one first.")
    if not remote and protocol is None:
        raise bad("security_group_rule.ip_protocol", f"a rule without group_id needs one of {', '.join(PROTOCOLS)}.")
    given: dict[str, Any] = {
        "security_group_id": group_id, "direction": "ingress", "protocol": protocol,
        "ethertype": "IPv6" if cidr and ":" in cidr else "IPv4", "remote_group_id": remote,
        "port_range_min": None if low == -1 else low, "port_range_max": None if high == -1 else high,
        "remote_ip_prefix": None if remote else cidr or "0.0.0.0/0"}

    def work(tx: Tx) -> dict[str, Any]:
        group = _found(GROUPS.find, tx, call, group_id)
        attrs = RULES.checked(who, given, creating=True)
        try:
            rule = RULES.create(tx, who, group.project_id, attrs)
        except Problem as problem:
            raise Problem(400 if problem.status == 409 else problem.status, problem.message) from None
        RULES.touched(tx)
        return rule_view(tx, group, rule)

    return reply(200, {"security_group_rule": await guarded(call, work)})


def _protocol(value: Any, place: str) -> str:
    word = value.lower() if isinstance(value, str) else value
    return str(inputs.choice(*PROTOCOLS)(word, place))


async def delete_rule(call: Call) -> Response:
    must_write(call, "os_compute_api:os-security-groups:rule:delete")

    def work(tx: Tx) -> None:
        rule = _found(lambda tx, who, wanted: RULES.mine(tx, who, wanted, "delete"), tx, call, call.params["rule_id"])
        RULES.remove(tx, who_of(call), rule)
        RULES.touched(tx)

    await guarded(call, work)
    return reply(202)


# floating IPs -----------------------------------------------------------------------------------------------------
def _floating(tx: Tx, floating: FloatingIp) -> dict[str, Any]:
    network = tx.get(Network, floating.floating_network_id)
    port = tx.get(Port, floating.port_id) if floating.port_id else None
    return {"id": floating.id, "ip": floating.floating_ip_address, "pool": network.name if network else None,
            "fixed_ip": floating.fixed_ip_address, "instance_id": port.device_id or None if port else None}


async def list_floating(call: Call) -> Response:
    who = who_of(call)

    def work(tx: Tx) -> list[dict[str, Any]]:
        return [_floating(tx, row) for row in FLOATINGIPS.candidates(tx, who, {"project_id": [who.project_id]})]

    return reply(200, {"floating_ips": await call.cloud.db.read(work)})


async def show_floating(call: Call) -> Response:
    view = await call.cloud.db.read(
        lambda tx: _floating(tx, _found(FLOATINGIPS.find, tx, call, call.params["floating_id"])))
    return reply(200, {"floating_ip": view})


def _pools(tx: Tx, call: Call) -> list[Network]:
    return [network for network in NETWORKS.candidates(tx, who_of(call), {}) if network.external]


async def list_pools(call: Call) -> Response:
    pools = await call.cloud.db.read(lambda tx: _pools(tx, call))
    return reply(200, {"floating_ip_pools": [{"name": network.name or network.id} for network in pools]})


async def create_floating(call: Call) -> Response:
    must_write(call, "os_compute_api:os-floating-ips:create")
    body, who = _json(await call.raw()), who_of(call)
    pool = inputs.optional(inputs.string(1))(inputs.mapping(body or {}, "the body").get("pool"), "pool")

    def work(tx: Tx) -> dict[str, Any]:
        pools = [network for network in _pools(tx, call) if pool in (None, network.name, network.id)]
        if not pools:
            raise Problem(404, f"Floating IP pool {pool} was not found." if pool else "There is no floating IP pool.")
        attrs = FLOATINGIPS.checked(who, {"floating_network_id": pools[0].id}, creating=True)
        made = FLOATINGIPS.create(tx, who, FLOATINGIPS.home_of(who, attrs), attrs)
        FLOATINGIPS.touched(tx)
        return _floating(tx, made)

    return reply(200, {"floating_ip": await guarded(call, work)})


def _json(body: bytes) -> Any:
    """A body that may be left out."""
    return plain_json(body) if body.strip() else None


async def delete_floating(call: Call) -> Response:
    must_write(call, "os_compute_api:os-floating-ips:delete")

    def work(tx: Tx) -> None:
        row = _found(lambda tx, who, wanted: FLOATINGIPS.mine(tx, who, wanted, "delete"), tx, call,
                     call.params["floating_id"])
        FLOATINGIPS.remove(tx, who_of(call), row)
        FLOATINGIPS.touched(tx)

    await guarded(call, work)
    return reply(202)


def _by_address(tx: Tx, call: Call, address: str) -> FloatingIp:
    rows = FLOATINGIPS.candidates(tx, who_of(call), {"floating_ip_address": address})
    if not rows:
        raise Problem(404, f"Floating IP {address} was not found.")
    return rows[0]


def _ports(tx: Tx, server_id: str) -> list[Port]:
    return tx.find(Port, device_id=server_id, sort=[("created_at", False), ("id", False)])


async def add_floating(call: Call, value: Any) -> Response:
    """The server action addFloatingIp."""
    fields = Fields(call, value, "addFloatingIp")
    address = fields.take("address", inputs.ip, required=True)
    fixed = fields.take("fixed_address", inputs.ip)
    fields.done()

    def work(tx: Tx) -> None:
        server, row, who = own_server(tx, call), _by_address(tx, call, address), who_of(call)
        taken = {other.fixed_ip_address for other in tx.find(FloatingIp) if other.port_id}
        for port in _ports(tx, server.id):
            inner = [item.ip_address for item in port.fixed_ips if tx.need(Subnet, item.subnet_id).ip_version == 4]
            chosen = next((ip for ip in inner if (ip == fixed if fixed else ip not in taken)), None)
            if chosen is None:
                continue
            attrs = FLOATINGIPS.checked(who, {"port_id": port.id, "fixed_ip_address": chosen}, creating=False)
            try:
                FLOATINGIPS.change_row(tx, who, row, attrs)
            except Problem as problem:
                raise Problem(400, f"Unable to associate floating IP {address}: {problem.message}") from None
            FLOATINGIPS.touched(tx)
            return
        raise Problem(400, f"Instance {server.id} has no fixed IPv4 address that a floating IP could still lead to.")

    await guarded(call, work)
    return reply(202)


async def remove_floating(call: Call, value: Any) -> Response:
    """The server action removeFloatingIp."""
    fields = Fields(call, value, "removeFloatingIp")
    address = fields.take("address", inputs.ip, required=True)
    fields.done()

    def work(tx: Tx) -> None:
        server, row, who = own_server(tx, call), _by_address(tx, call, address), who_of(call)
        if row.port_id not in {port.id for port in _ports(tx, server.id)}:
            raise Problem(409, f"Floating IP {address} is not associated with instance {server.id}.")
        FLOATINGIPS.change_row(tx, who, row, FLOATINGIPS.checked(who, {"port_id": None}, creating=False))
        FLOATINGIPS.touched(tx)

    await guarded(call, work)
    return reply(202)


ACTIONS["addFloatingIp"] = Action(add_floating, "os_compute_api:os-floating-ips:add", until=UNTIL_SERVERS)
ACTIONS["removeFloatingIp"] = Action(remove_floating, "os_compute_api:os-floating-ips:remove", until=UNTIL_SERVERS)

ROUTES = [(method, path, until(handler)) for method, path, handler in (
    ("GET", "/os-networks", list_networks),
    ("POST", "/os-networks", gone),
    ("GET", "/os-networks/{network_id}", show_network),
    ("DELETE", "/os-networks/{network_id}", gone),
    ("GET", "/os-tenant-networks", list_tenant_networks),
    ("POST", "/os-tenant-networks", gone),
    ("GET", "/os-tenant-networks/{network_id}", show_tenant_network),
    ("DELETE", "/os-tenant-networks/{network_id}", gone),
    ("GET", "/os-security-groups", list_groups),
    ("POST", "/os-security-groups", create_group),
    ("DELETE", "/os-security-groups", no_group_id),
    ("GET", "/os-security-groups/{group_id}", show_group),
    ("PUT", "/os-security-groups/{group_id}", update_group),
    ("DELETE", "/os-security-groups/{group_id}", delete_group),
    ("POST", "/os-security-group-rules", create_rule),
    ("DELETE", "/os-security-group-rules/{rule_id}", delete_rule),
    ("GET", "/os-floating-ips", list_floating),
    ("POST", "/os-floating-ips", create_floating),
    ("GET", "/os-floating-ips/{floating_id}", show_floating),
    ("DELETE", "/os-floating-ips/{floating_id}", delete_floating),
    ("GET", "/os-floating-ip-pools", list_pools),
)]
