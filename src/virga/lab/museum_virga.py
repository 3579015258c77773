"""What Virga does where no Kilo code keeps its promise: the same ill luck, on the real engine and agents.

Owns: the translation of a museum scene's faults to Virga's world (a compute manager's or agent's death is the death of the host's agent, a lost cast a cut
link, the API's death the controller's), and the judgement. Promises: the user sees ACTIVE on the old host (or, while a host is away for ever and nobody
has fenced it, a named wait that says what ends it), the guest runs exactly once in the end, its disk is there, and nothing stays of a deleted server.
A host that never returns is fenced by the operator after a minute, which is what the wait's own sentence asks for.
"""
from __future__ import annotations

import random

from virga.domain.errors import Problem
from virga.domain.operation import OPEN, Operation
from virga.domain.placement import Host
from virga.domain.server import ACTIVE, RESIZED, Server
from virga.lab.founding import Plan
from virga.lab.kilo import HOST_A
from virga.lab.museum_scene import Fault, Scene
from virga.lab.virga_cloud import VirgaCase
from virga.ops import front
from virga.sim.loop import SimLoop

FENCE_AFTER_S = 60.0


def keeps(scene: Scene) -> str:
    """'' when Virga keeps its promises in this scene, else the sentence that says which it broke."""
    loop = SimLoop(scene.seed)
    cloud = VirgaCase(scene.seed, Plan(servers=scene.servers))
    world = cloud.world

    async def main() -> str:
        cloud.learn_ports()
        world.start()
        await world.hosts_up()
        for server_id in list(world.servers):
            await cloud.ask("resize", server_id)
        await world.settle()
        await world.env.sleep(1.0)
        for fault in scene.faults:
            world.env.spawn(_happen(cloud, fault), fault.what)
        await world.env.sleep(1.0)
        lot = random.Random(f"pace {scene.seed}")
        for server_id in list(world.servers):
            try:
                await cloud.ask("revert", server_id)
            except ConnectionError:
                continue  # no controller at this moment: the user is told, nothing has begun
            await world.env.sleep(1.0 + lot.random())
        await world.env.sleep(90.0)
        told = _unnamed_wait(cloud)
        for name in [name for name in world.machines if name not in world.agents]:
            world.power_cut(name)  # fencing means: whoever marks a host down has made sure that nothing runs there
            await world.run(lambda tx, name=name: front.set_host_forced_down(tx, tx.need(Host, name), True))  # type: ignore[misc]
        await world.env.sleep(FENCE_AFTER_S * 5)
        verdict = told or _judge(cloud)
        world.stop()
        return verdict

    return loop.run(main)


async def _happen(cloud: VirgaCase, fault: Fault) -> None:
    world = cloud.world
    await world.env.sleep(max(0.0, 1.0 + fault.at))
    host = "host-1" if fault.whom == HOST_A else "host-2"
    if fault.what in ("manager_gone", "agent_gone"):
        world.kill_agent(host)
    elif fault.what == "kill_manager":
        world.kill_agent(host)
        await world.env.sleep(5.0)
        if host not in world.agents:
            world.start_agent(host)
    elif fault.what == "lose_cast":
        world.partition("host-1", True)
        await world.env.sleep(5.0)
        world.partition("host-1", False)
    elif fault.what == "api_dies":
        world.kill_controller()
        await world.env.sleep(5.0)
        if world.controller is None:
            world.start_controller()
    elif fault.what == "delete":
        server_id = world.servers[int(fault.whom)]
        cloud.meter.forgiven.add(server_id)
        try:
            await world.act(server_id, front.delete)
        except Problem:
            pass  # deleted already


def _unnamed_wait(cloud: VirgaCase) -> str:
    for op in cloud.world.look(lambda tx: tx.find(Operation, state=list(OPEN))):
        if not op.waiting or op.deadline_at is None:
            return f"{op.kind} of {op.server_id} is open without a named wait and an end"
    return ""


def _judge(cloud: VirgaCase) -> str:
    world = cloud.world
    for server_id in world.servers:
        server = world.look(lambda tx, server_id=server_id: tx.need(Server, server_id))  # type: ignore[misc]
        states = {name: machine.guests().get(server_id) for name, machine in world.machines.items()}
        running = [name for name, state in states.items() if state == "running"]
        if server.deleted_at is not None:
            left = [name for name, machine in world.machines.items()
                    if name in world.agents and (states[name] or machine.disk(server_id) is not None)]
            if left:
                return f"deleted server {server_id} still has something on {left[0]}"
        elif server_id in cloud.meter.disks_lost:
            return f"server {server_id} lost its last disk"
        elif server.operation_id is not None:
            return f"server {server_id} is stuck in {server.task_state}"
        elif server.host not in world.agents:
            continue  # it had come home to a host that died afterwards: that is for evacuate, not for revert
        elif server.vm_state not in (ACTIVE, RESIZED) or running != [server.host]:
            return f"server {server_id} is {server.vm_state} on {server.host} and runs on {running}"
    if cloud.meter.double_runs:
        return f"server {cloud.meter.double_runs[0]} ran twice"
    return ""
