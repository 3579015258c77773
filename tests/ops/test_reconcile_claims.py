"""Room that a move still holds although it is over goes back, but not while its server is in ERROR (seed 1133 of an early simulator found it)."""
from __future__ import annotations

import pytest
from tests.ops.five import world_of

from virga.domain.operation import Migration
from virga.domain.placement import Claim
from virga.domain.server import ACTIVE, ERROR, Server
from virga.ops.reconcile import drop_claims
from virga.sim.loop import SimLoop


@pytest.mark.parametrize(("vm_state", "status", "stays"), [(ACTIVE, "error", False), (ERROR, "error", True), (ACTIVE, "finished", True)])
def test_room_of_a_move_that_is_over_is_given_back(vm_state: str, status: str, stays: bool) -> None:
    world = world_of()

    async def main() -> None:
        world.start()
        await world.hosts_up()
        server_id = world.servers[0]
        await world.run(lambda tx: tx.insert(Migration("m-1", 900, server_id, "p", "u", "resize", status, "host-1", "host-2")))
        await world.run(lambda tx: tx.put(Claim("host-1", "m-1", "migration", server_id, 1, 512, 1)))
        await world.run(lambda tx: tx.update(Server, server_id, vm_state=vm_state))
        await world.run(drop_claims)
        assert bool(world.look(lambda tx: tx.get(Claim, "host-1", "m-1"))) is stays
        world.stop()

    SimLoop(1).run(main)
