"""The compute manager of the Kilo clouds: resize, revert and delete as procedures of two hosts that call each other.

Owns: the order of a flow's reads, saves and calls on one host; the names are the report's. Nothing here is durable: what a killed manager was about is
found in no table, only in the states it left behind (facts file, crash table of 2.7).
Rules: every save expects a task state; an exception goes through the manager's decorators, which end in `error_out`; events are delivered to whoever
is registered and dropped otherwise.
Named points (`env.point`) stand where the crash table kills the process and where hazards live.
"""
from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from virga.domain.operation import Migration
from virga.domain.server import POWER, Server
from virga.lab import kilo_rules as rules
from virga.lab.kilo_libvirt import LibvirtDriver, Vif
from virga.lab.kilo_network import Event
from virga.lab.kilo_store import UnexpectedTaskState
from virga.lab.kilo_waiters import Waiters
from virga.runtime.env import Env

if TYPE_CHECKING:
    from virga.lab.kilo import KiloCloud

REVERTING = "resize_reverting"
POISON = "network-changed"  # for a server that is not known here: handling it raises


class ComputeManager:
    """nova-compute of one host."""

    def __init__(self, cloud: KiloCloud, host: str, env: Env) -> None:
        self.cloud, self.host, self.env = cloud, host, env
        self.me = f"compute@{host}"
        self.waiters = Waiters(cloud.rules.clear_signals)
        self.driver = self.driver_type(cloud, self)

    driver_type: type[LibvirtDriver] = LibvirtDriver

    def cast(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """A message from the queue becomes a green thread here."""
        self.env.spawn(work, name)

    async def _save(self, server_id: str, expected: tuple[str | None, ...] | None = None, **changes: Any) -> None:
        """Through the conductor: a round trip."""
        await self.env.sleep(self.cloud.delay("save"))
        self.cloud.store.save(server_id, expected, **changes)

    # external events ------------------------------------------------------------------------------------------------
    async def external_instance_event(self, events: list[Event]) -> None:
        await self.env.sleep(self.cloud.delay("rpc"))
        for event in events:
            if event.name == POISON and not self.cloud.rules.batch_survives:
                self.cloud.dropped(event.server_id, f"the batch of {len(events)} events ends at one that {self.host} cannot handle")
                return
            self._deliver(event)

    def _deliver(self, event: Event) -> None:
        if self.cloud.rules.events_name_binding and event.host not in ("", self.host):
            return
        waiter = self.waiters.pop(event.server_id, event.key)
        cause = self.cloud.tell("message", "api", self.me, f"external event {event.key}", event.cause, event.tag, aside=waiter is None)
        if waiter is None:
            if event.name == rules.PLUGGED:
                self.cloud.dropped(event.server_id, f"{event.key} reached {self.host}, where nobody waited for it")
            return
        waiter.send(Event(event.name, event.server_id, event.tag, event.status, cause))

    # network info ---------------------------------------------------------------------------------------------------
    async def _build_network_info_model(self, server_id: str, parent: int, *, aside: bool = False) -> list[Vif]:
        """One list_ports; each VIF is active or not for ever after."""
        cloud = self.cloud
        first = cloud.first_port(server_id)
        number = 0 if aside else cloud.tell("message", self.me, "network", "network info: list_ports", parent, first)
        ports = await cloud.network.list_ports(server_id)
        vifs = [Vif(port.id, rules.vif_active(port.status, port.admin_state_up)) for port in ports]
        if not aside:
            cloud.tell("step", self.me, self.me, "_build_network_info_model: "
                       + ", ".join(f"port status {port.status}, vif.active is {'true' if vif.active else 'false'}"
                                   for port, vif in zip(ports, vifs, strict=True)), number, first)
        return vifs

    async def setup_networks_on_host(self, server_id: str, parent: int) -> None:
        """Empty upstream; the report's second remedy makes it move the binding."""
        first = self.cloud.first_port(server_id)
        number = self.cloud.tell("step", self.me, self.me, "setup_networks_on_host", parent, first)
        if self.cloud.rules.rebind == rules.IN_SETUP:
            await self._rebind(server_id, number)
        else:
            self.cloud.tell("step", self.me, self.me, "does nothing", number, first)

    async def migrate_instance_finish(self, server_id: str, parent: int) -> None:
        number = self.cloud.tell("step", self.me, self.me, "migrate_instance_finish", parent, self.cloud.first_port(server_id))
        await self._rebind(server_id, number)

    async def _rebind(self, server_id: str, parent: int) -> None:
        for port in self.cloud.store.ports_of(server_id):
            if port.host != self.host:
                await self.cloud.network.update_port_host(port.id, self.host, self.me, parent)

    # boot -----------------------------------------------------------------------------------------------------------
    async def build_and_run_instance(self, server_id: str) -> None:
        try:
            server = self.cloud.store.server(server_id)
            await self.driver.make_disk(server)
            for port in self.cloud.store.ports_of(server_id):
                await self.cloud.network.update_port_host(port.id, self.host, self.me, 0)
            vifs = await self._build_network_info_model(server_id, 0, aside=True)
            await self.driver._create_domain_and_network(server, vifs, 0, already_plugged=False)
            await self._save(server_id, vm_state="active", task_state=None, power_state=POWER["running"], launched_at=self.env.now())
        except Exception as error:
            self._error_out(server_id, error)

    # resize ---------------------------------------------------------------------------------------------------------
    async def prep_resize(self, server_id: str, source: str) -> None:
        """On the destination: claim, migration record, on to the source."""
        server = self.cloud.store.server(server_id)
        await self._save(server_id, old_vm_state=server.vm_state, old_flavor=server.flavor)
        self.cloud.store.migrations[server_id] = Migration(
            f"migration-{server_id}", 1, server_id, server.project_id, server.user_id, "resize", "pre-migrating", source, self.host)
        self.cloud.cast(source, lambda manager: manager.resize_instance(server_id, self.host), "resize_instance")

    async def resize_instance(self, server_id: str, dest: str) -> None:
        """On the source: power off, disk over, server handed to the destination."""
        try:
            store = self.cloud.store
            await self._build_network_info_model(server_id, 0, aside=True)
            store.save_migration(server_id, status="migrating")
            await self._save(server_id, ("resize_prep",), task_state="resize_migrating")
            await self.driver.migrate_disk_and_power_off(store.server(server_id), dest)
            store.save_migration(server_id, status="post-migrating")
            await self._save(server_id, ("resize_migrating",), host=dest, task_state="resize_migrated")
            self.cloud.cast(dest, lambda manager: manager.finish_resize(server_id), "finish_resize")
            await self.env.point("finish_resize_cast", server=server_id)
            self.waiters.clear(server_id)
        except Exception as error:
            self._error_out(server_id, error)

    async def finish_resize(self, server_id: str) -> None:
        """On the destination: rebind, start without waiting, RESIZED."""
        try:
            await self.migrate_instance_finish(server_id, 0)
            vifs = await self._build_network_info_model(server_id, 0, aside=True)
            await self._save(server_id, ("resize_migrated",), task_state="resize_finish", flavor=self.cloud.big)
            await self.driver.finish_migration(self.cloud.store.server(server_id), vifs, 0)
            self.cloud.store.save_migration(server_id, status="finished")
            await self._save(server_id, ("resize_finish",), vm_state="resized", task_state=None, power_state=POWER["running"],
                             launched_at=self.env.now())
        except Exception as error:
            self._error_out(server_id, error)

    # revert ---------------------------------------------------------------------------------------------------------
    async def revert_resize(self, server_id: str, parent: int) -> None:
        """On the host the guest leaves: destroy it, then ask the other host to go on."""
        cloud = self.cloud
        await self.env.point("revert_begun", server=server_id)
        try:
            await self._build_network_info_model(server_id, parent, aside=True)
            source = cloud.store.migration(server_id).source
            await self._ask_shared_storage(source)
            await self.driver.destroy(server_id, disks=True, parent=parent)
            await self.env.point("guest_destroyed", server=server_id)
            await self.env.sleep(cloud.delay("save"))
            if not cloud.rules.reverted_by_target:
                cloud.store.save_migration(server_id, status="reverted")
            await self.env.sleep(cloud.delay("lock"))
        except Exception as error:
            self._error_out(server_id, error)
            return
        number = cloud.tell("message", self.me, f"compute@{source}", "finish_revert_resize", parent, cloud.first_port(server_id))
        cloud.cast(source, lambda manager: manager.finish_revert_resize(server_id, number), "finish_revert_resize")

    async def _ask_shared_storage(self, source: str) -> None:
        """A call to the other host. When it does not answer, storage is taken for shared and the flow goes on all the same."""
        if source in self.cloud.managers:
            await self.env.sleep(2 * self.cloud.delay("rpc"))
        else:
            await self.env.sleep(self.cloud.options.rpc_response_timeout)

    async def finish_revert_resize(self, server_id: str, parent: int) -> None:
        """On the host the guest returns to. Where the binding moves is the era's; everything else is the report's order."""
        cloud, store, first = self.cloud, self.cloud.store, self.cloud.rules.rebind == rules.FIRST
        try:
            if not cloud.rules.rereads:
                vifs = await self._build_network_info_model(server_id, parent)
            await self._take_back(server_id)
            await self.env.point("host_saved", server=server_id)
            await self.setup_networks_on_host(server_id, parent)
            if first:
                await self.migrate_instance_finish(server_id, parent)
            if cloud.rules.rereads:
                vifs = await self._build_network_info_model(server_id, parent)
            await self.driver.finish_revert_migration(store.server(server_id), vifs, parent)
            await self._save(server_id, (REVERTING,), launched_at=self.env.now())
            await self.env.point("before_rebind", server=server_id)
            if not first:
                await self.migrate_instance_finish(server_id, parent)
            await self.env.point("before_final_save", server=server_id)
            await self._save(server_id, (REVERTING,), vm_state="active", task_state=None, power_state=POWER["running"], old_vm_state=None, old_flavor=None)
            store.save_migration(server_id, status="reverted")
            cloud.tell("note", self.me, self.me, "vm_state active, task none", 0, cloud.first_port(server_id))
        except Exception as error:
            self._error_out(server_id, error)

    async def _take_back(self, server_id: str) -> None:
        """Old flavor back, host of the server is this one from here on (events are routed by it)."""
        server = self.cloud.store.server(server_id)
        await self._save(server_id, (REVERTING,), host=self.host, flavor=server.old_flavor or server.flavor)
        self.cloud.store.save_migration(server_id, dest=self.host)

    # reboot and delete ----------------------------------------------------------------------------------------------
    async def reboot_instance(self, server_id: str) -> None:
        """Hard reboot: destroy and create at once, no wait; the tap is a new one under the old name."""
        server = self.cloud.store.server(server_id)
        await self.driver._stop_guest(server_id)
        await self.driver._create_domain(server, paused=False)

    async def terminate_instance(self, server_id: str) -> None:
        """On whichever host the API read: the guest here goes, waiters are forgotten, the row goes."""
        self.cloud.meter.forgiven.add(server_id)
        self.waiters.clear(server_id)
        await self.driver.destroy(server_id, disks=True, parent=0)
        await self.driver.delete_disk(server_id, aside=True)
        await self.env.sleep(self.cloud.delay("save"))
        store = self.cloud.store
        store.servers.pop(server_id, None)
        for port in store.ports_of(server_id):
            del store.ports[port.id]

    # failures and ends ----------------------------------------------------------------------------------------------
    def _error_out(self, server_id: str, error: Exception) -> None:
        self.env.check_alive()
        self.cloud.tell("fault", self.me, self.me, f"vm_state error: {type(error).__name__}: {error}", 0, self.cloud.first_port(server_id))
        if isinstance(error, UnexpectedTaskState | KeyError):
            return  # the decorators leave a task alone that somebody else has changed, or a server that is gone
        self.cloud.store.error_out(server_id, str(error), self.env.now())

    def init_instance(self, server: Server) -> None:
        """At a start: RESIZE_PREP is cleared, RESIZE_MIGRATING rolled back, and nothing is known about any other task of a move."""
        if server.task_state == "resize_prep":
            self.cloud.store.save(server.id, task_state=None)
