"""The guest actor's hands: every verb the controller may send, as a sequence of driver calls on one host.

Rules: each verb is idempotent, so that a command sent again after a crash just ends where it should. Wire-then-start is a local join: a guest is
started only on taps that this agent has wired and reported, so no message can fall between the two. `vif_plugging_timeout` and
`vif_plugging_is_fatal` say what happens when wiring does not come about; neither ever touches a disk. Only `purge` deletes one.
"""
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from virga.agent.hypervisor import Disks, DriverError, GuestSpec, Hypervisor, ImageRef, Nic, WiringDriver
from virga.domain.config import Compute
from virga.runtime.env import Env

GRACEFUL_STOP_S = 60.0
RETRY_MIN_S, RETRY_MAX_S = 0.5, 10.0
ABSENT, KEPT, HELD, PAUSED, INCOMING = "absent", "kept", "held", "paused", "incoming"


class GuestRecord(msgspec.Struct):
    """What this agent remembers of one server: the newest epoch it has seen, the last spec, and what it last reported.

    `seen` is the epoch of the last command that ended: facts carry it, so that a look taken in the middle of a newer command cannot pass for its outcome.
    """

    server_id: str
    epoch: int = 0
    seen: int = 0
    spec: dict[str, Any] | None = None
    held: bool = False
    incoming: bool = False
    state: str = ABSENT
    disk: bool = False
    nics: dict[str, int] = {}  # port id -> generation, for every tap of this server here
    wired: dict[str, bool] = {}
    unplugged: dict[str, int] = {}  # taps taken away by the command under way, to be told with its result


Wired = Callable[[GuestRecord, Nic, bool, str], None]


class Hands:
    """Runs verbs. `tell_wired` reports a port's wiring the moment it is known."""

    def __init__(self, env: Env, options: Compute, hypervisor: Hypervisor, disks: Disks, wiring: WiringDriver, tell_wired: Wired,
                 tell_trouble: Callable[[GuestRecord, str], None]) -> None:
        self.env, self.options = env, options
        self.hypervisor, self.disks, self.wiring = hypervisor, disks, wiring
        self._tell_wired = tell_wired
        self.tell_trouble = tell_trouble
        self.graceful_stop_s = GRACEFUL_STOP_S
        self.verbs: dict[str, Callable[[GuestRecord, dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "create": self.create, "retire": self.retire, "restore": self.restore, "release": self.release, "fetch": self.fetch,
            "power": self.power, "rebuild": self.rebuild, "purge": self.purge, "prepare_incoming": self.prepare_incoming,
            "migrate_live": self.migrate_live, "attach": self.attach, "detach": self.detach, "snapshot": self.snapshot, "report": self.report,
        }

    # pieces ---------------------------------------------------------------------------------------------------------
    def _spec(self, record: GuestRecord, args: dict[str, Any]) -> GuestSpec:
        record.spec = args["spec"]
        return msgspec.convert(args["spec"], GuestSpec)

    async def _wire(self, record: GuestRecord, nic: Nic) -> None:
        await self.wiring.wire(nic)
        record.nics[nic.port_id] = nic.generation
        record.wired[nic.port_id] = True
        self._tell_wired(record, nic, True, "")

    async def _wire_all(self, record: GuestRecord, nics: list[Nic]) -> None:
        """Wire every admin-up NIC within the plugging timeout. Raises DriverError when that fails and plugging is fatal."""
        wanted = {nic.port_id for nic in nics}
        for port_id in [port_id for port_id in record.nics if port_id not in wanted]:
            await self._unwire(record, port_id)
        try:
            async with asyncio.timeout(self.options.vif_plugging_timeout or None):
                for nic in nics:
                    if nic.admin_up:
                        await self._wire(record, nic)
        except (DriverError, TimeoutError) as error:
            late = [nic for nic in nics if nic.admin_up and record.nics.get(nic.port_id) != nic.generation]
            why = str(error) or f"not wired within {self.options.vif_plugging_timeout:g} s"
            if self.options.vif_plugging_is_fatal:
                raise DriverError(f"Virtual Interface creation failed: port {late[0].port_id if late else '?'}: {why}", "wiring") from error
            for nic in late:
                record.nics[nic.port_id] = nic.generation
                record.wired[nic.port_id] = False
                self._tell_wired(record, nic, False, why)

    async def _unwire(self, record: GuestRecord, port_id: str) -> None:
        await self.wiring.unwire(port_id)
        generation = record.nics.pop(port_id, 0)
        record.wired.pop(port_id, None)
        # Not urgent: it travels with the command's result.
        record.unplugged[port_id] = generation

    async def _unwire_later(self, record: GuestRecord, port_id: str) -> None:
        """Where a tap that stays does not matter to the outcome: the agent comes back for it."""
        try:
            await self._unwire(record, port_id)
        except DriverError as error:
            self.tell_trouble(record, f"the tap of port {port_id} is loose: {error}")

    async def _start(self, record: GuestRecord, spec: GuestSpec, power: str) -> None:
        """Wire, then start; the only way a guest comes to run on this host."""
        await self._wire_all(record, spec.nics)
        await self.env.point("agent.wired_not_started")
        if power == "stopped":
            await self.hypervisor.define(spec)
            record.held = False
            return
        record.held = power == HELD
        await self.hypervisor.launch(spec, held=record.held)
        if not record.held:
            await self._announce(spec)

    async def _announce(self, spec: GuestSpec) -> None:
        for nic in spec.nics:
            await self.wiring.announce(nic, [])

    async def announce(self, record: GuestRecord) -> None:
        """Tell the networks where this server's cards are now; what cannot be told they will learn from its own frames."""
        try:
            if record.spec is not None:
                await self._announce(msgspec.convert(record.spec, GuestSpec))
        except DriverError as error:
            self.tell_trouble(record, f"not announced: {error}")

    # verbs ----------------------------------------------------------------------------------------------------------
    async def create(self, record: GuestRecord, args: dict[str, Any]) -> dict[str, Any]:
        """Disk from the image, ports wired, guest started."""
        spec = self._spec(record, args)
        await self.disks.create(spec.server_id, spec.image, spec.disk_gb)
        await self._start(record, spec, args["power"])
        return {}

    async def retire(self, record: GuestRecord, args: dict[str, Any]) -> dict[str, Any]:
        """Shut down and unplugged, disk kept. A held guest was never let run, so it is simply dropped."""
        graceful_s = 0.0 if record.held or record.state in (PAUSED, "crashed", "suspended") else self.graceful_stop_s
        await self.hypervisor.stop(record.server_id, graceful_s=graceful_s)
        await self.hypervisor.undefine(record.server_id)
        record.held = record.incoming = False
        for port_id in list(record.nics):
            await self._unwire(record, port_id)
        return {}

    async def restore(self, record: GuestRecord, args: dict[str, Any]) -> dict[str, Any]:
        """A guest again from the disk this host has: held, running or stopped."""
        spec = self._spec(record, args)
        if spec.server_id not in await self.disks.list():
            raise DriverError(f"there is no disk of server {spec.server_id} here", "no-disk")
        await self.disks.grow(spec.server_id, spec.disk_gb)
        await self._start(record, spec, args["power"])
        return {}

    async def release(self, record: GuestRecord, args: dict[str, Any]) -> dict[str, Any]:
        """Let a held guest run."""
        await self.hypervisor.resume(record.server_id)
        record.held = False
        if record.spec is not None:
            await self._announce(msgspec.convert(record.spec, GuestSpec))
        return {}

    async def fetch(self, record: GuestRecord, args: dict[str, Any]) -> dict[str, Any]:
        """A copy of another host's disk, checked, then grown to the new flavor."""
        checksum = await self.disks.fetch(record.server_id, args["source"], args["address"])
        await self.disks.grow(record.server_id, args["disk_gb"])
        return {"checksum": checksum}

    async def power(self, record: GuestRecord, args: dict[str, Any]) -> dict[str, Any]:
        """start, stop, reboot (soft or hard), pause, unpause, suspend, resume, rescue, unrescue."""
        action, server_id = args["action"], record.server_id
        graceful_s = 0.0 if args.get("hard") else self.graceful_stop_s
        if action == "stop":
            await self.hypervisor.stop(server_id, graceful_s=graceful_s)
        elif action == "start":
            await self._start(record, self._spec(record, args), "running")
        elif action == "reboot":
            await self.hypervisor.stop(server_id, graceful_s=graceful_s)
            await self._start(record, self._spec(record, args), "running")
        elif action == "rescue":
            # The rescue disk first: when it cannot be made, the guest has not been touched.
            spec = self._spec(record, args)
            await self.disks.rescue(server_id, spec.rescue or ImageRef(""), spec.disk_gb)
            await self.hypervisor.stop(server_id, graceful_s=graceful_s)
            await self._start(record, spec, "running")
        elif action == "unrescue":
            await self.hypervisor.stop(server_id, graceful_s=graceful_s)
            await self._start(record, self._spec(record, args), "running")
            await self.disks.unrescue(server_id)
        elif action == "pause":
            await self.hypervisor.pause(server_id)
        elif action == "unpause":
            await self.hypervisor.resume(server_id)
        elif action == "suspend":
            await self.hypervisor.suspend(server_id)
        elif action == "resume":
            await self.hypervisor.wake(server_id)
        else:
            raise DriverError(f"unknown power action {action!r}")
        return {}

    async def rebuild(self, record: GuestRecord, args: dict[str, Any]) -> dict[str, Any]:
        """A new disk from the image in place of the old one, then started."""
        spec = self._spec(record, args)
        await self.hypervisor.stop(spec.server_id, graceful_s=0.0)
        await self.disks.rebuild(spec.server_id, spec.image or ImageRef(""), spec.disk_gb)
        await self._start(record, spec, args["power"])
        return {}

    async def purge(self, record: GuestRecord, args: dict[str, Any]) -> dict[str, Any]:
        """Nothing of this server stays on this host. Tried until it works: a purge that gave up would leave a guest nobody answers for."""
        await self._insist(record, "purge", lambda: self._purge_once(record))
        return {}

    async def _insist(self, record: GuestRecord, what: str, once: Callable[[], Awaitable[None]]) -> None:
        """Try until it works, or until a command of a newer epoch takes over."""
        pause_s = RETRY_MIN_S
        while True:
            try:
                return await once()
            except DriverError as error:
                self.tell_trouble(record, f"{what} will be tried again in {pause_s:g} s: {error}")
                await self.env.sleep(pause_s)
                pause_s = min(RETRY_MAX_S, pause_s * 2)

    async def _purge_once(self, record: GuestRecord) -> None:
        await self.hypervisor.stop(record.server_id, graceful_s=0.0)
        await self.hypervisor.undefine(record.server_id)
        record.held = record.incoming = False
        for port_id in list(record.nics):
            await self._unwire(record, port_id)
        await self.disks.discard(record.server_id)

    async def prepare_incoming(self, record: GuestRecord, args: dict[str, Any]) -> dict[str, Any]:
        """Ports wired and a place ready for a guest that comes running."""
        spec = self._spec(record, args)
        await self._wire_all(record, spec.nics)
        record.incoming = True
        await self.hypervisor.prepare_incoming(spec)
        return {}

    async def migrate_live(self, record: GuestRecord, args: dict[str, Any]) -> dict[str, Any]:
        """Hand the running guest over; on return it runs there. The disk here is kept until the controller has recorded that."""
        spec = msgspec.convert(args["spec"], GuestSpec)
        if record.server_id in await self.hypervisor.guests():
            await self.hypervisor.migrate_live(record.server_id, args["dest"], args["address"], spec)
        for port_id in list(record.nics):
            await self._unwire_later(record, port_id)  # the guest is over there: a failure now would be a lie about it
        return {}

    async def report(self, record: GuestRecord, args: dict[str, Any]) -> dict[str, Any]:
        """Do nothing, but at a new epoch: what was under way is over, and the facts sent with the result say what is here now."""
        return {}

    async def attach(self, record: GuestRecord, args: dict[str, Any]) -> dict[str, Any]:
        nic = msgspec.convert(args["nic"], Nic)
        before = record.spec
        if record.spec is not None:  # first, so that whoever takes over in the middle knows the card as the guest's own
            others = [item for item in record.spec.get("nics", []) if item["port_id"] != nic.port_id]
            record.spec = {**record.spec, "nics": [*others, args["nic"]]}
        try:
            await self._wire(record, nic)
            await self.hypervisor.attach_nic(record.server_id, nic)
        except DriverError:
            record.spec = before
            raise
        return {}

    async def detach(self, record: GuestRecord, args: dict[str, Any]) -> dict[str, Any]:
        port_id = args["port_id"]
        nic = Nic(port_id, record.nics.get(port_id, 0), "", "")
        if args.get("insist"):  # the port is gone, and nobody waits to hear that its card is not
            await self._insist(record, f"detach of port {port_id}", lambda: self.hypervisor.detach_nic(record.server_id, nic))
        else:
            await self.hypervisor.detach_nic(record.server_id, nic)
        if record.spec is not None:
            record.spec = {**record.spec, "nics": [item for item in record.spec.get("nics", []) if item["port_id"] != port_id]}
        await self._unwire_later(record, port_id)  # the guest has lost the card, as was asked
        return {}

    async def snapshot(self, record: GuestRecord, args: dict[str, Any]) -> dict[str, Any]:
        """The disk's bytes into the image store; what the controller needs to make the image active."""
        image = await self.disks.snapshot(record.server_id, args["image_id"])
        return {"size_bytes": image.size_bytes, "sha512": image.sha512, "md5": image.properties.get("md5", ""), "blob": image.id}
