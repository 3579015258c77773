"""Roles, and which role implies which.

Rules: only an admin makes and changes roles. The first cloud's roles are immutable. A role may imply global
roles, never itself by a detour and never admin; what it implies comes with it wherever it is held. A domain's
own role can be assigned in that domain only and shows in tokens as what it implies.
"""
from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from virga.api.http import Call, Caller, reply
from virga.api.identity import reach
from virga.api.identity.projects import need_domain
from virga.api.identity.shape import (
    Id,
    Name255,
    Text,
    changes_of,
    check_mutable,
    filters,
    hex_id,
    incoming,
    links,
    listing,
    merged_options,
    write,
)
from virga.domain.errors import Problem
from virga.domain.identity import Implication, Role, would_cycle
from virga.store.db import Exists, Tx
from virga.store.identity import forget_role, implications

ROLE_OPTIONS: dict[str, type] = {"immutable": bool}
CONFLICT = "There is another role of this name."


class NewRole(msgspec.Struct):
    name: Name255
    domain_id: Id | None = None
    description: Text | None = None
    options: dict[str, Any] = {}


class RoleChange(msgspec.Struct):
    name: Name255 | UnsetType = UNSET
    domain_id: Id | UnsetType | None = UNSET
    description: Text | UnsetType | None = UNSET
    options: dict[str, Any] | UnsetType = UNSET


def view(call: Call, row: Role) -> dict[str, Any]:
    return {**row.extra, "id": row.id, "name": row.name, "domain_id": row.domain_id or None, "description": row.description,
            "options": row.options, "links": links(call, "roles", row.id)}


def may_look(caller: Caller) -> bool:
    """A domain's manager must see the roles it hands out."""
    return reach.sees_all(caller) or (caller.domain_id is not None and "manager" in caller.roles)


def find(tx: Tx, call: Call, action: str, key: str, write_it: bool = False) -> Role:
    reach.require(call.caller.is_admin if write_it else may_look(call.caller), action)
    row = tx.get(Role, key)
    if row is None:
        raise reach.missing("role", key)
    return row


async def list_roles(call: Call) -> Response:
    reach.require(may_look(call.caller), "list_roles")
    conditions: dict[str, Any] = {"domain_id": "", **filters(call, "name", "domain_id")}
    rows = await call.cloud.db.read(lambda tx: tx.find(Role, sort=[("name", False), ("id", False)], **conditions))
    return listing(call, "roles", [view(call, row) for row in rows], ("name", "description"))


async def create_role(call: Call) -> Response:
    reach.require_admin(call.caller, "create_role")
    body, extra = await incoming(call, "role", NewRole)
    options = merged_options("role", {}, body.options, ROLE_OPTIONS)

    def closure(tx: Tx) -> Role:
        if body.domain_id is not None:
            need_domain(tx, body.domain_id, "role.domain_id")
        row = Role(hex_id(tx), body.name, body.domain_id or "", body.description, options, extra, tx.now)
        tx.insert(row)
        return row

    return reply(201, {"role": view(call, await write(call, CONFLICT, closure))})


async def show_role(call: Call) -> Response:
    row = await call.cloud.db.read(lambda tx: find(tx, call, "get_role", call.params["role_id"]))
    return reply(200, {"role": view(call, row)})


async def update_role(call: Call) -> Response:
    body, extra = await incoming(call, "role", RoleChange)

    def closure(tx: Tx) -> Role:
        row = find(tx, call, "update_role", call.params["role_id"], write_it=True)
        changes = changes_of(body)
        if changes.pop("domain_id", row.domain_id or None) != (row.domain_id or None):
            raise Problem(400, "Invalid input for field role.domain_id: a role cannot change its domain.")
        check_mutable("role", row.options, changes)
        if "options" in changes:
            changes["options"] = merged_options("role", row.options, changes["options"], ROLE_OPTIONS)
        tx.update(Role, row.id, **changes, extra={**row.extra, **extra})
        return tx.need(Role, row.id)

    return reply(200, {"role": view(call, await write(call, CONFLICT, closure))})


async def delete_role(call: Call) -> Response:
    def closure(tx: Tx) -> None:
        row = find(tx, call, "delete_role", call.params["role_id"], write_it=True)
        check_mutable("role", row.options, None)
        forget_role(tx, row.id)
        tx.delete(Role, row.id)

    await write(call, CONFLICT, closure)
    return reply(204)


# implications -------------------------------------------------------------------------------------------------------
def short(call: Call, row: Role) -> dict[str, Any]:
    return {"id": row.id, "name": row.name, "domain_id": row.domain_id or None, "links": links(call, "roles", row.id)}


def pair(tx: Tx, call: Call, action: str, write_it: bool = False) -> tuple[Role, Role]:
    return (find(tx, call, action, call.params["role_id"], write_it),
            find(tx, call, action, call.params["implied_id"], write_it))


def inference(call: Call, prior: Role, implied: Role) -> Response:
    where = links(call, "roles", prior.id, "implies", implied.id)
    status = 201 if call.method == "PUT" else 200
    return reply(status, {"role_inference": {"prior_role": short(call, prior), "implies": short(call, implied)}, "links": where})


async def list_implied(call: Call) -> Response:
    def closure(tx: Tx) -> tuple[Role, list[Role]]:
        prior = find(tx, call, "list_implied_roles", call.params["role_id"])
        ids = [row.implied_id for row in tx.find(Implication, prior_id=prior.id)]
        return prior, tx.find(Role, id=ids, sort=[("name", False)])

    prior, implied = await call.cloud.db.read(closure)
    return reply(200, {
        "role_inference": {"prior_role": short(call, prior), "implies": [short(call, row) for row in implied]},
        "links": links(call, "roles", prior.id, "implies")})


async def add_implied(call: Call) -> Response:
    def closure(tx: Tx) -> tuple[Role, Role]:
        prior, implied = pair(tx, call, "create_implied_role", write_it=True)
        if implied.domain_id and not prior.domain_id:
            raise Problem(403, f"Role {implied.name} belongs to a domain and cannot be implied by a global role.")
        if implied.name == "admin":
            raise Problem(403, "The role admin cannot be implied by another.")
        if would_cycle(prior.id, implied.id, implications(tx)):
            raise Problem(400, f"Role {implied.name} already implies role {prior.name}; roles cannot imply themselves.")
        try:
            tx.insert(Implication(prior.id, implied.id))
        except Exists as error:
            raise Problem(409, f"Role {prior.name} implies role {implied.name} already.") from error
        return prior, implied

    return inference(call, *await write(call, CONFLICT, closure))


def need_implication(tx: Tx, call: Call, action: str, write_it: bool = False) -> tuple[Role, Role]:
    prior, implied = pair(tx, call, action, write_it)
    if tx.get(Implication, prior.id, implied.id) is None:
        raise Problem(404, f"Role {prior.name} does not imply role {implied.name}.")
    return prior, implied


async def show_implied(call: Call) -> Response:
    prior, implied = await call.cloud.db.read(lambda tx: need_implication(tx, call, "get_implied_role"))
    return reply(204) if call.method == "HEAD" else inference(call, prior, implied)


async def remove_implied(call: Call) -> Response:
    def closure(tx: Tx) -> None:
        prior, implied = need_implication(tx, call, "delete_implied_role", write_it=True)
        tx.delete(Implication, prior.id, implied.id)

    await write(call, CONFLICT, closure)
    return reply(204)


async def list_inferences(call: Call) -> Response:
    def closure(tx: Tx) -> tuple[dict[str, list[str]], dict[str, Role]]:
        reach.require(may_look(call.caller), "list_role_inference_rules")
        return implications(tx), {row.id: row for row in tx.find(Role)}

    table, roles = await call.cloud.db.read(closure)
    return reply(200, {
        "role_inferences": [
            {"prior_role": short(call, roles[prior]), "implies": [short(call, roles[item]) for item in implied]}
            for prior, implied in table.items()],
        "links": links(call, "role_inferences")})
