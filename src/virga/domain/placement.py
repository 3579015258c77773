"""Hosts, inventories, claims, and choosing a host.

Writers: `Host.name`, `disabled`, `forced_down` are intent; `state`, `boot_id`, inventory and `seen_at` are observation (fabric/hub).
A claim is room taken on a host by a server or, while a move is unconfirmed, by its migration; claims are rows, so the sum over a host is the truth
and nothing has to be audited back into shape. `choose_host` is pure: hosts, claims and a request in, an ordered list of candidates out.
"""
from __future__ import annotations

from typing import Any

import msgspec

from virga.domain.row import Row

UP, DOWN = "up", "down"
PRETENDS = "fake"  # hypervisor type of a host without real guests


class Host(Row):
    """A compute host. `id` is a UUID (hypervisor and resource provider id); `name` is what everyone calls it."""

    __table__ = "hosts"
    __key__ = ("name",)

    name: str
    id: str
    state: str = DOWN
    number: int = 0  # the compute API's integer ids
    disabled: bool = False
    disabled_reason: str | None = None
    forced_down: bool = False  # the operator's word that this host is dead: this is what fences it
    availability_zone: str = "nova"
    vcpus: int = 0
    ram_mb: int = 0
    disk_gb: int = 0
    cpu_ratio: float = 16.0
    ram_ratio: float = 1.0
    disk_ratio: float = 1.0
    hypervisor_type: str = PRETENDS
    hypervisor_version: int = 1
    address: str = "127.0.0.1"
    boot_id: str = ""
    session: int = 0  # rises with every link session; facts of an older session are stale
    revision: int = 0
    detail: dict[str, Any] = {}  # what the agent says of itself: drivers, bridge mappings, vtep address, cpu
    created_at: float = 0.0
    updated_at: float = 0.0
    seen_at: float = 0.0


class Claim(Row):
    """Room taken on one host. `owner` is a server id or a migration id, `kind` 'server' or 'migration'."""

    __table__ = "claims"
    __key__ = ("host", "owner")

    host: str
    owner: str
    kind: str
    server_id: str
    vcpus: int
    ram_mb: int
    disk_gb: int


class Room(msgspec.Struct, frozen=True):
    """An amount of room: virtual CPUs, MiB, GiB."""

    vcpus: int
    ram_mb: int
    disk_gb: int


def is_returning(host: Host, now: float, within_s: float) -> bool:
    """Whether a host is down, but its connection broke so lately that it may be back in a moment: its agent, or the controller, was started again."""
    return host.state != UP and not host.forced_down and now - host.seen_at < within_s


class Candidate(msgspec.Struct):
    """A host with what is taken of it, and whether it `is_returning`."""

    host: Host
    used: Room
    returning: bool = False


class Request(msgspec.Struct, frozen=True):
    """What a server asks of a host. `only` and `avoid` name hosts; `together`/`apart` come from a server group's policy; `more_disks` are swap or ephemeral."""

    room: Room
    zone: str | None = None
    only: str | None = None
    avoid: frozenset[str] = frozenset()
    together: frozenset[str] = frozenset()
    more_disks: bool = False


def fits(candidate: Candidate, room: Room) -> bool:
    host, used = candidate.host, candidate.used
    return (
        used.vcpus + room.vcpus <= host.vcpus * host.cpu_ratio
        and used.ram_mb + room.ram_mb <= host.ram_mb * host.ram_ratio
        and used.disk_gb + room.disk_gb <= host.disk_gb * host.disk_ratio
    )


class Choice(msgspec.Struct, frozen=True):
    """`hosts` that can take a request, best first; `why` the others cannot; `soon`: those of them that could if they were connected again."""

    hosts: list[str]
    why: str
    soon: list[str]


def choose_host(candidates: list[Candidate], request: Request) -> Choice:
    """Emptiest host first, by free memory, then by name."""
    good: list[tuple[float, str]] = []
    why: list[str] = []
    soon: list[str] = []
    for candidate in candidates:
        host = candidate.host
        reason = ""
        if request.only is not None and host.name != request.only:
            continue
        if (host.state != UP and not candidate.returning) or host.forced_down:
            reason = "down"
        elif host.disabled and request.only is None:
            reason = "disabled"
        elif host.name in request.avoid:
            reason = "excluded"
        elif request.together and host.name not in request.together:
            reason = "not where its server group is"
        elif request.zone is not None and host.availability_zone != request.zone:
            reason = f"not in zone {request.zone}"
        elif request.more_disks and host.hypervisor_type != PRETENDS:
            # Better none than a server that lacks a disk its flavor promises.
            reason = "makes no swap or ephemeral disks"
        elif not fits(candidate, request.room):
            reason = "full"
        if reason:
            why.append(f"{host.name} {reason}")
        elif host.state != UP:
            why.append(f"{host.name} down")
            soon.append(host.name)
        else:
            good.append((candidate.used.ram_mb - host.ram_mb * host.ram_ratio, host.name))
    return Choice([name for _, name in sorted(good)], ", ".join(why) or "no host is known", sorted(soon))
