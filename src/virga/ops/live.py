"""live_migrate: the running guest moves S -> D with its disk, without being shut down.

    place     claim and bindings on D
    prepare   D wires the ports and waits for the guest to come            <- D: incoming, wired
    move      S sends memory and disk; the hypervisors hand over           <- D: running (or paused)
    finish    host D; bindings and claims follow; S is purged              (pivot)

Whichever of the two reports the guest as running owns it; before the handover that is S, and undo only empties D. If the handover happened but
nobody lived to tell, D's report does: the wait is on D's row, not on S's answer. Once S has let the guest go, no error of S's counts and only D can say
what became of it; until it has, nothing is decided, and if it runs there the server is there, even if the operation had turned back.
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
from virga.ops.procedure import Run, StepDef, Verdict, at_once, failed, good, procedure, waiting
from virga.ops.waits import both, host_note, is_away, is_fenced, ports_of, wait_gone, wait_guest, wait_wired

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
    if gone_over(run, migration) and not is_fenced(run, migration.dest) and (there is None or there.state == INCOMING):
        return waiting(f"{migration.source} has handed the guest over; waiting for {migration.dest} to report it running{host_note(run, migration.dest)}",
                       patient=is_away(run, migration.dest))
    return wait_guest(run, migration.dest, wanted(run))


def gone_over(run: Run, migration: Migration) -> bool:
    """Whether S says, at this epoch, that it has let the guest go."""
    here = run.guest(migration.source)
    return here is not None and here.state in (KEPT, ABSENT)


def unmove(run: Run) -> None:
    """S has to say, at the new epoch, what it has, and D as well: nothing is started or stopped on a guess."""
    run.command(migration_of(run).source, "report")
    run.command(migration_of(run).dest, "report")


def unmoved(run: Run) -> Verdict:
    migration = migration_of(run)
    source, dest = migration.source, migration.dest
    if gone_over(run, migration):
        there = run.guest(dest)
        if there is None and not is_fenced(run, dest):
            return waiting(f"{source} has handed the guest over; waiting for {dest} to say whether it runs there{host_note(run, dest)}",
                           patient=is_away(run, dest))
        runs = there is not None and there.state in (RUN, PAUSE)
        return failed(f"{source} has handed the guest over, " + (f"and it runs on {dest}" if runs else f"but {dest} does not report it running"))
    return wait_guest(run, source, RUN, PAUSE, STOP, SUSPEND, CRASHED)


def finish(run: Run) -> None:
    settle(run)
    run.command(migration_of(run).source, "purge")


def settle(run: Run) -> None:
    """The server is on D."""
    tx, server, migration = run.tx, run.server, migration_of(run)
    for port in ports_of(run):
        activate_binding(tx, port.id, migration.dest)
    placing.release_all(tx, server.id)
    placing.claim(tx, migration.dest, server.id, "server", server.id, server.flavor)
    set_migration(run, "completed")
    run.set_server(host=migration.dest, task_state=None, fault=None)


def cancelled(run: Run, error: str) -> None:
    set_migration(run, "error")
    as_reported(run, error)


def stuck(run: Run, error: str) -> None:
    """The undo could not be ended. Where the guest runs on D after all, that is where the server is; what S kept is then the reconciler's to purge."""
    migration = migration_of(run)
    there = run.guest(migration.dest) if migration.dest else None
    if there is not None and there.state in (RUN, PAUSE) and gone_over(run, migration) and not is_fenced(run, migration.dest):
        settle(run)
        as_reported(run, error)
        return
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
