"""Bindings as an outside caller asks for them: by `binding:host_id`, or one by one (the port binding API).

Built on ops/bindings.py, which gives out generations. Here is only what differs from a server's own moves: a host
nobody knows gives a binding that failed, activating one binding leaves the others inactive instead of dropping them,
and a port whose server is in the middle of an operation is refused, because that operation owns its bindings.
"""
from __future__ import annotations

from typing import Any

from virga.domain.errors import Problem
from virga.domain.placement import Host
from virga.domain.port import BOUND, OPENING, Binding, Port
from virga.domain.server import Server
from virga.ops.bindings import drop_binding, open_binding, unbind
from virga.store.db import Tx

BINDING_FAILED = "binding_failed"


def refuse_busy(tx: Tx, port: Port) -> None:
    """Raises Problem 409 while an operation holds the port's server."""
    server = tx.get(Server, port.device_id) if port.device_id else None
    if server is not None and server.operation_id:
        raise Problem(409, f"Port {port.id} belongs to server {server.id}, which is busy with operation {server.operation_id}.", "PortInUse")


def add_binding(tx: Tx, port: Port, host: str, vnic_type: str, profile: dict[str, Any]) -> Binding:
    """An inactive binding on `host`; it failed if no such host is known."""
    binding = open_binding(tx, port, host)
    binding.vnic_type, binding.profile = vnic_type, profile
    if tx.get(Host, host) is None:
        binding.vif_type = BINDING_FAILED
    tx.put(binding)
    return binding


def bind_to(tx: Tx, port: Port, host: str) -> None:
    """Make `host` the port's only binding; '' unbinds it. The same host again changes nothing."""
    if host == port.host:
        return
    refuse_busy(tx, port)
    unbind(tx, port)
    if host:
        add_binding(tx, port, host, port.vnic_type, port.profile)
        make_active(tx, port, host)


def make_active(tx: Tx, port: Port, host: str) -> None:
    """The binding on `host` becomes the active one, the others inactive."""
    for other in tx.find(Binding, port_id=port.id, state=BOUND):
        tx.update(Binding, port.id, other.host, state=OPENING, updated_at=tx.now)
    tx.update(Binding, port.id, host, state=BOUND, updated_at=tx.now)
    tx.update(Port, port.id, host=host)
    port.host = host
    tx.hint("hostview", "port:" + port.id)


def remove_binding(tx: Tx, port: Port, host: str) -> None:
    drop_binding(tx, port.id, host)
    if port.host == host:
        tx.update(Port, port.id, host="")
        port.host = ""
