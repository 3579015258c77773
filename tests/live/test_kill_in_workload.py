"""kill -9 at random moments of a mixed workload: afterwards every operation has finished or is undone, and rows, hosts and claims agree.

Several users work at once (create, stop, start, reboot, rebuild, resize, confirm, revert, migrate, delete), each on servers of its own; when the
cloud dies under them they try the next thing when it is back, as people do. The moments are seeded, so a failing run can be repeated in kind.
"""
from __future__ import annotations

import asyncio
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.live.cloud import ClientError, LiveCloud

DRIVERS = "[fake]\ndelay_s = {launch = 0.05, stop = 0.04, wire = 0.02, fetch = 0.05, create_disk = 0.03}\n"
USERS = 4
# what may be asked of a server in a status: (action body, weight)
MOVES: dict[str, list[dict[str, Any]]] = {
    "ACTIVE": [{"resize": {"flavorRef": "4"}}, {"resize": {"flavorRef": "4"}}, {"os-stop": None}, {"reboot": {"type": "HARD"}},
               {"migrate": None}, {"rebuild": {}}, {"pause": None}],
    "SHUTOFF": [{"os-start": None}, {"resize": {"flavorRef": "4"}}],
    "VERIFY_RESIZE": [{"revertResize": None}, {"revertResize": None}, {"confirmResize": None}],
    "PAUSED": [{"unpause": None}],
}


class User:
    """One user: keeps two servers busy, deletes one now and then."""

    def __init__(self, cloud: LiveCloud, number: int, rng: random.Random) -> None:
        self.cloud, self.number, self.rng = cloud, number, rng
        self.made = 0
        self.asked = 0
        self.servers: list[str] = []

    async def work(self, until: asyncio.Event) -> None:
        while not until.is_set():
            try:
                await self.step()
            except ClientError:
                await asyncio.sleep(0.05)  # the cloud is dead, or says 409: both are life
            await asyncio.sleep(self.rng.random() * 0.05)

    async def step(self) -> None:
        if len(self.servers) < 2:
            self.made += 1
            self.servers.append(await self.cloud.create(f"u{self.number}-{self.made}"))
            return
        server_id = self.rng.choice(self.servers)
        if self.rng.random() < 0.06:
            self.servers.remove(server_id)
            await self.cloud.client.call("DELETE", "compute", f"/servers/{server_id}")
            return
        server = await self.cloud.server(server_id)
        flavor, image = server["flavor"]["id"], server["image"]["id"]
        choices = MOVES.get(server["status"], []) if server["OS-EXT-STS:task_state"] is None else []
        if choices:
            body = dict(self.rng.choice(choices))
            if "resize" in body:
                body = {"resize": {"flavorRef": "1" if flavor == "4" else "4"}}
            if "rebuild" in body:
                body = {"rebuild": {"imageRef": image}}
            await self.cloud.client.post("compute", f"/servers/{server_id}/action", body)
            self.asked += 1


async def story(folder: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    cloud = LiveCloud(folder, DRIVERS)
    await cloud.start()
    users = [User(cloud, number, random.Random(f"{seed}/{number}")) for number in range(USERS)]
    try:
        for _ in range(kills):
            end = asyncio.Event()
            tasks = [asyncio.create_task(user.work(end)) for user in users]
            await asyncio.sleep(0.3 + rng.random())
            await cloud.kill()
            end.set()
            await asyncio.gather(*tasks)
            await cloud.start()
        await cloud.quiet()
        assert sum(user.asked for user in users) >= kills * USERS
        await check(cloud)
    finally:
        await cloud.stop()
    log = (folder / "virga.log").read_text()
    assert "Traceback" not in log, log


async def check(cloud: LiveCloud) -> None:
    """What must hold when nothing is under way."""
    listed = (await cloud.client.get("compute", "/servers/detail?all_tenants=1"))["servers"]
    wrong = {server["name"]: (server["status"], server["OS-EXT-STS:task_state"], server.get("fault")) for server in listed
             if server["status"] not in ("ACTIVE", "SHUTOFF", "VERIFY_RESIZE", "PAUSED") or server["OS-EXT-STS:task_state"]}
    assert not wrong, wrong
    alive = {server["id"]: server for server in listed}

    async def purged() -> bool:
        return not _rows(cloud, "SELECT 1 FROM commands WHERE state = 'pending'")

    await cloud.until(purged, "every command in the outboxes to be answered")
    running = cloud.running()
    for server_id, server in alive.items():
        host = server["OS-EXT-SRV-ATTR:host"]
        machine = cloud.machines()[host]
        assert "disk/" + server_id in machine.values, f"{server['name']} has no disk on {host}"
        if server["status"] == "ACTIVE":
            assert running.get(server_id) == [host], (server["name"], running.get(server_id), host)
    assert all(len(hosts) == 1 for hosts in running.values()), f"two running copies: {running}"
    for name, machine in cloud.machines().items():
        strangers = {key.partition("/")[2] for key in machine.values if key.startswith(("vm/", "disk/"))} - set(alive)
        assert not strangers, f"{name} still has something of deleted servers {strangers}"
    _check_rows(cloud, alive)


def _rows(cloud: LiveCloud, text: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(cloud.folder / "virga.db")
    try:
        return connection.execute(text).fetchall()
    finally:
        connection.close()


def _check_rows(cloud: LiveCloud, alive: dict[str, dict[str, Any]]) -> None:
    """Exactly one active binding a port, on the server's host and wired there; claims are those of the servers, and no others."""
    for server_id, server in alive.items():
        host = server["OS-EXT-SRV-ATTR:host"]
        bindings = _rows(cloud, "SELECT p.id, b.host, b.state, b.generation, w.generation, w.wired FROM ports p JOIN bindings b ON b.port_id = p.id "
                                f"LEFT JOIN wirings w ON w.port_id = p.id AND w.host = b.host WHERE p.device_id = '{server_id}'")
        active = [row for row in bindings if row[2] == "active"]
        assert len(active) == 1, (server["name"], bindings)
        assert active[0][1] == host
        if server["status"] == "ACTIVE":
            assert active[0][3] == active[0][4], (server["name"], active)
            assert active[0][5] == 1, (server["name"], active)
    claims = {(row[0], row[1]) for row in _rows(cloud, "SELECT host, server_id FROM claims WHERE kind = 'server'")}
    assert claims == {(server["OS-EXT-SRV-ATTR:host"], server_id) for server_id, server in alive.items()}
    moving = {row[0] for row in _rows(cloud, "SELECT server_id FROM claims WHERE kind = 'migration'")}
    assert moving == {server_id for server_id, server in alive.items() if server["status"] == "VERIFY_RESIZE"}


def test_a_mixed_workload_survives_three_kills(tmp_path: Path) -> None:
    asyncio.run(story(tmp_path / "state", kills=3, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_a_mixed_workload_survives_ten_kills(tmp_path: Path, seed: int) -> None:
    asyncio.run(story(tmp_path / "state", kills=10, seed=seed))
