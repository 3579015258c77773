"""The five tests every operation gets for free (house rule 8), as functions over one scenario.

A `Scenario` says how to bring a server to where the operation may begin and how to ask for it. The five: happy; each step twice (controller's `do` and
agent's verb); each step fails, and nothing is left; each undo twice; kill -9 of the controller before and after each of its commits, and of each agent
before and after each effect. Each run ends with the whole judgement of the simulator (sim/invariants.py).
"""
from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from virga.agent.fake import Script
from virga.agent.session import Agent
from virga.domain.operation import DONE, OPEN, UNDONE, Operation
from virga.domain.placement import Claim
from virga.domain.port import Binding
from virga.domain.server import Server
from virga.ops import procedure
from virga.sim.explorer import prepare
from virga.sim.invariants import Broken, check_calm, check_rows
from virga.sim.loop import SimLoop
from virga.sim.world import World

SNAPSHOT = None


@dataclasses.dataclass(frozen=True)
class Scenario:
    """`before(world)` returns the server to act on; `ask(world, server_id)` asks for the operation once."""

    kind: str
    before: Callable[[World], Awaitable[str]]
    ask: Callable[[World, str], Awaitable[Any]]
    forward_only: bool = False  # a failure is not undone but shown (delete, confirm, power)


def world_of(hook: Any = None, seed: int = 7) -> World:
    global SNAPSHOT
    if SNAPSHOT is None:
        SNAPSHOT = prepare(1, 2)
    world = World(seed, 2, snapshot=SNAPSHOT, script=Script(delay_s={"launch": 0.02, "stop": 0.02, "wire": 0.005}))
    world.env.fault_hook = hook
    return world


def play(scenario: Scenario, *, hook: Callable[[World], Any] | None = None, after: Callable[[World, str], None] | None = None) -> list[Operation]:
    """Run a scenario to its calm and judge it; returns the operations of its kind, oldest first."""
    world = world_of()
    found: list[Operation] = []

    async def main() -> None:
        world.start()
        await world.hosts_up()
        server_id = await scenario.before(world)
        await world.settle()
        await asyncio.sleep(1.0)
        if hook is not None:
            # from here on: the hook is copied into every process, as a process would be started with it
            for env in (world.env, world.controller, *world.agents.values()):
                if env is not None:
                    env.fault_hook = hook(world)
        try:
            await scenario.ask(world, server_id)
        except ConnectionError:
            pass
        await asyncio.sleep(0.3)
        keeper = asyncio.get_running_loop().create_task(_restart(world), name="keeper")
        try:
            await world.settle(2000.0)
        except TimeoutError:
            pass
        await asyncio.sleep(1.0)
        try:
            world.look(lambda tx: check_calm(tx, world.machines))
        except Broken:
            await asyncio.sleep(120.0)  # reconcilers and redials
        if world.watch.broken is not None:
            raise world.watch.broken
        world.look(check_rows)
        world.look(lambda tx: check_calm(tx, world.machines))
        found.extend(world.look(lambda tx: tx.find(Operation, kind=scenario.kind, server_id=server_id, sort=[("started_at", False)])))
        if after is not None:
            after(world, server_id)
        keeper.cancel()
        world.stop()

    SimLoop(7).run(main)
    return found


async def _restart(world: World) -> None:
    """What an init system does: start again what is dead."""
    while True:
        for name in world.machines:
            if name not in world.agents:
                world.start_agent(name)
        if world.controller is None:
            world.start_controller()
        await asyncio.sleep(0.3)


def happy(scenario: Scenario) -> None:
    operations = play(scenario)
    assert [op.state for op in operations] == [DONE], operations


def steps_twice(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    table = procedure.PROCEDURES[scenario.kind]

    def twice(do: procedure.Do) -> procedure.Do:
        def both(run: procedure.Run) -> None:
            do(run)
            run._commands = 0
            do(run)

        return both

    steps = tuple(dataclasses.replace(step, do=twice(step.do)) for step in table.steps)
    monkeypatch.setitem(procedure.PROCEDURES, scenario.kind, dataclasses.replace(table, steps=steps))
    original = Agent._do

    async def verb_twice(self: Agent, do: Any) -> None:
        verb = self.hands.verbs.get(do.verb)
        if verb is not None and do.verb not in ("snapshot",):
            record = self._records.get(do.server_id)
            if record is not None and do.epoch >= record.epoch:
                await verb(record, do.args)
        await original(self, do)

    monkeypatch.setattr(Agent, "_do", verb_twice)
    operations = play(scenario)
    assert [op.state for op in operations] == [DONE], operations


def each_step_fails(scenario: Scenario, monkeypatch: pytest.MonkeyPatch, *, undo_twice: bool) -> None:
    """Step after step is made to fail once, before the pivot; afterwards the cloud holds what it held before."""
    table = procedure.PROCEDURES[scenario.kind]
    for index in range(len(table.steps) - 1 if len(table.steps) > 1 else 0):
        failing = dataclasses.replace(table.steps[index], until=lambda run: procedure.failed("failed on purpose"))
        steps = list(table.steps)
        steps[index] = failing
        if undo_twice:
            steps = [dataclasses.replace(step, undo=_undo_twice(step.undo)) if not isinstance(step.undo, str) else step for step in steps]
        monkeypatch.setitem(procedure.PROCEDURES, scenario.kind, dataclasses.replace(table, steps=tuple(steps)))
        before: dict[str, Any] = {}

        def hook(world: World, before: dict[str, Any] = before) -> None:
            before.update(holdings(world))

        def compare(world: World, server_id: str, before: dict[str, Any] = before, name: str = table.steps[index].name) -> None:
            server = world.look(lambda tx: tx.need(Server, server_id))
            if not scenario.forward_only:
                assert holdings(world) == before, f"after {scenario.kind} failed at {name}"
            assert server.operation_id is None and server.task_state is None

        operations = play(scenario, hook=hook, after=compare)
        assert operations[-1].state in (UNDONE, DONE), (table.steps[index].name, operations[-1].error)
        assert operations[-1].state == UNDONE or scenario.forward_only, table.steps[index].name
    monkeypatch.undo()


def _undo_twice(undo: procedure.Do) -> procedure.Do:
    def both(run: procedure.Run) -> None:
        undo(run)
        run._commands = 0
        undo(run)

    return both


def holdings(world: World) -> dict[str, Any]:
    """What the cloud holds: claims, binding hosts, guests and disks (not their bytes: a guest that is started again writes)."""
    machines = {name: (machine.guests(), sorted(machine.journal.find("disk/"))) for name, machine in world.machines.items()}
    claims = world.look(lambda tx: sorted((claim.host, claim.server_id, claim.ram_mb) for claim in tx.find(Claim)))
    bindings = world.look(lambda tx: sorted((binding.port_id, binding.host, binding.state) for binding in tx.find(Binding)))
    return {"machines": machines, "claims": claims, "bindings": bindings}


def killed_everywhere(scenario: Scenario) -> int:
    """kill -9 at every commit and every effect of the happy run, one run each; returns how many runs that were."""
    points: list[str] = []

    def watch(world: World) -> Any:
        return lambda name, about: points.append(name) if _may_kill(name) else None

    play(scenario, hook=watch)
    runs = 0
    for index in range(len(points)):
        seen = {"count": 0}

        def killer(world: World, seen: dict[str, int] = seen, index: int = index) -> Any:
            def hook(name: str, about: dict[str, Any]) -> None:
                if not _may_kill(name):
                    return
                seen["count"] += 1
                if seen["count"] == index + 1:
                    host = name.partition(":")[0]
                    if host == "controller":
                        world.kill_controller()
                    else:
                        world.kill_agent(host)

            return hook

        operations = play(scenario, hook=killer)
        assert not operations or operations[-1].state not in OPEN
        assert not operations or operations[-1].state == DONE or scenario.forward_only, (points[index], operations[-1].state, operations[-1].error)
        runs += 1
    return runs


def _may_kill(name: str) -> bool:
    return name.endswith(("db.before_commit", "db.after_commit", "agent.before_effect", "agent.after_effect", "agent.half_journaled", "agent.before_report",
                          "agent.wired_not_started"))
