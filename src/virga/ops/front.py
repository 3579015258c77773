"""What users may ask of servers: every action's legality, its first transaction, and nothing else.

Each function runs inside a `db.run` closure, checks (lock, state, task, quota), writes the accepted state, and opens the operation, all in one
transaction; what it cannot allow it refuses with `Problem` in the compute API's codes and wording of cause. States: facts file 4.1.
"""
from __future__ import annotations

from typing import Any

import msgspec

from virga.domain.ask import Ask
from virga.domain.errors import Problem
from virga.domain.image import Image
from virga.domain.network import Network
from virga.domain.operation import OPEN, Migration, Operation
from virga.domain.placement import UP, Host, is_returning
from virga.domain.port import Port
from virga.domain.server import (
    ACTIVE,
    ERROR,
    PAUSED,
    RESCUED,
    RESIZED,
    SHELVED,
    SHELVED_OFFLOADED,
    STOPPED,
    SUSPENDED,
    FlavorSpec,
    Server,
)
from virga.ops import actions, interfaces, live, placing, power
from virga.ops import boot as _boot
from virga.ops import delete as _delete
from virga.ops import rebuild as _rebuild
from virga.ops import rescue as _rescue
from virga.ops import resize as _resize
from virga.ops import revert as _revert
from virga.ops import snapshot as _snapshot
from virga.ops.addresses import Wish
from virga.ops.engine import open_operation, supersede, turn_back
from virga.ops.ports import create_port
from virga.store.db import Tx
from virga.store.quota import check_room

ROOMS = (_boot, _delete, power, _rebuild, _rescue, _resize, _revert, live, interfaces, _snapshot)  # importing them declares their procedures


class NicRequest(msgspec.Struct, frozen=True):
    """A NIC asked for: a network to make a port on (with a wished address), or a port that exists."""

    network_id: str | None = None
    port_id: str | None = None
    fixed_ip: str | None = None
    tag: str | None = None


def need_state(server: Server, action: str, states: tuple[str, ...], *, ask: Ask, tasks: tuple[str | None, ...] = (None,)) -> None:
    """Raises 409 unless the server may take this action now; a locked server only takes it from an administrator."""
    need_unlocked(server, ask)
    if server.vm_state not in states:
        raise Problem(409, f"Cannot '{action}' instance {server.id} while it is in vm_state {server.vm_state}")
    if server.task_state not in tasks:
        raise Problem(409, f"Cannot '{action}' instance {server.id} while it is in task_state {server.task_state}")
    if server.operation_id is not None:
        raise Problem(409, f"Cannot '{action}' instance {server.id} while another operation holds it")


def need_unlocked(server: Server, ask: Ask) -> None:
    if server.locked and not ask.is_admin:
        raise Problem(409, f"Instance {server.id} is locked")


def need_host(tx: Tx, server: Server) -> Host:
    """The server's host. Raises 409 for a server that has none (a failed build)."""
    host = tx.get(Host, server.host) if server.host else None
    if host is None:
        raise Problem(409, f"Instance {server.id} is not on any host: there is nothing to act on")
    return host


def need_host_up(tx: Tx, ask: Ask, server: Server) -> Host:
    """The server's host, connected or about to be again. Raises 409: a move needs the host that has the disk."""
    host = need_host(tx, server)
    if host.forced_down or (host.state != UP and not is_returning(host, tx.now, ask.config.compute.host_reconnect_timeout)):
        raise Problem(409, f"Compute host {host.name} of instance {server.id} is not available at this time; try again when it is up, or evacuate.")
    return host


def _start(
    tx: Tx, ask: Ask, server: Server, kind: str, action: str, inputs: dict[str, Any] | None = None, op_id: str = "", **changes: Any,
) -> Operation:
    """Write the accepted state, the instance action and the operation."""
    if changes:
        tx.update(Server, server.id, updated_at=tx.now, **changes)
        for name, value in changes.items():
            setattr(server, name, value)
    op_id = op_id or tx.new_id()
    actions.begin(tx, server.id, action, project_id=ask.project_id, user_id=ask.user_id, request_id=ask.request_id, operation_id=op_id)
    return open_operation(tx, ask.config, kind, server, project_id=ask.project_id, user_id=ask.user_id, request_id=ask.request_id,
                          inputs=inputs or {}, operation_id=op_id)


def boot(tx: Tx, ask: Ask, server: Server, nics: list[NicRequest]) -> Operation:
    """Insert the server with its ports and start building it. Raises 403 over quota, 400/404/409 for a NIC that cannot be had."""
    check_room(tx, ask.config, server.project_id, server.user_id, instances=1, cores=server.flavor.vcpus, ram_mb=server.flavor.ram_mb)
    server.created_at = tx.now
    server.updated_at = tx.now
    server.task_state = "scheduling"
    tx.insert(server)
    for nic in nics:
        add_nic(tx, ask, server, nic)
    return _start(tx, ask, server, "boot", "create")


def add_nic(tx: Tx, ask: Ask, server: Server, nic: NicRequest) -> Port:
    """Make or take the port of a NIC. Raises 404, 400 or 409 for one that is not there, not ours or in use."""
    owner = f"compute:{server.availability_zone or 'nova'}"
    if nic.port_id is not None:
        port = tx.get(Port, nic.port_id)
        if port is None or not (ask.is_admin or port.project_id == server.project_id):
            raise Problem(404 if server.operation_id else 400, f"Port id {nic.port_id} could not be found.")
        if port.device_id:
            raise Problem(409 if server.created_at < tx.now else 400, f"Port {nic.port_id} is still in use.")
        tx.update(Port, port.id, device_id=server.id, device_owner=owner, preserve=True, updated_at=tx.now, revision_number=port.revision_number + 1)
        return port
    network = tx.get(Network, nic.network_id) if nic.network_id else None
    if network is None:
        raise Problem(400, f"Network {nic.network_id} could not be found.")
    wished = [Wish(ip_address=nic.fixed_ip)] if nic.fixed_ip else None
    groups = server.security_groups if network.port_security_enabled else []
    return create_port(tx, ask, network, device_id=server.id, device_owner=owner, preserve=False, project_id=server.project_id,
                       fixed_ips=wished, security_groups=groups or None, tags=[nic.tag] if nic.tag else ())


def delete(tx: Tx, ask: Ask, server: Server) -> Operation:
    """Delete in any state; whatever operation holds the server ends here. Raises 409 only for a locked server."""
    need_unlocked(server, ask)
    op = tx.get(Operation, server.operation_id) if server.operation_id else None
    if op is not None and op.state in OPEN:
        if op.kind == "delete":
            return op
        supersede(tx, op, "the server was deleted meanwhile")
    return _start(tx, ask, server, "delete", "delete", task_state="deleting")


def start(tx: Tx, ask: Ask, server: Server) -> Operation:
    need_state(server, "start", (STOPPED,), ask=ask)
    need_host(tx, server)
    return _start(tx, ask, server, "start", "start", task_state="powering-on")


def stop(tx: Tx, ask: Ask, server: Server) -> Operation:
    need_state(server, "stop", (ACTIVE, ERROR), ask=ask)
    need_host(tx, server)
    return _start(tx, ask, server, "stop", "stop", task_state="powering-off")


def reboot(tx: Tx, ask: Ask, server: Server, hard: bool) -> Operation:
    """Soft only from ACTIVE; hard also brings back what is stopped, paused, suspended or in error."""
    states = (ACTIVE, STOPPED, PAUSED, SUSPENDED, ERROR) if hard else (ACTIVE,)
    need_state(server, "reboot", states, ask=ask)
    need_host(tx, server)
    return _start(tx, ask, server, "reboot", "reboot", {"hard": hard}, task_state="rebooting_hard" if hard else "rebooting")


def pause(tx: Tx, ask: Ask, server: Server) -> Operation:
    need_state(server, "pause", (ACTIVE,), ask=ask)
    return _start(tx, ask, server, "pause", "pause", task_state="pausing")


def unpause(tx: Tx, ask: Ask, server: Server) -> Operation:
    need_state(server, "unpause", (PAUSED,), ask=ask)
    return _start(tx, ask, server, "unpause", "unpause", task_state="unpausing")


def suspend(tx: Tx, ask: Ask, server: Server) -> Operation:
    need_state(server, "suspend", (ACTIVE,), ask=ask)
    return _start(tx, ask, server, "suspend", "suspend", task_state="suspending")


def resume(tx: Tx, ask: Ask, server: Server) -> Operation:
    need_state(server, "resume", (SUSPENDED,), ask=ask)
    return _start(tx, ask, server, "resume", "resume", task_state="resuming")


def lock(tx: Tx, ask: Ask, server: Server, reason: str | None = None) -> None:
    """Only the owner's project or an administrator locks; an administrator's lock is not the owner's to open."""
    by = "admin" if ask.is_admin and ask.project_id != server.project_id else "owner"
    tx.update(Server, server.id, locked=True, locked_by=by, locked_reason=reason, updated_at=tx.now)
    actions.begin(tx, server.id, "lock", project_id=ask.project_id, user_id=ask.user_id, request_id=ask.request_id)


def unlock(tx: Tx, ask: Ask, server: Server) -> None:
    """Raises 403 when an administrator locked it and the caller is none."""
    if server.locked and server.locked_by == "admin" and not ask.is_admin:
        raise Problem(403, "Policy doesn't allow os_compute_api:os-lock-server:unlock:unlock_override to be performed: an administrator locked it.")
    tx.update(Server, server.id, locked=False, locked_by=None, locked_reason=None, updated_at=tx.now)
    actions.begin(tx, server.id, "unlock", project_id=ask.project_id, user_id=ask.user_id, request_id=ask.request_id)


def rescue(tx: Tx, ask: Ask, server: Server, image_id: str | None = None) -> Operation:
    """Run from an image, the server's own by default, with its disk second. Raises 400 for an image that is not there."""
    need_state(server, "rescue", (ACTIVE, STOPPED, ERROR), ask=ask)
    need_host(tx, server)
    wanted = image_id or server.image_id
    image = tx.get(Image, wanted) if wanted else None
    if image is None or image.status != "active":
        raise Problem(400, f"Instance {server.id} cannot be rescued with image {wanted}: there is no such active image. Name one in rescue_image_ref.")
    return _start(tx, ask, server, "rescue", "rescue", {"image_id": image.id}, task_state="rescuing")


def unrescue(tx: Tx, ask: Ask, server: Server) -> Operation:
    need_state(server, "unrescue", (RESCUED,), ask=ask)
    need_host(tx, server)
    return _start(tx, ask, server, "unrescue", "unrescue", task_state="unrescuing")


def rebuild(tx: Tx, ask: Ask, server: Server, image_id: str, **changes: Any) -> Operation:
    """A new disk from an image; `changes` are columns of the server that the request sets with it (name, metadata, key ...)."""
    need_state(server, "rebuild", (ACTIVE, STOPPED, ERROR), ask=ask)
    need_host(tx, server)
    return _start(tx, ask, server, "rebuild", "rebuild", {"was": server.vm_state}, image_id=image_id, task_state="rebuilding", **changes)


def _move(
    tx: Tx, ask: Ask, server: Server, kind: str, action: str, migration_kind: str, status: str, new_flavor: FlavorSpec, inputs: dict[str, Any],
    **changes: Any,
) -> Operation:
    migration_id, op_id = tx.new_id(), tx.new_id()
    tx.insert(Migration(
        migration_id, tx.next_number("migrations"), server.id, server.project_id, ask.user_id, migration_kind, status, server.host or "",
        old_flavor_id=server.flavor.id, new_flavor_id=new_flavor.id, operation_id=op_id, created_at=tx.now, updated_at=tx.now))
    return _start(tx, ask, server, kind, action, {"migration_id": migration_id, **inputs}, op_id, **changes)


def resize(tx: Tx, ask: Ask, server: Server, flavor: FlavorSpec) -> Operation:
    """To another flavor, on another host. Raises 400 for the same flavor or a smaller disk, 403 over quota."""
    need_state(server, "resize", (ACTIVE, STOPPED), ask=ask)
    if flavor.id == server.flavor.id:
        raise Problem(400, "When resizing, instances must change flavor!")
    if flavor.disk_gb < server.flavor.disk_gb:
        raise Problem(400, f"Flavor {flavor.name} has a smaller disk ({flavor.disk_gb} GiB) than the server ({server.flavor.disk_gb} GiB); disks only grow.")
    check_room(tx, ask.config, server.project_id, server.user_id, cores=max(0, flavor.vcpus - server.flavor.vcpus),
               ram_mb=max(0, flavor.ram_mb - server.flavor.ram_mb))
    need_host_up(tx, ask, server)
    return _move(tx, ask, server, "resize", "resize", "resize", "accepted", flavor, {"flavor": msgspec.to_builtins(flavor)},
                 task_state="resize_prep", old_vm_state=server.vm_state, progress=0)


def migrate(tx: Tx, ask: Ask, server: Server, host: str | None = None) -> Operation:
    """Cold migration: a resize to the same flavor. Raises 400 for an unknown host or the one it is on."""
    need_state(server, "migrate", (ACTIVE, STOPPED), ask=ask)
    _need_other_host(tx, server, host)
    need_host_up(tx, ask, server)
    return _move(tx, ask, server, "resize", "migrate", "migration", "accepted", server.flavor,
                 {"flavor": msgspec.to_builtins(server.flavor), "host": host}, task_state="resize_prep", old_vm_state=server.vm_state, progress=0)


def _need_other_host(tx: Tx, server: Server, host: str | None) -> None:
    if host is not None and tx.get(Host, host) is None:
        raise Problem(400, f"Compute host {host} could not be found.")
    if host is not None and host == server.host:
        raise Problem(400, f"Server {server.id} is already on host {host}.")
    need_host(tx, server)


def _finished_migration(tx: Tx, server: Server) -> Migration:
    migration = tx.one(Migration, server_id=server.id, status="finished")
    if migration is None:
        raise Problem(400, "Instance has not been resized.")
    return migration


def confirm(tx: Tx, ask: Ask, server: Server) -> Operation:
    need_state(server, "confirmResize", (RESIZED,), ask=ask)
    migration = _finished_migration(tx, server)
    return _start(tx, ask, server, "confirm", "confirmResize", {"migration_id": migration.id})


def revert(tx: Tx, ask: Ask, server: Server) -> Operation:
    need_state(server, "revertResize", (RESIZED,), ask=ask)
    migration = _finished_migration(tx, server)
    tx.update(Migration, migration.id, status="reverting", updated_at=tx.now)
    return _start(tx, ask, server, "revert", "revertResize", {"migration_id": migration.id}, task_state="resize_reverting")


def live_migrate(tx: Tx, ask: Ask, server: Server, host: str | None = None) -> Operation:
    need_state(server, "os-migrateLive", (ACTIVE, PAUSED), ask=ask)
    _need_other_host(tx, server, host)
    need_host_up(tx, ask, server)
    return _move(tx, ask, server, "live_migrate", "live-migration", "live-migration", "accepted", server.flavor, {"host": host}, task_state="migrating")


def evacuate(tx: Tx, ask: Ask, server: Server, host: str | None = None, *, stay_stopped: bool = False) -> Operation:
    """Rebuild elsewhere; `stay_stopped` leaves it stopped there, as microversion 2.95 wants. Raises 400 while the server's host is up."""
    need_unlocked(server, ask)
    if server.vm_state not in (ACTIVE, STOPPED, ERROR):
        raise Problem(409, f"Cannot 'evacuate' instance {server.id} while it is in vm_state {server.vm_state}")
    lost = need_host(tx, server)
    if lost.state == UP and not lost.forced_down:
        raise Problem(400, f"Compute service of {lost.name} is still in use.")
    _need_other_host(tx, server, host)
    op = tx.get(Operation, server.operation_id) if server.operation_id else None
    if op is not None and op.state in OPEN:
        raise Problem(409, f"Cannot 'evacuate' instance {server.id} while it is in task_state {server.task_state}")
    return _move(tx, ask, server, "evacuate", "evacuate", "evacuation", "accepted", server.flavor,
                 {"host": host, "source": lost.name, "was": STOPPED if stay_stopped else server.vm_state}, task_state="rebuilding")


def shelve(tx: Tx, ask: Ask, server: Server, image_id: str) -> Operation:
    """Stop and snapshot into the image row `image_id`, which the caller has inserted as queued."""
    need_state(server, "shelve", (ACTIVE, STOPPED, PAUSED, SUSPENDED), ask=ask)
    need_host(tx, server)
    return _start(tx, ask, server, "shelve", "shelve", {"image_id": image_id}, task_state="shelving")


def shelved_image(tx: Tx, server: Server) -> str:
    """The image that holds a shelved server's disk. Raises 409 when there is none."""
    for op in tx.find(Operation, server_id=server.id, kind="shelve", state="done", sort=[("started_at", True)], limit=1):
        if tx.get(Image, op.input["image_id"]) is not None:
            return str(op.input["image_id"])
    raise Problem(409, f"Instance {server.id} has no snapshot to come back from")


def shelve_offload(tx: Tx, ask: Ask, server: Server) -> Operation:
    need_state(server, "shelveOffload", (SHELVED,), ask=ask)
    return _start(tx, ask, server, "shelve_offload", "shelveOffload", {"image_id": shelved_image(tx, server)}, task_state="shelving_offloading")


def unshelve(tx: Tx, ask: Ask, server: Server) -> Operation:
    need_state(server, "unshelve", (SHELVED, SHELVED_OFFLOADED), ask=ask)
    return _start(tx, ask, server, "unshelve", "unshelve", {"image_id": shelved_image(tx, server)}, task_state="unshelving")


def snapshot(tx: Tx, ask: Ask, server: Server, image_id: str) -> Operation:
    """Fill the image row `image_id` (inserted as queued by the caller) from the server's disk."""
    need_state(server, "createImage", (ACTIVE, STOPPED, PAUSED, SUSPENDED), ask=ask)
    need_host(tx, server)
    return _start(tx, ask, server, "snapshot", "createImage", {"image_id": image_id}, task_state="image_snapshot")


def attach_interface(tx: Tx, ask: Ask, server: Server, nic: NicRequest) -> Port:
    need_state(server, "attach_interface", (ACTIVE, PAUSED, STOPPED), ask=ask)
    need_host(tx, server)
    port = add_nic(tx, ask, server, nic)
    _start(tx, ask, server, "attach_interface", "attach_interface", {"port_id": port.id})
    return tx.need(Port, port.id)


def detach_interface(tx: Tx, ask: Ask, server: Server, port_id: str) -> Operation:
    need_state(server, "detach_interface", (ACTIVE, PAUSED, STOPPED), ask=ask)
    port = tx.get(Port, port_id)
    if port is None or port.device_id != server.id:
        raise Problem(404, f"Instance {server.id} has no interface with port id {port_id}")
    return _start(tx, ask, server, "detach_interface", "detach_interface", {"port_id": port_id})


def reset_state(tx: Tx, ask: Ask, server: Server, state: str) -> None:
    """An administrator's last word on vm_state. Raises 409 while the server is being deleted (that always ends), and for 'active' without a host.

    An operation that holds the server is turned back, not dropped: half a move has guests and disks on two hosts, and only its own undo knows which of
    them must not run. Until the undo has ended the server shows `state`, and afterwards what the undo found, or ERROR if that was asked for.
    Without an operation an unconfirmed move is over: the server stays where it is, and the copy at its source is given up.
    """
    op = tx.get(Operation, server.operation_id) if server.operation_id else None
    if op is not None and op.state in OPEN:
        if op.kind == "delete":
            raise Problem(409, f"Cannot 'os-resetState' instance {server.id} while it is being deleted")
        tx.update(Server, server.id, vm_state=state, task_state=None, updated_at=tx.now)
        turn_back(tx, ask.config, op, state)
    else:
        if state == ACTIVE and server.host is None:
            raise Problem(409, f"Cannot 'os-resetState' instance {server.id} to active: it is not on any host")
        for migration in tx.find(Migration, server_id=server.id, status="finished"):
            tx.update(Migration, migration.id, status="error", updated_at=tx.now)
            placing.release(tx, migration.source, migration.id)
        tx.update(Server, server.id, vm_state=state, task_state=None, old_flavor=None, old_vm_state=None, epoch=server.epoch + 1, updated_at=tx.now)
    tx.hint("server:" + server.id)
    actions.begin(tx, server.id, "resetState", project_id=ask.project_id, user_id=ask.user_id, request_id=ask.request_id)


def set_host_disabled(tx: Tx, host: Host, value: bool, reason: str | None = None) -> None:
    tx.update(Host, host.name, disabled=value, disabled_reason=reason if value else None, updated_at=tx.now)
    tx.hint("host:" + host.name)


def set_host_forced_down(tx: Tx, host: Host, value: bool) -> None:
    """The operator's word that a host is dead (it fences the host) or lives again."""
    tx.update(Host, host.name, forced_down=value, updated_at=tx.now)
    tx.hint("host:" + host.name)
