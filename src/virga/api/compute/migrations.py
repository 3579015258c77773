"""Moves of servers: every migration for administrators, and a server's live migrations in progress.

Rules: fields, paging and time filters come with their microversions (2.23 kind and links, 2.59 uuid and paging, 2.66
changes-before, 2.80 user and project). A live migration in progress can be ended early only as far as the operation
behind it allows: it can be asked to stop (abort) before it has handed over, and never be made to hurry (force_complete).
"""
from __future__ import annotations

from typing import Any

from starlette.responses import Response

from virga.api.compute import inputs
from virga.api.compute.access import must_admin
from virga.api.compute.microversion import need
from virga.api.compute.paging import PAGED, known_args, page_of, with_links
from virga.api.compute.server_query import moment
from virga.api.compute.server_views import iso_micro
from virga.api.compute.services import ENDED
from virga.api.http import Call, reply
from virga.domain.errors import Problem
from virga.domain.operation import Migration
from virga.domain.placement import Host
from virga.domain.server import Server
from virga.store.db import Tx

LIVE = "live-migration"
FILTERS = {
    "host", "status", "instance_uuid", "source_compute", "migration_type", "hidden", "changes-since", "changes-before",
    "user_id", "project_id", *PAGED}


def _flavor_number(flavor_id: str) -> int:
    """The API wants numbers for flavors here; flavors with names in place of numbers are told as 0."""
    return int(flavor_id) if flavor_id.isdecimal() and len(flavor_id) < 19 else 0


def _address(hosts: dict[str, Host], name: str) -> str | None:
    return hosts[name].address if name in hosts else None


def _view(call: Call, move: Migration, hosts: dict[str, Host], in_progress: bool) -> dict[str, Any]:
    view: dict[str, Any] = {
        "id": move.number, "instance_uuid": move.server_id, "status": move.status, "source_compute": move.source,
        "source_node": move.source, "dest_compute": move.dest or None, "dest_node": move.dest or None,
        "dest_host": _address(hosts, move.dest), "old_instance_type_id": _flavor_number(move.old_flavor_id),
        "new_instance_type_id": _flavor_number(move.new_flavor_id), "created_at": iso_micro(move.created_at),
        "updated_at": iso_micro(move.updated_at or None)}
    if call.version >= (2, 23):
        view["migration_type"] = move.kind
        if in_progress and move.kind == LIVE:
            base = f"{call.base_url()}/compute"
            path = f"servers/{move.server_id}/migrations/{move.number}"
            view["links"] = [{"rel": "self", "href": f"{base}/v2.1/{path}"}, {"rel": "bookmark", "href": f"{base}/{path}"}]
    if call.version >= (2, 59):
        view["uuid"] = move.id
    if call.version >= (2, 80):
        view |= {"user_id": move.user_id, "project_id": move.project_id}
    return view


def _hosts(tx: Tx) -> dict[str, Host]:
    return {host.name: host for host in tx.find(Host)}


async def list_migrations(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-migrations:index")
    known_args(call, FILTERS, since=(2, 59))
    conditions = _conditions(call)
    since, before = _moment(call, "changes-since", (2, 59)), _moment(call, "changes-before", (2, 66))
    if since is not None and before is not None and since > before:
        raise Problem(400, "The value of changes-since must be less than or equal to changes-before.")
    either = call.arg("host")

    def work(tx: Tx) -> tuple[list[Migration], dict[str, Host]]:
        found = tx.find(Migration, sort=[("created_at", True), ("number", True)], **conditions)
        return [move for move in found
                if (either is None or either in (move.source, move.dest))
                and (since is None or (move.updated_at or move.created_at) >= since)
                and (before is None or (move.updated_at or move.created_at) <= before)], _hosts(tx)

    found, hosts = await call.cloud.db.read(work)
    page, more = page_of(call, found, lambda move: move.id) if call.version >= (2, 59) else (found, False)
    views = [_view(call, move, hosts, move.status not in ENDED) for move in page]
    return reply(200, with_links(call, "migrations", views, more, page[-1].id if page else ""))


def _conditions(call: Call) -> dict[str, Any]:
    columns = {"status": "status", "instance_uuid": "server_id", "source_compute": "source", "migration_type": "kind"}
    if call.version >= (2, 80):
        columns |= {"user_id": "user_id", "project_id": "project_id"}
    elif call.version >= (2, 59) and (call.arg("user_id") or call.arg("project_id")):
        raise Problem(400, "Invalid query parameter: user_id and project_id came with microversion 2.80.")
    return {column: call.arg(name) for name, column in columns.items() if call.arg(name) is not None}


def _moment(call: Call, name: str, since: tuple[int, int]) -> float | None:
    value = call.arg(name)
    if value is None:
        return None
    if call.version < since:
        if call.version >= (2, 59):
            raise Problem(400, f"Invalid query parameter '{name}': it came with microversion {since[0]}.{since[1]}.")
        return None
    return moment(value, name)


# of one server ----------------------------------------------------------------------------------------------------
def _need_server(tx: Tx, call: Call) -> Server:
    server = tx.get(Server, call.params["server_id"])
    if server is None or server.deleted_at is not None or not call.caller.sees(server.project_id):
        raise Problem(404, f"Instance {call.params['server_id']} could not be found.")
    return server


def _short(call: Call, move: Migration, hosts: dict[str, Host]) -> dict[str, Any]:
    """A live migration in progress. How much is copied is not measured here, and told as null."""
    view: dict[str, Any] = {
        "id": move.number, "status": move.status, "source_compute": move.source, "source_node": move.source,
        "dest_compute": move.dest or None, "dest_node": move.dest or None, "dest_host": _address(hosts, move.dest),
        "server_uuid": move.server_id, "created_at": iso_micro(move.created_at),
        "updated_at": iso_micro(move.updated_at or None),
        **dict.fromkeys(f"{what}_{part}_bytes" for what in ("memory", "disk")
                         for part in ("total", "processed", "remaining"))}
    if call.version >= (2, 59):
        view["uuid"] = move.id
    if call.version >= (2, 80):
        view |= {"user_id": move.user_id, "project_id": move.project_id}
    return view


async def list_of_server(call: Call) -> Response:
    need(call, (2, 23))
    must_admin(call, "os_compute_api:servers:migrations:index")

    def work(tx: Tx) -> list[dict[str, Any]]:
        server, hosts = _need_server(tx, call), _hosts(tx)
        found = tx.find(Migration, server_id=server.id, kind=LIVE, sort=[("number", True)])
        return [_short(call, move, hosts) for move in found if move.status not in ENDED]

    return reply(200, {"migrations": await call.cloud.db.read(work)})


def _need_move(tx: Tx, call: Call) -> Migration:
    server, wanted = _need_server(tx, call), call.params["migration_id"]
    move = tx.one(Migration, server_id=server.id, number=int(wanted)) if wanted.isdecimal() and len(wanted) < 19 else None
    if move is None:
        raise Problem(404, f"Migration {wanted} for server {server.id} could not be found.")
    return move


def _need_live(move: Migration) -> Migration:
    if move.kind != LIVE:
        raise Problem(404, f"Migration {move.number} for server {move.server_id} is not a live migration.")
    if move.status in ENDED:
        raise Problem(404, f"Migration {move.number} for server {move.server_id} is not in progress.")
    return move


async def show_of_server(call: Call) -> Response:
    need(call, (2, 23))
    must_admin(call, "os_compute_api:servers:migrations:show")
    view = await call.cloud.db.read(lambda tx: _short(call, _need_live(_need_move(tx, call)), _hosts(tx)))
    return reply(200, {"migration": view})


async def force_complete(call: Call) -> Response:
    need(call, (2, 22))
    must_admin(call, "os_compute_api:servers:migrations:force_complete")
    body = inputs.mapping(await call.json(), "the body")
    if list(body) != ["force_complete"] or body["force_complete"] is not None:
        raise Problem(400, "The request body must be {\"force_complete\": null}.")
    move = await call.cloud.db.read(lambda tx: _need_move(tx, call))
    raise Problem(400, f"Migration {move.number} of instance {move.server_id} is {move.status}; "
                       "this cloud's migrations cannot be hurried.")


async def abort(call: Call) -> Response:
    need(call, (2, 24))
    must_admin(call, "os_compute_api:servers:migrations:delete")
    move = await call.cloud.db.read(lambda tx: _need_move(tx, call))
    raise Problem(400, f"Migration {move.number} of instance {move.server_id} is {move.status}; "
                       "this cloud's migrations run to their end.")


ROUTES = [
    ("GET", "/os-migrations", list_migrations),
    ("GET", "/servers/{server_id}/migrations", list_of_server),
    ("GET", "/servers/{server_id}/migrations/{migration_id}", show_of_server),
    ("POST", "/servers/{server_id}/migrations/{migration_id}/action", force_complete),
    ("DELETE", "/servers/{server_id}/migrations/{migration_id}", abort),
]
