"""Server groups: servers that want to be together or apart.

Rules: a group belongs to a project; its members are the servers that named it when they were made. Until 2.63 a group
has a list of one policy and empty metadata, from 2.64 on one `policy` and `rules` (max_server_per_host, for
anti-affinity only). The soft policies came with 2.15.
"""
from __future__ import annotations

from typing import Any

from starlette.responses import Response

from virga.api.compute import inputs
from virga.api.compute.access import must_write, project_of
from virga.api.compute.inputs import Fields, bad, body_of
from virga.api.compute.paging import LIMIT_MAX, known_args, limit_of
from virga.api.http import Call, reply
from virga.domain.compute import POLICIES, ServerGroup
from virga.domain.errors import Problem
from virga.domain.server import Server
from virga.store.db import Tx
from virga.store.quota import project_limits


def _view(call: Call, group: ServerGroup, members: list[str]) -> dict[str, Any]:
    view: dict[str, Any] = {"id": group.id, "name": group.name, "members": members}
    if call.version >= (2, 64):
        view |= {"policy": group.policy, "rules": group.rules}
    else:
        view |= {"policies": [group.policy], "metadata": {}}
    if call.version >= (2, 13):
        view |= {"project_id": group.project_id, "user_id": group.user_id}
    return view


def _members(tx: Tx, group: ServerGroup) -> list[str]:
    return [server.id for server in tx.find(
        Server, server_group_id=group.id, deleted_at=None, sort=[("created_at", False)])]


def _need(tx: Tx, call: Call) -> ServerGroup:
    group = tx.get(ServerGroup, call.params["group_id"])
    if group is None or not call.caller.sees(group.project_id):
        raise Problem(404, f"Instance group {call.params['group_id']} could not be found.")
    return group


async def list_groups(call: Call) -> Response:
    known_args(call, ("all_projects", "limit", "offset"))
    conditions: dict[str, Any] = {}
    if not (call.arg("all_projects") is not None and call.caller.is_admin):
        conditions["project_id"] = project_of(call)
    offset = inputs.integer(0)(call.arg("offset", "0"), "offset")
    limit = limit_of(call) if call.arg("limit") is not None else LIMIT_MAX

    def work(tx: Tx) -> list[dict[str, Any]]:
        groups = tx.find(ServerGroup, sort=[("created_at", False), ("id", False)], **conditions)
        return [_view(call, group, _members(tx, group)) for group in groups[offset:offset + limit]]

    return reply(200, {"server_groups": await call.cloud.db.read(work)})


def _policies(call: Call, fields: Fields) -> tuple[str, dict[str, Any]]:
    """The one policy and its rules, in the words of the version asked for."""
    known = POLICIES if call.version >= (2, 15) else POLICIES[:2]
    policy = fields.take("policy", inputs.choice(*POLICIES), since=(2, 64), required=True)
    policies = fields.take("policies", inputs.items, until=(2, 63), required=True)
    rules = fields.take("rules", inputs.mapping, {}, since=(2, 64))
    if policies is not None:
        if len(policies) != 1:
            raise bad("server_group.policies", "give exactly one policy.")
        policy = inputs.choice(*known)(policies[0], "server_group.policies")
    if rules:
        inside = Fields(call, rules, "server_group.rules")
        most = inside.take("max_server_per_host", inputs.integer(1))
        inside.done()
        if most is not None and policy != "anti-affinity":
            raise bad("server_group.rules", "only the anti-affinity policy has rules.")
        rules = {"max_server_per_host": most}
    return str(policy), rules


async def create_group(call: Call) -> Response:
    must_write(call, "os_compute_api:os-server-groups:create")
    project_id = project_of(call)
    fields = Fields(call, await body_of(call, "server_group"), "server_group")
    name = fields.take("name", inputs.name, required=True)
    policy, rules = _policies(call, fields)
    fields.done()

    def work(tx: Tx) -> ServerGroup:
        limit = project_limits(tx, call.cloud.config, project_id)["server_groups"]
        if 0 <= limit <= tx.count(ServerGroup, project_id=project_id):
            raise Problem(403, f"Quota exceeded, too many server groups: at most {limit}.")
        group = ServerGroup(tx.new_id(), project_id, call.caller.user_id, name, policy, rules, tx.now)
        tx.insert(group)
        return group

    return reply(200, {"server_group": _view(call, await call.cloud.db.run(work), [])})


async def show_group(call: Call) -> Response:
    def work(tx: Tx) -> dict[str, Any]:
        group = _need(tx, call)
        return _view(call, group, _members(tx, group))

    return reply(200, {"server_group": await call.cloud.db.read(work)})


async def delete_group(call: Call) -> Response:
    must_write(call, "os_compute_api:os-server-groups:delete")
    await call.cloud.db.run(lambda tx: tx.delete(ServerGroup, _need(tx, call).id))
    return reply(204)


ROUTES = [
    ("GET", "/os-server-groups", list_groups),
    ("POST", "/os-server-groups", create_group),
    ("GET", "/os-server-groups/{group_id}", show_group),
    ("DELETE", "/os-server-groups/{group_id}", delete_group),
]
