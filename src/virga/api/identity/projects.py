"""Projects: what owns servers, networks and images; and their tags.

Rules: names are unique in a domain; projects lie below one another at most five deep, the domain counted. A
project whose children are enabled cannot be disabled, and one with children cannot be deleted. Disabling or
deleting ends its tokens. What a deleted project owned in other services stays there, as in every OpenStack
cloud: the operator removes it first.
"""
from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from virga.api.http import Call, reply
from virga.api.identity import reach, removal, revoke
from virga.api.identity.shape import (
    Id,
    Name64,
    Text,
    changes_of,
    check_mutable,
    filters,
    flag,
    given,
    hex_id,
    incoming,
    link,
    links,
    listing,
    merged_options,
    write,
)
from virga.domain.errors import Problem
from virga.domain.identity import DEFAULT_DOMAIN_ID, Project, Target
from virga.store.db import Tx
from virga.store.identity import DEPTH_MAX, ancestors, subtree

PROJECT_OPTIONS: dict[str, type] = {"immutable": bool}
TAGS_MAX = 80
TAG_CHARS_MAX = 255
CONFLICT = "There is another project of this name in the domain."
ATTRIBUTES = ("name", "domain_id", "parent_id", "enabled", "is_domain", "description")


class NewProject(msgspec.Struct):
    name: Name64
    description: Text | None = ""
    enabled: bool = True
    domain_id: Id | None = None
    parent_id: Id | None = None
    is_domain: bool = False
    options: dict[str, Any] = {}
    tags: list[str] = []


class ProjectChange(msgspec.Struct):
    name: Name64 | UnsetType = UNSET
    description: Text | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    domain_id: Id | UnsetType | None = UNSET
    parent_id: Id | UnsetType | None = UNSET
    is_domain: bool | UnsetType = UNSET
    options: dict[str, Any] | UnsetType = UNSET
    tags: list[str] | UnsetType = UNSET


class NewTags(msgspec.Struct):
    tags: list[str]


def view(call: Call, row: Project) -> dict[str, Any]:
    return {
        **row.extra, "id": row.id, "name": row.name, "description": row.description, "enabled": row.enabled,
        "domain_id": row.domain_id or None, "parent_id": row.parent_id or None, "is_domain": row.is_domain,
        "tags": row.tags, "options": row.options, "links": links(call, "projects", row.id)}


def check_tags(tags: list[str]) -> None:
    """Raises Problem 400 for a tag no URL could name, or too many."""
    if len(tags) > TAGS_MAX:
        raise Problem(400, f"Invalid input for field tags: at most {TAGS_MAX} are kept.")
    for tag in tags:
        if not 0 < len(tag) <= TAG_CHARS_MAX or "/" in tag or "," in tag:
            raise Problem(400, f"Invalid input for field tags: {tag[:80]!r} has no or over {TAG_CHARS_MAX} characters, "
                               "or a slash or a comma.")
    if len(set(tags)) != len(tags):
        raise Problem(400, "Invalid input for field tags: the same tag twice.")


def find(tx: Tx, call: Call, action: str, write_it: bool = False) -> Project:
    """The project of the path that the caller may see (or, `write_it`, manage)."""
    caller = call.caller
    row = reach.found(tx, caller, Project, "project", call.params["project_id"], action)
    if write_it:
        reach.require(reach.manages(caller, row.domain_id or row.id), action)
    else:
        own = row.id == caller.project_id or (row.is_domain and row.id == caller.domain_id)
        reach.require(own or reach.sees_domain(caller, row.domain_id or row.id), action)
    return row


def has_tags(call: Call, tags: list[str]) -> bool:
    """The four tag filters: all of, any of, not all of, not any of."""
    have = set(tags)
    for name, passes in (
        ("tags", lambda want: want <= have), ("tags-any", lambda want: bool(want & have)),
        ("not-tags", lambda want: not want <= have), ("not-tags-any", lambda want: not want & have),
    ):
        text = call.arg(name)
        if text is not None and not passes(set(text.split(","))):
            return False
    return True


async def list_projects(call: Call) -> Response:
    only = reach.list_domain(call.caller, "list_projects")
    conditions = filters(call, "name", "domain_id", "parent_id")
    reach.require(only is None or conditions.get("domain_id", only) == only, "list_projects")
    if only is not None:
        conditions["domain_id"] = only
    if call.arg("is_domain") is not None:
        conditions["is_domain"] = flag(call, "is_domain")
    else:
        conditions["is_domain"] = False
    rows = await call.cloud.db.read(
        lambda tx: tx.find(Project, sort=[("name", False), ("id", False)], **conditions))
    return listing(call, "projects", [view(call, row) for row in rows if has_tags(call, row.tags)], ATTRIBUTES)


def home_domain(call: Call, asked: str | None) -> str:
    """The domain of a new thing whose domain was not named: that of the token, else the first one."""
    caller = call.caller
    return asked or caller.domain_id or caller.project_domain_id or DEFAULT_DOMAIN_ID


def need_domain(tx: Tx, domain_id: str, field: str) -> Project:
    row = tx.get(Project, domain_id)
    if row is None or not row.is_domain:
        raise Problem(404, f"Could not find domain: {domain_id} (field {field}).")
    return row


async def create_project(call: Call) -> Response:
    body, extra = await incoming(call, "project", NewProject)
    options = merged_options("project", {}, body.options, PROJECT_OPTIONS)
    check_tags(body.tags)

    def closure(tx: Tx) -> Project:
        if body.is_domain:
            return create_acting_as_domain(tx, call, body, options, extra)
        parent = None if body.parent_id is None else tx.get(Project, body.parent_id)
        domain_id = body.domain_id
        if domain_id is None and parent is not None:
            domain_id = parent.id if parent.is_domain else parent.domain_id
        domain_id = home_domain(call, domain_id)
        reach.require(reach.manages(call.caller, domain_id), "create_project")
        need_domain(tx, domain_id, "project.domain_id")
        if body.parent_id is not None and parent is None:
            raise Problem(404, f"Could not find project: {body.parent_id} (field project.parent_id).")
        if parent is not None:
            check_parent(tx, parent, domain_id, body.enabled)
        row = Project(hex_id(tx), body.name, domain_id, body.parent_id or domain_id, False, body.description or "",
                      body.enabled, body.tags, options, extra, tx.now)
        tx.insert(row)
        return row

    return reply(201, {"project": view(call, await write(call, CONFLICT, closure))})


def create_acting_as_domain(
    tx: Tx, call: Call, body: NewProject, options: dict[str, Any], extra: dict[str, Any]
) -> Project:
    """`is_domain`: the same as making a domain."""
    reach.require_admin(call.caller, "create_project")
    if body.domain_id is not None or body.parent_id is not None:
        raise Problem(400, "Invalid input for field project.is_domain: a project acting as a domain has no domain or parent.")
    row = Project(hex_id(tx), body.name, "", "", True, body.description or "", body.enabled, body.tags, options, extra, tx.now)
    tx.insert(row)
    return row


def check_parent(tx: Tx, parent: Project, domain_id: str, enabled: bool) -> None:
    if (parent.id if parent.is_domain else parent.domain_id) != domain_id:
        raise Problem(400, "Invalid input for field project.parent_id: it is in another domain than domain_id says.")
    if enabled and not parent.enabled:
        raise Problem(403, f"Cannot create an enabled project below the disabled project {parent.id}.")
    if len(ancestors(tx, parent)) + 2 > DEPTH_MAX:
        raise Problem(403, f"The project tree may be {DEPTH_MAX} deep, the domain counted; this would be deeper.")


async def show_project(call: Call) -> Response:
    def closure(tx: Tx) -> dict[str, Any]:
        row = find(tx, call, "get_project")
        shown = view(call, row)
        above = ancestors(tx, row)
        if flag(call, "parents_as_list") or flag(call, "subtree_as_list"):
            if flag(call, "parents_as_list"):
                shown["parents"] = [{"project": view(call, item)} for item in above if visible(tx, call, item)]
            if flag(call, "subtree_as_list"):
                shown["subtree"] = [{"project": view(call, item)} for item in subtree(tx, row.id) if visible(tx, call, item)]
        if flag(call, "parents_as_ids"):
            nested: dict[str, Any] | None = None
            for item in reversed(above):
                nested = {item.id: nested}
            shown["parents"] = nested
        if flag(call, "subtree_as_ids"):
            shown["subtree"] = ids_below(subtree(tx, row.id), row.id)
        return shown

    return reply(200, {"project": await call.cloud.db.read(closure)})


def visible(tx: Tx, call: Call, row: Project) -> bool:
    """Whether a relative of a shown project may be shown in full."""
    return reach.sees_domain(call.caller, row.domain_id or row.id) or row.id == call.caller.project_id


def ids_below(rows: list[Project], root_id: str) -> dict[str, Any] | None:
    """The tree as nested ids; None for a leaf."""
    children = {row.id: ids_below(rows, row.id) for row in rows if row.parent_id == root_id}
    return children or None


async def update_project(call: Call) -> Response:
    body, extra = await incoming(call, "project", ProjectChange)
    check_tags(given(body.tags, []))

    def closure(tx: Tx) -> Project:
        row = find(tx, call, "update_project", write_it=True)
        changes = changes_of(body)
        if changes.pop("domain_id", row.domain_id or None) != (row.domain_id or None):
            raise Problem(400, "Invalid input for field project.domain_id: a project cannot change its domain.")
        if changes.pop("is_domain", row.is_domain) != row.is_domain:
            raise Problem(400, "Invalid input for field project.is_domain: it cannot be changed.")
        if changes.pop("parent_id", row.parent_id or None) != (row.parent_id or None):
            raise Problem(403, "A project cannot change its parent.")
        check_mutable("project", row.options, changes)
        if "options" in changes:
            changes["options"] = merged_options("project", row.options, changes["options"], PROJECT_OPTIONS)
        if "description" in changes:
            changes["description"] = changes["description"] or ""
        check_enabling(tx, row, changes.get("enabled", row.enabled))
        tx.update(Project, row.id, **changes, extra={**row.extra, **extra})
        if row.enabled and body.enabled is False:
            if row.is_domain:
                revoke.of_domain(tx, row.id)
            revoke.of_scope(tx, Target("project", row.id))
        return tx.need(Project, row.id)

    return reply(200, {"project": view(call, await write(call, CONFLICT, closure))})


def check_enabling(tx: Tx, row: Project, enabled: bool) -> None:
    """An enabled project lies below enabled ones only. Raises Problem 403."""
    if row.is_domain or enabled == row.enabled:
        return
    if enabled and any(not above.enabled for above in ancestors(tx, row)):
        raise Problem(403, f"Cannot enable project {row.id} since a project above it is disabled.")
    if not enabled and any(below.enabled for below in subtree(tx, row.id)):
        raise Problem(403, f"Cannot disable project {row.id} since its subtree contains enabled projects.")


async def delete_project(call: Call) -> Response:
    def closure(tx: Tx) -> None:
        row = find(tx, call, "delete_project", write_it=True)
        check_mutable("project", row.options, None)
        if row.is_domain:
            removal.delete_domain(tx, row)
            return
        if tx.count(Project, parent_id=row.id):
            raise Problem(403, f"Cannot delete project {row.id} since it is not a leaf: delete the projects below it first.")
        removal.delete_project(tx, row.id)

    await write(call, CONFLICT, closure)
    return reply(204)


# tags ---------------------------------------------------------------------------------------------------------------
async def list_tags(call: Call) -> Response:
    row = await call.cloud.db.read(lambda tx: find(tx, call, "list_project_tags"))
    return reply(200, {"tags": row.tags, "links": links(call, "projects", row.id, "tags")})


async def set_tags(call: Call) -> Response:
    body = await call.body(NewTags)
    check_tags(body.tags)

    def closure(tx: Tx) -> Project:
        row = find(tx, call, "update_project_tags", write_it=True)
        tx.update(Project, row.id, tags=body.tags)
        return row

    row = await write(call, CONFLICT, closure)
    return reply(200, {"tags": body.tags, "links": links(call, "projects", row.id, "tags")})


async def delete_tags(call: Call) -> Response:
    await write(call, CONFLICT, lambda tx: tx.update(
        Project, find(tx, call, "delete_project_tags", write_it=True).id, tags=[]))
    return reply(204)


async def show_tag(call: Call) -> Response:
    row = await call.cloud.db.read(lambda tx: find(tx, call, "get_project_tag"))
    if call.params["tag"] not in row.tags:
        raise reach.missing("project tag", call.params["tag"])
    return reply(204)


async def add_tag(call: Call) -> Response:
    tag = call.params["tag"]

    def closure(tx: Tx) -> Project:
        row = find(tx, call, "create_project_tag", write_it=True)
        if tag not in row.tags:
            check_tags([*row.tags, tag])
            tx.update(Project, row.id, tags=[*row.tags, tag])
        return row

    row = await write(call, CONFLICT, closure)
    return reply(201, None, {"Location": link(call, "projects", row.id, "tags", tag)} if tag.isascii() else None)


async def delete_tag(call: Call) -> Response:
    tag = call.params["tag"]

    def closure(tx: Tx) -> None:
        row = find(tx, call, "delete_project_tag", write_it=True)
        if tag not in row.tags:
            raise reach.missing("project tag", tag)
        tx.update(Project, row.id, tags=[item for item in row.tags if item != tag])

    await write(call, CONFLICT, closure)
    return reply(204)
