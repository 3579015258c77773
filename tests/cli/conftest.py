"""`running`: one real `virga up` for the tests of the commands, and `virga(...)` to run a command against it."""
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner, Result
from tests.live.cloud import LiveCloud

from virga.cli import main

T = TypeVar("T")


@dataclass
class Running:
    """A cloud in a process of its own. `do` runs an async story with a client of its own."""

    folder: Path

    def do(self, story: Callable[[LiveCloud], Awaitable[T]]) -> T:
        async def work() -> T:
            from virga.cli_client import Client, find_login

            cloud = LiveCloud.__new__(LiveCloud)
            cloud.env, cloud.folder = self._cloud.env, self.folder
            async with Client(find_login(str(self.folder))) as client:
                cloud._client = client
                return await story(cloud)

        return asyncio.run(work())

    def virga(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments, "--state", str(self.folder)])

    _cloud: Any = None


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Wiring takes a moment, so that the drawings have waits of some length."""
    folder = tmp_path_factory.mktemp("cli") / "state"
    cloud = LiveCloud(folder, "[fake]\ndelay_s = {wire = 0.1}\n")

    async def start() -> None:
        await cloud.start()
        await cloud.client.__aexit__()
        cloud._client = None

    asyncio.run(start())
    yield Running(folder, cloud)
    assert cloud.child is not None
    cloud.child.stop()
