"""The rules of the founding case as data and pure functions: which era does what, and what the network server makes of a report.

Owns: `Rules` (every place where an era differs from another), `ERAS`, the port-binding compare, the effect of each agent call on a port's status, and
the notifier's transition table. Source: facts file sections 1.4 to 1.6 and 3.
Rules of this file: no clock, no await, no state. The simulated cloud (kilo.py) and the exhaustive search (kilo_model.py) both call these functions, so
what one of them finds is true of the other.
Why one frozen Struct and not a class an era: the eras differ in nine places, and remedies and museum pieces are further values of the same nine.
"""
from __future__ import annotations

import msgspec

ACTIVE, DOWN, BUILD = "ACTIVE", "DOWN", "BUILD"
PLUGGED, UNPLUGGED = "network-vif-plugged", "network-vif-unplugged"

# Rules.rebind: where finish_revert_resize moves the binding back to the host the guest returns to
LAST, IN_SETUP, FIRST = "last", "in-setup", "first"


class Rules(msgspec.Struct, frozen=True):
    """One era. The comments say since when upstream does otherwise."""

    waits_on_revert: bool = True  # 2015.1.0 and, again, 18.1.0 and later; 2015.1.1 to 18.0 pass vifs_already_plugged=True
    rebind: str = LAST  # FIRST since 14.0.0; IN_SETUP is the report's second remedy
    rereads: bool = False  # network info read again after the rebind, since 14.0.0
    fatal: bool = True  # vif_plugging_is_fatal, the report's first remedy when false
    details_tell_host: bool = False  # the agent names itself when it asks for details, since neutron 9.0.0
    rebind_resets_status: bool = False  # a binding change sets the port DOWN, since neutron 8.0.0
    unbound_up_notifies: bool = False  # an up from a host the port is not bound to notifies Nova, since neutron 9.0.0
    events_follow_migration: bool = False  # events go to source and destination too while a move is under way, since 15.0.0
    failed_plug_deletes_disks: bool = True  # the timeout path cleans up with destroy_disks, until 15.0.0
    # what no release has, or has had only in part; the museum's healed cloud sets them the other way round
    events_name_binding: bool = False  # an event says which host's binding it is about, and a waiter takes only its own
    events_retry: bool = False  # the notifier sends again what did not arrive
    batch_survives: bool = False  # one event that cannot be handled does not cost the others of its batch
    clear_signals: bool = False  # forgetting a server's waiters wakes them
    reverted_by_target: bool = False  # the migration is `reverted` when the guest is back, not when it has gone
    details_reset_active: bool = True  # a details call makes an ACTIVE port BUILD, even that of a running guest
    agent_compares_index: bool = False  # the agent notices a tap that was made anew under the same name
    edit_resets_status: bool = False  # any edit of a binding sets the port DOWN (since neutron 8.0.0)


_LATER = Rules(rebind=FIRST, rereads=True, details_tell_host=True, rebind_resets_status=True, unbound_up_notifies=True, failed_plug_deletes_disks=False)
KILO_0, KILO_1, REBIND_FIRST, REBIND_WAIT, VIRGA = "kilo-2015.1.0", "kilo-2015.1.1", "rebind-first", "rebind-and-wait", "virga"
ERAS: dict[str, Rules] = {
    KILO_0: Rules(),
    KILO_1: Rules(waits_on_revert=False),
    REBIND_FIRST: msgspec.structs.replace(_LATER, waits_on_revert=False),
    REBIND_WAIT: msgspec.structs.replace(_LATER, events_follow_migration=True),
}
# Kilo's machinery with every hazard of the facts file healed that can be healed in it (2.6: rebind first, reset, waiter before event, event names binding)
HEALED = Rules(
    rebind=FIRST, rereads=True, details_tell_host=True, rebind_resets_status=True, events_follow_migration=True, failed_plug_deletes_disks=False,
    events_name_binding=True, events_retry=True, batch_survives=True, clear_signals=True, reverted_by_target=True, details_reset_active=False,
    agent_compares_index=True)
ALL_ERAS = (*ERAS, VIRGA)


def port_bound_to_host(binding_host: str, caller_host: str) -> bool:
    """The compare of `update_device_up` and `update_device_down`: a caller that is not the bound host is ignored, silently."""
    return binding_host == caller_host


def status_after_details(status: str, binding_host: str, caller_host: str | None, admin_up: bool = True, *, reset_active: bool = True) -> str:
    """A details call says the agent is about to wire. A caller that does not name its host is believed (hazard 6)."""
    if caller_host is not None and not port_bound_to_host(binding_host, caller_host):
        return status
    if status == ACTIVE and not reset_active:
        return status
    return BUILD if admin_up else DOWN


def status_after_up(status: str, binding_host: str, caller_host: str) -> str:
    return ACTIVE if port_bound_to_host(binding_host, caller_host) else status


def status_after_down(status: str, binding_host: str, caller_host: str) -> str:
    return DOWN if port_bound_to_host(binding_host, caller_host) else status


def status_after_rebind(rules: Rules, status: str, old_host: str, new_host: str) -> str:
    """Of `update_port` with a binding; old and new host are equal when something else of the binding is edited."""
    return DOWN if (rules.rebind_resets_status if old_host != new_host else rules.edit_resets_status) else status


def event_of(old: str | None, new: str) -> str | None:
    """The notifier's transition table: which event a change of a port's status sends to Nova, if any.

    ACTIVE to BUILD, BUILD to DOWN and ACTIVE to ACTIVE say nothing at all, and nothing is said twice.
    """
    if old == ACTIVE and new == DOWN:
        return UNPLUGGED
    if old in (None, DOWN, BUILD) and new == ACTIVE:
        return PLUGGED
    return None


def vif_active(status: str, admin_up: bool = True) -> bool:
    """`vif.active` as the network-info builder has it."""
    return status == ACTIVE or not admin_up


def hosts_of_event(rules: Rules, server_host: str, source: str, dest: str, moving: bool) -> tuple[str, ...]:
    """Which compute hosts an external event for a server is cast to."""
    if rules.events_follow_migration and moving:
        return tuple(dict.fromkeys(host for host in (server_host, source, dest) if host))
    return (server_host,) if server_host else ()
