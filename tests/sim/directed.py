"""`@directed`: a test that is a short story in the simulated cloud, told by an async function that gets the world.

When the story is told, everything is mended, every operation must end, and the whole judgement of the simulator is passed; the story may return a
function that is called with the world after that.
"""
from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

from virga.agent.fake import Script
from virga.domain.operation import Operation
from virga.domain.server import Server
from virga.sim.faults import USUAL_DELAYS_S, Breaker
from virga.sim.invariants import check_calm, check_rows
from virga.sim.loop import SimLoop
from virga.sim.runner import snapshot_of
from virga.sim.world import World

Story = Callable[[World], Awaitable[Any]]


def directed(*, hosts: int = 2, servers: int = 1, calm_s: float = 150.0, seed: int = 7) -> Callable[[Story], Callable[[], None]]:
    """Make a test of a story."""
    def made(story: Story) -> Callable[[], None]:
        @functools.wraps(story)
        def test() -> None:
            world = World(seed, hosts, snapshot=snapshot_of(servers, hosts), script=Script(delay_s=dict(USUAL_DELAYS_S)))

            async def main() -> None:
                world.start()
                await world.hosts_up()
                after = await story(world)
                await Breaker(world).mend_all()
                await world.settle(3000.0)
                await asyncio.sleep(calm_s)
                if world.watch.broken is not None:
                    raise world.watch.broken
                world.look(check_rows)
                world.look(lambda tx: check_calm(tx, world.machines))
                if after is not None:
                    after(world)
                world.stop()

            SimLoop(seed).run(main)

        del test.__wrapped__  # pytest would look for a fixture called world
        return test

    return made


def server_of(world: World, place: int = 0) -> Server:
    return world.look(lambda tx: tx.need(Server, world.servers[place]))


def last_operation(world: World, kind: str, place: int = 0) -> Operation:
    found = world.look(lambda tx: tx.find(Operation, server_id=world.servers[place], kind=kind, sort=[("epoch", True)], limit=1))
    return found[0]


async def do(world: World, what: Callable[..., Any], *args: Any, place: int = 0) -> None:
    """Ask for an operation on a server, and wait for its end."""
    await ask(world, what, *args, place=place)
    await world.settle(3000.0)


async def ask(world: World, what: Callable[..., Any], *args: Any, place: int = 0) -> None:
    await world.act(world.servers[place], lambda tx, ask, server: what(tx, ask, server, *args))
