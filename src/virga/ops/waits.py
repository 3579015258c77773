"""The predicates operations wait on. Each looks at rows and answers done, waiting (with the sentence a user reads) or failed.

None of them is ever told anything: a fact may come first, last, twice, or while no controller ran; the row is there when somebody looks.
"""
from __future__ import annotations

from virga.domain.operation import ABSENT, CRASHED, HELD, PAUSE, RUN
from virga.domain.placement import UP
from virga.domain.port import Binding, Port, Wiring
from virga.ops.procedure import Run, Verdict, failed, good, waiting

ALIVE = {RUN, HELD, PAUSE}  # states that a guest whose process died will not come to by itself


def host_note(run: Run, host: str) -> str:
    """What a person should know of a host we wait for; '' when it is simply up."""
    row = run.host_row(host)
    if row is None:
        return f"; {host} is no longer a host of this cloud"
    if row.forced_down:
        return f"; {host} is marked down by an operator"
    if row.state != UP:
        return f"; {host} is not connected (last seen {run.tx.now - row.seen_at:.0f} s ago)"
    return ""


def is_fenced(run: Run, host: str) -> bool:
    """Whether nothing can run on the host any more: an operator said so, or the host was removed from the cloud."""
    row = run.host_row(host)
    return row is None or row.forced_down


def is_away(run: Run, host: str) -> bool:
    row = run.host_row(host)
    return row is None or row.state != UP or row.forced_down


def wait_guest(run: Run, host: str, *states: str) -> Verdict:
    """The host reports the guest in one of `states`, at this operation's epoch. A guest that has died since the command ended is not waited for."""
    guest = run.guest(host)
    if guest is not None and guest.state in states:
        return good(f"{host} reports guest {guest.state} (epoch {guest.epoch})")
    crashed = guest is not None and guest.state == CRASHED and not ALIVE.isdisjoint(states)
    error = run.failure()
    if error:
        return failed(error, by_chance=crashed)
    if crashed:
        return failed(f"{host}: the guest's process died", by_chance=True)
    return waiting(f"waiting for {host} to report the guest {' or '.join(states)}{host_note(run, host)}")


def wait_gone(run: Run, host: str) -> Verdict:
    """Nothing of the guest runs on the host any more: it says so, or the host is fenced. Patient: two running copies are worse than waiting."""
    guest = run.guest(host)
    if guest is not None and guest.state in (ABSENT, "kept"):
        return good(f"{host} reports guest {guest.state} (epoch {guest.epoch})")
    if is_fenced(run, host):
        return good(f"{host} is fenced")
    if is_away(run, host):
        return waiting(
            f"waiting to be sure that nothing runs on {host}{host_note(run, host)}; it goes on when {host} returns or an operator fences it "
            f"(openstack compute service set --down {host} nova-compute)", patient=True)
    error = run.failure()
    return failed(error) if error else waiting(f"waiting for {host} to report the guest shut down")


def wait_disk(run: Run, host: str) -> Verdict:
    """The host has brought a complete disk of the server; one that was there before does not count."""
    guest = run.guest(host)
    if guest is not None and guest.disk:
        return answered(run, host, good(f"{host} has the disk whole"))
    error = run.failure()
    if error:
        return failed(error)
    return waiting(f"waiting for {host} to have the disk whole{host_note(run, host)}")


def answered(run: Run, host: str, verdict: Verdict) -> Verdict:
    """`verdict`, but only once the host has answered the current step's commands, and well.

    For steps whose outcome can look as if it had come about before they began: a guest that is to be rebuilt runs already.
    """
    error = run.failure()
    if error:
        return failed(error)
    if verdict.state == "done" and run.unanswered():
        return waiting(f"waiting for {host} to answer{host_note(run, host)}")
    return verdict


def ports_of(run: Run) -> list[Port]:
    return run.ports


def wait_wired(run: Run, host: str) -> Verdict:
    """Every port of the server is wired on the host, at the generation its binding there has now."""
    missing = []
    for port in ports_of(run):
        binding = run.tx.get(Binding, port.id, host)
        if binding is None or not port.admin_state_up:
            continue
        wiring = run.tx.get(Wiring, port.id, host)
        if wiring is None or not wiring.wired or wiring.generation != binding.generation:
            missing.append(f"{port.id[:8]} (binding {host}, generation {binding.generation})")
    if not missing:
        return good(f"all ports wired on {host}")
    if not run.config.compute.vif_plugging_is_fatal:
        return good(f"{host} started the guest without waiting for ports {', '.join(missing)} (vif_plugging_is_fatal is false)")
    error = run.failure()
    return failed(error) if error else waiting(f"waiting for {host} to report port {', '.join(missing)} wired{host_note(run, host)}")


def both(first: Verdict, second: Verdict) -> Verdict:
    """Two waits at once: failed if either failed, done when both are done."""
    for verdict in (first, second):
        if verdict.state == "failed":
            return verdict
    if first.state == second.state == "waiting":
        return waiting(f"{first.reason}; {second.reason.removeprefix('waiting ')}", patient=first.patient and second.patient)
    if "waiting" in (first.state, second.state):
        return first if first.state == "waiting" else second
    return good("; ".join(filter(None, (first.reason, second.reason))))
