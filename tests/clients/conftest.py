"""`cloud`: one real `virga up` in a process of its own, for tests that drive it with OpenStack's own unchanged clients."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from virga.cli_demo import Child
from virga.runtime.env import real_env

START_S = 40.0


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state folder of a running cloud with two emulated hosts. Clients find it through the folder's clouds.yaml."""
    folder = tmp_path_factory.mktemp("clients") / "state"
    folder.mkdir()
    config = folder / "cloud.toml"
    config.write_text("argon2_memory_kib = 8\nargon2_passes = 1\n")
    child = Child(real_env("test"), folder, ["--hosts", "2", "--config", str(config)])
    before = {name: value for name, value in os.environ.items() if name.startswith("OS_")}
    for name in before:
        del os.environ[name]
    try:
        asyncio.run(child.ready(START_S))
        os.environ["OS_CLIENT_CONFIG_FILE"] = str(folder / "clouds.yaml")
        yield folder
    finally:
        os.environ.pop("OS_CLIENT_CONFIG_FILE", None)
        os.environ.update(before)
        child.stop()
