"""Server external events: what outside controllers (a network service, a volume service) tell of a server.

Rules: for administrators and for the role `service`. Each event is answered by itself: 200 taken, 404 no such server,
422 the server has no host, 400 a tag is missing; the whole is 200 when all were taken and 207 when some were not.
Taken means recorded and that whoever waits looks again at the facts: an event is never itself what a waiter waits for,
since it does not say which binding of a port it is about. Here the agents' own reports are the facts.
"""
from __future__ import annotations

from typing import Any

from starlette.responses import Response

from virga.api.compute import inputs
from virga.api.compute.inputs import Fields
from virga.api.http import Call, reply
from virga.domain.errors import Problem
from virga.domain.server import Server
from virga.store.db import Tx

EVENTS_MAX = 1000
NAMES: dict[str, tuple[int, int]] = {
    "network-changed": (2, 1), "network-vif-plugged": (2, 1), "network-vif-unplugged": (2, 1),
    "network-vif-deleted": (2, 1), "volume-extended": (2, 51), "power-update": (2, 76),
    "accelerator-request-bound": (2, 82), "volume-reimaged": (2, 93)}
NEEDS_TAG = ("network-vif-deleted", "volume-extended", "power-update", "accelerator-request-bound", "volume-reimaged")
STATUSES = ("failed", "completed", "in-progress")
TAKEN, MISSING, NO_HOST, UNTAGGED = 200, 404, 422, 400


def _read(call: Call, value: Any) -> dict[str, Any]:
    """One event, checked. Raises Problem 400 that names the field."""
    known = [name for name, since in NAMES.items() if call.version >= since]
    fields = Fields(call, value, "events")
    event = {
        "name": fields.take("name", inputs.choice(*known), required=True),
        "server_uuid": fields.take("server_uuid", inputs.uuid, required=True),
        "status": fields.take("status", inputs.choice(*STATUSES), "completed"),
        "tag": fields.take("tag", inputs.string())}
    fields.done()
    return {name: item for name, item in event.items() if item is not None}


def _take(tx: Tx, call: Call, event: dict[str, Any]) -> int:
    server = tx.get(Server, event["server_uuid"])
    if server is None or server.deleted_at is not None:
        return MISSING
    if server.host is None:
        return NO_HOST
    if event["name"] in NEEDS_TAG and not event.get("tag"):
        return UNTAGGED
    tag = f" {event['tag']}" if event.get("tag") else ""
    tx.emit("message", "outside", "controller", f"{event['name']} {event['status']}{tag}", server=server.id,
            request=call.request_id)
    tx.hint("server:" + server.id, *(["op:" + server.operation_id] if server.operation_id else []))
    return TAKEN


async def create_events(call: Call) -> Response:
    if not call.caller.roles & {"admin", "service"}:
        raise Problem(403, "Policy doesn't allow os_compute_api:os-server-external-events:create to be performed: "
                           "it needs the role admin or service.")
    fields = Fields(call, await call.json(), "the body")
    values = fields.take("events", inputs.items, required=True)
    fields.done()
    if not values or len(values) > EVENTS_MAX:
        raise Problem(400, f"Invalid input for field events: give 1 to {EVENTS_MAX} events, not {len(values)}.")
    events = [_read(call, value) for value in values]

    def work(tx: Tx) -> list[int]:
        return [_take(tx, call, event) for event in events]

    codes = await call.cloud.db.run(work)
    told = [{**event, "code": code, "status": event["status"] if code == TAKEN else "failed"}
            for event, code in zip(events, codes, strict=True)]
    return reply(200 if all(code == TAKEN for code in codes) else 207, {"events": told})


ROUTES = [("POST", "/os-server-external-events", create_events)]
