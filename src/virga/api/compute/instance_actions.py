"""Instance actions: what was asked of a server, when, by whom, and how each step of it went.

Rules: whoever sees the server sees its actions; since 2.21 also those of a deleted server. Events are for
administrators until 2.50, then for everyone but tracebacks and hosts; paging and times came with 2.58 and 2.66, hosts
with 2.62, details with 2.84.
"""
from __future__ import annotations

from typing import Any

from starlette.responses import Response

from virga.api.compute.paging import PAGED, known_args, page_of, with_links
from virga.api.compute.server_query import moment
from virga.api.compute.server_views import host_id, iso_micro
from virga.api.http import Call, reply
from virga.domain.errors import Problem
from virga.domain.operation import Action, ActionEvent
from virga.domain.server import Server
from virga.store.db import Tx


def _need_server(tx: Tx, call: Call) -> Server:
    server = tx.get(Server, call.params["server_id"])
    hidden = server is not None and server.deleted_at is not None and call.version < (2, 21)
    if server is None or hidden or not call.caller.sees(server.project_id):
        raise Problem(404, f"Instance {call.params['server_id']} could not be found.")
    return server


def _view(call: Call, action: Action) -> dict[str, Any]:
    view: dict[str, Any] = {
        "action": action.action, "instance_uuid": action.server_id, "request_id": action.request_id,
        "user_id": action.user_id, "project_id": action.project_id, "start_time": iso_micro(action.started_at),
        "message": action.message}
    if call.version >= (2, 58):
        view["updated_at"] = iso_micro(action.updated_at if action.updated_at is not None else action.started_at)
    return view


def _event(call: Call, server: Server, event: ActionEvent) -> dict[str, Any]:
    view: dict[str, Any] = {
        "event": event.name, "start_time": iso_micro(event.started_at), "finish_time": iso_micro(event.finished_at),
        "result": event.result}
    if call.version < (2, 51) or call.caller.is_admin:
        view["traceback"] = None
    if call.version >= (2, 62):
        view["hostId"] = host_id(server.project_id, event.host)
        if call.caller.is_admin:
            view["host"] = event.host
    if call.version >= (2, 84):
        view["details"] = event.detail
    return view


async def list_actions(call: Call) -> Response:
    known_args(call, ("changes-since", "changes-before", *PAGED), since=(2, 58))
    since, before = call.arg("changes-since"), call.arg("changes-before")
    if before is not None and (2, 58) <= call.version < (2, 66):
        raise Problem(400, "Invalid query parameter 'changes-before': it came with microversion 2.66.")
    least = moment(since, "changes-since") if since is not None and call.version >= (2, 58) else None
    most = moment(before, "changes-before") if before is not None and call.version >= (2, 66) else None
    if least is not None and most is not None and least > most:
        raise Problem(400, "The value of changes-since must be less than or equal to changes-before.")

    def work(tx: Tx) -> list[Action]:
        server = _need_server(tx, call)
        found = tx.find(Action, server_id=server.id, sort=[("started_at", True), ("request_id", True)])
        return [action for action in found
                if (least is None or (action.updated_at or action.started_at) >= least)
                and (most is None or (action.updated_at or action.started_at) <= most)]

    found = await call.cloud.db.read(work)
    page, more = page_of(call, found, lambda action: action.request_id) if call.version >= (2, 58) else (found, False)
    views = [_view(call, action) for action in page]
    linked = with_links(call, "instanceActions", views, more, page[-1].request_id if page else "")
    if "instanceActions_links" in linked:
        linked["links"] = linked.pop("instanceActions_links")
    return reply(200, linked)


async def show_action(call: Call) -> Response:
    def work(tx: Tx) -> dict[str, Any]:
        server = _need_server(tx, call)
        action = tx.one(Action, server_id=server.id, request_id=call.params["request_id"])
        if action is None:
            raise Problem(404, f"Action for request_id {call.params['request_id']} on instance {server.id} not found.")
        view = _view(call, action)
        if call.version >= (2, 51) or call.caller.is_admin:
            events = tx.find(ActionEvent, server_id=server.id, request_id=action.request_id,
                             sort=[("started_at", True), ("name", False)])
            view["events"] = [_event(call, server, event) for event in events]
        return view

    return reply(200, {"instanceAction": await call.cloud.db.read(work)})


ROUTES = [
    ("GET", "/servers/{server_id}/os-instance-actions", list_actions),
    ("GET", "/servers/{server_id}/os-instance-actions/{request_id}", show_action),
]
