"""Bytes between machines, over real TLS on loopback: who may have which image or disk, what a broken copy costs, and what a bad one leaves (nothing)."""
from __future__ import annotations

import asyncio
import errno
import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fabric.test_websocket import Site, on_site

from virga.agent import disk as disk_room
from virga.agent import transfer
from virga.agent.disk import FolderImages, QcowDisks
from virga.agent.hypervisor import DriverError, ImageRef
from virga.agent.identity import HostIdentity
from virga.agent.imagestore import ControllerImages
from virga.agent.transfer import TransferClient, TransferServer, client_context, server_context
from virga.domain.image import filled, new_image_row
from virga.domain.operation import Command
from virga.fabric.wire import Welcome
from virga.ops import enrolment
from virga.runtime.env import real_env

IMAGE = "00000000-0000-4000-8000-0000000000aa"
SERVER = "00000000-0000-4000-8000-0000000000bb"
DATA = bytes(range(256)) * 12288  # 3 MiB
needs_qemu = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


def files(identity: HostIdentity) -> tuple[Path, Path, Path]:
    return identity.folder / "host.crt", identity.folder / "host.key", identity.folder / "ca.crt"


def store_of(site: Site, identity: HostIdentity, port: int | None = None) -> ControllerImages:
    images = ControllerImages(site.env, site.door.url, client_context(*files(identity)))
    images.welcomed(Welcome(1, "", site.hub.images_port if port is None else port))
    return images


async def with_image(site: Site) -> ImageRef:
    """An active image with DATA in the cloud's store."""
    writer = site.door._images._blobs.create(IMAGE)
    await writer.write(DATA)
    await writer.commit()
    sha = hashlib.sha512(DATA).hexdigest()

    def insert(tx: object) -> None:
        row = new_image_row(IMAGE, "p1", 0.0, name="i", disk_format="raw")
        tx.insert(row)  # type: ignore[attr-defined]
        from virga.domain.image import Image

        tx.update(Image, IMAGE, **filled(len(DATA), "", sha, IMAGE, len(DATA), 0.0))  # type: ignore[attr-defined]

    await site.db.run(insert)
    return ImageRef(IMAGE, len(DATA), "raw", sha)


async def order(site: Site, host: str, verb: str, args: dict[str, object]) -> None:
    await site.db.run(lambda tx: tx.put(Command(f"c-{host}-{verb}", host, verb, SERVER, "op", "step", 1, 1, args=args)))


async def refused(work: Callable[[], object], code: str) -> str:
    with pytest.raises(DriverError) as caught:
        await work()  # type: ignore[misc]
    assert caught.value.code == code, caught.value
    return str(caught.value)


def test_a_host_gets_only_images_that_a_command_to_it_names(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        one, two = await site.host("h1"), await site.host("h2")
        image = await with_image(site)
        target = tmp_path / "got"
        await refused(lambda: store_of(site, one).download(image, target), "no-disk")
        await order(site, "h1", "create", {"spec": {"image": {"id": IMAGE}}})
        await store_of(site, one).download(image, target)
        assert target.read_bytes() == DATA
        # a broken copy is taken up where it ended
        target.write_bytes(DATA[:1 << 20])
        await store_of(site, one).download(image, target)
        assert target.read_bytes() == DATA
        await refused(lambda: store_of(site, two).download(image, tmp_path / "no"), "no-disk")
        await site.db.run(lambda tx: enrolment.strike_off(tx, "h1"))
        await refused(lambda: store_of(site, one).download(image, tmp_path / "no"), "no-disk")
        assert not (tmp_path / "no").exists() or (tmp_path / "no").stat().st_size == 0

    on_site(tmp_path, story)


def test_a_snapshot_is_taken_only_from_the_host_that_makes_it(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        one, two = await site.host("h1"), await site.host("h2")
        source = tmp_path / "disk"
        source.write_bytes(DATA)
        await refused(lambda: store_of(site, one).upload(IMAGE, source), "no-image")
        await order(site, "h1", "snapshot", {"image_id": IMAGE})
        assert await store_of(site, one).upload(IMAGE, source) == IMAGE
        blobs = site.door._images._blobs
        assert b"".join([part async for part in blobs.read(IMAGE)]) == DATA
        await refused(lambda: store_of(site, two).upload(IMAGE, source), "no-image")

    on_site(tmp_path, story)


def test_another_host_cannot_pose_as_the_controller(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        one, two = await site.host("h1"), await site.host("h2")
        disks = QcowDisks(site.env, tmp_path / "posing", FolderImages(tmp_path))
        server = TransferServer(disks)
        port = await server.open("127.0.0.1", 0, server_context(*files(two)))
        said = await refused(lambda: store_of(site, one, port).download(ImageRef(IMAGE, 5), tmp_path / "no"), "unreachable")
        assert "virga-controller" in said
        await server.close()

    on_site(tmp_path, story)


@needs_qemu
def test_disks_are_copied_only_with_leave_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(site: Site) -> None:
        one, two = await site.host("h1"), await site.host("h2")
        joined = two.joined()
        assert joined is not None
        leave: set[str] = set()
        source = QcowDisks(site.env, tmp_path / "a", FolderImages(tmp_path / "images"))
        await source.open()
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / IMAGE).write_bytes(DATA)
        await source.create(SERVER, ImageRef(IMAGE, len(DATA), "raw", hashlib.sha512(DATA).hexdigest()), 1)
        server = TransferServer(source, lambda peer, server_id: peer in leave)
        port = await server.open("127.0.0.1", 0, server_context(*files(one)))
        target = QcowDisks(site.env, tmp_path / "b", FolderImages(tmp_path / "none"), TransferClient(site.env, client_context(*files(two))))
        await target.open()
        nobody = TransferClient(site.env, None)
        with monkeypatch.context() as impatient:
            impatient.setattr(transfer, "PATIENCE_S", 0.0)
            await refused(lambda: nobody.manifest(f"127.0.0.1:{port}", SERVER), "unreachable")
        # the leave comes a moment after the copy is asked for, as a view may
        asyncio.get_running_loop().call_later(0.3, leave.add, joined.host_id)
        checksum = await target.fetch(SERVER, "h1", f"127.0.0.1:{port}")
        assert checksum == await source.checksum(SERVER) == await target.checksum(SERVER)
        assert target.places.disk(SERVER).read_bytes() == source.places.disk(SERVER).read_bytes()
        assert (await target.manifest(SERVER)).base == (await source.manifest(SERVER)).base
        await server.close()

    on_site(tmp_path, story)


def left(disks: QcowDisks) -> list[str]:
    return [str(path.relative_to(disks.places.folder)) for path in disks.places.folder.rglob("*") if path.is_file()]


@needs_qemu
@pytest.mark.parametrize(("what", "code"), [("checksum", "checksum"), ("corrupt", "bad-image"), ("backing", "bad-image"), ("large", "image-too-large"),
                                            ("full", "no-space"), ("full-midway", "no-space")])
def test_bad_images_and_full_disks_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, code: str) -> None:
    async def story() -> None:
        images = tmp_path / "images"
        images.mkdir()
        file = images / IMAGE
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *(["-b", "/etc/passwd", "-F", "raw"] if what == "backing" else []), str(file),
                        "3G" if what == "large" else "64M"], check=True)
        if what == "corrupt":
            data = bytearray(file.read_bytes())
            data[48:56] = (1 << 40).to_bytes(8, "big")  # the refcount table is said to be far behind the end
            file.write_bytes(bytes(data))
        sha = hashlib.sha512(b"other" if what == "checksum" else file.read_bytes()).hexdigest()
        disks = QcowDisks(real_env("test"), tmp_path / "host", FolderImages(images))
        await disks.open()
        if what == "full":
            monkeypatch.setattr(disk_room, "room", lambda folder: 1 << 20)
        if what == "full-midway":
            async def fails(image: ImageRef, path: Path) -> None:
                path.write_bytes(b"half")
                raise OSError(errno.ENOSPC, "No space left on device")

            monkeypatch.setattr(disks.images, "download", fails)
        with pytest.raises(DriverError) as caught:
            await disks.create(SERVER, ImageRef(IMAGE, file.stat().st_size, "qcow2", sha), 1)
        assert caught.value.code == code, caught.value
        assert await disks.list() == {}
        assert left(disks) == []

    asyncio.run(story())


class Wall:
    """A way to a server that can be cut in the middle: what flows stops, what comes anew is refused."""

    def __init__(self, port: int) -> None:
        self._to, self._pairs, self.passed, self.cut_at = port, [], 0, 0

    async def open(self) -> int:
        self.server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.port = int(self.server.sockets[0].getsockname()[1])
        return self.port

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", self._to)
        self._pairs += [writer, forth]

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, count: bool) -> None:
            while block := await source.read(1 << 14):
                self.passed += len(block) if count else 0
                if count and self.cut_at and self.passed > self.cut_at:
                    self.cut_at = 0
                    self.server.close()
                    for end in self._pairs:
                        end.transport.abort()
                    asyncio.get_running_loop().call_later(2.5, self._mend)
                    return
                sink.write(block)
                await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, forth, False), pump(back, writer, True), return_exceptions=True)

    def _mend(self) -> None:
        async def again() -> None:
            self.server = await asyncio.start_server(self._pass, "127.0.0.1", self.port)

        self.again = asyncio.get_running_loop().create_task(again())


@needs_qemu
def test_a_copy_outlives_a_cut_on_its_way_and_goes_on_where_it_was(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        one, two = await site.host("h1"), await site.host("h2")
        source = QcowDisks(site.env, tmp_path / "a", FolderImages(tmp_path / "images"))
        await source.open()
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / IMAGE).write_bytes(DATA)
        await source.create(SERVER, ImageRef(IMAGE, len(DATA), "raw", hashlib.sha512(DATA).hexdigest()), 1)
        server = TransferServer(source)
        wall = Wall(await server.open("127.0.0.1", 0, server_context(*files(one))))
        port = await wall.open()
        wall.cut_at = 2 << 20
        target = QcowDisks(site.env, tmp_path / "b", FolderImages(tmp_path / "none"), TransferClient(site.env, client_context(*files(two))))
        await target.open()
        checksum = await target.fetch(SERVER, "h1", f"127.0.0.1:{port}")
        assert checksum == await source.checksum(SERVER)
        assert not wall.cut_at, "the way was cut"
        assert wall.passed < 1.6 * len(DATA), "what had come was not sent again"
        assert target.places.base(target.base_of(SERVER)).read_bytes() == DATA
        await server.close()

    on_site(tmp_path, story)


def test_a_way_that_stays_cut_ends_the_copy_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PATIENCE_S", 0.5)
    monkeypatch.setattr(transfer, "RETRY_S", 0.1)

    async def story(site: Site) -> None:
        one = await site.host("h1")
        closed = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = closed.sockets[0].getsockname()[1]
        closed.close()
        client = TransferClient(site.env, client_context(*files(one)))
        assert "cannot be reached" in await refused(lambda: client.manifest(f"127.0.0.1:{port}", SERVER), "unreachable")
        said = await refused(lambda: client.download(f"127.0.0.1:{port}", "/images/x", tmp_path / "x", 10), "unreachable")
        assert "broke off after 0 of 10 bytes" in said

    on_site(tmp_path, story)


@needs_qemu
def test_leave_to_copy_one_disk_is_no_leave_for_another_one_or_its_image(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        one, two = await site.host("h1"), await site.host("h2")
        joined = two.joined()
        assert joined is not None
        other = SERVER.replace("bb", "cc")
        source = QcowDisks(site.env, tmp_path / "a", FolderImages(tmp_path / "images"))
        await source.open()
        (tmp_path / "images").mkdir()
        for number, server_id in enumerate((SERVER, other)):
            (tmp_path / "images" / server_id).write_bytes(DATA + bytes([number]) * 512)
            sha = hashlib.sha512(DATA + bytes([number]) * 512).hexdigest()
            await source.create(server_id, ImageRef(server_id, len(DATA) + 512, "raw", sha), 1)
        monkey = pytest.MonkeyPatch()
        monkey.setattr(transfer, "ALLOW_WAIT_S", 0.1)
        server = TransferServer(source, lambda peer, server_id: peer == joined.host_id and server_id == SERVER)
        at = f"127.0.0.1:{await server.open('127.0.0.1', 0, server_context(*files(one)))}"
        client = TransferClient(site.env, client_context(*files(two)))
        manifest = await client.manifest(at, SERVER)
        await client.download(at, f"/images/{manifest['base']}", tmp_path / "base", int(manifest["base_size_bytes"]))
        assert (tmp_path / "base").read_bytes().startswith(DATA)
        assert "may not have" in await refused(lambda: client.manifest(at, other), "no-disk")
        for path in (f"/disks/{other}/data", f"/images/{source.base_of(other)}", "/images/../instances/" + other + "/disk", "/images/%2e%2e"):
            await refused(lambda path=path: client.download(at, path, tmp_path / "no", 10), "no-disk")
        assert not (tmp_path / "no").exists()
        stranger = TransferClient(site.env, client_context(*files(one)))  # a host of this cloud, but not the one that has leave
        await refused(lambda: stranger.manifest(at, SERVER), "no-disk")
        monkey.undo()
        await server.close()

    on_site(tmp_path, story)
