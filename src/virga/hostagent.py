"""The composition of one host's agent as a process of its own: identity, drivers, journal, link. serve.py's counterpart on the other end.

Nobody imports it but the commands and tests. The drivers are chosen by configuration: `libvirt` (see agent/libvirt.py and friends) or `fake`.
"""
from __future__ import annotations

import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from virga.agent import needs
from virga.agent.disk import QcowDisks
from virga.agent.fake import FakeDisks, FakeHypervisor, FakeWiring, Machine, Neighbourhood, NoImages, Script
from virga.agent.hypervisor import Disks, DriverError, Hypervisor, WiringDriver
from virga.agent.identity import HostIdentity, Joined
from virga.agent.imagestore import ControllerImages
from virga.agent.journal import Journal
from virga.agent.libvirt import LibvirtHypervisor, LibvirtOptions
from virga.agent.libvirt_xml import Machine as GuestMachine
from virga.agent.linuxbridge import LinuxBridgeWiring, WiringOptions
from virga.agent.polling import wiring_for
from virga.agent.session import Agent
from virga.agent.transfer import TransferClient, TransferServer, client_context, server_context
from virga.domain.config import Config
from virga.fabric.link import Link
from virga.fabric.websocket import Refused, dial
from virga.runtime.env import real_env
from virga.runtime.trace import Event, Trace


class CannotJoin(Exception):
    """One clear line about why this host is not part of a cloud."""


class HostProcess:
    """See the module. `join` first, then `start`."""

    def __init__(self, config: Config, state: Path, name: str, address: str) -> None:
        """Raises CannotJoin when this machine cannot be such a host: before anything is made here, and before a token is used."""
        why = needs.why_not(config.virt_type, urlsplit(config.libvirt.uri).netloc == "") if config.hypervisor == "libvirt" else ""
        if why:
            raise CannotJoin(why)
        self.config, self.state, self.name, self.address = config, state, name, address
        self.env = real_env(name)
        self.trace = Trace(self.env.now)
        self.trace.add_sink(_tell)
        self.identity = HostIdentity(self.env, self._folder())
        self.joined: Joined | None = None
        self.agent: Agent | None = None
        self._transfer: TransferServer | None = None

    def _folder(self) -> Path:
        try:
            self.state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotJoin(f"cannot use {self.state}: {error.strerror}; choose another folder with --state") from error
        return self.state / "identity"

    async def join(self, token: str | None) -> Joined:
        """Who we are in the cloud; enrols with the token the first time. Raises CannotJoin."""
        try:
            joined = self.identity.moved(token) if token is not None else self.identity.joined()
        except ValueError as error:
            raise CannotJoin(str(error)) from error
        if joined is None:
            if token is None:
                raise CannotJoin("this host has not joined a cloud yet; give it a token with --join (the controller prints one)")
            try:
                joined = await self.identity.join(token, self.name)
            except (ValueError, Refused) as error:
                raise CannotJoin(str(error)) from error
            except OSError as error:
                raise CannotJoin(f"the controller cannot be reached: {error}") from error
        self.joined = joined
        return joined

    async def start(self) -> None:
        joined = self.joined
        assert joined is not None, "join comes first"
        journal = Journal(self.state / "agent.log", durable=True)
        address = self.address or own_address(joined.url)
        if self.config.hypervisor == "libvirt":
            self.agent = await self._real(joined, journal, address)
        else:
            hypervisor, disks, wiring = self._fakes(joined.host)
            self.agent = Agent(self.env, self.trace, joined.host, joined.host_id, self.config.compute, hypervisor, disks, wiring, journal, self._dial,
                               address, self.identity)
        self.env.spawn(self.agent.run(), "agent")

    async def _real(self, joined: Joined, journal: Journal, address: str) -> Agent:
        """The agent over libvirt, Linux bridges and qcow2 files. Raises CannotJoin where this machine cannot do that."""
        options, mappings = self.config.libvirt, self.config.network.physical_interface_mappings
        files = (self.identity.folder / "host.crt", self.identity.folder / "host.key", self.identity.folder / "ca.crt")
        client = self.identity.keep_current(client_context(*files))
        images = ControllerImages(self.env, joined.url, client)
        disks = QcowDisks(self.env, self.state, images, TransferClient(self.env, client))
        network = self.config.network
        wiring = wiring_for(self.env, WiringOptions(
            str(self.state / "net"), options.runtime, address, mappings, options.namespace_prefix, network.minimize_polling, network.polling_interval))
        try:
            hypervisor = LibvirtHypervisor(self.env, LibvirtOptions(
                str(self.state), options.uri, options.peer_uri, options.migrate_tls, options.peer_folder,
                GuestMachine(self.config.virt_type, options.machine, options.cpu_mode), options.disk_gb, options.ram_mb, options.vcpus,
                options.reserved_ram_mb), disks)
            self._transfer = TransferServer(disks, lambda peer, server_id: _may_copy(wiring, peer, server_id))
            await self._transfer.open(address, options.transfer_port, self.identity.keep_current(server_context(*files)))
        except DriverError as error:
            raise CannotJoin(str(error)) from error
        detail = {"networking": "linuxbridge", "physical_interface_mappings": mappings, "tunnel_address": address}
        return Agent(self.env, self.trace, joined.host, joined.host_id, self.config.compute, hypervisor, disks, wiring, journal, self._dial, address,
                     self.identity, detail, images.welcomed)

    async def _dial(self) -> Link:
        assert self.joined is not None
        try:
            link = await dial(self.env, self.joined.url, self.identity.context())
            link.tell = lambda text: self._say(text)
            return link
        except ssl.SSLError as error:
            raise OSError(str(error)) from error

    def _fakes(self, host: str) -> tuple[Hypervisor, Disks, WiringDriver]:
        machine = Machine(host, Journal(self.state / "machine.log"), msgspec.convert(self.config.fake, Script))
        neighbours = Neighbourhood()
        neighbours.add(machine)
        return (FakeHypervisor(self.env, machine, neighbours), FakeDisks(self.env, machine, neighbours, NoImages()), FakeWiring(self.env, machine))

    def _say(self, text: str) -> None:
        self.trace.emit("fault", self.name, "", text)

    async def stop(self) -> None:
        if self._transfer is not None:
            await self._transfer.close()
        if self.agent is not None:
            await self.agent.wiring.close()
            await self.agent.hypervisor.close()
        await self.env.stop()


def own_address(url: str) -> str:
    """The address of this machine that leads to the controller at `url`. Nothing is sent."""
    where = urlsplit(url)
    try:
        family, kind, _, _, address = socket.getaddrinfo(where.hostname, where.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"


def _may_copy(wiring: LinuxBridgeWiring, peer: str, server_id: str) -> bool:
    """Whether the controller's view lets the host with this id copy a server's disk."""
    return peer in wiring.view.copies.get(server_id, [])


def _tell(event: Event) -> None:
    if event.kind == "fault":
        print(f"{event.src}: {event.text}", flush=True)
