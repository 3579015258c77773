"""Endpoints of the catalog: where a service answers, per interface and region. An admin's records.

Rules: the service must exist; naming a `region` (the older field) makes that region, naming a `region_id` wants
it there already. A URL may hold the catalog's variables and no others, since what is not filled in would reach
clients as it stands. A disabled endpoint leaves every catalog at once, because tokens compute theirs when they
are shown.
"""
from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.responses import Response

from virga.api.http import Call, reply
from virga.api.identity import reach
from virga.api.identity.catalog import shown_url
from virga.api.identity.shape import Id, changes_of, filters, hex_id, incoming, links, listing, write
from virga.domain.errors import Problem
from virga.domain.identity import CatalogService, Endpoint, ProjectEndpoint, Region
from virga.store.db import Tx

Interface = Literal["public", "internal", "admin"]
Url = Annotated[str, Meta(min_length=1, max_length=2048, pattern=r"\S")]
RegionId = Annotated[str, Meta(max_length=255)]
CONFLICT = "There is another endpoint of this id."


class NewEndpoint(msgspec.Struct):
    service_id: Id
    interface: Interface
    url: Url
    region: RegionId | None = None
    region_id: RegionId | None = None
    enabled: bool = True


class EndpointChange(msgspec.Struct):
    service_id: Id | UnsetType = UNSET
    interface: Interface | UnsetType = UNSET
    url: Url | UnsetType = UNSET
    region: RegionId | UnsetType | None = UNSET
    region_id: RegionId | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET


def view(call: Call, row: Endpoint) -> dict[str, Any]:
    return {**row.extra, "id": row.id, "service_id": row.service_id, "interface": row.interface,
            "url": shown_url(row.url, call.base_url()), "region": row.region_id, "region_id": row.region_id,
            "enabled": row.enabled, "links": links(call, "endpoints", row.id)}


def find(tx: Tx, key: str) -> Endpoint:
    row = tx.get(Endpoint, key)
    if row is None:
        raise reach.missing("endpoint", key)
    return row


def check_url(url: str) -> None:
    """A template may name the variables of the catalog and no others. Raises Problem 400."""
    rest = shown_url(url, "", "", "")
    if "$(" in rest or "%(" in rest:
        raise Problem(400, "Invalid input for field endpoint.url: only $(project_id)s, $(tenant_id)s, $(user_id)s and "
                           "$(base_url)s are filled in.")


def check_parts(tx: Tx, service_id: str | None, region_id: str | None, region: str | None) -> str | None:
    """The region's id. A service must exist; `region` (the old name) makes its region. Raises Problem 400."""
    if service_id is not None and tx.get(CatalogService, service_id) is None:
        raise Problem(400, f"Invalid input for field endpoint.service_id: could not find service {service_id}.")
    if region_id is not None and tx.get(Region, region_id) is None:
        raise Problem(400, f"Invalid input for field endpoint.region_id: could not find region {region_id}.")
    if region_id is None and region is not None and tx.get(Region, region) is None:
        tx.insert(Region(region, None, "", {}))
    return region_id if region_id is not None else region


async def list_endpoints(call: Call) -> Response:
    reach.require(reach.sees_all(call.caller), "list_endpoints")
    conditions = filters(call, "service_id", "interface", "region_id")
    if call.arg("region") is not None:
        conditions["region_id"] = call.arg("region")
    rows = await call.cloud.db.read(lambda tx: tx.find(Endpoint, sort=[("service_id", False), ("id", False)], **conditions))
    return listing(call, "endpoints", [view(call, row) for row in rows], ("enabled", "url"))


async def create_endpoint(call: Call) -> Response:
    reach.require_admin(call.caller, "create_endpoint")
    body, extra = await incoming(call, "endpoint", NewEndpoint)
    check_url(body.url)

    def closure(tx: Tx) -> Endpoint:
        region_id = check_parts(tx, body.service_id, body.region_id, body.region)
        row = Endpoint(hex_id(tx), body.service_id, body.interface, region_id, body.url, body.enabled, extra)
        tx.insert(row)
        return row

    return reply(201, {"endpoint": view(call, await write(call, CONFLICT, closure))})


async def show_endpoint(call: Call) -> Response:
    reach.require(reach.sees_all(call.caller), "get_endpoint")
    row = await call.cloud.db.read(lambda tx: find(tx, call.params["endpoint_id"]))
    return reply(200, {"endpoint": view(call, row)})


async def update_endpoint(call: Call) -> Response:
    reach.require_admin(call.caller, "update_endpoint")
    body, extra = await incoming(call, "endpoint", EndpointChange)
    if isinstance(body.url, str):
        check_url(body.url)

    def closure(tx: Tx) -> Endpoint:
        row = find(tx, call.params["endpoint_id"])
        changes = changes_of(body)
        if "region" in changes or "region_id" in changes:
            changes["region_id"] = check_parts(tx, None, changes.get("region_id"), changes.pop("region", None))
        check_parts(tx, changes.get("service_id"), None, None)
        tx.update(Endpoint, row.id, **changes, extra={**row.extra, **extra})
        return find(tx, row.id)

    return reply(200, {"endpoint": view(call, await write(call, CONFLICT, closure))})


async def delete_endpoint(call: Call) -> Response:
    reach.require_admin(call.caller, "delete_endpoint")

    def closure(tx: Tx) -> None:
        row = find(tx, call.params["endpoint_id"])
        tx.delete_where(ProjectEndpoint, kind="endpoint", id=row.id)
        tx.delete(Endpoint, row.id)

    await write(call, CONFLICT, closure)
    return reply(204)
