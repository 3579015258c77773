"""A server's NICs (`os-interface`): its ports as the compute API sees them, one more, one less.

Rules: the port's state is derived from its active binding's wiring, as the network API shows it. A NIC is asked for
by network (an address may be wished) or by port, never by both; with neither, the project's one network is taken.
Attaching is answered when the guest has its NIC.
Also here: addFixedIp and removeFixedIp of the days before 2.44, which change the addresses of a NIC.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from virga.api.compute import inputs
from virga.api.compute.access import ask_of, must_write
from virga.api.compute.inputs import Fields, body_of, optional
from virga.api.compute.networks_of import compute_status
from virga.api.compute.server_actions import ACTIONS, Action
from virga.api.compute.server_create import choose_nics, need_nic
from virga.api.compute.server_wish import Nics
from virga.api.compute.servers import own_server
from virga.api.http import Call, reply
from virga.domain.errors import Problem
from virga.domain.network import Network
from virga.domain.operation import OPEN, Operation
from virga.domain.port import Binding, Port, Wiring, port_status
from virga.domain.server import Server
from virga.ops import front
from virga.ops.addresses import Wish
from virga.ops.front import NicRequest
from virga.ops.ports import change_addresses, touched
from virga.store.db import Tx

ATTACH_WAIT_S = 30.0
PAUSE_MAX_S = 0.1


def ports_of(tx: Tx, server: Server) -> list[Port]:
    return tx.find(Port, device_id=server.id, sort=[("created_at", False), ("id", False)])


def own_port(tx: Tx, call: Call, server: Server) -> Port:
    port = tx.get(Port, call.params["port_id"])
    if port is None or port.device_id != server.id:
        raise Problem(404, f"Instance {server.id} has no interface with port id {call.params['port_id']}")
    return port


def view(tx: Tx, call: Call, port: Port) -> dict[str, Any]:
    binding = tx.get(Binding, port.id, port.host) if port.host else None
    wiring = tx.get(Wiring, port.id, port.host) if port.host else None
    body: dict[str, Any] = {
        "net_id": port.network_id,
        "port_id": port.id,
        "mac_addr": port.mac_address,
        "port_state": port_status(port, binding, wiring),
        "fixed_ips": [{"subnet_id": fixed.subnet_id, "ip_address": fixed.ip_address} for fixed in port.fixed_ips],
    }
    if call.version >= (2, 70):
        body["tag"] = port.tags[0] if port.tags and not port.preserve else None
    return body


async def list_interfaces(call: Call) -> Response:
    views = await call.cloud.db.read(lambda tx: [view(tx, call, port) for port in ports_of(tx, own_server(tx, call))])
    return reply(200, {"interfaceAttachments": views})


async def show_interface(call: Call) -> Response:
    found = await call.cloud.db.read(lambda tx: view(tx, call, own_port(tx, call, own_server(tx, call))))
    return reply(200, {"interfaceAttachment": found})


async def attach_interface(call: Call) -> Response:
    """Answered when the NIC is in place, as clients expect of this call, or after ATTACH_WAIT_S with what there is."""
    must_write(call, "os_compute_api:os-attach-interfaces:create")
    nic = _read(call, await body_of(call, "interfaceAttachment"))
    port_id, op_id = await call.cloud.db.run(lambda tx: _attach(tx, call, nic))
    op = await _ended(call, op_id)
    if op.error:
        raise Problem(400, f"Failed to attach network adapter device to instance {op.server_id}: {op.error}")

    def work(tx: Tx) -> dict[str, Any]:
        port = tx.get(Port, port_id)
        if port is None:
            raise Problem(404, f"Port id {port_id} could not be found: it was deleted meanwhile.")
        return view(tx, call, port)

    return reply(200, {"interfaceAttachment": await call.cloud.db.read(work)})


async def _ended(call: Call, op_id: str) -> Operation:
    """The operation once it has ended, or as it is after ATTACH_WAIT_S (at once in a cloud without hosts)."""
    end = call.cloud.env.monotonic() + (ATTACH_WAIT_S if call.cloud.hub else 0)
    pause_s = 0.002
    while True:
        op = await call.cloud.db.read(lambda tx: tx.need(Operation, op_id))
        if op.state not in OPEN or call.cloud.env.monotonic() >= end:
            return op
        await call.cloud.env.sleep(pause_s)
        pause_s = min(2 * pause_s, PAUSE_MAX_S)


def _attach(tx: Tx, call: Call, nic: NicRequest) -> tuple[str, str]:
    """Start attaching; the port's id and the operation's."""
    server = own_server(tx, call)
    if nic.network_id is None and nic.port_id is None:
        chosen = choose_nics(tx, call, Nics("auto"))
        if not chosen:
            raise Problem(400, "No network is available to this project; name one.")
        nic = NicRequest(chosen[0].network_id, None, None, nic.tag)
    else:
        need_nic(tx, call, nic)
    with compute_status():
        port = front.attach_interface(tx, ask_of(call), server, nic)
    (op,) = tx.find(Operation, server_id=server.id, epoch=server.epoch)
    return port.id, op.id


def _read(call: Call, value: Any) -> NicRequest:
    fields = Fields(call, value, "interfaceAttachment")
    network = fields.take("net_id", optional(inputs.uuid))
    port = fields.take("port_id", optional(inputs.uuid))
    wished = fields.take("fixed_ips", inputs.items)
    tag = fields.take("tag", inputs.tag, since=(2, 49))
    fields.done()
    if network is not None and port is not None:
        raise Problem(400, "Must not input both network_id and port_id")
    address = None
    if wished is not None:
        if len(wished) != 1:
            raise inputs.bad("interfaceAttachment.fixed_ips", "it holds one address.")
        inner = Fields(call, wished[0], "interfaceAttachment.fixed_ips.0")
        address = inner.take("ip_address", inputs.ip, required=True)
        inner.done()
        if network is None:
            raise Problem(400, "Must input network_id when request IP address")
    return NicRequest(network, port, address, tag)


async def detach_interface(call: Call) -> Response:
    must_write(call, "os_compute_api:os-attach-interfaces:delete")

    def work(tx: Tx) -> None:
        server = own_server(tx, call)
        front.detach_interface(tx, ask_of(call), server, own_port(tx, call, server).id)

    await call.cloud.db.run(work)
    return reply(202)


# addresses of a NIC, before 2.44 ---------------------------------------------------------------------------------
async def add_fixed_ip(call: Call, value: Any) -> Response:
    fields = Fields(call, value, "addFixedIp")
    network_id = fields.take("networkId", inputs.uuid, required=True)
    fields.done()

    def work(tx: Tx) -> None:
        server = own_server(tx, call)
        port = next((port for port in ports_of(tx, server) if port.network_id == network_id), None)
        if port is None:
            raise Problem(400, f"Instance {server.id} has no interface on network {network_id}.")
        subnet = port.fixed_ips[0].subnet_id if port.fixed_ips else None
        kept = [Wish(fixed.subnet_id, fixed.ip_address) for fixed in port.fixed_ips]
        _readdress(tx, port, [*kept, Wish(subnet)])

    await call.cloud.db.run(work)
    return reply(202)


async def remove_fixed_ip(call: Call, value: Any) -> Response:
    fields = Fields(call, value, "removeFixedIp")
    address = fields.take("address", inputs.ip, required=True)
    fields.done()

    def work(tx: Tx) -> None:
        server = own_server(tx, call)
        for port in ports_of(tx, server):
            kept = [
                Wish(fixed.subnet_id, fixed.ip_address) for fixed in port.fixed_ips if fixed.ip_address != address
            ]
            if len(kept) < len(port.fixed_ips):
                _readdress(tx, port, kept)
                return
        raise Problem(400, f"Instance {server.id} has no fixed address {address}.")

    await call.cloud.db.run(work)
    return reply(202)


def _readdress(tx: Tx, port: Port, wishes: list[Wish]) -> None:
    fixed = change_addresses(tx, port, tx.need(Network, port.network_id), wishes)
    tx.update(Port, port.id, fixed_ips=fixed, updated_at=tx.now, revision_number=port.revision_number + 1)
    touched(tx, port.id)


ACTIONS["addFixedIp"] = Action(add_fixed_ip, "os_compute_api:os-multinic:add", until=(2, 43))
ACTIONS["removeFixedIp"] = Action(remove_fixed_ip, "os_compute_api:os-multinic:remove", until=(2, 43))

ROUTES = [
    ("GET", "/servers/{server_id}/os-interface", list_interfaces),
    ("POST", "/servers/{server_id}/os-interface", attach_interface),
    ("GET", "/servers/{server_id}/os-interface/{port_id}", show_interface),
    ("DELETE", "/servers/{server_id}/os-interface/{port_id}", detach_interface),
]
