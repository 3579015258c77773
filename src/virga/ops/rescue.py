"""rescue and unrescue: the server runs from another image for a while, with its own disk beside it.

rescue:     act       the host makes a rescue disk, stops the guest, starts it from the rescue disk     <- answered, running, wired
            finish    the server shows RESCUE                                                           (pivot)
unrescue:   act       the host starts the guest from its own disk again and drops the rescue disk       <- answered, running, wired
            finish    the server shows ACTIVE                                                           (pivot)

Rules: the server's own disk is never replaced, only attached second, so no failure can lose it. The rescue disk is made before the guest is stopped:
an image that cannot be had leaves the server as it was. After a failure the server takes the state that the host last reported; a hard reboot or a
start always uses its own disk. While RESCUE holds, nothing but unrescue and delete is allowed.
"""
from __future__ import annotations

from virga.domain.operation import RUN, Guest
from virga.domain.server import POWER, RESCUED
from virga.ops.guests import image_args, spec_args
from virga.ops.power import act, acted, as_reported, show
from virga.ops.procedure import Run, StepDef, at_once, procedure


def act_rescue(run: Run) -> None:
    server = run.server
    host = server.host or ""
    spec = spec_args(run.tx, server, server.flavor, host)
    run.command(host, "power", action="rescue", spec={**spec, "rescue": image_args(run.tx, run.op.input["image_id"])})


def show_rescued(run: Run) -> None:
    run.set_server(vm_state=RESCUED, power_state=POWER["running"], task_state=None, fault=None)


def still_rescued(run: Run, error: str) -> None:
    """An unrescue that failed: a guest that runs, runs on its rescue disk still."""
    as_reported(run, error)
    guest = run.tx.get(Guest, run.server.id, run.server.host or "")
    if guest is not None and guest.state == RUN:
        run.set_server(vm_state=RESCUED)


RESCUE = procedure(
    "rescue",
    StepDef("act", act_rescue, lambda run: acted(run, state=RUN), undo="nothing: the host's last report is shown", event="compute_rescue_instance",
            deadline=lambda config: config.compute.copy_timeout),
    StepDef("finish", show_rescued, at_once, undo="the pivot"),
    cancelled=as_reported, stuck=as_reported,
)

UNRESCUE = procedure(
    "unrescue",
    StepDef("act", lambda run: act(run, verb="unrescue"), lambda run: acted(run, state=RUN), undo="nothing: the host's last report is shown",
            event="compute_unrescue_instance"),
    StepDef("finish", lambda run: show(run, state=RUN), at_once, undo="the pivot"),
    cancelled=still_rescued, stuck=still_rescued,
)
