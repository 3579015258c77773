"""Opening, renewing, activating and dropping the bindings of ports: the only writer of `bindings`, `Port.host` and generations.

A generation is never used twice for a port, on any host, so a wired fact can only ever fulfil the binding it was made for. During a move the port
stays actively bound to the host it leaves until the pivot; the binding opened on the other host is inactive until then.
"""
from __future__ import annotations

from virga.domain.port import BOUND, OPENING, Binding, Port, Wiring
from virga.store.db import Tx


def open_binding(tx: Tx, port: Port, host: str) -> Binding:
    """A new generation for (port, host), keeping it active if it was."""
    port.binding_generation += 1
    tx.update(Port, port.id, binding_generation=port.binding_generation)
    old = tx.get(Binding, port.id, host)
    binding = Binding(port.id, host, port.binding_generation, old.state if old else OPENING, vnic_type=port.vnic_type,
                      profile=port.profile, updated_at=tx.now)
    tx.put(binding)
    tx.hint("port:" + port.id, "hostview")
    tx.emit("transition", "store", "store", f"port {port.id} on {host}: binding generation {binding.generation} {binding.state}")
    return binding


def activate_binding(tx: Tx, port_id: str, host: str) -> None:
    """Make the binding on `host` the active one; every other binding of the port is dropped with its wired fact."""
    for other in tx.find(Binding, port_id=port_id):
        if other.host != host:
            drop_binding(tx, port_id, other.host)
    tx.update(Binding, port_id, host, state=BOUND, updated_at=tx.now)
    tx.update(Port, port_id, host=host)
    tx.emit("transition", "store", "store", f"port {port_id}: the binding on {host} is the active one")
    tx.hint("port:" + port_id, "hostview")


def drop_binding(tx: Tx, port_id: str, host: str) -> None:
    if tx.delete(Binding, port_id, host):
        tx.emit("transition", "store", "store", f"port {port_id} on {host}: binding dropped")
    tx.delete(Wiring, port_id, host)
    tx.hint("port:" + port_id, "hostview")


def unbind(tx: Tx, port: Port) -> None:
    """Drop every binding of a port and its host."""
    for binding in tx.find(Binding, port_id=port.id):
        drop_binding(tx, port.id, binding.host)
    if port.host:
        port.host = ""
        tx.update(Port, port.id, host="")
