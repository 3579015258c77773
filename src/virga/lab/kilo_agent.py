"""The polling linuxbridge agent: it compares the taps of its host with what it saw last time, and reports the difference.

Owns: which tap is bridged on its host (the one effect), and its memory of the last look.
Rules: names are compared and nothing else; it sleeps the rest of its interval; any failed call makes the next look count every tap as new (resync), as
does its first look after a start. A `port_update` for a tap that is not there is forgotten.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from virga.runtime.env import Env

if TYPE_CHECKING:
    from virga.lab.kilo import KiloCloud


class AgentCallFailed(Exception):
    """A call to the network server did not come back."""


class LinuxbridgeAgent:
    """The agent of one host. `phase_s` is when its first look happens."""

    def __init__(self, cloud: KiloCloud, host: str, env: Env, phase_s: float, known: dict[str, object] | None) -> None:
        self.cloud, self.host, self.env, self.phase_s = cloud, host, env, phase_s
        self.machine = cloud.machines[host]
        self._version = -1
        self.previous: dict[str, object] = dict(known) if known is not None else {}
        self.resync = known is None
        self.slow_s = 0.0  # a museum piece makes the next report this late
        self.updated: dict[str, None] = {}
        self.looks = 0
        self.failing_calls = 0  # a test or museum piece makes this many calls fail

    async def run(self) -> None:
        interval_s = self.cloud.options.polling_interval
        await self.env.sleep(self.phase_s)
        while True:
            began = self.env.monotonic()
            await self.look()
            await self.env.sleep(max(0.0, interval_s - (self.env.monotonic() - began)))

    async def port_update(self, port_id: str, delay_s: float) -> None:
        await self.env.sleep(delay_s)
        self.updated[port_id] = None

    # effects; the agent of a real host replaces these three and nothing else -------------------------------------------
    async def taps(self) -> dict[str, object]:
        """port id -> interface index of every tap on the host, in the order the host made them."""
        return self.machine.journal.find("tap/")

    def nothing_happened(self) -> bool:
        """Whether a look would certainly find what the last one found; it saves the simulator most looks."""
        version, self._version = self._version, self.cloud.journals[self.host].version
        return version == self._version

    async def bridge(self, port_id: str) -> bool:
        """Join the tap to its bridge; False when it has gone meanwhile."""
        index = self.machine.journal.values.get("tap/" + port_id)
        if index is not None:
            self.machine.journal.put("bridged/" + port_id, index)
        return index is not None

    async def look(self) -> None:
        """One turn of the loop: what was added, removed, or named in a port_update."""
        self.looks += 1
        if self.nothing_happened() and not self.updated and not self.resync:
            return
        current = await self.taps()
        index = self.cloud.rules.agent_compares_index
        added = [port_id for port_id in current
                 if self.resync or port_id not in self.previous or (index and self.previous[port_id] != current[port_id])]
        removed = [port_id for port_id in self.previous if port_id not in current]
        updated = [port_id for port_id in self.updated if port_id in current and port_id not in added]
        self.previous = current
        self.updated.clear()
        self.resync = False
        if added or removed or updated:
            await self.process_network_devices(added, updated, removed)

    async def process_network_devices(self, added: list[str], updated: list[str], removed: list[str]) -> None:
        me = f"agent@{self.host}"
        try:
            if added or updated:
                sees = "sees the new tap" if added else "a port_update named a tap here"
                number = self.cloud.tell("step", me, me, f"process_network_devices: {sees}", 0, (added + updated)[0])
                await self.treat_devices_added_updated(added + updated, number)
            if removed:
                number = self.cloud.tell("step", me, me, "process_network_devices: compares taps with last time", 0, removed[0])
                await self.treat_devices_removed(removed, number)
        except AgentCallFailed:
            self.resync = True

    def _call(self) -> None:
        if self.failing_calls:
            self.failing_calls -= 1
            raise AgentCallFailed(self.host)

    async def treat_devices_added_updated(self, devices: list[str], parent: int) -> None:
        cloud, me = self.cloud, f"agent@{self.host}"
        number = cloud.tell("step", me, me, "treat_devices_added_updated", parent, devices[0])
        await self.env.sleep(cloud.delay("poll"))
        self._call()
        for port_id in await cloud.network.get_devices_details_list(devices, self.host, number):
            if not await self.bridge(port_id):
                continue  # it went while we asked
            cloud.tell("note", me, me, "tap bridged here", 0, port_id, aside=True)
            self._call()
            slow_s, self.slow_s = self.slow_s, 0.0
            await self.env.sleep(slow_s)
            await cloud.network.update_device_up(port_id, self.host, number)

    async def treat_devices_removed(self, devices: list[str], parent: int) -> None:
        cloud, me = self.cloud, f"agent@{self.host}"
        number = cloud.tell("step", me, me, "treat_devices_removed: the tap is gone", parent, devices[0])
        await self.env.sleep(cloud.delay("poll"))
        for port_id in devices:
            self._call()
            await cloud.network.update_device_down(port_id, self.host, number)
