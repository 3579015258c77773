"""Bad images and full disks, through controller, image door and agent, over real TLS: the API says why, the host is clean, nothing is lost."""
from __future__ import annotations

import asyncio
import errno
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.fabric.test_websocket import Site

from virga.agent import disk as disk_room
from virga.agent.disk import QcowDisks
from virga.agent.fake import Machine
from virga.agent.hypervisor import ImageRef
from virga.agent.identity import HostIdentity
from virga.agent.imagestore import ControllerImages
from virga.agent.transfer import TransferClient, TransferServer, client_context, server_context
from virga.domain.image import Image, filled, new_image_row
from virga.domain.network import Network
from virga.domain.port import Binding, Port
from virga.domain.server import ACTIVE, DELETED, ERROR, RESCUED, RESIZED, Server
from virga.ops import front
from virga.sim.world import BIG, NETWORK_ID, PROJECT, SMALL, USER
from virga.store.db import Tx

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


class OneDisk(QcowDisks):
    """Real disks under an emulated guest, which looks for its disk in its own machine."""

    machine: Machine

    async def create(self, server_id: str, image: ImageRef | None, size_gb: int) -> None:
        await super().create(server_id, image, size_gb)
        self.machine.set_disk(server_id, b"there\n")

    async def fetch(self, server_id: str, source: str, address: str) -> str:
        found = await super().fetch(server_id, source, address)
        self.machine.set_disk(server_id, b"there\n")
        return found

    async def rescue(self, server_id: str, image: ImageRef, size_gb: int) -> None:
        await super().rescue(server_id, image, size_gb)
        self.machine.set_rescue_disk(server_id, b"there\n")

    async def discard(self, server_id: str) -> None:
        await super().discard(server_id)
        self.machine.set_disk(server_id, None)


class Shop(Site):
    """A site with hosts of real disks that copy from each other, and images."""

    disks: OneDisk  # of the first host
    all_disks: dict[str, OneDisk]

    async def stock(self, count: int = 1) -> None:
        self.all_disks = {}
        for name in [f"h{number + 1}" for number in range(count)]:
            identity = HostIdentity(self.env, self.folder / name)
            await identity.join(await self.door.invite(60.0), name)
            files = (identity.folder / "host.crt", identity.folder / "host.key", identity.folder / "ca.crt")
            store = ControllerImages(self.env, self.door.url, client_context(*files))
            disks = OneDisk(self.env, self.folder / name, store, TransferClient(self.env, client_context(*files)))
            port = await TransferServer(disks).open("127.0.0.1", 0, server_context(*files))

            def driver(_: HostIdentity, machine: Machine, disks: OneDisk = disks) -> OneDisk:
                disks.machine = machine
                return disks

            self.all_disks[name] = disks
            await self.host(name, identity, driver, store.welcomed, f"127.0.0.1:{port}")
        self.disks = self.all_disks["h1"]
        self.machine = self.disks.machine
        await self.db.run(lambda tx: tx.insert(Network(id=NETWORK_ID, project_id=PROJECT, name="net")))

    async def image(self, data: bytes, declared: str, sha512: str = "") -> str:
        """An active image; `sha512` lies about the bytes."""
        image_id = self.env.new_id()
        writer = self.door._images._blobs.create(image_id)
        await writer.write(data)
        await writer.commit()

        def insert(tx: Tx) -> None:
            tx.insert(new_image_row(image_id, PROJECT, 0.0, name="i", disk_format=declared))
            tx.update(Image, image_id, **filled(len(data), "", sha512 or hashlib.sha512(data).hexdigest(), image_id, len(data), 0.0))

        await self.db.run(insert)
        return image_id

    async def server(self, image_id: str) -> str:
        server_id = self.env.new_id()
        await self.db.run(lambda tx: front.boot(
            tx, self.ask(), Server(server_id, PROJECT, USER, "s", SMALL, image_id=image_id), [front.NicRequest(network_id=NETWORK_ID)]))
        return server_id

    async def ends(self, server_id: str, state: str) -> Server | None:
        async with asyncio.timeout(20.0):
            while True:
                server = await self.db.read(lambda tx: tx.get(Server, server_id))
                if server is None or (server.vm_state == state and server.operation_id is None):
                    return server
                await asyncio.sleep(0.01)

    def left(self, host: str = "h1") -> list[str]:
        """Disks, halves, cached images and taps on the host."""
        folder = self.folder / host
        files = [str(path.relative_to(folder)) for part in ("images", "instances") for path in (folder / part).rglob("*") if path.is_file()]
        return files + [key for key in self.all_disks[host].machine.journal.values if key.startswith(("tap", "disk/", "guest/"))]


def in_shop(tmp_path: Path, story: object, hosts: int = 1) -> None:
    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.open()
        try:
            await shop.stock(hosts)
            await story(shop)  # type: ignore[operator]
        finally:
            await shop.close()

    asyncio.run(main())


def made(folder: Path, *more: str, size: str = "8M") -> bytes:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *more, str(folder / "made"), size], check=True)
    return (folder / "made").read_bytes()


BAD = {
    "backing": ("qcow2", "refers to a backing file"),
    "truncated": ("qcow2", "is damaged"),
    "raw lie": ("raw", "its bytes are qcow2"),
    "vmdk lie": ("vmdk", "keeps its data in itself"),
    "checksum": ("raw", "does not have the checksum on record"),
    "large": ("qcow2", "the flavor gives 1 GiB"),
    "full": ("raw", "no room for image"),
}


@pytest.mark.parametrize("what", list(BAD))
def test_the_server_is_in_error_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    declared, said = BAD[what]

    async def story(shop: Shop) -> None:
        data = {"backing": lambda: made(tmp_path, "-b", "/etc/passwd", "-F", "raw"), "truncated": lambda: made(tmp_path, size="64M")[:100_000],
                "raw lie": lambda: made(tmp_path), "large": lambda: made(tmp_path, size="3G")}.get(what, lambda: b"\x01" * (1 << 20))()
        if what == "full":
            monkeypatch.setattr(disk_room, "room", lambda folder: 1 << 20)
        image_id = await shop.image(data, declared, hashlib.sha512(b"other").hexdigest() if what == "checksum" else "")
        server_id = await shop.server(image_id)
        server = await shop.ends(server_id, ERROR)
        assert server is not None and server.fault is not None
        assert said in server.fault.message, server.fault.message
        assert shop.left() == []
        ports = await shop.db.read(lambda tx: tx.find(Port, device_id=server_id))
        assert ports and not await shop.db.read(lambda tx: tx.find(Binding, port_id=ports[0].id)), "the port is bound nowhere"
        await shop.db.run(lambda tx: front.delete(tx, shop.ask(), tx.need(Server, server_id)))
        gone = await shop.ends(server_id, DELETED)
        assert gone is None or gone.deleted_at

    in_shop(tmp_path, story)


def test_a_good_image_boots_and_another_one_rescues(tmp_path: Path) -> None:
    """What the door gives a host: the image its guest is made from, and the one it is rescued by."""
    async def story(shop: Shop) -> None:
        first, other = await shop.image(b"\x01" * (1 << 20), "raw"), await shop.image(b"\x02" * (1 << 20), "raw")
        server_id = await shop.server(first)
        assert (await shop.ends(server_id, ACTIVE)) is not None
        await shop.db.run(lambda tx: front.rescue(tx, shop.ask(), tx.need(Server, server_id), other))
        assert (await shop.ends(server_id, RESCUED)) is not None
        assert shop.disks.base_of(server_id) != shop.disks.base_of(server_id, shop.disks.places.rescue_disk(server_id))

    in_shop(tmp_path, story)



def test_a_disk_that_fills_up_during_a_resize_leaves_the_server_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(shop: Shop) -> None:
        server_id = await shop.server(await shop.image(bytes(range(256)) * 4096, "raw"))
        server = await shop.ends(server_id, ACTIVE)
        assert server is not None and server.host
        home, other = server.host, next(name for name in shop.all_disks if name != server.host)
        before = await shop.all_disks[home].checksum(server_id)
        room, tried = shop.all_disks[other].peer, []
        assert isinstance(room, TransferClient)
        whole = room.fetch

        async def runs_full(address: str, path: str, target: Path, size_bytes: int, sha512: str) -> None:
            await whole(address, path, target, size_bytes, sha512)
            if path.startswith("/disks/"):
                tried.append(target.stat().st_size)
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(room, "fetch", runs_full)
        await shop.db.run(lambda tx: front.resize(tx, shop.ask(), tx.need(Server, server_id), BIG))
        server = await shop.ends(server_id, ACTIVE)
        assert tried and server is not None and server.host == home and server.fault is not None
        assert "No space left on device" in server.fault.message
        assert await shop.all_disks[home].checksum(server_id) == before
        assert [name for name in shop.left(other) if not name.startswith("images/")] == []
        # and with room again the same resize works
        monkeypatch.undo()
        await shop.db.run(lambda tx: front.resize(tx, shop.ask(), tx.need(Server, server_id), BIG))
        server = await shop.ends(server_id, RESIZED)
        assert server is not None and server.host == other

    in_shop(tmp_path, story, 2)


def test_a_snapshot_that_finds_no_room_leaves_server_and_image_list_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(shop: Shop) -> None:
        server_id = await shop.server(await shop.image(bytes(1 << 20), "raw"))
        assert await shop.ends(server_id, ACTIVE) is not None
        monkeypatch.setattr(disk_room, "room", lambda folder: 1 << 20)
        wanted = shop.env.new_id()

        def ask(tx: Tx) -> None:
            tx.insert(new_image_row(wanted, PROJECT, 0.0, name="snap"))
            front.snapshot(tx, shop.ask(), tx.need(Server, server_id), wanted)

        await shop.db.run(ask)
        server = await shop.ends(server_id, ACTIVE)
        assert server is not None and server.task_state is None
        images = await shop.db.read(lambda tx: tx.find(Image))
        assert [image.name for image in images] == ["i"]
        assert any("no room for the snapshot" in event.text for event in shop.events)
        assert not [name for name in shop.left() if "snapshot" in name]

    in_shop(tmp_path, story)
