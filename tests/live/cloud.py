"""A real `virga up` that a test may kill -9 and start again on the same state folder, and what must hold afterwards.

What may be believed after a crash is read from outside: the public API, and the journals of the emulated machines, which are the "hardware": they
tell what really runs and what the disks really hold, whatever the cloud says.
"""
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from virga.agent.journal import Journal
from virga.cli_client import Client, ClientError, find_login
from virga.cli_demo import Child
from virga.runtime.env import real_env

START_S = 30.0


class LiveCloud:
    """The process, its folder, and a logged-in client."""

    def __init__(self, folder: Path, toml: str = "", hosts: int = 2) -> None:
        self.env = real_env("test")
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "cloud.toml"
        # cheap password hashes: a restart should cost nothing but the restart
        config.write_text("argon2_memory_kib = 8\nargon2_passes = 1\n" + toml)
        self.options = ["--hosts", str(hosts), "--config", str(config)]
        self.child: Child | None = None
        self._client: Client | None = None
        self.starts = 0

    async def start(self) -> None:
        self.child = Child(self.env, self.folder, self.options)
        self.starts += 1
        await self.child.ready(START_S)
        if self._client is not None:
            await self._client.__aexit__()
        self._client = Client(find_login(str(self.folder)))
        await self._client.log_in()

    @property
    def client(self) -> Client:
        assert self._client is not None
        return self._client

    async def kill(self) -> None:
        """kill -9, and wait until the process is gone."""
        assert self.child is not None
        self.child.process.kill()
        self.child.process.wait()

    async def stop(self) -> None:
        if self._client is not None:
            await self._client.__aexit__()
        if self.child is not None:
            self.child.stop()

    # the API ----------------------------------------------------------------------------------------------------
    async def parts(self) -> tuple[str, str]:
        """(image id, id of the network private)"""
        images = (await self.client.get("image", "/v2/images"))["images"]
        networks = (await self.client.get("network", "/v2.0/networks?name=private"))["networks"]
        return images[0]["id"], networks[0]["id"]

    async def create(self, name: str, flavor: str = "1") -> str:
        image, network = await self.parts()
        body = {"name": name, "flavorRef": flavor, "imageRef": image, "networks": [{"uuid": network}]}
        return str((await self.client.post("compute", "/servers", {"server": body}))["server"]["id"])

    async def server(self, server_id: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.client.get("compute", f"/servers/{server_id}"))["server"]
        return found

    async def action(self, server_id: str, **body: Any) -> None:
        await self.client.post("compute", f"/servers/{server_id}/action", body)

    async def wait(self, server_id: str, *statuses: str, timeout_s: float = 20.0) -> dict[str, Any]:
        async def there() -> dict[str, Any] | None:
            found = await self.server(server_id)
            return found if found["OS-EXT-STS:task_state"] is None and found["status"] in statuses else None

        return await self.until(there, f"server {server_id} to be {' or '.join(statuses)}", timeout_s)

    async def until(self, ready: Callable[[], Awaitable[Any]], what: str, timeout_s: float = 20.0) -> Any:
        end = self.env.monotonic() + timeout_s
        while True:
            found = await ready()
            if found:
                return found
            assert self.env.monotonic() < end, f"waited {timeout_s:g} s for {what}"
            await asyncio.sleep(0.03)

    async def quiet(self, timeout_s: float = 40.0) -> None:
        """Until no operation is open and no command lies in an outbox; says which when that does not come."""
        end = self.env.monotonic() + timeout_s
        while True:
            still = (await self.client.get("virga", "/operations?state=open"))["operations"]
            if not still:
                return
            told = [f"{op['kind']} {op['state']} at {op['step']}: {op['waiting']}" for op in still]
            assert self.env.monotonic() < end, f"operations still open after {timeout_s:g} s: {told}"
            await asyncio.sleep(0.05)

    async def disk(self, server_id: str, host: str) -> str | None:
        disks = (await self.client.get("virga", f"/servers/{server_id}/disk"))["disks"]
        return next((disk["data"] for disk in disks if disk["host"] == host), None)

    # the hardware -----------------------------------------------------------------------------------------------
    def machines(self) -> dict[str, Journal]:
        """What every emulated machine holds, read from its journal (the process need not live)."""
        return {path.parent.name: ReadOnly(path) for path in sorted((self.folder / "hosts").glob("*/machine.log"))}

    def running(self) -> dict[str, list[str]]:
        """server id -> hosts where its guest really runs."""
        found: dict[str, list[str]] = {}
        for name, journal in self.machines().items():
            for server_id, state in journal.find("vm/").items():
                if state == "running":
                    found.setdefault(server_id, []).append(name)
        return found


class ReadOnly(Journal):
    """A journal looked at while its owner may be writing: nothing is cut off."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._load(path)


__all__ = ["ClientError", "LiveCloud"]
