"""Compute services: the hosts seen as agents that are up or down, enabled or disabled.

Rules: for administrators only. There is one service a host, `nova-compute`, the name every client looks for. Until 2.52
a service is named by host and binary in a body, from 2.53 on by its UUID in the path. `forced_down` (2.11) is the
operator's word that a host is dead: it fences the host, so that its servers may be evacuated. Deleting a service
removes its host from the cloud; a host that still has servers or unfinished moves stays (409).
"""
from __future__ import annotations

import re
from typing import Any

from starlette.responses import Response

from virga.api.compute import inputs
from virga.api.compute.access import must_admin
from virga.api.compute.hypervisors import state_of
from virga.api.compute.inputs import Fields, bad
from virga.api.compute.paging import known_args
from virga.api.compute.server_views import iso_micro
from virga.api.http import Call, reply
from virga.domain.compute import Aggregate
from virga.domain.errors import Problem
from virga.domain.operation import Migration
from virga.domain.placement import Claim, Host
from virga.domain.server import Server
from virga.ops import front
from virga.ops.enrolment import strike_off
from virga.store.db import Tx

BINARY = "nova-compute"
ENDED = ("confirmed", "reverted", "error", "failed", "completed", "cancelled", "done")
_UUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}")


def _view(call: Call, host: Host) -> dict[str, Any]:
    view: dict[str, Any] = {
        "id": host.number if call.version < (2, 53) else host.id, "binary": BINARY, "host": host.name,
        "zone": host.availability_zone, "status": "disabled" if host.disabled else "enabled", "state": state_of(host),
        "updated_at": iso_micro(host.seen_at or host.updated_at), "disabled_reason": host.disabled_reason}
    if call.version >= (2, 11):
        view["forced_down"] = host.forced_down
    return view


async def list_services(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-services:list")
    known_args(call, ("host", "binary"))
    hosts = await call.cloud.db.read(lambda tx: tx.find(Host, sort=[("number", False)]))
    wanted, binary = call.arg("host"), call.arg("binary")
    return reply(200, {"services": [
        _view(call, host) for host in hosts if wanted in (None, host.name) and binary in (None, BINARY)]})


async def update_service(call: Call) -> Response:
    """PUT …/{id} since 2.53; before that the last part of the path is what to do."""
    if call.version < (2, 53):
        return await _by_verb(call, call.params["service_id"])
    must_admin(call, "os_compute_api:os-services:update")
    service_id = _need_uuid(call)
    fields = Fields(call, await call.json(), "service")
    status = fields.take("status", inputs.choice("enabled", "disabled"))
    reason = fields.take("disabled_reason", _reason)
    forced_down = fields.take("forced_down", inputs.boolean)
    fields.done()
    if status is None and forced_down is None:
        raise Problem(400, "The request body must hold status, forced_down, or both.")
    if reason is not None and status != "disabled":
        raise Problem(400, "Specifying disabled_reason requires that status is 'disabled'.")

    def work(tx: Tx) -> Host:
        host = _need_host(tx, id=service_id)
        if status is not None:
            front.set_host_disabled(tx, host, status == "disabled", reason)
        if forced_down is not None:
            front.set_host_forced_down(tx, host, forced_down)
        return tx.need(Host, host.name)

    return reply(200, {"service": _view(call, await call.cloud.db.run(work))})


def _reason(value: Any, place: str) -> str:
    clean: str = inputs.string(1)(value, place)
    if not clean.strip() or clean != clean.strip():
        raise bad(place, "a reason must not be blank, nor begin or end with white space.")
    return clean


def _need_uuid(call: Call) -> str:
    service_id = call.params["service_id"]
    if not _UUID.fullmatch(service_id.lower()):
        raise bad("service_id", f"'{service_id}' is not a uuid.")
    return service_id.lower()


def _need_host(tx: Tx, **conditions: Any) -> Host:
    host = tx.one(Host, **conditions)
    if host is None:
        raise Problem(404, f"Service {next(iter(conditions.values()))} could not be found.")
    return host


async def _by_verb(call: Call, verb: str) -> Response:
    """enable, disable, disable-log-reason, and since 2.11 force-down."""
    must_admin(call, "os_compute_api:os-services:update")
    verbs = ["enable", "disable", "disable-log-reason", *(["force-down"] if call.version >= (2, 11) else [])]
    if verb not in verbs:
        raise Problem(404, f"Unknown action '{verb}'; there are {', '.join(verbs)}.")
    fields = Fields(call, await call.json(), "the body")
    name = fields.take("host", inputs.string(1), required=True)
    binary = fields.take("binary", inputs.string(1), required=True)
    reason = fields.take("disabled_reason", _reason, required=True) if verb == "disable-log-reason" else None
    forced_down = fields.take("forced_down", inputs.boolean, required=True) if verb == "force-down" else None
    fields.done()

    def work(tx: Tx) -> Host:
        host = tx.get(Host, name)
        if host is None or binary != BINARY:
            raise Problem(404, f"Could not find binary {binary} on host {name}.")
        if verb == "force-down":
            front.set_host_forced_down(tx, host, bool(forced_down))
        else:
            front.set_host_disabled(tx, host, verb != "enable", reason)
        return tx.need(Host, name)

    host = await call.cloud.db.run(work)
    view: dict[str, Any] = {"host": host.name, "binary": BINARY}
    if verb == "force-down":
        view["forced_down"] = host.forced_down
    else:
        view["status"] = "disabled" if host.disabled else "enabled"
    if verb == "disable-log-reason":
        view["disabled_reason"] = reason
    return reply(200, {"service": view})


async def delete_service(call: Call) -> Response:
    """Take a host out of the cloud, out of its aggregates, and out of everybody's sight."""
    must_admin(call, "os_compute_api:os-services:delete")
    wanted = call.params["service_id"]
    if call.version >= (2, 53):
        conditions: dict[str, Any] = {"id": _need_uuid(call)}
    elif wanted.isdecimal() and len(wanted) < 19:  # what the store holds as a number
        conditions = {"number": int(wanted)}
    else:
        raise bad("service_id", f"'{wanted}' is not an integer.")

    def work(tx: Tx) -> None:
        host = _need_host(tx, **conditions)
        if tx.count(Server, host=host.name, deleted_at=None):
            raise Problem(409, f"Unable to delete compute service that is hosting instances: {host.name} has some. "
                               "Migrate, evacuate or delete them first.")
        moves = tx.find(Migration, source=host.name) + tx.find(Migration, dest=host.name)
        if any(move.status not in ENDED for move in moves):
            raise Problem(409, f"Unable to delete compute service that has in-progress migrations: {host.name}. "
                               "Confirm or revert them first.")
        for aggregate in tx.find(Aggregate):
            if host.name in aggregate.hosts:
                rest = [name for name in aggregate.hosts if name != host.name]
                tx.update(Aggregate, aggregate.id, hosts=rest, updated_at=tx.now)
        tx.delete_where(Claim, host=host.name)
        tx.delete(Host, host.name)
        strike_off(tx, host.name)
        tx.hint("host:" + host.name)

    await call.cloud.db.run(work)
    return reply(204)


ROUTES = [
    ("GET", "/os-services", list_services),
    ("PUT", "/os-services/{service_id}", update_service),
    ("DELETE", "/os-services/{service_id}", delete_service),
]
