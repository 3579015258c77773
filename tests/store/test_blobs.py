"""Blobs: there whole or not at all, whatever dies when."""
from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from virga.runtime.env import real_env
from virga.store.blobs import Blobs, FileBlobs, MemoryBlobs

MAKERS: dict[str, Callable[[Path], Blobs]] = {"file": lambda folder: FileBlobs(real_env(), folder), "memory": lambda folder: MemoryBlobs()}


@pytest.fixture(params=list(MAKERS))
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    return MAKERS[request.param](tmp_path / "blobs")


async def put(blobs: Blobs, name: str, *parts: bytes) -> None:
    writer = blobs.create(name)
    for part in parts:
        await writer.write(part)
    await writer.commit()


async def get(blobs: Blobs, name: str, *bounds: Any) -> bytes:
    return b"".join([part async for part in blobs.read(name, *bounds)])


def test_bytes_come_back_whole_and_in_ranges(blobs: Blobs) -> None:
    async def story() -> None:
        await put(blobs, "a", b"0123", b"", b"456789")
        assert await get(blobs, "a") == b"0123456789"
        assert await get(blobs, "a", 3) == b"3456789"
        assert await get(blobs, "a", 3, 4) == b"3456"
        assert await get(blobs, "a", 10) == b"" and await get(blobs, "a", 0, 0) == b""
        await put(blobs, "empty")
        assert blobs.exists("empty") and await get(blobs, "empty") == b""

    asyncio.run(story())


def test_nothing_is_seen_before_the_commit(blobs: Blobs) -> None:
    async def story() -> None:
        writer = blobs.create("a")
        await writer.write(b"half")
        assert not blobs.exists("a")
        await writer.abort()
        assert not blobs.exists("a")
        await blobs.delete("a")  # deleting what is not there is no error
        await put(blobs, "a", b"whole")
        await blobs.delete("a")
        assert not blobs.exists("a")

    asyncio.run(story())


def test_a_crash_in_the_middle_leaves_no_blob_and_the_next_start_no_rubbish(tmp_path: Path) -> None:
    async def dies() -> None:
        blobs = FileBlobs(real_env(), tmp_path)
        await put(blobs, "kept", b"kept")
        await blobs.create("half").write(b"half")  # and no commit: the process is gone

    asyncio.run(dies())
    assert list(tmp_path.glob("*.part"))
    again = FileBlobs(real_env(), tmp_path)
    assert again.exists("kept") and not again.exists("half")
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden"])
def test_a_name_never_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="blob name"):
        FileBlobs(real_env(), tmp_path).create(name)
