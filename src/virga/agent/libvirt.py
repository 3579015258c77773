# ruff: noqa: ASYNC240 - looking at a local file takes microseconds; whatever reads or copies data goes through a thread
"""The hypervisor driver: libvirt on this host, through the binding, with its blocking calls off the loop and its events on it.

Rules: idempotent as the Protocol says; a lost connection to libvirtd is opened again at the next call and hinted for every guest, since guests live on
without it; a guest's state is asked, never remembered. NICs sit on taps made before (see libvirt_xml). `libvirt` is imported when the driver is made,
so that nothing else of Virga needs the library.
Live migration is peer to peer with copying of the disk: the destination made an empty overlay on the same base, libvirt's own daemons talk to each
other, so neither agent has to live through it. An agent that finds the guest already over there counts that as done.
"""
from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from virga.agent import configdrive, libvirt_xml, netlink
from virga.agent.hypervisor import DriverError, GuestSpec, ImageRef, Inventory, Nic
from virga.agent.libvirt_xml import GuestPlace, Machine
from virga.agent.places import Places
from virga.runtime.env import Env

T = TypeVar("T")
THREADS = 4
STATE_POLL_S = 0.05
DAEMON_WAIT_S, DAEMON_POLL_S = 20.0, 0.2  # a service manager starts libvirtd again within a second or two
DETACH_WAIT_S, DETACH_POLL_S = 20.0, 0.1
CONSOLE_MAX_BYTES = 1 << 20
KEEPALIVE_S, KEEPALIVE_COUNT = 5, 4
MIB, GIB = 1 << 20, 1 << 30


class LibvirtOptions(msgspec.Struct, frozen=True):
    """`uri` of this host's libvirtd. `peer_uri` makes another host's, with {address}. `migrate_tls`: encrypt the migration stream too.

    `disk_gb` 0 means: the size of the file system of `folder`. `reserved_ram_mb` is kept from the inventory for the host itself.
    """

    folder: str
    uri: str = "qemu:///system"
    peer_uri: str = "qemu+tls://{address}/system"
    migrate_tls: bool = True
    peer_folder: str = ""  # where `folder` is on another host, with {host}; '' means the same path
    machine: Machine = Machine()
    disk_gb: int = 0
    ram_mb: int = 0
    vcpus: int = 0
    reserved_ram_mb: int = 512


class Incoming(Protocol):
    """What the driver asks of the disk driver around a live migration."""

    async def prepare_incoming(self, server_id: str, image: ImageRef | None, size_gb: int) -> None: ...
    def arrived(self, server_id: str) -> None: ...


class LibvirtHypervisor:
    """agent.hypervisor.Hypervisor over libvirt. Raises DriverError 'missing' when the binding is not installed."""

    def __init__(self, env: Env, options: LibvirtOptions, disks: Incoming) -> None:
        try:
            import libvirt
            import libvirtaio
        except ImportError as error:
            raise DriverError("the libvirt binding is not installed; run `make libvirt`, or pip install 'virga-cloud[libvirt]'", "missing") from error
        self._lib: Any = libvirt
        self._aio: Any = libvirtaio
        self.env, self.options, self._disks = env, options, disks
        self.places = Places(Path(options.folder))
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="libvirt")
        self._connection: Any = None
        self._opening = asyncio.Lock()
        self._changed: Callable[[str], None] = lambda server_id: None
        self._turns: dict[str, asyncio.Event] = {}
        self._known: set[str] = set()
        self._ours: set[tuple[str, str]] = set()  # (UUID, name) of domains that were seen to carry our mark
        self._closed = self._listening = False

    # connection -----------------------------------------------------------------------------------------------------
    async def open(self, changed: Callable[[str], None]) -> None:
        """Connect, listen to events, see what runs."""
        self._changed = changed
        if not self._listening:  # once a process; `open` may be tried again
            self._lib.registerErrorHandler(lambda _context, _error: None, None)
            self._aio.virEventRegisterAsyncIOImpl()
            self._listening = True
        self.places.instances.mkdir(parents=True, exist_ok=True)
        await self._connect()
        self._known = set(await self.guests())
        self.env.spawn(self._stay_connected(), "libvirt")

    async def close(self) -> None:
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(self._lib.libvirtError):
                await self._in_thread(connection.close)
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def _connect(self) -> Any:
        async with self._opening:
            if self._connection is not None:
                return self._connection
            try:
                connection = await self._in_thread(lambda: self._lib.open(self.options.uri))
            except self._lib.libvirtError as error:
                raise DriverError(f"libvirt at {self.options.uri} cannot be reached: {error.get_error_message()}; is libvirtd running?",
                                  "unreachable") from error
            connection.domainEventRegisterAny(None, self._lib.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._event, None)
            connection.domainEventRegisterAny(None, self._lib.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, self._device_event, None)
            connection.registerCloseCallback(self._lost, None)
            with contextlib.suppress(self._lib.libvirtError):
                connection.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)
            self._connection = connection
            return connection

    async def _stay_connected(self) -> None:
        """A libvirtd that comes back must be heard again, even if nobody asks for anything."""
        while not self._closed:
            await self.env.sleep(1.0)
            if self._connection is None:
                with contextlib.suppress(DriverError):
                    await self._connect()
                    self._hint_all()

    def _lost(self, _connection: Any, _reason: int, _opaque: Any) -> None:
        self._connection = None
        self._hint_all()

    def _hint_all(self) -> None:
        for server_id in list(self._known):
            self._hint(server_id)

    def _hint(self, server_id: str) -> None:
        turn = self._turns.pop(server_id, None)
        if turn is not None:
            turn.set()
        self._changed(server_id)

    def _event(self, _connection: Any, domain: Any, _event: int, _detail: int, _opaque: Any) -> None:
        server_id = libvirt_xml.server_of(domain.name())
        if server_id:
            self._known.add(server_id)
            self._hint(server_id)

    def _device_event(self, _connection: Any, domain: Any, _device: str, _opaque: Any) -> None:
        server_id = libvirt_xml.server_of(domain.name())
        if server_id:
            self._hint(server_id)

    async def _call(self, work: Callable[[Any], T], doing: str) -> T:
        """Run `work(connection)` in a thread. A daemon that went away is waited for, since guests outlive it and so must what was asked of it; all
        work is such that doing it twice harms nothing. Raises DriverError.
        """
        end = self.env.monotonic() + DAEMON_WAIT_S
        while True:
            patient = self.env.monotonic() < end and not self._closed
            try:
                connection = await self._connect()
            except DriverError:
                if not patient:
                    raise
                await self.env.sleep(DAEMON_POLL_S)
                continue
            try:
                return await self._in_thread(functools.partial(work, connection))
            except self._lib.libvirtError as error:
                lost = error.get_error_domain() == self._lib.VIR_FROM_RPC or (error.get_error_code() in (
                    self._lib.VIR_ERR_INTERNAL_ERROR, self._lib.VIR_ERR_SYSTEM_ERROR, self._lib.VIR_ERR_INVALID_CONN) and not await self._answers(connection))
                if lost and self._connection is connection:
                    self._connection = None
                if not lost or not patient:
                    raise self._problem(error, doing) from error

    async def _answers(self, connection: Any) -> bool:
        try:
            return bool(await self._in_thread(connection.isAlive))
        except self._lib.libvirtError:
            return False

    def _problem(self, error: Any, doing: str) -> DriverError:
        message = error.get_error_message() or str(error)
        code = {self._lib.VIR_ERR_NO_DOMAIN: "no-guest", self._lib.VIR_ERR_OPERATION_INVALID: "conflict",
                self._lib.VIR_ERR_OPERATION_TIMEOUT: "timeout"}.get(error.get_error_code(), "failed")
        if "No space left" in message:
            code = "no-space"
        return DriverError(f"{doing}: {message}", code)

    def _find(self, connection: Any, server_id: str, making: bool = False) -> Any:
        """The domain, or None. Blocking. One that has the name and is not ours counts as none, but for whoever is `making` one: DriverError 'conflict'."""
        try:
            domain = connection.lookupByName(libvirt_xml.NAME_PREFIX + server_id)
        except self._lib.libvirtError as error:
            if error.get_error_code() == self._lib.VIR_ERR_NO_DOMAIN:
                return None
            raise
        if not self._is_ours(domain):
            if not making:
                return None
            raise DriverError(f"a domain called {domain.name()} is in the way on this host: it is not ours", "conflict")
        return domain

    def _is_ours(self, domain: Any) -> bool:
        """Whether we defined it: its name alone proves nothing. Blocking."""
        place = (domain.UUIDString(), domain.name())
        if place not in self._ours:
            try:
                domain.metadata(self._lib.VIR_DOMAIN_METADATA_ELEMENT, libvirt_xml.NAMESPACE, 0)
            except self._lib.libvirtError as error:
                if error.get_error_code() == self._lib.VIR_ERR_NO_DOMAIN_METADATA:
                    return False
                raise
            self._ours.add(place)
        return True

    def _need(self, connection: Any, server_id: str) -> Any:
        domain = self._find(connection, server_id)
        if domain is None:
            raise DriverError(f"guest {server_id} is not defined on this host", "no-guest")
        return domain

    # looking --------------------------------------------------------------------------------------------------------
    async def inventory(self) -> Inventory:
        def look(connection: Any) -> Inventory:
            model, memory_mib, cpus, *_ = connection.getInfo()
            disk_gb = self.options.disk_gb or _disk_gb(self.places.folder)
            ram_mb = self.options.ram_mb or max(0, int(memory_mib) - self.options.reserved_ram_mb)
            detail = {"driver": "libvirt", "virt_type": self.options.machine.virt_type, "machine": self.options.machine.machine, "cpu": str(model),
                      "libvirt_version": int(connection.getLibVersion())}
            return Inventory(self.options.vcpus or int(cpus), ram_mb, disk_gb, "QEMU", int(connection.getVersion()), detail)

        return await self._call(look, "asking libvirt about this host")

    async def guests(self) -> dict[str, str]:
        def look(connection: Any) -> dict[str, str]:
            found = {}
            for domain in connection.listAllDomains(0):
                server_id = libvirt_xml.server_of(domain.name())
                if server_id:
                    try:
                        if not self._is_ours(domain):
                            continue
                        found[server_id] = self._state(domain)
                        if found[server_id] == "running" and domain.isPersistent():
                            self._disks.arrived(server_id)
                    except self._lib.libvirtError as error:
                        # Only a guest that is gone may be left out: one that cannot be asked (a daemon coming up) must not look like one that is not there.
                        if error.get_error_code() != self._lib.VIR_ERR_NO_DOMAIN:
                            raise
            return found

        found = await self._call(look, "listing guests")
        self._known |= set(found)
        return found

    def _state(self, domain: Any) -> str:
        """One of running, paused, held, stopped, suspended, crashed, incoming. Blocking."""
        lib = self._lib
        state, reason = domain.state()
        if state in (lib.VIR_DOMAIN_RUNNING, lib.VIR_DOMAIN_BLOCKED, lib.VIR_DOMAIN_SHUTDOWN):
            return "running"
        if state == lib.VIR_DOMAIN_PAUSED:
            # All our guests are persistent, but for one that is still on its way here; at the end of the way it is, but does not run yet.
            if reason == lib.VIR_DOMAIN_PAUSED_MIGRATION or not domain.isPersistent():
                return "incoming"
            return "held" if self._is_held(domain) else "paused"
        if state == lib.VIR_DOMAIN_PMSUSPENDED:
            return "paused"
        if state == lib.VIR_DOMAIN_CRASHED:
            return "crashed"
        if domain.hasManagedSaveImage():
            return "suspended"
        # DAEMON: a new libvirtd found the guest's process gone, so nobody stopped it in order
        bad = (lib.VIR_DOMAIN_SHUTOFF_CRASHED, lib.VIR_DOMAIN_SHUTOFF_FAILED, lib.VIR_DOMAIN_SHUTOFF_DAEMON)
        return "crashed" if reason in bad else "stopped"

    def _is_held(self, domain: Any) -> bool:
        try:
            return libvirt_xml.is_held(domain.metadata(self._lib.VIR_DOMAIN_METADATA_ELEMENT, libvirt_xml.NAMESPACE, 0))
        except self._lib.libvirtError:
            return False

    # making and unmaking --------------------------------------------------------------------------------------------
    def _place(self, spec: GuestSpec) -> GuestPlace:
        drive = str(self.places.config_drive(spec.server_id)) if spec.config_drive else ""
        rescue = str(self.places.rescue_disk(spec.server_id)) if spec.rescue is not None else ""
        return GuestPlace(str(self.places.disk(spec.server_id)), str(self.places.console(spec.server_id)), drive, rescue)

    def _with_taps(self, spec: GuestSpec) -> GuestSpec:
        """Without the NICs that nobody has wired (admin down, or plugging failed and is not fatal): qemu could not open their taps."""
        there = netlink.dump()
        return msgspec.structs.replace(spec, nics=[nic for nic in spec.nics if nic.tap in there])

    def _xml(self, spec: GuestSpec, place: GuestPlace, held: bool = False) -> str:
        return libvirt_xml.domain_xml(spec, place, self.options.machine, held)

    async def _prepare(self, spec: GuestSpec) -> GuestPlace:
        place = self._place(spec)
        if place.config_drive:
            await self._in_thread(lambda: configdrive.write(spec, Path(place.config_drive)))
        return place

    async def launch(self, spec: GuestSpec, *, held: bool) -> None:
        """See the Protocol. A guest already running (or held, when that is asked for) is left alone."""
        spec = self._with_taps(spec)
        place = await self._prepare(spec)
        if not Path(place.disk).exists():
            raise DriverError(f"server {spec.server_id} has no disk on this host", "no-disk")
        flags = self._lib.VIR_DOMAIN_START_PAUSED if held else 0

        def work(connection: Any) -> None:
            domain = self._find(connection, spec.server_id, making=True)
            if domain is not None and domain.isActive():
                state = self._state(domain)
                if state == "running" or (state == "held" and held):
                    return
                domain.destroy()
            self._forget_saved(domain)
            domain = connection.defineXML(self._xml(spec, place, held))
            domain.createWithFlags(flags)

        await self._call(work, f"starting guest {spec.server_id}")

    def _forget_saved(self, domain: Any) -> None:
        if domain is not None and domain.hasManagedSaveImage():
            domain.managedSaveRemove()

    async def define(self, spec: GuestSpec) -> None:
        place = await self._prepare(spec)

        def work(connection: Any) -> None:
            domain = self._find(connection, spec.server_id, making=True)
            if domain is not None and domain.isActive():
                domain.destroy()
            connection.defineXML(self._xml(spec, place))

        await self._call(work, f"defining guest {spec.server_id}")

    async def undefine(self, server_id: str) -> None:
        flags = self._lib.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | self._lib.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA

        def work(connection: Any) -> None:
            domain = self._find(connection, server_id)
            if domain is None:
                return
            if domain.isActive():
                domain.destroy()
            self._ours.discard((domain.UUIDString(), domain.name()))
            if self._find(connection, server_id) is not None:  # an incoming guest is transient and gone by now
                domain.undefineFlags(flags)

        await self._call(work, f"removing guest {server_id}")
        self._known.discard(server_id)

    # power ----------------------------------------------------------------------------------------------------------
    async def resume(self, server_id: str) -> None:
        def work(connection: Any) -> None:
            domain = self._need(connection, server_id)
            if not domain.isActive():
                raise DriverError(f"guest {server_id} is not running, so it cannot be resumed", "conflict")
            self._mark(domain, False)
            if domain.state()[0] == self._lib.VIR_DOMAIN_PAUSED:
                domain.resume()

        await self._call(work, f"resuming guest {server_id}")

    def _mark(self, domain: Any, held: bool) -> None:
        flags = self._lib.VIR_DOMAIN_AFFECT_LIVE | self._lib.VIR_DOMAIN_AFFECT_CONFIG
        if self._is_held(domain) != held:
            domain.setMetadata(self._lib.VIR_DOMAIN_METADATA_ELEMENT, libvirt_xml.mark_text(held), "virga", libvirt_xml.NAMESPACE, flags)

    async def pause(self, server_id: str) -> None:
        def work(connection: Any) -> None:
            domain = self._need(connection, server_id)
            if domain.state()[0] != self._lib.VIR_DOMAIN_PAUSED:
                domain.suspend()

        await self._call(work, f"pausing guest {server_id}")

    async def stop(self, server_id: str, *, graceful_s: float) -> None:
        """ACPI button first, for up to `graceful_s`; then the plug. A stopped or absent guest is left alone."""
        def ask(connection: Any) -> bool:
            domain = self._find(connection, server_id)
            if domain is None or not domain.isActive():
                self._forget_saved(domain)
                return True
            if graceful_s <= 0 or domain.state()[0] != self._lib.VIR_DOMAIN_RUNNING:
                return False
            with contextlib.suppress(self._lib.libvirtError):
                domain.shutdownFlags(self._lib.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
            return False

        if await self._call(ask, f"stopping guest {server_id}"):
            return
        if graceful_s > 0 and await self._wait_inactive(server_id, graceful_s):
            return

        def pull(connection: Any) -> None:
            domain = self._find(connection, server_id)
            if domain is not None and domain.isActive():
                try:
                    domain.destroy()
                except self._lib.libvirtError:
                    if domain.isActive():
                        raise

        await self._call(pull, f"stopping guest {server_id}")

    async def _wait_inactive(self, server_id: str, timeout_s: float) -> bool:
        """Whether the guest ends within the time; woken by its events, and looked at twice a second in case one is lost."""
        def active(connection: Any) -> bool:
            domain = self._find(connection, server_id)
            return domain is not None and bool(domain.isActive())

        end = self.env.monotonic() + timeout_s
        while True:
            turn = self._turns.setdefault(server_id, asyncio.Event())
            if not await self._call(active, f"watching guest {server_id}"):
                return True
            left = end - self.env.monotonic()
            if left <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, 0.5)):
                    await turn.wait()

    async def reset(self, server_id: str) -> None:
        await self._call(lambda connection: self._need(connection, server_id).reset(0), f"resetting guest {server_id}")

    async def suspend(self, server_id: str) -> None:
        """The guest's memory goes to a file; it takes no room until `wake`."""
        def work(connection: Any) -> None:
            domain = self._need(connection, server_id)
            if domain.isActive():
                domain.managedSave(0)

        await self._call(work, f"suspending guest {server_id}")

    async def wake(self, server_id: str) -> None:
        def work(connection: Any) -> None:
            domain = self._need(connection, server_id)
            if not domain.isActive():
                domain.create()

        await self._call(work, f"waking guest {server_id}")

    # devices and console --------------------------------------------------------------------------------------------
    def _scope(self, domain: Any) -> int:
        live = self._lib.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0
        return int(live | self._lib.VIR_DOMAIN_AFFECT_CONFIG)

    async def attach_nic(self, server_id: str, nic: Nic) -> None:
        def work(connection: Any) -> None:
            domain = self._need(connection, server_id)
            if not libvirt_xml.find_nic(domain.XMLDesc(0), nic.tap):
                domain.attachDeviceFlags(libvirt_xml.nic_xml(nic), self._scope(domain))

        await self._call(work, f"attaching port {nic.port_id} to guest {server_id}")

    async def detach_nic(self, server_id: str, nic: Nic) -> None:
        """Returns when the guest has let the card go. Raises DriverError 'timeout' when it does not."""
        def there(connection: Any) -> str:
            domain = self._find(connection, server_id)
            return "" if domain is None else libvirt_xml.find_nic(domain.XMLDesc(0), nic.tap)

        def ask(connection: Any) -> None:
            domain = self._need(connection, server_id)
            live = libvirt_xml.find_nic(domain.XMLDesc(0), nic.tap)
            kept = libvirt_xml.find_nic(domain.XMLDesc(self._lib.VIR_DOMAIN_XML_INACTIVE), nic.tap)
            if kept:
                domain.detachDeviceFlags(kept, self._lib.VIR_DOMAIN_AFFECT_CONFIG)
            if live and domain.isActive():
                with contextlib.suppress(self._lib.libvirtError):  # already under way from an earlier try
                    domain.detachDeviceFlags(live, self._lib.VIR_DOMAIN_AFFECT_LIVE)

        if not await self._call(there, f"looking at guest {server_id}"):
            return
        end = self.env.monotonic() + DETACH_WAIT_S
        tries = 0
        while await self._call(there, f"looking at guest {server_id}"):
            if self.env.monotonic() > end:
                raise DriverError(f"guest {server_id} did not let go of port {nic.port_id} within {DETACH_WAIT_S:g} s", "timeout")
            if tries % 20 == 0:  # a guest that was still booting ignores the first request
                await self._call(ask, f"detaching port {nic.port_id} from guest {server_id}")
            tries += 1
            await self.env.sleep(DETACH_POLL_S)

    async def console_log(self, server_id: str, length: int | None) -> str:
        """The last `length` lines (None: all kept) of the serial console."""
        path = self.places.console(server_id)

        def read() -> str:
            try:
                with path.open("rb") as file:
                    file.seek(max(0, path.stat().st_size - CONSOLE_MAX_BYTES))
                    return file.read().decode("utf-8", "replace")
            except FileNotFoundError:
                return ""

        text = await self._in_thread(read)
        if length is None:
            return text
        return "\n".join(text.splitlines()[-length:]) + "\n" if length > 0 and text else ""

    # live migration -------------------------------------------------------------------------------------------------
    async def prepare_incoming(self, spec: GuestSpec) -> None:
        """An empty overlay on the guest's image to copy into, and its config drive. The disk counts as a disk only when the guest runs on it."""
        await self._disks.prepare_incoming(spec.server_id, spec.image, spec.disk_gb)
        await self._prepare(spec)

    async def migrate_live(self, server_id: str, dest: str, address: str, spec: GuestSpec) -> None:
        """Peer to peer, disk copied, source undefined."""
        lib, options = self._lib, self.options
        flags = (lib.VIR_MIGRATE_LIVE | lib.VIR_MIGRATE_PEER2PEER | lib.VIR_MIGRATE_PERSIST_DEST | lib.VIR_MIGRATE_UNDEFINE_SOURCE
                 | lib.VIR_MIGRATE_NON_SHARED_INC | lib.VIR_MIGRATE_AUTO_CONVERGE)
        if options.migrate_tls:
            flags |= lib.VIR_MIGRATE_TLS
        host = address.rpartition(":")[0] if address.count(":") == 1 else address
        places = Places(Path(options.peer_folder.format(host=dest))) if options.peer_folder else self.places
        place = GuestPlace(str(places.disk(server_id)), str(places.console(server_id)), str(places.config_drive(server_id)))

        def work(connection: Any) -> None:
            domain = self._need(connection, server_id)
            live = libvirt_xml.moved(domain.XMLDesc(lib.VIR_DOMAIN_XML_MIGRATABLE | lib.VIR_DOMAIN_XML_SECURE), place)
            kept = libvirt_xml.moved(domain.XMLDesc(lib.VIR_DOMAIN_XML_INACTIVE | lib.VIR_DOMAIN_XML_SECURE), place)
            domain.migrateToURI3(options.peer_uri.format(address=host, host=dest), {
                lib.VIR_MIGRATE_PARAM_DEST_XML: live, lib.VIR_MIGRATE_PARAM_PERSIST_XML: kept, lib.VIR_MIGRATE_PARAM_MIGRATE_DISKS: ["vda"]}, flags)

        await self._call(work, f"moving guest {server_id} to {dest}")
        self._hint(server_id)


def _disk_gb(folder: Path) -> int:
    room = os.statvfs(folder)
    return int(room.f_blocks * room.f_frsize // GIB)
