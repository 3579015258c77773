"""start, stop, reboot, pause, unpause, suspend, resume: one command, one fact, one change of state.

    act      the host does it                   <- guest in the wanted state
    finish   the server shows it                (pivot)

When the host fails or does not answer, nothing is guessed: the server takes the state that the host last reported, and the action says Error.
"""
from __future__ import annotations

from functools import partial

from virga.domain.operation import CRASHED, PAUSE, RUN, STOP, SUSPEND, Guest
from virga.domain.server import ACTIVE, ERROR, PAUSED, POWER, STOPPED, SUSPENDED
from virga.ops.boot import fault
from virga.ops.guests import spec_args
from virga.ops.procedure import Procedure, Run, StepDef, Verdict, at_once, procedure
from virga.ops.waits import answered, both, wait_guest, wait_wired

# what a guest's state means for its server, outside any operation: guest state -> (vm_state, power_state)
SHOWN: dict[str, tuple[str, int]] = {
    RUN: (ACTIVE, POWER["running"]), STOP: (STOPPED, POWER["stopped"]), PAUSE: (PAUSED, POWER["paused"]),
    SUSPEND: (SUSPENDED, POWER["suspended"]), CRASHED: (STOPPED, POWER["crashed"]),
}

# kind -> (what the agent is asked, guest state awaited, instance action event)
ACTS: dict[str, tuple[str, str, str]] = {
    "start": ("start", RUN, "compute_start_instance"),
    "stop": ("stop", STOP, "compute_stop_instance"),
    "reboot": ("reboot", RUN, "compute_reboot_instance"),
    "pause": ("pause", PAUSE, "compute_pause_instance"),
    "unpause": ("unpause", RUN, "compute_unpause_instance"),
    "suspend": ("suspend", SUSPEND, "compute_suspend_instance"),
    "resume": ("resume", RUN, "compute_resume_instance"),
}


def act(run: Run, *, verb: str) -> None:
    server = run.server
    host = server.host or ""
    run.command(host, "power", action=verb, hard=bool(run.op.input.get("hard")), spec=spec_args(run.tx, server, server.flavor, host))


def acted(run: Run, *, state: str) -> Verdict:
    host = run.server.host or ""
    done = wait_guest(run, host, state)
    # a guest that is to be rebooted runs already: only the host's answer says that it has been
    return answered(run, host, both(done, wait_wired(run, host))) if state == RUN else done


def show(run: Run, *, state: str) -> None:
    vm_state, power_state = SHOWN[state]
    run.set_server(vm_state=vm_state, power_state=power_state, task_state=None, fault=None)


def as_reported(run: Run, error: str) -> None:
    guest = run.tx.get(Guest, run.server.id, run.server.host or "")
    if guest is not None and guest.state in SHOWN:
        vm_state, power_state = SHOWN[guest.state]
        run.set_server(vm_state=vm_state, power_state=power_state, task_state=None)
    else:
        run.set_server(vm_state=ERROR, task_state=None, fault=fault(run, error))


def _declare(kind: str, verb: str, state: str, event: str) -> Procedure:
    return procedure(
        kind,
        StepDef("act", partial(act, verb=verb), partial(acted, state=state), undo="nothing: the host's last report is shown", event=event),
        StepDef("finish", partial(show, state=state), at_once, undo="the pivot"),
        cancelled=as_reported, stuck=as_reported,
    )


POWER_PROCEDURES = [_declare(kind, *acts) for kind, acts in ACTS.items()]
