"""delete: allowed in any state, during any operation, with any host away; always ends.

    purge    every host that may hold anything of the server is told to remove it          <- all gone, or away with the purge in their outbox
    finish   ports released, claims dropped, unfinished moves closed, the server is DELETED (pivot)

It supersedes whatever operation holds the server and raises the epoch, so an older command that is still on its way is refused by the agents.
"""
from __future__ import annotations

from virga.domain.operation import ABSENT, Guest, Migration
from virga.domain.port import Binding, Port
from virga.domain.server import DELETED, ERROR
from virga.ops import placing
from virga.ops.bindings import unbind
from virga.ops.boot import fault
from virga.ops.ports import release_port
from virga.ops.procedure import Run, StepDef, Verdict, at_once, good, procedure, waiting
from virga.ops.waits import both, is_away, ports_of, wait_guest
from virga.store.db import Tx

MOVE_OPEN = ("accepted", "queued", "preparing", "running", "pre-migrating", "migrating", "post-migrating", "finished", "confirming", "reverting")


def hosts_of(tx: Tx, server_id: str, host: str | None) -> list[str]:
    """Every host that may hold a guest, a disk or a tap of the server."""
    hosts = {guest.host for guest in tx.find(Guest, server_id=server_id) if guest.state != ABSENT or guest.disk}
    for migration in tx.find(Migration, server_id=server_id, status=list(MOVE_OPEN)):
        hosts |= {migration.source, migration.dest}
    for port in tx.find(Port, device_id=server_id):
        hosts |= {binding.host for binding in tx.find(Binding, port_id=port.id)}
    return sorted((hosts | {host or ""}) - {""})


def purge(run: Run) -> None:
    hosts = hosts_of(run.tx, run.server.id, run.server.host)
    run.note(hosts=hosts)
    for host in hosts:
        run.command(host, "purge")


def purged(run: Run) -> Verdict:
    """Gone everywhere, or the host is away, or its time is up: the purge stays in the outbox, and the orphan reconciler looks after it too."""
    verdict = good("")
    for host in run.op.notes.get("hosts", []):
        if not is_away(run, host):
            gone = wait_guest(run, host, ABSENT)
            # A host that will not do it, or lies about what it has, delays a user by the deadline and no more.
            verdict = both(verdict, waiting(f"not removed yet: {gone.reason}") if gone.state == "failed" else gone)
    if verdict.state != "done" and run.op.deadline_at is not None and run.tx.now >= run.op.deadline_at:
        return good(f"the server is deleted, its hosts still have work to do: {verdict.reason}")
    return verdict


def finish(run: Run) -> None:
    tx, server = run.tx, run.server
    for port in ports_of(run):
        if port.preserve:
            unbind(tx, port)
            tx.update(Port, port.id, device_id="", device_owner="", updated_at=tx.now, revision_number=port.revision_number + 1)
        else:
            release_port(tx, port)
    placing.release_all(tx, server.id)
    for migration in tx.find(Migration, server_id=server.id, status=list(MOVE_OPEN)):
        status = "confirmed" if migration.status in ("finished", "confirming") else "error"
        tx.update(Migration, migration.id, status=status, updated_at=tx.now)
    run.set_server(vm_state=DELETED, task_state=None, host=None, power_state=0, deleted_at=tx.now)


def give_up(run: Run, error: str) -> None:
    run.set_server(vm_state=ERROR, task_state=None, fault=fault(run, error))


DELETE = procedure(
    "delete",
    StepDef("purge", purge, purged, undo="nothing: a deleted guest is not brought back", event="compute_terminate_instance"),
    StepDef("finish", finish, at_once, undo="the pivot"),
    cancelled=give_up, stuck=give_up,
)
