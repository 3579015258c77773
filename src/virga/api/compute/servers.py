"""Servers: list, show, change, delete. (Creation is server_create.py, actions are server_actions.py.)

Owns: `own_server` (how every handler finds its server) and the calls that need nothing but rows. Rules: another
project's server is as unknown as one that never was; a deleted one too. Lists are read in one snapshot with a fixed
number of statements and sent as bytes.
"""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.responses import Response

from virga.api.compute import server_views as views
from virga.api.compute.access import ask_of, must_write
from virga.api.compute.inputs import Fields, body_of, choice, description, hostname, ipv4, ipv6, name
from virga.api.compute.server_query import ListQuery, read_query
from virga.api.http import Call, reply
from virga.domain.errors import Problem
from virga.domain.server import Server
from virga.ops import front
from virga.store.db import Tx
from virga.store.server_list import Raw, select_servers, server_rows


def own_server(tx: Tx, call: Call, server_id: str | None = None) -> Server:
    """The server a path names, if this caller may know of it. Raises Problem 404 otherwise."""
    server_id = call.params["server_id"] if server_id is None else server_id
    server = tx.get(Server, server_id)
    if server is None or server.deleted_at is not None or not call.caller.sees(server.project_id):
        raise Problem(404, f"Instance {server_id} could not be found.")
    return server


def page(tx: Tx, call: Call, query: ListQuery, brief: bool = False) -> tuple[list[Raw], bool]:
    """The raw rows of one page ((id, name) if `brief`) and whether more follow."""
    if query.nothing or query.limit == 0:
        return [], False
    after: Server | None = None
    if query.marker is not None:
        after = tx.get(Server, query.marker)
        if after is None or not call.caller.sees(after.project_id):
            raise Problem(400, f"marker [{query.marker}] not found")
    rows = select_servers(tx, query.wanted, sort=query.sort, limit=query.limit + 1, after=after, brief=brief)
    return rows[: query.limit], len(rows) > query.limit


def next_link(call: Call, last_id: str) -> list[dict[str, str]]:
    """Where the next page is: the same question behind the last server of this one."""
    pairs = [(key, value) for key, value in call.query if key != "marker"]
    return [{"rel": "next", "href": f"{call.base_url()}{call.path}?{urlencode([*pairs, ('marker', last_id)])}"}]


async def list_servers(call: Call) -> Response:
    query = read_query(call)
    rows, more = await call.cloud.db.read(lambda tx: page(tx, call, query, brief=True))
    servers = [{"id": raw[0], "name": raw[1], "links": views.links(call.base_url(), raw[0])} for raw in rows]
    body: dict[str, object] = {"servers": servers}
    if more:
        body["servers_links"] = next_link(call, rows[-1][0])
    return reply(200, body)


async def list_detail(call: Call) -> Response:
    query = read_query(call)

    def work(tx: Tx) -> tuple[list[tuple[Raw, views.Around]], bool]:
        rows, more = page(tx, call, query)
        return views.surroundings(tx, rows), more

    found, more = await call.cloud.db.read(work)
    parts = views.encoded(call, views.view_of(call, "list"), found)
    tail = b"]"
    if more:
        tail += b',"servers_links":' + views.json_bytes(next_link(call, found[-1][0][0]))
    return reply(200, b'{"servers":[' + b",".join(parts) + tail + b"}")


async def show_server(call: Call) -> Response:
    def work(tx: Tx) -> list[tuple[Raw, views.Around]]:
        own_server(tx, call)
        return views.surroundings(tx, server_rows(tx, [call.params["server_id"]]))

    (text,) = views.encoded(call, views.view_of(call, "show"), await call.cloud.db.read(work))
    return reply(200, b'{"server":' + text + b"}")


async def update_server(call: Call) -> Response:
    must_write(call, "os_compute_api:servers:update")
    fields = Fields(call, await body_of(call, "server"), "server")
    changes: dict[str, object] = {}
    for key, column, check, since in (
        ("name", "name", name, (2, 1)),
        ("accessIPv4", "access_ipv4", ipv4, (2, 1)),
        ("accessIPv6", "access_ipv6", ipv6, (2, 1)),
        ("description", "description", description, (2, 19)),
        ("OS-DCF:diskConfig", "disk_config", choice("AUTO", "MANUAL"), (2, 1)),
        ("hostname", "hostname", hostname(call.version >= (2, 94)), (2, 90)),
    ):
        if key in fields.given:
            changes[column] = fields.take(key, check, since=since)
    fields.done()

    def work(tx: Tx) -> tuple[Server, views.Around]:
        server = own_server(tx, call)
        if changes:
            tx.update(Server, server.id, updated_at=tx.now, **changes)
            tx.hint(f"server:{server.id}")
        return views.one(tx, server.id)

    server, around = await call.cloud.db.run(work)
    return reply(200, {"server": views.server_body(server, around, views.view_of(call, "update"))})


async def delete_server(call: Call) -> Response:
    must_write(call, "os_compute_api:servers:delete")
    await call.cloud.db.run(lambda tx: front.delete(tx, ask_of(call), own_server(tx, call)))
    return reply(204)


async def list_addresses(call: Call) -> Response:
    """GET /servers/{id}/ips: addresses by network, without the extended fields."""
    _, around = await call.cloud.db.read(lambda tx: views.one(tx, own_server(tx, call).id))
    return reply(200, {"addresses": views.bare_addresses(around)})


async def show_addresses(call: Call) -> Response:
    _, around = await call.cloud.db.read(lambda tx: views.one(tx, own_server(tx, call).id))
    network = call.params["network"]
    found = views.bare_addresses(around)
    if network not in found:
        raise Problem(404, f"Instance {call.params['server_id']} has no address on a network called {network!r}.")
    return reply(200, {network: found[network]})


ROUTES = [
    ("GET", "/servers", list_servers),
    ("GET", "/servers/detail", list_detail),
    ("GET", "/servers/{server_id}", show_server),
    ("PUT", "/servers/{server_id}", update_server),
    ("DELETE", "/servers/{server_id}", delete_server),
    ("GET", "/servers/{server_id}/ips", list_addresses),
    ("GET", "/servers/{server_id}/ips/{network}", show_addresses),
]
