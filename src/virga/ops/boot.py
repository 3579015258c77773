"""boot: from a row to a running guest.

    place    choose a host, take the claim, open a binding of every port there
    spawn    host makes the disk, wires the ports, starts the guest          <- guest running, ports wired at their generation
    finish   the server is ACTIVE, its ports are bound                       (pivot)

Undo: the guest is purged, claim and bindings are given back. Then another host is tried, up to HOSTS_TRIED_MAX; when none is left the server is ERROR
with a fault that tells why, host by host (compute API guide, server faults).
"""
from __future__ import annotations

from virga.domain.operation import RUN
from virga.domain.server import ACTIVE, ERROR, POWER, Fault
from virga.ops import placing
from virga.ops.bindings import activate_binding, open_binding, unbind
from virga.ops.guests import spec_args
from virga.ops.procedure import Run, StepDef, Verdict, at_once, good, procedure
from virga.ops.waits import both, is_away, ports_of, wait_gone, wait_guest, wait_wired

FAULT_CHARS_MAX = 255
HOSTS_TRIED_MAX = 3  # as many as Nova's scheduler tries by default


def fault(run: Run, message: str, code: int = 500) -> Fault:
    return Fault(code, message[:FAULT_CHARS_MAX], run.tx.now, message)


def tried(run: Run) -> frozenset[str]:
    """Hosts that have failed this build already."""
    return frozenset(run.op.notes.get("tried", {}))


def place(run: Run) -> None:
    server = run.server
    if server.host is not None:
        return
    host = placing.find_host(run, server.flavor, only=server.requested_host, avoid=tried(run))
    if host is None:
        return
    placing.claim(run.tx, host, server.id, "server", server.id, server.flavor)
    for port in ports_of(run):
        open_binding(run.tx, port, host)
    run.set_server(host=host, task_state="networking")


def placed(run: Run) -> Verdict:
    if run.server.host is None:
        return placing.undecided(run, "No valid host was found. There are not enough hosts available")
    return good(f"placed on {run.server.host}")


def unplace(run: Run) -> None:
    if run.op.kind == "boot" and run.server.host is not None:
        run.note(tried={**run.op.notes.get("tried", {}), run.server.host: run.op.error}, last=run.server.host)
        run.set_server(host=None)
    placing.release_all(run.tx, run.server.id)
    for port in ports_of(run):
        unbind(run.tx, port)


def spawn(run: Run) -> None:
    server = run.server
    run.set_server(task_state="spawning")
    run.command(server.host or "", "create", spec=spec_args(run.tx, server, server.flavor, server.host or ""), power="running")


def spawned(run: Run) -> Verdict:
    host = run.server.host or ""
    return both(wait_guest(run, host, RUN), wait_wired(run, host))


def unspawn(run: Run) -> None:
    run.command(run.server.host or "", "purge")


def unspawned(run: Run) -> Verdict:
    """A host that is away keeps the purge in its outbox; the user's server need not wait for that."""
    host = run.server.host or ""
    return good(f"{host} is away, the purge waits for it") if is_away(run, host) else wait_gone(run, host)


def finish(run: Run) -> None:
    server = run.server
    for port in ports_of(run):
        activate_binding(run.tx, port.id, server.host or "")
    run.set_server(vm_state=ACTIVE, task_state=None, power_state=POWER["running"], launched_at=run.tx.now, progress=0, fault=None)


def again(run: Run, error: str) -> bool:
    """Another host, if there is one with room, if nobody asked for this one, and if it is certain that nothing was left running on it."""
    last = run.op.notes.get("last")
    if last is None or run.server.requested_host is not None or is_away(run, last) or len(tried(run)) >= HOSTS_TRIED_MAX:
        return False
    if not placing.is_room(run, run.server.flavor, avoid=tried(run)):
        return False
    run.set_server(task_state="scheduling")
    return True


def cancelled(run: Run, error: str) -> None:
    refused = bool(run.op.notes.get("refused"))
    if not refused and len(tried(run)) > 1:
        error = "; ".join(why if why.startswith(f"{host}: ") else f"{host}: {why}" for host, why in run.op.notes["tried"].items())
    run.set_server(vm_state=ERROR, task_state=None, host=None, fault=fault(run, error if refused else f"Build of instance {run.server.id} failed: {error}"))


def stuck(run: Run, error: str) -> None:
    run.set_server(vm_state=ERROR, task_state=None, fault=fault(run, error))


BOOT = procedure(
    "boot",
    StepDef("place", place, placed, undo=unplace, event="conductor_schedule_and_build_instances", host=lambda run: "", redo=True,
            deadline=placing.choice_deadline),
    StepDef("spawn", spawn, spawned, undo=unspawn, undone=unspawned, event="compute__do_build_and_run_instance",
            deadline=lambda config: config.compute.copy_timeout),
    StepDef("finish", finish, at_once, undo="the pivot: after it there is only forward"),
    cancelled=cancelled, stuck=stuck, again=again,
)
