"""The report's reproduction as one run: launch servers, resize them one by one, revert them one by one, again.

Owns: `Plan` (what is asked when), `Case` (one run of it in one cloud) and what is counted of every revert. A cloud is anything with `resize`, `revert`,
`state` and a meter: a Kilo cloud of any era, or Virga's real engine and agents (virga_cloud.py); both get the same requests at the same times.
Rules: a server that ended in ERROR is left alone afterwards, as an operator would; a revert that has not ended after the longest possible wait counts as
stuck. Kilo clouds start from a snapshot: booted once, by their own procedures, and copied for every seed.
"""
from __future__ import annotations

import random
from typing import Any, Protocol

import msgspec

from virga.domain.server import ERROR, RESIZED
from virga.lab import kilo_rules as rules
from virga.lab.kilo import KiloCloud
from virga.lab.kilo_store import KiloStore
from virga.lab.meter import Meter
from virga.lab.options import Options
from virga.runtime.env import Env
from virga.runtime.trace import Trace
from virga.sim.loop import SimLoop

LOOK_S = 2.0
TAIL_S = 10.0


class Plan(msgspec.Struct, frozen=True):
    """Servers, rounds, and the operator's pace in seconds (each pause varies by half)."""

    servers: int = 5
    rounds: int = 1
    ports: int = 1
    resize_gap_s: float = 8.0
    revert_gap_s: float = 8.0
    look_s: float = LOOK_S  # how often it is looked whether all have come to rest
    tail_s: float = TAIL_S  # how long after the last revert agents are given to wire what is still unwired
    settle_s: float = 20.0  # between the last resize and the first revert; short ones meet ports that were never ACTIVE (trigger ii)


class Revert(msgspec.Struct):
    """What became of one revert."""

    server: str
    outcome: str = "stuck"  # active, error, stuck, or whatever vm_state it ended in
    fault: str = ""
    timed_out: bool = False
    decided_to_wait: bool = False
    unwired_s: float = 0.0
    disk_lost: bool = False


class Result(msgspec.Struct):
    """One run."""

    seed: int
    reverts: list[Revert] = []
    founding_cases: int = 0
    virtual_s: float = 0.0


class Cloud(Protocol):
    """What a run needs of a cloud."""

    env: Env
    meter: Meter

    async def ask(self, what: str, server_id: str) -> bool:
        """resize or revert; False when it was refused."""

    def state(self, server_id: str) -> tuple[str, str | None]: ...
    def fault(self, server_id: str) -> str: ...
    def waited(self, server_id: str, since: float) -> tuple[bool, bool]:
        """Whether a revert asked at `since` or later decided to wait for an event, and whether that wait ended by its deadline."""


class Case:
    """One run of a plan in one cloud."""

    def __init__(self, cloud: Cloud, plan: Plan, seed: int, servers: list[str], longest_s: float) -> None:
        self.cloud, self.plan, self.servers, self.longest_s = cloud, plan, servers, longest_s
        self.pace = random.Random(f"pace {seed}")
        self.result = Result(seed)

    async def run(self) -> Result:
        for _ in range(self.plan.rounds):
            alive = [server_id for server_id in self.servers if self.cloud.state(server_id)[0] != ERROR]
            await self._resize_all(alive)
            await self._revert_all([server_id for server_id in alive if self.cloud.state(server_id) == (RESIZED, None)])
            self.result.founding_cases += 1
        self.result.virtual_s = self.cloud.env.monotonic()
        return self.result

    async def _pause(self, mean_s: float) -> None:
        await self.cloud.env.sleep(mean_s * (0.5 + self.pace.random()))

    async def _resize_all(self, servers: list[str]) -> None:
        for server_id in servers:
            await self.cloud.ask("resize", server_id)
            await self._pause(self.plan.resize_gap_s)
        await self._until(dict.fromkeys(servers, (RESIZED,)))
        await self._pause(self.plan.settle_s)

    async def _revert_all(self, servers: list[str]) -> None:
        cloud, began = self.cloud, self.cloud.env.now()
        before = {server_id: cloud.meter.unwired_s(server_id) for server_id in servers}
        for server_id in servers:
            await cloud.ask("revert", server_id)
            await self._pause(self.plan.revert_gap_s)
        await self._until(dict.fromkeys(servers, ("active",)))
        await cloud.env.sleep(self.plan.tail_s)
        for server_id in servers:
            vm_state, task_state = cloud.state(server_id)
            decided, timed_out = cloud.waited(server_id, began)
            self.result.reverts.append(Revert(
                server_id, "stuck" if task_state is not None else vm_state, cloud.fault(server_id), timed_out, decided,
                cloud.meter.unwired_s(server_id) - before[server_id], server_id in cloud.meter.disks_lost))

    async def _until(self, wanted: dict[str, tuple[str, ...]]) -> None:
        """Wait until each server has come to rest in one of its states or in ERROR, at most the longest wait there is."""
        cloud, left = self.cloud, list(wanted)
        limit = cloud.env.monotonic() + self.longest_s
        while left and cloud.env.monotonic() < limit:
            left = [server_id for server_id in left if not self._rests(server_id, wanted[server_id])]
            if left:
                await cloud.env.sleep(self.plan.look_s)

    def _rests(self, server_id: str, states: tuple[str, ...]) -> bool:
        vm_state, task_state = self.cloud.state(server_id)
        return task_state is None and (vm_state in states or vm_state == ERROR)


# Kilo clouds -----------------------------------------------------------------------------------------------------------
class Snapshot(msgspec.Struct):
    """A booted Kilo cloud at rest: rows and what is on each machine."""

    store: Any
    machines: dict[str, dict[str, Any]]
    index: int


_SNAPSHOTS: dict[tuple[str, int, int], Snapshot] = {}


def booted(options: Options, servers: int, ports: int) -> Snapshot:
    """Boot `servers` servers by the era's own procedures, wait until their ports are ACTIVE, keep what is left when the processes stop."""
    key = (options.era, servers, ports)
    if key not in _SNAPSHOTS:
        cloud = KiloCloud(0, Options(era=options.era), KiloStore())

        async def main() -> None:
            cloud.start()
            for number in range(1, servers + 1):
                cloud.boot(number, ports)
            await cloud.env.sleep(60.0)
            bad = [server.id for server in cloud.store.servers.values() if server.vm_state != "active"]
            assert not bad and all(port.status == rules.ACTIVE for port in cloud.store.ports.values()), f"boot failed: {bad}"
            cloud.stop()

        SimLoop(0).run(main)
        _SNAPSHOTS[key] = Snapshot(cloud.store, {name: dict(machine.journal.values) for name, machine in cloud.machines.items()}, cloud._index)
    return _SNAPSHOTS[key]


class AskedCloud(KiloCloud):
    """A Kilo cloud as `Case` wants it."""

    async def ask(self, what: str, server_id: str) -> bool:
        (self.resize if what == "resize" else self.revert)(server_id)
        return True

    def fault(self, server_id: str) -> str:
        server = self.store.servers.get(server_id)
        return server.fault.message if server is not None and server.fault is not None else ""

    def waited(self, server_id: str, since: float) -> tuple[bool, bool]:
        waits = [wait for wait in self.waits if wait.server_id == server_id and wait.since >= since]
        return bool(waits), any(wait.timed_out for wait in waits)


class KiloCase(AskedCloud):
    """Laid out from a snapshot."""

    def __init__(self, seed: int, options: Options, plan: Plan, loop: SimLoop, trace: Trace | None = None) -> None:
        snapshot = booted(options, plan.servers, plan.ports)
        super().__init__(seed, options, snapshot.store.copy(), trace, loop=loop)
        for name, values in snapshot.machines.items():
            self.machines[name].journal.values.update(values)
        self._index = snapshot.index


def longest_wait_s(options: Options) -> float:
    return options.vif_plugging_timeout + options.rpc_response_timeout + 60.0


def run_kilo(seed: int, options: Options, plan: Plan, trace: Trace | None = None) -> tuple[Result, KiloCase]:
    """One seed of one era."""
    loop = SimLoop(seed)
    cloud = KiloCase(seed, options, plan, loop, trace)

    async def main() -> Result:
        cloud.start()
        case = Case(cloud, plan, seed, list(cloud.store.servers), longest_wait_s(options))
        result = await case.run()
        cloud.stop()
        return result

    return loop.run(main), cloud
