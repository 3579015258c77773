"""Virga itself, as the founding case wants a cloud: the real engine, hub and agents in the simulated world.

Owns: the adapter between `Case` and sim/world.py. Nothing of Virga is replaced; only the machines' memories are metered ones, so that guest-seconds and
lost disks are counted from outside, with the same meter as in the Kilo clouds.
"""
from __future__ import annotations

from virga.agent.fake import Script
from virga.domain.errors import Problem
from virga.domain.operation import Operation
from virga.domain.port import Port
from virga.domain.server import Server
from virga.lab.founding import Case, Plan, Result
from virga.lab.meter import Meter, MeteredJournal
from virga.lab.options import DELAYS
from virga.ops import front
from virga.runtime.trace import Event
from virga.sim.explorer import snapshot_of
from virga.sim.loop import SimLoop
from virga.sim.world import BIG, World

HOSTS = 2


class VirgaCase:
    """See the module."""

    def __init__(self, seed: int, plan: Plan, destroy_s: float = DELAYS["destroy"]) -> None:
        calls = {"stop": destroy_s, "launch": DELAYS["launch"], "fetch": DELAYS["copy"], "wire": DELAYS["poll"]}
        self.world = World(seed, HOSTS, mean_delay_s=DELAYS["rpc"], snapshot=snapshot_of(plan.servers, HOSTS), script=Script(delay_s=calls))
        self.env = self.world.env
        self.meter = Meter(self.env.now, lambda journal, port_id: "tap/" + port_id in journal)
        for name, machine in self.world.machines.items():
            machine.journal = MeteredJournal(name, self.meter, machine.journal.values)

    def learn_ports(self) -> None:
        """Tell the meter whose ports are whose; needs the running loop's clock, as every look at rows does."""
        for port in self.world.look(lambda tx: tx.find(Port)):
            self.meter.ports.setdefault(port.device_id, []).append(port.id)

    async def ask(self, what: str, server_id: str) -> bool:
        try:
            if what == "resize":
                await self.world.act(server_id, lambda tx, ask, server: front.resize(tx, ask, server, BIG))
            else:
                await self.world.act(server_id, front.revert)
        except Problem:
            return False
        return True

    def _server(self, server_id: str) -> Server:
        return self.world.look(lambda tx: tx.need(Server, server_id))

    def state(self, server_id: str) -> tuple[str, str | None]:
        server = self._server(server_id)
        return server.vm_state, server.task_state

    def fault(self, server_id: str) -> str:
        server = self._server(server_id)
        return server.fault.message if server.fault is not None else ""

    def waited(self, server_id: str, since: float) -> tuple[bool, bool]:
        ops = self.world.look(lambda tx: tx.find(Operation, server_id=server_id, kind="revert"))
        return False, any(op.started_at >= since and "gave up after" in op.error for op in ops)


def run_virga(
    seed: int, plan: Plan, events: list[Event] | None = None, destroy_s: float = DELAYS["destroy"],
) -> tuple[Result, VirgaCase]:
    """One seed. `events`, if given, receives every trace event."""
    loop = SimLoop(seed)
    cloud = VirgaCase(seed, plan, destroy_s)
    if events is not None:
        cloud.world.trace.add_sink(events.append)

    async def main() -> Result:
        world = cloud.world
        cloud.learn_ports()
        world.start()
        await world.hosts_up()
        longest_s = world.config.compute.operation_timeout * 4
        result = await Case(cloud, plan, seed, list(world.servers), longest_s).run()
        world.stop()
        return result

    return loop.run(main), cloud
