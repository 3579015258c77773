"""kill -9 while a cloud starts for the first time: the next start makes what is missing, once."""
from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.live.cloud import LiveCloud

from virga.cli_demo import Child


async def story(folder: Path, moments: list[float]) -> None:
    """Each moment is seconds after the database file is there (from the second on: after the process began); it ends when a start got through."""
    cloud = LiveCloud(folder, "")
    for after_s in moments:
        child = Child(cloud.env, folder, cloud.options)
        end = cloud.env.monotonic() + 10.0
        while not (folder / "virga.db").exists() and cloud.env.monotonic() < end:
            await asyncio.sleep(0.001)
        await asyncio.sleep(after_s)
        child.process.kill()
        child.process.wait()
        if (folder / "ready").exists():
            break
    await cloud.start()
    try:
        names = [network["name"] for network in (await cloud.client.get("network", "/v2.0/networks"))["networks"]]
        assert sorted(names) == ["private", "public"]
        flavors = [flavor["name"] for flavor in (await cloud.client.get("compute", "/flavors"))["flavors"]]
        assert len(flavors) == len(set(flavors)) == 4
        images = (await cloud.client.get("image", "/v2/images"))["images"]
        assert [image["status"] for image in images] == ["active"]
        routers = (await cloud.client.get("network", "/v2.0/routers"))["routers"]
        assert len(routers) == 1
        server_id = await cloud.create("first")
        await cloud.wait(server_id, "ACTIVE")
    finally:
        await cloud.stop()


def test_a_first_start_survives_kill_9(tmp_path: Path) -> None:
    asyncio.run(story(tmp_path / "state", [0.05]))


@pytest.mark.slow
def test_a_first_start_survives_many_kills(tmp_path: Path) -> None:
    asyncio.run(story(tmp_path / "state", [0.0, 0.6, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4]))
