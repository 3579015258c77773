"""What hangs below a server and needs no procedure: diagnostics, topology, password, volumes, remote consoles.

Rules: what is not known is null, never invented; what this cloud does not offer is refused with a sentence, or is
an empty list where the API asks what there is. Diagnostics are made from rows: the guest as its host last reported
it, its flavor and its ports.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from virga.api.compute import inputs
from virga.api.compute.access import must_admin, must_write
from virga.api.compute.inputs import Fields, body_of, choice, integer, optional
from virga.api.compute.microversion import between
from virga.api.compute.server_actions import ACTIONS, CONSOLE, Action
from virga.api.compute.server_interfaces import ports_of
from virga.api.compute.servers import own_server
from virga.api.http import Call, reply
from virga.domain.errors import Problem
from virga.domain.operation import CRASHED, PAUSE, RUN, STOP, SUSPEND, Guest
from virga.domain.port import Port
from virga.domain.server import Server
from virga.fabric.hub import Unanswered
from virga.store.db import Tx

# what diagnostics call a guest's state (compute API, diagnostics since 2.48)
STATES = {RUN: "running", PAUSE: "paused", STOP: "shutdown", SUSPEND: "suspended", CRASHED: "crashed"}
NIC_COUNTERS = ("octets", "errors", "drop", "packets", "rate")
KIB_PER_MIB = 1024


# diagnostics and topology ----------------------------------------------------------------------------------------
async def diagnostics(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-server-diagnostics")

    def work(tx: Tx) -> tuple[Server, list[Port], Guest | None]:
        server = own_server(tx, call)
        return server, ports_of(tx, server), tx.get(Guest, server.id, server.host) if server.host else None

    server, ports, guest = await call.cloud.db.read(work)
    if server.host is None:
        raise Problem(409, f"Instance {server.id} is not on any host: there is nothing to diagnose")
    if call.version < (2, 48):
        return reply(
            200,
            {
                "memory": server.flavor.ram_mb * KIB_PER_MIB,
                "num_cpus": server.flavor.vcpus,
                "num_nics": len(ports),
                "num_disks": 1,
                "state": STATES.get(guest.state, "pending") if guest else "pending",
            },
        )
    return reply(
        200,
        {
            "state": STATES.get(guest.state, "pending") if guest else "pending",
            "driver": "libvirt",  # the API's list of drivers has no other word for what runs here
            "hypervisor": call.cloud.config.virt_type,
            "hypervisor_os": "linux",
            "uptime": _uptime_s(call, server, guest),
            "config_drive": server.config_drive,
            "num_cpus": server.flavor.vcpus,
            "num_nics": len(ports),
            "num_disks": 1,
            "memory_details": {"maximum": server.flavor.ram_mb, "used": None},
            "cpu_details": [
                {"id": number, "time": None, "utilisation": None} for number in range(server.flavor.vcpus)
            ],
            "nic_details": [_nic(port) for port in ports],
            "disk_details": [
                dict.fromkeys(("read_bytes", "read_requests", "write_bytes", "write_requests", "errors_count"))
            ],
        },
    )


def _uptime_s(call: Call, server: Server, guest: Guest | None) -> int | None:
    if guest is None or guest.state != RUN or server.launched_at is None:
        return None
    return max(0, int(call.cloud.env.now() - server.launched_at))


def _nic(port: Port) -> dict[str, Any]:
    counters = {f"{way}_{name}": None for way in ("rx", "tx") for name in NIC_COUNTERS}
    return {"mac_address": port.mac_address, **counters}


@between((2, 78))
async def topology(call: Call) -> Response:
    """Guests here have no NUMA topology of their own, which the API says with an empty list."""
    await call.cloud.db.read(lambda tx: own_server(tx, call))
    return reply(200, {"nodes": [], "pagesize_kb": None})


# password --------------------------------------------------------------------------------------------------------
async def show_password(call: Call) -> Response:
    """The password a guest has posted, encrypted with its key. Guests here post none, so it is empty."""
    await call.cloud.db.read(lambda tx: own_server(tx, call))
    return reply(200, {"password": ""})


async def clear_password(call: Call) -> Response:
    must_write(call, "os_compute_api:os-server-password:clear")
    await call.cloud.db.read(lambda tx: own_server(tx, call))
    return reply(204)


# volumes ---------------------------------------------------------------------------------------------------------
async def list_volumes(call: Call) -> Response:
    await call.cloud.db.read(lambda tx: own_server(tx, call))
    return reply(200, {"volumeAttachments": []})


async def show_volume(call: Call) -> Response:
    server = await call.cloud.db.read(lambda tx: own_server(tx, call))
    raise Problem(404, f"Volume {call.params['volume_id']} is not attached to instance {server.id}.")


async def attach_volume(call: Call) -> Response:
    must_write(call, "os_compute_api:os-volumes-attachments:create")
    inputs.mapping(await body_of(call, "volumeAttachment"), "volumeAttachment")
    await call.cloud.db.read(lambda tx: own_server(tx, call))
    raise Problem(400, "Volumes are not offered by this cloud: it has no block storage service.")


# consoles --------------------------------------------------------------------------------------------------------
async def console_output(call: Call, value: Any) -> Response:
    """The guest's console log, as its host has it now; `length` counts lines from the end, -1 and null mean all."""
    fields = Fields(call, value, "os-getConsoleOutput")
    length = fields.take("length", optional(integer(-1)))
    fields.done()
    server = await call.cloud.db.read(lambda tx: own_server(tx, call))
    if server.host is None:
        raise Problem(409, f"Instance {server.id} is not ready: it is not on any host")
    if call.cloud.hub is None:
        raise Problem(409, f"Instance {server.id} is not ready: its host is not connected")
    lines = None if length is None or length < 0 else length
    try:
        found = await call.cloud.hub.ask(server.host, "console_log", server.id, length=lines)
    except Unanswered as error:
        raise Problem(409, f"Unable to get console log of instance {server.id}: {error}") from error
    return reply(200, {"output": _printable(str(found.get("output", "")), lines)})


def _printable(log: str, length: int | None) -> str:
    """The last lines of a log, without control characters that break terminals and JSON readers."""
    clean = "".join(letter for letter in log if letter in "\n\r\t" or letter.isprintable())
    if length is None:
        return clean
    return "\n".join(clean.split("\n")[-length:]) if length else ""


@between((2, 6))
async def remote_console(call: Call) -> Response:
    must_write(call, "os_compute_api:os-remote-consoles")
    fields = Fields(call, await body_of(call, "remote_console"), "remote_console")
    protocols = ["vnc", "spice", "rdp", "serial", *(["mks"] if call.version >= (2, 8) else [])]
    fields.take("protocol", choice(*protocols), required=True)
    kinds = ["novnc", "xvpvnc", "spice-html5", "rdp-html5", "serial", *(["webmks"] if call.version >= (2, 8) else [])]
    kind = fields.take("type", choice(*kinds), required=True)
    fields.done()
    await call.cloud.db.read(lambda tx: own_server(tx, call))
    raise Problem(400, CONSOLE.format(kind))


ACTIONS["os-getConsoleOutput"] = Action(console_output, "os_compute_api:os-console-output")
ROUTES = [
    ("GET", "/servers/{server_id}/diagnostics", diagnostics),
    ("GET", "/servers/{server_id}/topology", topology),
    ("GET", "/servers/{server_id}/os-server-password", show_password),
    ("DELETE", "/servers/{server_id}/os-server-password", clear_password),
    ("GET", "/servers/{server_id}/os-volume_attachments", list_volumes),
    ("POST", "/servers/{server_id}/os-volume_attachments", attach_volume),
    ("GET", "/servers/{server_id}/os-volume_attachments/{volume_id}", show_volume),
    ("PUT", "/servers/{server_id}/os-volume_attachments/{volume_id}", show_volume),
    ("DELETE", "/servers/{server_id}/os-volume_attachments/{volume_id}", show_volume),
    ("POST", "/servers/{server_id}/remote-consoles", remote_console),
]
