"""The step engine: operations as declared tables of steps, run as a durable state machine.

Owns: `operations`, `steps`, and how a `Procedure` (procedure.py: the table, and what a step may do) is carried out, turned back and resumed.
Rules: `advance` is one transaction: it looks at the rows, closes what is fulfilled, opens the next step, and commits state, log and outbox together.
So an intent is always committed before its effect and a result after it; kill -9 at any point leaves rows that `advance` simply looks at again.
Nothing here remembers a wait: hints and a timer only say "look again". Undoing raises the epoch, so every forward command still under way is refused
by the agents. An operation belongs to the controller whose lease it carries; another may take it when the lease has run out.
"""
from __future__ import annotations

import asyncio
import traceback
from collections.abc import Collection
from typing import Any

from virga.domain.config import Config
from virga.domain.operation import (
    BEGUN,
    DONE,
    FAILED,
    OBSOLETE,
    OPEN,
    PENDING,
    RUNNING,
    STEP_DONE,
    STEP_FAILED,
    STEP_UNDONE,
    SUPERSEDED,
    UNDO_BEGUN,
    UNDOING,
    UNDONE,
    BrokenLog,
    Command,
    Operation,
    Step,
    check_move,
)
from virga.domain.server import ERROR, Server
from virga.ops import actions
from virga.ops.procedure import PROCEDURES, Run, Verdict, failed
from virga.runtime.env import Env
from virga.runtime.trace import Trace
from virga.store.db import Db, Tx

SCAN_PERIOD_S = 5.0
PATIENCE_S = 60.0  # how often a patient wait is looked at again after its first deadline


def open_operation(
    tx: Tx, config: Config, kind: str, server: Server, *, project_id: str, user_id: str, request_id: str, inputs: dict[str, Any],
    operation_id: str = "",
) -> Operation:
    """Start an operation on a server and run it as far as it goes without waiting. The server's epoch rises."""
    op = Operation(operation_id or tx.new_id(), kind, server.id, project_id, user_id, request_id, epoch=server.epoch + 1, input=inputs, started_at=tx.now)
    tx.insert(op)
    server.epoch = op.epoch
    server.operation_id = op.id
    tx.update(Server, server.id, epoch=op.epoch, operation_id=op.id)
    tx.emit("step", "api", "ops", kind, server=server.id, operation=op.id, request=request_id, key=op.id)
    advance(tx, config, op, new=True)
    if op.state in OPEN:
        tx.hint("opened:" + op.id)
    return op


def supersede(tx: Tx, op: Operation, why: str) -> None:
    """End an open operation because another one (delete) takes the server; its commands not yet answered are withdrawn."""
    withdraw(tx, op)
    close(tx, op, SUPERSEDED, why)


def withdraw(tx: Tx, op: Operation) -> None:
    for command in tx.find(Command, operation_id=op.id, state=PENDING):
        tx.update(Command, command.id, state=OBSOLETE, ended_at=tx.now)
        tx.hint("outbox:" + command.host)


def close(tx: Tx, op: Operation, state: str, error: str = "") -> None:
    op.state, op.error, op.waiting, op.waiting_since, op.deadline_at, op.ended_at = state, error, "", None, None, tx.now
    save(tx, op)
    server = tx.get(Server, op.server_id)
    if server is not None and server.operation_id == op.id:
        tx.update(Server, server.id, operation_id=None)
    actions.finish(tx, op, error)
    tx.emit("step", "ops", "ops", f"{op.kind} {state}" + (f": {error}" if error else ""), server=op.server_id, operation=op.id,
            request=op.request_id, cause=op.id)
    tx.hint("ended:" + op.id, "changed:" + op.server_id)


def save(tx: Tx, op: Operation) -> None:
    """Write everything of an operation that moves, in one statement."""
    tx.update(Operation, op.id, state=op.state, position=op.position, epoch=op.epoch, notes=op.notes, waiting=op.waiting,
              waiting_since=op.waiting_since, deadline_at=op.deadline_at, error=op.error, owner=op.owner, lease_until=op.lease_until,
              ended_at=op.ended_at)


def advance(tx: Tx, config: Config, op: Operation, *, new: bool = False, dirty: bool = False) -> None:
    """Look at one operation and take it as far as its rows allow. `new`: it has no step yet; `dirty`: its row is to be saved in any case."""
    run = Run(tx, op, config, new=new, dirty=dirty)
    try:
        while op.state in OPEN and (_forward(run) if op.state == RUNNING else _backward(run)):
            pass
    except BrokenLog as broken:
        PROCEDURES[op.kind].stuck(run, str(broken))
        close(tx, op, FAILED, str(broken))
        return
    if op.state in OPEN and run.dirty:
        save(tx, op)


def _forward(run: Run) -> bool:
    """One look at the current step going forward; True when there is more to do at once."""
    tx, op = run.tx, run.op
    table = PROCEDURES[op.kind]
    if op.position >= len(table.steps):
        close(tx, op, DONE)
        return False
    step = table.steps[op.position]
    run.position, run._commands = op.position, 0
    row = None if run.new else tx.get(Step, op.id, op.position)
    fresh, run.new = row is None, False
    if row is None:
        row = Step(op.id, op.position, step.name, BEGUN, begun_at=tx.now)
        check_move(None, BEGUN)
        op.deadline_at = tx.now + step.deadline(run.config)
        tx.emit("step", "ops", "ops", step.name, server=op.server_id, operation=op.id, request=op.request_id,
                key=f"{op.id}/{op.position}", cause=op.id)
        if step.event:
            actions.begin_event(tx, op, step.event, step.host(run))
        run.perform(step.do)
        _say(run, op.waiting, op.waiting_since, op.deadline_at)
    elif step.redo:
        run.perform(step.do)
    verdict = _in_time(run, step.until(run), row.begun_at)
    if verdict.state == "waiting":
        if fresh:
            tx.insert(row)
        if op.waiting != verdict.reason:
            _say(run, verdict.reason, tx.now, op.deadline_at)
            tx.emit("wait", "ops", "ops", verdict.reason, server=op.server_id, operation=op.id, cause=f"{op.id}/{op.position}")
        return False
    state = STEP_DONE if verdict.state == "done" else STEP_FAILED
    check_move(row.state, state)
    row.state, row.ended_at = state, tx.now
    row.ended_by, row.error = (verdict.reason, "") if state == STEP_DONE else ("", verdict.reason)
    if fresh:
        tx.insert(row)
    else:
        tx.update(Step, op.id, op.position, state=row.state, ended_at=row.ended_at, ended_by=row.ended_by, error=row.error)
    if step.event:
        actions.end_event(tx, op, step.event, verdict.reason if state == STEP_FAILED else "")
    if state == STEP_DONE:
        if verdict.reason:
            tx.emit("note", "ops", "ops", f"{step.name}: {verdict.reason}", server=op.server_id, operation=op.id, cause=f"{op.id}/{op.position}")
        op.position += 1
        run.dirty = run.new = True
        return True
    start_undo(run, verdict.reason, by_chance=verdict.by_chance)
    return True


def start_undo(run: Run, error: str, *, by_chance: bool = False) -> None:
    """Turn around: raise the epoch so that forward commands under way are refused, then undo step by step."""
    tx, op = run.tx, run.op
    if by_chance or "by_chance" in op.notes:
        run.note(by_chance=by_chance)
    withdraw(tx, op)
    op.state, op.error, op.epoch, op.deadline_at = UNDOING, error, op.epoch + 1, None
    run.dirty = True
    run.set_server(epoch=op.epoch)
    tx.emit("fault", "ops", "ops", f"{op.kind} turns back: {error}", server=op.server_id, operation=op.id, cause=op.id)


def turn_back(tx: Tx, config: Config, op: Operation, state: str) -> None:
    """Undo an open operation because an administrator reset its server's state to `state` ('active' or 'error')."""
    run = Run(tx, op, config)
    run.note(reset_to=state)
    if op.state == RUNNING:
        start_undo(run, "an administrator reset the server's state")
    advance(tx, config, op)
    save(tx, op)
    tx.hint("op:" + op.id)


def _begin_again(run: Run) -> None:
    """Everything was undone; the first step is next, with what the notes have learned. The log starts anew, the trace keeps the old story.

    The epoch rises again: what hosts have reported of the way back must not pass for news of the new way forward.
    """
    tx, op = run.tx, run.op
    op.epoch += 1
    run.set_server(epoch=op.epoch)
    tx.delete_where(Step, operation_id=op.id)
    tx.emit("step", "ops", "ops", f"{op.kind} begins again", server=op.server_id, operation=op.id, request=op.request_id, cause=op.id)
    op.state, op.position, op.error, op.deadline_at, op.waiting, op.waiting_since = RUNNING, 0, "", None, "", None
    run.new, run.dirty = False, True


def _backward(run: Run) -> bool:
    tx, op = run.tx, run.op
    table = PROCEDURES[op.kind]
    if op.position < 0:
        if "reset_to" not in op.notes and table.again(run, op.error):
            _begin_again(run)
            return True
        table.cancelled(run, op.error)
        if op.notes.get("reset_to") == ERROR:
            run.set_server(vm_state=ERROR)
        close(tx, op, UNDONE, op.error)
        return False
    step = table.steps[op.position]
    run.position, run._commands = op.position, 0
    row = tx.get(Step, op.id, op.position)
    if row is None or isinstance(step.undo, str):
        op.position -= 1
        run.dirty = True
        return True
    if row.state != UNDO_BEGUN:
        check_move(row.state, UNDO_BEGUN)
        tx.update(Step, op.id, op.position, state=UNDO_BEGUN, undo_begun_at=tx.now)
        op.deadline_at = tx.now + step.deadline(run.config)
        tx.emit("step", "ops", "ops", f"undo {step.name}", server=op.server_id, operation=op.id, key=f"{op.id}/{op.position}", cause=op.id)
        row.state, row.undo_begun_at = UNDO_BEGUN, tx.now
        run.perform(step.undo)
        _say(run, op.waiting, op.waiting_since, op.deadline_at)
    verdict = _in_time(run, step.undone(run), row.undo_begun_at or tx.now)
    if verdict.state == "waiting":
        if op.waiting != verdict.reason:
            _say(run, verdict.reason, tx.now, op.deadline_at)
            tx.emit("wait", "ops", "ops", verdict.reason, server=op.server_id, operation=op.id, cause=f"{op.id}/{op.position}")
        return False
    if verdict.state == "failed":
        table.stuck(run, f"{op.error}; then {verdict.reason}")
        close(tx, op, FAILED, f"{op.error}; then {verdict.reason}")
        return False
    check_move(UNDO_BEGUN, STEP_UNDONE)
    if verdict.reason:
        tx.emit("note", "ops", "ops", f"undo {step.name}: {verdict.reason}", server=op.server_id, operation=op.id, cause=f"{op.id}/{op.position}")
    tx.update(Step, op.id, op.position, state=STEP_UNDONE, undone_at=tx.now)
    op.position -= 1
    run.dirty = True
    return True


def _in_time(run: Run, verdict: Verdict, begun_at: float) -> Verdict:
    """Turn a wait that has run into its deadline into a failure. A patient wait (for a fence) has a longer one."""
    op, now = run.op, run.tx.now
    if verdict.state != "waiting" or op.deadline_at is None or now < op.deadline_at:
        return verdict
    last = begun_at + run.config.compute.fence_timeout
    if verdict.patient and now < last:
        _say(run, op.waiting, op.waiting_since, min(last, now + PATIENCE_S))
        return verdict
    return failed(f"gave up after {now - begun_at:.0f} s: {verdict.reason}")


def _say(run: Run, reason: str, since: float | None, deadline_at: float | None) -> None:
    op = run.op
    op.waiting, op.waiting_since, op.deadline_at = reason, since, deadline_at
    run.dirty = True


class Engine:
    """Keeps open operations moving: looks at one when a hint names it, when its deadline comes, and at all of them on a slow timer."""

    def __init__(self, env: Env, db: Db, trace: Trace, config: Config, name: str = "controller") -> None:
        self.env, self.db, self.trace, self.config, self.name = env, db, trace, config, name
        self._open: dict[str, str] = {}  # server id -> operation id, a cache of hints only
        self._dirty: dict[str, None] = {}
        self._opened: list[str] = []  # begun and already taken as far as they go: only their deadline is to be noted
        self._noting = False
        self._missed: set[str] = set()  # servers whose facts came in before their operation was noted
        self._wake = asyncio.Event()
        self._deadlines: dict[str, float] = {}
        self.looks = 0
        db.on_commit(self._heard)

    def _heard(self, hints: Collection[str]) -> None:
        for hint in hints:
            room, _, name = hint.partition(":")
            if room == "op":
                self._dirty[name] = None
            elif room == "opened":
                self._opened.append(name)
            elif room == "ended":
                self._dirty.pop(name, None)
                self._deadlines.pop(name, None)
            elif room == "server" and name in self._open:
                self._dirty[self._open[name]] = None
            elif room == "server" and (self._opened or self._noting):
                self._missed.add(name)
            elif room == "host":
                self._dirty.update(dict.fromkeys(self._open.values()))
        if self._dirty or self._opened:
            self._wake.set()

    async def run(self) -> None:
        """Run until cancelled."""
        next_scan_at = self.env.monotonic()
        while True:
            now = self.env.monotonic()
            if now >= next_scan_at:
                await self.scan()
                next_scan_at = now + SCAN_PERIOD_S
            while self._dirty or self._opened:
                if self._opened:
                    await self._take_note()
                    continue
                batch = sorted(self._dirty) if len(self._dirty) > 1 else list(self._dirty)
                self._dirty.clear()
                if len(batch) == 1:
                    await self.look(batch[0])
                else:
                    await asyncio.gather(*(self.look(op_id) for op_id in batch))
            self._wake.clear()
            wall = self.env.now()
            until_s = (next_scan_at if self._open else now + 3600.0) - now
            if self._deadlines:
                until_s = min(until_s, min(self._deadlines.values()) - wall)
            if until_s > 0:
                await self.env.wait_woken(self._wake, until_s)
            wall = self.env.now()
            for op_id, due in self._deadlines.items():
                if due <= wall:
                    self._dirty[op_id] = None

    async def _take_note(self) -> None:
        """Remember whom new operations hold and when they are due. A fact may have come in already, so each is looked at once if its rows moved."""
        names, self._opened, self._noting = self._opened, [], True
        rows = await self.db.read(lambda tx: tx.find(Operation, id=names))
        self._noting = False
        missed, self._missed = self._missed, set()
        for op in rows:
            if op.state in OPEN:
                self._open[op.server_id] = op.id
                if op.server_id in missed:
                    self._dirty[op.id] = None
                if op.deadline_at is not None:
                    self._deadlines[op.id] = op.deadline_at

    async def scan(self) -> None:
        """Find every open operation; also how a new controller takes over after a crash."""
        rows = await self.db.read(lambda tx: [(op.id, op.server_id) for op in tx.find(Operation, state=list(OPEN))])
        self._open = {server_id: op_id for op_id, server_id in rows}
        self._deadlines = {op_id: due for op_id, due in self._deadlines.items() if op_id in set(self._open.values())}
        self._dirty.update(dict.fromkeys(op_id for op_id, _ in rows))

    async def look(self, op_id: str) -> None:
        """One `advance` in one transaction, under our lease."""
        self.looks += 1

        def closure(tx: Tx) -> Operation | None:
            op = tx.get(Operation, op_id)
            if op is None or op.state not in OPEN:
                return op
            if op.owner != self.name and op.lease_until > tx.now:
                return op
            renew = op.owner != self.name or op.lease_until < tx.now + self.config.lease_s / 2
            if renew:
                op.owner, op.lease_until = self.name, tx.now + self.config.lease_s
            advance(tx, self.config, op, dirty=renew)
            return op

        try:
            op = await self.db.run(closure)
        except Exception as error:
            if not self.env.alive:
                return
            # A bug in one procedure must not stop the others; it is told, and the operation is looked at again by the timer.
            self.trace.emit("fault", "ops", "ops", f"look at {op_id} failed: {error!r}", operation=op_id, traceback=traceback.format_exc())
            self._deadlines[op_id] = self.env.now() + SCAN_PERIOD_S
            return
        if op is None or op.state not in OPEN:
            self._deadlines.pop(op_id, None)
            if op is not None and self._open.get(op.server_id) == op_id:
                del self._open[op.server_id]
            return
        self._open[op.server_id] = op_id
        if op.deadline_at is not None:
            self._deadlines[op_id] = op.deadline_at
        else:
            self._deadlines.pop(op_id, None)
