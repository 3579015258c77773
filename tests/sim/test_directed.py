"""Stories the random workload has told once, kept: each was a bug, its name is what holds now."""
from __future__ import annotations

import asyncio

from tests.sim.directed import ask, directed, do, last_operation, server_of

from virga.domain.operation import DONE, UNDONE, Command
from virga.domain.placement import Host
from virga.domain.port import Port
from virga.domain.server import ACTIVE, ERROR
from virga.ops import front
from virga.sim.world import BIG, IMAGE_ID, World


@directed()
async def test_a_command_dropped_for_a_newer_one_is_answered(world: World) -> None:
    """The source hands its guest over, is slow to unplug, and is already asked to take the guest back: the old command must leave the outbox."""
    source = server_of(world).host or ""
    world.machines[source].script.delay_s["unwire"] = 0.5
    await do(world, front.live_migrate)
    await do(world, front.resize, BIG)
    assert world.look(lambda tx: tx.count(Command, state="pending", host=source)) == 0


@directed()
async def test_a_tap_that_could_not_be_unplugged_goes_later(world: World) -> None:
    source = server_of(world).host or ""
    world.machines[source].script.fail["unwire"] = 1
    await do(world, front.resize, BIG)
    assert world.machines[source].journal.find("tap/")


@directed()
async def test_a_tap_made_by_a_command_that_died_with_its_agent_goes(world: World) -> None:
    """The agent dies between wiring and starting a guest; the server is deleted before the agent is back."""
    server_id = await world.boot()
    await asyncio.sleep(0.012)
    host = server_of(world, 1).host or ""
    world.kill_agent(host)
    assert len(world.machines[host].journal.find("tap/")) > len(world.machines[host].guests())
    await world.act(server_id, front.delete)


@directed()
async def test_a_rebuild_that_failed_is_not_taken_for_done_because_the_old_guest_runs(world: World) -> None:
    host = server_of(world).host or ""
    world.machines[host].script.fail["stop"] = 1
    await do(world, front.rebuild, IMAGE_ID)
    assert last_operation(world, "rebuild").state == UNDONE
    assert server_of(world).vm_state == ERROR


@directed()
async def test_a_reboot_that_failed_says_so(world: World) -> None:
    world.machines[server_of(world).host or ""].script.fail["stop"] = 1
    await do(world, front.reboot, True)
    assert last_operation(world, "reboot").state == UNDONE
    assert server_of(world).vm_state == ACTIVE


@directed()
async def test_an_administrators_reset_turns_a_move_back(world: World) -> None:
    """Half a move has guests and disks on two hosts; what the reset leaves is one of them, and nothing of the other."""
    source = server_of(world).host
    await ask(world, front.resize, BIG)
    await asyncio.sleep(0.05)
    await ask(world, front.reset_state, "error")
    assert server_of(world).vm_state == ERROR and server_of(world).task_state is None
    await world.settle()
    assert last_operation(world, "resize").state == UNDONE
    assert (server_of(world).host, server_of(world).vm_state) == (source, ERROR)
    await do(world, front.reboot, True)
    assert server_of(world).vm_state == ACTIVE


@directed()
async def test_a_card_is_detached_even_if_its_tap_has_to_be_removed_later(world: World) -> None:
    server = server_of(world)
    port = world.look(lambda tx: tx.find(Port, device_id=server.id)[0])
    world.machines[server.host or ""].script.fail["unwire"] = 1
    await do(world, front.detach_interface, port.id)
    assert last_operation(world, "detach_interface").state == DONE
    assert world.machines[server.host or ""].journal.find("tap/")


@directed()
async def test_a_card_detached_while_its_host_was_away_goes_when_the_host_is_back(world: World) -> None:
    """The operation did not wait for the host, so there is nobody left to ask again when it fails there (seed 9602)."""
    server = server_of(world)
    port = world.look(lambda tx: tx.find(Port, device_id=server.id)[0])
    host = server.host or ""
    world.kill_agent(host)
    await world.env.sleep(1.0)
    await do(world, front.detach_interface, port.id)
    assert last_operation(world, "detach_interface").state == DONE
    world.machines[host].script.fail["detach_nic"] = 3
    world.start_agent(host)
    await world.env.sleep(60.0)
    assert world.machines[host].journal.find("tap/") == {} and world.machines[host].guests() == {server.id: "running"}


@directed()
async def test_a_purge_under_way_is_not_dropped_and_no_old_disk_comes_back(world: World) -> None:
    """After resize and revert the other host is still deleting its copy when the server is evacuated to it."""
    source, other = server_of(world).host or "", next(name for name in world.machines if name != server_of(world).host)
    world.machines[other].script.delay_s["discard"] = 40.0
    await do(world, front.resize, BIG)
    world.machines[other].write(world.servers[0], b"given up by the revert")
    await do(world, front.revert)
    world.power_cut(source)
    await world.env.sleep(0.5)
    await world.run(lambda tx: front.set_host_forced_down(tx, tx.need(Host, source), True))
    await do(world, front.evacuate)
    assert server_of(world).host == other
    assert b"given up" not in (world.machines[other].disk(world.servers[0]) or b"")
