"""Claims and the choice of a host: the one place where room is taken, moved and given back.

A claim is a row; taking it, choosing the host and starting the operation are one transaction, so two servers cannot be promised the same room.
"""
from __future__ import annotations

from virga.domain.compute import ServerGroup
from virga.domain.placement import Candidate, Claim, Host, Request, Room, choose_host
from virga.domain.server import FlavorSpec, Server
from virga.store.claims import room_used
from virga.store.db import Tx

NOTHING = Room(0, 0, 0)


def room_of(flavor: FlavorSpec) -> Room:
    """The room a flavor takes: swap and ephemeral disks count as disk, in whole GiB."""
    return Room(flavor.vcpus, flavor.ram_mb, flavor.disk_gb + flavor.ephemeral_gb + -(-flavor.swap_mb // 1024))


def find_host(tx: Tx, server: Server, flavor: FlavorSpec, *, avoid: frozenset[str] = frozenset(), only: str | None = None) -> tuple[str | None, str]:
    """The best host with room, or None and why not: 'host-1 full, host-2 down'."""
    used = room_used(tx)
    candidates = [Candidate(host, used.get(host.name, NOTHING)) for host in tx.find(Host, sort=[("name", False)])]
    apart, together = group_hosts(tx, server)
    elsewhere, beside = hinted_hosts(tx, server)
    apart |= elsewhere
    if beside is not None:
        together = together & beside if together else beside
        if not together:
            return None, "the servers of same_host share no host with each other and the server group"
    request = Request(room_of(flavor), server.availability_zone, only, avoid | apart, together)
    names, why = choose_host(candidates, request)
    return (names[0], "") if names else (None, why)


def group_hosts(tx: Tx, server: Server) -> tuple[frozenset[str], frozenset[str]]:
    """Hosts a server group's policy forbids, and hosts it insists on."""
    group = tx.get(ServerGroup, server.server_group_id) if server.server_group_id else None
    if group is None:
        return frozenset(), frozenset()
    members = tx.find(Server, server_group_id=group.id, deleted_at=None)
    hosts = [member.host for member in members if member.id != server.id and member.host]
    if group.policy == "affinity":
        return frozenset(), frozenset(hosts)
    if group.policy == "anti-affinity":
        most = int(group.rules.get("max_server_per_host", 1)) if group.rules else 1
        return frozenset(host for host in hosts if hosts.count(host) >= most), frozenset()
    return frozenset(), frozenset()


def hinted_hosts(tx: Tx, server: Server) -> tuple[frozenset[str], frozenset[str] | None]:
    """Hosts the hints `different_host` rule out, and those `same_host` leaves (None: all), by where those servers are now."""
    def hosts_of(key: str) -> list[str]:
        asked = server.scheduler_hints.get(key) or []
        ids = asked if isinstance(asked, list) else [asked]
        found = [tx.get(Server, server_id) for server_id in ids]
        return [other.host for other in found if other is not None and other.host and other.deleted_at is None]

    beside = frozenset(hosts_of("same_host")) if server.scheduler_hints.get("same_host") else None
    return frozenset(hosts_of("different_host")), beside


def claim(tx: Tx, host: str, owner: str, kind: str, server_id: str, flavor: FlavorSpec) -> None:
    """Take room on a host in the name of a server or of a migration."""
    room = room_of(flavor)
    tx.put(Claim(host, owner, kind, server_id, room.vcpus, room.ram_mb, room.disk_gb))


def release(tx: Tx, host: str, owner: str) -> None:
    tx.delete(Claim, host, owner)


def release_all(tx: Tx, server_id: str) -> None:
    tx.delete_where(Claim, server_id=server_id)
