"""Groups of users; an assignment to a group counts for each of its members.

Rules: names are unique in a domain. Leaving a group, or its deletion, ends the tokens of those who left, since
their roles may have come from it.
"""
from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from virga.api.http import Call, reply
from virga.api.identity import reach, revoke
from virga.api.identity.projects import home_domain, need_domain
from virga.api.identity.shape import (
    Id,
    Name64,
    Text,
    changes_of,
    filters,
    hex_id,
    incoming,
    links,
    listing,
    write,
)
from virga.api.identity.users import find as find_user
from virga.api.identity.users import view as user_view
from virga.domain.errors import Problem
from virga.domain.identity import Assignment, Group, Membership, User
from virga.store.db import Tx
from virga.store.identity import holds_admin

CONFLICT = "There is another group of this name in the domain."


class NewGroup(msgspec.Struct):
    name: Name64
    description: Text | None = ""
    domain_id: Id | None = None


class GroupChange(msgspec.Struct):
    name: Name64 | UnsetType = UNSET
    description: Text | UnsetType | None = UNSET
    domain_id: Id | UnsetType = UNSET


def view(call: Call, row: Group) -> dict[str, Any]:
    return {**row.extra, "id": row.id, "name": row.name, "description": row.description, "domain_id": row.domain_id,
            "links": links(call, "groups", row.id)}


def find(tx: Tx, call: Call, action: str, write_it: bool = False) -> Group:
    row = reach.found(tx, call.caller, Group, "group", call.params["group_id"], action)
    reach.require((reach.manages if write_it else reach.sees_domain)(call.caller, row.domain_id), action)
    return row


async def list_groups(call: Call) -> Response:
    only = reach.list_domain(call.caller, "list_groups")
    conditions = filters(call, "name", "domain_id")
    reach.require(only is None or conditions.get("domain_id", only) == only, "list_groups")
    if only is not None:
        conditions["domain_id"] = only
    rows = await call.cloud.db.read(lambda tx: tx.find(Group, sort=[("name", False), ("id", False)], **conditions))
    return listing(call, "groups", [view(call, row) for row in rows], ("name", "domain_id", "description"))


async def create_group(call: Call) -> Response:
    body, extra = await incoming(call, "group", NewGroup)
    domain_id = home_domain(call, body.domain_id)
    reach.require(reach.manages(call.caller, domain_id), "create_group")

    def closure(tx: Tx) -> Group:
        need_domain(tx, domain_id, "group.domain_id")
        row = Group(hex_id(tx), body.name, domain_id, body.description or "", extra, tx.now)
        tx.insert(row)
        return row

    return reply(201, {"group": view(call, await write(call, CONFLICT, closure))})


async def show_group(call: Call) -> Response:
    return reply(200, {"group": view(call, await call.cloud.db.read(lambda tx: find(tx, call, "get_group")))})


async def update_group(call: Call) -> Response:
    body, extra = await incoming(call, "group", GroupChange)

    def closure(tx: Tx) -> Group:
        row = find(tx, call, "update_group", write_it=True)
        changes = changes_of(body)
        if changes.pop("domain_id", row.domain_id) != row.domain_id:
            raise Problem(400, "Invalid input for field group.domain_id: a group cannot change its domain.")
        if "description" in changes:
            changes["description"] = changes["description"] or ""
        tx.update(Group, row.id, **changes, extra={**row.extra, **extra})
        return tx.need(Group, row.id)

    return reply(200, {"group": view(call, await write(call, CONFLICT, closure))})


async def delete_group(call: Call) -> Response:
    def closure(tx: Tx) -> None:
        row = find(tx, call, "delete_group", write_it=True)
        for member in tx.find(Membership, group_id=row.id):
            revoke.of_user(tx, member.user_id)
        tx.delete_where(Membership, group_id=row.id)
        tx.delete_where(Assignment, actor_kind="group", actor_id=row.id)
        tx.delete(Group, row.id)

    await write(call, CONFLICT, closure)
    return reply(204)


# members ------------------------------------------------------------------------------------------------------------
async def list_members(call: Call) -> Response:
    def closure(tx: Tx) -> list[User]:
        row = find(tx, call, "list_users_in_group")
        ids = [member.user_id for member in tx.find(Membership, group_id=row.id)]
        return tx.find(User, id=ids, sort=[("name", False), ("id", False)])

    rows = await call.cloud.db.read(closure)
    return listing(call, "users", [user_view(call, row) for row in rows], ("name", "enabled", "domain_id"))


def member(tx: Tx, call: Call, action: str, write_it: bool) -> tuple[Group, User]:
    group = find(tx, call, action, write_it)
    user = reach.found(tx, call.caller, User, "user", call.params["user_id"], action)
    reach.require(not write_it or reach.manages(call.caller, user.domain_id), action)
    return group, user


async def add_member(call: Call) -> Response:
    def closure(tx: Tx) -> None:
        group, user = member(tx, call, "add_user_to_group", write_it=True)
        if not call.caller.is_admin:
            reach.require(not holds_admin(tx, "group", group.id), "add_user_to_group")
        tx.put(Membership(group.id, user.id))

    await write(call, CONFLICT, closure)
    return reply(204)


def need_member(tx: Tx, call: Call, action: str, write_it: bool) -> Membership:
    group, user = member(tx, call, action, write_it)
    row = tx.get(Membership, group.id, user.id)
    if row is None:
        raise Problem(404, f"User {user.id} is not in group {group.id}.")
    return row


async def check_member(call: Call) -> Response:
    await call.cloud.db.read(lambda tx: need_member(tx, call, "check_user_in_group", False))
    return reply(204)


async def remove_member(call: Call) -> Response:
    def closure(tx: Tx) -> None:
        row = need_member(tx, call, "remove_user_from_group", True)
        tx.delete(Membership, row.group_id, row.user_id)
        revoke.of_user(tx, row.user_id)

    await write(call, CONFLICT, closure)
    return reply(204)


async def list_user_groups(call: Call) -> Response:
    def closure(tx: Tx) -> list[Group]:
        row = find_user(tx, call, "list_groups_for_user", own=True)
        ids = [member.group_id for member in tx.find(Membership, user_id=row.id)]
        return tx.find(Group, id=ids, sort=[("name", False), ("id", False)])

    rows = await call.cloud.db.read(closure)
    return listing(call, "groups", [view(call, row) for row in rows], ("name",))
