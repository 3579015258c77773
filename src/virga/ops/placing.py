"""Claims and the choice of a host: the one place where room is taken, moved and given back.

A claim is a row; taking it, choosing the host and starting the operation are one transaction, so two servers cannot be promised the same room.
When only hosts whose connection has just broken (an agent or the controller was started again) could take a server, the choice waits for them a little:
"no valid host" is an answer that a client takes for final. So the step that chooses is declared `redo`, with `choice_deadline`.
"""
from __future__ import annotations

from virga.domain.compute import ServerGroup
from virga.domain.config import Config
from virga.domain.placement import Candidate, Choice, Claim, Host, Request, Room, choose_host, is_returning
from virga.domain.server import FlavorSpec, Server
from virga.ops.procedure import Run, Verdict, failed, waiting
from virga.store.claims import room_used
from virga.store.db import Tx

NOTHING = Room(0, 0, 0)


def choice_deadline(config: Config) -> float:
    """Seconds a step that chooses a host may take."""
    return config.compute.host_reconnect_timeout


def room_of(flavor: FlavorSpec) -> Room:
    """The room a flavor takes: swap and ephemeral disks count as disk, in whole GiB."""
    return Room(flavor.vcpus, flavor.ram_mb, flavor.disk_gb + flavor.ephemeral_gb + -(-flavor.swap_mb // 1024))


def find_host(run: Run, flavor: FlavorSpec, *, avoid: frozenset[str] = frozenset(), only: str | None = None) -> str | None:
    """The best host with room for the operation's server. None while it has to be waited for (`undecided`), or when there is none (`refusal`)."""
    choice = _choose(run, flavor, avoid, only)
    if choice.hosts:
        return choice.hosts[0]
    if choice.soon:
        if run.op.notes.get("returning") != choice.soon:
            run.note(returning=choice.soon)
    else:
        run.note(refused=choice.why)
    return None


def is_room(run: Run, flavor: FlavorSpec, *, avoid: frozenset[str]) -> bool:
    """Whether some host could be chosen now; nothing is noted."""
    return bool(_choose(run, flavor, avoid, None).hosts)


def undecided(run: Run, refusal: str) -> Verdict:
    """What a step that has no host yet says: failed, with `refusal` before the reasons host by host, or waiting."""
    refused = run.op.notes.get("refused")
    if refused is not None:
        return failed(f"{refusal}: {refused}.")
    hosts = run.op.notes.get("returning", [])
    return waiting(f"waiting for {' or '.join(hosts)} to connect again: no other host can take the server")


def _choose(run: Run, flavor: FlavorSpec, avoid: frozenset[str], only: str | None) -> Choice:
    tx, server = run.tx, run.server
    used = room_used(tx)
    within_s = run.config.compute.host_reconnect_timeout
    candidates = [Candidate(host, used.get(host.name, NOTHING), is_returning(host, tx.now, within_s))
                  for host in tx.find(Host, sort=[("name", False)])]
    apart, together = group_hosts(tx, server)
    elsewhere, beside = hinted_hosts(tx, server)
    apart |= elsewhere
    if beside is not None:
        together = together & beside if together else beside
        if not together:
            return Choice([], "the servers of same_host share no host with each other and the server group", [])
    request = Request(room_of(flavor), server.availability_zone, only, avoid | apart, together,
                      more_disks=bool(flavor.ephemeral_gb or flavor.swap_mb))
    return choose_host(candidates, request)


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
