"""The founding case: a Kilo cloud on Virga's own machines, hypervisor, disks and Env, under virtual time.

Owns: the composition (controller database, network server, two or more compute hosts with manager, driver and agent), what users ask, and the measuring
of a run. The parts have the report's names: kilo_compute (compute manager), kilo_libvirt (driver), kilo_waiters, kilo_network (port-binding compare,
notifier), kilo_agent (polling linuxbridge agent), kilo_rules (eras).
Rules: every process has its own Env and may be killed alone; delays come from the seed; the same seed and options give the same run on any machine.
Why beside Virga's engine and not in it: the engine cannot express a wait for a message, only one for a row. That is the cure; the case needs the ill.
"""
from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from virga.agent.fake import Machine, Neighbourhood
from virga.domain.server import FlavorSpec, Server
from virga.lab import kilo_rules as rules
from virga.lab.kilo_agent import LinuxbridgeAgent
from virga.lab.kilo_compute import ComputeManager
from virga.lab.kilo_network import Event, NetworkServer
from virga.lab.kilo_store import KiloPort, KiloStore
from virga.lab.meter import Meter, MeteredJournal
from virga.lab.options import Options
from virga.runtime.env import Env, sim_env
from virga.runtime.trace import Trace

SMALL = FlavorSpec("1", "small", 1, 512, 1)
BIG = FlavorSpec("2", "big", 2, 1024, 2)
HOST_A, HOST_B = "host_A", "host_B"


class Refused(Exception):
    """The API's 409."""


class Wait(msgspec.Struct):
    """A wait under way or ended, for counting and explaining."""

    server_id: str
    host: str
    keys: list[str]
    since: float
    until: float | None = None
    timed_out: bool = False


class KiloCloud:
    """One cloud of one seed. Times are seconds, virtual ones unless `env` says otherwise."""

    def __init__(self, seed: int, options: Options, store: KiloStore, trace: Trace | None = None, hosts: tuple[str, ...] = (HOST_A, HOST_B),
                 loop: asyncio.AbstractEventLoop | None = None, env: Env | None = None) -> None:
        self.env = env or sim_env(seed, "kilo", loop)
        self.options, self.rules, self.store, self.trace = options, options.rules(), store, trace
        self.small, self.big = SMALL, BIG
        self.neighbours = Neighbourhood()
        self.machines: dict[str, Machine] = {}
        self.journals: dict[str, MeteredJournal] = {}
        self.meter = Meter(self.env.now, lambda journal, port_id: "bridged/" + port_id in journal and
                           journal["bridged/" + port_id] == journal.get("tap/" + port_id))
        self._index = 0
        for host in hosts:
            journal = self.journals[host] = MeteredJournal(host, self.meter)
            self.machines[host] = self.make_machine(host, journal)
            self.neighbours.add(self.machines[host])
        self.network = self.network_type(self)
        self.managers: dict[str, ComputeManager] = {}
        self.agents: dict[str, LinuxbridgeAgent] = {}
        self.queues: dict[str, list[tuple[Callable[[ComputeManager], Coroutine[Any, Any, None]], str]]] = {host: [] for host in hosts}
        self.waits: list[Wait] = []
        self.drops: list[tuple[float, str, str]] = []
        self.lose_casts: list[str] = []  # names of casts the message queue will lose, once each
        self.lost_events = 0  # a museum piece loses this many batches
        for port in store.ports.values():
            self.meter.ports.setdefault(port.server_id, []).append(port.id)

    # processes ------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        for host in self.machines:
            self.start_manager(host)
            self.start_agent(host, fresh=False)

    def start_manager(self, host: str) -> None:
        manager = self.managers[host] = self.manager_type(self, host, self.env.child(f"compute@{host}"))
        for server in self.store.servers.values():
            if server.host == host:
                manager.init_instance(server)
        waiting, self.queues[host] = self.queues[host], []
        for work, name in waiting:
            self.cast(host, work, name)

    def make_machine(self, host: str, journal: MeteredJournal) -> Machine:
        """The hardware under one host."""
        return Machine(host, journal)

    manager_type: type[ComputeManager] = ComputeManager
    agent_type: type[LinuxbridgeAgent] = LinuxbridgeAgent
    network_type: type[NetworkServer] = NetworkServer

    def start_agent(self, host: str, *, fresh: bool = True) -> None:
        """`fresh`: an agent that was just started knows no tap, and so resyncs."""
        env = self.env.child(f"agent@{host}")
        phase_s = self.env.rng.random() * self.options.polling_interval
        known = None if fresh else self.machines[host].journal.find("tap/")
        agent = self.agents[host] = self.agent_type(self, host, env, phase_s, known)
        env.spawn(agent.run(), "loop")

    def kill_manager(self, host: str) -> None:
        """kill -9 of nova-compute: its green threads and its waiters are gone, its guests go on."""
        manager = self.managers.pop(host, None)
        if manager is not None:
            self.tell("fault", "operator", manager.me, "kill -9", 0, "")
            manager.env.kill()

    def kill_agent(self, host: str) -> None:
        agent = self.agents.pop(host, None)
        if agent is not None:
            self.tell("fault", "operator", f"agent@{host}", "kill -9", 0, "")
            agent.env.kill()

    def stop(self) -> None:
        self.trace = None  # the end of a run is nobody's fault
        for host in list(self.machines):
            self.kill_manager(host)
            self.kill_agent(host)
        self.network.env.kill()
        self.env.kill()

    def cast(self, host: str, work: Callable[[ComputeManager], Coroutine[Any, Any, None]], name: str) -> None:
        """A message to a compute host's queue; it lies there while the host's manager is away."""

        if name in self.lose_casts:
            self.lose_casts.remove(name)
            return

        async def arrive() -> None:
            await self.env.sleep(self.delay("rpc"))
            manager = self.managers.get(host)
            if manager is None:
                self.queues[host].append((work, name))
            else:
                manager.cast(work(manager), name)

        self.env.spawn(arrive(), name)

    # what users ask -------------------------------------------------------------------------------------------------
    def boot(self, number: int, ports: int = 1) -> str:
        """A server on the first host: row, ports, and the cast to its compute manager."""
        host = next(iter(self.machines))
        server_id = f"{number:08x}-aaaa-4aaa-8aaa-{number:012x}"
        self.store.servers[server_id] = Server(server_id, "project-1", "user-1", f"server-{number}", self.small, host=host)
        for place in range(ports):
            port_id = f"{number:06x}{place:02x}-bbbb-4bbb-8bbb-{number:012x}"
            self.store.ports[port_id] = KiloPort(port_id, server_id, "")
            self.meter.ports.setdefault(server_id, []).append(port_id)
        self.cast(host, lambda manager: manager.build_and_run_instance(server_id), "build_and_run_instance")
        return server_id

    def resize(self, server_id: str) -> None:
        """Raises Refused."""
        server = self.store.server(server_id)
        if server.vm_state != "active" or server.task_state is not None or server.host is None:
            raise Refused(f"Cannot 'resize' instance {server_id} while it is in vm_state {server.vm_state}, task_state {server.task_state}")
        source = server.host
        dest = next(host for host in self.machines if host != source)
        self.store.save(server_id, (None,), task_state="resize_prep")
        self.cast(dest, lambda manager: manager.prep_resize(server_id, source), "prep_resize")

    def revert(self, server_id: str) -> None:
        """Raises Refused. Nobody asks whether either host is alive."""
        server = self.store.server(server_id)
        if server.vm_state != "resized" or server.task_state is not None or server.host is None:
            raise Refused(f"Cannot 'revertResize' instance {server_id} while it is in vm_state {server.vm_state}, task_state {server.task_state}")
        migration = self.store.migration(server_id)
        if migration.status != "finished":
            raise Refused(f"Instance {server_id} has no finished migration")
        self.store.save(server_id, (None,), task_state="resize_reverting")
        self.store.save_migration(server_id, status="reverting")
        number = self.tell("message", "api", f"compute@{server.host}", "revert_resize", 0, self.first_port(server_id))
        host = server.host
        if not self.api_dies:
            self.cast(host, lambda manager: manager.revert_resize(server_id, number), "revert_resize")

    api_dies = False  # crash table, first line: the API is killed between its save and its cast

    def delete(self, server_id: str) -> None:
        """Allowed in any state; goes to whichever host the row names now."""
        server = self.store.server(server_id)
        self.store.save(server_id, task_state="deleting")
        if server.host is not None:
            self.cast(server.host, lambda manager: manager.terminate_instance(server_id), "terminate_instance")

    def external_events(self, batch: list[Event]) -> bool:
        """os-server-external-events: each event is cast to the host its server's row names at this moment. False when the POST failed."""
        if self.lost_events:
            self.lost_events -= 1
            for event in batch:
                self.dropped(event.server_id, f"{event.key}: the POST to Nova failed, and Kilo's notifier does not try again")
            return False
        by_host: dict[str, list[Event]] = {}
        for event in batch:
            server = self.store.servers.get(event.server_id)
            if server is None:
                continue
            migration = self.store.migrations.get(event.server_id)
            moving = migration is not None and server.task_state is not None
            source, dest = (migration.source, migration.dest) if migration else ("", "")
            for host in rules.hosts_of_event(self.rules, server.host or "", source, dest, moving):
                by_host.setdefault(host, []).append(event)
        for host, events in by_host.items():
            self.cast(host, lambda manager, events=events: manager.external_instance_event(events), "external_instance_event")  # type: ignore[misc]
        return True

    def reboot(self, server_id: str) -> None:
        """Hard reboot."""
        server = self.store.server(server_id)
        if server.host is not None:
            self.cast(server.host, lambda manager: manager.reboot_instance(server_id), "reboot_instance")

    def watch_status(self, port: KiloPort, status: str, by: str) -> None:
        """Called before a port's status changes; the museum's judge looks here."""

    # what is seen ---------------------------------------------------------------------------------------------------
    def state(self, server_id: str) -> tuple[str, str | None]:
        """(vm_state, task_state); ('deleted', None) when the row is gone."""
        server = self.store.servers.get(server_id)
        return ("deleted", None) if server is None else (server.vm_state, server.task_state)

    def first_port(self, server_id: str) -> str:
        return self.meter.ports.get(server_id, [""])[0]

    def server_of(self, port_id: str) -> str:
        port = self.store.ports.get(port_id)
        return port.server_id if port is not None else ""

    def next_index(self) -> int:
        """The kernel's next interface index."""
        self._index += 1
        return self._index

    def delay(self, name: str) -> float:
        """Seconds one step of this kind takes this time."""
        mean_s, jitter = self.options.delays[name], self.options.jitter
        return mean_s * (1.0 - jitter + 2.0 * jitter * self.env.rng.random()) if jitter else mean_s

    def tell(self, kind: str, src: str, dst: str, text: str, parent: int, port_id: str, *, aside: bool = False, **data: Any) -> int:
        """A trace event about the server of `port_id`; 0 when nobody records. `aside` marks what the report does not draw."""
        if self.trace is None:
            return 0
        if aside:
            data["aside"] = True
        return self.trace.emit(kind, src, dst, text, parent=parent, server=self.server_of(port_id), **data)

    def waits_begin(self, server_id: str, host: str, keys: list[str]) -> None:
        self.waits.append(Wait(server_id, host, keys, self.env.now()))

    def waits_end(self, server_id: str, *, timed_out: bool) -> None:
        for wait in reversed(self.waits):
            if wait.server_id == server_id and wait.until is None:
                wait.until, wait.timed_out = self.env.now(), timed_out
                return

    def dropped(self, server_id: str, text: str) -> None:
        """Remember which rule threw something away, for `explain`."""
        if self.trace is not None:
            self.drops.append((self.env.now(), server_id, text))
