"""Hand-written events: the founding report's three figures, and a revert as Virga does it."""
from __future__ import annotations

from typing import Any

from virga.runtime.trace import Event, Trace

T0 = 1767225600.0
PORT = "6f1c2a34-8d0e-4b57-9c1f-2a3b4c5d6e7f"
SERVER = "b5a0c9d2-1e3f-4a5b-8c7d-9e0f1a2b3c4d"
KILO = {"compute-a": "nova-compute host_A", "libvirt-a": "libvirt host_A", "agent-a": "agent host_A",
        "neutron": "neutron-server", "compute-b": "nova-compute host_B", "agent-b": "agent host_B"}
VIRGA = {"api": "API", "ops": "ops", "host-2": "host-2 agent", "host-1": "host-1 agent", "store": "store"}


class Script:
    """Writes events at given milliseconds."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.trace = Trace(lambda: T0)
        self.trace.add_sink(self.events.append)

    def at(self, ms: float, kind: str, src: str, dst: str, text: str, parent: int = 0, **data: Any) -> int:
        return self.trace.emit(kind, src, dst, text, parent=parent, at=T0 + ms / 1000, server=SERVER, **data)


def _kilo_start(s: Script, active: bool) -> dict[str, int]:
    n: dict[str, int] = {}
    n["1"] = s.at(0, "message", "compute-b", "compute-a", "finish_revert_resize")
    n["1.1"] = s.at(12, "message", "compute-a", "neutron", "network info: list_ports", n["1"])
    n["1.1.1"] = s.at(31, "fact", "neutron", "compute-a",
                      f"port {PORT} is {'ACTIVE' if active else 'DOWN'}: vif.active is {str(active).lower()}", n["1.1"],
                      bad=not active)
    n["1.2"] = s.at(35, "message", "compute-a", "compute-a", "setup_networks_on_host", n["1"])
    s.at(35, "note", "compute-a", "", "does nothing", n["1.2"])
    n["1.3"] = s.at(36, "message", "compute-a", "libvirt-a", "finish_revert_migration", n["1"])
    n["1.3.1"] = s.at(38, "message", "libvirt-a", "libvirt-a", "_create_domain_and_network", n["1.3"])
    return n


def success() -> list[Event]:
    s = Script()
    n = _kilo_start(s, active=True)
    s.at(38.4, "note", "libvirt-a", "", "no event to wait for", n["1.3.1"])
    n["1.3.2"] = s.at(41, "message", "libvirt-a", "libvirt-a", "create the VM, its tap with it", n["1.3"])
    s.at(253, "note", "libvirt-a", "", "nothing to wait for, the flow goes on", n["1.3.2"])
    n["1.4"] = s.at(255, "message", "compute-a", "compute-a", "migrate_instance_finish", n["1"])
    n["1.4.1"] = s.at(256, "message", "compute-a", "neutron", "update the port", n["1.4"])
    s.at(290, "transition", "neutron", "", "ml2_port_bindings: host_B → host_A, only here", n["1.4.1"])
    s.at(301, "transition", "compute-a", "", "server ACTIVE", n["1.4"])
    return s.events


def failure() -> list[Event]:
    s = Script()
    n = _kilo_start(s, active=False)
    s.at(38.4, "note", "libvirt-a", "", f"network-vif-plugged-{PORT} is registered", n["1.3.1"])
    n["1.3.2"] = s.at(41, "message", "libvirt-a", "libvirt-a", "create the VM, paused, its tap with it", n["1.3"])
    wait = s.at(253, "wait", "libvirt-a", "", f"network-vif-plugged-{PORT}", n["1.3.2"])
    n["2"] = s.at(1480, "message", "agent-a", "agent-a", "process_network_devices: a new tap6f1c2a34-8d")
    n["2.1"] = s.at(1482, "message", "agent-a", "agent-a", "treat_devices_added_updated", n["2"])
    n["2.1.1"] = s.at(1490, "message", "agent-a", "neutron", "update_device_up(host_A)", n["2.1"])
    n["2.1.1.1"] = s.at(1493, "message", "neutron", "neutron", "whose port is it?", n["2.1.1"])
    s.at(1494, "fault", "neutron", "", "the binding still says host_B, the caller says host_A: returns, sends no event",
         n["2.1.1.1"])
    end = s.at(300253, "wait", "libvirt-a", "", f"network-vif-plugged-{PORT}", wait, ended="deadline")
    destroyed = s.at(300260, "message", "libvirt-a", "libvirt-a", "destroy the guest", end)
    s.at(300470, "fault", "libvirt-a", "compute-a",
         "VirtualInterfaceCreateException: Virtual Interface creation failed", destroyed)
    s.at(300475, "transition", "compute-a", "", "server ERROR", n["1"], bad=True)
    return s.events


def vif_status(agent_first: bool = True) -> list[Event]:
    """host_A reads the port's status before or after the agent of host_B reported the tap gone."""
    s = Script()
    revert = s.at(0, "message", "compute-b", "compute-b", "revert_resize")
    s.at(2, "message", "compute-b", "compute-b", "libvirt destroys the VM: its tap is removed", revert)

    def agent(ms: float) -> None:
        scan = s.at(ms, "message", "agent-b", "agent-b", "polling interval (2 s): the tap is gone")
        treat = s.at(ms + 1, "message", "agent-b", "agent-b", "treat_devices_removed", scan)
        down = s.at(ms + 9, "message", "agent-b", "neutron", "update_device_down(host_B)", treat)
        s.at(ms + 14, "transition", "neutron", "", f"port {PORT}: ACTIVE → DOWN", down)

    def finish(ms: float) -> None:
        start = s.at(ms, "message", "compute-b", "compute-a", "finish_revert_resize", revert)
        build = s.at(ms + 6, "message", "compute-a", "neutron", "_build_network_info_model: list_ports", start)
        s.at(ms + 21, "fact", "neutron", "compute-a", "port is DOWN" if agent_first else "port is ACTIVE", build,
             bad=agent_first)
        works = "the revert works, on the status of the VIF on host_B"
        s.at(ms + 22, "note", "compute-a", "", "the revert fails: it will wait" if agent_first else works, build)

    if agent_first:
        agent(120)
        finish(160)
    else:
        finish(160)
        agent(1510)
    return s.events


def revert() -> list[Event]:
    """house rule 4: every decision first, both hosts at once, wired before it runs, one pivot."""
    s = Script()
    op = {"operation": "op-1"}

    def at(ms: float, kind: str, src: str, dst: str, text: str, parent: int = 0, **data: Any) -> int:
        return s.trace.emit(kind, src, dst, text, parent=parent, at=T0 + ms / 1000, server=SERVER, **op, **data)

    ask = at(0, "message", "api", "ops", f"revert server {SERVER}")
    at(1.1, "transition", "store", "", "server RESIZED → REVERT_RESIZE; claim back; binding g3 open on host-1, g2 "
       "retiring on host-2; operation and both commands in the outbox", ask)
    at(1.4, "fact", "ops", "api", "202 Accepted", ask)
    retire = at(2, "step", "ops", "", "retire the guest on host-2", ask, step="retire", state="begun")
    restore = at(2.1, "step", "ops", "", "restore the guest on host-1", ask, step="restore", state="begun")
    kill = at(3, "message", "ops", "host-2", "guest.retire(keep disk)", retire)
    start = at(3.2, "message", "ops", "host-1", "guest.restore(old flavor, ports at g3, hold)", restore)
    wait = at(3.3, "wait", "ops", "", "retired(host-2) and wired(host-1, g3)", ask)
    wire = at(44, "message", "host-1", "host-1", "tap, bridge, filter, DHCP entry", start)
    wired = at(61, "fact", "host-1", "ops", f"wired({PORT}, host-1, g3), guest held ready", wire)
    at(61.2, "transition", "store", "", f"port {PORT} wired on host-1 at g3", wired)
    at(61.3, "step", "ops", "", "restore", restore, step="restore", state="done")
    gone = at(208, "fact", "host-2", "ops", "retired: guest gone, disk kept", kill)
    at(208.2, "step", "ops", "", "retire", retire, step="retire", state="done")
    both = at(208.4, "wait", "ops", "", "both", wait, ended="both are rows", by=gone)
    go = at(209, "message", "ops", "host-1", "guest.resume", both)
    ran = at(221, "fact", "host-1", "ops", "running", go)
    at(222, "transition", "store", "", "pivot: host-1, old flavor, ACTIVE; migration reverted; purge of host-2 queued",
       ran)
    purge = at(223, "message", "ops", "host-2", "guest.purge (waits in the outbox as long as host-2 is away)", ran)
    at(251, "fact", "host-2", "ops", "purged", purge)
    return s.events


def sequence(fails: bool = False) -> list[Event]:
    """An operation in the shape the engine tells it: steps by name alone, waits that end when the next thing is told."""
    s = Script()
    common: dict[str, Any] = {"server": SERVER, "operation": "op-1"}

    def at(ms: float, kind: str, src: str, dst: str, text: str, **more: Any) -> int:
        return s.trace.emit(kind, src, dst, text, at=T0 + ms / 1000, **{**common, **more})

    at(0, "step", "api", "ops", "revert", key="op-1")
    at(0, "step", "ops", "ops", "swap", key="op-1/0", cause="op-1")
    at(0, "message", "ops", "host-2", "guest.retire", key="c1", cause="op-1/0")
    at(0, "message", "ops", "host-1", "guest.restore", key="c2", cause="op-1/0")
    at(0, "wait", "ops", "ops", "waiting for host-2 to report the guest shut down", cause="op-1/0")
    at(81, "fact", "host-1", "store", f"port {PORT} wired (generation 3)", operation="")
    at(205, "fact", "host-2", "store", "guest kept (epoch 4)", operation="")
    if fails:
        at(310, "fault", "host-1", "ops", "guest.restore failed: no space on device", operation="", cause="c2")
        at(311, "fault", "ops", "ops", "revert turns back: host-1: no space on device", cause="op-1")
        at(311, "step", "ops", "ops", "undo swap", key="op-1/0", cause="op-1")
        at(311, "message", "ops", "host-2", "guest.start", key="c3", cause="op-1/0")
        at(311, "wait", "ops", "ops", "waiting for host-2 to report the guest running", cause="op-1/0")
        at(540, "fact", "host-2", "store", "guest running (epoch 5)", operation="")
        at(541, "step", "ops", "ops", "revert undone: host-1: no space on device", cause="op-1")
        return s.events
    at(206, "note", "ops", "ops", "swap: host-2 reports guest kept (epoch 4)", cause="op-1/0")
    at(206, "step", "ops", "ops", "resume", key="op-1/1", cause="op-1")
    at(206, "message", "ops", "host-1", "guest.resume", key="c4", cause="op-1/1")
    at(206, "wait", "ops", "ops", "waiting for host-1 to report the guest running", cause="op-1/1")
    at(219, "fact", "host-1", "store", "guest running (epoch 4)", operation="")
    at(220, "note", "ops", "ops", "resume: host-1 reports guest running (epoch 4)", cause="op-1/1")
    at(220, "step", "ops", "ops", "pivot", key="op-1/2", cause="op-1")
    at(220, "message", "ops", "host-2", "guest.purge", key="c5", cause="op-1/2")
    at(220, "step", "ops", "ops", "revert done", cause="op-1")
    return s.events
