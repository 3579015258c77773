"""A live migration whose guest has gone over while somebody says that it failed: the server is where the guest runs, and no second one is started."""
from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.sim.directed import ask, directed, last_operation, server_of

from virga.agent.fake import FakeHypervisor
from virga.agent.hypervisor import DriverError
from virga.domain.errors import Problem
from virga.domain.operation import DONE, Migration
from virga.domain.server import ACTIVE, ERROR
from virga.ops import front
from virga.sim.world import IMAGE_ID, World


def hosts_of(world: World) -> tuple[str, str]:
    source = server_of(world).host or ""
    return source, next(name for name in world.machines if name != source)


def break_after_handover(world: World, monkeypatch: pytest.MonkeyPatch, error: DriverError | None) -> None:
    """The other host's agent dies before it can tell that the guest has come; with `error` the hypervisor here calls that a failure."""
    _, other = hosts_of(world)
    whole = FakeHypervisor.migrate_live

    async def broken(self: FakeHypervisor, server_id: str, *args: Any) -> None:
        await whole(self, server_id, *args)
        world.kill_agent(other)
        if error is not None:
            raise error

    monkeypatch.setattr(FakeHypervisor, "migrate_live", broken)


LOST = DriverError("the connection to the other libvirt was lost", "failed")


def runs_once(world: World, host: str) -> None:
    assert (server_of(world).host, server_of(world).vm_state) == (host, ACTIVE)
    assert [name for name, machine in world.machines.items() if machine.guests()] == [host]
    assert world.look(lambda tx: tx.find(Migration))[0].status == "completed"


def test_a_tap_that_stays_does_not_make_a_handover_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    @directed()
    async def story(world: World) -> Any:
        source, other = hosts_of(world)
        break_after_handover(world, monkeypatch, None)
        world.machines[source].script.fail["unwire"] = 3
        await ask(world, front.live_migrate)
        await asyncio.sleep(20.0)
        assert not [event.text for event in world.trace.events() if "migrate_live failed" in event.text]
        world.start_agent(other)
        await world.settle(3000.0)
        assert last_operation(world, "live_migrate").state == DONE
        return lambda world: runs_once(world, other)

    story()


def test_what_became_of_the_guest_is_the_other_hosts_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    @directed()
    async def story(world: World) -> Any:
        _, other = hosts_of(world)
        break_after_handover(world, monkeypatch, LOST)
        await ask(world, front.live_migrate)
        await asyncio.sleep(20.0)
        op = last_operation(world, "live_migrate")
        assert server_of(world).vm_state == ACTIVE and f"waiting for {other} to report it running" in op.waiting, op.waiting
        world.start_agent(other)
        await world.settle(3000.0)
        assert last_operation(world, "live_migrate").state == DONE
        return lambda world: runs_once(world, other)

    story()


def test_a_migration_turned_back_too_late_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An administrator turns it back while only the other host could tell; a rebuild is not let start a second guest in between."""
    @directed()
    async def story(world: World) -> Any:
        _, other = hosts_of(world)
        break_after_handover(world, monkeypatch, LOST)
        await ask(world, front.live_migrate)
        await asyncio.sleep(5.0)
        await ask(world, front.reset_state, "error")
        await asyncio.sleep(20.0)
        assert f"waiting for {other} to say whether it runs there" in last_operation(world, "live_migrate").waiting
        with pytest.raises(Problem, match="another operation"):
            await ask(world, front.rebuild, IMAGE_ID)
        assert server_of(world).vm_state == ERROR
        world.start_agent(other)
        await world.settle(3000.0)
        return lambda world: runs_once(world, other)

    story()
