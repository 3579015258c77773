"""Why a server is where it is: its operation, steps, commands, and what every host concerned has said, in one answer.

Owns: the body of GET /virga/v1/servers/{id}/explain. Rules: one snapshot, nothing written; the wait's sentence comes from asking the step's own
predicate again, so that it is true now and not when the engine last looked. Times are seconds since the epoch, `now` among them, so that a reader
with another clock can still say "12 s ago". `ends` are the sentences that tell what would end the wait; made here because only the procedure's
table knows whether a step has an undo, and the rows whether a host is there.
"""
from __future__ import annotations

from typing import Any

from virga.domain.config import Config
from virga.domain.operation import OPEN, PENDING, RUNNING, Command, Guest, Migration, Operation, Step
from virga.domain.placement import UP, Host
from virga.domain.port import Binding, Port, Wiring
from virga.domain.server import Server
from virga.ops.engine import PATIENCE_S
from virga.ops.procedure import PROCEDURES, Run, Verdict
from virga.store.db import Tx

COMMANDS_MAX = 200
STEP_FIELDS = ("name", "state", "begun_at", "ended_at", "undo_begun_at", "undone_at", "ended_by", "error")


def operation_body(op: Operation) -> dict[str, Any]:
    """One operation as the list and the explanation show it."""
    return {
        "id": op.id, "kind": op.kind, "state": op.state, "server_id": op.server_id, "project_id": op.project_id, "user_id": op.user_id,
        "request_id": op.request_id, "epoch": op.epoch, "step": _step_name(op), "waiting": op.waiting or None, "waiting_since": op.waiting_since,
        "deadline_at": op.deadline_at, "error": op.error or None, "started_at": op.started_at, "ended_at": op.ended_at,
    }


def _step_name(op: Operation) -> str | None:
    steps = PROCEDURES[op.kind].steps if op.kind in PROCEDURES else ()
    return steps[op.position].name if op.state in OPEN and 0 <= op.position < len(steps) else None


def explain(tx: Tx, config: Config, server: Server) -> dict[str, Any]:
    """Everything `virga explain` prints."""
    op = tx.get(Operation, server.operation_id) if server.operation_id else None
    if op is None:
        op = next(iter(tx.find(Operation, server_id=server.id, sort=[("started_at", True)], limit=1)), None)
    body: dict[str, Any] = {
        "now": tx.now,
        "server": {
            "id": server.id, "name": server.name, "status": server.status, "vm_state": server.vm_state, "task_state": server.task_state,
            "host": server.host, "epoch": server.epoch, "project_id": server.project_id, "flavor": server.flavor.name,
            "old_flavor": server.old_flavor.name if server.old_flavor else None, "locked": server.locked, "deleted_at": server.deleted_at,
            "fault": {"message": server.fault.message, "code": server.fault.code, "created_at": server.fault.created_at} if server.fault else None,
        },
        "operation": None, "migration": None, "ends": [],
    }
    commands = _commands(tx, server, op)
    if op is not None:
        body["operation"] = operation_body(op) | {"steps": _steps(tx, op), "commands": [_command(command) for command in commands]}
        if op.state in OPEN:
            verdict = look_again(tx, config, op)
            body["operation"]["waiting"] = verdict.reason or op.waiting or None
            body["ends"] = what_ends(tx, config, op, verdict, commands)
    moves = tx.find(Migration, server_id=server.id, sort=[("number", True)], limit=1)
    if moves:
        move = moves[0]
        body["migration"] = {"id": move.number, "kind": move.kind, "status": move.status, "source": move.source, "dest": move.dest}
    body["hosts"] = _hosts(tx, server, moves, commands)
    return body


def look_again(tx: Tx, config: Config, op: Operation) -> Verdict:
    """What the current step's predicate says of the rows as they are now. Predicates only read."""
    table = PROCEDURES.get(op.kind)
    if table is None or not 0 <= op.position < len(table.steps):
        return Verdict("waiting", op.waiting)
    step = table.steps[op.position]
    run = Run(tx, op, config, position=op.position)
    return step.until(run) if op.state == RUNNING else step.undone(run)


def what_ends(tx: Tx, config: Config, op: Operation, verdict: Verdict, commands: list[Command]) -> list[str]:
    """Sentences: who has to send or write what, and what happens when nobody does."""
    ends: list[str] = []
    for command in commands:
        if command.state != PENDING or command.operation_id != op.id:
            continue
        host = tx.get(Host, command.host)
        age_s = tx.now - command.made_at
        if host is not None and host.state == UP:
            ends.append(f"{command.host} has to answer the command '{command.verb}' (queued {age_s:.1f} s ago, the host is connected)")
        else:
            ends.append(f"the command '{command.verb}' lies in the outbox for {command.host} since {age_s:.0f} s; it is sent when that host connects")
    if verdict.state == "done":
        ends.append("what was awaited is there; the engine takes the next step as soon as it looks")
    elif verdict.state == "failed":
        ends.append(f"the step has failed ({verdict.reason}); the engine turns back as soon as it looks")
    if op.deadline_at is not None:
        ends.append(_deadline(tx, config, op, verdict))
    return ends


def _deadline(tx: Tx, config: Config, op: Operation, verdict: Verdict) -> str:
    row = tx.get(Step, op.id, op.position)
    begun_at = (row.undo_begun_at or row.begun_at) if row is not None else op.started_at
    left_s = (op.deadline_at or tx.now) - tx.now
    if verdict.patient:
        last_s = begun_at + config.compute.fence_timeout - tx.now
        return (f"this wait is patient (giving up could mean two running copies): it is looked at again every {PATIENCE_S:.0f} s, "
                f"for {last_s / 3600:.1f} h more")
    if op.state != RUNNING:
        return f"in {left_s:.0f} s the way back is given up too, and the server goes to ERROR with a fault that says why; no disk is deleted"
    done = [step.name for step in reversed(PROCEDURES[op.kind].steps[:op.position + 1]) if not isinstance(step.undo, str)]
    return f"in {left_s:.0f} s the step is given up and the operation turns back" + (f": it undoes {', '.join(done)}" if done else "")


def _commands(tx: Tx, server: Server, op: Operation | None) -> list[Command]:
    """The operation's commands and whatever else is still unanswered for this server (a purge for a host that is away)."""
    mine = tx.find(Command, operation_id=op.id, sort=[("number", False)], limit=COMMANDS_MAX) if op is not None else []
    known = {command.id for command in mine}
    rest = tx.find(Command, server_id=server.id, state=PENDING, sort=[("number", False)], limit=COMMANDS_MAX)
    return mine + [command for command in rest if command.id not in known]


def _command(command: Command) -> dict[str, Any]:
    return {
        "id": command.id, "host": command.host, "verb": command.verb, "step": command.step, "epoch": command.epoch, "state": command.state,
        "error": command.error or None, "made_at": command.made_at, "ended_at": command.ended_at,
    }


def _steps(tx: Tx, op: Operation) -> list[dict[str, Any]]:
    """Every step of the procedure, those not begun with state None."""
    log = {step.position: step for step in tx.find(Step, operation_id=op.id)}
    table = PROCEDURES[op.kind].steps if op.kind in PROCEDURES else ()
    steps: list[dict[str, Any]] = []
    for position in range(max(len(table), max(log, default=-1) + 1)):
        step = log.get(position)
        name = step.name if step else table[position].name
        if step is None:
            steps.append(dict.fromkeys(STEP_FIELDS) | {"name": name})
        else:
            steps.append({field: getattr(step, field) for field in STEP_FIELDS} | {"ended_by": step.ended_by or None, "error": step.error or None})
    return steps


def _hosts(tx: Tx, server: Server, moves: list[Migration], commands: list[Command]) -> list[dict[str, Any]]:
    """The view of each host that has, had or will have something of this server."""
    ports = tx.find(Port, device_id=server.id, sort=[("created_at", False), ("id", False)])
    bindings = [binding for port in ports for binding in tx.find(Binding, port_id=port.id)]
    wirings = [wiring for port in ports for wiring in tx.find(Wiring, port_id=port.id)]
    guests = {guest.host: guest for guest in tx.find(Guest, server_id=server.id)}
    names = [server.host or "", *(name for move in moves for name in (move.source, move.dest)), *(row.host for row in bindings),
             *(row.host for row in wirings), *(command.host for command in commands), *(name for name, guest in guests.items() if guest.disk)]
    return [
        _host(tx, name, guests.get(name), [row for row in bindings if row.host == name], {row.port_id: row for row in wirings if row.host == name})
        for name in dict.fromkeys(names) if name]


def _host(tx: Tx, name: str, guest: Guest | None, bindings: list[Binding], wirings: dict[str, Wiring]) -> dict[str, Any]:
    host = tx.get(Host, name)
    ports = []
    for binding in bindings:
        wiring = wirings.pop(binding.port_id, None)
        ports.append(_port(binding.port_id, binding, wiring))
    ports += [_port(port_id, None, wiring) for port_id, wiring in wirings.items()]
    return {
        "name": name, "known": host is not None, "state": host.state if host else None, "forced_down": host.forced_down if host else False,
        "disabled": host.disabled if host else False, "seen_at": host.seen_at if host else None, "session": host.session if host else 0,
        "guest": {"state": guest.state, "epoch": guest.epoch, "disk": guest.disk, "at": guest.at, "detail": guest.detail} if guest else None,
        "ports": ports,
    }


def _port(port_id: str, binding: Binding | None, wiring: Wiring | None) -> dict[str, Any]:
    return {
        "id": port_id, "binding": {"state": binding.state, "generation": binding.generation, "updated_at": binding.updated_at} if binding else None,
        "wiring": {"wired": wiring.wired, "generation": wiring.generation, "detail": wiring.detail, "at": wiring.at} if wiring else None,
    }
