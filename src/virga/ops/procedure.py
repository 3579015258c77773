"""Procedures: what an operation's table of steps looks like, and what a step may see, say and ask for.

A `Procedure` is a table: each step has `do` (decide and queue commands; runs inside the transaction), `until` (a predicate over stored rows), `undo` (or
a text: who cleans up), `undone` (its predicate) and a deadline. Steps get a `Run`: one operation inside one transaction, with the rows they need.
Rules: no step awaits, keeps state of its own, or reads a clock other than the transaction's; run twice it decides the same. How tables are carried out,
undone and resumed stands in engine.py; the tables themselves stand in the file of their verb (resize.py, revert.py ...).
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from virga.domain.config import Config
from virga.domain.operation import COMMAND_FAILED, PENDING, Command, Guest, Operation
from virga.domain.placement import Host
from virga.domain.port import Port
from virga.domain.server import Server, status_of
from virga.store.db import Tx


class Verdict(msgspec.Struct, frozen=True):
    """What a predicate sees: `state` is done, waiting or failed; `reason` is for people; `patient` waits outlive the step's deadline.

    `by_chance`: it failed for no reason that must hold the next time (a guest's process died); worth beginning again after the undo.
    """

    state: str
    reason: str = ""
    patient: bool = False
    by_chance: bool = False


GOOD = Verdict("done")


def waiting(reason: str, *, patient: bool = False) -> Verdict:
    return Verdict("waiting", reason, patient)


def failed(reason: str, *, by_chance: bool = False) -> Verdict:
    return Verdict("failed", reason, by_chance=by_chance)


def good(by: str) -> Verdict:
    """Fulfilled, and the fact that fulfilled it."""
    return Verdict("done", by)


Do = Callable[["Run"], None]
Until = Callable[["Run"], Verdict]


def at_once(_: Run) -> Verdict:
    return GOOD


@dataclass(frozen=True)
class StepDef:
    """One line of a procedure's table. `undo` as text says who cleans up instead.

    `redo`: `do` is run again at every look until the step has ended, for a decision that may have to wait for rows (a host that is about to return).
    """

    name: str
    do: Do
    until: Until = at_once
    undo: Do | str = "nothing to undo"
    undone: Until = at_once
    deadline: Callable[[Config], float] = lambda config: config.compute.operation_timeout
    redo: bool = False
    event: str = ""  # instance action event that spans this step
    host: Callable[[Run], str] = lambda run: run.server.host or ""


@dataclass(frozen=True)
class Procedure:
    """A kind of operation. `cancelled` sets the server right after a complete undo; `stuck` when even the undo failed.

    `again` is asked after a complete undo whether to begin once more from the first step (another host); it says yes only so often.
    """

    kind: str
    steps: tuple[StepDef, ...]
    cancelled: Callable[[Run, str], None]
    stuck: Callable[[Run, str], None]
    again: Callable[[Run, str], bool] = lambda run, error: False


BY_CHANCE_MAX = 3  # tries of one operation in all


def unlucky(run: Run, error: str) -> bool:
    """An `again` for moves: whether what was undone had failed by chance, a few times at the most."""
    tries = int(run.op.notes.get("tries", 1))
    if not run.op.notes.get("by_chance") or tries >= BY_CHANCE_MAX:
        return False
    run.note(tries=tries + 1, by_chance=False)
    return True


PROCEDURES: dict[str, Procedure] = {}


def procedure(
    kind: str, *steps: StepDef, cancelled: Callable[[Run, str], None], stuck: Callable[[Run, str], None],
    again: Callable[[Run, str], bool] = lambda run, error: False,
) -> Procedure:
    """Declare a procedure; its kind must be new."""
    if kind in PROCEDURES:
        raise AssertionError(f"two procedures called {kind}")
    made = PROCEDURES[kind] = Procedure(kind, steps, cancelled, stuck, again)
    return made


@dataclass
class Run:
    """One operation inside one transaction: what steps may touch."""

    tx: Tx
    op: Operation
    config: Config
    _server: Server | None = None
    position: int = 0
    _commands: int = 0
    hosts: dict[str, Host | None] = field(default_factory=dict)
    dirty: bool = False  # the operation row differs from what is stored
    new: bool = False  # the step looked at next has never been begun
    _failures: dict[tuple[int, int], str] = field(default_factory=dict)
    _ports: list[Port] | None = None

    @property
    def server(self) -> Server:
        if self._server is None:
            self._server = self.tx.need(Server, self.op.server_id)
        return self._server

    def set_server(self, **changes: Any) -> None:
        """Change the held server; `updated_at` follows."""
        self.tx.update(Server, self.op.server_id, updated_at=self.tx.now, **changes)
        if self._server is not None:
            for name, value in changes.items():
                setattr(self._server, name, value)
        if "vm_state" in changes:
            shown, host = status_of(changes["vm_state"], changes.get("task_state")), changes.get("host") or self.server.host
            self.tx.emit("transition", "store", "store", f"the server is {shown}" + (f" on {host}" if host else ""), server=self.op.server_id,
                         operation=self.op.id, cause=f"{self.op.id}/{self.op.position}" if self.op.position >= 0 else self.op.id)
        self.tx.hint("changed:" + self.op.server_id)

    def note(self, **notes: Any) -> None:
        """Remember what a step has decided, for later steps and for the undo."""
        self.op.notes.update(notes)
        self.dirty = True

    def command(self, host: str, verb: str, **args: Any) -> str:
        """Queue a command to a host's agent; returns its id, the same one whenever this step is run again."""
        command_id = f"{self.op.id}/{self.op.epoch}/{self.position}.{self._commands}"
        self._commands += 1
        step = PROCEDURES[self.op.kind].steps[self.position].name
        queue(self.tx, host, verb, self.op.server_id, self.op.epoch, args, operation_id=self.op.id, step=step, command_id=command_id,
              request_id=self.op.request_id, cause=f"{self.op.id}/{self.position}")
        return command_id

    def perform(self, work: Do) -> None:
        """Run a step's do or undo; whatever it emits (bindings, claims) is told as caused by the step."""
        self.tx.about = {"server": self.op.server_id, "operation": self.op.id, "request": self.op.request_id, "cause": f"{self.op.id}/{self.position}"}
        try:
            work(self)
        finally:
            self.tx.about = {}

    def host_row(self, name: str) -> Host | None:
        if name not in self.hosts:
            self.hosts[name] = self.tx.get(Host, name)
        return self.hosts[name]

    def guest(self, host: str) -> Guest | None:
        """What the host's agent last said of the guest, if it said so under this operation's epoch (older sayings are stale)."""
        guest = self.tx.get(Guest, self.op.server_id, host)
        return guest if guest is not None and guest.epoch >= self.op.epoch else None

    def failure(self) -> str:
        """The error of a command of the current step that the agent gave up on; '' if none."""
        place = (self.position, self.op.epoch)
        if place not in self._failures:
            step = PROCEDURES[self.op.kind].steps[self.position].name
            found = self.tx.find(Command, operation_id=self.op.id, step=step, epoch=self.op.epoch, state=COMMAND_FAILED, limit=1)
            self._failures[place] = f"{found[0].host}: {found[0].error}" if found else ""
        return self._failures[place]

    def unanswered(self) -> bool:
        """Whether a command of the current step is still in an outbox."""
        step = PROCEDURES[self.op.kind].steps[self.position].name
        return bool(self.tx.find(Command, operation_id=self.op.id, step=step, epoch=self.op.epoch, state=PENDING, limit=1))

    @property
    def ports(self) -> list[Port]:
        """The server's ports, oldest first, as they were when this look began."""
        if self._ports is None:
            self._ports = self.tx.find(Port, device_id=self.op.server_id, sort=[("created_at", False), ("id", False)])
        return self._ports


def queue(
    tx: Tx, host: str, verb: str, server_id: str, epoch: int, args: dict[str, Any], *, operation_id: str, step: str, command_id: str,
    request_id: str = "", cause: str = "",
) -> None:
    """Put a command into the outbox of a host. It stays until the agent has answered it, however long the host is away."""
    tx.put(Command(command_id, host, verb, server_id, operation_id, step, epoch, number=tx.next_number("commands"), args=args, made_at=tx.now))
    tx.hint("outbox:" + host)
    tx.emit("message", "ops", host, verb, server=server_id, operation=operation_id, request=request_id, key=command_id, cause=cause)
