"""Every operation under the five tests of tests/ops/five.py. A procedure without a scenario here fails `test_every_procedure_is_here`."""
from __future__ import annotations

from typing import Any

import pytest
from tests.ops.five import Scenario, each_step_fails, happy, killed_everywhere, steps_twice

from virga.domain.image import new_image_row
from virga.domain.placement import Host
from virga.domain.server import Server
from virga.ops import front
from virga.ops.procedure import PROCEDURES
from virga.sim.world import BIG, NETWORK_ID, World


async def running(world: World) -> str:
    return world.servers[0]


async def resized(world: World) -> str:
    await world.act(world.servers[0], lambda tx, ask, server: front.resize(tx, ask, server, BIG))
    await world.settle()
    return world.servers[0]


def after(*actions: str) -> Any:
    async def before(world: World) -> str:
        for name in actions:
            await world.act(world.servers[0], getattr(front, name))
            await world.settle()
        return world.servers[0]

    return before


def ask_for(name: str, *args: Any) -> Any:
    async def ask(world: World, server_id: str) -> None:
        await world.act(server_id, lambda tx, ask, server: getattr(front, name)(tx, ask, server, *args))

    return ask


async def nothing_yet(world: World) -> str:
    return world.env.new_id()


async def boot(world: World, server_id: str) -> None:
    server = Server(server_id, "project-1", "user-1", "late", BIG)
    world.servers.append(server_id)
    await world.run(lambda tx: front.boot(tx, world.ask(), server, [front.NicRequest(network_id=NETWORK_ID)]))


async def into_image(world: World, server_id: str, verb: str = "snapshot") -> None:
    image_id = world.env.new_id()

    def closure(tx: Any) -> None:
        tx.insert(new_image_row(image_id, "project-1", tx.now, name="copy", disk_format="raw"))
        getattr(front, verb)(tx, world.ask(), tx.need(Server, server_id), image_id)

    await world.run(closure)


async def shelve(world: World, server_id: str) -> None:
    await into_image(world, server_id, "shelve")


async def shelved(world: World) -> str:
    await shelve(world, world.servers[0])
    await world.settle()
    return world.servers[0]


async def attach(world: World, server_id: str) -> None:
    await world.act(server_id, lambda tx, ask, server: front.attach_interface(tx, ask, server, front.NicRequest(network_id=NETWORK_ID)))


async def detach(world: World, server_id: str) -> None:
    from virga.domain.port import Port

    port = world.look(lambda tx: tx.find(Port, device_id=server_id)[0])
    await world.act(server_id, lambda tx, ask, server: front.detach_interface(tx, ask, server, port.id))


async def host_dead(world: World) -> str:
    server = world.look(lambda tx: tx.need(Server, world.servers[0]))
    world.power_cut(server.host or "")
    await world.env.sleep(1.0)
    await world.run(lambda tx: front.set_host_forced_down(tx, tx.need(Host, server.host), True))
    return world.servers[0]


SCENARIOS = [
    Scenario("boot", nothing_yet, boot, forward_only=True),  # a failed build leaves the server, in ERROR
    Scenario("delete", running, ask_for("delete"), forward_only=True),
    Scenario("start", after("stop"), ask_for("start"), forward_only=True),
    Scenario("stop", running, ask_for("stop"), forward_only=True),
    Scenario("reboot", running, ask_for("reboot", True), forward_only=True),
    Scenario("pause", running, ask_for("pause"), forward_only=True),
    Scenario("unpause", after("pause"), ask_for("unpause"), forward_only=True),
    Scenario("suspend", running, ask_for("suspend"), forward_only=True),
    Scenario("resume", after("suspend"), ask_for("resume"), forward_only=True),
    Scenario("rescue", running, ask_for("rescue"), forward_only=True),
    Scenario("unrescue", after("rescue"), ask_for("unrescue"), forward_only=True),
    Scenario("rebuild", running, ask_for("rebuild", "image-1"), forward_only=True),
    Scenario("resize", running, ask_for("resize", BIG)),
    Scenario("confirm", resized, ask_for("confirm")),
    Scenario("revert", resized, ask_for("revert")),
    Scenario("live_migrate", running, ask_for("live_migrate")),
    Scenario("evacuate", host_dead, ask_for("evacuate"), forward_only=True),
    Scenario("attach_interface", running, attach, forward_only=True),
    Scenario("detach_interface", running, detach, forward_only=True),
    Scenario("snapshot", running, into_image, forward_only=True),
    Scenario("shelve", running, shelve, forward_only=True),
    Scenario("shelve_offload", shelved, ask_for("shelve_offload"), forward_only=True),
    Scenario("unshelve", shelved, ask_for("unshelve"), forward_only=True),
]
IDS = [scenario.kind for scenario in SCENARIOS]


def test_every_procedure_is_here() -> None:
    assert sorted(IDS) == sorted(PROCEDURES)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=IDS)
def test_happy(scenario: Scenario) -> None:
    happy(scenario)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=IDS)
def test_each_step_twice(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    steps_twice(scenario, monkeypatch)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=IDS)
def test_each_step_fails_and_nothing_is_left(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    each_step_fails(scenario, monkeypatch, undo_twice=False)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=IDS)
def test_each_undo_twice(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    each_step_fails(scenario, monkeypatch, undo_twice=True)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=IDS)
def test_killed_before_and_after_each_commit_and_effect(scenario: Scenario) -> None:
    assert killed_everywhere(scenario) >= 4


def test_a_build_that_fails_on_one_host_comes_up_on_another() -> None:
    from tests.ops.five import play

    from virga.domain.server import ACTIVE

    async def ask(world: World, server_id: str) -> None:
        for name in world.machines:
            world.machines[name].script.fail["launch"] = 1 if name == "host-2" else 0
        await boot(world, server_id)

    seen: list[Server] = []
    operations = play(Scenario("boot", nothing_yet, ask), after=lambda world, server_id: seen.append(world.look(lambda tx: tx.need(Server, server_id))))
    assert (seen[0].vm_state, seen[0].host, seen[0].fault) == (ACTIVE, "host-1", None)
    assert operations[0].notes["tried"].keys() == {"host-2"}


def test_a_build_that_fails_everywhere_says_so_host_by_host() -> None:
    from tests.ops.five import play

    async def ask(world: World, server_id: str) -> None:
        for machine in world.machines.values():
            machine.script.fail["launch"] = 9
        await boot(world, server_id)

    seen: list[Server] = []
    play(Scenario("boot", nothing_yet, ask), after=lambda world, server_id: seen.append(world.look(lambda tx: tx.need(Server, server_id))))
    assert seen[0].vm_state == "error" and seen[0].host is None and seen[0].fault is not None
    for host in ("host-1", "host-2"):
        assert seen[0].fault.message.count(f"{host}: ") == 1, seen[0].fault.message
