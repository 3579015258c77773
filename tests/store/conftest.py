"""`database`: every engine of the store, one after another, for the contract's tests. A new engine is one more entry in ENGINES."""
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from virga.runtime.env import Env, real_env
from virga.runtime.trace import Trace
from virga.store.db import Db, SimDb, SqliteDb
from virga.store.memory import MemoryDb

Maker = Callable[[Env, Trace, Path], Db]
ENGINES: dict[str, Maker] = {
    "sim": lambda env, trace, folder: SimDb(env, trace),
    "memory": lambda env, trace, folder: MemoryDb(env, trace),
    "sqlite": lambda env, trace, folder: SqliteDb(env, trace, folder / "virga.sqlite", synchronous="OFF"),
}


class House:
    """One database of one engine, and a loop to run its closures on."""

    def __init__(self, make: Maker, folder: Path) -> None:
        self._runner = asyncio.Runner()
        self.env = real_env("test")
        self.trace = Trace(self.env.now)
        self.heard: list[list[str]] = []
        self.db = self.wait(self._open(make, folder))

    async def _open(self, make: Maker, folder: Path) -> Db:
        db = make(self.env, self.trace, folder)
        db.on_commit(lambda hints: self.heard.append(list(hints)))
        return db

    def wait(self, work: Awaitable[Any]) -> Any:
        async def main() -> Any:
            return await work

        return self._runner.run(main())

    def run(self, closure: Callable[[Any], Any]) -> Any:
        return self.wait(self.db.run(closure))

    def read(self, closure: Callable[[Any], Any]) -> Any:
        return self.wait(self.db.read(closure))

    def close(self) -> None:
        self.db.close()
        self._runner.close()


@pytest.fixture(params=list(ENGINES))
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    made = House(ENGINES[request.param], tmp_path)
    yield made
    made.close()
