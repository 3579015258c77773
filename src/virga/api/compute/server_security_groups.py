"""A server's security groups: which its ports have, and one more or one less on all of them.

The groups themselves live in the network API. Rules: a group is named by name or id within the project; 404 for an
unknown one, 409 for an ambiguous name. Ports without port security, or without an address, carry no groups and are
passed over, as Nova does.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from virga.api.compute.inputs import Fields, string
from virga.api.compute.server_actions import ACTIONS, Action
from virga.api.compute.server_interfaces import ports_of
from virga.api.compute.servers import own_server
from virga.api.http import Call, reply
from virga.domain.errors import Problem
from virga.domain.network import SecurityGroup, SecurityGroupRule
from virga.domain.port import Port
from virga.domain.server import Server
from virga.ops.ports import touched
from virga.store.db import Tx


def find_group(tx: Tx, server: Server, name: str) -> SecurityGroup:
    """The group in the server's project. Raises Problem 404 or 409."""
    by_id = tx.get(SecurityGroup, name)
    if by_id is not None and by_id.project_id == server.project_id:
        return by_id
    groups = tx.find(SecurityGroup, project_id=server.project_id, name=name)
    if len(groups) > 1:
        raise Problem(409, f"Multiple security groups found matching '{name}'. Use an ID to be more specific.")
    if not groups:
        raise Problem(404, f"Security group {name} not found for project {server.project_id}.")
    return groups[0]


async def list_groups(call: Call) -> Response:
    def work(tx: Tx) -> list[dict[str, Any]]:
        ids = dict.fromkeys(
            group_id for port in ports_of(tx, own_server(tx, call)) for group_id in port.security_groups
        )
        groups = [tx.get(SecurityGroup, group_id) for group_id in ids]
        return [_view(tx, group) for group in groups if group is not None]

    return reply(200, {"security_groups": await call.cloud.db.read(work)})


def _view(tx: Tx, group: SecurityGroup) -> dict[str, Any]:
    rules = tx.find(SecurityGroupRule, security_group_id=group.id, direction="ingress")
    return {
        "id": group.id,
        "name": group.name,
        "description": group.description,
        "tenant_id": group.project_id,
        "rules": [rule_view(tx, group, rule) for rule in rules],
    }


def rule_view(tx: Tx, group: SecurityGroup, rule: SecurityGroupRule) -> dict[str, Any]:
    """A rule as the compute API has always written it: ingress only, IPv4 words."""
    other = tx.get(SecurityGroup, rule.remote_group_id) if rule.remote_group_id else None
    wide = "::/0" if rule.ethertype == "IPv6" else "0.0.0.0/0"
    return {
        "id": rule.id,
        "parent_group_id": group.id,
        "ip_protocol": rule.protocol,
        "from_port": rule.port_range_min,
        "to_port": rule.port_range_max,
        "group": {"name": other.name, "tenant_id": other.project_id} if other else {},
        "ip_range": {} if other else {"cidr": rule.remote_ip_prefix or wide},
    }


def _read(call: Call, value: Any, place: str) -> str:
    fields = Fields(call, value, place)
    name = fields.take("name", string(1), required=True)
    fields.done()
    return str(name)


async def add_group(call: Call, value: Any) -> Response:
    name = _read(call, value, "addSecurityGroup")

    def work(tx: Tx) -> None:
        server = own_server(tx, call)
        group = find_group(tx, server, name)
        ports = [port for port in ports_of(tx, server) if port.port_security_enabled and port.fixed_ips]
        if not ports:
            raise Problem(
                400,
                "Network requires port_security_enabled and subnet associated in order to apply security "
                f"groups: instance {server.id} has no such port.",
            )
        for port in ports:
            if group.id not in port.security_groups:
                _set(tx, port, [*port.security_groups, group.id])

    await call.cloud.db.run(work)
    return reply(202)


async def remove_group(call: Call, value: Any) -> Response:
    name = _read(call, value, "removeSecurityGroup")

    def work(tx: Tx) -> None:
        server = own_server(tx, call)
        group = find_group(tx, server, name)
        ports = [port for port in ports_of(tx, server) if group.id in port.security_groups]
        if not ports:
            raise Problem(404, f"Security group {name} is not associated with instance {server.id}.")
        for port in ports:
            _set(tx, port, [group_id for group_id in port.security_groups if group_id != group.id])

    await call.cloud.db.run(work)
    return reply(202)


def _set(tx: Tx, port: Port, groups: list[str]) -> None:
    tx.update(Port, port.id, security_groups=groups, updated_at=tx.now, revision_number=port.revision_number + 1)
    touched(tx, port.id)


ACTIONS["addSecurityGroup"] = Action(add_group, "os_compute_api:os-security-groups:add")
ACTIONS["removeSecurityGroup"] = Action(remove_group, "os_compute_api:os-security-groups:remove")
ROUTES = [("GET", "/servers/{server_id}/os-security-groups", list_groups)]
