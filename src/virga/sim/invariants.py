"""What must always be true of the whole cloud, one checker a truth.

`Watch` sees every change of every machine as it happens: at most one running copy of a guest, and no disk deleted while it is the last. `check_rows`
looks at the database at any moment: one active binding a port, no host overfull, every wait named and with a deadline. `check_calm` at the end, when
chaos has stopped and everything has had its time: every operation ended, no server stuck, ports wired where their server is, claims exactly what
servers and unconfirmed moves need, guests where the rows say, actions and migrations closed, outboxes empty, nothing left of the deleted. Bytes and
expected states are model.py's. A broken invariant raises `Broken`: sentence, and the name of the rule for shrinking.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from virga.agent.fake import Machine
from virga.domain.operation import OPEN, PENDING, Action, ActionEvent, Command, Migration, Operation
from virga.domain.placement import UP, Claim, Host
from virga.domain.port import BOUND, Binding, Port, Wiring
from virga.domain.server import ACTIVE, ERROR, PAUSED, RESIZED, SHELVED_OFFLOADED, STOPPED, SUSPENDED, Server
from virga.ops.delete import MOVE_OPEN
from virga.ops.placing import room_of
from virga.store.claims import room_used
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
            running = [name for name, other in self.machines.items() if other.state(server_id) == "running"]
            if len(running) > 1:
                self.broken = Broken("one-running-copy", f"guest {server_id} runs on {' and '.join(sorted(running))}")
        elif state == "no-disk" and all(other.disk(server_id) is None for other in self.machines.values()) and not self.may_lose(server_id):
            self.broken = Broken("last-copy", f"the last disk of server {server_id} was deleted on {machine}")


def check_rows(tx: Tx) -> None:
    """True at every commit: no host overfull, at most one active binding a port, an open operation is its server's."""
    active = Counter(binding.port_id for binding in tx.find(Binding, state=BOUND))
    for port_id, count in active.items():
        if count > 1:
            raise Broken("one-active-binding", f"port {port_id} has more than one active binding")
    for op in tx.find(Operation, state=list(OPEN)):
        if tx.need(Server, op.server_id).operation_id != op.id:
            raise Broken("one-operation", f"{op.kind} {op.id} is open but does not hold its server")
        if not op.waiting or op.deadline_at is None:
            told = f"waits for {op.waiting or 'nothing it names'} until {op.deadline_at}"
            raise Broken("every-wait-named", f"{op.kind} {op.id} ({op.state}, step {op.position}) {told}")
    _check_room(tx)


def _check_room(tx: Tx) -> None:
    """Claims never promise more of a host than it has, at its ratios."""
    used = room_used(tx)
    for host in tx.find(Host):
        taken = used.get(host.name)
        most = (host.vcpus * host.cpu_ratio, host.ram_mb * host.ram_ratio, host.disk_gb * host.disk_ratio)
        if taken is not None and (taken.vcpus > most[0] or taken.ram_mb > most[1] or taken.disk_gb > most[2]):
            raise Broken("no-host-overfull", f"{host.name} has promised {taken} of {most}")


def check_calm(tx: Tx, machines: dict[str, Machine]) -> None:
    """True once nothing is disturbed any more."""
    for op in tx.find(Operation, state=list(OPEN)):
        raise Broken("operations-end", f"{op.kind} of server {op.server_id} never ended: {op.waiting or 'no wait is named'}")
    for server in tx.find(Server):
        if server.deleted_at is None:
            _check_server(tx, server, machines)
        else:
            left = [machine.name for machine in machines.values() if machine.state(server.id) or machine.disk(server.id) is not None]
            if left:
                raise Broken("nothing-left", f"deleted server {server.id} still has a guest or disk on {left[0]}")
            if tx.find(Port, device_id=server.id, limit=1):
                raise Broken("nothing-left", f"deleted server {server.id} still has a port")
    _check_taps(tx, machines)
    _check_claims(tx)
    _check_records(tx)


def _check_taps(tx: Tx, machines: dict[str, Machine]) -> None:
    """A tap belongs to a port that is bound to its host; every other one was taken away."""
    for machine in machines.values():
        for port_id in machine.journal.find("tap/"):
            port = tx.get(Port, port_id)
            if port is None or tx.get(Binding, port_id, machine.name) is None:
                server = tx.get(Server, port.device_id) if port else None
                if server is None or server.vm_state != ERROR:
                    raise Broken("nothing-left", f"{machine.name} has a tap of port {port_id}, which is {'not bound there' if port else 'gone'}")
    for binding in tx.find(Binding):
        if tx.get(Port, binding.port_id) is None:
            raise Broken("nothing-left", f"port {binding.port_id} is gone, its binding on {binding.host} is not")


def _check_records(tx: Tx) -> None:
    """What users read of what happened is closed, and no connected host has anything left to do."""
    for event in tx.find(ActionEvent, result=None):
        raise Broken("actions-closed", f"event {event.name} of {event.request_id} ({event.server_id}) was never finished")
    ended = {op.request_id for op in tx.find(Operation)}
    for action in tx.find(Action):
        if action.operation_id and action.request_id not in ended:
            raise Broken("actions-closed", f"action {action.action} of {action.request_id} belongs to no operation")
    for migration in tx.find(Migration, status=list(MOVE_OPEN)):
        server = tx.need(Server, migration.server_id)
        if migration.status != "finished" or (server.vm_state != RESIZED and server.vm_state != ERROR):
            raise Broken("migrations-closed", f"migration {migration.number} of {server.id} ({server.vm_state}) is still {migration.status}")
    up = [host.name for host in tx.find(Host, state=UP)]
    for command in tx.find(Command, state=PENDING, host=up, limit=1):
        raise Broken("outbox-empty", f"{command.host} is connected and {command.verb} of {command.server_id} ({command.id}) is still in its outbox")


RUNS_AS = {ACTIVE: "running", STOPPED: "stopped", PAUSED: "paused", SUSPENDED: "suspended"}


def _check_server(tx: Tx, server: Server, machines: dict[str, Machine]) -> None:
    if server.task_state is not None or server.operation_id is not None:
        raise Broken("no-server-stuck", f"server {server.id} is {server.vm_state}/{server.task_state} with nothing under way")
    if server.vm_state in (ERROR, SHELVED_OFFLOADED):
        return
    machine = machines.get(server.host or "")
    if machine is None:
        raise Broken("guest-where-rows-say", f"server {server.id} is {server.vm_state} on {server.host}, which is no machine")
    state = machine.state(server.id)
    wanted = RUNS_AS.get(server.vm_state)
    if wanted and state != wanted and not (state == "crashed" and wanted == "stopped"):
        raise Broken("guest-where-rows-say", f"server {server.id} is {server.vm_state} but its guest on {server.host} is {state}")
    if machine.disk(server.id) is None:
        raise Broken("last-copy", f"server {server.id} ({server.vm_state}) has no disk on {server.host}")
    for other in machines.values():
        if other is not machine and other.state(server.id):
            raise Broken("guest-where-rows-say", f"server {server.id} of {server.host} has a guest on {other.name}: {other.state(server.id)}")
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
