"""The hypervisor driver of the Kilo clouds: Virga's fake hypervisor and disks, with the two habits that make the case possible.

Owns: guests, taps and disks on one host's Machine. Habits: the tap is made by the hypervisor together with the domain and goes with it (so the
disappearance of the tap is the only sign of an unplug), and a guest whose port was not ACTIVE is started paused until an event says so.
The effects of one call each stand together (`make_disk`, `_start_guest`, `_stop_guest` ...): a driver of a real host replaces those and nothing else.
Rules: `_create_domain_and_network` registers its waiters, then starts the domain, then waits; the timeout path destroys the guest and, in Kilo, cleans
up with destroy_disks, although by then this disk is the only one the guest has.
"""
from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from virga.agent.fake import FakeHypervisor
from virga.agent.hypervisor import GuestSpec
from virga.domain.server import Server
from virga.lab import kilo_rules as rules
from virga.lab.kilo_waiters import Waiter

if TYPE_CHECKING:
    from virga.lab.kilo import KiloCloud
    from virga.lab.kilo_compute import ComputeManager

BACKUP = "_resize"


class VirtualInterfaceCreateException(Exception):
    """Virtual Interface creation failed."""

    def __init__(self) -> None:
        super().__init__("Virtual Interface creation failed")


class Vif(msgspec.Struct, frozen=True):
    """One entry of the network info: read once, never looked at again."""

    port_id: str
    active: bool


class LibvirtDriver:
    """nova.virt.libvirt as far as the case needs it, on one host."""

    def __init__(self, cloud: KiloCloud, manager: ComputeManager) -> None:
        self.cloud, self.manager, self.host, self.env = cloud, manager, manager.host, manager.env
        self.machine = cloud.machines[self.host]
        self.hypervisor = FakeHypervisor(self.env, self.machine, cloud.neighbours)
        self.me = f"libvirt@{self.host}"

    # effects --------------------------------------------------------------------------------------------------------
    async def _start_guest(self, server: Server, *, paused: bool) -> None:
        """The guest and, with it, its taps."""
        for port in self.cloud.store.ports_of(server.id):
            self.machine.journal.put("tap/" + port.id, self.cloud.next_index())
        flavor = server.flavor
        await self.hypervisor.launch(GuestSpec(server.id, server.name, flavor.vcpus, flavor.ram_mb, flavor.disk_gb), held=paused)

    async def _stop_guest(self, server_id: str) -> None:
        """The plug is pulled; the taps go with the guest."""
        await self.hypervisor.stop(server_id, graceful_s=0.0)
        for port in self.cloud.store.ports_of(server_id):
            self.machine.journal.put("bridged/" + port.id, None)
            self.machine.journal.put("tap/" + port.id, None)

    async def _resume_guest(self, server_id: str) -> None:
        await self.hypervisor.resume(server_id)

    async def _forget_guest(self, server_id: str) -> None:
        await self.hypervisor.undefine(server_id)

    async def make_disk(self, server: Server) -> None:
        self.machine.set_disk(server.id, f"image of {server.name}\n".encode())

    async def delete_disk(self, server_id: str, *, aside: bool = False) -> None:
        """The disk, or the one that was put aside for a revert."""
        self.machine.set_disk(server_id + BACKUP if aside else server_id, None)

    async def _put_disk_aside(self, server_id: str) -> None:
        self.machine.set_disk(server_id + BACKUP, self.machine.disk(server_id) or b"")
        self.machine.set_disk(server_id, None)

    async def _take_disk_back(self, server_id: str) -> None:
        data = self.machine.disk(server_id + BACKUP)
        if data is not None:
            self.machine.set_disk(server_id, data)
            self.machine.set_disk(server_id + BACKUP, None)

    async def _copy_disk(self, server_id: str, dest: str) -> None:
        """From what was put aside here to the other host."""
        self.cloud.neighbours.reach(self.host, dest).set_disk(server_id, self.machine.disk(server_id + BACKUP) or b"")

    # domains and taps -----------------------------------------------------------------------------------------------
    async def _create_domain(self, server: Server, *, paused: bool) -> None:
        await self.env.sleep(self.cloud.delay("launch"))
        await self._start_guest(server, paused=paused)

    async def destroy(self, server_id: str, *, disks: bool, parent: int) -> None:
        """Power off; libvirt removes the taps with the domain; what follows (volumes, files, filters) takes its time."""
        await self.env.sleep(self.cloud.delay("destroy"))
        await self._stop_guest(server_id)
        self.cloud.tell("step", self.me, self.me, "libvirt removes the tap with the domain", parent, self.cloud.first_port(server_id))
        await self.env.sleep(self.cloud.delay("teardown"))
        await self._forget_guest(server_id)
        if disks:
            await self.delete_disk(server_id)

    # moves ----------------------------------------------------------------------------------------------------------
    async def migrate_disk_and_power_off(self, server: Server, dest: str) -> None:
        await self.env.sleep(self.cloud.delay("destroy"))
        await self._stop_guest(server.id)
        await self._put_disk_aside(server.id)
        await self.env.sleep(self.cloud.delay("copy"))
        await self._copy_disk(server.id, dest)

    async def finish_migration(self, server: Server, vifs: list[Vif], parent: int) -> None:
        """The new host after a resize: never waits (facts file 1.2, step 14)."""
        await self._create_domain_and_network(server, vifs, parent, already_plugged=True)

    async def finish_revert_migration(self, server: Server, vifs: list[Vif], parent: int) -> None:
        number = self.cloud.tell("message", self.manager.me, self.me, "finish_revert_migration", parent, self.cloud.first_port(server.id))
        await self._take_disk_back(server.id)
        await self._create_domain_and_network(server, vifs, number, already_plugged=not self.cloud.rules.waits_on_revert)

    # the wait -------------------------------------------------------------------------------------------------------
    def events_to_wait_for(self, vifs: list[Vif], already_plugged: bool) -> list[Vif]:
        """`_get_neutron_events`: the VIFs read as not active, unless the caller says they are plugged or the timeout is 0."""
        if already_plugged or not self.cloud.options.vif_plugging_timeout:
            return []
        return [vif for vif in vifs if not vif.active]

    async def _create_domain_and_network(self, server: Server, vifs: list[Vif], parent: int, *, already_plugged: bool) -> None:
        cloud = self.cloud
        port_id = cloud.first_port(server.id)
        number = cloud.tell("step", self.me, self.me, "_create_domain_and_network", parent, port_id)
        await self.env.point("before_registration", server=server.id)
        wanted = self.events_to_wait_for(vifs, already_plugged)
        waiters = [self.manager.waiters.prepare(server.id, f"{rules.PLUGGED}-{vif.port_id}") for vif in wanted]
        text = ", ".join(f"{rules.PLUGGED}-{vif.port_id} registered" for vif in wanted) or "no event to wait for"
        cloud.tell("step", self.me, self.me, text, number, port_id)
        await self._create_domain(server, paused=bool(waiters))
        made = cloud.tell("step", self.me, self.me, "libvirt creates the VM, " + ("paused" if waiters else "running") + ", and its tap", parent, port_id)
        await self.env.point("guest_started", server=server.id)
        if not waiters:
            cloud.tell("step", self.me, self.me, "nothing to wait for, the flow goes on", made, port_id)
            return
        await self._wait(server, waiters, made)
        await self._resume_guest(server.id)
        cloud.tell("step", self.me, self.me, "guest resumed", parent, port_id)

    async def _wait(self, server: Server, waiters: list[Waiter], parent: int) -> None:
        cloud, options = self.cloud, self.cloud.options
        port_id = cloud.first_port(server.id)
        names = ", ".join(waiter.key for waiter in waiters)
        number = cloud.tell("wait", self.me, self.me, f"waits for {names}", parent, port_id)
        cloud.waits_begin(server.id, self.host, [waiter.key for waiter in waiters])
        try:
            async with asyncio.timeout(options.vif_plugging_timeout):
                for waiter in waiters:
                    await waiter.arrived.wait()
                    if waiter.event is not None and waiter.event.status != "completed" and cloud.rules.fatal:
                        raise VirtualInterfaceCreateException
        except (TimeoutError, VirtualInterfaceCreateException) as error:
            self.env.check_alive()
            late = isinstance(error, TimeoutError)
            cloud.tell("wait", self.me, self.me, names, number, port_id, ended="deadline" if late else "failed", bad=True)
            cloud.waits_end(server.id, timed_out=late)
            if cloud.rules.fatal:
                await self._give_up(server, parent)
                raise VirtualInterfaceCreateException from error
            return
        event = waiters[-1].event
        cloud.tell("wait", self.me, self.me, names, number, port_id, ended="fact", by=event.cause if event else 0)
        cloud.waits_end(server.id, timed_out=False)

    async def _give_up(self, server: Server, parent: int) -> None:
        """The timeout path: destroy, then cleanup with its default destroy_disks=True."""
        delete = self.cloud.rules.failed_plug_deletes_disks
        self.cloud.tell("fault", self.me, self.me, "destroys the guest" + (" and deletes its disk, the last one there is" if delete else ""), parent,
                        self.cloud.first_port(server.id))
        await self.destroy(server.id, disks=delete, parent=parent)
