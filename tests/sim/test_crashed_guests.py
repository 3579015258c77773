"""A guest's process dies in the middle of a move, and connections break just before one: the move ends where it was to end, or back where it began."""
from __future__ import annotations

import asyncio
from typing import Any

from tests.sim.directed import ask, directed, do, last_operation, server_of

from virga.domain.operation import CRASHED, DONE, UNDONE, Command, Migration
from virga.domain.placement import Claim
from virga.domain.server import ACTIVE, ERROR, RESIZED, STOPPED
from virga.ops import front
from virga.sim.world import BIG, World


def kill_guest(world: World, host: str, point: str, verb: str, times: int) -> None:
    """Let the guest's process on a host die at a named point of a command, so many times."""
    left = [times]

    def hook(name: str, about: dict[str, Any]) -> None:
        if name == f"{host}:{point}" and about.get("verb") == verb and left[0]:
            left[0] -= 1
            world.machines[host].crash(world.servers[0])

    for env in (world.env, *world.agents.values()):
        env.fault_hook = hook


def hosts_of(world: World) -> tuple[str, str]:
    source = server_of(world).host or ""
    return source, next(name for name in world.machines if name != source)


@directed()
async def test_a_guest_that_dies_on_its_new_host_is_resized_at_the_second_try(world: World) -> None:
    source, other = hosts_of(world)
    kill_guest(world, other, "agent.after_effect", "restore", 1)
    claimed: list[int] = []  # room held for the move on the other host, whenever a guest is about to start there
    env = world.agents[other]
    kill = env.fault_hook
    assert kill is not None

    def watch(name: str, about: dict[str, Any]) -> None:
        if name == f"{other}:agent.before_effect" and about.get("verb") == "restore":
            claimed.append(world.look(lambda tx: tx.count(Claim, host=other, kind="migration")))
        kill(name, about)

    env.fault_hook = watch
    await do(world, front.resize, BIG)
    op = last_operation(world, "resize")
    assert (op.state, op.notes["tries"]) == (DONE, 2)
    assert claimed == [1, 1]
    restores = world.look(lambda tx: tx.find(Command, operation_id=op.id, verb="restore", sort=[("number", False)]))
    assert [command.host for command in restores] == [other, source, other]
    assert len({command.epoch for command in restores}) == 3  # what is said of the way back cannot pass for news of the second way forward
    assert (server_of(world).vm_state, server_of(world).host) == (RESIZED, other)
    await do(world, front.revert)
    assert (server_of(world).vm_state, server_of(world).host) == (ACTIVE, source)


@directed()
async def test_a_guest_that_dies_while_it_is_held_is_reverted_at_the_second_try(world: World) -> None:
    source, _ = hosts_of(world)
    await do(world, front.resize, BIG)
    kill_guest(world, source, "agent.after_effect", "restore", 1)
    await do(world, front.revert)
    op = last_operation(world, "revert")
    assert (op.state, op.notes["tries"]) == (DONE, 2)
    assert (server_of(world).vm_state, server_of(world).host) == (ACTIVE, source)


@directed()
async def test_a_guest_that_dies_before_its_release_is_reverted_at_the_second_try(world: World) -> None:
    source, _ = hosts_of(world)
    await do(world, front.resize, BIG)
    kill_guest(world, source, "agent.before_effect", "release", 1)
    await do(world, front.revert)
    assert last_operation(world, "revert").state == DONE
    assert (server_of(world).vm_state, server_of(world).host) == (ACTIVE, source)


@directed()
async def test_a_guest_that_always_dies_on_the_old_host_leaves_the_server_resized(world: World) -> None:
    source, other = hosts_of(world)
    await do(world, front.resize, BIG)
    kill_guest(world, source, "agent.after_effect", "restore", 99)
    await do(world, front.revert)
    op = last_operation(world, "revert")
    assert (op.state, op.notes["tries"]) == (UNDONE, 3) and "process died" in op.error
    assert (server_of(world).vm_state, server_of(world).host) == (RESIZED, other)
    assert world.machines[source].disk(world.servers[0]) is not None
    assert world.machines[other].guests()[world.servers[0]] == "running"


@directed()
async def test_a_guest_that_dies_on_the_way_back_is_shown_as_it_is_and_not_as_an_error(world: World) -> None:
    """The new host cannot start it, and the old host's guest dies as soon as it is started again: its disk is whole, so the server is merely off."""
    source, other = hosts_of(world)
    world.machines[other].script.fail["launch"] = 1
    kill_guest(world, source, "agent.after_effect", "restore", 1)
    await do(world, front.resize, BIG)
    assert last_operation(world, "resize").state == UNDONE
    assert server_of(world).vm_state != ERROR
    await asyncio.sleep(15.0)
    assert (server_of(world).vm_state, server_of(world).host) == (STOPPED, source)
    assert world.machines[source].guests()[world.servers[0]] == CRASHED
    await do(world, front.start)
    assert server_of(world).vm_state == ACTIVE


# connections that have just broken ------------------------------------------------------------------------------------
@directed()
async def test_a_move_asked_for_while_the_controller_comes_back_waits_for_the_hosts(world: World) -> None:
    _, other = hosts_of(world)
    await asyncio.sleep(100.0)  # the hosts have said hello long ago
    world.kill_controller()
    world.start_controller()
    await ask(world, front.resize, BIG)
    op = last_operation(world, "resize")
    assert "to connect again" in op.waiting and other in op.waiting
    await world.settle(3000.0)
    assert last_operation(world, "resize").state == DONE
    assert server_of(world).host == other


@directed()
async def test_a_move_gives_up_when_no_host_comes_back_in_time(world: World) -> None:
    _, other = hosts_of(world)
    world.kill_agent(other)
    await asyncio.sleep(0.5)
    began = world.env.now()
    await do(world, front.resize, BIG)
    op = last_operation(world, "resize")
    assert op.state == UNDONE and f"{other} down" in op.error and "No valid host" in op.error
    assert 10.0 < world.env.now() - began < 40.0
    assert world.look(lambda tx: tx.find(Migration, server_id=world.servers[0]))[0].status == "error"
    assert server_of(world).vm_state == ACTIVE


@directed(servers=1)
async def test_a_server_is_built_when_an_agent_that_was_away_is_back(world: World) -> None:
    for name in list(world.machines):
        world.kill_agent(name)
    await asyncio.sleep(0.5)
    server_id = await world.boot()
    await asyncio.sleep(3.0)
    assert server_of(world, 1).vm_state == "building"
    for name in world.machines:
        world.start_agent(name)
    await world.settle(3000.0)
    assert server_of(world, 1).id == server_id and server_of(world, 1).vm_state == ACTIVE
