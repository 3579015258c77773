"""The fake hypervisor, disks and bridge: shipped drivers that run no VM but keep everything else true.

A `Machine` is the hardware of one emulated host: which guests run, what is on its disks (real bytes, if few), which taps are wired. It outlives the
agent, as a real machine outlives its agent, and with a journal file it outlives the process. A `Script` tells the drivers how long each call takes
(seconds), which calls fail and how often, and which lie (report done without doing). A `Neighbourhood` is the wire between machines: disk copies and
live migrations travel on it, and it can be cut.
Guests "write": every boot appends a line to the disk, so bytes differ between a disk that was run and its copy, and a test can tell which came back.
"""
from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from virga.agent.hypervisor import DriverError, GuestSpec, ImageRef, Inventory, Nic
from virga.agent.journal import Journal
from virga.runtime.env import Env


class ImageSource(Protocol):
    """Where image bytes come from and snapshots go to."""

    async def fetch(self, image: ImageRef) -> bytes: ...
    async def store(self, image_id: str, data: bytes) -> str:
        """Put bytes into the image store; returns the blob's name."""


class NoImages:
    """An image source for clouds without one: the disk begins with the image's id."""

    async def fetch(self, image: ImageRef) -> bytes:
        return f"image {image.id}\n".encode()

    async def store(self, image_id: str, data: bytes) -> str:
        return image_id


class Script(msgspec.Struct, forbid_unknown_fields=True):
    """How the fakes behave. `delay_s` by call name ('launch', 'stop', 'wire', 'fetch', ...; 'all' for the rest); `fail` counts failures still to come
    by call name; `lie` names calls that answer without doing anything."""

    delay_s: dict[str, float] = {}
    fail: dict[str, int] = {}
    lie: list[str] = []
    vcpus: int = 8
    ram_mb: int = 16384
    disk_gb: int = 200


class Machine:
    """The hardware of one emulated host. States of a guest: running, paused, stopped, suspended, incoming, crashed."""

    def __init__(self, name: str, journal: Journal | None = None, script: Script | None = None) -> None:
        self.name = name
        self.journal = journal or Journal()
        self.script = script or Script()
        self.changed: Callable[[str], None] = lambda server_id: None
        self.port_changed: Callable[[str], None] = lambda port_id: None
        self.watch: Callable[[str, str, str], None] | None = None  # (machine, server, state) for invariant checkers

    def guests(self) -> dict[str, str]:
        return self.journal.find("vm/")

    def state(self, server_id: str) -> str | None:
        """One guest's state; None if it is not defined here."""
        found: str | None = self.journal.values.get("vm/" + server_id)
        return found

    def set_guest(self, server_id: str, state: str | None) -> None:
        self.journal.put("vm/" + server_id, state)
        if self.watch is not None:
            self.watch(self.name, server_id, state or "absent")

    def disk(self, server_id: str) -> bytes | None:
        data = self.journal.values.get("disk/" + server_id)
        return None if data is None else bytes(data)

    def set_disk(self, server_id: str, data: bytes | None) -> None:
        self.journal.put("disk/" + server_id, data)
        if self.watch is not None:
            self.watch(self.name, server_id, "disk" if data is not None else "no-disk")

    def rescue_disk(self, server_id: str) -> bytes | None:
        data = self.journal.values.get("rescue/" + server_id)
        return None if data is None else bytes(data)

    def set_rescue_disk(self, server_id: str, data: bytes | None) -> None:
        self.journal.put("rescue/" + server_id, data)

    def write(self, server_id: str, data: bytes) -> None:
        """What a guest does to its disk."""
        old = self.disk(server_id)
        if old is not None:
            self.set_disk(server_id, old + data)

    def crash(self, server_id: str) -> None:
        """The guest's own kill -9."""
        if self.state(server_id) in ("running", "paused"):
            self.set_guest(server_id, "crashed")
            self.changed(server_id)

    def power_cut(self) -> None:
        """Every guest stops where it is and every tap is gone; disks stay."""
        for server_id, state in self.guests().items():
            if state != "stopped":
                self.set_guest(server_id, "stopped" if state != "incoming" else None)
        for port_id in self.journal.find("tap/"):
            self.journal.put("tap/" + port_id, None)


class Neighbourhood:
    """Machines that can reach one another, by name. `cut` holds pairs that cannot (any order)."""

    def __init__(self) -> None:
        self.machines: dict[str, Machine] = {}
        self.cut: set[frozenset[str]] = set()

    def add(self, machine: Machine) -> None:
        self.machines[machine.name] = machine

    def reach(self, here: str, there: str) -> Machine:
        """Raises DriverError when the other machine is not to be reached."""
        machine = self.machines.get(there)
        if machine is None or frozenset((here, there)) in self.cut:
            raise DriverError(f"{there} cannot be reached from {here}", "unreachable")
        return machine


class _Scripted:
    """What all three fakes share: taking their time, failing and lying as scripted."""

    def __init__(self, env: Env, machine: Machine) -> None:
        self.env = env
        self.machine = machine

    async def _act(self, call: str) -> bool:
        """Take the scripted time; raise the scripted failure; False means: lie."""
        script = self.machine.script
        delay_s = script.delay_s.get(call, script.delay_s.get("all", 0.0))
        if delay_s:
            await self.env.sleep(delay_s)
        if self.env.fault_hook is not None:
            await self.env.point("driver." + call)
        left = script.fail.get(call, 0)
        if left:
            script.fail[call] = left - 1
            raise DriverError(f"{call} failed as scripted", "scripted")
        return call not in script.lie


class FakeHypervisor(_Scripted):
    """agent.hypervisor.Hypervisor over a Machine."""

    def __init__(self, env: Env, machine: Machine, neighbours: Neighbourhood) -> None:
        super().__init__(env, machine)
        self.neighbours = neighbours

    async def open(self, changed: Callable[[str], None]) -> None:
        self.machine.changed = changed

    async def close(self) -> None:
        self.machine.changed = lambda server_id: None

    async def inventory(self) -> Inventory:
        script = self.machine.script
        return Inventory(script.vcpus, script.ram_mb, script.disk_gb, "fake", 1, {"driver": "fake"})

    async def guests(self) -> dict[str, str]:
        return self.machine.guests()

    async def launch(self, spec: GuestSpec, *, held: bool) -> None:
        state = self.machine.state(spec.server_id)
        if state == "running" or (state == "paused" and held):
            return
        if self.machine.disk(spec.server_id) is None:
            raise DriverError(f"server {spec.server_id} has no disk on {self.machine.name}", "no-disk")
        if await self._act("launch"):
            if held:
                self.machine.set_guest(spec.server_id, "paused")
            elif spec.rescue is not None:
                self._boot_rescue(spec.server_id)
            else:
                self._boot(spec.server_id)

    def _boot_rescue(self, server_id: str) -> None:
        data = self.machine.rescue_disk(server_id)
        if data is None:
            raise DriverError(f"server {server_id} has no rescue disk on {self.machine.name}", "no-disk")
        self.machine.set_rescue_disk(server_id, data + f"rescue on {self.machine.name}\n".encode())
        self.machine.set_guest(server_id, "running")

    def _boot(self, server_id: str) -> None:
        self.machine.write(server_id, f"boot on {self.machine.name}\n".encode())
        self.machine.set_guest(server_id, "running")

    async def define(self, spec: GuestSpec) -> None:
        if await self._act("define"):
            self.machine.set_guest(spec.server_id, "stopped")

    async def resume(self, server_id: str) -> None:
        state = self.machine.state(server_id)
        if state == "running":
            return
        if state != "paused":
            raise DriverError(f"guest {server_id} is {state or 'absent'}, not paused", "conflict")
        if await self._act("resume"):
            self.machine.set_guest(server_id, "running")

    async def pause(self, server_id: str) -> None:
        self._need(server_id, "running", "paused")
        if await self._act("pause"):
            self.machine.set_guest(server_id, "paused")

    def _need(self, server_id: str, *states: str) -> None:
        state = self.machine.state(server_id)
        if state not in states:
            raise DriverError(f"guest {server_id} is {state or 'absent'}, not {' or '.join(states)}", "conflict")

    async def stop(self, server_id: str, *, graceful_s: float) -> None:
        if self.machine.state(server_id) in (None, "stopped"):
            return
        if await self._act("stop"):
            self.machine.set_guest(server_id, "stopped")

    async def reset(self, server_id: str) -> None:
        self._need(server_id, "running")
        if await self._act("reset"):
            self._boot(server_id)

    async def suspend(self, server_id: str) -> None:
        self._need(server_id, "running", "suspended")
        if await self._act("suspend"):
            self.machine.set_guest(server_id, "suspended")

    async def wake(self, server_id: str) -> None:
        self._need(server_id, "running", "suspended")
        if await self._act("wake"):
            self.machine.set_guest(server_id, "running")

    async def undefine(self, server_id: str) -> None:
        if self.machine.state(server_id) is not None and await self._act("undefine"):
            self.machine.set_guest(server_id, None)

    async def attach_nic(self, server_id: str, nic: Nic) -> None:
        await self._act("attach_nic")

    async def detach_nic(self, server_id: str, nic: Nic) -> None:
        await self._act("detach_nic")

    async def console_log(self, server_id: str, length: int | None) -> str:
        data = (self.machine.disk(server_id) or b"").decode("utf-8", "replace")
        lines = [f"[    0.000000] Virga fake guest {server_id}", *(line for line in data.splitlines() if line.startswith("boot on")), "login:"]
        return "\n".join(lines[-length:] if length else lines) + "\n" if length != 0 else ""

    async def prepare_incoming(self, spec: GuestSpec) -> None:
        if self.machine.state(spec.server_id) is None and await self._act("prepare_incoming"):
            self.machine.set_guest(spec.server_id, "incoming")

    async def migrate_live(self, server_id: str, dest: str, address: str, spec: GuestSpec) -> None:
        other = self.neighbours.reach(self.machine.name, dest)
        if other.state(server_id) in ("running", "paused"):
            return
        self._need(server_id, "running", "paused")
        state = self.machine.state(server_id)
        if other.state(server_id) != "incoming":
            raise DriverError(f"{dest} does not expect guest {server_id}", "conflict")
        if await self._act("migrate_live"):
            other = self.neighbours.reach(self.machine.name, dest)
            other.set_disk(server_id, self.machine.disk(server_id))
            self.machine.set_guest(server_id, None)
            other.set_guest(server_id, state)
            other.changed(server_id)


class FakeDisks(_Scripted):
    """agent.hypervisor.Disks over a Machine. A disk is its written bytes; `disk_gb` bounds nothing but the pretended room."""

    def __init__(self, env: Env, machine: Machine, neighbours: Neighbourhood, images: ImageSource) -> None:
        super().__init__(env, machine)
        self.neighbours = neighbours
        self.images = images

    async def open(self) -> None:
        return None

    async def list(self) -> dict[str, int]:
        return {server_id: len(data) for server_id, data in self.machine.journal.find("disk/").items()}

    async def _image_bytes(self, image: ImageRef | None) -> bytes:
        data = await self.images.fetch(image) if image is not None and image.id else b""
        if image is not None and image.sha512 and not isinstance(self.images, NoImages) and hashlib.sha512(data).hexdigest() != image.sha512:
            raise DriverError(f"image {image.id} does not have the checksum on record", "checksum")
        return data

    async def create(self, server_id: str, image: ImageRef | None, size_gb: int) -> None:
        if self.machine.disk(server_id) is None:
            data = await self._image_bytes(image)
            if await self._act("create_disk"):
                # Emulated disks keep a digest of big images instead of their bytes: content stays checkable, memory stays small.
                self.machine.set_disk(server_id, data if len(data) <= 4096 else b"sha512 " + hashlib.sha512(data).hexdigest().encode() + b"\n")

    async def rebuild(self, server_id: str, image: ImageRef, size_gb: int) -> None:
        data = await self._image_bytes(image)
        if await self._act("rebuild_disk"):
            self.machine.set_disk(server_id, data if len(data) <= 4096 else b"sha512 " + hashlib.sha512(data).hexdigest().encode() + b"\n")

    async def rescue(self, server_id: str, image: ImageRef, size_gb: int) -> None:
        if self.machine.rescue_disk(server_id) is None:
            data = await self._image_bytes(image)
            if await self._act("rescue_disk"):
                self.machine.set_rescue_disk(server_id, data if len(data) <= 4096 else b"sha512 " + hashlib.sha512(data).hexdigest().encode() + b"\n")

    async def unrescue(self, server_id: str) -> None:
        if self.machine.rescue_disk(server_id) is not None and await self._act("unrescue_disk"):
            self.machine.set_rescue_disk(server_id, None)

    async def grow(self, server_id: str, size_gb: int) -> None:
        await self._act("grow")

    async def fetch(self, server_id: str, source: str, address: str) -> str:
        other = self.neighbours.reach(self.machine.name, source)
        data = other.disk(server_id)
        if data is None:
            raise DriverError(f"{source} has no disk of server {server_id}", "no-disk")
        if await self._act("fetch"):
            self.neighbours.reach(self.machine.name, source)
            self.machine.set_disk(server_id, data)
        return hashlib.sha256(data).hexdigest()

    async def checksum(self, server_id: str) -> str:
        return hashlib.sha256(self.machine.disk(server_id) or b"").hexdigest()

    async def snapshot(self, server_id: str, image_id: str) -> ImageRef:
        data = self.machine.disk(server_id)
        if data is None:
            raise DriverError(f"server {server_id} has no disk on {self.machine.name}", "no-disk")
        await self._act("snapshot")
        blob = await self.images.store(image_id, data)
        digests = {"md5": hashlib.md5(data, usedforsecurity=False).hexdigest()}
        return ImageRef(blob, len(data), "raw", hashlib.sha512(data).hexdigest(), digests)

    async def discard(self, server_id: str) -> None:
        if self.machine.rescue_disk(server_id) is not None:
            self.machine.set_rescue_disk(server_id, None)
        if self.machine.disk(server_id) is not None and await self._act("discard"):
            self.machine.set_disk(server_id, None)


class FakeWiring(_Scripted):
    """agent.hypervisor.WiringDriver over a Machine: a tap is a name with a generation."""

    async def open(self, changed: Callable[[str], None]) -> None:
        self.machine.port_changed = changed

    async def close(self) -> None:
        self.machine.port_changed = lambda port_id: None

    async def wire(self, nic: Nic) -> None:
        if await self._act("wire"):
            self.machine.journal.put("tap/" + nic.port_id, nic.generation)

    async def unwire(self, port_id: str) -> None:
        if "tap/" + port_id in self.machine.journal.values and await self._act("unwire"):
            self.machine.journal.put("tap/" + port_id, None)

    async def wired(self) -> dict[str, bool]:
        return dict.fromkeys(self.machine.journal.find("tap/"), True)

    async def announce(self, nic: Nic, addresses: list[str]) -> None:
        return None

    async def apply(self, view: dict[str, Any]) -> None:
        await self._act("apply")
