"""The network server of the Kilo clouds: port bindings, what agents may change, and the notifier that tells Nova.

Owns: every write to a lab port. The answers to the agents are the pure rules of kilo_rules.py; here they meet delays, the trace and the batch.
Rules: an agent's report is compared with the binding and ignored when the host is another one (`port_bound_to_host`); a change of status goes through
the notifier's transition table; what it queues is sent in one batch `send_events_interval` seconds later and never again, whether it arrived or not.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from virga.lab import kilo_rules as rules
from virga.lab.kilo_store import KiloPort

if TYPE_CHECKING:
    from virga.lab.kilo import KiloCloud

SERVER, NOTIFIER = "network", "notifier"


class Event(msgspec.Struct, frozen=True):
    """One entry of a batch of external events. No host, no generation, no operation: that is all Kilo says."""

    name: str
    server_id: str
    tag: str
    status: str = "completed"
    cause: int = 0  # the trace event that made it
    host: str = ""  # of the binding it is about; only a healed cloud looks at it

    @property
    def key(self) -> str:
        return f"{self.name}-{self.tag}"


class NetworkServer:
    """neutron-server with the ML2 plugin, as far as the case needs it."""

    def __init__(self, cloud: KiloCloud) -> None:
        self.cloud = cloud
        self.env = cloud.env.child(SERVER)
        self._pending: list[Event] = []
        self.slow_s = 0.0  # a museum piece makes the next batch this late
        self.ignored = 0  # reports dropped by the host compare

    # what Nova calls ------------------------------------------------------------------------------------------------
    async def list_ports(self, server_id: str) -> list[KiloPort]:
        """A REST round trip; the rows are as they are when the request arrives."""
        await self.env.sleep(self.cloud.delay("rpc"))
        ports = self.cloud.store.ports_of(server_id)
        await self.env.sleep(self.cloud.delay("rpc"))
        return ports

    async def update_port_host(self, port_id: str, host: str, caller: str, parent: int) -> None:
        """update_port with binding:host_id: rebinding, and a fan-out `port_update` to every agent."""
        cloud = self.cloud
        number = cloud.tell("message", caller, SERVER, f"update_port(binding:host_id = {host})", parent, port_id)
        await self.env.sleep(cloud.delay("rpc"))
        port = cloud.store.ports.get(port_id)
        if port is None:
            return
        old = port.host
        port.host = host
        cloud.tell("transition", SERVER, SERVER, f"ml2_port_bindings: {old} becomes {host}", number, port_id)
        self._set_status(port, rules.status_after_rebind(cloud.rules, port.status, old, host), "the change of binding", number)
        for agent in list(cloud.agents.values()):
            agent.env.spawn(agent.port_update(port_id, cloud.delay("rpc")), "port_update")
        await self.env.sleep(cloud.delay("rpc"))

    # what agents call -----------------------------------------------------------------------------------------------
    async def get_devices_details_list(self, devices: list[str], host: str, parent: int) -> list[str]:
        """The ports of these taps that exist. Kilo's linuxbridge agent does not say who asks, so any port asked about goes to BUILD."""
        await self.env.sleep(self.cloud.delay("rpc"))
        found = []
        for port_id in devices:
            port = self.cloud.store.ports.get(port_id)
            if port is not None:
                found.append(port_id)
                self._details(port, host, parent)
        await self.env.sleep(self.cloud.delay("rpc"))
        return found

    def _details(self, port: KiloPort, host: str, parent: int) -> None:
        caller = host if self.cloud.rules.details_tell_host else None
        self._set_status(port, rules.status_after_details(
            port.status, port.host, caller, port.admin_state_up, reset_active=self.cloud.rules.details_reset_active), f"details asked by {host}", parent,
                         aside=True)

    async def update_device_up(self, port_id: str, host: str, parent: int) -> None:
        cloud = self.cloud
        number = cloud.tell("fact", f"agent@{host}", SERVER, f"update_device_up({host})", parent, port_id)
        await self.env.sleep(cloud.delay("rpc"))
        port = cloud.store.ports.get(port_id)
        if port is not None:
            self._up(port, host, number)
        await self.env.sleep(cloud.delay("rpc"))

    def _up(self, port: KiloPort, host: str, number: int) -> None:
        cloud = self.cloud
        bound = cloud.tell("step", SERVER, SERVER, "port_bound_to_host", number, port.id)
        if not rules.port_bound_to_host(port.host, host):
            self._ignore(port, host, bound)
            if cloud.rules.unbound_up_notifies:
                self._queue(Event(rules.PLUGGED, port.server_id, port.id, cause=bound))
            return
        self._set_status(port, rules.status_after_up(port.status, port.host, host), f"update_device_up({host})", bound)

    async def update_device_down(self, port_id: str, host: str, parent: int) -> None:
        cloud = self.cloud
        number = cloud.tell("fact", f"agent@{host}", SERVER, f"update_device_down({host})", parent, port_id)
        await self.env.sleep(cloud.delay("rpc"))
        port = cloud.store.ports.get(port_id)
        if port is not None:
            if not rules.port_bound_to_host(port.host, host):
                self._ignore(port, host, number)
            else:
                self._set_status(port, rules.status_after_down(port.status, port.host, host), f"update_device_down({host})", number)
        await self.env.sleep(cloud.delay("rpc"))

    def _ignore(self, port: KiloPort, host: str, parent: int) -> None:
        self.ignored += 1
        self.cloud.dropped(port.server_id, f"the report of {host} on port {port.id[:8]}: the binding says {port.host}, the caller says {host}")
        self.cloud.tell("fault", SERVER, SERVER, f"the binding says {port.host}, the caller says {host}: returns, no event", parent, port.id)

    # status and notifier --------------------------------------------------------------------------------------------
    def _set_status(self, port: KiloPort, status: str, by: str, parent: int, *, aside: bool = False) -> None:
        if status == port.status:
            return
        self.cloud.watch_status(port, status, by)
        old, port.status, port.since, port.told_by = port.status, status, self.env.now(), by
        number = self.cloud.tell("transition", SERVER, SERVER, f"port status {old} becomes {status}", parent, port.id, aside=aside)
        name = rules.event_of(old, status)
        if name is not None:
            self._queue(Event(name, port.server_id, port.id, cause=number, host=port.host))

    def _queue(self, event: Event) -> None:
        self._pending.append(event)
        if len(self._pending) == 1:
            self.env.spawn(self._send_batch(), "batch")

    async def _send_batch(self) -> None:
        await self.env.sleep(self.cloud.options.delays["batch"])
        batch, self._pending = self._pending, []
        slow_s, self.slow_s = self.slow_s, 0.0
        await self.env.sleep(slow_s)
        await self.send(batch)

    async def send(self, batch: list[Event]) -> None:
        """One POST to os-server-external-events; Kilo does not try again."""
        await self.env.sleep(self.cloud.delay("rpc"))
        while not self.cloud.external_events(batch) and self.cloud.rules.events_retry:
            await self.env.sleep(1.0)
