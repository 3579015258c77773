"""The whole cloud under virtual time: one controller, some hosts, a network, and the means to break each of them.

What survives a kill is what survives in life: the database (its disk), each machine's guests, disks and taps, each agent's journal. Everything
else belongs to a process Env and dies with it. The very same Engine, Hub, Reconciler and Agent run here as in production; only Env, database engine
and links are the simulated ones. A started cloud with running servers can be kept as a `Snapshot` and laid out anew for every seed.
"""
from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import msgspec

from virga.agent.fake import FakeDisks, FakeHypervisor, FakeWiring, Machine, Neighbourhood, Script
from virga.agent.hypervisor import DriverError, ImageRef
from virga.agent.journal import Journal
from virga.agent.session import Agent
from virga.domain.ask import Ask
from virga.domain.config import Compute, Config
from virga.domain.image import Image, filled, new_image_row
from virga.domain.network import Network
from virga.domain.operation import Operation
from virga.domain.server import Flavor, FlavorSpec, Server
from virga.fabric.hub import Hub
from virga.fabric.link import Link, memory_pair
from virga.fabric.wire import Frame
from virga.ops import front
from virga.ops.engine import Engine
from virga.ops.reconcile import Reconciler
from virga.runtime.env import Env, Killed, sim_env
from virga.runtime.trace import Trace
from virga.sim.invariants import Watch
from virga.store.db import Db, Tx
from virga.store.snapshot import Picture, new_disk

T = TypeVar("T")
PROJECT, USER = "project-1", "user-1"
NETWORKS = ("00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b")
NETWORK_ID = NETWORKS[0]
IMAGE_ID, IMAGE_BYTES = "00000000-0000-4000-8000-000000000001", b"image\n"
SMALL = FlavorSpec("1", "small", 1, 512, 1)
BIG = FlavorSpec("2", "big", 2, 1024, 2)
HUGE = FlavorSpec("3", "huge", 2, 2048, 3)


class ImageStore:
    """The bytes of images, as the cloud's store holds them: they outlive every process."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {IMAGE_ID: IMAGE_BYTES}

    async def fetch(self, image: ImageRef) -> bytes:
        if image.id not in self.data:
            raise DriverError(f"there is no image {image.id}", "no-image")
        return self.data[image.id]

    async def store(self, image_id: str, data: bytes) -> str:
        self.data[image_id] = data
        return image_id


class Weather:
    """One network path: seeded delays (seconds), duplicates, and cuts."""

    def __init__(self, rng: random.Random, mean_delay_s: float) -> None:
        self.rng = rng
        self.mean_delay_s = mean_delay_s
        self.cut = False
        self.duplicate_share = 0.0

    def deliveries(self, frame: Frame) -> list[float]:
        if self.cut:
            return []
        if not self.mean_delay_s:
            return [0.0]
        delay_s = self.rng.expovariate(1 / self.mean_delay_s)
        if self.duplicate_share and self.rng.random() < self.duplicate_share:
            return [delay_s, delay_s * 1.5]
        return [delay_s]


class Snapshot(msgspec.Struct):
    """A cloud at rest: everything that outlives its processes."""

    database: Picture
    machines: dict[str, dict[str, Any]]
    journals: dict[str, dict[str, Any]]
    servers: list[str]


class World:
    """See the module. All times are virtual seconds."""

    def __init__(self, seed: int, hosts: int = 2, *, mean_delay_s: float = 0.002, config: Config | None = None, snapshot: Snapshot | None = None,
                 engine: type[Engine] = Engine, script: Script | None = None, store: str = "memory") -> None:
        self.env = sim_env(seed, "world")
        self.chance = random.Random(seed ^ 0x5EED)
        self.config = config or Config(compute=Compute(
            operation_timeout=60.0, vif_plugging_timeout=30.0, copy_timeout=120.0, fence_timeout=600.0, shelved_offload_time=-1.0))
        self.trace = Trace(self.env.now, ring=512)
        self.disk = new_disk(store) if snapshot is None else snapshot.database.lend()
        self._snapshot = snapshot
        self.engine_type = engine
        self.mean_delay_s = mean_delay_s
        self.neighbours = Neighbourhood()
        self.images = ImageStore()
        self.machines: dict[str, Machine] = {}
        self.journals: dict[str, Journal] = {}
        self.weather: dict[str, Weather] = {}
        self.agents: dict[str, Env] = {}
        self.controller: Env | None = None
        self.db: Db | None = None
        self.hub: Hub | None = None
        self.engine: Engine | None = None
        self.requests = 0
        self.ended = asyncio.Event()  # set by every commit that ends an operation, for those who wait without polling
        self.servers: list[str] = list(snapshot.servers) if snapshot else []
        for number in range(1, hosts + 1):
            name = f"host-{number}"
            self.machines[name] = Machine(name, _journal(snapshot.machines[name] if snapshot else None),
                                          msgspec.convert(msgspec.to_builtins(script), Script) if script else None)
            self.journals[name] = _journal(snapshot.journals[name] if snapshot else None)
            self.neighbours.add(self.machines[name])
            self.weather[name] = Weather(self.chance, mean_delay_s)
        self.watch = Watch(self.machines, self._may_lose)

    def _may_lose(self, server_id: str) -> bool:
        """Whether a server's last disk may go: it is being deleted, or it never ran, or its image holds it."""
        row = self.look(lambda tx: tx.get(Server, server_id))
        if row is None or row.task_state == "deleting" or row.launched_at is None:
            return True
        return row.vm_state in ("deleted", "shelved", "shelved_offloaded")

    # processes ------------------------------------------------------------------------------------------------------
    def start_controller(self) -> None:
        env = self.controller = self.env.child("controller")
        self.db = self.disk.attach(env, self.trace)
        self.db.on_commit(self._heard)
        self.engine = self.engine_type(env, self.db, self.trace, self.config)
        self.hub = Hub(env, self.db, self.trace, self.config)
        env.spawn(self.hub.run(), "hub")
        env.spawn(self.engine.run(), "engine")
        env.spawn(Reconciler(env, self.db, self.trace, self.config).run(), "reconciler")

    def _heard(self, hints: Collection[str]) -> None:
        for hint in hints:
            if hint.startswith("ended:"):
                self.ended.set()

    async def something_ends(self, limit_s: float) -> None:
        """Return when an operation has ended, or after `limit_s`."""
        self.ended.clear()
        await self.env.wait_woken(self.ended, limit_s)

    def kill_controller(self) -> None:
        if self.controller is not None:
            self.trace.emit("fault", "world", "controller", "kill -9")
            self.controller.kill()
            self.controller = self.db = self.hub = self.engine = None

    def start_agent(self, name: str) -> None:
        env = self.agents[name] = self.env.child(name)
        machine = self.machines[name]
        host_id = f"00000000-0000-4000-8000-{name.rpartition('-')[2]:0>12}"
        agent = Agent(
            env, self.trace, name, host_id, self.config.compute, FakeHypervisor(env, machine, self.neighbours),
            FakeDisks(env, machine, self.neighbours, self.images), FakeWiring(env, machine), self.journals[name], self._dialer(name))
        env.spawn(agent.run(), "agent")

    def kill_agent(self, name: str) -> None:
        env = self.agents.pop(name, None)
        if env is not None:
            self.trace.emit("fault", "world", name, "kill -9 of the agent")
            env.kill()

    def power_cut(self, name: str) -> None:
        """The whole machine goes: agent and guests; disks stay."""
        self.kill_agent(name)
        self.trace.emit("fault", "world", name, "power cut")
        self.machines[name].power_cut()

    def partition(self, name: str, cut: bool) -> None:
        """Cut or heal a host's link to the controller and to the other hosts."""
        self.trace.emit("fault", "world", name, "partitioned" if cut else "healed")
        self.weather[name].cut = cut
        for other in self.machines:
            pair = frozenset((name, other))
            if cut and other != name:
                self.neighbours.cut.add(pair)
            else:
                self.neighbours.cut.discard(pair)

    def _dialer(self, name: str) -> Callable[[], Any]:
        async def dial() -> Link:
            await asyncio.sleep(self.weather[name].mean_delay_s)
            if self.hub is None or self.weather[name].cut:
                raise OSError("connection refused")
            ours, theirs = memory_pair(asyncio.get_running_loop(), self.weather[name])
            self.hub.attach(ours)
            return theirs

        return dial

    def start(self) -> None:
        self.start_controller()
        for name in self.machines:
            self.start_agent(name)

    async def hosts_up(self) -> None:
        while self.hub is None or sum(1 for session in self.hub.sessions.values() if session.number) < len(self.machines):
            await asyncio.sleep(0.01)

    def stop(self) -> None:
        for name in list(self.agents):
            self.kill_agent(name)
        self.kill_controller()
        self.env.kill()

    def give_back(self) -> None:
        """The database is not looked at any more: the next run may have its disk."""
        if self._snapshot is not None:
            self._snapshot.database.give_back(self.disk)

    # what users do --------------------------------------------------------------------------------------------------
    def ask(self) -> Ask:
        self.requests += 1
        return Ask(self.config, PROJECT, USER, f"req-{self.requests}", is_admin=True)

    async def run(self, closure: Callable[[Tx], T]) -> T:
        """A user's transaction. Raises ConnectionError while no controller runs, as a client would see it."""
        if self.db is None:
            raise ConnectionError("no controller")
        try:
            return await self.db.run(closure)
        except Killed as killed:
            raise ConnectionError("the controller died before it answered") from killed

    def look(self, closure: Callable[[Tx], T]) -> T:
        """Read rows directly, whoever is alive."""
        return closure(self.disk.look(self.env))

    async def boot(self, flavor: FlavorSpec = SMALL, ports: int = 1) -> str:
        server_id = self.env.new_id()
        server = Server(server_id, PROJECT, USER, f"server-{len(self.servers)}", flavor, image_id=IMAGE_ID)
        nics = [front.NicRequest(network_id=NETWORK_ID)] * ports
        await self.run(lambda tx: front.boot(tx, self.ask(), server, nics))
        self.servers.append(server_id)
        return server_id

    def know_servers(self) -> None:
        """Take up servers that were booted by others than `boot`, in the order they came."""
        found = self.look(lambda tx: tx.find(Server, sort=[("created_at", False), ("id", False)]))
        self.servers += [server.id for server in found if server.id not in self.servers]

    async def act(self, server_id: str, what: Callable[[Tx, Ask, Server], Any]) -> Any:
        """One action on a server. Raises Problem as the API would answer."""
        return await self.run(lambda tx: what(tx, self.ask(), tx.need(Server, server_id)))

    async def settle(self, limit_s: float = 3600.0) -> None:
        """Wait until no operation is open. Raises TimeoutError after `limit_s` virtual seconds."""
        async with asyncio.timeout(limit_s):
            while self.look(lambda tx: tx.count(Operation, state=["running", "undoing"])):
                await self.something_ends(1.0)

    def snapshot(self) -> Snapshot:
        """What outlives the processes, right now. Stop them first."""
        return Snapshot(
            self.disk.picture(), {name: dict(machine.journal.values) for name, machine in self.machines.items()},
            {name: dict(journal.values) for name, journal in self.journals.items()}, list(self.servers))


def _journal(values: dict[str, Any] | None) -> Journal:
    journal = Journal()
    if values:
        journal.values.update(values)
    return journal


async def furnish(world: World) -> None:
    """What the simulated servers are made of: two networks (no subnets: addresses are the network room's own tests), flavors, one image."""
    def closure(tx: Tx) -> None:
        for number, network_id in enumerate(NETWORKS):
            tx.insert(Network(id=network_id, project_id=PROJECT, name=f"net-{number}"))
        for flavor in (SMALL, BIG, HUGE):
            tx.insert(Flavor(flavor.id, flavor.name, flavor.vcpus, flavor.ram_mb, flavor.disk_gb))
        tx.insert(new_image_row(IMAGE_ID, PROJECT, tx.now, name="image", visibility="public", disk_format="raw"))
        md5 = hashlib.md5(IMAGE_BYTES, usedforsecurity=False).hexdigest()
        tx.update(Image, IMAGE_ID, **filled(len(IMAGE_BYTES), md5, hashlib.sha512(IMAGE_BYTES).hexdigest(), IMAGE_ID, None, tx.now))

    await world.run(closure)
