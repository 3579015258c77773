"""The routes of /virga/v1 and the handlers that are only a query: events, operations, disks.

Rules: a server's story belongs to its project; another project's is 404. Deleted servers can still be explained, since that is when one asks. Events
are those the cloud has kept (the newest few tens of thousands); what is still on its way to the database is written first, so that a client that has
seen an answer sees its events too. `disk` asks the hosts that report a disk and changes nothing.
"""
from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

from virga.api.http import Call, Service, reply
from virga.api.virga.explain import explain, operation_body
from virga.domain.errors import Problem
from virga.domain.operation import OPEN, Guest, Operation, StoredEvent
from virga.domain.server import Server
from virga.fabric.hub import Unanswered
from virga.store.db import Tx

EVENTS_MAX = 5000
OPERATIONS_MAX = 1000
INVITE = "invite"  # key in Cloud.extra: makes a join token good for so many seconds
JOIN_LIFETIME_MAX_S = 7 * 86400.0
FLUSH_EVENTS = "flush_events"  # key in Cloud.extra: an async callable that writes the events still in memory


class JoinRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the token may be used."""

    lifetime_s: float = 3600.0


def error_body(problem: Problem, request_id: str) -> dict[str, Any]:
    """`{"error": {code, title, message, request_id}}`."""
    return {"error": {"code": problem.status, "title": HTTPStatus(problem.status).phrase, "message": problem.message, "request_id": request_id}}


def own_server(tx: Tx, call: Call) -> Server:
    """The server of the path, deleted ones too. Raises Problem 404 for another project's."""
    server = tx.get(Server, call.params["server_id"])
    if server is None or not call.caller.sees(server.project_id):
        raise Problem(404, f"Instance {call.params['server_id']} could not be found.")
    return server


def limit_of(call: Call, most: int) -> int:
    """`?limit=`. Raises Problem 400."""
    text = call.arg("limit") or str(most)
    if not text.isdigit() or not int(text) >= 1:
        raise Problem(400, f"Invalid input for query parameter limit: {text!r} is not a whole number above 0.")
    return min(int(text), most)


async def show_version(call: Call) -> Response:
    links = [{"rel": "self", "href": f"{call.base_url()}/virga/v1/"}]
    return reply(200, {"version": {"id": "v1.0", "status": "CURRENT", "links": links}})


async def list_events(call: Call) -> Response:
    """Stored events of one server, oldest first; `?operation=` narrows them, `?limit=` keeps the newest."""
    flush: Callable[[], Awaitable[None]] | None = call.cloud.extra.get(FLUSH_EVENTS)
    if flush is not None:
        await flush()
    limit, operation = limit_of(call, EVENTS_MAX), call.arg("operation")

    def work(tx: Tx) -> list[StoredEvent]:
        server = own_server(tx, call)
        narrow: dict[str, Any] = {"operation": operation} if operation else {}
        return tx.find(StoredEvent, server=server.id, sort=[("id", True)], limit=limit, **narrow)[::-1]

    return reply(200, {"events": msgspec.to_builtins(await call.cloud.db.read(work))})


async def show_explanation(call: Call) -> Response:
    return reply(200, {"explanation": await call.cloud.db.read(lambda tx: explain(tx, call.cloud.config, own_server(tx, call)))})


async def list_operations(call: Call) -> Response:
    """Newest first; `?state=open` (or one state) and `?server=` narrow. One's own project's, or all for an administrator."""
    limit, state, server_id = limit_of(call, OPERATIONS_MAX), call.arg("state"), call.arg("server")
    narrow: dict[str, Any] = {}
    if state:
        narrow["state"] = list(OPEN) if state == "open" else state
    if server_id:
        narrow["server_id"] = server_id
    if not call.caller.is_admin:
        if call.caller.project_id is None:
            raise Problem(403, "This token is not scoped to a project; ask for a project-scoped token.")
        narrow["project_id"] = call.caller.project_id
    found = await call.cloud.db.read(lambda tx: tx.find(Operation, sort=[("started_at", True)], limit=limit, **narrow))
    return reply(200, {"operations": [operation_body(op) for op in found]})


async def show_disks(call: Call) -> Response:
    """What each host that reports a disk of this server says of it; a host that does not answer is named with the reason."""

    def work(tx: Tx) -> list[Guest]:
        return [guest for guest in tx.find(Guest, server_id=own_server(tx, call).id, sort=[("host", False)]) if guest.disk]

    disks: list[dict[str, Any]] = []
    for guest in await call.cloud.db.read(work):
        try:
            if call.cloud.hub is None:
                raise Unanswered("this cloud has no hosts")
            disks.append({"host": guest.host, **await call.cloud.hub.ask(guest.host, "disk", guest.server_id), "error": None})
        except Unanswered as error:
            disks.append({"host": guest.host, "error": str(error)})
    return reply(200, {"disks": disks})


async def make_join_token(call: Call) -> Response:
    """Leave for one host to join; administrators only. Body: {"lifetime_s": N}, at most a week, or nothing."""
    if not call.caller.is_admin:
        raise Problem(403, "Only an administrator lets hosts in.")
    invite: Callable[[float], Awaitable[str]] | None = call.cloud.extra.get(INVITE)
    if invite is None:
        raise Problem(409, "This cloud does not listen for hosts on other machines; start it with --fabric HOST:PORT.")
    asked = await call.body(JoinRequest)
    if not 0 < asked.lifetime_s <= JOIN_LIFETIME_MAX_S:
        raise Problem(400, f"Invalid input for field lifetime_s: {asked.lifetime_s:g} is not between 0 and {JOIN_LIFETIME_MAX_S:g} seconds.")
    return reply(201, {"join_token": {"token": await invite(asked.lifetime_s), "lifetime_s": asked.lifetime_s}})


def service() -> Service:
    """Virga's own calls below /virga."""
    virga = Service("virga", "/virga", error_body)
    virga.add("GET", "/v1", show_version, open=True)
    virga.table([
        ("POST", "/v1/join-tokens", make_join_token),
        ("GET", "/v1/operations", list_operations),
        ("GET", "/v1/servers/{server_id}/events", list_events),
        ("GET", "/v1/servers/{server_id}/explain", show_explanation),
        ("GET", "/v1/servers/{server_id}/disk", show_disks),
    ])
    return virga
