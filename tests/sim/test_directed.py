"""Stories the random workload has told once, kept: each was a bug, its name is what holds now."""
from __future__ import annotations

from tests.sim.directed import directed, do, server_of

from virga.domain.operation import Command
from virga.ops import front
from virga.sim.world import BIG, World


@directed()
async def test_a_command_dropped_for_a_newer_one_is_answered(world: World) -> None:
    """The source hands its guest over, is slow to unplug, and is already asked to take the guest back: the old command must leave the outbox."""
    source = server_of(world).host or ""
    world.machines[source].script.delay_s["unwire"] = 0.5
    await do(world, front.live_migrate)
    await do(world, front.resize, BIG)
    assert world.look(lambda tx: tx.count(Command, state="pending", host=source)) == 0
