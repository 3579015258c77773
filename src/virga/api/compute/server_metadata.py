"""A server's metadata: all of it, or one item.

Owns: the six calls, and `need_resting`, which tags share.
Rules: changed only while the server rests (active, paused, suspended, stopped, without a task) and is not locked,
409 otherwise. The project's quota of items holds for the result (403). An answer shows what was written.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.responses import Response

from virga.api.compute import inputs
from virga.api.compute.access import must_write
from virga.api.compute.inputs import body_of
from virga.api.compute.servers import own_server
from virga.api.http import Call, reply
from virga.domain.errors import Problem
from virga.domain.server import ACTIVE, PAUSED, STOPPED, SUSPENDED, Server
from virga.store.db import Tx
from virga.store.quota import project_limits

RESTING = (ACTIVE, PAUSED, SUSPENDED, STOPPED)


def need_resting(call: Call, server: Server, action: str) -> None:
    """Raises Problem 409 while the server is locked, busy, or in another state than those above."""
    if server.locked and not call.caller.is_admin:
        raise Problem(409, f"Instance {server.id} is locked")
    if server.vm_state not in RESTING:
        raise Problem(409, f"Cannot '{action}' instance {server.id} while it is in vm_state {server.vm_state}")
    if server.task_state is not None:
        raise Problem(409, f"Cannot '{action}' instance {server.id} while it is in task_state {server.task_state}")


async def _change(
    call: Call, rule: str, action: str, change: Callable[[dict[str, str]], dict[str, str]]
) -> dict[str, str]:
    must_write(call, f"os_compute_api:server-metadata:{rule}")

    def work(tx: Tx) -> dict[str, str]:
        server = own_server(tx, call)
        need_resting(call, server, action)
        metadata = change(dict(server.metadata))
        most = project_limits(tx, call.cloud.config, server.project_id)["metadata_items"]
        if 0 <= most < len(metadata):
            raise Problem(403, f"Maximum number of metadata items exceeds {most}.")
        tx.update(Server, server.id, metadata=metadata, updated_at=tx.now)
        tx.hint(f"server:{server.id}")
        return metadata

    return await call.cloud.db.run(work)


async def _body(call: Call) -> dict[str, str]:
    whole = inputs.mapping(await call.json(), "the body")
    if set(whole) != {"metadata"}:
        raise inputs.bad("metadata", "'metadata' is a required property, and the only one.")
    return inputs.metadata(whole["metadata"], "metadata")


async def list_metadata(call: Call) -> Response:
    server = await call.cloud.db.read(lambda tx: own_server(tx, call))
    return reply(200, {"metadata": server.metadata})


async def add_metadata(call: Call) -> Response:
    more = await _body(call)
    return reply(200, {"metadata": await _change(call, "create", "update metadata", lambda old: {**old, **more})})


async def replace_metadata(call: Call) -> Response:
    new = await _body(call)
    return reply(200, {"metadata": await _change(call, "update_all", "update metadata", lambda old: new)})


async def show_item(call: Call) -> Response:
    server = await call.cloud.db.read(lambda tx: own_server(tx, call))
    key = call.params["key"]
    if key not in server.metadata:
        raise _missing(key)
    return reply(200, {"meta": {key: server.metadata[key]}})


async def set_item(call: Call) -> Response:
    item = inputs.metadata(await body_of(call, "meta"), "meta")
    key = call.params["key"]
    if len(item) != 1:
        raise inputs.bad("meta", "it must hold exactly one item.")
    if key not in item:
        raise Problem(400, f"Request body and URI mismatch: the path names {key!r}.")
    await _change(call, "update", "update metadata", lambda old: {**old, **item})
    return reply(200, {"meta": item})


async def delete_item(call: Call) -> Response:
    key = call.params["key"]

    def without(old: dict[str, str]) -> dict[str, str]:
        if key not in old:
            raise _missing(key)
        del old[key]
        return old

    await _change(call, "delete", "delete metadata", without)
    return reply(204)


def _missing(key: str) -> Problem:
    return Problem(404, f"Metadata item was not found: {key}")


ROUTES = [
    ("GET", "/servers/{server_id}/metadata", list_metadata),
    ("POST", "/servers/{server_id}/metadata", add_metadata),
    ("PUT", "/servers/{server_id}/metadata", replace_metadata),
    ("GET", "/servers/{server_id}/metadata/{key}", show_item),
    ("PUT", "/servers/{server_id}/metadata/{key}", set_item),
    ("DELETE", "/servers/{server_id}/metadata/{key}", delete_item),
]
