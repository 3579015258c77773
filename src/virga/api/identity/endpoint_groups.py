"""Narrowed catalogs: which endpoints the tokens of a project show, one by one or by endpoint group
(OS-EP-FILTER).

Rules: an admin's records. A project nobody narrowed sees every endpoint; one with at least one row sees those
endpoints and the ones its groups choose, by service, region, interface or being enabled. It decides what the
catalog shows, not what may be called.
"""
from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from virga.api.http import Call, reply
from virga.api.identity import endpoints, reach
from virga.api.identity.catalog import endpoints_of
from virga.api.identity.projects import view as project_view
from virga.api.identity.shape import Name255, Text, changes_of, filters, hex_id, incoming, links, listing, write
from virga.domain.errors import Problem
from virga.domain.identity import Endpoint, EndpointGroup, Project, ProjectEndpoint
from virga.store.db import Tx

CONFLICT = "The endpoint group was changed by somebody else meanwhile."
FILTERS: dict[str, type] = {"service_id": str, "region_id": str, "interface": str, "enabled": bool}


class NewGroup(msgspec.Struct):
    name: Name255
    filters: dict[str, Any]
    description: Text | None = None


class GroupChange(msgspec.Struct):
    name: Name255 | UnsetType = UNSET
    filters: dict[str, Any] | UnsetType = UNSET
    description: Text | UnsetType | None = UNSET


def view(call: Call, row: EndpointGroup) -> dict[str, Any]:
    return {"id": row.id, "name": row.name, "description": row.description, "filters": row.filters,
            "links": links(call, "OS-EP-FILTER", "endpoint_groups", row.id)}


def check_filters(given: dict[str, Any]) -> dict[str, Any]:
    """Raises Problem 400 for a filter that could choose nothing."""
    for name, value in given.items():
        if name not in FILTERS or type(value) is not FILTERS[name]:
            raise Problem(400, f"Invalid input for field endpoint_group.filters: {name!r} is none of "
                               f"{', '.join(FILTERS)} or has the wrong type.")
    if given.get("interface", "public") not in {"public", "internal", "admin"}:
        raise Problem(400, "Invalid input for field endpoint_group.filters.interface: expecting public, internal or admin.")
    return given


def find(tx: Tx, call: Call) -> EndpointGroup:
    row = tx.get(EndpointGroup, call.params["group_id"])
    if row is None:
        raise reach.missing("endpoint group", call.params["group_id"])
    return row


async def list_groups(call: Call) -> Response:
    reach.require(reach.sees_all(call.caller), "list_endpoint_groups")
    rows = await call.cloud.db.read(
        lambda tx: tx.find(EndpointGroup, sort=[("name", False), ("id", False)], **filters(call, "name")))
    return listing(call, "endpoint_groups", [view(call, row) for row in rows], ("name",))


async def create_group(call: Call) -> Response:
    reach.require_admin(call.caller, "create_endpoint_group")
    body, _ = await incoming(call, "endpoint_group", NewGroup)
    chosen = check_filters(body.filters)

    def closure(tx: Tx) -> EndpointGroup:
        row = EndpointGroup(hex_id(tx), body.name, body.description, chosen)
        tx.insert(row)
        return row

    return reply(201, {"endpoint_group": view(call, await write(call, CONFLICT, closure))})


async def show_group(call: Call) -> Response:
    reach.require(reach.sees_all(call.caller), "get_endpoint_group")
    return reply(200, {"endpoint_group": view(call, await call.cloud.db.read(lambda tx: find(tx, call)))})


async def update_group(call: Call) -> Response:
    reach.require_admin(call.caller, "update_endpoint_group")
    body, _ = await incoming(call, "endpoint_group", GroupChange)
    if isinstance(body.filters, dict):
        check_filters(body.filters)

    def closure(tx: Tx) -> EndpointGroup:
        row = find(tx, call)
        changes = changes_of(body)
        if changes:
            tx.update(EndpointGroup, row.id, **changes)
        return find(tx, call)

    return reply(200, {"endpoint_group": view(call, await write(call, CONFLICT, closure))})


async def delete_group(call: Call) -> Response:
    reach.require_admin(call.caller, "delete_endpoint_group")

    def closure(tx: Tx) -> None:
        row = find(tx, call)
        tx.delete_where(ProjectEndpoint, kind="group", id=row.id)
        tx.delete(EndpointGroup, row.id)

    await write(call, CONFLICT, closure)
    return reply(204)


async def list_group_endpoints(call: Call) -> Response:
    reach.require(reach.sees_all(call.caller), "list_endpoints_associated_with_endpoint_group")
    rows = await call.cloud.db.read(lambda tx: tx.find(Endpoint, sort=[("id", False)], **find(tx, call).filters))
    return listing(call, "endpoints", [endpoints.view(call, row) for row in rows])


# what a project is narrowed to --------------------------------------------------------------------------------------
def thing(tx: Tx, call: Call) -> tuple[Literal["endpoint", "group"], str]:
    if "group_id" in call.params:
        return "group", find(tx, call).id
    return "endpoint", endpoints.find(tx, call.params["endpoint_id"]).id


def project_of(tx: Tx, call: Call) -> Project:
    row = tx.get(Project, call.params["project_id"])
    if row is None:
        raise reach.missing("project", call.params["project_id"])
    return row


async def add(call: Call) -> Response:
    reach.require_admin(call.caller, "add_endpoint_to_project")

    def closure(tx: Tx) -> None:
        project = project_of(tx, call)
        tx.put(ProjectEndpoint(project.id, *thing(tx, call)))

    await write(call, CONFLICT, closure)
    return reply(204)


def need_row(tx: Tx, call: Call) -> ProjectEndpoint:
    kind, key = thing(tx, call)
    project = project_of(tx, call)
    row = tx.get(ProjectEndpoint, project.id, kind, key)
    if row is None:
        raise Problem(404, f"The endpoint {'group ' if kind == 'group' else ''}{key} is not tied to project {project.id}.")
    return row


async def check(call: Call) -> Response:
    reach.require(reach.sees_all(call.caller), "check_endpoint_in_project")
    row = await call.cloud.db.read(lambda tx: need_row(tx, call))
    if row.kind == "endpoint" or call.method == "HEAD":
        return reply(204)
    return reply(200, {"endpoint_group": view(call, await call.cloud.db.read(lambda tx: find(tx, call)))})


async def remove(call: Call) -> Response:
    reach.require_admin(call.caller, "remove_endpoint_from_project")

    def closure(tx: Tx) -> None:
        row = need_row(tx, call)
        tx.delete(ProjectEndpoint, row.project_id, row.kind, row.id)

    await write(call, CONFLICT, closure)
    return reply(204)


async def list_projects(call: Call) -> Response:
    reach.require(reach.sees_all(call.caller), "list_projects_for_endpoint")

    def closure(tx: Tx) -> list[Project]:
        kind, key = thing(tx, call)
        ids = [row.project_id for row in tx.find(ProjectEndpoint, kind=kind, id=key)]
        return tx.find(Project, id=ids, sort=[("name", False), ("id", False)])

    return listing(call, "projects", [project_view(call, row) for row in await call.cloud.db.read(closure)])


async def list_groups_of_project(call: Call) -> Response:
    reach.require(reach.sees_all(call.caller), "list_endpoint_groups_for_project")

    def closure(tx: Tx) -> list[EndpointGroup]:
        ids = [row.id for row in tx.find(ProjectEndpoint, project_id=project_of(tx, call).id, kind="group")]
        return tx.find(EndpointGroup, id=ids, sort=[("name", False)])

    return listing(call, "endpoint_groups", [view(call, row) for row in await call.cloud.db.read(closure)])


async def list_endpoints_of_project(call: Call) -> Response:
    reach.require(reach.sees_all(call.caller), "list_endpoints_for_project")

    def closure(tx: Tx) -> list[Endpoint]:
        found = endpoints_of(tx, project_of(tx, call).id) or set()
        return tx.find(Endpoint, id=sorted(found), sort=[("id", False)])

    return listing(call, "endpoints", [endpoints.view(call, row) for row in await call.cloud.db.read(closure)])
