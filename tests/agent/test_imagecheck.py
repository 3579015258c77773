"""Images that lie: what a stranger's bytes may claim to be, and which files of this host they would like to be read."""
from __future__ import annotations

import asyncio
import hashlib
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from virga.agent.disk import FolderImages, QcowDisks
from virga.agent.hypervisor import DriverError, ImageRef
from virga.agent.imagecheck import VMDK_HEADER, backing_of, why_not
from virga.runtime.env import real_env

IMAGE, SERVER = "00000000-0000-4000-8000-0000000000aa", "00000000-0000-4000-8000-0000000000bb"
SECRET = "a secret of this host"
needs_qemu = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


def qcow2(folder: Path, *more: str, size: str = "8M", name: str = "i.qcow2") -> bytes:
    path = folder / name
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *more, str(path), size], check=True)
    return path.read_bytes()


def packed(folder: Path, kind: str, *more: str) -> bytes:
    (folder / "plain").write_bytes(b"\x01" * (1 << 20))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", kind, *more, str(folder / "plain"), str(folder / "packed")], check=True)
    return (folder / "packed").read_bytes()


def descriptor(kind: str, extent: str, extra: str = "") -> bytes:
    return f'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n{extra}createType="{kind}"\n{extent}\n'.encode()


def embedded(secret: Path, capacity: int, kind: str, extra: str = "") -> bytes:
    """A sparse VMDK header whose descriptor lies in the file itself."""
    header = VMDK_HEADER.pack(b"KDMV", 1, 3, capacity, 128, 1, 2).ljust(512, b"\0")
    return header + descriptor(kind, f'RW 1 FLAT "{secret}" 0', extra).ljust(1024, b"\0")


def lies(folder: Path) -> dict[str, tuple[str, bytes, str]]:
    """name -> (declared format, bytes, what is said)."""
    secret = folder / "secret"
    secret.write_bytes(SECRET.encode().ljust(512, b"\0"))
    good = qcow2(folder)
    v3_data_file = bytearray(good)
    v3_data_file[72:80] = struct.pack(">Q", 1 << 2)
    unknown = bytearray(good)
    unknown[72:80] = struct.pack(">Q", 1 << 40)
    return {
        "qcow2 with a backing file": ("qcow2", qcow2(folder, "-b", str(secret), "-F", "raw", name="b.qcow2"), "backing file"),
        "qcow2 with a data file": ("qcow2", bytes(v3_data_file), "data file"),
        "qcow2 of unknown features": ("qcow2", bytes(unknown), "features"),
        "qcow2 of version 9": ("qcow2", good[:4] + struct.pack(">I", 9) + good[8:], "version 9"),
        "qcow2, truncated": ("qcow2", packed(folder, "qcow2")[:300_000], "damaged"),
        "qcow2, only a header": ("qcow2", good[:40], "no qcow2"),
        "raw that is qcow2": ("raw", good, "its bytes are qcow2"),
        "raw that is vmdk": ("raw", packed(folder, "vmdk", "-o", "subformat=streamOptimized"), "its bytes are vmdk"),
        "raw that is a vmdk descriptor": ("raw", descriptor("monolithicFlat", f'RW 1 FLAT "{secret}" 0'), "its bytes are vmdk"),
        "raw that is vdi": ("raw", packed(folder, "vdi"), "its bytes are vdi"),
        "raw that is vhdx": ("raw", packed(folder, "vhdx"), "its bytes are vhdx"),
        "qcow2 that is raw": ("qcow2", b"\x01" * 4096, "no qcow2"),
        "vmdk that is raw": ("vmdk", b"\x01" * 4096, "keeps its data in itself"),
        "vmdk descriptor naming a file": ("vmdk", descriptor("monolithicFlat", f'RW 1 FLAT "{secret}" 0'), "keeps its data in itself"),
        "vmdk with an embedded descriptor naming a file": ("vmdk", embedded(secret, 0, "monolithicFlat"), "other files (it is monolithicFlat)"),
        "vmdk that hides it behind a good type": ("vmdk", embedded(secret, 0, "monolithicSparse"), "other files"),
        "vmdk with a parent": ("vmdk", embedded(secret, 8, "monolithicSparse", 'parentFileNameHint="/etc/passwd"\n'), "parent"),
        "vhd that is raw": ("vhd", b"\x01" * 4096, "not a valid vhd"),
        "iso that is raw": ("iso", b"\x01" * (1 << 20), "no ISO image"),
    }


@needs_qemu
def test_no_lie_gets_through_and_nothing_of_it_stays(tmp_path: Path) -> None:
    async def tried(declared: str, data: bytes, folder: Path) -> str:
        images = folder / "images-store"
        images.mkdir(parents=True)
        (images / IMAGE).write_bytes(data)
        disks = QcowDisks(real_env("test"), folder / "host", FolderImages(images))
        await disks.open()
        with pytest.raises(DriverError) as caught:
            await disks.create(SERVER, ImageRef(IMAGE, len(data), declared, hashlib.sha512(data).hexdigest()), 1)
        assert caught.value.code == "bad-image", caught.value
        kept = [path for path in disks.places.folder.rglob("*") if path.is_file()]
        assert kept == [], "nothing of a refused image stays on the host"
        return str(caught.value)

    for number, (name, (declared, data, said)) in enumerate(lies(tmp_path).items()):
        assert said in asyncio.run(tried(declared, data, tmp_path / str(number))), name


@needs_qemu
def test_honest_images_of_every_kind_are_taken(tmp_path: Path) -> None:
    honest = {kind: packed(tmp_path, kind) for kind in ("qcow2", "vdi", "vhdx")}
    honest["vhd"] = packed(tmp_path, "vpc")
    honest["vmdk"] = packed(tmp_path, "vmdk", "-o", "subformat=streamOptimized")
    honest["raw"] = b"\x01" * (1 << 20)
    honest["iso"] = bytes(0x8000) + b"\x01CD001" + bytes(1 << 20)

    async def made(kind: str, data: bytes) -> None:
        images = tmp_path / kind
        images.mkdir()
        (images / IMAGE).write_bytes(data)
        disks = QcowDisks(real_env("test"), tmp_path / f"host-{kind}", FolderImages(images))
        await disks.open()
        await disks.create(SERVER, ImageRef(IMAGE, len(data), kind, hashlib.sha512(data).hexdigest()), 1)
        assert SERVER in await disks.list()
        name, of = backing_of(disks.places.disk(SERVER))
        assert (name, of) == (f"../../images/{disks.base_of(SERVER)}", "raw")
        if kind != "iso":
            assert disks.places.base(disks.base_of(SERVER)).read_bytes()[:1 << 20] == b"\x01" * (1 << 20)

    for kind, data in honest.items():
        asyncio.run(made(kind, data))


def test_an_empty_file_is_no_image_but_raw(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert not why_not(tmp_path / "empty", "raw")
    assert all(why_not(tmp_path / "empty", kind) for kind in ("qcow2", "vmdk", "iso"))


class LyingPeer:
    """Another host's agent that gives whatever it likes as a disk."""

    def __init__(self, data: bytes, base: bytes = b"") -> None:
        self.data, self.base = data, base

    async def manifest(self, address: str, server_id: str) -> dict[str, object]:
        sha = hashlib.sha512(self.base).hexdigest()
        more = {"base": "a.raw.raw", "base_size_bytes": len(self.base), "base_sha512": sha} if self.base else {}
        return {"size_bytes": len(self.data), "sha512": hashlib.sha512(self.data).hexdigest(), **more}

    async def fetch(self, address: str, path: str, target: Path, size_bytes: int, sha512: str) -> None:
        target.write_bytes(self.data if path.startswith("/disks/") else self.base)


@needs_qemu
@pytest.mark.parametrize("what", ["host file", "format", "data file", "raw"])
def test_a_disk_from_another_host_stands_on_nothing_of_this_one(tmp_path: Path, what: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET.encode().ljust(512, b"\0"))
    base = descriptor("monolithicFlat", f'RW 1 FLAT "{secret}" 0') if what == "format" else b""
    if what == "host file":
        data = qcow2(tmp_path, "-b", str(secret), "-F", "raw")
    elif what == "format":  # the image is named, but is to be read as one that names files
        (tmp_path / "x" / "y").mkdir(parents=True)
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / "a.raw.raw").write_bytes(base)
        data = qcow2(tmp_path / "x" / "y", "-b", "../../images/a.raw.raw", "-F", "vmdk")
    elif what == "data file":
        data = qcow2(tmp_path)
        data = data[:72] + struct.pack(">Q", 1 << 2) + data[80:]
    else:
        data = b"\x01" * 4096

    async def story() -> None:
        disks = QcowDisks(real_env("test"), tmp_path / "host", FolderImages(tmp_path), LyingPeer(data, base))
        await disks.open()
        with pytest.raises(DriverError) as caught:
            await disks.fetch(SERVER, "h2", "10.0.0.2")
        assert caught.value.code == "bad-image", caught.value
        assert await disks.list() == {}
        assert not list((disks.places.instance(SERVER)).glob("*")), "nor a half of it"

    asyncio.run(story())
