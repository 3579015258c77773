"""`virga explain` on a server that is truly stuck: a host gone in the middle of a revert, wiring that never comes, and an operator's word.

The cloud runs in this process, so that one host of it can be killed alone; the command's own client talks to it over HTTP.
"""
from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from virga.cli_client import Client, find_login
from virga.cli_draw import diagram_of
from virga.cli_explain import page, waiting_lines
from virga.domain.config import Compute, Config
from virga.serve import LiveCloud

Story = Callable[[LiveCloud, Client], Awaitable[None]]


def with_cloud(folder: Path, story: Story, **options: Any) -> None:
    async def work() -> None:
        cloud = LiveCloud(Config(state=str(folder), listen="127.0.0.1:0", argon2_memory_kib=8, argon2_passes=1, **options), say=lambda text: None)
        await cloud.start()
        try:
            await cloud.hosts_ready()
            async with Client(find_login(str(folder))) as client:
                await story(cloud, client)
        finally:
            await cloud.stop()

    asyncio.run(work())


async def create(client: Client, name: str) -> str:
    image = (await client.get("image", "/v2/images"))["images"][0]["id"]
    network = (await client.get("network", "/v2.0/networks?name=private"))["networks"][0]["id"]
    body = {"name": name, "flavorRef": "1", "imageRef": image, "networks": [{"uuid": network}]}
    return str((await client.post("compute", "/servers", {"server": body}))["server"]["id"])


async def until(client: Client, server_id: str, status: str) -> dict[str, Any]:
    for _ in range(500):
        server: dict[str, Any] = (await client.get("compute", f"/servers/{server_id}"))["server"]
        if server["status"] == status and server["OS-EXT-STS:task_state"] is None:
            return server
        await asyncio.sleep(0.02)
    raise AssertionError(f"{server_id} is {server['status']}/{server['OS-EXT-STS:task_state']}, not {status}")


async def explained(client: Client, server_id: str) -> str:
    told = (await client.get("virga", f"/servers/{server_id}/explain"))["explanation"]
    return "\n".join([*page(told), *waiting_lines(told)])


async def waits_for(client: Client, server_id: str, text: str) -> str:
    for _ in range(250):
        shown = await explained(client, server_id)
        if text in shown:
            return shown
        await asyncio.sleep(0.02)
    raise AssertionError(f"{text!r} does not come up in:\n{shown}")


def test_a_server_being_built_says_who_has_to_act(tmp_path: Path) -> None:
    async def story(cloud: LiveCloud, client: Client) -> None:
        for machine in cloud.machines.values():
            machine.script.delay_s["wire"] = 3600.0
        server_id = await create(client, "building")
        shown = await waits_for(client, server_id, "step spawn waits since")
        assert "boot is under way since" in shown
        assert re.search(r"waits since .*, deadline \d\d:\d\d:\d\d", shown)
        assert re.search(r"for host-\d to report the guest running", shown)
        assert re.search(r"for host-\d to report port \w+ \(binding host-\d, generation 1\) wired", shown)
        assert re.search(r"host-\d has to answer the command 'create' \(queued .* ago, the host is connected\)", shown)
        assert "it undoes spawn, place" in shown
        assert "<- differs" in shown
        drawn = (await diagram_of(client, server_id, "building")).text(200)
        assert "now: still under way" in drawn
        assert "create" in drawn
        await client.call("DELETE", "compute", f"/servers/{server_id}")
        shown = await waits_for(client, server_id, "last operation: delete, done")
        assert "it was deleted" in shown

    with_cloud(tmp_path, story)


def test_a_revert_whose_other_host_is_gone_waits_until_an_operator_fences_it(tmp_path: Path) -> None:
    async def story(cloud: LiveCloud, client: Client) -> None:
        server_id = await create(client, "stuck")
        home = (await until(client, server_id, "ACTIVE"))["OS-EXT-SRV-ATTR:host"]
        await client.post("compute", f"/servers/{server_id}/action", {"resize": {"flavorRef": "4"}})
        away = (await until(client, server_id, "VERIFY_RESIZE"))["OS-EXT-SRV-ATTR:host"]
        next(env for env in cloud._host_envs if env.name == away).kill()
        await waits_for(client, server_id, f"{away}: NOT CONNECTED")
        await client.post("compute", f"/servers/{server_id}/action", {"revertResize": None})

        # home has done its part; nobody can promise that nothing runs on the lost host
        shown = await waits_for(client, server_id, "guest started, held before its first instruction")
        assert "revert is under way since" in shown
        assert f"waiting to be sure that nothing runs on {away}" in shown
        assert f"openstack compute service set --down {away} nova-compute" in shown
        assert f"the command 'retire' lies in the outbox for {away}" in shown
        assert "this wait is patient" in shown
        assert f"{home}: connected" in shown
        assert "older than the operation's" in shown  # what the lost host said last does not count

        await client.call("PUT", "compute", "/os-services/force-down", {"host": away, "binary": "nova-compute", "forced_down": True}, version="2.11")
        server = await until(client, server_id, "ACTIVE")
        assert server["OS-EXT-SRV-ATTR:host"] == home
        shown = await explained(client, server_id)
        assert "last operation: revert, done" in shown
        assert f"{away} is fenced" in shown
        assert f"{away}: marked down by an operator" in shown
        assert f"still in the outbox: 'purge' for {away}" in shown

    with_cloud(tmp_path, story)


def test_wiring_that_never_comes_is_given_up_and_the_fault_told(tmp_path: Path) -> None:
    async def story(cloud: LiveCloud, client: Client) -> None:
        server_id = await create(client, "moving")
        home = (await until(client, server_id, "ACTIVE"))["OS-EXT-SRV-ATTR:host"]
        other = next(name for name in cloud.machines if name != home)
        cloud.machines[other].script.delay_s["wire"] = 3600.0
        await client.post("compute", f"/servers/{server_id}/action", {"resize": {"flavorRef": "4"}})
        shown = await waits_for(client, server_id, "step start_dest waits")
        assert f"for {other} to report the guest running" in shown
        assert f"{other} has to answer the command 'restore'" in shown
        assert "turns back: it undoes start_dest, bring_disk, retire_source, place" in shown
        assert "binding opening, generation 2; the host has said nothing  <- differs" in shown

        await until(client, server_id, "ACTIVE")
        shown = await waits_for(client, server_id, "last operation: resize, undone")
        assert "it failed because: " in shown
        assert "Virtual Interface creation failed" in shown
        assert (await client.get("compute", f"/servers/{server_id}"))["server"]["OS-EXT-SRV-ATTR:host"] == home

    with_cloud(tmp_path, story, compute=Compute(vif_plugging_timeout=1.0))


def test_a_server_that_was_deleted_can_still_be_explained(tmp_path: Path) -> None:
    async def story(cloud: LiveCloud, client: Client) -> None:
        server_id = await create(client, "gone")
        await until(client, server_id, "ACTIVE")
        await client.call("DELETE", "compute", f"/servers/{server_id}")
        shown = await waits_for(client, server_id, "it was deleted")
        assert "last operation: delete, done" in shown

    with_cloud(tmp_path, story)


def test_no_room_is_explained_by_host(tmp_path: Path) -> None:
    async def story(cloud: LiveCloud, client: Client) -> None:
        server_id = await create(client, "first")
        await until(client, server_id, "ACTIVE")
        second = await create(client, "second")
        shown = await waits_for(client, second, "ERROR")
        assert "No valid host was found" in shown

    with_cloud(tmp_path, story, hosts=1, fake={"ram_mb": 200})
