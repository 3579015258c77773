"""Domains: the outermost owners of users, groups and projects.

Rules: a domain is deleted only when it is disabled, and takes everything in it along. Disabling ends every
token that stands on it.
"""
from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from virga.api.http import Call, reply
from virga.api.identity import reach, removal, revoke
from virga.api.identity.projects import PROJECT_OPTIONS, check_tags
from virga.api.identity.shape import (
    Id,
    Name64,
    Text,
    changes_of,
    check_mutable,
    filters,
    given,
    hex_id,
    incoming,
    links,
    listing,
    merged_options,
    write,
)
from virga.domain.errors import Problem
from virga.domain.identity import Project
from virga.store.db import Tx

CONFLICT = "There is another domain of this name."


class NewDomain(msgspec.Struct):
    name: Name64
    description: Text | None = ""
    enabled: bool = True
    options: dict[str, Any] = {}
    tags: list[str] = []
    explicit_domain_id: Id | None = None


class DomainChange(msgspec.Struct):
    name: Name64 | UnsetType = UNSET
    description: Text | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    options: dict[str, Any] | UnsetType = UNSET
    tags: list[str] | UnsetType = UNSET


def view(call: Call, row: Project) -> dict[str, Any]:
    return {**row.extra, "id": row.id, "name": row.name, "description": row.description, "enabled": row.enabled,
            "tags": row.tags, "options": row.options, "links": links(call, "domains", row.id)}


def find(tx: Tx, call: Call, action: str) -> Project:
    key = call.params["domain_id"]
    row = tx.get(Project, key)
    if row is None or not row.is_domain:
        reach.require(reach.sees_all(call.caller), action)
        raise reach.missing("domain", key)
    return row


async def list_domains(call: Call) -> Response:
    only = reach.list_domain(call.caller, "list_domains")
    conditions = filters(call, "name", "id")
    rows = await call.cloud.db.read(
        lambda tx: tx.find(Project, is_domain=True, sort=[("name", False), ("id", False)], **conditions))
    return listing(call, "domains", [view(call, row) for row in rows if only is None or row.id == only],
                   ("name", "enabled", "description"))


async def create_domain(call: Call) -> Response:
    reach.require_admin(call.caller, "create_domain")
    body, extra = await incoming(call, "domain", NewDomain)
    options = merged_options("domain", {}, body.options, PROJECT_OPTIONS)
    check_tags(body.tags)
    check_id(body.explicit_domain_id)

    def closure(tx: Tx) -> Project:
        row = Project(body.explicit_domain_id or hex_id(tx), body.name, "", "", True, body.description or "",
                      body.enabled, body.tags, options, extra, tx.now)
        tx.insert(row)
        return row

    row = await write(call, CONFLICT, closure)
    return reply(201, {"domain": view(call, row)})


def check_id(text: str | None) -> None:
    """An id chosen by the client (so that two clouds can share it) has identity's usual form."""
    if text is not None and (len(text) != 32 or set(text) - set("0123456789abcdef")):
        raise Problem(400, "Invalid input for field domain.explicit_domain_id: expected 32 hexadecimal digits.")


async def show_domain(call: Call) -> Response:
    caller = call.caller

    def closure(tx: Tx) -> Project:
        # One's own domain may be looked at with any token, so that clients can show its name.
        own = {caller.domain_id, caller.project_domain_id}
        row = find(tx, call, "get_domain")
        reach.require(row.id in own or reach.sees_domain(caller, row.id), "get_domain")
        return row

    return reply(200, {"domain": view(call, await call.cloud.db.read(closure))})


async def update_domain(call: Call) -> Response:
    reach.require_admin(call.caller, "update_domain")
    body, extra = await incoming(call, "domain", DomainChange)
    check_tags(given(body.tags, []))

    def closure(tx: Tx) -> Project:
        row = find(tx, call, "update_domain")
        changes = changes_of(body)
        check_mutable("domain", row.options, changes)
        if "options" in changes:
            changes["options"] = merged_options("domain", row.options, changes["options"], PROJECT_OPTIONS)
        if "description" in changes:
            changes["description"] = changes["description"] or ""
        tx.update(Project, row.id, **changes, extra={**row.extra, **extra})
        if row.enabled and body.enabled is False:
            revoke.of_domain(tx, row.id)
        return tx.need(Project, row.id)

    return reply(200, {"domain": view(call, await write(call, CONFLICT, closure))})


async def delete_domain(call: Call) -> Response:
    reach.require_admin(call.caller, "delete_domain")

    def closure(tx: Tx) -> None:
        row = find(tx, call, "delete_domain")
        check_mutable("domain", row.options, None)
        removal.delete_domain(tx, row)

    await write(call, CONFLICT, closure)
    return reply(204)
