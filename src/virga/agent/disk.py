# ruff: noqa: ASYNC240 - looking at a local file takes microseconds; whatever reads or copies data goes through a thread
"""The disk driver: images cached by checksum, one qcow2 overlay a server, copies from other hosts.

Rules: `instances/<id>/disk` exists only when it is complete: everything is made aside and renamed. An image is checked before it becomes a base:
checksum, format as declared, no other file named in it (imagecheck.py), virtual size within the flavor's disk; all of it with bounded memory and time,
since the bytes are a stranger's. A disk that another host gives is looked at too: it may stand on its image in our cache and on nothing else.
Room is looked at before anything is written, and running out of it in the
middle leaves nothing. A base that no overlay names any more is deleted when an hour old.
The overlay names its base by a relative path, so a copy is byte for byte the same on both hosts and one checksum covers it.
"""
from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from virga.agent.command import run
from virga.agent.hypervisor import DriverError, ImageRef
from virga.agent.imagecheck import QEMU_NAMES, backing_of, inspect
from virga.agent.places import Places
from virga.runtime.env import Env

GIB = 1 << 30
SPARE_BYTES = 64 << 20  # never fill a file system to the brim: the guests' own writes need the rest
BASE_KEPT_S = 3600.0
FORMATS = ("raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso", "ami", "ploop")
BLOCK_BYTES = 1 << 20


class ImageStore(Protocol):
    """Where image bytes come from and snapshots go to. Raises DriverError."""

    async def download(self, image: ImageRef, path: Path) -> None:
        """The image's bytes into a file (that may hold a beginning of them from an earlier try)."""

    async def upload(self, image_id: str, path: Path) -> str:
        """A file's bytes into the store; returns the blob's name."""


class Peer(Protocol):
    """Copies of files from another host's agent (see transfer.py). Raises DriverError."""

    async def manifest(self, address: str, server_id: str) -> dict[str, Any]: ...
    async def fetch(self, address: str, path: str, target: Path, size_bytes: int, sha512: str) -> None: ...


class Manifest(msgspec.Struct, frozen=True):
    """What one needs to copy a disk: its bytes, and the base it stands on ('' for none)."""

    size_bytes: int
    sha512: str
    base: str = ""
    base_size_bytes: int = 0
    base_sha512: str = ""


def digest(path: Path, kind: str = "sha512") -> str:
    """Checksum of a file in hex; blocking."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def room(folder: Path) -> int:
    """Free bytes for us there."""
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


def need_room(folder: Path, size_bytes: int, what: str) -> None:
    """Raises DriverError 'no-space'."""
    free = room(folder)
    if free < size_bytes + SPARE_BYTES:
        raise DriverError(f"no room for {what}: it needs {size_bytes >> 20} MiB, {max(0, free - SPARE_BYTES) >> 20} MiB are free in {folder}", "no-space")


class QcowDisks:
    """agent.hypervisor.Disks with qemu-img."""

    def __init__(self, env: Env, folder: Path, images: ImageStore, peer: Peer | None = None) -> None:
        self.env, self.places, self.images, self.peer = env, Places(folder), images, peer
        self._bases: dict[str, asyncio.Lock] = {}
        self.progress: Callable[[str, int, int], None] = lambda server_id, done, total: None

    async def open(self) -> None:
        """Make the folders, drop what was half made, and bases nobody uses."""
        self.places.images.mkdir(parents=True, exist_ok=True)
        self.places.instances.mkdir(parents=True, exist_ok=True)
        for entry in self.places.instances.glob("*/disk*.new"):
            entry.unlink(missing_ok=True)
        await self._collect()

    async def list(self) -> dict[str, int]:
        found = {}
        for entry in self.places.instances.glob("*/disk"):
            if not (entry.parent / "incoming").exists():
                try:
                    found[entry.parent.name] = entry.stat().st_blocks * 512
                except FileNotFoundError:  # went away while we looked
                    continue
        return found

    # making ---------------------------------------------------------------------------------------------------------
    async def create(self, server_id: str, image: ImageRef | None, size_gb: int) -> None:
        if self.places.disk(server_id).exists() and not self._incoming(server_id).exists():
            return
        await self._make(server_id, image, size_gb)
        self._incoming(server_id).unlink(missing_ok=True)

    async def rebuild(self, server_id: str, image: ImageRef, size_gb: int) -> None:
        """Idempotent in effect only when asked once a command: each call gives a fresh disk."""
        await self._make(server_id, image if image.id else None, size_gb)

    async def prepare_incoming(self, server_id: str, image: ImageRef | None, size_gb: int) -> None:
        """An empty overlay that a running guest's blocks will be copied into. It is no disk until `arrived`."""
        marker = self._incoming(server_id)
        marker.parent.mkdir(parents=True, exist_ok=True)
        if self.places.disk(server_id).exists() and not marker.exists():
            raise DriverError(f"a disk of server {server_id} is already on this host", "conflict")
        marker.touch()
        await self._make(server_id, image, size_gb)

    def arrived(self, server_id: str) -> None:
        """The guest runs on the disk that was prepared for it."""
        self._incoming(server_id).unlink(missing_ok=True)

    def _incoming(self, server_id: str) -> Path:
        return self.places.instance(server_id) / "incoming"

    async def rescue(self, server_id: str, image: ImageRef, size_gb: int) -> None:
        if not self.places.rescue_disk(server_id).exists():
            await self._make(server_id, image if image.id else None, size_gb, self.places.rescue_disk(server_id))

    async def unrescue(self, server_id: str) -> None:
        self.places.rescue_disk(server_id).unlink(missing_ok=True)

    async def _make(self, server_id: str, image: ImageRef | None, size_gb: int, disk: Path | None = None) -> None:
        """A fresh overlay, aside, then in place."""
        disk = disk or self.places.disk(server_id)
        disk.parent.mkdir(parents=True, exist_ok=True)
        fresh = disk.with_name(disk.name + ".new")
        fresh.unlink(missing_ok=True)
        size_bytes = size_gb * GIB
        argv = ["qemu-img", "create", "-q", "-f", "qcow2"]
        if image is not None:
            base, kind, virtual = await self._base(image, size_bytes)
            size_bytes = size_bytes or virtual
            argv += ["-b", f"../../images/{base.name}", "-F", kind]
        need_room(disk.parent, 1 << 20, f"the disk of server {server_id}")
        try:
            await run([*argv, str(fresh), str(max(size_bytes, 1 << 20))], code="disk")
            fresh.rename(disk)
        finally:
            fresh.unlink(missing_ok=True)

    async def _base(self, image: ImageRef, most_bytes: int) -> tuple[Path, str, int]:
        """The image in the cache as a raw file: path, qemu format, virtual size. Fetched, checked and unpacked if it is not there, but not one of more
        than `most_bytes` (0: any size).

        Raw, because a guest's firmware reads a few sectors at a time and a compressed image would be unpacked again for each of them.
        """
        if image.disk_format not in FORMATS:
            raise DriverError(f"image {image.id} has the disk format {image.disk_format}; this host runs {', '.join(FORMATS)}", "bad-image")
        name = f"{image.sha512[:40] or image.id}.{image.disk_format}.raw"
        path = self.places.base(name)
        async with self._bases.setdefault(name, asyncio.Lock()):
            if path.exists():
                os.utime(path)
                _fits(image, path.stat().st_size, most_bytes)
                return path, "raw", path.stat().st_size
            need_room(self.places.images, image.size_bytes, f"image {image.id}")
            partial = path.with_name(name + ".part")
            try:
                await self._download(image, partial)
                virtual = await inspect(partial, image.disk_format, image.id)
                _fits(image, virtual, most_bytes)
                if image.disk_format not in ("raw", "iso", "ami"):
                    partial = await self._unpack(image, partial)
            except DriverError:
                partial.unlink(missing_ok=True)
                raise
            except OSError as error:
                partial.unlink(missing_ok=True)
                raise _disk_problem(error, f"fetching image {image.id}") from error
            partial.chmod(0o444)
            partial.rename(path)
            return path, "raw", virtual

    async def _download(self, image: ImageRef, partial: Path) -> None:
        await self.images.download(image, partial)
        if image.sha512:
            found = await asyncio.to_thread(digest, partial)
            if found != image.sha512:
                raise DriverError(f"image {image.id} does not have the checksum on record (sha512 {found[:16]}…, not {image.sha512[:16]}…)", "checksum")

    async def _unpack(self, image: ImageRef, packed: Path) -> Path:
        """A sparse raw file of the same content; the packed one goes either way."""
        raw = packed.with_suffix(".unpacked")
        kind = QEMU_NAMES.get(image.disk_format, image.disk_format)
        try:
            await run(["qemu-img", "convert", "-q", "-f", kind, "-O", "raw", str(packed), str(raw)], deadline_s=3600.0, code="disk")
        except DriverError:
            raw.unlink(missing_ok=True)
            raise
        finally:
            packed.unlink(missing_ok=True)
        return raw

    async def grow(self, server_id: str, size_gb: int) -> None:
        """To at least `size_gb`; a disk is never made smaller."""
        disk = self.places.disk(server_id)
        if not disk.exists():
            raise DriverError(f"there is no disk of server {server_id} on this host", "no-disk")
        info = json.loads(await run(["qemu-img", "info", "-U", "-f", "qcow2", "--output=json", str(disk)], code="disk"))
        if int(info["virtual-size"]) < size_gb * GIB:
            await run(["qemu-img", "resize", "-q", "-f", "qcow2", str(disk), str(size_gb * GIB)], code="disk")

    # moving ---------------------------------------------------------------------------------------------------------
    def base_of(self, server_id: str, disk: Path | None = None) -> str:
        """The cached image a disk (the server's own, if none is named) stands on, '' for none; read from the overlay's own header."""
        try:
            return Path(backing_of(disk or self.places.disk(server_id))[0]).name
        except FileNotFoundError as error:
            raise DriverError(f"there is no disk of server {server_id} on this host", "no-disk") from error

    async def manifest(self, server_id: str) -> Manifest:
        """For another host that wants a copy. The disk must not be in use."""
        disk, base = self.places.disk(server_id), self.base_of(server_id)
        sha = await asyncio.to_thread(digest, disk)
        if not base:
            return Manifest(disk.stat().st_size, sha)
        path = self.places.base(base)
        return Manifest(disk.stat().st_size, sha, base, path.stat().st_size, await asyncio.to_thread(digest, path))

    async def fetch(self, server_id: str, source: str, address: str) -> str:
        """See the Protocol. What a broken copy left is taken up again if it is of the same disk."""
        if self.peer is None:
            raise DriverError("this host has no way to copy disks from others", "unsupported")
        manifest = msgspec.convert(await self.peer.manifest(address, server_id), Manifest)
        disk = self.places.disk(server_id)
        if disk.exists() and await asyncio.to_thread(digest, disk) == manifest.sha512:
            return manifest.sha512
        disk.parent.mkdir(parents=True, exist_ok=True)
        try:
            if manifest.base:
                await self._fetch_base(manifest, address)
            partial = disk.with_name(f"disk.from.{manifest.sha512[:16]}")
            for other in disk.parent.glob("disk.from.*"):
                if other != partial:
                    other.unlink()
            have = partial.stat().st_size if partial.exists() else 0
            need_room(disk.parent, manifest.size_bytes - have, f"the disk of server {server_id}")
            await self.peer.fetch(address, f"/disks/{server_id}/data", partial, manifest.size_bytes, manifest.sha512)
        except OSError as error:
            for other in disk.parent.glob("disk.from.*"):
                other.unlink()
            raise _disk_problem(error, f"copying the disk of server {server_id} from {source}") from error
        try:
            _refuse_foreign(partial, manifest)
        except DriverError:
            partial.unlink()
            raise
        partial.rename(disk)
        return manifest.sha512

    async def _fetch_base(self, manifest: Manifest, address: str) -> None:
        path = self.places.base(manifest.base)
        async with self._bases.setdefault(manifest.base, asyncio.Lock()):
            if path.exists():
                return
            assert self.peer is not None
            need_room(self.places.images, manifest.base_size_bytes, f"image {manifest.base}")
            partial = path.with_name(manifest.base + ".from")
            try:
                await self.peer.fetch(address, f"/images/{manifest.base}", partial, manifest.base_size_bytes, manifest.base_sha512)
            except OSError:
                partial.unlink(missing_ok=True)
                raise
            partial.chmod(0o444)
            partial.rename(path)

    async def checksum(self, server_id: str) -> str:
        disk = self.places.disk(server_id)
        if not disk.exists():
            raise DriverError(f"there is no disk of server {server_id} on this host", "no-disk")
        return await asyncio.to_thread(digest, disk)

    async def snapshot(self, server_id: str, image_id: str) -> ImageRef:
        """The disk without its base, in the format its image had (qcow2 when it had none), into the store."""
        disk = self.places.disk(server_id)
        base = self.base_of(server_id)
        was = base.split(".")[-2] if base else "qcow2"
        kind = QEMU_NAMES.get(was, was)
        path = disk.with_name(f"snapshot.{image_id}")
        below = self.places.base(base).stat().st_blocks if base else 0  # what the guest has not overwritten is in it too
        need_room(disk.parent, (disk.stat().st_blocks + below) * 512, f"the snapshot of server {server_id}")
        try:
            # -U: a paused or running guest has the disk open; what it has not flushed is not in the image, as after a power cut.
            await run(["qemu-img", "convert", "-q", "-U", "-f", "qcow2", "-O", kind, *(["-c"] if kind == "qcow2" else []), str(disk), str(path)],
                      deadline_s=3600.0, code="disk")
            sha, md5 = await asyncio.gather(asyncio.to_thread(digest, path), asyncio.to_thread(digest, path, "md5"))
            blob = await self.images.upload(image_id, path)
            return ImageRef(blob, path.stat().st_size, was, sha, {"md5": md5})
        except OSError as error:
            raise _disk_problem(error, f"snapshot of server {server_id}") from error
        finally:
            path.unlink(missing_ok=True)

    async def discard(self, server_id: str) -> None:
        folder = self.places.instance(server_id)
        if folder.exists():
            self.places.disk(server_id).unlink(missing_ok=True)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _collect(self) -> None:
        """Delete bases that no overlay here names and nobody has used for a while."""
        used = set()
        for server_id in await self.list():
            try:
                used.add(self.base_of(server_id))
                if self.places.rescue_disk(server_id).exists():
                    used.add(self.base_of(server_id, self.places.rescue_disk(server_id)))
            except DriverError:
                continue
        for path in self.places.images.iterdir():
            if path.name not in used and self.env.now() - path.stat().st_mtime > BASE_KEPT_S:
                path.unlink(missing_ok=True)


def _refuse_foreign(copy: Path, manifest: Manifest) -> None:
    """The other host wrote this header, and what it names would be read on this one."""
    named, kind = backing_of(copy)
    if (named, kind) != ((f"../../images/{manifest.base}", "raw") if manifest.base else ("", "")):
        raise DriverError(f"the copied disk stands on {named[:200]!r} ({kind}), which is no image of this host", "bad-image")


def _fits(image: ImageRef, virtual_bytes: int, most_bytes: int) -> None:
    """Before it is unpacked: a small file may claim any size."""
    if most_bytes and virtual_bytes > most_bytes:
        raise DriverError(f"image {image.id} needs a disk of {-(-virtual_bytes // GIB)} GiB, the flavor gives {most_bytes // GIB} GiB", "image-too-large")


def _disk_problem(error: OSError, doing: str) -> DriverError:
    return DriverError(f"{doing}: {error.strerror or error}", "no-space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "disk")


class FolderImages:
    """An ImageStore on a folder of files named by image id: for hosts on the controller's own machine, and for tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def download(self, image: ImageRef, path: Path) -> None:
        source = self.folder / image.id
        if not source.exists():
            raise DriverError(f"image {image.id} has no data", "no-image")
        await asyncio.to_thread(shutil.copyfile, source, path)

    async def upload(self, image_id: str, path: Path) -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(shutil.copyfile, path, self.folder / image_id)
        return image_id
