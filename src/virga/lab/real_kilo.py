"""A Kilo cloud on real hosts: the same managers, network server, waiters and rules, over emulated machines with libvirt, bridges and taps.

Owns: the composition, and what was measured of each revert. Nothing of a procedure is here: driver and agent replace the effects of theirs and nothing
else, and everything runs on the real clock.
What is real: domains, taps, bridging, disks, what listing a host's taps and starting or ending a guest costs, and the agents' phases. What is scripted
(REAL_DELAYS): messages and database saves (both services of both hosts are in this process), the resource tracker's lock, and the notifier's batch
interval, which is an option of Neutron's and not a cost. A scripted delay asked for with --delay is added to what really happens.
Rules: the report's numbers are measured, W from the kernel's word that the tap had ended on the host that is left, d from the agent's look to the DOWN.
"""
from __future__ import annotations

from pathlib import Path

import msgspec

from virga.domain.server import FlavorSpec, Server
from virga.lab.founding import AskedCloud
from virga.lab.hosts import LabHost
from virga.lab.kilo import HOST_A, HOST_B
from virga.lab.kilo_agent import LinuxbridgeAgent
from virga.lab.kilo_compute import ComputeManager
from virga.lab.kilo_libvirt import LibvirtDriver
from virga.lab.kilo_store import KiloStore
from virga.lab.meter import MeteredJournal
from virga.lab.odds import predict
from virga.lab.options import Options
from virga.lab.real_host import RealMachine
from virga.runtime.env import Env, real_env
from virga.runtime.trace import Event, Trace

SMALL = FlavorSpec("1", "m1.nano", 1, 128, 1)
BIG = FlavorSpec("4", "m1.micro", 1, 192, 1)
REAL_DELAYS = {"rpc": 0.01, "save": 0.01, "destroy": 0.0, "teardown": 0.0, "lock": 0.1, "copy": 0.0, "launch": 0.0, "poll": 0.0, "batch": 2.0}
VIF_TIMEOUT_S = 15.0


class RealDriver(LibvirtDriver):
    """The effects, on a real machine."""

    machine: RealMachine

    async def _start_guest(self, server: Server, *, paused: bool) -> None:
        await self.machine.start_guest(server, [port.id for port in self.cloud.store.ports_of(server.id)], paused=paused)

    async def _stop_guest(self, server_id: str) -> None:
        await self.machine.stop_guest(server_id)

    async def _resume_guest(self, server_id: str) -> None:
        await self.machine.resume_guest(server_id)

    async def _forget_guest(self, server_id: str) -> None:
        await self.machine.forget_guest(server_id)

    async def make_disk(self, server: Server) -> None:
        await self.machine.make_disk(server)

    async def delete_disk(self, server_id: str, *, aside: bool = False) -> None:
        await self.machine.delete_disk(server_id, aside=aside)

    async def _put_disk_aside(self, server_id: str) -> None:
        await self.machine.put_disk_aside(server_id)

    async def _take_disk_back(self, server_id: str) -> None:
        await self.machine.take_disk_back(server_id)

    async def _copy_disk(self, server_id: str, dest: str) -> None:
        other = self.cloud.machines[dest]
        assert isinstance(other, RealMachine)
        await self.machine.copy_disk(server_id, other)


class RealManager(ComputeManager):
    driver_type = RealDriver


class RealAgent(LinuxbridgeAgent):
    """Looks at the kernel's list each time."""

    machine: RealMachine

    async def taps(self) -> dict[str, object]:
        return await self.machine.taps()

    def nothing_happened(self) -> bool:
        return False

    async def bridge(self, port_id: str) -> bool:
        return await self.machine.join(port_id)


class Measured(msgspec.Struct):
    """One revert: the window W, whether it ended in ERROR, how long it took in all (seconds); `read` is the number of its read's event."""

    server: str
    read: int
    window_s: float
    failed: bool
    took_s: float


class RealKilo(AskedCloud):
    """A Kilo cloud over the first two hosts of a lab. `open`, `start`, ask, `stop`, `close`."""

    manager_type, agent_type = RealManager, RealAgent

    def __init__(self, options: Options, hosts: list[LabHost], image: Path, env: Env | None = None) -> None:
        self._hosts, self._image = dict(zip((HOST_A, HOST_B), hosts, strict=False)), image
        clock = env or real_env("race")
        self.events: list[Event] = []
        trace = Trace(clock.now, ring=1)
        trace.add_sink(self.events.append)
        super().__init__(0, options, KiloStore(), trace, env=clock)
        self.small, self.big = SMALL, BIG
        self._number = 0

    def make_machine(self, host: str, journal: MeteredJournal) -> RealMachine:
        return RealMachine(host, journal, self.env, self._hosts[host], self._image)

    def real(self, host: str) -> RealMachine:
        machine = self.machines[host]
        assert isinstance(machine, RealMachine)
        return machine

    async def open(self) -> None:
        """Raises DriverError."""
        for host in self.machines:
            await self.real(host).open()

    async def close(self) -> None:
        for host in self.machines:
            await self.real(host).close()

    def boot_next(self) -> str:
        self._number += 1
        return self.boot(self._number)

    def measured(self, since: int = 0) -> list[Measured]:
        """Every revert from event number `since` on, in the order of their reads."""
        return [one for event in self.events if event.number > since and event.text.startswith("_build_network_info_model")
                for one in [self._measure(event)] if one is not None]

    def _measure(self, read: Event) -> Measured | None:
        """`read` is told after the answer's way back; the rows were read a way earlier."""
        port_id = self.first_port(read.server)
        gone = [at for at, whose in self.ends if whose == port_id and at < read.at]
        asked = [event.at for event in self.events if event.text == "revert_resize" and event.server == read.server and event.number < read.number]
        ended = next((event for event in self.events if event.number > read.number and event.server == read.server
                      and event.text.startswith("vm_state ")), None)
        if not gone or not asked or ended is None:
            return None
        return Measured(read.server, read.number, read.at - self.options.delays["rpc"] - gone[-1], "error" in ended.text, ended.at - asked[-1])

    @property
    def ends(self) -> list[tuple[float, str]]:
        """(when, port id) of every tap that the kernel has taken away on the host that reverts leave."""
        return self.real(HOST_B).ends

    def report_times_s(self) -> list[float]:
        """d of every DOWN that host_B's agent has caused: from the look that found the tap gone, back along what caused what."""
        found = []
        for event in self.events:
            if event.text == "port status ACTIVE becomes DOWN":
                cause = event
                while cause.parent:
                    cause = self.events[cause.parent - 1]
                if cause.src == f"agent@{HOST_B}":
                    found.append(event.at - cause.at)
        return found


def expected(measured: list[Measured], report_s: float, interval_s: float) -> float:
    """How many of these reverts the formula would have failing."""
    return sum(predict(one.window_s, report_s, interval_s) for one in measured)
