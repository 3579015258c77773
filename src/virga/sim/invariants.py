"""What must always be true of the whole cloud, one checker a truth.

`Watch` sees every change of every machine as it happens: at most one running copy of a guest, and no disk deleted while it is the last. `check_rows`
looks at the database at any moment; `check_calm` at the end, when chaos has stopped and everything has had its time: every operation ended, no server
stuck, ports wired where their server is, claims exactly what servers and unconfirmed moves need, guests where the rows say, bytes as the model
expects. A broken invariant raises `Broken`: sentence, and the name of the rule for shrinking.
"""
from __future__ import annotations

from collections.abc import Callable

from virga.agent.fake import Machine
from virga.domain.operation import OPEN, Migration, Operation
from virga.domain.placement import Claim
from virga.domain.port import BOUND, Binding, Port, Wiring
from virga.domain.server import ACTIVE, ERROR, PAUSED, RESIZED, SHELVED_OFFLOADED, STOPPED, SUSPENDED, Server
from virga.ops.placing import room_of
from virga.store.db import Tx


class Broken(AssertionError):
    """An invariant does not hold. `rule` names it."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


class Watch:
    """Listens to machines. `may_lose(server_id)` says whether a server's data may go (deleted, offloaded to an image, never booted)."""

    def __init__(self, machines: dict[str, Machine], may_lose: Callable[[str], bool]) -> None:
        self.machines = machines
        self.may_lose = may_lose
        self.broken: Broken | None = None
        for machine in machines.values():
            machine.watch = self.saw

    def saw(self, machine: str, server_id: str, state: str) -> None:
        if self.broken is not None:
            return
        if state == "running":
            running = [name for name, other in self.machines.items() if other.guests().get(server_id) == "running"]
            if len(running) > 1:
                self.broken = Broken("one-running-copy", f"guest {server_id} runs on {' and '.join(sorted(running))}")
        elif state == "no-disk" and all(other.disk(server_id) is None for other in self.machines.values()) and not self.may_lose(server_id):
            self.broken = Broken("last-copy", f"the last disk of server {server_id} was deleted on {machine}")


def check_rows(tx: Tx) -> None:
    """True at every commit: no host overfull, at most one active binding a port, an open operation is its server's."""
    for server in tx.find(Server, deleted_at=None):
        active = [port.id for port in tx.find(Port, device_id=server.id) if len(tx.find(Binding, port_id=port.id, state=BOUND)) > 1]
        if active:
            raise Broken("one-active-binding", f"port {active[0]} has more than one active binding")
    for op in tx.find(Operation, state=list(OPEN)):
        if tx.need(Server, op.server_id).operation_id != op.id:
            raise Broken("one-operation", f"{op.kind} {op.id} is open but does not hold its server")


def check_calm(tx: Tx, machines: dict[str, Machine]) -> None:
    """True once nothing is disturbed any more."""
    for op in tx.find(Operation, state=list(OPEN)):
        raise Broken("operations-end", f"{op.kind} of server {op.server_id} never ended: {op.waiting or 'no wait is named'}")
    for server in tx.find(Server):
        if server.deleted_at is None:
            _check_server(tx, server, machines)
        else:
            left = [machine.name for machine in machines.values() if machine.guests().get(server.id) or machine.disk(server.id) is not None]
            if left:
                raise Broken("nothing-left", f"deleted server {server.id} still has a guest or disk on {left[0]}")
    _check_claims(tx)


RUNS_AS = {ACTIVE: "running", STOPPED: "stopped", PAUSED: "paused", SUSPENDED: "suspended"}


def _check_server(tx: Tx, server: Server, machines: dict[str, Machine]) -> None:
    if server.task_state is not None or server.operation_id is not None:
        raise Broken("no-server-stuck", f"server {server.id} is {server.vm_state}/{server.task_state} with nothing under way")
    if server.vm_state in (ERROR, SHELVED_OFFLOADED):
        return
    machine = machines.get(server.host or "")
    if machine is None:
        raise Broken("guest-where-rows-say", f"server {server.id} is {server.vm_state} on {server.host}, which is no machine")
    state = machine.guests().get(server.id)
    wanted = RUNS_AS.get(server.vm_state)
    if wanted and state != wanted and not (state == "crashed" and wanted == "stopped"):
        raise Broken("guest-where-rows-say", f"server {server.id} is {server.vm_state} but its guest on {server.host} is {state}")
    if machine.disk(server.id) is None:
        raise Broken("last-copy", f"server {server.id} ({server.vm_state}) has no disk on {server.host}")
    for other in machines.values():
        if other is not machine and other.guests().get(server.id):
            raise Broken("guest-where-rows-say", f"server {server.id} of {server.host} has a guest on {other.name}: {other.guests()[server.id]}")
    for port in tx.find(Port, device_id=server.id):
        _check_port(tx, server, port)


def _check_port(tx: Tx, server: Server, port: Port) -> None:
    binding = tx.one(Binding, port_id=port.id, state=BOUND)
    if binding is None or binding.host != server.host or port.host != server.host:
        raise Broken("bound-where-it-runs", f"port {port.id} of server {server.id} is bound to {port.host or 'nothing'}, not {server.host}")
    if server.vm_state in (ACTIVE, RESIZED, PAUSED) and not (server.vm_state == RESIZED and server.power_state != 1):
        wiring = tx.get(Wiring, port.id, binding.host)
        if wiring is None or not wiring.wired or wiring.generation != binding.generation:
            raise Broken("active-means-wired", f"server {server.id} is {server.vm_state} but port {port.id} is not wired on {binding.host}")


def _check_claims(tx: Tx) -> None:
    """Claims are exactly: one a living server on its host, and one a finished (unconfirmed) move on its source."""
    wanted: dict[tuple[str, str], tuple[int, int, int]] = {}
    for server in tx.find(Server, deleted_at=None):
        if server.host is not None and not (server.vm_state == ERROR and server.launched_at is None):
            room = room_of(server.flavor)
            wanted[server.host, server.id] = (room.vcpus, room.ram_mb, room.disk_gb)
        if server.vm_state == RESIZED and server.old_flavor is not None:
            migration = tx.one(Migration, server_id=server.id, status="finished")
            if migration is None:
                raise Broken("claims-add-up", f"server {server.id} is resized without a finished migration")
            room = room_of(server.old_flavor)
            wanted[migration.source, migration.id] = (room.vcpus, room.ram_mb, room.disk_gb)
    errors = {server.id for server in tx.find(Server, vm_state=ERROR)}  # may hold more than they need until they are deleted
    have = {(claim.host, claim.owner): (claim.vcpus, claim.ram_mb, claim.disk_gb) for claim in tx.find(Claim) if claim.server_id not in errors}
    wanted = {key: room for key, room in wanted.items() if key[1] not in errors}
    for key in sorted(set(wanted) | set(have)):
        if wanted.get(key) != have.get(key):
            raise Broken("claims-add-up", f"claim {key}: there is {have.get(key)}, there should be {wanted.get(key)}")
