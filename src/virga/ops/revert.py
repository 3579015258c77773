"""revert, the showpiece: D -> S, where the old disk and the room have been waiting; and confirm, which gives them up.

Before: RESIZED on D; S has the old disk and a claim held by the migration.

    swap      D: retire, keep the disk  |  S: wire the ports at generation g+1, hold the old guest ready, paused
                                             <- D retired (or fenced) and S held, wired at g+1
    release   S: let the guest run           <- S running
    finish    host S, old flavor, migration reverted, D's claim and binding dropped, purge of D queued (pivot)

Both first commands leave in the transaction that accepts the request, so nothing is decided later by what somebody happens to read. There is no
event to miss: S wires before it starts, and the controller waits on rows. A server that was stopped stays stopped and needs no release.
Undo before the pivot: S puts its disk aside again, D runs its guest on; the server is RESIZED with a fault that says why. No disk is deleted
before the pivot, and D's only after S's guest is recorded as running. When it was S's guest that died, the whole is begun again a few times.
"""
from __future__ import annotations

from virga.domain.operation import CRASHED, HELD, KEPT, RUN, STOP
from virga.domain.server import ACTIVE, ERROR, POWER, RESIZED, STOPPED, FlavorSpec
from virga.ops import placing
from virga.ops.bindings import activate_binding, drop_binding, open_binding
from virga.ops.boot import fault
from virga.ops.guests import spec_args
from virga.ops.procedure import Run, StepDef, Verdict, at_once, good, procedure, unlucky
from virga.ops.resize import migration_of, power_of, set_migration
from virga.ops.waits import both, is_away, ports_of, wait_gone, wait_guest, wait_wired


def old_flavor(run: Run) -> FlavorSpec:
    flavor = run.server.old_flavor
    assert flavor is not None, "a resized server knows its old flavor"
    return flavor


def swap(run: Run) -> None:
    migration = migration_of(run)
    for port in ports_of(run):
        open_binding(run.tx, port, migration.source)
    run.command(migration.dest, "retire")
    power = "held" if power_of(run) == "running" else "stopped"
    run.command(migration.source, "restore", spec=spec_args(run.tx, run.server, old_flavor(run), migration.source), power=power)


def swapped(run: Run) -> Verdict:
    migration = migration_of(run)
    ready = HELD if power_of(run) == "running" else STOP
    back = both(wait_guest(run, migration.source, ready), wait_wired(run, migration.source))
    return both(back, wait_gone(run, migration.dest))


def unswap(run: Run) -> None:
    """S has at most a held guest; it is put aside again, and D takes up its guest at once. A dead S keeps its command in the outbox."""
    migration = migration_of(run)
    for port in ports_of(run):
        drop_binding(run.tx, port.id, migration.source)
        open_binding(run.tx, port, migration.dest)
    run.command(migration.source, "retire")
    run.command(migration.dest, "restore", spec=spec_args(run.tx, run.server, run.server.flavor, migration.dest), power=power_of(run))


def unswapped(run: Run) -> Verdict:
    migration = migration_of(run)
    state = RUN if power_of(run) == "running" else STOP
    forward = both(wait_guest(run, migration.dest, state, CRASHED), wait_wired(run, migration.dest))  # one that dies now has its disk all the same
    if is_away(run, migration.source):
        return forward  # what it holds is paused, its release is fenced, and the retire waits in its outbox
    return both(forward, wait_guest(run, migration.source, KEPT))


def release(run: Run) -> None:
    if power_of(run) == "running":
        run.command(migration_of(run).source, "release")


def released(run: Run) -> Verdict:
    if power_of(run) == "stopped":
        return good("it was stopped before the resize and stays so")
    return wait_guest(run, migration_of(run).source, RUN)


def unrelease(run: Run) -> None:
    if power_of(run) == "running":
        run.command(migration_of(run).source, "retire")


def unreleased(run: Run) -> Verdict:
    """The guest may run on S: D must not start before S says it does not, or is fenced."""
    return good("nothing was released") if power_of(run) == "stopped" else wait_gone(run, migration_of(run).source)


def finish(run: Run) -> None:
    tx, server, migration = run.tx, run.server, migration_of(run)
    if migration.status == "reverted":
        return
    for port in ports_of(run):
        activate_binding(tx, port.id, migration.source)
    flavor = old_flavor(run)
    placing.release(tx, migration.dest, server.id)
    placing.release(tx, migration.source, migration.id)
    placing.claim(tx, migration.source, server.id, "server", server.id, flavor)
    set_migration(run, "reverted")
    stopped = power_of(run) == "stopped"
    run.set_server(host=migration.source, flavor=flavor, vm_state=STOPPED if stopped else ACTIVE, task_state=None, old_flavor=None, old_vm_state=None,
                   fault=None, power_state=POWER["stopped" if stopped else "running"], launched_at=tx.now)
    run.command(migration.dest, "purge")


def cancelled(run: Run, error: str) -> None:
    set_migration(run, "finished")
    run.set_server(vm_state=RESIZED, task_state=None, fault=fault(run, error))


def stuck(run: Run, error: str) -> None:
    set_migration(run, "error")
    run.set_server(vm_state=ERROR, task_state=None, fault=fault(run, error))


REVERT = procedure(
    "revert",
    StepDef("swap", swap, swapped, undo=unswap, undone=unswapped, event="compute_revert_resize",
            deadline=lambda config: config.compute.vif_plugging_timeout or config.compute.operation_timeout),
    StepDef("release", release, released, undo=unrelease, undone=unreleased, event="compute_finish_revert_resize",
            host=lambda run: migration_of(run).source),
    StepDef("finish", finish, at_once, undo="the pivot: after it there is only forward"),
    cancelled=cancelled, stuck=stuck, again=unlucky,
)


def confirm(run: Run) -> None:
    """The only step of confirm: D's guest has been recorded as good since the resize finished, so S's copy may go."""
    tx, server, migration = run.tx, run.server, migration_of(run)
    placing.release(tx, migration.source, migration.id)
    set_migration(run, "confirmed")
    stopped = server.power_state == POWER["stopped"]
    run.set_server(vm_state=STOPPED if stopped else ACTIVE, task_state=None, old_flavor=None, old_vm_state=None, fault=None)
    run.command(migration.source, "purge")


def not_confirmed(run: Run, error: str) -> None:
    set_migration(run, "finished")
    run.set_server(vm_state=RESIZED, task_state=None, fault=fault(run, error))


CONFIRM = procedure(
    "confirm",
    StepDef("confirm", confirm, at_once, undo="the pivot", event="compute_confirm_resize", host=lambda run: migration_of(run).source),
    cancelled=not_confirmed, stuck=not_confirmed,
)
