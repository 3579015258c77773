"""Quota sets and quota classes: the limits of projects, of users in them, and the defaults.

Rules: administrators see and change every project's limits, others see their own project's. A limit below what is in
use is refused unless forced, and a user's limit may not pass its project's. What networks owned once
(floating IPs, security groups) left with 2.36, injected files with 2.57. -1 is unlimited.
"""
from __future__ import annotations

from typing import Any

from starlette.responses import Response

from virga.api.compute import inputs
from virga.api.compute.access import must_admin
from virga.api.compute.inputs import Fields, bad, body_of
from virga.api.compute.paging import known_args
from virga.api.http import Call, reply
from virga.domain.compute import QuotaClassLimit, QuotaLimit
from virga.domain.errors import Problem
from virga.store.db import Tx
from virga.store.quota import default_limits, project_limits, project_usage

NETWORKING = ("fixed_ips", "floating_ips", "security_groups", "security_group_rules")
INJECTED = ("injected_files", "injected_file_content_bytes", "injected_file_path_bytes")
PLAIN = ("instances", "cores", "ram", "metadata_items", "key_pairs", "server_groups", "server_group_members")
LIMIT_MAX = 0x7FFFFFFF


def names(call: Call) -> tuple[str, ...]:
    """The resources there are at the version asked for."""
    known: tuple[str, ...] = PLAIN
    if call.version < (2, 57):
        known += INJECTED
    if call.version < (2, 36):
        known += NETWORKING
    return known


def class_names(call: Call) -> tuple[str, ...]:
    """As `names`, but classes lost what networks own, and learnt of server groups, only with 2.50."""
    if call.version >= (2, 50):
        return names(call)
    return (*(name for name in PLAIN if not name.startswith("server_group")), *INJECTED, *NETWORKING)


def _project(call: Call) -> str:
    """The project of the path. Raises Problem 403 for another project's quota."""
    project_id = call.params["project_id"]
    if not call.caller.sees(project_id):
        raise Problem(403, "Policy doesn't allow os_compute_api:os-quota-sets:show to be performed on another project.")
    return project_id


def _user(call: Call) -> str:
    known_args(call, ("user_id",))
    return call.arg("user_id") or ""


async def show_quota(call: Call) -> Response:
    project_id, user_id = _project(call), _user(call)
    limits = await call.cloud.db.read(lambda tx: project_limits(tx, call.cloud.config, project_id, user_id))
    return reply(200, {"quota_set": {"id": project_id, **{name: limits[name] for name in names(call)}}})


async def show_defaults(call: Call) -> Response:
    limits = await call.cloud.db.read(lambda tx: default_limits(tx, call.cloud.config))
    return reply(200, {"quota_set": {
        "id": call.params["project_id"], **{name: limits[name] for name in names(call)}}})


async def show_detail(call: Call) -> Response:
    project_id, user_id = _project(call), _user(call)

    def work(tx: Tx) -> dict[str, Any]:
        limits = project_limits(tx, call.cloud.config, project_id, user_id)
        usage = project_usage(tx, project_id, user_id)
        return {name: {"limit": limits[name], "in_use": usage[name], "reserved": 0} for name in names(call)}

    return reply(200, {"quota_set": {"id": project_id, **await call.cloud.db.read(work)}})


async def update_quota(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-quota-sets:update")
    project_id, user_id = call.params["project_id"], _user(call)
    fields = Fields(call, await body_of(call, "quota_set"), "quota_set")
    force = fields.take("force", inputs.boolean, False)
    fields.take("tenant_id", inputs.string())
    wanted = {name: fields.take(name, inputs.integer(-1, LIMIT_MAX)) for name in names(call)}
    fields.done()

    def work(tx: Tx) -> dict[str, int]:
        whole = project_limits(tx, call.cloud.config, project_id)
        usage = project_usage(tx, project_id, user_id)
        for name, limit in wanted.items():
            if limit is None:
                continue
            if not force and 0 <= limit < usage[name]:
                raise bad(f"quota_set.{name}", f"{limit} is less than the {usage[name]} in use; use force to set it.")
            if user_id and whole[name] >= 0 and (limit < 0 or limit > whole[name]):
                raise bad(f"quota_set.{name}", f"a user's limit must not pass the project's, {whole[name]}.")
            tx.put(QuotaLimit(project_id, user_id, name, limit))
        return project_limits(tx, call.cloud.config, project_id, user_id)

    limits = await call.cloud.db.run(work)
    return reply(200, {"quota_set": {name: limits[name] for name in names(call)}})


async def delete_quota(call: Call) -> Response:
    """Back to the defaults, for the project with all its users, or for one user."""
    must_admin(call, "os_compute_api:os-quota-sets:delete")
    project_id, user_id = call.params["project_id"], _user(call)

    def work(tx: Tx) -> None:
        if user_id:
            tx.delete_where(QuotaLimit, project_id=project_id, user_id=user_id)
        else:
            tx.delete_where(QuotaLimit, project_id=project_id)

    await call.cloud.db.run(work)
    return reply(202)


async def show_class(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-quota-class-sets:show")
    name = _class_name(call)
    limits = await call.cloud.db.read(lambda tx: default_limits(tx, call.cloud.config, name))
    return reply(200, {"quota_class_set": {"id": name, **{item: limits[item] for item in class_names(call)}}})


async def update_class(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-quota-class-sets:update")
    class_name = _class_name(call)
    fields = Fields(call, await body_of(call, "quota_class_set"), "quota_class_set")
    wanted = {name: fields.take(name, inputs.integer(-1, LIMIT_MAX)) for name in class_names(call)}
    fields.done()

    def work(tx: Tx) -> dict[str, int]:
        for name, limit in wanted.items():
            if limit is not None:
                tx.put(QuotaClassLimit(class_name, name, limit))
        return default_limits(tx, call.cloud.config, class_name)

    limits = await call.cloud.db.run(work)
    return reply(200, {"quota_class_set": {name: limits[name] for name in class_names(call)}})


def _class_name(call: Call) -> str:
    name: str = inputs.string(1)(call.params["class_name"], "quota class")
    return name


ROUTES = [
    ("GET", "/os-quota-sets/{project_id}", show_quota),
    ("PUT", "/os-quota-sets/{project_id}", update_quota),
    ("DELETE", "/os-quota-sets/{project_id}", delete_quota),
    ("GET", "/os-quota-sets/{project_id}/defaults", show_defaults),
    ("GET", "/os-quota-sets/{project_id}/detail", show_detail),
    ("GET", "/os-quota-class-sets/{class_name}", show_class),
    ("PUT", "/os-quota-class-sets/{class_name}", update_class),
]
