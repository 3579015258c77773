"""attach_interface and detach_interface: a NIC more or less on a running or stopped guest.

attach:   plug     host wires the port and gives it to the guest       <- wired at its generation
          finish   binding active                                      (pivot); undo: unplugged, the port given back
detach:   unplug   host takes it from the guest and unwires it         <- the command's answer is a row
          finish   port released, or unbound if the user made it       (pivot)
"""
from __future__ import annotations

from virga.domain.operation import COMMAND_DONE, Command
from virga.domain.port import Binding, Port, Wiring
from virga.ops.bindings import activate_binding, open_binding, unbind
from virga.ops.ports import nic_of, release_port
from virga.ops.procedure import Run, StepDef, Verdict, at_once, failed, good, procedure, waiting
from virga.ops.waits import host_note, is_away


def the_port(run: Run) -> Port | None:
    return run.tx.get(Port, run.op.input["port_id"])


def plug(run: Run) -> None:
    port = the_port(run)
    host = run.server.host or ""
    if port is not None:
        binding = open_binding(run.tx, port, host)
        run.command(host, "attach", nic=nic_of(run.tx, port, binding.generation))


def plugged(run: Run) -> Verdict:
    host = run.server.host or ""
    port_id = run.op.input["port_id"]
    binding, wiring = run.tx.get(Binding, port_id, host), run.tx.get(Wiring, port_id, host)
    if binding is None:
        return failed(f"port {port_id} was deleted meanwhile")
    if wiring is not None and wiring.wired and wiring.generation == binding.generation:
        return answered(run)
    error = run.failure()
    return failed(error) if error else waiting(f"waiting for {host} to report port {port_id[:8]} wired{host_note(run, host)}")


def answered(run: Run) -> Verdict:
    """The host has answered the current step's command."""
    host = run.server.host or ""
    step = run.op.position
    for command in run.tx.find(Command, operation_id=run.op.id, epoch=run.op.epoch, state=COMMAND_DONE):
        if command.id.startswith(f"{run.op.id}/{run.op.epoch}/{step}."):
            return good(f"{host} has done {command.verb}")
    error = run.failure()
    return failed(error) if error else waiting(f"waiting for {host} to answer{host_note(run, host)}")


def unplug(run: Run) -> None:
    host = run.server.host or ""
    # A host that is away is not waited for: the port is given back, and the host takes the card away whenever it returns.
    run.command(host, "detach", port_id=run.op.input["port_id"], insist=is_away(run, host))


def unplugged(run: Run) -> Verdict:
    host = run.server.host or ""
    return good(f"{host} is away") if is_away(run, host) else answered(run)


def plug_done(run: Run) -> None:
    activate_binding(run.tx, run.op.input["port_id"], run.server.host or "")
    run.set_server(task_state=None)


def give_back(run: Run, error: str) -> None:
    port = the_port(run)
    if port is not None:
        if port.preserve:
            unbind(run.tx, port)
            run.tx.update(Port, port.id, device_id="", device_owner="", updated_at=run.tx.now)
        else:
            release_port(run.tx, port)
    run.set_server(task_state=None)


ATTACH = procedure(
    "attach_interface",
    StepDef("plug", plug, plugged, undo=unplug, undone=unplugged, event="compute_attach_interface"),
    StepDef("finish", plug_done, at_once, undo="the pivot"),
    cancelled=give_back, stuck=give_back,
)


def unplug_done(run: Run) -> None:
    give_back(run, "")


def keep(run: Run, error: str) -> None:
    run.set_server(task_state=None)


DETACH = procedure(
    "detach_interface",
    StepDef("unplug", unplug, unplugged, undo="nothing: the port stays the server's", event="compute_detach_interface"),
    StepDef("finish", unplug_done, at_once, undo="the pivot"),
    cancelled=keep, stuck=keep,
)
