"""Hypervisors: the hosts seen as machines, with what they have and what is taken of it.

Rules: for administrators only. Ids are numbers until 2.52 and UUIDs from 2.53 on; search and servers by name are paths
until 2.52 and query parameters after; from 2.88 on the amounts are gone (placement tells them) and the uptime stands in
the hypervisor itself. What is taken is the sum of the claims on a host, so it includes room that an unconfirmed resize
still holds.
"""
from __future__ import annotations

import json
import re
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.responses import Response

from virga.api.compute import inputs
from virga.api.compute.access import must_admin
from virga.api.compute.inputs import bad
from virga.api.compute.microversion import need
from virga.api.compute.paging import PAGED, known_args, page_of, with_links
from virga.api.http import Call, reply
from virga.domain.errors import Problem
from virga.domain.placement import UP, Claim, Host, Room
from virga.domain.server import Server
from virga.store.db import Op, Tx

_UUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}")
HYPERVISOR_VERSION_UNKNOWN = 1
LAST_NUMBERED, LAST_AMOUNTS = (2, 52), (2, 87)


class Machine(msgspec.Struct):
    """A host with what is taken of it and the (id, name) of the servers on it."""

    host: Host
    used: Room
    servers: list[tuple[str, str]]
    busy: int


def machines(tx: Tx) -> list[Machine]:
    """Every host, in the order they joined."""
    used: dict[str, Room] = {}
    for claim in tx.find(Claim):
        old = used.get(claim.host, Room(0, 0, 0))
        used[claim.host] = Room(old.vcpus + claim.vcpus, old.ram_mb + claim.ram_mb, old.disk_gb + claim.disk_gb)
    servers: dict[str, list[Server]] = defaultdict(list)
    for server in tx.find(Server, deleted_at=None, host=Op("!=", None), sort=[("created_at", False)]):
        servers[str(server.host)].append(server)
    return [
        Machine(host, used.get(host.name, Room(0, 0, 0)), [(server.id, server.name) for server in servers[host.name]],
                sum(1 for server in servers[host.name] if server.operation_id))
        for host in tx.find(Host, sort=[("number", False)])]


def state_of(host: Host) -> str:
    return "up" if host.state == UP and not host.forced_down else "down"


def uptime_of(call: Call, host: Host) -> str:
    """As the `uptime` command writes it. Hosts that do not tell when they booted count from when they joined the cloud."""
    now = call.cloud.env.now()
    since = host.detail.get("booted_at")
    up_s = max(int(now - (since if isinstance(since, (int, float)) else host.created_at)), 0)
    days, minutes = up_s // 86400, up_s // 60 % 1440
    load = host.detail.get("load_average")
    told = ", ".join(f"{float(item):.2f}" for item in load) if isinstance(load, list) else "0.00, 0.00, 0.00"
    length = f"{days} day{'s' * (days != 1)}, " if days else ""
    clock = datetime.fromtimestamp(now, UTC).strftime("%H:%M:%S")
    return f" {clock} up {length}{minutes // 60}:{minutes % 60:02d},  0 users,  load average: {told}\n"


def _short(call: Call, machine: Machine, servers: bool = False) -> dict[str, Any]:
    host = machine.host
    view: dict[str, Any] = {
        "id": host.number if call.version <= LAST_NUMBERED else host.id, "hypervisor_hostname": host.name,
        "state": state_of(host), "status": "disabled" if host.disabled else "enabled"}
    if servers and machine.servers:
        view["servers"] = [{"uuid": server_id, "name": name} for server_id, name in machine.servers]
    return view


def _cpu_info(call: Call, host: Host) -> Any:
    info = host.detail.get("cpu_info")
    info = info if isinstance(info, dict) else {}
    return info if call.version >= (2, 28) else json.dumps(info)


def amounts(machine: Machine) -> dict[str, Any]:
    host, used = machine.host, machine.used
    return {
        "vcpus": host.vcpus, "memory_mb": host.ram_mb, "local_gb": host.disk_gb, "vcpus_used": used.vcpus,
        "memory_mb_used": used.ram_mb, "local_gb_used": used.disk_gb, "free_ram_mb": host.ram_mb - used.ram_mb,
        "free_disk_gb": host.disk_gb - used.disk_gb, "current_workload": machine.busy,
        "running_vms": len(machine.servers), "disk_available_least": host.disk_gb - used.disk_gb}


def _long(call: Call, machine: Machine, servers: bool) -> dict[str, Any]:
    host = machine.host
    view = _short(call, machine, servers)
    if call.version >= (2, 75) and servers:
        view.setdefault("servers", [])
    view |= {
        "hypervisor_type": host.hypervisor_type, "hypervisor_version": host.hypervisor_version, "host_ip": host.address,
        "service": {"id": view["id"], "host": host.name, "disabled_reason": host.disabled_reason}}
    if call.version <= LAST_AMOUNTS:
        return view | amounts(machine) | {"cpu_info": _cpu_info(call, host)}
    return view | {"uptime": uptime_of(call, host) if state_of(host) == "up" else None}


async def _all(call: Call) -> list[Machine]:
    return await call.cloud.db.read(machines)


def _like(found: list[Machine], pattern: str) -> list[Machine]:
    return [machine for machine in found if pattern.lower() in machine.host.name.lower()]


async def _select(call: Call) -> tuple[list[Machine], bool, bool]:
    """The page asked for, whether more follow, and whether servers are wanted."""
    known_args(call, ("hypervisor_hostname_pattern", "with_servers", *PAGED), since=(2, 53))
    found, pattern, servers = await _all(call), call.arg("hypervisor_hostname_pattern"), False
    if call.version > LAST_NUMBERED:
        servers = inputs.boolean(call.arg("with_servers", "false"), "with_servers")
        if pattern is not None:
            if call.arg("limit") or call.arg("marker"):
                raise Problem(400, "Paging over hypervisors with the hypervisor_hostname_pattern query parameter is not "
                                   "supported.")
            found = _like(found, pattern)
            if not found:
                raise Problem(404, f"No hypervisor matching '{pattern}' could be found.")
    if call.version < (2, 33):
        return found, False, servers
    page, more = page_of(call, found, lambda machine: _marker(call, machine))
    return page, more, servers


def _marker(call: Call, machine: Machine) -> str:
    return str(machine.host.number) if call.version <= LAST_NUMBERED else machine.host.id


async def list_hypervisors(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-hypervisors:list")
    page, more, servers = await _select(call)
    views = [_short(call, machine, servers) for machine in page]
    return reply(200, with_links(call, "hypervisors", views, more, _marker(call, page[-1]) if page else ""))


async def list_details(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-hypervisors:list-detail")
    page, more, servers = await _select(call)
    views = [_long(call, machine, servers) for machine in page]
    return reply(200, with_links(call, "hypervisors", views, more, _marker(call, page[-1]) if page else ""))


async def _one(call: Call) -> Machine:
    wanted = call.params["hypervisor_id"]
    if call.version > LAST_NUMBERED and not _UUID.fullmatch(wanted.lower()):
        raise bad("hypervisor_id", f"'{wanted}' is not a uuid.")
    for machine in await _all(call):
        if _marker(call, machine) == wanted.lower():
            return machine
    raise Problem(404, f"Hypervisor with ID '{wanted}' could not be found.")


async def show_hypervisor(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-hypervisors:show")
    servers = call.version > LAST_NUMBERED and inputs.boolean(call.arg("with_servers", "false"), "with_servers")
    return reply(200, {"hypervisor": _long(call, await _one(call), servers)})


async def statistics(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-hypervisors:statistics")
    need(call, (2, 1), LAST_AMOUNTS)
    rows = [amounts(machine) for machine in await _all(call) if not machine.host.disabled]
    names = amounts(Machine(Host("", ""), Room(0, 0, 0), [], 0))
    return reply(200, {"hypervisor_statistics": {
        "count": len(rows), **{name: sum(row[name] for row in rows) for name in names}}})


async def show_uptime(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-hypervisors:uptime")
    need(call, (2, 1), LAST_AMOUNTS)
    machine = await _one(call)
    if state_of(machine.host) != "up":
        raise Problem(400, f"Host {machine.host.name} is down, so its uptime cannot be asked for.")
    return reply(200, {"hypervisor": {**_short(call, machine), "uptime": uptime_of(call, machine.host)}})


async def search(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-hypervisors:search")
    need(call, (2, 1), LAST_NUMBERED)
    return reply(200, {"hypervisors": [_short(call, machine) for machine in await _named(call)]})


async def list_servers(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-hypervisors:servers")
    need(call, (2, 1), LAST_NUMBERED)
    return reply(200, {"hypervisors": [_short(call, machine, True) for machine in await _named(call)]})


async def _named(call: Call) -> list[Machine]:
    pattern = call.params["hypervisor_id"]
    found = _like(await _all(call), pattern)
    if not found:
        raise Problem(404, f"No hypervisor matching '{pattern}' could be found.")
    return found


ROUTES = [
    ("GET", "/os-hypervisors", list_hypervisors),
    ("GET", "/os-hypervisors/detail", list_details),
    ("GET", "/os-hypervisors/statistics", statistics),
    ("GET", "/os-hypervisors/{hypervisor_id}", show_hypervisor),
    ("GET", "/os-hypervisors/{hypervisor_id}/uptime", show_uptime),
    ("GET", "/os-hypervisors/{hypervisor_id}/search", search),
    ("GET", "/os-hypervisors/{hypervisor_id}/servers", list_servers),
]
