"""What a fault entry of a plan does to a world, and how everything is mended for the calm.

Rules: only a machine that is truly off may be fenced; while it is off nothing else may start it, as no operator would.
"""
from __future__ import annotations

from typing import Any

from virga.domain.placement import Host
from virga.ops import front
from virga.sim.plan import Entry
from virga.sim.world import World
from virga.store.db import Tx

USUAL_DELAYS_S = {"launch": 0.02, "stop": 0.02, "wire": 0.005, "fetch": 0.02, "resume": 0.002}


class Breaker:
    """Breaks and mends one world. `lost` are the hosts switched off and (soon) fenced."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.lost: set[str] = set()

    async def happen(self, entry: Entry) -> None:
        """Do what the entry says."""
        world, what, whom = self.world, entry.what, entry.whom
        script = world.machines[whom].script if whom in world.machines else None
        if what == "kill_controller":
            world.kill_controller()
        elif what == "start_controller":
            if world.controller is None:
                world.start_controller()
        elif what == "kill_agent":
            world.kill_agent(whom)
        elif what == "start_agent":
            if whom not in world.agents and whom not in self.lost:
                world.start_agent(whom)
        elif what == "power_cut":
            world.power_cut(whom)
        elif what == "lose_host":
            world.power_cut(whom)
            self.lost.add(whom)
        elif what in ("fence", "unfence"):
            await self._fence(whom, what == "fence")
        elif what in ("partition", "heal"):
            world.partition(whom, what == "partition")
        elif what == "duplicate":
            world.weather[whom].duplicate_share = entry.value
        elif what.startswith("kill_at:"):
            self._kill_at(whom, what[8:])
        elif what.startswith("fail:") and script is not None:
            script.fail[what[5:]] = int(entry.value)
        elif what.startswith("slow:") and script is not None:
            script.delay_s[what[5:]] = entry.value
        elif what == "crash_guest":
            guests = sorted(world.machines[whom].guests())
            if guests:
                world.machines[whom].crash(guests[int(entry.value * len(guests))])

    def _kill_at(self, name: str, point: str) -> None:
        """Arm a kill -9 of one process for the next time it passes a named point."""
        world = self.world
        env = world.controller if name == "controller" else world.agents.get(name)
        if env is None:
            return

        def hook(passed: str, about: dict[str, Any]) -> None:
            if passed.endswith(point) and env.alive:
                env.fault_hook = None
                if name != "controller":
                    world.kill_agent(name)
                elif world.controller is env:
                    world.kill_controller()

        env.fault_hook = hook

    async def _fence(self, name: str, value: bool) -> None:
        """The operator's word; without a controller to hear it, nothing changes but the machine being switched on again."""
        world = self.world
        if value:
            if name in self.lost:
                await self._say(name, True)
        elif name in self.lost:
            self.lost.discard(name)
            world.start_agent(name)
            await world.env.sleep(0.2)
            await self._say(name, False)

    async def _say(self, name: str, value: bool) -> None:
        try:
            await self.world.run(lambda tx: front.set_host_forced_down(tx, tx.need(Host, name), value))
        except ConnectionError:
            pass

    async def mend_all(self) -> None:
        """Everything runs, answers and is connected again; no host is fenced or disabled."""
        world = self.world
        self.lost.clear()
        for env in (world.controller, *world.agents.values()):
            if env is not None:
                env.fault_hook = None
        for name, machine in world.machines.items():
            machine.script.fail.clear()
            machine.script.delay_s = dict(USUAL_DELAYS_S)
            world.weather[name].duplicate_share = 0.0
            world.partition(name, False)
            if name not in world.agents:
                world.start_agent(name)
        if world.controller is None:
            world.start_controller()

        def clear(tx: Tx) -> None:
            for host in tx.find(Host, forced_down=True):
                front.set_host_forced_down(tx, host, False)
            for host in tx.find(Host, disabled=True):
                front.set_host_disabled(tx, host, False)

        await world.run(clear)
