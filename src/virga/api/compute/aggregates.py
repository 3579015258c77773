"""Host aggregates: named sets of hosts with metadata; one that names an availability zone puts its hosts into it.

Rules: for administrators only. A host is in one zone at most, so a second aggregate with another zone is refused (409).
A zone may not be taken from under servers that asked for it (409 or 400, as the compute API answers). An aggregate with
hosts cannot be deleted (400). Metadata set to null goes away.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.responses import Response

from virga.api.compute import inputs
from virga.api.compute.access import must_admin
from virga.api.compute.inputs import Fields, bad, body_of
from virga.api.compute.microversion import need
from virga.api.compute.server_views import iso_micro
from virga.api.http import Call, reply
from virga.domain.compute import DEFAULT_ZONE, Aggregate
from virga.domain.errors import Problem
from virga.domain.image import Image
from virga.domain.placement import Host
from virga.domain.server import Server
from virga.store.db import Exists, Op, Tx

ZONE = "availability_zone"


def _view(call: Call, aggregate: Aggregate, *, whole: bool = True) -> dict[str, Any]:
    view: dict[str, Any] = {
        "id": aggregate.id, "name": aggregate.name, ZONE: aggregate.availability_zone,
        "created_at": iso_micro(aggregate.created_at), "updated_at": iso_micro(aggregate.updated_at),
        "deleted": False, "deleted_at": None}
    if call.version >= (2, 41):
        view["uuid"] = aggregate.uuid
    if whole:
        view |= {"hosts": aggregate.hosts, "metadata": aggregate.metadata}
    return view


def _zone(value: Any, place: str) -> str:
    clean: str = inputs.name(value, place)
    if ":" in clean:
        raise bad(place, "an availability zone's name must not hold ':'.")
    return clean


def _need(tx: Tx, call: Call) -> Aggregate:
    wanted = call.params["aggregate_id"]
    aggregate = tx.get(Aggregate, int(wanted)) if wanted.isdecimal() and len(wanted) < 19 else None
    if aggregate is None:
        raise Problem(404, f"Aggregate {wanted} could not be found.")
    return aggregate


def _check_zone(tx: Tx, host: Host, zone: str | None, apart_from: int, status: int) -> None:
    """Raises Problem when `host` cannot be in `zone`: another aggregate claims it, or its servers asked for its zone."""
    for other in tx.find(Aggregate):
        other_zone = other.availability_zone
        if other.id != apart_from and host.name in other.hosts and zone and other_zone and other_zone != zone:
            raise Problem(status, f"Host {host.name} is already in availability zone {other_zone}, by aggregate {other.id}.")
    if (zone or DEFAULT_ZONE) != host.availability_zone and tx.count(
            Server, host=host.name, deleted_at=None, availability_zone=Op("!=", None)):
        raise Problem(status, f"Host {host.name} has servers that asked for its availability zone "
                              f"{host.availability_zone}; it cannot change zones under them.")


def _settle_zone(tx: Tx, host_name: str) -> None:
    """Write the host's zone from the aggregates it is in."""
    zone = next((aggregate.availability_zone for aggregate in tx.find(Aggregate, sort=[("id", False)])
                 if host_name in aggregate.hosts and aggregate.availability_zone), DEFAULT_ZONE)
    tx.update(Host, host_name, availability_zone=zone)
    tx.hint("host:" + host_name)


def _save(tx: Tx, aggregate: Aggregate, **changes: Any) -> Aggregate:
    try:
        tx.update(Aggregate, aggregate.id, updated_at=tx.now, **changes)
    except Exists:
        raise Problem(409, f"Aggregate {changes.get('name')} already exists.") from None
    return tx.need(Aggregate, aggregate.id)


async def list_aggregates(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-aggregates:index")
    rows = await call.cloud.db.read(lambda tx: tx.find(Aggregate, sort=[("id", False)]))
    return reply(200, {"aggregates": [_view(call, row) for row in rows]})


async def create_aggregate(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-aggregates:create")
    fields = Fields(call, await body_of(call, "aggregate"), "aggregate")
    name = fields.take("name", inputs.name, required=True)
    zone = fields.take(ZONE, inputs.optional(_zone))
    fields.done()

    def work(tx: Tx) -> Aggregate:
        row = Aggregate(tx.next_number("aggregates"), tx.new_id(), name, {ZONE: zone} if zone else {}, [], tx.now)
        try:
            tx.insert(row)
        except Exists:
            raise Problem(409, f"Aggregate {name} already exists.") from None
        return row

    return reply(200, {"aggregate": _view(call, await call.cloud.db.run(work), whole=False)})


async def show_aggregate(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-aggregates:show")
    return reply(200, {"aggregate": _view(call, await call.cloud.db.read(lambda tx: _need(tx, call)))})


async def update_aggregate(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-aggregates:update")
    fields = Fields(call, await body_of(call, "aggregate"), "aggregate")
    name = fields.take("name", inputs.name)
    zone = fields.take(ZONE, inputs.optional(_zone))
    fields.done()
    if not fields.given:
        raise bad("aggregate", "give name, availability_zone, or both.")

    def work(tx: Tx) -> Aggregate:
        aggregate = _need(tx, call)
        changes: dict[str, Any] = {"name": name} if name is not None else {}
        if ZONE in fields.given:
            changes["metadata"] = _with_zone(aggregate.metadata, zone)
        return _write(tx, aggregate, changes)

    return reply(200, {"aggregate": _view(call, await call.cloud.db.run(work))})


def _with_zone(metadata: dict[str, str], zone: str | None) -> dict[str, str]:
    rest = {key: value for key, value in metadata.items() if key != ZONE}
    return {**rest, ZONE: zone} if zone else rest


def _write(tx: Tx, aggregate: Aggregate, changes: dict[str, Any]) -> Aggregate:
    """Save, and where the zone changed, move the aggregate's hosts. Raises Problem 400 where they cannot move."""
    zone = changes.get("metadata", aggregate.metadata).get(ZONE)
    if zone != aggregate.availability_zone:
        for name in aggregate.hosts:
            host = tx.get(Host, name)
            if host is not None:
                _check_zone(tx, host, zone, aggregate.id, 400)
    saved = _save(tx, aggregate, **changes)
    for name in aggregate.hosts if zone != aggregate.availability_zone else ():
        _settle_zone(tx, name)
    return saved


async def delete_aggregate(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-aggregates:delete")

    def work(tx: Tx) -> None:
        aggregate = _need(tx, call)
        if aggregate.hosts:
            raise Problem(400, f"Cannot delete host aggregate {aggregate.id}: it still has hosts. Remove them first.")
        tx.delete(Aggregate, aggregate.id)

    await call.cloud.db.run(work)
    return reply(200)


async def act(call: Call) -> Response:
    """POST …/action: add_host, remove_host, set_metadata."""
    must_admin(call, "os_compute_api:os-aggregates:action")
    body = inputs.mapping(await call.json(), "the body")
    verbs: dict[str, Callable[[Tx, Aggregate, Any], Aggregate]] = {
        "add_host": _add_host, "remove_host": _remove_host, "set_metadata": _set_metadata}
    verb = next(iter(body), "")
    if len(body) != 1 or verb not in verbs:
        raise Problem(400, f"The request body must hold exactly one of {', '.join(verbs)}.")
    fields = Fields(call, body[verb], verb)
    if verb == "set_metadata":
        given: Any = fields.take("metadata", _metadata, required=True)
    else:
        given = fields.take("host", inputs.string(1), required=True)
    fields.done()
    row = await call.cloud.db.run(lambda tx: verbs[verb](tx, _need(tx, call), given))
    return reply(200, {"aggregate": _view(call, row)})


def _metadata(value: Any, place: str) -> dict[str, str | None]:
    """Metadata where null means: take this key away."""
    given = inputs.mapping(value, place)
    inputs.metadata({key: item for key, item in given.items() if item is not None}, place)
    if given.get(ZONE) is not None:
        _zone(given[ZONE], f"{place}.{ZONE}")
    return given


def _add_host(tx: Tx, aggregate: Aggregate, name: str) -> Aggregate:
    host = tx.get(Host, name)
    if host is None:
        raise Problem(404, f"Compute host {name} could not be found.")
    if name in aggregate.hosts:
        raise Problem(409, f"Host {name} is already a member of aggregate {aggregate.id}.")
    if aggregate.availability_zone:
        _check_zone(tx, host, aggregate.availability_zone, aggregate.id, 409)
    saved = _save(tx, aggregate, hosts=[*aggregate.hosts, name])
    _settle_zone(tx, name)
    return saved


def _remove_host(tx: Tx, aggregate: Aggregate, name: str) -> Aggregate:
    if name not in aggregate.hosts:
        raise Problem(404, f"Host {name} is not a member of aggregate {aggregate.id}.")
    saved = _save(tx, aggregate, hosts=[item for item in aggregate.hosts if item != name])
    if tx.get(Host, name) is not None:
        _settle_zone(tx, name)
    return saved


def _set_metadata(tx: Tx, aggregate: Aggregate, given: dict[str, str | None]) -> Aggregate:
    kept = {key: value for key, value in aggregate.metadata.items() if key not in given}
    return _write(tx, aggregate, {"metadata": {
        **kept, **{key: value for key, value in given.items() if value is not None}}})


async def cache_images(call: Call) -> Response:
    """POST …/images (2.81): images are cached on a host when a server first needs them; asking early is only checked."""
    need(call, (2, 81))
    must_admin(call, "os_compute_api:os-aggregates:images")
    fields = Fields(call, await call.json(), "the body")
    wanted = fields.take("cache", inputs.items, required=True)
    fields.done()
    ids = []
    for item in wanted:
        one = Fields(call, item, "cache")
        ids.append(one.take("id", inputs.uuid, required=True))
        one.done()
    if not ids or len(set(ids)) != len(ids):
        raise bad("cache", "it must hold at least one image, and none twice.")

    def work(tx: Tx) -> None:
        _need(tx, call)
        for image_id in ids:
            if tx.get(Image, image_id) is None:
                raise Problem(400, f"Image {image_id} could not be found.")

    await call.cloud.db.read(work)
    return reply(202)


ROUTES = [
    ("GET", "/os-aggregates", list_aggregates),
    ("POST", "/os-aggregates", create_aggregate),
    ("GET", "/os-aggregates/{aggregate_id}", show_aggregate),
    ("PUT", "/os-aggregates/{aggregate_id}", update_aggregate),
    ("DELETE", "/os-aggregates/{aggregate_id}", delete_aggregate),
    ("POST", "/os-aggregates/{aggregate_id}/action", act),
    ("POST", "/os-aggregates/{aggregate_id}/images", cache_images),
]
