"""Availability zones: the zones of the hosts, and for administrators which hosts are in them.

A zone exists because a host is in it (aggregates put hosts into zones); it is available while one of its hosts is
enabled.
"""
from __future__ import annotations

from typing import Any

from starlette.responses import Response

from virga.api.compute.access import must_admin
from virga.api.compute.hypervisors import state_of
from virga.api.compute.server_views import iso_micro
from virga.api.compute.services import BINARY
from virga.api.http import Call, reply
from virga.domain.compute import DEFAULT_ZONE
from virga.domain.placement import Host
from virga.store.db import Tx


def _hosts(tx: Tx) -> dict[str, list[Host]]:
    zones: dict[str, list[Host]] = {}
    for host in tx.find(Host, sort=[("number", False)]):
        zones.setdefault(host.availability_zone, []).append(host)
    return zones or {DEFAULT_ZONE: []}


def _available(hosts: list[Host]) -> bool:
    return any(not host.disabled for host in hosts)


async def list_zones(call: Call) -> Response:
    zones = await call.cloud.db.read(_hosts)
    ordered = sorted(zones.items(), key=lambda item: not _available(item[1]))
    return reply(200, {"availabilityZoneInfo": [
        {"zoneName": name, "zoneState": {"available": _available(hosts)}, "hosts": None} for name, hosts in ordered]})


async def list_details(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-availability-zone:detail")
    zones = await call.cloud.db.read(_hosts)

    def services(host: Host) -> dict[str, Any]:
        return {BINARY: {"active": not host.disabled, "available": state_of(host) == "up",
                         "updated_at": iso_micro(host.seen_at or host.updated_at)}}

    return reply(200, {"availabilityZoneInfo": [
        {"zoneName": name, "zoneState": {"available": _available(hosts)},
         "hosts": {host.name: services(host) for host in hosts}} for name, hosts in zones.items()]})


ROUTES = [
    ("GET", "/os-availability-zone", list_zones),
    ("GET", "/os-availability-zone/detail", list_details),
]
