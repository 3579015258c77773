"""The interfaces of the hands on one host: hypervisor, disks, wiring. Fakes and real drivers implement the same three.

Rules: every method is idempotent (called twice with the same arguments it ends in the same state and raises nothing), takes as long as it takes, and
raises `DriverError` with a sentence an operator can act on. Drivers hold no intent: they are told, they do, and they can be asked what is there.
`changed` callbacks are hints without data. The agent (session.py, guest.py) is the only caller and never calls two methods for one server at once.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec


class DriverError(Exception):
    """The driver could not do it. `code` is a short word for `explain` and tests: no-space, no-image, checksum, timeout, conflict, failed."""

    def __init__(self, message: str, code: str = "failed") -> None:
        super().__init__(message)
        self.code = code


class ImageRef(msgspec.Struct, frozen=True):
    """An image to make a disk from. `sha512` '' means unchecked (an image whose data the fake cloud never had)."""

    id: str
    size_bytes: int = 0
    disk_format: str = "raw"
    sha512: str = ""
    properties: dict[str, str] = {}


class Nic(msgspec.Struct, frozen=True):
    """One network card: what wiring and hypervisor need to know of a port. `tap` is the device name (`tap` + first 11 of the port id)."""

    port_id: str
    generation: int
    mac: str
    network_id: str
    network_type: str = "vxlan"
    segmentation_id: int = 0
    physical_network: str = ""
    mtu: int = 1450
    admin_up: bool = True

    @property
    def tap(self) -> str:
        return "tap" + self.port_id[:11]

    @property
    def bridge(self) -> str:
        return "brq" + self.network_id[:11]


class GuestSpec(msgspec.Struct, frozen=True):
    """A guest to run. MiB and GiB. `metadata` is what metadata service and config drive show (EC2-free OpenStack layout)."""

    server_id: str
    name: str
    vcpus: int
    ram_mb: int
    disk_gb: int
    nics: list[Nic] = []
    image: ImageRef | None = None
    config_drive: bool = False
    metadata: dict[str, Any] = {}
    user_data: str = ""
    # Run from the rescue disk made from this image; the server's own disk comes second. `hw_rescue_bus` and `hw_rescue_device` among the image's
    # properties leave the own disk where it was and put the rescue disk last, booted first.
    rescue: ImageRef | None = None


class GuestView(msgspec.Struct, frozen=True):
    """What is there: `state` is one of domain.operation's Guest states, `disk` whether its disk is on this host."""

    state: str
    disk: bool


class Inventory(msgspec.Struct, frozen=True):
    """What a host has: CPUs, MiB, GiB, and the driver's name and version."""

    vcpus: int
    ram_mb: int
    disk_gb: int
    hypervisor_type: str
    hypervisor_version: int
    detail: dict[str, Any] = {}


class Hypervisor(Protocol):
    """Runs guests. A guest's taps exist before `launch` is called; the driver never makes or removes a tap."""

    async def open(self, changed: Callable[[str], None]) -> None:
        """Connect and find what runs. `changed(server_id)` is called whenever a guest's state may have changed by itself."""

    async def close(self) -> None: ...
    async def inventory(self) -> Inventory: ...
    async def guests(self) -> dict[str, str]:
        """server_id -> running, paused, held, stopped, suspended or crashed, for every guest defined here."""

    async def launch(self, spec: GuestSpec, *, held: bool) -> None:
        """Define and start from the host's disk of that server, from its rescue disk when `spec.rescue` is set.

        `held` leaves it paused before its first instruction.
        """

    async def define(self, spec: GuestSpec) -> None:
        """Define without starting (a server that was stopped)."""

    async def resume(self, server_id: str) -> None:
        """Let a held or paused guest run. A running one is left alone."""

    async def pause(self, server_id: str) -> None: ...
    async def stop(self, server_id: str, *, graceful_s: float) -> None:
        """Power off: ask the guest for up to `graceful_s` seconds, then pull the plug."""

    async def reset(self, server_id: str) -> None: ...
    async def suspend(self, server_id: str) -> None: ...
    async def wake(self, server_id: str) -> None:
        """Back from `suspend`."""

    async def undefine(self, server_id: str) -> None:
        """Forget the guest (stopped first if need be). Its disk stays."""

    async def attach_nic(self, server_id: str, nic: Nic) -> None: ...
    async def detach_nic(self, server_id: str, nic: Nic) -> None: ...
    async def console_log(self, server_id: str, length: int | None) -> str: ...
    async def migrate_live(self, server_id: str, dest: str, address: str, spec: GuestSpec) -> None:
        """Move the running guest to host `dest`, where `prepare_incoming` was called, copying its disk. On return it runs there and not here."""

    async def prepare_incoming(self, spec: GuestSpec) -> None: ...


class Disks(Protocol):
    """Keeps one disk a server on this host."""

    async def open(self) -> None: ...
    async def list(self) -> dict[str, int]:
        """server_id -> size in bytes, for every complete disk here."""

    async def create(self, server_id: str, image: ImageRef | None, size_gb: int) -> None:
        """Make the disk from the image (or empty). An existing complete disk is left alone."""

    async def rebuild(self, server_id: str, image: ImageRef, size_gb: int) -> None:
        """Replace the disk's content with the image's: the new one is made aside and swapped in whole."""

    async def rescue(self, server_id: str, image: ImageRef, size_gb: int) -> None:
        """Make a rescue disk beside the server's own. An existing complete one is left alone."""

    async def unrescue(self, server_id: str) -> None:
        """Delete the rescue disk."""

    async def grow(self, server_id: str, size_gb: int) -> None: ...
    async def fetch(self, server_id: str, source: str, address: str) -> str:
        """Copy the disk of a server from another host's agent, checked by checksum, resuming a partial copy; returns the checksum."""

    async def checksum(self, server_id: str) -> str: ...
    async def snapshot(self, server_id: str, image_id: str) -> ImageRef:
        """Upload the disk's content as the data of an image; returns its size and checksum."""

    async def discard(self, server_id: str) -> None:
        """Delete the disk, complete or partial."""


class WiringDriver(Protocol):
    """Makes taps and joins them to their network."""

    async def open(self, changed: Callable[[str], None]) -> None:
        """`changed(port_id)` is called whenever a port's wiring may have changed by itself."""

    async def close(self) -> None: ...
    async def wire(self, nic: Nic) -> None:
        """Make the tap, bridge it, load its filter and DHCP entry. Returns only when a guest started on it would have its network."""

    async def unwire(self, port_id: str) -> None: ...
    async def wired(self) -> dict[str, bool]:
        """port_id -> fully wired, for every tap of ours on this host."""

    async def announce(self, nic: Nic, addresses: list[str]) -> None:
        """Gratuitous ARP / unsolicited NA after a move."""

    async def apply(self, view: dict[str, Any]) -> None:
        """The controller's newest view of this host's networks (flood lists, security groups, DHCP entries, routers); whole, not a change."""
