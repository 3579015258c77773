"""A guest as libvirt's domain XML, and back: pure text in, text out.

Rules: a NIC is `type=ethernet, managed=no` on a tap that the wiring driver has made, so libvirt never touches a bridge; serial output goes to a plain
file, which needs no helper daemon; `held` is a mark in the domain's metadata, so that a guest waiting for its release is told from a paused one
whatever was restarted in between. `virt_type` is what the operator says: a /dev/kvm that opens proves nothing.
The domain's UUID is the server's id, its name `virga-<server id>`.
"""
from __future__ import annotations

import re
from xml.etree import ElementTree as Xml

import msgspec

from virga.agent.hypervisor import GuestSpec, Nic

NAMESPACE = "https://virga.cloud/libvirt/1"
NAME_PREFIX = "virga-"
SERVER_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Translation block cache of the emulator: its default is 1 GiB of address space and most of a small guest's resident memory.
TCG_CACHE_MIB = 32


class GuestPlace(msgspec.Struct, frozen=True):
    """Where a guest's things are on this host: full paths. `config_drive` and `rescue` '' for none."""

    disk: str
    console: str
    config_drive: str = ""
    rescue: str = ""


class Machine(msgspec.Struct, frozen=True):
    """How guests are built here. `virt_type` kvm or qemu; `machine` a qemu machine type; `cpu_mode` a libvirt CPU mode, used with kvm only."""

    virt_type: str = "kvm"
    machine: str = "pc"
    cpu_mode: str = "host-model"


def _child(parent: Xml.Element, tag: str, text: str = "", **attributes: str) -> Xml.Element:
    element = Xml.SubElement(parent, tag, {name.rstrip("_"): value for name, value in attributes.items()})
    element.text = text or None
    return element


def domain_xml(spec: GuestSpec, place: GuestPlace, machine: Machine, held: bool = False) -> str:
    """The whole domain."""
    root = Xml.Element("domain", {"type": machine.virt_type})
    _child(root, "name", NAME_PREFIX + spec.server_id)
    _child(root, "uuid", spec.server_id)
    _child(root, "title", "".join(letter for letter in spec.name if letter.isprintable())[:60].replace("\n", " ") or "server")
    metadata = _child(root, "metadata")
    metadata.append(mark_element(held))
    _child(root, "memory", str(spec.ram_mb), unit="MiB")
    _child(root, "vcpu", str(spec.vcpus), placement="static")
    os = _child(root, "os")
    _child(os, "type", "hvm", arch="x86_64", machine=machine.machine)
    rescue = rescue_of(spec, place)
    if rescue is None or not rescue.last:
        _child(os, "boot", dev="hd")  # else the rescue disk carries the boot order, and libvirt takes only one of the two
    features = _child(root, "features")
    _child(features, "acpi")
    _child(features, "apic")
    if machine.virt_type == "kvm":
        _child(root, "cpu", mode=machine.cpu_mode)
    clock = _child(root, "clock", offset="utc")
    if machine.virt_type == "kvm":
        _child(clock, "timer", name="pit", tickpolicy="delay")
        _child(clock, "timer", name="rtc", tickpolicy="catchup")
    else:
        _child(features, "tcg").append(Xml.fromstring(f"<tb-cache unit='MiB'>{TCG_CACHE_MIB}</tb-cache>"))
    _child(root, "on_poweroff", "destroy")
    _child(root, "on_reboot", "restart")
    _child(root, "on_crash", "destroy")
    devices = _child(root, "devices")
    letters = iter("abc")
    if rescue is not None and not rescue.last:
        _overlay(devices, place.rescue, f"vd{next(letters)}", "virtio")
    disk = _overlay(devices, place.disk, f"vd{next(letters)}", "virtio")
    _child(disk, "serial", spec.server_id[:20])
    if place.config_drive:
        drive = _child(devices, "disk", type="file", device="disk")
        _child(drive, "driver", name="qemu", type="raw")
        _child(drive, "source", file=place.config_drive)
        _child(drive, "target", dev=f"vd{next(letters)}", bus="virtio")
        _child(drive, "readonly")
    if rescue is not None and rescue.last:
        extra = _overlay(devices, place.rescue, f"vd{next(letters)}" if rescue.bus == "virtio" else DEVICES[rescue.bus], rescue.bus, rescue.device)
        _child(extra, "boot", order="1")
        if rescue.bus == "scsi":
            _child(devices, "controller", type="scsi", model="virtio-scsi")
    if rescue is None or rescue.bus != "usb":
        _child(devices, "controller", type="usb", model="none")
    for nic in spec.nics:
        devices.append(nic_element(nic))
    serial = _child(devices, "serial", type="file")
    _child(serial, "source", path=place.console, append="on")
    _child(serial, "target", port="0")
    console = _child(devices, "console", type="file")
    _child(console, "source", path=place.console, append="on")
    _child(console, "target", type="serial", port="0")
    _child(devices, "memballoon", model="none")
    rng = _child(devices, "rng", model="virtio")
    _child(rng, "backend", "/dev/urandom", model="random")
    return Xml.tostring(root, encoding="unicode")


class Rescue(msgspec.Struct, frozen=True):
    """How the rescue disk is attached. `last` leaves the server's own disk in its place; else the rescue disk takes that and pushes it to second."""

    last: bool
    bus: str = "virtio"
    device: str = "disk"


DEVICES = {"scsi": "sda", "usb": "sdb", "ide": "hda", "sata": "sdc"}


def rescue_of(spec: GuestSpec, place: GuestPlace) -> Rescue | None:
    """As Nova does: an image that names `hw_rescue_device` or `hw_rescue_bus` is attached last, any other takes the first disk's place."""
    if spec.rescue is None or not place.rescue:
        return None
    device, bus = spec.rescue.properties.get("hw_rescue_device", ""), spec.rescue.properties.get("hw_rescue_bus", "")
    if not device and not bus:
        return Rescue(False)
    device = device if device in ("disk", "cdrom") else "disk"
    default = "ide" if device == "cdrom" else "virtio"
    return Rescue(True, bus if bus in ("virtio", *DEVICES) else default, device)


def _overlay(devices: Xml.Element, path: str, target: str, bus: str, device: str = "disk") -> Xml.Element:
    """A qcow2 file as a disk."""
    disk = _child(devices, "disk", type="file", device=device)
    discard = {"discard": "unmap"} if device == "disk" else {}
    _child(disk, "driver", name="qemu", type="qcow2", cache="writeback", **discard)
    _child(disk, "source", file=path)
    _child(disk, "target", dev=target, bus=bus)
    return disk


def mark_element(held: bool) -> Xml.Element:
    """Our element in the domain's metadata."""
    return Xml.Element(f"{{{NAMESPACE}}}guest", {"held": "yes" if held else "no"})


def mark_text(held: bool) -> str:
    return f"<guest held='{'yes' if held else 'no'}'/>"


def is_held(text: str) -> bool:
    """Whether a domain's XML, or our metadata element alone, carries the held mark."""
    root = Xml.fromstring(text)
    found = root if root.tag.rpartition("}")[2] == "guest" else root.find(f"metadata/{{{NAMESPACE}}}guest")
    return found is not None and found.get("held") == "yes"


def nic_element(nic: Nic) -> Xml.Element:
    """A NIC on a tap that exists already."""
    interface = Xml.Element("interface", {"type": "ethernet"})
    _child(interface, "mac", address=nic.mac)
    _child(interface, "target", dev=nic.tap, managed="no")
    _child(interface, "model", type="virtio")
    if nic.mtu:
        _child(interface, "mtu", size=str(nic.mtu))
    _child(interface, "alias", name="ua-" + nic.port_id)
    _child(interface, "rom", enabled="no")
    if not nic.admin_up:
        _child(interface, "link", state="down")
    return interface


def nic_xml(nic: Nic) -> str:
    return Xml.tostring(nic_element(nic), encoding="unicode")


def find_nic(text: str, tap: str) -> str:
    """The interface element of a domain's XML that is on this tap, '' when there is none."""
    for interface in Xml.fromstring(text).findall("devices/interface"):
        target = interface.find("target")
        if target is not None and target.get("dev") == tap:
            return Xml.tostring(interface, encoding="unicode")
    return ""


def server_of(name: str) -> str:
    """The server id behind a domain's name, '' for a name that is not of our making.

    An operator's own domain may still be called so; our element in its metadata is what counts.
    """
    found = name.removeprefix(NAME_PREFIX)
    return found if found != name and SERVER_ID.fullmatch(found) else ""


def moved(text: str, place: GuestPlace) -> str:
    """A domain's XML with the paths of another host, for a live migration."""
    root = Xml.fromstring(text)
    for disk in root.findall("devices/disk"):
        source, target = disk.find("source"), disk.find("target")
        if source is not None and target is not None:
            source.set("file", place.disk if target.get("dev") == "vda" else place.config_drive)
            for extra in list(source):
                source.remove(extra)
        for stale in disk.findall("backingStore"):
            disk.remove(stale)
    for device in [*root.findall("devices/serial"), *root.findall("devices/console")]:
        source = device.find("source")
        if source is not None:
            source.set("path", place.console)
    return Xml.tostring(root, encoding="unicode")
