"""The step engine by itself: deadlines and policies, patience, leases, broken logs, and a bug that stays where it is."""
from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from virga.agent.fake import Script
from virga.domain.config import Compute, Config
from virga.domain.operation import DONE, FAILED, RUNNING, UNDONE, BrokenLog, Operation, Step, check_move
from virga.domain.placement import Host
from virga.domain.server import ACTIVE, ERROR, RESIZED, Server
from virga.ops import front, procedure
from virga.ops.engine import Engine
from virga.sim.loop import SimLoop
from virga.sim.runner import snapshot_of
from virga.sim.world import BIG, World

COMPUTE = Compute(operation_timeout=60.0, vif_plugging_timeout=30.0, copy_timeout=120.0, fence_timeout=600.0, shelved_offload_time=-1.0)


def story(told: Callable[[World], Awaitable[None]], compute: Compute = COMPUTE, servers: int = 1, hosts: int = 2) -> World:
    """Tell a story in a fresh world; returns the world, whose rows can still be looked at."""
    world = World(11, hosts, snapshot=snapshot_of(servers, hosts), config=Config(compute=compute),
                  script=Script(delay_s={"launch": 0.02, "stop": 0.02, "wire": 0.005}))

    async def main() -> None:
        world.start()
        await world.hosts_up()
        await told(world)
        world.stop()

    SimLoop(11).run(main)
    return world


def server_of(world: World, place: int = 0) -> Server:
    return world.look(lambda tx: tx.need(Server, world.servers[place]))


def operations(world: World, kind: str) -> list[Operation]:
    return world.look(lambda tx: tx.find(Operation, kind=kind, sort=[("started_at", False)]))


async def resize(world: World, place: int = 0) -> None:
    await world.act(world.servers[place], lambda tx, ask, server: front.resize(tx, ask, server, BIG))


def other(world: World) -> str:
    return next(name for name in world.machines if name != server_of(world).host)


def with_wire(delay_s: float, **options: Any) -> tuple[Operation, Server, float]:
    """One resize to a host whose wiring takes `delay_s`; how it ended, the server, and how long it took."""
    took: list[float] = []

    async def told(world: World) -> None:
        world.machines[other(world)].script.delay_s["wire"] = delay_s
        began = world.env.monotonic()
        await resize(world)
        await world.settle()
        took.append(world.env.monotonic() - began)
        ended.append((operations(world, "resize")[0], server_of(world)))

    ended: list[tuple[Operation, Server]] = []
    story(told, msgspec.structs.replace(COMPUTE, **options))
    return *ended[0], took[0]


def test_a_port_that_is_not_wired_in_time_undoes_the_move_and_says_which() -> None:
    op, server, took = with_wire(500.0, vif_plugging_is_fatal=True)
    assert op.state == UNDONE and "port" in op.error and server.vm_state == ACTIVE and 29.0 < took < 120.0
    assert server.fault is not None and server.fault.message


def test_a_slow_port_within_its_time_is_no_fault() -> None:
    op, server, _ = with_wire(20.0, vif_plugging_is_fatal=True)
    assert op.state == DONE and server.vm_state == RESIZED


def test_without_fatal_plugging_the_guest_starts_unwired_after_the_timeout() -> None:
    op, server, took = with_wire(45.0, vif_plugging_is_fatal=False)
    assert op.state == DONE and server.vm_state == RESIZED and took < 40.0


def test_a_plugging_timeout_of_zero_means_no_limit_of_its_own() -> None:
    op, server, _ = with_wire(40.0, vif_plugging_timeout=0.0)
    assert op.state == DONE and server.vm_state == RESIZED


def test_a_revert_waits_for_a_fence_with_a_name_and_goes_on_when_it_comes() -> None:
    """D dies in the middle of a revert: S must not start before somebody answers for D."""
    async def told(world: World) -> None:
        await resize(world)
        await world.settle()
        dest = server_of(world).host or ""
        world.power_cut(dest)
        await world.env.sleep(0.05)
        await world.act(world.servers[0], front.revert)
        await world.env.sleep(100.0)
        op = operations(world, "revert")[0]
        assert op.state == RUNNING and "sure that nothing runs on " + dest in op.waiting and "operator" in op.waiting
        assert op.deadline_at is not None and op.deadline_at > world.env.now()
        await world.run(lambda tx: front.set_host_forced_down(tx, tx.need(Host, dest), True))
        await world.settle()
        assert (server_of(world).vm_state, operations(world, "revert")[0].state) == (ACTIVE, DONE)

    story(told)


def test_patience_has_an_end_too() -> None:
    async def told(world: World) -> None:
        await resize(world)
        await world.settle()
        world.power_cut(server_of(world).host or "")
        await world.env.sleep(0.05)
        await world.act(world.servers[0], front.revert)
        await world.env.sleep(COMPUTE.fence_timeout + 200.0)
        op = operations(world, "revert")[0]
        assert op.state != RUNNING and "gave up after" in op.error

    story(told)


def test_another_controller_takes_over_when_the_lease_has_run_out() -> None:
    async def told(world: World) -> None:
        world.machines[other(world)].script.delay_s["fetch"] = 3.0
        await resize(world)
        await asyncio.sleep(1.0)
        first = operations(world, "resize")[0]
        assert first.owner == "controller"
        world.kill_controller()
        world.start_controller()
        assert world.engine is not None
        world.engine.name = "second"
        await world.settle()
        last = operations(world, "resize")[0]
        assert last.state == DONE and last.owner == "second"
        assert (last.ended_at or 0.0) >= first.lease_until, "not before the first one's lease was over"

    story(told)


def test_a_live_lease_is_respected() -> None:
    """Two engines look at the same operations: whoever took one first keeps it to its end."""
    async def told(world: World) -> None:
        assert world.controller is not None and world.db is not None
        second = Engine(world.controller, world.db, world.trace, world.config, "second")
        world.controller.spawn(second.run(), "second")
        for place in range(4):
            await resize(world, place)
        owners: dict[str, set[str]] = {}
        while any(op.state == RUNNING for op in operations(world, "resize")):
            for op in operations(world, "resize"):
                owners.setdefault(op.id, set()).add(op.owner)
            await asyncio.sleep(0.002)
        assert second.looks > 0 and all(len(names - {""}) == 1 for names in owners.values()), owners
        assert [op.state for op in operations(world, "resize")] == [DONE] * 4

    story(told, servers=5)


def test_a_log_that_cannot_be_stops_its_operation_loudly_and_nobody_elses() -> None:
    async def told(world: World) -> None:
        for place in (0, 1):
            world.machines[f"host-{place + 1}"].script.delay_s["fetch"] = 1.0
            await resize(world, place)
        await asyncio.sleep(0.3)
        bad, good = operations(world, "resize")

        def break_it(tx: Any) -> None:
            tx.update(Step, bad.id, tx.need(Operation, bad.id).position, state="undone")

        await world.run(break_it)
        await world.settle()
        states = {op.id: op for op in operations(world, "resize")}
        assert states[bad.id].state == FAILED and "cannot go from undone" in states[bad.id].error
        assert states[good.id].state == DONE
        broken = world.look(lambda tx: tx.need(Server, bad.server_id))
        assert broken.vm_state == ERROR and broken.fault is not None

    story(told, servers=5)


def test_a_bug_in_one_procedure_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    table = procedure.PROCEDURES["stop"]

    def trips(run: procedure.Run) -> procedure.Verdict:
        if run.guest(run.server.host or "") is not None:
            raise ZeroDivisionError("a bug")
        return procedure.waiting("waiting for nothing")

    buggy = dataclasses.replace(table, steps=(dataclasses.replace(table.steps[0], until=trips), *table.steps[1:]))
    monkeypatch.setitem(procedure.PROCEDURES, "stop", buggy)

    async def told(world: World) -> None:
        await world.act(world.servers[0], front.stop)
        await resize(world, 1)
        await asyncio.sleep(30.0)
        assert operations(world, "resize")[0].state == DONE
        assert operations(world, "stop")[0].state == RUNNING
        faults = [event for event in world.trace.events() if "a bug" in event.text]
        assert 1 < len(faults) < 40, "told each time the timer looks again, and not in a busy loop"
        monkeypatch.setitem(procedure.PROCEDURES, "stop", table)
        await world.settle()
        assert operations(world, "stop")[0].state == DONE, "mended, it goes on where it was"

    story(told, servers=5)


def test_steps_move_only_as_their_table_says() -> None:
    for old, new in ((None, "done"), ("done", "begun"), ("undone", "begun"), ("undo-begun", "done"), ("failed", "done"), ("nonsense", "done")):
        with pytest.raises(BrokenLog):
            check_move(old, new)
    check_move(None, "begun")
    check_move("begun", "undo-begun")


def test_hints_may_be_lost() -> None:
    """An engine that hears nothing at all still takes every operation to its end by looking now and then."""
    class Deaf(Engine):
        def _heard(self, hints: Any) -> None:
            if any(hint.startswith("opened:") for hint in hints):
                super()._heard([hint for hint in hints if hint.startswith("opened:")])

    async def main() -> None:
        world.start()
        await world.hosts_up()
        await resize(world)
        await world.settle(200.0)
        assert operations(world, "resize")[0].state == DONE
        world.stop()

    world = World(1, 2, snapshot=snapshot_of(1, 2), engine=Deaf, script=Script(delay_s={"launch": 0.02}))
    SimLoop(1).run(main)
