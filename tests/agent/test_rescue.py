"""Rescue on a real host, as far as texts and files go: which disk boots, where the server's own disk is, and what is left afterwards."""
from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from virga.agent.disk import FolderImages, QcowDisks
from virga.agent.hypervisor import DriverError, GuestSpec, ImageRef
from virga.agent.libvirt_xml import GuestPlace, Machine, domain_xml
from virga.runtime.env import real_env

SERVER = "11111111-0000-4000-8000-000000000001"


def disks_of(properties: dict[str, str] | None, config_drive: bool = False) -> tuple[list[tuple[str, str, str, str]], bool, bool]:
    """([(file, target, bus, boot order)], whether the domain boots from its first disk, whether it has USB)."""
    image = None if properties is None else ImageRef("image", properties=properties)
    spec = GuestSpec(SERVER, "s", 1, 64, 1, config_drive=config_drive, rescue=image)
    place = GuestPlace("/own", "/console", "/config" if config_drive else "", "/rescue" if image else "")
    root = Xml.fromstring(domain_xml(spec, place, Machine("qemu")))
    found = []
    for disk in root.findall("devices/disk"):
        source, target, boot = disk.find("source"), disk.find("target"), disk.find("boot")
        assert source is not None and target is not None
        found.append((source.attrib["file"], target.attrib["dev"], target.attrib["bus"], "" if boot is None else boot.attrib["order"]))
    usb = root.find("devices/controller[@type='usb'][@model='none']") is None
    return found, root.find("os/boot") is not None, usb


def test_no_rescue() -> None:
    assert disks_of(None, True) == ([("/own", "vda", "virtio", ""), ("/config", "vdb", "virtio", "")], True, False)


def test_the_rescue_disk_takes_the_first_place() -> None:
    want = [("/rescue", "vda", "virtio", ""), ("/own", "vdb", "virtio", ""), ("/config", "vdc", "virtio", "")]
    assert disks_of({}, True) == (want, True, False)


@pytest.mark.parametrize(("bus", "device", "target", "usb"), [
    ("virtio", "disk", "vdb", False), ("scsi", "disk", "sda", False), ("usb", "disk", "sdb", True), ("ide", "cdrom", "hda", False), ("", "cdrom", "hda", False),
    ("nonsense", "disk", "vdb", False)])
def test_a_stable_rescue_disk_comes_last_and_boots_first(bus: str, device: str, target: str, usb: bool) -> None:
    properties = {key: value for key, value in (("hw_rescue_bus", bus), ("hw_rescue_device", device)) if value}
    found, boots_first_disk, has_usb = disks_of(properties)
    assert [(file, dev, order) for file, dev, _, order in found] == [("/own", "vda", ""), ("/rescue", target, "1")]
    assert not boots_first_disk  # libvirt refuses a domain that has both
    assert has_usb == usb


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
def test_rescue_disk_comes_and_goes_beside_the_own_one(tmp_path: Path) -> None:
    images = tmp_path / "store"
    images.mkdir()
    for name in ("base", "rescue"):
        (images / name).write_bytes(name.encode() * 1000 + b"\0" * (1 << 20))

    async def story() -> None:
        disks = QcowDisks(real_env("test"), tmp_path / "host", FolderImages(images))
        await disks.open()
        await disks.create(SERVER, ImageRef("base", (images / "base").stat().st_size), 1)
        own = disks.places.disk(SERVER).read_bytes()
        for _ in range(2):
            await disks.rescue(SERVER, ImageRef("rescue", (images / "rescue").stat().st_size), 1)
        assert disks.base_of(SERVER, disks.places.rescue_disk(SERVER)) != disks.base_of(SERVER)
        assert list(await disks.list()) == [SERVER]
        for _ in range(2):
            await disks.unrescue(SERVER)
        assert not disks.places.rescue_disk(SERVER).exists()
        with pytest.raises(DriverError):
            await disks.rescue(SERVER, ImageRef("nowhere"), 1)
        assert disks.places.disk(SERVER).read_bytes() == own
        await disks.discard(SERVER)
        assert await disks.list() == {}

    asyncio.run(story())
