"""Regions: names for places, nested; endpoints belong to one. Everybody may look."""
from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.responses import Response

from virga.api.http import Call, reply
from virga.api.identity import reach
from virga.api.identity.shape import Text, changes_of, filters, hex_id, incoming, links, listing, write
from virga.domain.errors import Problem
from virga.domain.identity import Endpoint, Region
from virga.store.db import Tx

RegionId = Annotated[str, Meta(max_length=255)]
CONFLICT = "There is another region of this id."


class NewRegion(msgspec.Struct):
    id: RegionId | None = None
    description: Text | None = ""
    parent_region_id: RegionId | None = None


class RegionChange(msgspec.Struct):
    description: Text | UnsetType | None = UNSET
    parent_region_id: RegionId | UnsetType | None = UNSET


def view(call: Call, row: Region) -> dict[str, Any]:
    return {**row.extra, "id": row.id, "description": row.description, "parent_region_id": row.parent_region_id,
            "links": links(call, "regions", row.id)}


def find(tx: Tx, key: str) -> Region:
    row = tx.get(Region, key)
    if row is None:
        raise reach.missing("region", key)
    return row


async def list_regions(call: Call) -> Response:
    rows = await call.cloud.db.read(lambda tx: tx.find(Region, sort=[("id", False)], **filters(call, "parent_region_id")))
    return listing(call, "regions", [view(call, row) for row in rows], ("id", "description"))


async def create_region(call: Call) -> Response:
    """POST, and PUT with the id in the path."""
    reach.require_admin(call.caller, "create_region")
    body, extra = await incoming(call, "region", NewRegion)
    asked = call.params.get("region_id") or body.id
    if asked is not None and body.id is not None and body.id != asked:
        raise Problem(400, "Invalid input for field region.id: it differs from the id in the path.")
    if asked is not None and not (0 < len(asked) <= 255):
        raise Problem(400, "Invalid input for field region.id: expected 1 to 255 characters.")

    def closure(tx: Tx) -> Region:
        if body.parent_region_id is not None:
            find(tx, body.parent_region_id)
        row = Region(asked or hex_id(tx), body.parent_region_id, body.description or "", extra)
        tx.insert(row)
        return row

    return reply(201, {"region": view(call, await write(call, CONFLICT, closure))})


async def show_region(call: Call) -> Response:
    row = await call.cloud.db.read(lambda tx: find(tx, call.params["region_id"]))
    return reply(200, {"region": view(call, row)})


async def update_region(call: Call) -> Response:
    reach.require_admin(call.caller, "update_region")
    body, extra = await incoming(call, "region", RegionChange)

    def closure(tx: Tx) -> Region:
        row = find(tx, call.params["region_id"])
        changes = changes_of(body)
        if "description" in changes:
            changes["description"] = changes["description"] or ""
        above = changes.get("parent_region_id")
        while above is not None:
            if above == row.id:
                raise Problem(400, "Invalid input for field region.parent_region_id: a region cannot be below itself.")
            above = find(tx, above).parent_region_id
        tx.update(Region, row.id, **changes, extra={**row.extra, **extra})
        return find(tx, row.id)

    return reply(200, {"region": view(call, await write(call, CONFLICT, closure))})


async def delete_region(call: Call) -> Response:
    reach.require_admin(call.caller, "delete_region")

    def closure(tx: Tx) -> None:
        row = find(tx, call.params["region_id"])
        if tx.count(Endpoint, region_id=row.id) or tx.count(Region, parent_region_id=row.id):
            raise Problem(403, f"Region {row.id} has endpoints or regions below it; remove them first.")
        tx.delete(Region, row.id)

    await write(call, CONFLICT, closure)
    return reply(204)
