"""resize and cold migrate: S -> D, keeping S's disk and room until the user confirms.

    place          choose D, claim room there for the migration
    retire_source  S shuts the guest down, unplugs it, keeps its disk        <- S: kept
    bring_disk     D copies the disk from S, checked                         <- D: disk whole
    start_dest     D wires the ports at their new generation, starts         <- D: running (or stopped, if it was), wired
    finish         host D, new flavor, RESIZED, migration finished           (pivot)

Undo at any point before the pivot: D is emptied first and seen empty, then S starts its guest again from the disk it never gave away.
Facts file 1.2 and 4.2 give the states users see on the way.
"""
from __future__ import annotations

from virga.domain.operation import CRASHED, KEPT, RUN, STOP, Migration
from virga.domain.placement import Host
from virga.domain.server import ACTIVE, ERROR, POWER, RESIZED, STOPPED, FlavorSpec
from virga.ops import placing
from virga.ops.bindings import activate_binding, drop_binding, open_binding
from virga.ops.boot import fault
from virga.ops.guests import spec_args
from virga.ops.procedure import Run, StepDef, Verdict, at_once, good, procedure, unlucky
from virga.ops.waits import both, ports_of, wait_disk, wait_gone, wait_guest, wait_wired


def migration_of(run: Run) -> Migration:
    return run.tx.need(Migration, run.op.input["migration_id"])


def set_migration(run: Run, status: str, **changes: object) -> None:
    run.tx.update(Migration, run.op.input["migration_id"], status=status, updated_at=run.tx.now, **changes)


def new_flavor(run: Run) -> FlavorSpec:
    return FlavorSpec(**run.op.input["flavor"])


def power_of(run: Run) -> str:
    """'running' or 'stopped': what the server was, and has to be afterwards."""
    return "stopped" if run.server.old_vm_state == STOPPED else "running"


def state_of(run: Run) -> str:
    return STOP if power_of(run) == "stopped" else RUN


def place(run: Run) -> None:
    source = migration_of(run).source
    if migration_of(run).dest:
        return
    dest = placing.find_host(run, new_flavor(run), avoid=frozenset({source}), only=run.op.input.get("host"))
    if dest is None:
        return
    placing.claim(run.tx, dest, run.op.input["migration_id"], "migration", run.server.id, new_flavor(run))
    set_migration(run, "pre-migrating", dest=dest)


def placed(run: Run) -> Verdict:
    dest = migration_of(run).dest
    return good(f"claimed room on {dest}") if dest else placing.undecided(run, "No valid host was found. No host can take the server")


def unplace(run: Run) -> None:
    migration = migration_of(run)
    if migration.dest:
        placing.release(run.tx, migration.dest, migration.id)


def again(run: Run, error: str) -> bool:
    """Once more from the choice of a host, when the guest on the other host died."""
    if not unlucky(run, error):
        return False
    set_migration(run, "pre-migrating", dest="")
    run.set_server(task_state="resize_prep")
    return True


def retire_source(run: Run) -> None:
    set_migration(run, "migrating")
    run.set_server(task_state="resize_migrating")
    run.command(migration_of(run).source, "retire")


def source_retired(run: Run) -> Verdict:
    return wait_guest(run, migration_of(run).source, KEPT)


def restore_source(run: Run) -> None:
    source = migration_of(run).source
    for port in ports_of(run):
        open_binding(run.tx, port, source)
    run.command(source, "restore", spec=spec_args(run.tx, run.server, run.server.flavor, source), power=power_of(run))


def source_restored(run: Run) -> Verdict:
    source = migration_of(run).source
    return both(wait_guest(run, source, state_of(run), CRASHED), wait_wired(run, source))


def bring_disk(run: Run) -> None:
    migration = migration_of(run)
    set_migration(run, "post-migrating")
    run.set_server(task_state="resize_migrated")
    source = run.tx.get(Host, migration.source)
    run.command(migration.dest, "fetch", source=migration.source, address=source.address if source else "", disk_gb=new_flavor(run).disk_gb)


def disk_brought(run: Run) -> Verdict:
    return wait_disk(run, migration_of(run).dest)


def drop_disk(run: Run) -> None:
    run.command(migration_of(run).dest, "purge")


def start_dest(run: Run) -> None:
    dest = migration_of(run).dest
    run.set_server(task_state="resize_finish")
    for port in ports_of(run):
        open_binding(run.tx, port, dest)
    run.command(dest, "restore", spec=spec_args(run.tx, run.server, new_flavor(run), dest), power=power_of(run))


def dest_started(run: Run) -> Verdict:
    dest = migration_of(run).dest
    return both(wait_guest(run, dest, state_of(run)), wait_wired(run, dest))


def stop_dest(run: Run) -> None:
    dest = migration_of(run).dest
    for port in ports_of(run):
        drop_binding(run.tx, port.id, dest)
    run.command(dest, "purge")


def dest_stopped(run: Run) -> Verdict:
    return wait_gone(run, migration_of(run).dest)


def finish(run: Run) -> None:
    tx, server, migration = run.tx, run.server, migration_of(run)
    if migration.status == "finished":
        return
    for port in ports_of(run):
        activate_binding(tx, port.id, migration.dest)
    placing.release(tx, migration.source, server.id)
    placing.claim(tx, migration.source, migration.id, "migration", server.id, server.flavor)
    placing.release(tx, migration.dest, migration.id)
    placing.claim(tx, migration.dest, server.id, "server", server.id, new_flavor(run))
    set_migration(run, "finished")
    run.set_server(
        host=migration.dest, flavor=new_flavor(run), old_flavor=server.flavor, vm_state=RESIZED, task_state=None, fault=None, progress=0,
        power_state=POWER[power_of(run)], launched_at=tx.now)


def cancelled(run: Run, error: str) -> None:
    """The server is what it was; the fault stays readable through its instance action."""
    set_migration(run, "error")
    stopped = power_of(run) == "stopped"
    run.set_server(vm_state=STOPPED if stopped else ACTIVE, task_state=None, old_vm_state=None, fault=fault(run, error))


def stuck(run: Run, error: str) -> None:
    set_migration(run, "error")
    run.set_server(vm_state=ERROR, task_state=None, fault=fault(run, error))


RESIZE = procedure(
    "resize",
    StepDef("place", place, placed, undo=unplace, event="cold_migrate", host=lambda run: "", redo=True,
            deadline=placing.choice_deadline),
    StepDef("retire_source", retire_source, source_retired, undo=restore_source, undone=source_restored, event="compute_resize_instance"),
    StepDef("bring_disk", bring_disk, disk_brought, undo=drop_disk, deadline=lambda config: config.compute.copy_timeout,
            event="compute_prep_resize", host=lambda run: migration_of(run).dest),
    StepDef("start_dest", start_dest, dest_started, undo=stop_dest, undone=dest_stopped, event="compute_finish_resize",
            host=lambda run: migration_of(run).dest),
    StepDef("finish", finish, at_once, undo="the pivot: from here on the way back is called revert"),
    cancelled=cancelled, stuck=stuck, again=again,
)
