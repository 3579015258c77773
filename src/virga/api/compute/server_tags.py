"""A server's tags (microversion 2.26).

Rules: at most 50 tags of at most 60 characters, without ',' and '/'; they keep the order in which they came. They
are changed only while the server rests, like its metadata. A tag is a resource: PUT makes it (201) or finds it
(204), and both say where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from starlette.responses import Response

from virga.api.compute import inputs
from virga.api.compute.access import must_write
from virga.api.compute.inputs import TAGS_MAX, body_of
from virga.api.compute.microversion import between
from virga.api.compute.server_metadata import need_resting
from virga.api.compute.servers import own_server
from virga.api.http import Call, reply
from virga.domain.errors import Problem
from virga.domain.server import Server
from virga.store.db import Tx

tags_exist = between((2, 26))


async def _change(call: Call, rule: str, change: Callable[[list[str]], list[str]]) -> list[str]:
    """The tags before the change."""
    must_write(call, f"os_compute_api:os-server-tags:{rule}")

    def work(tx: Tx) -> list[str]:
        server = own_server(tx, call)
        need_resting(call, server, "update tags")
        tags = change(list(server.tags))
        if len(tags) > TAGS_MAX:
            raise Problem(400, f"The number of tags exceeded the per-server limit {TAGS_MAX}")
        if tags != server.tags:
            tx.update(Server, server.id, tags=tags, updated_at=tx.now)
        return server.tags

    return await call.cloud.db.run(work)


@tags_exist
async def list_tags(call: Call) -> Response:
    server = await call.cloud.db.read(lambda tx: own_server(tx, call))
    return reply(200, {"tags": server.tags})


@tags_exist
async def replace_tags(call: Call) -> Response:
    tags = inputs.tags(await body_of(call, "tags"), "tags")
    await _change(call, "update_all", lambda old: tags)
    return reply(200, {"tags": tags})


@tags_exist
async def delete_tags(call: Call) -> Response:
    await _change(call, "delete_all", lambda old: [])
    return reply(204)


@tags_exist
async def check_tag(call: Call) -> Response:
    server = await call.cloud.db.read(lambda tx: own_server(tx, call))
    if call.params["tag"] not in server.tags:
        raise _missing(call, server.id)
    return reply(204)


@tags_exist
async def add_tag(call: Call) -> Response:
    """201 for a new tag, 204 for one the server has already; Location leads to it either way."""
    tag = inputs.tag(call.params["tag"], "tag")
    before = await _change(call, "update", lambda old: old if tag in old else [*old, tag])
    where = f"{call.base_url()}/compute/v2.1/servers/{call.params['server_id']}/tags/{quote(tag)}"
    return reply(204 if tag in before else 201, None, {"Location": where})


@tags_exist
async def delete_tag(call: Call) -> Response:
    tag = call.params["tag"]

    def without(old: list[str]) -> list[str]:
        if tag not in old:
            raise _missing(call, call.params["server_id"])
        return [item for item in old if item != tag]

    await _change(call, "delete", without)
    return reply(204)


def _missing(call: Call, server_id: str) -> Problem:
    return Problem(404, f"Server {server_id} has no tag '{call.params['tag']}'")


ROUTES = [
    ("GET", "/servers/{server_id}/tags", list_tags),
    ("PUT", "/servers/{server_id}/tags", replace_tags),
    ("DELETE", "/servers/{server_id}/tags", delete_tags),
    ("GET", "/servers/{server_id}/tags/{tag}", check_tag),
    ("PUT", "/servers/{server_id}/tags/{tag}", add_tag),
    ("DELETE", "/servers/{server_id}/tags/{tag}", delete_tag),
]
