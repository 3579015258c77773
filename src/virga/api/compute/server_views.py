"""Servers as users see them: every field at the microversion it came with, encoded once and found again.

Owns: `View` (for whom and for what a server is shown), `show`, `listing`. Rules: a field stands here with the
version that brought it; who is no admin does not see hosts and internals. Nothing is guessed: what is shown is made
from rows alone.
Why a memo: a list of 100 servers must cost a few ms. The key of an encoded server is everything it was made from
(the raw rows of the server, its ports, its host, the names they refer to, and the View), so an entry can never be
stale, it can only be no longer asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from virga.api.http import Call
from virga.domain.placement import UP
from virga.domain.server import STATUS, Server
from virga.store import server_list
from virga.store.db import Tx
from virga.store.server_list import Raw

MEMO_ENTRIES_MAX = 2048
PROGRESS_STATUSES = {"ACTIVE", "BUILD", "REBUILD", "RESIZE", "VERIFY_RESIZE", "MIGRATING"}
_encode = msgspec.json.Encoder().encode
json_bytes = _encode
_decode = msgspec.json.Decoder().decode


class View(msgspec.Struct, frozen=True):
    """For whom, at which version, and for which call: 'show', 'list', 'update' or 'rebuild'."""

    base_url: str
    version: tuple[int, int]
    admin: bool
    call: str


class Around(msgspec.Struct, frozen=True):
    """What a server's view needs beside its own row; hashable, part of the memo's key."""

    ports: tuple[Raw, ...]
    floating: tuple[Raw, ...]
    groups: tuple[str, ...]
    host: Raw | None


def view_of(call: Call, kind: str) -> View:
    return View(call.base_url(), call.version, call.caller.is_admin, kind)


def iso(at: float | None) -> str | None:
    """Seconds since the epoch as the API writes times: 2026-01-31T12:00:00Z."""
    return None if at is None else datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso_micro(at: float | None) -> str | None:
    """As the usage fields write it: with microseconds and without a zone."""
    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


def links(base_url: str, server_id: str) -> list[dict[str, str]]:
    return [
        {"rel": "self", "href": f"{base_url}/compute/v2.1/servers/{server_id}"},
        {"rel": "bookmark", "href": f"{base_url}/compute/servers/{server_id}"},
    ]


def host_id(project_id: str, host: str | None) -> str:
    """A name for the host that is the same within a project and tells nothing else."""
    return hashlib.sha224(f"{project_id}{host}".encode()).hexdigest() if host else ""


def host_status(host: Raw | None) -> str:
    """UP, UNKNOWN, DOWN or MAINTENANCE as the compute API means them; '' for a server without a host."""
    if host is None:
        return ""
    state, disabled, forced_down, _ = host
    if forced_down:
        return "DOWN"
    if disabled:
        return "MAINTENANCE"
    return "UP" if state == UP else "UNKNOWN"


def addresses(around: Around) -> dict[str, list[dict[str, Any]]]:
    """Network name -> addresses, fixed ones first on each port, each with the port's MAC."""
    found: dict[str, list[dict[str, Any]]] = {}
    for _, port_id, network, mac, fixed_ips, _ in around.ports:
        mine = found.setdefault(network, [])
        for fixed in _decode(fixed_ips):
            mine.append(_address(fixed["ip_address"], "fixed", mac))
            mine.extend(
                _address(outer, "floating", mac)
                for port, inner, outer in around.floating
                if port == port_id and inner == fixed["ip_address"]
            )
    return found


def bare_addresses(around: Around) -> dict[str, list[dict[str, Any]]]:
    """Addresses without the extended fields, as /ips and answers of early versions show them."""
    return {
        network: [{"version": item["version"], "addr": item["addr"]} for item in items]
        for network, items in addresses(around).items()
    }


def _address(text: str, kind: str, mac: str) -> dict[str, Any]:
    return {"version": 6 if ":" in text else 4, "addr": text, "OS-EXT-IPS:type": kind, "OS-EXT-IPS-MAC:mac_addr": mac}


def flavor_view(server: Server, view: View) -> dict[str, Any]:
    flavor = server.flavor
    if view.version < (2, 47):
        return {
            "id": flavor.id,
            "links": [{"rel": "bookmark", "href": f"{view.base_url}/compute/flavors/{flavor.id}"}],
        }
    return {
        "vcpus": flavor.vcpus,
        "ram": flavor.ram_mb,
        "disk": flavor.disk_gb,
        "ephemeral": flavor.ephemeral_gb,
        "swap": flavor.swap_mb,
        "original_name": flavor.name,
        "extra_specs": flavor.extra_specs,
    }


def _basics(server: Server, around: Around, view: View) -> dict[str, Any]:
    """What every answer with a whole server has had since 2.1."""
    image: Any = ""
    if server.image_id:
        href = f"{view.base_url}/compute/images/{server.image_id}"
        image = {"id": server.image_id, "links": [{"rel": "bookmark", "href": href}]}
    body: dict[str, Any] = {
        "id": server.id,
        "name": server.name,
        "status": server.status,
        "tenant_id": server.project_id,
        "user_id": server.user_id,
        "metadata": server.metadata,
        "hostId": host_id(server.project_id, server.host),
        "image": image,
        "flavor": flavor_view(server, view),
        "created": iso(server.created_at),
        "updated": iso(server.updated_at or server.created_at),
        "addresses": addresses(around),
        "accessIPv4": server.access_ipv4 or "",
        "accessIPv6": server.access_ipv6 or "",
        "links": links(view.base_url, server.id),
        "OS-DCF:diskConfig": server.disk_config,
    }
    if server.status in PROGRESS_STATUSES:
        body["progress"] = server.progress
    if server.fault is not None and server.status in ("ERROR", "DELETED"):
        body["fault"] = fault_view(server, view)
    if view.version >= (2, 9):
        body["locked"] = server.locked
    if view.version >= (2, 19):
        body["description"] = server.description
    if view.version >= (2, 26):
        body["tags"] = server.tags
    if view.version >= (2, 63):
        body["trusted_image_certificates"] = server.trusted_certs
    if view.version >= (2, 71) and view.call != "list":
        body["server_groups"] = [server.server_group_id] if server.server_group_id else []
    if view.version >= (2, 73):
        body["locked_reason"] = server.locked_reason
    if view.version >= (2, 96):
        body["pinned_availability_zone"] = server.availability_zone
    return body


def fault_view(server: Server, view: View) -> dict[str, Any]:
    """`details` are for admins, and for everyone when the code says the user can act on it."""
    assert server.fault is not None
    fault = {"code": server.fault.code, "message": server.fault.message, "created": iso(server.fault.created_at)}
    if server.fault.details and (view.admin or server.fault.code != 500):
        fault["details"] = server.fault.details
    return fault


def _extended(server: Server, around: Around, view: View) -> dict[str, Any]:
    """What show and list add, and since 2.75 update and rebuild too."""
    zone = around.host[3] if around.host else server.availability_zone or ""
    volume: list[dict[str, Any]] = []  # block storage is not part of this cloud
    body: dict[str, Any] = {
        "key_name": server.key_name,
        "config_drive": "True" if server.config_drive else "",
        "OS-EXT-AZ:availability_zone": zone,
        "OS-SRV-USG:launched_at": iso_micro(server.launched_at),
        "OS-SRV-USG:terminated_at": iso_micro(server.deleted_at),
        "OS-EXT-STS:vm_state": server.vm_state,
        "OS-EXT-STS:task_state": server.task_state,
        "OS-EXT-STS:power_state": server.power_state,
        "os-extended-volumes:volumes_attached": volume,
    }
    if around.groups:
        body["security_groups"] = [{"name": name} for name in around.groups]
    if view.version >= (2, 90) and view.call != "rebuild":
        body["OS-EXT-SRV-ATTR:hostname"] = server.hostname
    if view.admin:
        body["OS-EXT-SRV-ATTR:host"] = server.host
        body["OS-EXT-SRV-ATTR:hypervisor_hostname"] = server.host
        body["OS-EXT-SRV-ATTR:instance_name"] = f"instance-{server.id[:8]}"
        if view.version >= (2, 3):
            own = {
                "reservation_id": server.reservation_id,
                "launch_index": server.launch_index,
                "hostname": server.hostname,
                "kernel_id": "",
                "ramdisk_id": "",
                "root_device_name": "/dev/vda",
                "user_data": server.user_data,
            }
            if view.call == "rebuild":
                del own["user_data"]
            body.update({f"OS-EXT-SRV-ATTR:{name}": value for name, value in own.items()})
        if view.version >= (2, 16):
            body["host_status"] = host_status(around.host)
    return body


def server_body(server: Server, around: Around, view: View) -> dict[str, Any]:
    """The whole server as a dict."""
    body = _basics(server, around, view)
    if view.call in ("show", "list") or view.version >= (2, 75):
        body.update(_extended(server, around, view))
    else:
        body["addresses"] = bare_addresses(around)
    if view.call == "rebuild":
        if view.version >= (2, 54):
            body["key_name"] = server.key_name
        if view.version >= (2, 57):
            body["user_data"] = server.user_data
        if view.version >= (2, 90):
            body["OS-EXT-SRV-ATTR:hostname"] = server.hostname
    return body


def surroundings(tx: Tx, raws: Sequence[Raw]) -> list[tuple[Raw, Around]]:
    """Each raw server row with what its view needs: five statements, however many servers."""
    if not raws:
        return []
    ids = [raw[0] for raw in raws]
    ports: dict[str, list[Raw]] = {}
    group_texts: set[str] = set()
    for row in server_list.port_rows(tx, ids):
        ports.setdefault(row[0], []).append(row)
        group_texts.add(row[5])
    parsed = {text: _decode(text) for text in group_texts}
    group_ids = sorted({group_id for found in parsed.values() for group_id in found})
    names = server_list.group_names(tx, group_ids) if group_ids else {}
    floating: dict[str, list[Raw]] = {}
    for row in server_list.floating_rows(tx, ids):
        floating.setdefault(row[0], []).append(row)
    hosts = server_list.host_rows(tx)
    result: list[tuple[Raw, Around]] = []
    for raw in raws:
        mine = tuple(ports.get(raw[0], ()))
        outer = tuple(row for port in mine for row in floating.get(port[1], ())) if floating else ()
        groups = tuple(
            dict.fromkeys(names[group_id] for port in mine for group_id in parsed[port[5]] if group_id in names)
        )
        result.append((raw, Around(mine, outer, groups, hosts.get(raw[_HOST] or ""))))
    return result


_HOST = Server.__struct_fields__.index("host")


def encoded(call: Call, view: View, found: Sequence[tuple[Raw, Around]]) -> list[bytes]:
    """Each server's JSON, from the memo where everything it is made from is as it was."""
    memo: dict[Any, bytes] = call.cloud.extra.setdefault("server_views", {})
    result: list[bytes] = []
    for raw, around in found:
        key = (view, raw, around.ports, around.floating, around.groups, around.host)
        text = memo.get(key)
        if text is None:
            if len(memo) >= MEMO_ENTRIES_MAX:
                for old in list(memo)[: MEMO_ENTRIES_MAX // 2]:
                    del memo[old]
            text = memo[key] = _encode(server_body(server_list.decode(raw), around, view))
        result.append(text)
    return result


def one(tx: Tx, server_id: str) -> tuple[Server, Around]:
    """A server (which must be there) and its surroundings, for answers with one server."""
    raw, around = surroundings(tx, server_list.server_rows(tx, [server_id]))[0]
    return server_list.decode(raw), around


def status_filters(status: str) -> list[server_list.StatusFilter]:
    """What rows a status stands for; none for a status that does not exist."""
    wanted = status.upper()
    found: list[server_list.StatusFilter] = []
    for vm_state, (default, by_task) in STATUS.items():
        named = tuple(task for task, shown in by_task.items() if shown == wanted)
        if default == wanted:
            found.append(
                server_list.StatusFilter(vm_state, tuple(task for task in by_task if by_task[task] != wanted))
            )
        elif named:
            found.append(server_list.StatusFilter(vm_state, named, other=False))
    return found
