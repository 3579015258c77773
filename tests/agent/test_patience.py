"""An agent whose drivers do not answer for a while (libvirtd restarts): it says so, asks again, and no command of it gets stuck."""
from __future__ import annotations

import asyncio
from typing import Any

from virga.agent.fake import FakeDisks, FakeHypervisor, FakeWiring, Machine, Neighbourhood, NoImages
from virga.agent.hypervisor import DriverError
from virga.agent.journal import Journal
from virga.agent.session import Agent
from virga.domain.config import Compute
from virga.fabric.link import Link, memory_pair
from virga.fabric.wire import Do, Frame, Hello, Report, Welcome
from virga.runtime.env import real_env
from virga.runtime.trace import Event, Trace


class Moody(FakeHypervisor):
    """Does not answer `silent` times."""

    silent = 0
    asked = 0

    async def guests(self) -> dict[str, str]:
        self.asked += 1
        if self.silent:
            self.silent -= 1
            raise DriverError("libvirt cannot be reached", "unreachable")
        return await super().guests()


class Stage:
    def __init__(self) -> None:
        self.env = real_env("host")
        self.events: list[Event] = []
        trace = Trace(self.env.now)
        trace.add_sink(self.events.append)
        machine, neighbours = Machine("h1"), Neighbourhood()
        neighbours.add(machine)
        self.hypervisor = Moody(self.env, machine, neighbours)
        self.frames: list[Frame] = []
        self.there: Link | None = None
        self.agent = Agent(self.env, trace, "h1", "id-1", Compute(), self.hypervisor, FakeDisks(self.env, machine, neighbours, NoImages()),
                           FakeWiring(self.env, machine), Journal(), self.dial)

    async def dial(self) -> Link:
        ours, theirs = memory_pair(asyncio.get_running_loop())
        ours.start(self.frames.append, lambda: None)
        self.there = ours
        return theirs

    async def until(self, kind: type[Any], test: Any = lambda frame: True) -> Any:
        async with asyncio.timeout(10):
            while True:
                for frame in self.frames:
                    if isinstance(frame, kind) and test(frame):
                        return frame
                await asyncio.sleep(0.01)


def test_an_agent_waits_for_its_drivers_and_finishes_its_commands() -> None:
    async def story() -> None:
        stage = Stage()
        stage.hypervisor.silent = 2
        stage.env.spawn(stage.agent.run(), "agent")
        await stage.until(Hello)
        assert sum("tried again" in event.text for event in stage.events) == 2
        assert stage.there is not None
        stage.there.send(Welcome(1))
        stage.hypervisor.silent = 2
        spec = {"server_id": "s1", "name": "a", "vcpus": 1, "ram_mb": 64, "disk_gb": 1}
        stage.there.send(Do("c1", "create", "s1", 1, {"spec": spec, "power": "running"}))
        report = await stage.until(Report, lambda frame: frame.results)
        assert report.results[0].ok and report.guests[-1].state == "running"
        stage.there.send(Do("c2", "power", "s1", 2, {"action": "stop", "hard": True}))
        report = await stage.until(Report, lambda frame: any(result.command_id == "c2" for result in frame.results))
        assert report.guests[-1].state == "stopped", "the actor went on after its drivers had been silent"
        await stage.env.stop()

    asyncio.run(story())


def test_many_hints_are_one_look() -> None:
    async def story() -> None:
        stage = Stage()
        stage.env.spawn(stage.agent.run(), "agent")
        await stage.until(Hello)
        before = stage.hypervisor.asked
        for number in range(100):
            stage.agent._port_changed(f"p{number}")
        await asyncio.sleep(0.1)
        assert 1 <= stage.hypervisor.asked - before <= 3
        await stage.env.stop()

    asyncio.run(story())


def test_an_agent_that_takes_over_leaves_the_taps_of_running_guests() -> None:
    """kill -9 after the guest was started and before its command was answered: the next agent must not take its tap for a loose one."""
    class Wiring(FakeWiring):
        unwired: list[str] = []

        async def unwire(self, port_id: str) -> None:
            self.unwired.append(port_id)
            await super().unwire(port_id)

    async def story() -> None:
        stage = Stage()
        env, journal, machine = stage.env, stage.agent.journal, stage.hypervisor.machine
        stage.env.fault_hook = lambda name, about: env.kill() if name.endswith("agent.after_effect") else None
        env.spawn(stage.agent.run(), "agent")
        await stage.until(Hello)
        assert stage.there is not None
        nic = {"port_id": "p1", "generation": 3, "mac": "fa:16:3e:00:00:01", "network_id": "n1"}
        spec = {"server_id": "s1", "name": "a", "vcpus": 1, "ram_mb": 64, "disk_gb": 1, "nics": [nic]}
        do = Do("c1", "create", "s1", 1, {"spec": spec, "power": "running"})
        stage.there.send(do)
        async with asyncio.timeout(10):
            while env.alive:
                await asyncio.sleep(0.01)
        assert machine.guests() == {"s1": "running"}
        second = Stage()
        second.hypervisor.machine = machine
        wiring = Wiring(second.env, machine)
        second.agent.journal, second.agent.wiring, second.agent.hands.wiring = journal, wiring, wiring
        second.env.spawn(second.agent.run(), "agent")
        await second.until(Hello)
        assert second.there is not None
        second.there.send(Welcome(2))
        second.there.send(do)
        report = await second.until(Report, lambda frame: frame.results)
        assert report.results[0].ok and wiring.unwired == []
        await second.env.stop()

    asyncio.run(story())
