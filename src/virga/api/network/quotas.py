"""Quotas of the network API: limits a project has, what it uses, what everybody gets by default.

A project sees its own; only an admin sees others' or changes any. -1 is unlimited.
"""
from __future__ import annotations

from typing import Any

from starlette.responses import Response

from virga.api.http import Call, Service, reply
from virga.api.network import lists
from virga.api.network.bodies import bodies_of
from virga.api.network.fields import Bad, boolean, integer
from virga.api.network.noun import Who, forbidden, guarded, who_of
from virga.domain.errors import Problem
from virga.domain.network import NetworkQuota
from virga.ops import network_quota
from virga.ops.network_quota import COUNTED
from virga.store.db import Tx


def may_see(call: Call) -> tuple[Who, str]:
    who = who_of(call)
    project_id = call.params["project"]
    if not who.admin and project_id != who.project_id:
        raise forbidden("rule:get_quota", "only an admin sees the quotas of other projects")
    return who, project_id


def need_admin(call: Call, verb: str) -> Who:
    who = who_of(call)
    if not who.admin:
        raise forbidden(f"rule:{verb}_quota")
    return who


def limits(tx: Tx, who: Who, project_id: str) -> dict[str, int]:
    return {resource: network_quota.limit_of(tx, who.config.quota, project_id, resource) for resource in COUNTED}


async def on_list(call: Call) -> Response:
    """Projects that have limits of their own."""
    who = need_admin(call, "get")

    def work(tx: Tx) -> list[dict[str, Any]]:
        projects = sorted({row.project_id for row in tx.find(NetworkQuota)})
        return [{"project_id": item, "tenant_id": item, **limits(tx, who, item)} for item in projects]

    views = await call.cloud.db.read(work)
    for name, values in lists.filters_of(call.query, frozenset({"project_id", "tenant_id"})).items():
        views = [view for view in views if lists.meets(view, name, values)]
    return reply(200, {"quotas": [lists.choose(view, call.query) for view in views]})


async def on_show(call: Call) -> Response:
    who, project_id = may_see(call)
    return reply(200, {"quota": await call.cloud.db.read(lambda tx: limits(tx, who, project_id))})


async def on_default(call: Call) -> Response:
    who, _ = may_see(call)
    return reply(200, {"quota": {name: network_quota.default_limit(who.config.quota, name) for name in COUNTED}})


async def on_details(call: Call) -> Response:
    who, project_id = may_see(call)

    def work(tx: Tx) -> dict[str, Any]:
        return {name: {"limit": limit, "used": network_quota.used(tx, project_id, name), "reserved": 0}
                for name, limit in limits(tx, who, project_id).items()}

    return reply(200, {"quota": await call.cloud.db.read(work)})


async def on_tenant(call: Call) -> Response:
    who = who_of(call)
    return reply(200, {"tenant": {"tenant_id": who.project_id, "project_id": who.project_id}})


async def on_update(call: Call) -> Response:
    who = need_admin(call, "update")
    project_id = call.params["project"]
    body = bodies_of(await call.json(), "quota", "quotas", False)[0]
    if not isinstance(body, dict):
        raise Problem(400, "Invalid input for quota. Reason: a dictionary is expected.", "HTTPBadRequest")
    wished: dict[str, int] = {}
    check = False
    for name, value in body.items():
        try:
            if name in ("tenant_id", "project_id"):
                continue
            if name in ("force", "check_limit"):
                check = boolean(value) if name == "check_limit" else check
                continue
            if name not in COUNTED:
                raise Problem(400, f"Unrecognized attribute(s) '{name[:80]}'", "HTTPBadRequest")
            wished[name] = integer(-1)(value)
        except Bad as bad:
            raise Problem(400, f"Invalid input for {name}. Reason: {bad}.", "HTTPBadRequest") from bad

    def work(tx: Tx) -> dict[str, int]:
        for name, value in wished.items():
            have = network_quota.used(tx, project_id, name) if check else 0
            if check and value != network_quota.UNLIMITED and have > value:
                raise Problem(400, f"Invalid input for operation: quota limit for {name} is below its usage of {have}.", "InvalidInput")
            tx.put(NetworkQuota(project_id, name, value))
        return limits(tx, who, project_id)

    return reply(200, {"quota": await guarded(call, work)})


async def on_delete(call: Call) -> Response:
    """Back to the defaults. 404 where there was nothing to take back."""
    need_admin(call, "delete")
    project_id = call.params["project"]

    def work(tx: Tx) -> None:
        if not tx.delete_where(NetworkQuota, project_id=project_id):
            raise Problem(404, f"Quota for tenant {project_id[:80]} could not be found.", "TenantQuotaNotFound")

    await guarded(call, work)
    return reply(204)


def mount(service: Service) -> None:
    one = "/v2.0/quotas/{project}"
    service.table([
        ("GET", "/v2.0/quotas", on_list), ("GET", "/v2.0/quotas/tenant", on_tenant), ("GET", "/v2.0/quotas/project", on_tenant),
        ("GET", one, on_show), ("GET", one + "/default", on_default), ("GET", one + "/details", on_details),
        ("GET", one + "/details.json", on_details), ("PUT", one, on_update), ("DELETE", one, on_delete),
    ])
