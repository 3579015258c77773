"""Who holds which role where: the grants by path, and the list of assignments.

Owns: PUT, HEAD (and GET), DELETE of .../{users|groups}/{id}/roles/{id} below projects, domains and the system,
the OS-INHERIT twins, and GET /role_assignments with its filters, `effective`, `include_names` and
`include_subtree`.
Rules: granting twice is harmless; taking away what is not there is 404. Taking away ends the tokens that may
rest on it. A domain's manager grants manager, member and reader inside its domain only. `effective` shows users
instead of groups, projects instead of inheritance, and implied roles next to their origin.
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from starlette.responses import Response

from virga.api.http import Call, reply
from virga.api.identity import reach, revoke
from virga.api.identity.roles import view as role_view
from virga.api.identity.shape import flag, link, links, listing, write
from virga.domain.errors import Problem
from virga.domain.identity import (
    SYSTEM,
    ActorKind,
    Assignment,
    Group,
    Membership,
    Project,
    Role,
    Target,
    User,
    implied_by,
)
from virga.store.db import Tx
from virga.store.identity import implications, subtree

CONFLICT = "The same assignment was made by somebody else meanwhile; ask again."


class Named(msgspec.Struct):
    """What a grant's path names, looked up and allowed."""

    actor: User | Group
    target: Target
    role: Role | None

    def row(self, inherited: bool) -> Assignment:
        assert self.role is not None
        kind: ActorKind = "user" if isinstance(self.actor, User) else "group"
        return Assignment(kind, self.actor.id, self.target.kind, self.target.id, self.role.id, inherited)


def is_inherited(call: Call) -> bool:
    return "/OS-INHERIT/" in call.path


def place(tx: Tx, call: Call, action: str) -> tuple[Target, str | None]:
    """The target of a path and the domain it is in (None: the system)."""
    if "project_id" in call.params:
        project = reach.found(tx, call.caller, Project, "project", call.params["project_id"], action)
        if not project.is_domain:
            return Target("project", project.id), project.domain_id
        raise reach.missing("project", project.id)
    if "domain_id" in call.params:
        domain = reach.found(tx, call.caller, Project, "domain", call.params["domain_id"], action)
        if not domain.is_domain:
            raise reach.missing("domain", domain.id)
        return Target("domain", domain.id), domain.id
    return Target("system", SYSTEM), None


def named(tx: Tx, call: Call, action: str, write_it: bool) -> Named:
    """Everything a grant's path names. Raises Problem 404, and 403 when the caller may not do this here."""
    caller = call.caller
    target, domain_id = place(tx, call, action)
    actor: User | Group
    if "user_id" in call.params:
        actor = reach.found(tx, caller, User, "user", call.params["user_id"], action)
    else:
        actor = reach.found(tx, caller, Group, "group", call.params["group_id"], action)
    role = None
    if "role_id" in call.params:
        role = reach.found(tx, caller, Role, "role", call.params["role_id"], action)
    if domain_id is None:
        reach.require(caller.is_admin if write_it else reach.sees_all(caller), action)
    elif write_it:
        reach.require(reach.manages(caller, domain_id) and reach.manages(caller, actor.domain_id), action)
        if not caller.is_admin:
            reach.require(role is not None and role.domain_id in {"", domain_id} and role.name in reach.MANAGED_ROLES, action)
    else:
        reach.require(reach.sees_domain(caller, domain_id), action)
    if write_it and role is not None and role.domain_id and role.domain_id != domain_id and call.method == "PUT":
        raise Problem(403, f"Role {role.name} belongs to another domain and cannot be assigned here.")
    return Named(actor, target, role)


async def grant(call: Call) -> Response:
    await write(call, CONFLICT, lambda tx: tx.put(named(tx, call, "create_grant", True).row(is_inherited(call))))
    return reply(204)


def need_assignment(tx: Tx, call: Call, action: str, write_it: bool) -> Assignment:
    row = named(tx, call, action, write_it).row(is_inherited(call))
    if not tx.count(Assignment, **{name: getattr(row, name) for name in row.__struct_fields__}):
        raise Problem(404, f"Could not find an assignment of role {row.role_id} to {row.actor_kind} {row.actor_id} "
                           f"on {row.target_kind} {row.target_id}.")
    return row


async def check_grant(call: Call) -> Response:
    await call.cloud.db.read(lambda tx: need_assignment(tx, call, "check_grant", False))
    return reply(204)


async def take_away(call: Call) -> Response:
    def closure(tx: Tx) -> None:
        row = need_assignment(tx, call, "revoke_grant", True)
        tx.delete_where(Assignment, **{name: getattr(row, name) for name in row.__struct_fields__})
        revoke.of_assignment(tx, row)

    await write(call, CONFLICT, closure)
    return reply(204)


async def list_grants(call: Call) -> Response:
    """The roles held directly (or, below OS-INHERIT, passed on) by one actor on one target."""

    def closure(tx: Tx) -> list[Role]:
        found = named(tx, call, "list_grants", False)
        rows = tx.find(
            Assignment, actor_kind="user" if isinstance(found.actor, User) else "group", actor_id=found.actor.id,
            target_kind=found.target.kind, target_id=found.target.id, inherited=is_inherited(call))
        return tx.find(Role, id=[row.role_id for row in rows], sort=[("name", False), ("id", False)])

    rows = await call.cloud.db.read(closure)
    return listing(call, "roles", [role_view(call, row) for row in rows], ("name",))


# the list -----------------------------------------------------------------------------------------------------------
class Held(msgspec.Struct):
    """One line of the list. `group_id`, `prior_id` and `from_id` tell where an effective one comes from."""

    row: Assignment
    group_id: str | None = None
    prior_id: str | None = None
    source: Assignment | None = None


def expand_groups(tx: Tx, rows: Iterable[Held]) -> list[Held]:
    out: list[Held] = []
    for held in rows:
        if held.row.actor_kind == "user":
            out.append(held)
            continue
        for member in tx.find(Membership, group_id=held.row.actor_id):
            row = msgspec.structs.replace(held.row, actor_kind="user", actor_id=member.user_id)
            out.append(Held(row, held.row.actor_id, None, held.row))
    return out


def expand_inherited(tx: Tx, rows: Iterable[Held]) -> list[Held]:
    out: list[Held] = []
    below: dict[str, list[Project]] = {}
    for held in rows:
        if not held.row.inherited:
            out.append(held)
            continue
        if held.row.target_id not in below:
            below[held.row.target_id] = subtree(tx, held.row.target_id)
        for project in below[held.row.target_id]:
            row = msgspec.structs.replace(held.row, target_kind="project", target_id=project.id, inherited=False)
            out.append(Held(row, held.group_id, None, held.source or held.row))
    return out


def expand_implied(tx: Tx, rows: Iterable[Held]) -> list[Held]:
    """What is implied stands beside its origin; a domain's own role disappears after it has been expanded."""
    table = implications(tx)
    local = {role.id for role in tx.find(Role) if role.domain_id}
    out: list[Held] = []
    seen: set[tuple[str, ...]] = set()
    for held in rows:
        for role_id, prior_id in implied_by([held.row.role_id], table).items():
            key = (held.row.actor_id, held.row.target_kind, held.row.target_id, role_id)
            if role_id in local or (key in seen and role_id != held.row.role_id):
                continue
            seen.add(key)
            row = msgspec.structs.replace(held.row, role_id=role_id)
            out.append(Held(row, held.group_id, prior_id if prior_id != role_id else None, held.source or held.row))
    return out


def wanted(call: Call, tx: Tx, effective: bool) -> list[Held]:
    """The assignments the query asks for."""
    user_id, group_id, role_id = call.arg("user.id"), call.arg("group.id"), call.arg("role.id")
    if user_id is not None and group_id is not None:
        raise Problem(400, "Specify either user.id or group.id, not both.")
    if effective and group_id is not None:
        raise Problem(400, "With effective there are no groups in the list: specify user.id instead of group.id.")
    conditions: dict[str, Any] = {}
    if user_id is not None and not effective:
        conditions = {"actor_kind": "user", "actor_id": user_id}
    elif user_id is not None:
        groups = [member.group_id for member in tx.find(Membership, user_id=user_id)]
        conditions = {"actor_id": [user_id, *groups]}
    elif group_id is not None:
        conditions = {"actor_kind": "group", "actor_id": group_id}
    rows = [Held(row) for row in tx.find(Assignment, **conditions)]
    if effective:
        rows = expand_implied(tx, expand_inherited(tx, expand_groups(tx, rows)))
        if user_id is not None:
            rows = [held for held in rows if held.row.actor_id == user_id]
    if role_id is not None:
        rows = [held for held in rows if held.row.role_id == role_id]
    targets = wanted_targets(call, tx)
    if targets is not None:
        rows = [held for held in rows if Target(held.row.target_kind, held.row.target_id) in targets]
    if call.arg("scope.OS-INHERIT:inherited_to") is not None:
        rows = [held for held in rows if (held.source or held.row).inherited]
    return rows


def wanted_targets(call: Call, tx: Tx) -> set[Target] | None:
    """The scopes asked for; None means all. Raises Problem 400 for a contradiction."""
    project_id, domain_id, system = call.arg("scope.project.id"), call.arg("scope.domain.id"), call.arg("scope.system")
    if sum(item is not None for item in (project_id, domain_id, system)) > 1:
        raise Problem(400, "Specify only one of scope.project.id, scope.domain.id and scope.system.")
    if flag(call, "include_subtree"):
        if project_id is None:
            raise Problem(400, "include_subtree needs scope.project.id.")
        return {Target("project", project_id), *(Target("project", row.id) for row in subtree(tx, project_id))}
    if project_id is not None:
        return {Target("project", project_id)}
    if domain_id is not None:
        return {Target("domain", domain_id)}
    return None if system is None else {Target("system", SYSTEM)}


class Names:
    """Names of everything a list of assignments mentions, each looked up once."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self._kept: dict[tuple[type, str], Any] = {}

    def get(self, kind: type, key: str) -> Any:
        if (kind, key) not in self._kept:
            self._kept[kind, key] = self._tx.get(kind, key)
        return self._kept[kind, key]

    def about(self, kind: type, key: str, with_domain: bool = True) -> dict[str, Any]:
        row = self.get(kind, key)
        if row is None:
            return {"id": key}
        shown: dict[str, Any] = {"id": key, "name": row.name}
        domain = self.get(Project, row.domain_id) if with_domain and row.domain_id else None
        if domain is not None:
            shown["domain"] = {"id": domain.id, "name": domain.name}
        return shown


def line(call: Call, held: Held, effective: bool, names: Names | None) -> dict[str, Any]:
    """One assignment as the API shows it."""
    row = held.row

    def about(kind: type, key: str) -> dict[str, Any]:
        return {"id": key} if names is None else names.about(kind, key)

    shown: dict[str, Any] = {"role": about(Role, row.role_id)}
    shown[row.actor_kind] = about(User if row.actor_kind == "user" else Group, row.actor_id)
    scope: dict[str, Any] = {"system": {"all": True}} if row.target_kind == "system" else {
        row.target_kind: about(Project, row.target_id)}
    origin = held.source or row
    if origin.inherited:
        scope["OS-INHERIT:inherited_to"] = "projects"
    shown["scope"] = scope
    shown["links"] = {"assignment": assignment_link(call, origin)}
    if effective and held.prior_id is not None:
        shown["links"]["prior_role"] = link(call, "prior_roles", held.prior_id, "implies", row.role_id)
    if effective and held.group_id is not None:
        shown["links"]["membership"] = link(call, "groups", held.group_id, "users", row.actor_id)
    return shown


def assignment_link(call: Call, row: Assignment) -> str:
    where = ("system",) if row.target_kind == "system" else (f"{row.target_kind}s", row.target_id)
    path = (*where, f"{row.actor_kind}s", row.actor_id, "roles", row.role_id)
    return link(call, "OS-INHERIT", *path, "inherited_to_projects") if row.inherited else link(call, *path)


async def list_assignments(call: Call) -> Response:
    caller = call.caller
    effective = flag(call, "effective")
    tree = flag(call, "include_subtree")

    def closure(tx: Tx) -> list[dict[str, Any]]:
        rows = wanted(call, tx, effective)
        if not reach.sees_all(caller):
            reach.require(caller.domain_id is not None and "reader" in caller.roles,
                          "list_role_assignments_for_tree" if tree else "list_role_assignments")
            mine = {caller.domain_id, *(row.id for row in tx.find(Project, domain_id=caller.domain_id))}
            rows = [held for held in rows if held.row.target_id in mine]
        names = Names(tx) if flag(call, "include_names") else None
        return [line(call, held, effective, names) for held in rows]

    shown = await call.cloud.db.read(closure)
    return reply(200, {"role_assignments": shown,
                       "links": {"self": links(call, "role_assignments")["self"], "next": None, "previous": None}})
