"""The lab's controller database: servers, migrations and ports of the Kilo clouds, saved by compare and swap.

Owns: the rows of a lab cloud. Servers and migrations are Virga's own row types (domain/); a port is `KiloPort`, because the thing Kilo stores, a status
that does not say which host it is about, is the thing Virga's rows cannot hold.
Rules: `save(expected_task=...)` is upstream's compare-and-swap: a task state other than the expected one raises, and DELETING raises its own error.
Why a plain table object and not the embedded database: a schedule of the founding case has to cost milliseconds, and what is looked for here is the order of
reads and writes, not SQL. Rows are copied in and out, so nobody can change one without saving it.
"""
from __future__ import annotations

from typing import Any

import msgspec

from virga.domain.operation import Migration
from virga.domain.server import Fault, Server
from virga.lab import kilo_rules as rules


class UnexpectedTaskState(Exception):
    """Somebody else changed the server's task: the save is refused."""


class UnexpectedDeletingTaskState(UnexpectedTaskState):
    """The server is being deleted meanwhile."""


class KiloPort(msgspec.Struct):
    """A row of `ports` joined with `ml2_port_bindings`. One status for whichever host."""

    id: str
    server_id: str
    host: str
    status: str = rules.DOWN
    admin_state_up: bool = True
    since: float = 0.0  # when status last changed
    told_by: str = ""  # who made the last change, for `explain`; upstream does not keep this


class KiloStore:
    """Rows by id. `writes` counts saves."""

    def __init__(self) -> None:
        self.servers: dict[str, Server] = {}
        self.migrations: dict[str, Migration] = {}
        self.ports: dict[str, KiloPort] = {}
        self.writes = 0

    def server(self, server_id: str) -> Server:
        return msgspec.structs.replace(self.servers[server_id])

    def save(self, server_id: str, expected_task: tuple[str | None, ...] | None = None, **changes: Any) -> None:
        """Raises UnexpectedTaskState or UnexpectedDeletingTaskState; KeyError when the server is gone."""
        server = self.servers[server_id]
        if expected_task is not None and server.task_state not in expected_task:
            error = UnexpectedDeletingTaskState if server.task_state == "deleting" else UnexpectedTaskState
            raise error(f"server {server_id}: task is {server.task_state}, expected {' or '.join(map(str, expected_task))}")
        self.writes += 1
        for name, value in changes.items():
            setattr(server, name, value)

    def error_out(self, server_id: str, message: str, at: float) -> None:
        """What `_error_out_instance_on_exception`, `wrap_instance_fault` and `reverts_task_state` leave behind together."""
        if server_id in self.servers:
            self.save(server_id, vm_state="error", task_state=None, fault=Fault(500, message[:255], at))

    def migration(self, server_id: str) -> Migration:
        """The newest migration of the server."""
        return msgspec.structs.replace(self.migrations[server_id])

    def save_migration(self, server_id: str, **changes: Any) -> None:
        self.writes += 1
        for name, value in changes.items():
            setattr(self.migrations[server_id], name, value)

    def ports_of(self, server_id: str) -> list[KiloPort]:
        return [msgspec.structs.replace(port) for port in self.ports.values() if port.server_id == server_id]

    def copy(self) -> KiloStore:
        """A store of its own with the same rows (a snapshot laid out anew)."""
        other = KiloStore()
        other.servers = {key: msgspec.structs.replace(row) for key, row in self.servers.items()}
        other.migrations = {key: msgspec.structs.replace(row) for key, row in self.migrations.items()}
        other.ports = {key: msgspec.structs.replace(row) for key, row in self.ports.items()}
        return other
