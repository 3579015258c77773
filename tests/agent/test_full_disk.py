"""A file system that is really full, under the drivers and the journal: nothing half made stays, what was there is whole, the agent goes on."""
from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from virga.agent import disk as disk_room
from virga.agent import journal as journal_room
from virga.agent.disk import FolderImages, QcowDisks
from virga.agent.hypervisor import DriverError, ImageRef
from virga.agent.journal import Journal
from virga.runtime.env import real_env

IMAGE, SERVER = "00000000-0000-4000-8000-0000000000aa", "00000000-0000-4000-8000-0000000000bb"
MIB = 1 << 20
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root"),
    pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")]


@contextlib.contextmanager
def small(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of that size."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "virga-test", str(folder)], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("this place does not let us mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave_bytes: int = 0) -> Path:
    """Somebody else's file that takes all room but a little."""
    path = folder / "other"
    stat = os.statvfs(folder)
    path.write_bytes(b"x" * max(0, stat.f_bavail * stat.f_frsize - leave_bytes))
    return path


def files(disks: QcowDisks) -> list[str]:
    return sorted(path.name for part in (disks.places.images, disks.places.instances) for path in part.rglob("*") if path.is_file())


def noise(size_bytes: int) -> bytes:
    return hashlib.shake_128(b"seed").digest(size_bytes)


def image(folder: Path, data: bytes, kind: str = "raw") -> ImageRef:
    folder.mkdir(exist_ok=True)
    (folder / IMAGE).write_bytes(data)
    return ImageRef(IMAGE, len(data), kind, hashlib.sha512(data).hexdigest())


def refused(work: object, said: str) -> None:
    with pytest.raises(DriverError) as caught:
        asyncio.run(work)  # type: ignore[arg-type]
    assert caught.value.code == "no-space" and said in str(caught.value), caught.value


def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look before does not help when the room goes afterwards."""
    monkeypatch.setattr(disk_room, "need_room", lambda folder, size_bytes, what: None)


async def opened(folder: Path, store: Path, peer: object = None) -> QcowDisks:
    disks = QcowDisks(real_env("test"), folder, FolderImages(store), peer)  # type: ignore[arg-type]
    await disks.open()
    return disks


def test_room_is_looked_at_before_anything_is_written(tmp_path: Path) -> None:
    with small(tmp_path / "host", 70 * MIB) as folder:
        ref = image(tmp_path / "store", noise(8 * MIB))
        disks = asyncio.run(opened(folder, tmp_path / "store"))
        refused(disks.create(SERVER, ref, 1), "it needs 8 MiB, 6 MiB are free")
        assert files(disks) == []


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_running_full_while_an_image_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """raw: in the middle of the download. qcow2, packed: the download fits, the unpacked bytes do not."""
    blind(monkeypatch)
    data = noise(4 * MIB)
    if kind == "qcow2":
        (tmp_path / "plain").write_bytes(b"\x07" * (12 * MIB))
        subprocess.run(["qemu-img", "convert", "-c", "-O", "qcow2", str(tmp_path / "plain"), str(tmp_path / "packed")], check=True)
        data = (tmp_path / "packed").read_bytes()
        assert len(data) < MIB
    with small(tmp_path / "host", (2 if kind == "raw" else 6) * MIB) as folder:
        ref = image(tmp_path / "store", data, kind)
        disks = asyncio.run(opened(folder, tmp_path / "store"))
        refused(disks.create(SERVER, ref, 1), "No space left on device")
        assert files(disks) == []
        # with room again the very same works
        subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
        asyncio.run(disks.create(SERVER, ref, 1))
        assert SERVER in asyncio.run(disks.list())


class Peer:
    """Another host on this machine."""

    def __init__(self, source: QcowDisks) -> None:
        self.source = source

    async def manifest(self, address: str, server_id: str) -> dict[str, object]:
        import msgspec

        return dict(msgspec.to_builtins(await self.source.manifest(server_id)))

    async def fetch(self, address: str, path: str, target: Path, size_bytes: int, sha512: str) -> None:
        source = self.source.places.disk(SERVER) if path.startswith("/disks/") else self.source.places.base(path.rpartition("/")[2])
        with source.open("rb") as file, target.open("wb") as into:
            while block := file.read(MIB):
                into.write(block)


@pytest.mark.parametrize("where", ["base", "disk"])
def test_running_full_while_a_disk_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    blind(monkeypatch)
    ref = image(tmp_path / "store", noise(4 * MIB))
    source = asyncio.run(opened(tmp_path / "source", tmp_path / "store"))
    asyncio.run(source.create(SERVER, ref, 1))
    if where == "disk":
        subprocess.run(["qemu-io", "-c", "write -P 7 0 8M", str(source.places.disk(SERVER))], check=True, capture_output=True)
    before = asyncio.run(source.checksum(SERVER))
    with small(tmp_path / "dest", (2 if where == "base" else 8) * MIB) as folder:
        dest = asyncio.run(opened(folder, tmp_path / "none", Peer(source)))
        refused(dest.fetch(SERVER, "h1", "a"), "No space left on device")
        kept = files(dest)
        assert not [name for name in kept if name.startswith("disk") or name.endswith(".from")], kept
        assert asyncio.run(dest.list()) == {}
        asyncio.run(dest.discard(SERVER))
        assert not dest.places.instance(SERVER).exists()
    assert asyncio.run(source.checksum(SERVER)) == before


def test_running_full_while_a_snapshot_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = image(tmp_path / "store", noise(4 * MIB))
    with small(tmp_path / "host", 74 * MIB) as folder:
        disks = asyncio.run(opened(folder, tmp_path / "store"))
        asyncio.run(disks.create(SERVER, ref, 1))
        before = asyncio.run(disks.checksum(SERVER))
        other = fill(folder, 66 * MIB)
        refused(disks.snapshot(SERVER, "snap"), "no room for the snapshot")  # the base's bytes count, though the overlay is nearly empty
        blind(monkeypatch)
        other.unlink()
        fill(folder, 2 * MIB)
        refused(disks.snapshot(SERVER, "snap"), "No space left on device")
        assert not [name for name in files(disks) if name.startswith("snapshot")]
        assert asyncio.run(disks.checksum(SERVER)) == before
        assert not (tmp_path / "store" / "snap").exists()


def test_the_journal_goes_on_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_room, "RESERVE_AGAIN_BYTES", 2 * MIB)
    with small(tmp_path / "host", 6 * MIB) as folder:
        journal = Journal(folder / "agent.log", durable=True)
        journal.put("first", "kept")
        assert (folder / "agent.room").stat().st_size == journal_room.RESERVE_BYTES
        other = fill(folder)
        journal.put("second", "x" * 100_000)  # out of the reserve
        assert not journal.behind and not (folder / "agent.room").exists()
        assert Journal(folder / "agent.log").values.keys() == {"first", "second"}
        other.unlink()
        fill(folder)
        journal.put("third", "x" * 100_000)  # nothing left: in memory
        assert journal.behind and journal.values["third"]
        assert Journal(folder / "agent.log").values.keys() == {"first", "second"}, "no torn record in the file"
        other.unlink()
        journal.put("fourth", 4)
        assert not journal.behind
        assert Journal(folder / "agent.log").values == journal.values
        assert (folder / "agent.room").exists(), "the next full disk finds it again"


def test_other_failures_of_the_journal_are_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "agent.log", durable=True)

    def broken(_number: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        journal.put("a", 1)
