"""The museum's stage: one short run of a Kilo cloud with a few things going wrong, and the judge who says which promise was broken.

Owns: `Scene` (servers, ports, faults, drawn from a seed before the run), `play`, and the judge's rules. A rule is a promise users and operators hold a cloud
to, and the judge looks at machines, rows and waits only, never at which mutant is on stage.
Rules, by name: hang (a wait met its deadline), stuck (a task nobody works on), error, unwired (after the revert a guest ran on a port not wired),
no-network (ACTIVE with a port that is not), flap (a port of a resting server left ACTIVE), foreign (a host changed the status of a port bound elsewhere),
status-lies (ACTIVE where the guest's port is not wired), orphan (a deleted server's guest or disk), record-lies (`reverted` with no guest back), mixed
(the wait covers some ports only), nowhere (no copy runs anywhere), disk-lost.
"""
from __future__ import annotations

import random
from typing import Any

import msgspec

from virga.lab import kilo_rules as rules
from virga.lab.founding import KiloCase, Plan
from virga.lab.kilo import HOST_A, Refused
from virga.lab.kilo_compute import POISON, ComputeManager
from virga.lab.kilo_network import Event, NetworkServer
from virga.lab.kilo_rules import Rules
from virga.lab.kilo_store import KiloPort
from virga.lab.options import Options
from virga.runtime.trace import Trace
from virga.sim.loop import SimLoop

TIMEOUT_S = 30.0
PROBE_S = 0.25
AGENT_BACK_S, MANAGER_BACK_S = 1.0, 5.0
# Faults that come before the resize, to servers at rest.
EARLY = ("reboot", "edit", "kill_agent_at_rest", "slow_agent_early")


class Fault(msgspec.Struct, frozen=True):
    """At `at` seconds after the first revert: `what` happens to `whom` (a host, or a server's number)."""

    at: float
    what: str
    whom: str = ""
    value: float = 0.0

    def __str__(self) -> str:
        return f"at {self.at:6.2f} s  {self.what} {self.whom}" + (f" ({self.value:.1f} s)" if self.value else "")


class Scene(msgspec.Struct, frozen=True):
    """One run as data."""

    seed: int
    servers: int = 2
    ports: int = 1
    settle_s: float = 20.0
    faults: tuple[Fault, ...] = ()


class Cast(msgspec.Struct, frozen=True):
    """Who is on stage: the rules of the cloud, and parts replaced by a mutant's."""

    rules: Rules
    manager: type[ComputeManager] = ComputeManager
    network: type[NetworkServer] = NetworkServer


def drawn(seed: int, pool: tuple[str, ...], servers: int, ports: int, settle_s: float) -> Scene:
    """A scene by lot: one to three faults out of `pool` ('what' or 'what:whom'), at any time around the reverts."""
    lot = random.Random(f"scene {seed}")
    faults = []
    for _ in range(lot.randrange(1, 4) if pool else 0):
        what, _, whom = lot.choice(pool).partition(":")
        if what in ("delete", "reboot", "edit"):
            whom = str(lot.randrange(servers))
        faults.append(Fault(round(lot.uniform(-1.0, 6.0), 2), what, whom, round(lot.uniform(0.5, 6.0), 1) if what.startswith("slow") else 0.0))
    return Scene(seed, servers, ports, settle_s, tuple(sorted(faults, key=lambda fault: fault.at)))


class Stage(KiloCase):
    """A Kilo cloud whose judge notes what happens."""

    def __init__(self, scene: Scene, cast: Cast, loop: SimLoop, trace: Trace | None) -> None:
        self.manager_type, self.network_type = cast.manager, cast.network
        options = Options(changed=cast.rules, vif_plugging_timeout=TIMEOUT_S, rpc_response_timeout=5.0)
        self.broken: dict[str, str] = {}
        self.points: dict[str, str] = {}
        super().__init__(scene.seed, options, Plan(servers=scene.servers, ports=scene.ports), loop, trace)
        self.env.fault_hook = self._passed
        self.network.env.fault_hook = self._passed

    def _passed(self, name: str, about: dict[str, Any]) -> None:
        server_id = about.get("server")
        if server_id:
            self.points[server_id] = name.partition(":")[2]

    def breaks(self, rule: str, server_id: str) -> None:
        self.broken.setdefault(rule, server_id)

    def watch_status(self, port: KiloPort, status: str, by: str) -> None:
        server = self.store.servers.get(port.server_id)
        if server is None:
            return
        if port.status == rules.ACTIVE and server.task_state is None and server.vm_state == "active" and port.server_id in self.resting:
            self.breaks("flap", port.server_id)
        if by.startswith("details asked by ") and not by.endswith(port.host):
            self.breaks("foreign", port.server_id)

    resting: frozenset[str] = frozenset()

    def probe(self) -> None:
        """What must hold at any moment."""
        for port in self.store.ports.values():
            machine = self.machines.get(port.host)
            if machine is None or port.status != rules.ACTIVE:
                continue
            values = machine.journal.values
            if values.get("vm/" + port.server_id) == "running" and values.get("bridged/" + port.id) != values.get("tap/" + port.id):
                self.breaks("status-lies", port.server_id)

    def judge(self, reverted: list[str], began: float, unwired_before: dict[str, float]) -> None:
        """At the end, when everything has had its time."""
        for wait in self.waits:
            if wait.timed_out or (wait.until is None and self.state(wait.server_id)[0] == "deleted"):
                self.breaks("hang", wait.server_id)
            if len(wait.keys) not in (0, len(self.meter.ports.get(wait.server_id, []))):
                self.breaks("mixed", wait.server_id)
        for server_id in self.meter.ports:
            self._judge_server(server_id, reverted, unwired_before)
        for server_id in self.meter.disks_lost:
            self.breaks("disk-lost", server_id)

    def _judge_server(self, server_id: str, reverted: list[str], unwired_before: dict[str, float]) -> None:
        vm_state, task_state = self.state(server_id)
        states = {host: machine.journal.values.get("vm/" + server_id) for host, machine in self.machines.items()}
        if vm_state == "deleted":
            if any(state is not None or self.machines[host].disk(server_id) is not None for host, state in states.items()):
                self.breaks("orphan", server_id)
            return
        if task_state is not None:
            self.breaks("stuck", server_id)
        if vm_state == "error":
            self.breaks("error", server_id)
        if "running" not in states.values():
            self.breaks("nowhere", server_id)
        if self.meter.unwired_s(server_id, HOST_A) > unwired_before.get(server_id, 0.0) + 1e-6:
            self.breaks("unwired", server_id)
        if server_id in reverted:
            migration = self.store.migrations.get(server_id)
            if migration is not None and migration.status == "reverted" and states.get(migration.source) != "running":
                self.breaks("record-lies", server_id)
        if (vm_state, task_state) == ("active", None) and any(
                port.status != rules.ACTIVE or states.get(port.host) != "running" for port in self.store.ports_of(server_id)):
            self.breaks("no-network", server_id)

    # faults ---------------------------------------------------------------------------------------------------------
    async def happen(self, fault: Fault) -> None:
        what, host = fault.what, fault.whom
        self.tell("fault", "operator", "operator", f"{what} {fault.whom}", 0, "")
        if what in ("kill_agent", "kill_agent_at_rest"):
            self.kill_agent(host)
            await self.env.sleep(AGENT_BACK_S)
            self.start_agent(host)
        elif what == "agent_gone":
            self.kill_agent(host)
        elif what in ("slow_agent", "slow_agent_early"):
            if host in self.agents:
                self.agents[host].slow_s = fault.value
        elif what == "kill_manager":
            self.kill_manager(host)
            await self.env.sleep(MANAGER_BACK_S)
            self.start_manager(host)
        elif what == "manager_gone":
            self.kill_manager(host)
        elif what == "stop_manager":
            if host in self.managers:
                self.managers[host].waiters.cancel_all()
        elif what == "lose_batch":
            self.lost_events += 1
        elif what == "slow_batch":
            self.network.slow_s = fault.value
        elif what == "poison":
            self.network._queue(Event(POISON, next(iter(self.store.servers)), ""))
        elif what == "lose_cast":
            self.lose_casts.append("finish_revert_resize")
        elif what == "api_dies":
            self.api_dies = True
        else:
            await self._to_server(what, list(self.meter.ports)[int(fault.whom)])

    async def _to_server(self, what: str, server_id: str) -> None:
        if server_id not in self.store.servers:
            return
        if what == "delete":
            self.delete(server_id)
        elif what == "reboot":
            self.reboot(server_id)
        elif what == "edit":
            for port in self.store.ports_of(server_id):
                await self.network.update_port_host(port.id, port.host, "api", 0)


def play(scene: Scene, cast: Cast, trace: Trace | None = None) -> Stage:
    """Run a scene to its end; the stage's `broken` tells rule by rule which server it was."""
    loop = SimLoop(scene.seed)
    stage = Stage(scene, cast, loop, trace)
    stage.api_dies = False

    async def main() -> None:
        stage.start()
        servers = list(stage.store.servers)
        stage.resting = frozenset(servers)
        early = [fault for fault in scene.faults if fault.what in EARLY]
        for fault in early:
            await stage.happen(fault)
        await stage.env.sleep(6.0 if early else 1.0)
        stage.probe()
        stage.resting = frozenset()
        for server_id in servers:
            await stage.ask("resize", server_id)
        await _rest(stage, servers, ("resized",), 30.0)
        lot = random.Random(f"pace {scene.seed}")
        await stage.env.sleep(scene.settle_s * (0.5 + lot.random()))
        before = {server_id: stage.meter.unwired_s(server_id, HOST_A) for server_id in servers}
        began = stage.env.monotonic()
        for fault in scene.faults:
            if fault.what not in EARLY:
                stage.env.spawn(_later(stage, fault, max(0.0, 1.0 + fault.at)), fault.what)
        await stage.env.sleep(1.0)
        reverted = []
        for server_id in servers:
            try:
                stage.revert(server_id)
                reverted.append(server_id)
            except (Refused, KeyError):
                continue
            await stage.env.sleep(1.0 + lot.random())
        await _rest(stage, servers, ("active",), TIMEOUT_S + 15.0)
        await stage.env.sleep(8.0)
        stage.judge(reverted, began, before)
        stage.stop()

    loop.run(main)
    return stage


async def _later(stage: Stage, fault: Fault, delay_s: float) -> None:
    await stage.env.sleep(delay_s)
    await stage.happen(fault)


async def _rest(stage: Stage, servers: list[str], states: tuple[str, ...], limit_s: float) -> None:
    """Wait, looking closely, until every server is in one of `states`, in error or deleted."""
    until = stage.env.monotonic() + limit_s
    while stage.env.monotonic() < until:
        stage.probe()
        if all(stage.state(server_id) in {(state, None) for state in (*states, "error", "deleted")} for server_id in servers):
            return
        await stage.env.sleep(PROBE_S)
