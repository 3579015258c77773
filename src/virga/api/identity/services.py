"""Services of the catalog: what kinds of API there are. An admin's records; `enabled` false takes one out of
every catalog.
"""
from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from virga.api.http import Call, reply
from virga.api.identity import reach
from virga.api.identity.shape import Name255, Text, changes_of, filters, hex_id, incoming, links, listing, write
from virga.domain.identity import CatalogService, Endpoint, ProjectEndpoint
from virga.store.db import Tx

CONFLICT = "There is another service of this id."


class NewService(msgspec.Struct):
    type: Name255
    name: Text | None = ""
    description: Text | None = None
    enabled: bool = True


class ServiceChange(msgspec.Struct):
    type: Name255 | UnsetType = UNSET
    name: Text | UnsetType = UNSET
    description: Text | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET


def view(call: Call, row: CatalogService) -> dict[str, Any]:
    shown = {**row.extra, "id": row.id, "type": row.type, "name": row.name, "enabled": row.enabled,
             "links": links(call, "services", row.id)}
    if row.description is not None:
        shown["description"] = row.description
    return shown


def find(tx: Tx, key: str) -> CatalogService:
    row = tx.get(CatalogService, key)
    if row is None:
        raise reach.missing("service", key)
    return row


async def list_services(call: Call) -> Response:
    reach.require(reach.sees_all(call.caller), "list_services")
    rows = await call.cloud.db.read(
        lambda tx: tx.find(CatalogService, sort=[("type", False), ("id", False)], **filters(call, "type", "name")))
    return listing(call, "services", [view(call, row) for row in rows], ("type", "name", "enabled"))


async def create_service(call: Call) -> Response:
    reach.require_admin(call.caller, "create_service")
    body, extra = await incoming(call, "service", NewService)

    def closure(tx: Tx) -> CatalogService:
        row = CatalogService(hex_id(tx), body.type, body.name or "", body.description, body.enabled, extra)
        tx.insert(row)
        return row

    return reply(201, {"service": view(call, await write(call, CONFLICT, closure))})


async def show_service(call: Call) -> Response:
    reach.require(reach.sees_all(call.caller), "get_service")
    row = await call.cloud.db.read(lambda tx: find(tx, call.params["service_id"]))
    return reply(200, {"service": view(call, row)})


async def update_service(call: Call) -> Response:
    reach.require_admin(call.caller, "update_service")
    body, extra = await incoming(call, "service", ServiceChange)

    def closure(tx: Tx) -> CatalogService:
        row = find(tx, call.params["service_id"])
        tx.update(CatalogService, row.id, **changes_of(body), extra={**row.extra, **extra})
        return find(tx, row.id)

    return reply(200, {"service": view(call, await write(call, CONFLICT, closure))})


async def delete_service(call: Call) -> Response:
    reach.require_admin(call.caller, "delete_service")

    def closure(tx: Tx) -> None:
        row = find(tx, call.params["service_id"])
        for endpoint in tx.find(Endpoint, service_id=row.id):
            tx.delete_where(ProjectEndpoint, kind="endpoint", id=endpoint.id)
        tx.delete_where(Endpoint, service_id=row.id)
        tx.delete(CatalogService, row.id)

    await write(call, CONFLICT, closure)
    return reply(204)
