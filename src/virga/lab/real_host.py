"""One real host under a Kilo cloud: an emulated machine's libvirtd, its bridge, its taps as the kernel tells of them, its disks as files.

Owns: what the Kilo driver and agent do to such a host, one method an effect, and the copy of what is there in the machine's journal, for the meter.
Habits of Kilo that are kept: libvirt makes the tap together with the guest and it goes with it; nobody but the polling agent bridges it.
Rules: taps and their bridging enter the journal by kernel event and by nothing else, so that the meter, and the measured time between the end of a tap and
a read of its port's status, do not depend on what the cloud under test believes. Disks are qcow2 overlays on one image; to "copy" one is to copy its
file from one host's folder to the other's. The host's network is reached by name (`ip -n`, a netlink socket opened in there), so one process can
stand for the services of both hosts.
"""
from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

from virga.agent import libvirt_xml, netlink
from virga.agent.command import attempt, ip_batch
from virga.agent.disk import FolderImages, QcowDisks
from virga.agent.fake import Machine
from virga.agent.hypervisor import DriverError, GuestSpec, ImageRef, Nic
from virga.agent.libvirt import LibvirtHypervisor, LibvirtOptions
from virga.agent.libvirt_xml import GuestPlace
from virga.agent.namespaces import within
from virga.domain.server import Server
from virga.lab.hosts import LabHost
from virga.lab.meter import BACKUP, MeteredJournal
from virga.runtime.env import Env

NETWORK = "5eed0000-0000-4000-8000-000000000001"
WARM = "warm-up"


class KiloHypervisor(LibvirtHypervisor):
    """The production driver, but for the tap: it comes and goes with the guest. Nobody here listens to libvirt's events, as Kilo's revert does not."""

    async def open(self, changed: Callable[[str], None]) -> None:
        self._lib.registerErrorHandler(lambda _context, _error: None, None)
        self.places.instances.mkdir(parents=True, exist_ok=True)
        await self._connect()

    async def _connect(self) -> Any:
        async with self._opening:
            if self._connection is None:
                try:
                    self._connection = await self._in_thread(lambda: self._lib.open(self.options.uri))
                except self._lib.libvirtError as error:
                    raise DriverError(f"libvirt at {self.options.uri} cannot be reached: {error.get_error_message()}", "unreachable") from error
            return self._connection

    def _with_taps(self, spec: GuestSpec) -> GuestSpec:
        return spec

    def _xml(self, spec: GuestSpec, place: GuestPlace, held: bool = False) -> str:
        root = Xml.fromstring(libvirt_xml.domain_xml(spec, place, self.options.machine, held))
        for target in root.findall("devices/interface/target"):
            target.attrib.pop("managed")  # libvirt's own default: the tap is its to make
        return Xml.tostring(root, encoding="unicode")


class RealMachine(Machine):
    """See the module. `ends` has when the kernel took each tap away (seconds since the epoch) and whose it was.

    A tap ends when QEMU, told to quit, lets it go. libvirt, when QEMU has ended some 0.2 s later, makes it once more for an instant to be sure that it is
    gone: that one was never up, and is not counted.
    """

    def __init__(self, name: str, journal: MeteredJournal, env: Env, host: LabHost, image: Path) -> None:
        super().__init__(name, journal)
        self.env, self.host = env, host
        self.folder = Path(host.folder)
        self.image = ImageRef(image.name, disk_format="qcow2")
        self.disks = QcowDisks(env, self.folder, FolderImages(image.parent))
        self.hypervisor = KiloHypervisor(env, LibvirtOptions(host.folder, host.libvirt_uri, machine=libvirt_xml.Machine("qemu")), self.disks)
        self.bridge = "brq" + NETWORK[:11]
        self.ports: dict[str, str] = {}  # tap -> port id
        self.ends: list[tuple[float, str]] = []
        self._up: set[str] = set()  # ports whose tap has been up since it last ended
        self.events_lost = 0  # times the kernel dropped events: what was measured is worth nothing then
        self._bridge_index = 0
        self._watch = netlink.Watch(self._heard, self._lost)

    async def open(self) -> None:
        """Bridge, ears, libvirt, and the image unpacked before anybody waits for it. Raises DriverError."""
        await ip_batch([f"link add {self.bridge} type bridge forward_delay 0 stp_state 0 mcast_snooping 0", f"link set {self.bridge} up"],
                       self.host.namespace)
        self._bridge_index = (await self.links())[self.bridge].index
        try:
            self._watch.open(lambda listener: within(self.host.namespace, listener))
        except OSError as error:
            raise DriverError(f"cannot hear of changes to the network of {self.name}: {error}", "forbidden") from error
        await self.disks.open()
        await self.hypervisor.open(lambda server_id: None)
        await self.disks.create(WARM, self.image, 1)
        await self.disks.discard(WARM)

    async def close(self) -> None:
        self._watch.close()
        await self.hypervisor.close()

    # taps -----------------------------------------------------------------------------------------------------------
    async def links(self) -> dict[str, netlink.Link]:
        """Every device of the host's network, asked of its kernel."""
        return await asyncio.to_thread(within, self.host.namespace, netlink.dump)

    async def taps(self) -> dict[str, object]:
        """port id -> interface index of every tap; a tap nobody has a port for stands under its own name."""
        found = sorted((link for link in (await self.links()).values() if link.kind == "tun"), key=lambda link: link.index)
        return {self.ports.get(link.name, link.name): link.index for link in found}

    async def join(self, port_id: str) -> bool:
        """Put the tap into the bridge; False when it has gone meanwhile."""
        status, _, _ = await attempt(["ip", "-n", self.host.namespace, "link", "set", "tap" + port_id[:11], "master", self.bridge, "up"])
        return status == 0

    def _heard(self, link: netlink.Link, gone: bool) -> None:
        port_id = self.ports.get(link.name)
        if port_id is None:
            return
        if gone and port_id in self._up:
            self._up.remove(port_id)
            self.ends.append((self.env.now(), port_id))
        elif link.up:
            self._up.add(port_id)
        bridged = not gone and link.master == self._bridge_index and link.up
        for key, value in (("tap/" + port_id, None if gone else link.index), ("bridged/" + port_id, link.index if bridged else None)):
            if self.journal.values.get(key) != value:
                self.journal.put(key, value)

    def _lost(self) -> None:
        self.events_lost += 1

    # guests ---------------------------------------------------------------------------------------------------------
    async def start_guest(self, server: Server, port_ids: list[str], *, paused: bool) -> None:
        nics = []
        for place, port_id in enumerate(port_ids):
            nic = Nic(port_id, 1, f"fa:16:3e:{port_id[:2]}:{port_id[2:4]}:{int(port_id[4:6], 16) * 8 + place & 255:02x}", NETWORK)
            self.ports[nic.tap] = port_id
            nics.append(nic)
        flavor = server.flavor
        await self.hypervisor.launch(GuestSpec(server.id, server.name, flavor.vcpus, flavor.ram_mb, flavor.disk_gb, nics), held=paused)
        self.set_guest(server.id, "paused" if paused else "running")

    async def stop_guest(self, server_id: str) -> None:
        await self.hypervisor.stop(server_id, graceful_s=0.0)
        self.set_guest(server_id, "stopped")

    async def resume_guest(self, server_id: str) -> None:
        await self.hypervisor.resume(server_id)
        self.set_guest(server_id, "running")

    async def forget_guest(self, server_id: str) -> None:
        await self.hypervisor.undefine(server_id)
        self.set_guest(server_id, None)

    # disks ----------------------------------------------------------------------------------------------------------
    def _aside(self, server_id: str) -> Path:
        folder = self.disks.places.instance(server_id)
        return folder.with_name(folder.name + BACKUP)

    def _note_disks(self, server_id: str) -> None:
        """What files there are, for the meter; what is new is told before what is gone, as a rename has it."""
        files = {server_id: self.disks.places.disk(server_id), server_id + BACKUP: self._aside(server_id) / "disk"}
        for name, path in sorted(files.items(), key=lambda item: not item[1].exists()):
            if path.exists() != ("disk/" + name in self.journal.values):
                self.set_disk(name, b"" if path.exists() else None)

    async def make_disk(self, server: Server) -> None:
        await self.disks.create(server.id, self.image, server.flavor.disk_gb)
        self._note_disks(server.id)

    async def delete_disk(self, server_id: str, *, aside: bool) -> None:
        if aside:
            await asyncio.to_thread(shutil.rmtree, self._aside(server_id), ignore_errors=True)
        else:
            await self.disks.discard(server_id)
        self._note_disks(server_id)

    async def put_disk_aside(self, server_id: str) -> None:
        self.disks.places.instance(server_id).rename(self._aside(server_id))
        self._note_disks(server_id)

    async def take_disk_back(self, server_id: str) -> None:
        if self._aside(server_id).exists():
            self._aside(server_id).rename(self.disks.places.instance(server_id))
            self._note_disks(server_id)

    async def copy_disk(self, server_id: str, other: RealMachine) -> None:
        """From what was put aside here."""
        disk = other.disks.places.disk(server_id)
        disk.parent.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(shutil.copyfile, self._aside(server_id) / "disk", disk)
        other._note_disks(server_id)
