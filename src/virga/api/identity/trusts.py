"""Trusts: one user lets another use some of its roles on a project, for a while, under its name or the other's.

Rules: only the trustor makes one, from a token that is not itself delegated, and gives no role it lacks on that
project. Trustor and trustee may look, the trustor (or an admin) ends it. A trust is worth nothing as soon as
the trustor loses one of its roles, and its tokens die with it. There is no redelegation: what would ask for it
is refused.
"""
from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.responses import Response

from virga.api.http import Call, reply
from virga.api.identity import reach, removal
from virga.api.identity.roles import short as short_role
from virga.api.identity.session import Session
from virga.api.identity.shape import Id, Name255, filters, hex_id, incoming, links, listing, moment, stamp, write
from virga.domain.errors import Problem
from virga.domain.identity import Project, Role, Target, Trust, User
from virga.store.db import Tx
from virga.store.identity import roles_on

CONFLICT = "The trust was changed by somebody else meanwhile."


class RoleRef(msgspec.Struct):
    id: Id | None = None
    name: Name255 | None = None


class NewTrust(msgspec.Struct):
    trustor_user_id: Id
    trustee_user_id: Id
    impersonation: bool
    project_id: Id | None = None
    roles: list[RoleRef] = []
    expires_at: str | None = None
    remaining_uses: Annotated[int, Meta(ge=1, le=1 << 31)] | None = None
    allow_redelegation: bool = False
    redelegation_count: int | None = None


def view(call: Call, row: Trust) -> dict[str, Any]:
    return {
        "id": row.id, "trustor_user_id": row.trustor_user_id, "trustee_user_id": row.trustee_user_id,
        "project_id": row.project_id, "impersonation": row.impersonation, "remaining_uses": row.remaining_uses,
        "expires_at": stamp(row.expires_at), "deleted_at": None, "redelegation_count": 0, "redelegated_trust_id": None,
        "links": links(call, "OS-TRUST", "trusts", row.id)}


def full_view(tx: Tx, call: Call, row: Trust) -> dict[str, Any]:
    roles = tx.find(Role, id=row.role_ids, sort=[("name", False)])
    where = {**links(call, "OS-TRUST", "trusts", row.id, "roles"), "next": None, "previous": None}
    return {**view(call, row), "roles": [short_role(call, role) for role in roles], "roles_links": where}


def chosen(tx: Tx, trustor_id: str, project_id: str, asked: list[RoleRef]) -> list[str]:
    """The ids of the roles to give. Raises Problem 403 for one the trustor does not hold there."""
    held = roles_on(tx, trustor_id, Target("project", project_id))
    ids = []
    for ref in asked:
        match = [role.id for role in held if role.id == ref.id or (ref.id is None and role.name == ref.name)]
        if not match:
            raise Problem(403, f"You do not hold the role {ref.id or ref.name!r} on project {project_id}.")
        ids.append(match[0])
    return list(dict.fromkeys(ids))


async def create_trust(call: Call) -> Response:
    body, _ = await incoming(call, "trust", NewTrust)
    session: Session = call.caller.token
    reach.require(body.trustor_user_id == call.caller.user_id, "create_trust (only for oneself as trustor)")
    if session.trust is not None or session.application_credential is not None:
        raise Problem(403, "A token made with a trust or an application credential cannot make a trust.")
    if body.allow_redelegation or body.redelegation_count:
        raise Problem(403, "Redelegation of trusts is not offered by this cloud.")
    if body.project_id is None or not body.roles:
        raise Problem(400, "Invalid input for field trust: expecting to find project_id and at least one of roles.")
    project_id = body.project_id
    expires_at = None if body.expires_at is None else moment(body.expires_at, "trust.expires_at")
    if expires_at is not None and expires_at <= call.cloud.env.now():
        raise Problem(400, "Invalid input for field trust.expires_at: it lies in the past.")

    def closure(tx: Tx) -> dict[str, Any]:
        if tx.get(User, body.trustee_user_id) is None:
            raise reach.missing("user", body.trustee_user_id)
        if tx.get(Project, project_id) is None:
            raise reach.missing("project", project_id)
        row = Trust(hex_id(tx), body.trustor_user_id, body.trustee_user_id, project_id, body.impersonation,
                    chosen(tx, body.trustor_user_id, project_id, body.roles), body.remaining_uses, expires_at, tx.now)
        tx.insert(row)
        return full_view(tx, call, row)

    return reply(201, {"trust": await write(call, CONFLICT, closure)})


def find(tx: Tx, call: Call, action: str) -> Trust:
    """A trust the caller takes part in (or may see as an operator); an expired one is gone. Raises Problem 404, 403."""
    row = tx.get(Trust, call.params["trust_id"])
    if row is None:
        raise reach.missing("trust", call.params["trust_id"])
    own = call.caller.user_id in {row.trustor_user_id, row.trustee_user_id}
    reach.require(own or reach.sees_all(call.caller), action)
    if row.expires_at is not None and row.expires_at <= tx.now:
        raise reach.missing("trust", row.id)
    return row


async def list_trusts(call: Call) -> Response:
    conditions = filters(call, "trustor_user_id", "trustee_user_id")
    own = call.caller.user_id in conditions.values()
    reach.require(own or reach.sees_all(call.caller), "list_trusts")
    rows = await call.cloud.db.read(lambda tx: [
        row for row in tx.find(Trust, sort=[("created_at", False), ("id", False)], **conditions)
        if row.expires_at is None or row.expires_at > tx.now])
    return listing(call, "trusts", [view(call, row) for row in rows])


async def show_trust(call: Call) -> Response:
    def closure(tx: Tx) -> dict[str, Any]:
        return full_view(tx, call, find(tx, call, "get_trust"))

    return reply(200, {"trust": await call.cloud.db.read(closure)})


async def delete_trust(call: Call) -> Response:
    def closure(tx: Tx) -> None:
        row = find(tx, call, "delete_trust")
        reach.require(row.trustor_user_id == call.caller.user_id or call.caller.is_admin, "delete_trust")
        removal.delete_trust(tx, row.id)

    await write(call, CONFLICT, closure)
    return reply(204)


async def list_trust_roles(call: Call) -> Response:
    rows = await call.cloud.db.read(lambda tx: tx.find(
        Role, id=find(tx, call, "list_roles_for_trust").role_ids, sort=[("name", False)]))
    return listing(call, "roles", [short_role(call, row) for row in rows])


async def show_trust_role(call: Call) -> Response:
    def closure(tx: Tx) -> dict[str, Any]:
        trust = find(tx, call, "get_role_for_trust")
        role = tx.get(Role, call.params["role_id"]) if call.params["role_id"] in trust.role_ids else None
        if role is None:
            raise reach.missing("role of the trust", call.params["role_id"])
        return short_role(call, role)

    return reply(200, {"role": await call.cloud.db.read(closure)})
