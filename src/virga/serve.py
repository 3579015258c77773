"""The composition root: makes one running cloud out of the rooms, live, and takes it down again.

Owns: the state folder (one process at a time, by a lock on it), the start-up order, first-start contents, clouds.yaml, emulated fake hosts in this
process. Nobody imports this but cli.py and tests. Order: socket first (a taken port is one clear line), then database, engine, hub, hosts, and the
ready line when the API answers. Stopping is the reverse; a kill -9 instead is fine, since every room takes up where its rows stand.
"""
from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import hashlib
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec
import uvicorn

from virga.agent.fake import FakeDisks, FakeHypervisor, FakeWiring, Machine, Neighbourhood, Script
from virga.agent.hypervisor import DriverError, ImageRef
from virga.agent.journal import Journal
from virga.agent.session import Agent
from virga.api import placement
from virga.api.cloud import Cloud
from virga.api.compute.service import service as compute
from virga.api.http import FrontDoor, Service
from virga.api.identity import authenticate
from virga.api.identity import service as identity
from virga.api.identity.bootstrap import Founders, bootstrap
from virga.api.identity.secret import hash_secret
from virga.api.image import service as image
from virga.api.image.bootstrap import bootstrap_image, drop_blobs, offer_image, recover_images
from virga.api.network import service as network
from virga.api.network.bootstrap import bootstrap_network
from virga.api.virga.service import service as own
from virga.domain.ask import Ask
from virga.domain.config import Config
from virga.domain.image import Image
from virga.domain.operation import StoredEvent
from virga.domain.server import Flavor
from virga.doorway import Doorway
from virga.fabric.hub import Hub
from virga.fabric.link import Link, memory_pair
from virga.ops.engine import Engine
from virga.ops.hostkeeper import HostKeeper
from virga.ops.reconcile import Reconciler
from virga.runtime.env import Env, environment, real_env
from virga.runtime.trace import Event, Trace
from virga.store.blobs import Blobs, FileBlobs
from virga.store.db import Db, Op, SqliteDb, Tx

EVENTS_FLUSH_S = 0.25
EVENTS_KEPT = 20_000
INHERITED = "fd"
FLAVORS = (("1", "m1.nano", 1, 128, 1), ("2", "m1.tiny", 1, 512, 1), ("3", "m1.small", 1, 2048, 20), ("4", "m1.micro", 1, 192, 1))


class CannotStart(Exception):
    """One clear line about why the cloud cannot start."""


class BlobImages:
    """Image bytes for hosts that live in the controller's own process."""

    def __init__(self, db: Db, blobs: Blobs) -> None:
        self._db, self._blobs = db, blobs

    async def fetch(self, image: ImageRef) -> bytes:
        row = await self._db.read(lambda tx: tx.get(Image, image.id))
        if row is None or not row.blob or not self._blobs.exists(row.blob):
            raise DriverError(f"image {image.id} has no data", "no-image")
        return b"".join([part async for part in self._blobs.read(row.blob)])

    async def store(self, image_id: str, data: bytes) -> str:
        writer = self._blobs.create(image_id)
        await writer.write(data)
        await writer.commit()
        return image_id


class EventKeeper:
    """Keeps the trace's events as rows, a batch at a time, for `virga draw` and `virga explain` after a restart."""

    def __init__(self, env: Env, db: Db, trace: Trace) -> None:
        self._env, self._db, self._trace = env, db, trace
        self._waiting: list[Event] = []
        self._first = 0
        self._dropped_to = 0
        self._turn = asyncio.Lock()
        trace.add_sink(self._take)

    def _take(self, event: Event) -> None:
        if event.server or event.kind == "fault":
            self._waiting.append(event)

    async def run(self) -> None:
        while True:
            await self._env.sleep(EVENTS_FLUSH_S)
            try:
                await self.flush_all()
            except Exception as error:  # a full disk loses events, and must not end the keeping of them
                self._trace.emit("fault", "events", "", f"events not kept: {error!r}")

    async def flush_all(self) -> None:
        """Returns when everything emitted before the call is in the database, also what another flush has taken."""
        async with self._turn:
            if self._waiting:
                await self._flush()

    async def _flush(self) -> None:
        batch, self._waiting = self._waiting, []

        def closure(tx: Tx) -> None:
            if not self._first:
                newest = tx.find(StoredEvent, sort=[("id", True)], limit=1)
                self._first = newest[0].id + 1 if newest else 1
            for event in batch:
                row = StoredEvent(self._first + event.number, event.at, event.kind, event.src, event.dst, event.text,
                                  self._first + event.parent if event.parent else 0, event.server, event.operation, event.request, event.data)
                tx.put(row)
            keep_from = self._first + batch[-1].number - EVENTS_KEPT
            if keep_from - self._dropped_to >= EVENTS_KEPT // 10:
                tx.delete_where(StoredEvent, id=Op("<", keep_from))
                self._dropped_to = keep_from

        await self._db.run(closure)


def disk_probe(machine: Machine) -> Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]:
    """What an emulated host says of a disk: its size, digest and bytes."""

    async def probe(server_id: str, _: dict[str, Any]) -> dict[str, Any]:
        data = machine.disk(server_id)
        if data is None:
            raise DriverError(f"there is no disk of server {server_id} here", "no-disk")
        return {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "data": base64.b64encode(data).decode()}

    return probe


def all_services() -> list[Service]:
    """Every API family of the house."""
    return [identity(), compute(), network(), image(), placement.service(), own()]


class _Server(uvicorn.Server):
    """uvicorn as a coroutine among others: signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class LiveCloud:
    """A whole cloud in this process. `start()` returns when the API answers; `stop()` ends it in order."""

    def __init__(self, config: Config, say: Callable[[str], None] = print) -> None:
        self.config, self.say = config, say
        self.env = real_env("controller")
        self.trace = Trace(self.env.now)
        self.state = Path(config.state).absolute()
        self.machines: dict[str, Machine] = {}
        self.neighbours = Neighbourhood()
        self._host_envs: list[Env] = []
        self._lock: Any = None
        self.doorway: Doorway | None = None
        self.url = ""
        self.admin_password = ""
        self.failed = asyncio.Event()
        self.last_words = ""

    async def start(self) -> None:
        """Raises CannotStart."""
        bound = self._bind()
        self._take_lock()
        self.db: Db = SqliteDb(self.env, self.trace, self.state / "virga.db")
        self.engine = Engine(self.env, self.db, self.trace, self.config)
        self.hub = Hub(self.env, self.db, self.trace, self.config)
        self.blobs = FileBlobs(self.env, self.state / "images")
        self.cloud = Cloud(self.env, self.db, self.trace, self.config, self.engine, self.blobs, self.hub)
        self.keeper = EventKeeper(self.env, self.db, self.trace)
        self.cloud.extra["flush_events"] = self.keeper.flush_all
        await self._first_start()
        await recover_images(self.cloud)
        drop_blobs(self.cloud)
        views = HostKeeper(self.env, self.db, self.trace, self.config, self.hub.send_view)
        self.hub.welcomed = views.wake
        self.env.spawn(self.hub.run(), "hub")
        self.env.spawn(views.run(), "views")
        self.env.spawn(self.engine.run(), "engine")
        self.env.spawn(Reconciler(self.env, self.db, self.trace, self.config).run(), "reconciler")
        self.env.spawn(self.keeper.run(), "events")
        services = all_services()
        door = FrontDoor(self.cloud, services, authenticate)
        options = uvicorn.Config(door, http="httptools", loop="asyncio", log_level="warning", access_log=False, lifespan="off",
                                 timeout_graceful_shutdown=2, server_header=False)
        self._server = _Server(options)
        self.env.spawn(self._server.serve(sockets=[bound]), "api")
        while not self._server.started:
            await self.env.sleep(0.002)
        if self.config.fabric:
            self.doorway = Doorway(self.env, self.trace, self.db, self.hub, self.state / "ca", self.blobs, self.config.image_size_max_bytes)
            try:
                await self.doorway.open(self.config.fabric, self.config.fabric_url)
            except (OSError, ValueError) as error:
                raise CannotStart(f"cannot listen for hosts on {self.config.fabric}: {error}") from error
            self.cloud.extra["invite"] = self.doorway.invite
        if self.config.hypervisor == "fake":
            for number in range(1, self.config.hosts + 1):
                await self._start_fake_host(f"host-{number}")

    def _bind(self) -> socket.socket:
        bound = bind(self.config.listen)
        host = self.config.listen.rpartition(":")[0]
        address, port, *_ = bound.getsockname()
        self.url = f"http://{address if host == INHERITED else host}:{port}"
        return bound

    def _take_lock(self) -> None:
        try:
            self.state.mkdir(parents=True, exist_ok=True)
            self._lock = (self.state / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CannotStart(f"another virga runs on {self.state}; stop it, or choose another folder with --state") from error
        except OSError as error:
            raise CannotStart(f"cannot use the state folder {self.state}: {error.strerror}") from error

    # first start ----------------------------------------------------------------------------------------------------
    async def _first_start(self) -> None:
        secrets = self.state / "passwords.json"
        if secrets.exists():
            known = msgspec.json.decode(secrets.read_bytes(), type=dict[str, str])
        else:
            known = {"admin": environment("VIRGA_ADMIN_PASSWORD") or self.env.token_hex(12), "demo": self.env.token_hex(12)}
            _write_private(secrets, msgspec.json.encode(known))
        self.admin_password = known["admin"]
        if not (self.state / "ready").exists():
            admin = await hash_secret(self.env, self.config, known["admin"])
            demo = await hash_secret(self.env, self.config, known["demo"])

            def closure(tx: Tx) -> Founders:
                founders = bootstrap(tx, self.config, admin, demo)
                ask = Ask(self.config, founders.projects["admin"], founders.users["admin"], "req-first-start", True)
                bootstrap_network(tx, ask, [founders.projects["demo"]])
                for flavor_id, name, vcpus, ram_mb, disk_gb in FLAVORS:
                    tx.put(Flavor(flavor_id, name, vcpus, ram_mb, disk_gb, created_at=tx.now))
                return founders

            founders = await self.db.run(closure)
            await bootstrap_image(self.cloud, founders.projects["admin"])
            await self._offer_guest_image(founders.projects["admin"])
            (self.state / "ready").touch()
        self.clouds_yaml = self.state / "clouds.yaml"
        _write_private(self.clouds_yaml, self._clouds(known).encode())

    def _clouds(self, passwords: dict[str, str]) -> str:
        """clouds.yaml as os-client-config reads it: cloud `virga` (admin) and `virga-demo` (member)."""
        parts = ["clouds:"]
        for name, user in (("virga", "admin"), ("virga-demo", "demo")):
            parts += [
                f"  {name}:", "    auth:", f"      auth_url: {self.url}/identity/v3", f"      username: {user}",
                f"      password: '{passwords[user].replace(chr(39), chr(39) * 2)}'", f"      project_name: {user}",
                "      user_domain_name: Default", "      project_domain_name: Default", f"    region_name: {self.config.region}",
                "    identity_api_version: 3", "    interface: public"]
        return "\n".join(parts) + "\n"

    async def _offer_guest_image(self, owner: str) -> None:
        if self.config.guest_image:
            await offer_image(self.cloud, owner, "virga-guest", Path(self.config.guest_image), "qcow2")

    # hosts ----------------------------------------------------------------------------------------------------------
    async def _start_fake_host(self, name: str) -> None:
        folder = self.state / "hosts" / name
        try:
            script = msgspec.convert(self.config.fake, Script)
        except msgspec.ValidationError as error:
            raise CannotStart(f"[fake] in the configuration: {error}") from error
        machine = Machine(name, Journal(folder / "machine.log"), script)
        self.machines[name] = machine
        self.neighbours.add(machine)
        env = self.env.child(name)
        self._host_envs.append(env)
        ids = Journal(folder / "agent.log")
        host_id = ids.values.get("host_id") or env.new_id()
        ids.put("host_id", host_id)
        agent = Agent(
            env, self.trace, name, host_id, self.config.compute, FakeHypervisor(env, machine, self.neighbours),
            FakeDisks(env, machine, self.neighbours, BlobImages(self.db, self.blobs)), FakeWiring(env, machine), ids, self._dial())
        agent.add_probe("disk", disk_probe(machine))
        env.spawn(agent.run(), "agent")

    def _dial(self) -> Callable[[], Awaitable[Link]]:
        async def dial() -> Link:
            ours, theirs = memory_pair(asyncio.get_running_loop())
            self.hub.attach(ours)
            return theirs

        return dial

    async def hosts_ready(self, timeout_s: float = 20.0) -> None:
        """Wait until every emulated host has said hello. Raises CannotStart."""
        try:
            async with asyncio.timeout(timeout_s):
                while sum(1 for session in self.hub.sessions.values() if session.number) < self.config.hosts:
                    await self.env.sleep(0.005)
        except TimeoutError as error:
            missing = sorted({f"host-{number}" for number in range(1, self.config.hosts + 1)} - set(self.hub.sessions))
            raise CannotStart(f"{', '.join(missing)} did not connect") from error

    async def stop(self) -> None:
        for env in self._host_envs:
            await env.stop()
        if self.doorway is not None:
            await self.doorway.close()
        self._server.should_exit = True
        await self.keeper.flush_all()
        await self.env.stop()
        self.db.close()


def bind(listen: str) -> socket.socket:
    """The socket of HOST:PORT, or `fd:N` for one that the process which started us has bound. Raises CannotStart."""
    host, _, port = listen.rpartition(":")
    if host == INHERITED:
        try:
            return socket.socket(fileno=int(port))
        except (OSError, ValueError) as error:
            raise CannotStart(f"{listen} is not a socket that was handed over: {error}") from error
    # the protocol is named so that asyncio turns Nagle's algorithm off on what it accepts: 40 ms an answer otherwise
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host.strip("[]"), int(port)))
    except (OSError, ValueError) as error:
        raise CannotStart(f"cannot listen on {listen}: {error}; choose another address with --listen") from error
    return bound


def _write_private(path: Path, data: bytes) -> None:
    """Write a file only its owner may read, whole or not at all."""
    partial = path.with_suffix(".part")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    partial.rename(path)


class Runnable(Protocol):
    """A cloud that can be run: in this process, or as the processes it has started. `failed` is set when it cannot go on."""

    last_words: str

    @property
    def failed(self) -> asyncio.Event: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...


async def run_until_signal(cloud: Runnable, ready: Callable[[], Awaitable[None]]) -> None:
    """Start, call `ready`, and run until SIGINT or SIGTERM. Raises CannotStart when the cloud could not start or cannot go on."""
    stopped = asyncio.Event()
    started = False
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)

    async def life() -> None:
        nonlocal started
        await cloud.start()  # cleans up behind itself when it fails
        started = True
        await ready()
        await cloud.failed.wait()
        raise CannotStart(f"the controller cannot stay alive: {cloud.last_words}")

    env = real_env("main")
    living, end = env.spawn(life(), "cloud"), env.spawn(stopped.wait(), "signal")
    try:
        await asyncio.wait((living, end), return_when=asyncio.FIRST_COMPLETED)
        living.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await living
    finally:
        end.cancel()
        if started:
            await cloud.stop()
