"""Usage of projects over time: hours of servers, cores, memory and disk, from the servers' own rows.

Rules: administrators see every project, others their own. A server counts from its launch to its deletion, cut to the
period asked for (by default the last four weeks). Disk is the flavor's root and ephemeral disk. Pages (2.40) hold
whole servers: a project's figures are those of the servers on the page.
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from starlette.responses import Response

from virga.api.compute import inputs
from virga.api.compute.access import must_admin
from virga.api.compute.paging import PAGED, known_args, page_of, with_links
from virga.api.compute.server_query import moment
from virga.api.compute.server_views import iso_micro
from virga.api.http import Call, reply
from virga.domain.errors import Problem
from virga.domain.server import Server
from virga.store.db import Tx

PERIOD_S = 28 * 24 * 3600.0


class Period(msgspec.Struct, frozen=True):
    """Seconds since the epoch."""

    start: float
    end: float


def _period(call: Call) -> Period:
    known_args(call, ("start", "end", "detailed", *PAGED))
    now = call.cloud.env.now()
    start, end = call.arg("start"), call.arg("end")
    period = Period(moment(start, "start") if start else now - PERIOD_S, moment(end, "end") if end else now)
    if period.end < period.start:
        raise Problem(400, "Invalid start time. The start time cannot occur after the end time.")
    return period


def _hours(server: Server, period: Period, now: float) -> float:
    start = max(server.launched_at or server.created_at, period.start)
    end = min(server.deleted_at if server.deleted_at is not None else now, period.end, now)
    return max(end - start, 0.0) / 3600


def _server_usage(call: Call, server: Server, period: Period) -> dict[str, Any]:
    now = call.cloud.env.now()
    started = server.launched_at or server.created_at
    return {
        "instance_id": server.id, "name": server.name, "hours": _hours(server, period, now),
        "tenant_id": server.project_id, "flavor": server.flavor.name, "vcpus": server.flavor.vcpus,
        "memory_mb": server.flavor.ram_mb, "local_gb": server.flavor.disk_gb + server.flavor.ephemeral_gb,
        "started_at": iso_micro(started), "ended_at": iso_micro(server.deleted_at),
        "state": "terminated" if server.deleted_at is not None else server.vm_state,
        "uptime": int((server.deleted_at if server.deleted_at is not None else now) - started)}


def _project_usage(
    call: Call, project_id: str, servers: Iterable[Server], period: Period, detailed: bool
) -> dict[str, Any]:
    usages = [_server_usage(call, server, period) for server in servers]
    view: dict[str, Any] = {
        "tenant_id": project_id, "start": iso_micro(period.start), "stop": iso_micro(period.end),
        "total_hours": sum(usage["hours"] for usage in usages)}
    for name, amount in (("total_vcpus_usage", "vcpus"), ("total_memory_mb_usage", "memory_mb"),
                         ("total_local_gb_usage", "local_gb")):
        view[name] = sum(usage[amount] * usage["hours"] for usage in usages)
    if detailed:
        view["server_usages"] = usages
    return view


async def _servers(call: Call, period: Period, **conditions: Any) -> tuple[list[Server], bool]:
    def work(tx: Tx) -> list[Server]:
        return [
            server for server in tx.find(Server, sort=[("created_at", False), ("id", False)], **conditions)
            if (server.launched_at or server.created_at) < period.end
            and (server.deleted_at is None or server.deleted_at > period.start)]

    found = await call.cloud.db.read(work)
    return page_of(call, found, lambda server: server.id) if call.version >= (2, 40) else (found, False)


async def list_usage(call: Call) -> Response:
    if call.path.endswith("/"):
        raise Problem(404, "No project has an empty id.")
    must_admin(call, "os_compute_api:os-simple-tenant-usage:list")
    period = _period(call)
    detailed = call.arg("detailed", "0") == "1"
    page, more = await _servers(call, period)
    by_project: dict[str, list[Server]] = {}
    for server in page:
        by_project.setdefault(server.project_id, []).append(server)
    views = [_project_usage(call, project_id, servers, period, detailed)
             for project_id, servers in sorted(by_project.items())]
    return reply(200, with_links(call, "tenant_usages", views, more, page[-1].id if page else ""))


async def show_usage(call: Call) -> Response:
    project_id = inputs.string(1)(call.params["project_id"], "project_id")
    if not call.caller.sees(project_id):
        raise Problem(403, "Policy doesn't allow os_compute_api:os-simple-tenant-usage:show on another project.")
    period = _period(call)
    page, more = await _servers(call, period, project_id=project_id)
    view = _project_usage(call, project_id, page, period, True) if page else {}
    linked = with_links(call, "tenant_usage", [], more, page[-1].id if page else "")
    return reply(200, {**linked, "tenant_usage": view})


ROUTES = [
    ("GET", "/os-simple-tenant-usage", list_usage),
    ("GET", "/os-simple-tenant-usage/{project_id}", show_usage),
]
