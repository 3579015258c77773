"""kill -9 of the running cloud in the middle of 5 reverts: all come back ACTIVE on their old hosts with their old bytes, nothing by hand."""
from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.live.cloud import LiveCloud

SLOW_DRIVERS = "[fake]\ndelay_s = {launch = 0.3, stop = 0.3, resume = 0.2, wire = 0.1}\n"
SERVERS = 5


async def story(folder: Path, kill_after_s: float) -> None:
    cloud = LiveCloud(folder, SLOW_DRIVERS)
    await cloud.start()
    try:
        ids = await asyncio.gather(*(cloud.create(f"s{number}") for number in range(SERVERS)))
        before = {server_id: await cloud.wait(server_id, "ACTIVE") for server_id in ids}
        homes = {server_id: server["OS-EXT-SRV-ATTR:host"] for server_id, server in before.items()}
        bytes_before = {server_id: await cloud.disk(server_id, homes[server_id]) for server_id in ids}
        assert all(bytes_before.values())
        await asyncio.gather(*(cloud.action(server_id, resize={"flavorRef": "4"}) for server_id in ids))
        for server_id in ids:
            moved = await cloud.wait(server_id, "VERIFY_RESIZE")
            assert moved["OS-EXT-SRV-ATTR:host"] != homes[server_id]
            assert await cloud.disk(server_id, moved["OS-EXT-SRV-ATTR:host"]) not in (None, bytes_before[server_id])

        await asyncio.gather(*(cloud.action(server_id, revertResize=None) for server_id in ids))
        await asyncio.sleep(kill_after_s)
        under_way = (await cloud.client.get("virga", "/operations?state=open"))["operations"]
        assert under_way, "the kill was to come in the middle, and every revert had ended"
        await cloud.kill()

        await cloud.start()
        for server_id in ids:
            server = await cloud.wait(server_id, "ACTIVE")
            assert server["OS-EXT-SRV-ATTR:host"] == homes[server_id]
            assert server["flavor"]["id"] == "1"
            assert await cloud.disk(server_id, homes[server_id]) == bytes_before[server_id]
        await cloud.quiet()
        assert cloud.running() == {server_id: [homes[server_id]] for server_id in ids}
        log = (folder / "virga.log").read_text()
        assert "Traceback" not in log, log
    finally:
        await cloud.stop()


@pytest.mark.parametrize("kill_after_s", [0.35])
def test_five_reverts_survive_kill_9(tmp_path: Path, kill_after_s: float) -> None:
    asyncio.run(story(tmp_path / "state", kill_after_s))


@pytest.mark.slow
@pytest.mark.parametrize("kill_after_s", [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.45, 0.5, 0.55])
def test_five_reverts_survive_kill_9_at_more_moments(tmp_path: Path, kill_after_s: float) -> None:
    asyncio.run(story(tmp_path / "state", kill_after_s))
