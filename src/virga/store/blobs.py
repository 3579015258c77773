"""Image data: bytes kept beside the database, one file per image, written aside and renamed when whole.

A blob is immutable once committed; `Writer.commit` makes it visible in one rename after an fsync, so a crash leaves either no blob or the whole one.
The memory maker serves the simulator. Sizes are bytes.
"""
from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from virga.runtime.env import Env

CHUNK_BYTES = 1 << 20


class Writer(Protocol):
    """One blob being written."""

    async def write(self, data: bytes) -> None: ...
    async def commit(self) -> None: ...
    async def abort(self) -> None: ...


class Blobs(Protocol):
    """Named immutable byte strings."""

    def create(self, name: str) -> Writer: ...
    def read(self, name: str, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]: ...
    def exists(self, name: str) -> bool: ...
    async def delete(self, name: str) -> None: ...
    def path(self, name: str) -> Path | None:
        """Where the bytes lie, for a driver on this machine; None in memory."""


class _FileWriter:
    def __init__(self, env: Env, path: Path) -> None:
        self._env = env
        self._path = path
        self._partial = path.with_suffix(".part")
        self._file = self._partial.open("wb")

    async def write(self, data: bytes) -> None:
        await self._env.offload(lambda: self._file.write(data))

    async def commit(self) -> None:
        def finish() -> None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._partial.rename(self._path)

        await self._env.offload(finish)

    async def abort(self) -> None:
        self._file.close()
        self._partial.unlink(missing_ok=True)


class FileBlobs:
    """Blobs in a folder. Left-over partial files of a crash are removed at start."""

    def __init__(self, env: Env, folder: Path) -> None:
        self._env = env
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for partial in folder.glob("*.part"):
            partial.unlink()

    def _file(self, name: str) -> Path:
        if not name or "/" in name or name.startswith("."):
            raise ValueError(f"bad blob name {name!r}")
        return self._folder / name

    def create(self, name: str) -> Writer:
        return _FileWriter(self._env, self._file(name))

    async def read(self, name: str, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        with self._file(name).open("rb") as file:
            file.seek(start)
            left = length
            while left is None or left > 0:
                size_bytes = CHUNK_BYTES if left is None else min(CHUNK_BYTES, left)
                data = await self._env.offload(lambda size_bytes=size_bytes: file.read(size_bytes))  # type: ignore[misc]
                if not data:
                    return
                if left is not None:
                    left -= len(data)
                yield data

    def exists(self, name: str) -> bool:
        return self._file(name).exists()

    async def delete(self, name: str) -> None:
        self._file(name).unlink(missing_ok=True)

    def path(self, name: str) -> Path | None:
        return self._file(name)


class _MemoryWriter:
    def __init__(self, blobs: MemoryBlobs, name: str) -> None:
        self._blobs = blobs
        self._name = name
        self._parts: list[bytes] = []

    async def write(self, data: bytes) -> None:
        self._parts.append(data)

    async def commit(self) -> None:
        self._blobs.data[self._name] = b"".join(self._parts)

    async def abort(self) -> None:
        self._parts.clear()


class MemoryBlobs:
    """Blobs in memory, for the simulator and tests."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def create(self, name: str) -> Writer:
        return _MemoryWriter(self, name)

    async def read(self, name: str, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        yield self.data[name][start : None if length is None else start + length]

    def exists(self, name: str) -> bool:
        return name in self.data

    async def delete(self, name: str) -> None:
        self.data.pop(name, None)

    def path(self, name: str) -> Path | None:
        return None
