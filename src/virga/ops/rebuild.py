"""rebuild and evacuate: the server keeps its name, ports and addresses and gets a disk made from an image.

rebuild:    rebuild   host makes the new disk aside, swaps it in whole, starts the guest     <- running (or stopped, if it was), wired
            finish    (pivot)
evacuate:   fence     nothing of the guest can run on the lost host any more                 <- fenced, or the host says the guest is gone
            place     claim and bindings on another host
            rebuild   that host makes disk and guest
            finish    host is the new one; the purge of the lost host waits in its outbox    (pivot)

The guest of the lost host is only purged after the new one is recorded as running; until then its disk is the last copy and stays.
"""
from __future__ import annotations

from virga.domain.operation import CRASHED, RUN, STOP, Migration
from virga.domain.server import ACTIVE, ERROR, POWER, STOPPED
from virga.ops import placing
from virga.ops.bindings import activate_binding, drop_binding, open_binding
from virga.ops.boot import fault
from virga.ops.guests import spec_args
from virga.ops.power import as_reported
from virga.ops.procedure import Run, StepDef, Verdict, at_once, good, procedure
from virga.ops.waits import answered, both, is_away, ports_of, wait_gone, wait_guest, wait_wired


def power_of(run: Run) -> str:
    return "stopped" if run.op.input.get("was") == STOPPED else "running"


def remake(run: Run) -> None:
    server = run.server
    host = server.host or ""
    run.set_server(task_state="rebuild_spawning")
    run.command(host, "rebuild", spec=spec_args(run.tx, server, server.flavor, host), power=power_of(run))


def remade(run: Run) -> Verdict:
    host = run.server.host or ""
    # One that died afterwards has been rebuilt all the same; the reconciler shows it as it is.
    return answered(run, host, both(wait_guest(run, host, STOP if power_of(run) == "stopped" else RUN, CRASHED), wait_wired(run, host)))


def finish(run: Run) -> None:
    stopped = power_of(run) == "stopped"
    run.set_server(vm_state=STOPPED if stopped else ACTIVE, task_state=None, power_state=POWER[power_of(run)], fault=None, launched_at=run.tx.now)


def error_out(run: Run, error: str) -> None:
    run.set_server(vm_state=ERROR, task_state=None, fault=fault(run, error))


REBUILD = procedure(
    "rebuild",
    StepDef("rebuild", remake, remade, undo="nothing: the disk is the old one or the new one, whole", event="compute_rebuild_instance",
            deadline=lambda config: config.compute.copy_timeout),
    StepDef("finish", finish, at_once, undo="the pivot"),
    cancelled=error_out, stuck=error_out,
)


def lost_host(run: Run) -> str:
    return str(run.op.input["source"])


def fenced(run: Run) -> Verdict:
    return wait_gone(run, lost_host(run))


def fence(run: Run) -> None:
    run.set_server(task_state="rebuilding")
    # If the host comes back before it is fenced, its guest must not run beside the new one; its disk stays until the pivot.
    run.command(lost_host(run), "retire")


def place(run: Run) -> None:
    if run.op.notes.get("dest"):
        return
    dest = placing.find_host(run, run.server.flavor, avoid=frozenset({lost_host(run)}), only=run.op.input.get("host"))
    if dest is None:
        return
    run.note(dest=dest)
    migration_id = run.op.input["migration_id"]
    run.tx.update(Migration, migration_id, dest=dest, status="pre-migrating", updated_at=run.tx.now)
    placing.claim(run.tx, dest, migration_id, "migration", run.server.id, run.server.flavor)
    for port in ports_of(run):
        open_binding(run.tx, port, dest)


def placed(run: Run) -> Verdict:
    dest = run.op.notes.get("dest")
    return good(f"claimed room on {dest}") if dest else placing.undecided(run, "No valid host was found. No host can take the server")


def unplace(run: Run) -> None:
    dest = run.op.notes.get("dest")
    if dest:
        placing.release(run.tx, dest, run.op.input["migration_id"])
        for port in ports_of(run):
            drop_binding(run.tx, port.id, dest)


def remake_there(run: Run) -> None:
    dest = run.op.notes["dest"]
    run.set_server(task_state="rebuild_spawning")
    run.command(dest, "create", spec=spec_args(run.tx, run.server, run.server.flavor, dest), power=power_of(run))


def remade_there(run: Run) -> Verdict:
    dest = run.op.notes["dest"]
    return both(wait_guest(run, dest, STOP if power_of(run) == "stopped" else RUN), wait_wired(run, dest))


def unmake(run: Run) -> None:
    run.command(run.op.notes["dest"], "purge")


def unmade(run: Run) -> Verdict:
    dest = run.op.notes["dest"]
    return good(f"{dest} is away, the purge waits for it") if is_away(run, dest) else wait_gone(run, dest)


def moved(run: Run) -> None:
    tx, server, dest = run.tx, run.server, run.op.notes["dest"]
    migration_id = run.op.input["migration_id"]
    for port in ports_of(run):
        activate_binding(tx, port.id, dest)
    placing.release_all(tx, server.id)
    placing.claim(tx, dest, server.id, "server", server.id, server.flavor)
    tx.update(Migration, migration_id, status="done", updated_at=tx.now)
    run.set_server(host=dest)
    finish(run)
    run.command(lost_host(run), "purge")


def not_moved(run: Run, error: str) -> None:
    run.tx.update(Migration, run.op.input["migration_id"], status="failed", updated_at=run.tx.now)
    as_reported(run, error)
    run.set_server(vm_state=ERROR, fault=fault(run, error))


EVACUATE = procedure(
    "evacuate",
    StepDef("fence", fence, fenced, undo="nothing: a guest on a host that is down is left as it is", event="compute_rebuild_instance",
            deadline=lambda config: config.compute.fence_timeout, host=lost_host),
    StepDef("place", place, placed, undo=unplace, redo=True, deadline=placing.choice_deadline),
    StepDef("rebuild", remake_there, remade_there, undo=unmake, undone=unmade, deadline=lambda config: config.compute.copy_timeout),
    StepDef("finish", moved, at_once, undo="the pivot"),
    cancelled=not_moved, stuck=not_moved,
)
