"""live_migrate: the running guest moves S -> D with its disk, without being shut down.

    place     claim and bindings on D
    prepare   D wires the ports and waits for the guest to come            <- D: incoming, wired
    move      S sends memory and disk; the hypervisors hand over           <- D: running (or paused)
    finish    host D; bindings and claims follow; S is purged              (pivot)

Whichever of the two reports the guest as running owns it; before the handover that is S, and undo only empties D. If the handover happened but
nobody lived to tell, D's report does: the wait is on D's row, not on S's answer.
"""
from __future__ import annotations

from virga.domain.operation import ABSENT, CRASHED, KEPT, PAUSE, RUN, STOP, SUSPEND, Guest, Migration
from virga.domain.placement import Host
from virga.domain.server import ERROR, PAUSED
from virga.ops import placing
from virga.ops.bindings import activate_binding, drop_binding, open_binding
from virga.ops.boot import fault
from virga.ops.guests import spec_args
from virga.ops.power import as_reported
from virga.ops.procedure import Run, StepDef, Verdict, at_once, failed, good, procedure
from virga.ops.waits import both, is_away, ports_of, wait_gone, wait_guest, wait_wired

INCOMING = "incoming"


def migration_of(run: Run) -> Migration:
    return run.tx.need(Migration, run.op.input["migration_id"])


def set_migration(run: Run, status: str, **changes: object) -> None:
    run.tx.update(Migration, run.op.input["migration_id"], status=status, updated_at=run.tx.now, **changes)


def wanted(run: Run) -> str:
    return PAUSE if run.server.vm_state == PAUSED else RUN


def place(run: Run) -> None:
    source = migration_of(run).source
    if migration_of(run).dest:
        return
    dest = placing.find_host(run, run.server.flavor, avoid=frozenset({source}), only=run.op.input.get("host"))
    if dest is None:
        return
    set_migration(run, "preparing", dest=dest)
    placing.claim(run.tx, dest, run.op.input["migration_id"], "migration", run.server.id, run.server.flavor)
    for port in ports_of(run):
        open_binding(run.tx, port, dest)


def placed(run: Run) -> Verdict:
    dest = migration_of(run).dest
    return good(f"claimed room on {dest}") if dest else placing.undecided(run, "No valid host was found. No host can take the server")


def unplace(run: Run) -> None:
    migration = migration_of(run)
    if migration.dest:
        placing.release(run.tx, migration.dest, migration.id)
        for port in ports_of(run):
            drop_binding(run.tx, port.id, migration.dest)


def prepare(run: Run) -> None:
    dest = migration_of(run).dest
    run.command(dest, "prepare_incoming", spec=spec_args(run.tx, run.server, run.server.flavor, dest))


def prepared(run: Run) -> Verdict:
    dest = migration_of(run).dest
    return both(wait_guest(run, dest, INCOMING), wait_wired(run, dest))


def unprepare(run: Run) -> None:
    run.command(migration_of(run).dest, "purge")


def unprepared(run: Run) -> Verdict:
    dest = migration_of(run).dest
    return good(f"{dest} is away, the purge waits for it") if is_away(run, dest) else wait_gone(run, dest)


def move(run: Run) -> None:
    migration = migration_of(run)
    set_migration(run, "running")
    dest = run.tx.get(Host, migration.dest)
    run.command(migration.source, "migrate_live", dest=migration.dest, address=dest.address if dest else "",
                spec=spec_args(run.tx, run.server, run.server.flavor, migration.dest))


def moved(run: Run) -> Verdict:
    migration = migration_of(run)
    there = run.tx.get(Guest, run.server.id, migration.dest)
    if there is not None and there.state in (RUN, PAUSE):
        return good(f"{migration.dest} reports the guest {there.state}")
    return wait_guest(run, migration.dest, wanted(run))


def unmove(run: Run) -> None:
    """S has to say, at the new epoch, what it has: nothing is started or stopped on a guess."""
    run.command(migration_of(run).source, "report")


def unmoved(run: Run) -> Verdict:
    source = migration_of(run).source
    here = run.guest(source)
    if here is not None and here.state in (KEPT, ABSENT):
        return failed(f"{source} has handed the guest over, but {migration_of(run).dest} does not report it running")
    return wait_guest(run, source, RUN, PAUSE, STOP, SUSPEND, CRASHED)


def finish(run: Run) -> None:
    tx, server, migration = run.tx, run.server, migration_of(run)
    for port in ports_of(run):
        activate_binding(tx, port.id, migration.dest)
    placing.release_all(tx, server.id)
    placing.claim(tx, migration.dest, server.id, "server", server.id, server.flavor)
    set_migration(run, "completed")
    run.set_server(host=migration.dest, task_state=None, fault=None)
    run.command(migration.source, "purge")


def cancelled(run: Run, error: str) -> None:
    set_migration(run, "error")
    as_reported(run, error)


def stuck(run: Run, error: str) -> None:
    set_migration(run, "error")
    run.set_server(vm_state=ERROR, task_state=None, fault=fault(run, error))


LIVE_MIGRATE = procedure(
    "live_migrate",
    StepDef("place", place, placed, undo=unplace, event="conductor_live_migrate_instance", host=lambda run: "", redo=True,
            deadline=placing.choice_deadline),
    StepDef("prepare", prepare, prepared, undo=unprepare, undone=unprepared, event="compute_pre_live_migration",
            host=lambda run: migration_of(run).dest),
    StepDef("move", move, moved, undo=unmove, undone=unmoved, deadline=lambda config: config.compute.copy_timeout,
            event="compute_live_migration"),
    StepDef("finish", finish, at_once, undo="the pivot", event="compute_post_live_migration_at_destination",
            host=lambda run: migration_of(run).dest),
    cancelled=cancelled, stuck=stuck,
)
