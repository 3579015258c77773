"""Servers and flavors: their rows and the states they may be in.

One writer: every column of `Server` is intent and belongs to the controller (ops transactions, api for names and metadata), except
`power_state`, which mirrors the active host's guest fact. `epoch` rises with every operation that takes the server: it fences agents.
At most one operation holds a server (`operation_id`). States, task states and the status users see are Nova's (facts file, section 4).
"""
from __future__ import annotations

from typing import Any

import msgspec

from virga.domain.row import Row

# vm_state
BUILDING, ACTIVE, STOPPED, PAUSED, SUSPENDED = "building", "active", "stopped", "paused", "suspended"
RESIZED, ERROR, DELETED, SHELVED, SHELVED_OFFLOADED = "resized", "error", "deleted", "shelved", "shelved_offloaded"
RESCUED = "rescued"

# power_state codes of the compute API
POWER = {"none": 0, "running": 1, "paused": 3, "stopped": 4, "crashed": 6, "suspended": 7}

# vm_state -> (default status, {task_state: status}); the API reference's server status table
STATUS: dict[str, tuple[str, dict[str, str]]] = {
    ACTIVE: ("ACTIVE", {
        "rebooting": "REBOOT", "reboot_pending": "REBOOT", "reboot_started": "REBOOT",
        "rebooting_hard": "HARD_REBOOT", "reboot_pending_hard": "HARD_REBOOT", "reboot_started_hard": "HARD_REBOOT",
        "updating_password": "PASSWORD", "rebuilding": "REBUILD", "rebuild_block_device_mapping": "REBUILD",
        "rebuild_spawning": "REBUILD", "migrating": "MIGRATING", "resize_prep": "RESIZE",
        "resize_migrating": "RESIZE", "resize_migrated": "RESIZE", "resize_finish": "RESIZE",
    }),
    BUILDING: ("BUILD", {}),
    STOPPED: ("SHUTOFF", {
        "resize_prep": "RESIZE", "resize_migrating": "RESIZE", "resize_migrated": "RESIZE", "resize_finish": "RESIZE",
        "rebuilding": "REBUILD", "rebuild_block_device_mapping": "REBUILD", "rebuild_spawning": "REBUILD",
    }),
    RESIZED: ("VERIFY_RESIZE", {"resize_reverting": "REVERT_RESIZE"}),
    PAUSED: ("PAUSED", {"migrating": "MIGRATING"}),
    SUSPENDED: ("SUSPENDED", {}),
    RESCUED: ("RESCUE", {}),
    ERROR: ("ERROR", {
        "rebuilding": "REBUILD", "rebuild_block_device_mapping": "REBUILD", "rebuild_spawning": "REBUILD",
    }),
    DELETED: ("DELETED", {}),
    SHELVED: ("SHELVED", {}),
    SHELVED_OFFLOADED: ("SHELVED_OFFLOADED", {}),
}


def status_of(vm_state: str, task_state: str | None) -> str:
    """The `status` users see for a (vm_state, task_state) pair; UNKNOWN for a vm_state that does not exist."""
    default, by_task = STATUS.get(vm_state, ("UNKNOWN", {}))
    return by_task.get(task_state or "", default)


class FlavorSpec(msgspec.Struct, frozen=True):
    """A flavor as a server carries it: a copy, so that deleting or editing the flavor cannot change a server. MiB and GiB."""

    id: str
    name: str
    vcpus: int
    ram_mb: int
    disk_gb: int
    ephemeral_gb: int = 0
    swap_mb: int = 0
    extra_specs: dict[str, str] = {}


class Flavor(Row):
    """A flavor offered to users. `id` is the API's flavorid (any text); MiB for ram and swap, GiB for disks."""

    __table__ = "flavors"

    id: str
    name: str
    vcpus: int
    ram_mb: int
    disk_gb: int
    ephemeral_gb: int = 0
    swap_mb: int = 0
    rxtx_factor: float = 1.0
    is_public: bool = True
    disabled: bool = False
    description: str | None = None
    extra_specs: dict[str, str] = {}
    projects: list[str] = []
    created_at: float = 0.0
    updated_at: float | None = None

    def spec(self) -> FlavorSpec:
        return FlavorSpec(self.id, self.name, self.vcpus, self.ram_mb, self.disk_gb, self.ephemeral_gb, self.swap_mb,
                          dict(self.extra_specs))


class Fault(msgspec.Struct):
    """What the API shows as `fault`: HTTP-like code, message (at most 255 characters), details for admins, when."""

    code: int
    message: str
    created_at: float
    details: str = ""


class Server(Row):
    """One server. Deleted servers stay as rows with `deleted_at` set."""

    __table__ = "servers"

    id: str
    project_id: str
    user_id: str
    name: str
    flavor: FlavorSpec
    image_id: str | None = None
    host: str | None = None
    vm_state: str = BUILDING
    task_state: str | None = None
    power_state: int = 0
    epoch: int = 0
    operation_id: str | None = None
    # what the server was, and will be again, around a move: set by resize, cleared by confirm and revert
    old_flavor: FlavorSpec | None = None
    old_vm_state: str | None = None
    fault: Fault | None = None
    key_name: str | None = None
    key_public: str | None = None
    user_data: str | None = None
    config_drive: bool = False
    availability_zone: str | None = None
    requested_host: str | None = None
    server_group_id: str | None = None
    hostname: str = ""
    description: str | None = None
    metadata: dict[str, str] = {}
    tags: list[str] = []
    locked: bool = False
    locked_reason: str | None = None
    locked_by: str | None = None
    progress: int = 0
    disk_config: str = "MANUAL"
    access_ipv4: str | None = None
    access_ipv6: str | None = None
    reservation_id: str = ""
    launch_index: int = 0
    security_groups: list[str] = []
    scheduler_hints: dict[str, Any] = {}
    trusted_certs: list[str] | None = None
    admin_pass: str | None = None
    created_at: float = 0.0
    updated_at: float | None = None
    launched_at: float | None = None
    deleted_at: float | None = None

    @property
    def status(self) -> str:
        return status_of(self.vm_state, self.task_state)
