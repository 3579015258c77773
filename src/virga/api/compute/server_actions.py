"""POST /servers/{id}/action: one table of actions, each a few lines that read its parameters and call ops.

Owns: `ACTIONS` (name -> who, since and until which version, what) and the answers. Rules: the body has exactly one
key, the action's name; an unknown action is 400, one that ended or is yet to come at the version asked for is 404.
Legality (states, locks, quota) is decided in ops, in the transaction that starts the operation. What this cloud
does not offer is refused with a sentence that says so and, where there is one, the way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.responses import Response

from virga.api.compute import inputs
from virga.api.compute.access import ask_of, must_admin, must_write
from virga.api.compute.inputs import Fields, boolean, choice, optional, string
from virga.api.compute.microversion import MAXIMUM, Version, text
from virga.api.compute.server_create import need_flavor
from virga.api.compute.servers import own_server
from virga.api.http import Call, reply
from virga.api.policy import need
from virga.domain.errors import Problem
from virga.domain.placement import Host
from virga.domain.server import ACTIVE, ERROR, Server
from virga.ops import front
from virga.store.db import Tx

Act = Callable[[Call, Any], Awaitable[Response]]
PASSWORD_BYTES = 6


class Action(msgspec.Struct, frozen=True):
    """One line of the table. `role`: 'member', 'manager' or 'admin'. `rule` is Nova's name of the policy rule."""

    act: Act
    rule: str
    role: str = "member"
    since: Version = (2, 1)
    until: Version = MAXIMUM


def simple(do: Callable[[Tx, Any, Server], Any], status: int = 202) -> Act:
    """An action without parameters: `do(tx, ask, server)`."""

    async def act(call: Call, value: Any) -> Response:
        if value is not None and value != {}:
            raise inputs.bad("the action", "it takes no parameters; its value must be null.")
        await call.cloud.db.run(lambda tx: do(tx, ask_of(call), own_server(tx, call)))
        return reply(status)

    return act


def refused(why: str, status: int = 400) -> Act:
    """An action this cloud does not offer. The server must exist all the same."""

    async def act(call: Call, value: Any) -> Response:
        await call.cloud.db.read(lambda tx: own_server(tx, call))
        raise Problem(status, why)

    return act


async def act_on(call: Call) -> Response:
    """Find the action in the table, check role and version, run it."""
    body = inputs.mapping(await call.json(), "the body")
    if len(body) != 1:
        raise Problem(400, "Invalid input for field the body: it must hold exactly one action.")
    ((name, value),) = body.items()
    action = ACTIONS.get(name)
    if action is None:
        raise Problem(400, f"There is no such action: {name[:80]}")
    if not action.since <= call.version <= action.until:
        raise Problem(404, f"There is no action {name} at microversion {text(call.version)}.")
    if action.role == "admin":
        must_admin(call, action.rule)
    elif action.role == "manager":
        need(call, f"compute:server:{'live_migrate' if name == 'os-migrateLive' else 'migrate'}")
    else:
        must_write(call, action.rule)
    return await action.act(call, value)


async def reboot(call: Call, value: Any) -> Response:
    fields = Fields(call, value, "reboot")
    kind = fields.take("type", _reboot_kind, required=True)
    fields.done()
    await call.cloud.db.run(lambda tx: front.reboot(tx, ask_of(call), own_server(tx, call), kind == "HARD"))
    return reply(202)


def _reboot_kind(value: Any, place: str) -> Any:
    return choice("SOFT", "HARD")(value.upper() if isinstance(value, str) else value, place)


async def lock(call: Call, value: Any) -> Response:
    reason = None
    if value is not None and value != {}:
        if call.version < (2, 73):
            raise inputs.bad("lock", "it takes no parameters before microversion 2.73; its value must be null.")
        fields = Fields(call, value, "lock")
        reason = fields.take("locked_reason", string(1), since=(2, 73))
        fields.done()
    await call.cloud.db.run(lambda tx: front.lock(tx, ask_of(call), own_server(tx, call), reason))
    return reply(202)


async def resize(call: Call, value: Any) -> Response:
    fields = Fields(call, value, "resize")
    flavor_ref = fields.take("flavorRef", inputs.reference, required=True)
    disk_config = fields.take("OS-DCF:diskConfig", choice("AUTO", "MANUAL"))
    fields.done()

    def work(tx: Tx) -> None:
        server = own_server(tx, call)
        flavor = need_flavor(tx, call, flavor_ref)
        front.resize(tx, ask_of(call), server, flavor.spec())
        if disk_config is not None:
            tx.update(Server, server.id, disk_config=disk_config)

    await call.cloud.db.run(work)
    return reply(202)


async def migrate(call: Call, value: Any) -> Response:
    host = None
    if value is not None and value != {"host": None}:  # clients send an empty host at any microversion
        fields = Fields(call, value, "migrate")
        host = fields.take("host", optional(string(1)), since=(2, 56))
        fields.done()
    if host is not None:
        must_admin(call, "os_compute_api:os-migrate-server:migrate:host")
    await call.cloud.db.run(lambda tx: front.migrate(tx, ask_of(call), own_server(tx, call), host))
    return reply(202)


async def live_migrate(call: Call, value: Any) -> Response:
    fields = Fields(call, value, "os-migrateLive")
    host = fields.take("host", optional(string(1)), required=True)
    block = _block if call.version >= (2, 25) else boolean
    fields.take("block_migration", block, required=True)
    fields.take("disk_over_commit", boolean, until=(2, 24), required=True)
    fields.take("force", boolean, since=(2, 30), until=(2, 67))
    fields.done()
    if host is not None:
        must_admin(call, "os_compute_api:os-migrate-server:migrate_live:host")
    await call.cloud.db.run(lambda tx: front.live_migrate(tx, ask_of(call), own_server(tx, call), host))
    return reply(202)


def _block(value: Any, place: str) -> Any:
    return value if value == "auto" else boolean(value, place)


async def evacuate(call: Call, value: Any) -> Response:
    fields = Fields(call, value, "evacuate")
    host = fields.take("host", optional(string(1)))
    password = fields.take("adminPass", string())
    fields.take("onSharedStorage", boolean, until=(2, 13), required=True)
    fields.take("force", boolean, since=(2, 29), until=(2, 67))
    fields.done()
    password = password or call.cloud.env.token_hex(PASSWORD_BYTES)

    def work(tx: Tx) -> None:
        server = own_server(tx, call)
        if host is not None and tx.get(Host, host) is None:
            raise Problem(404, f"Compute host {host} not found.")
        front.evacuate(tx, ask_of(call), server, host, stay_stopped=call.version >= (2, 95))
        tx.update(Server, server.id, admin_pass=password)

    await call.cloud.db.run(work)
    return reply(200, {"adminPass": password} if call.version < (2, 14) else None)


async def unshelve(call: Call, value: Any) -> Response:
    zone_given, zone, host = False, None, None
    if value is not None and not (value == {} and call.version < (2, 77)):
        if call.version < (2, 77):
            raise inputs.bad("unshelve", "it takes no parameters before microversion 2.77; its value must be null.")
        fields = Fields(call, value, "unshelve")
        zone_given = "availability_zone" in fields.given
        check = optional(string(1)) if call.version >= (2, 91) else string(1)
        zone = fields.take("availability_zone", check, since=(2, 77), required=call.version < (2, 91))
        host = fields.take("host", string(1), since=(2, 91))
        fields.done()
        if not zone_given and host is None:
            raise inputs.bad("unshelve", "give availability_zone, host or both.")
    if host is not None:
        must_admin(call, "os_compute_api:os-shelve:unshelve_to_host")

    def work(tx: Tx) -> None:
        server = own_server(tx, call)
        changes: dict[str, Any] = {}
        if zone_given or host is not None:
            if server.vm_state != "shelved_offloaded":
                raise Problem(
                    409,
                    f"Cannot 'unshelve' instance {server.id} to another place while it is in vm_state "
                    f"{server.vm_state}: only an offloaded server can choose.",
                )
            if zone is not None and tx.one(Host, availability_zone=zone) is None:
                raise Problem(400, "The requested availability zone is not available")
            if host is not None and tx.get(Host, host) is None:
                raise Problem(400, f"Compute host {host} could not be found.")
            changes = {"requested_host": host, **({"availability_zone": zone} if zone_given else {})}
        elif server.requested_host is not None:
            changes = {"requested_host": None}
        if changes:
            tx.update(Server, server.id, **changes)
            for column, found in changes.items():
                setattr(server, column, found)
        front.unshelve(tx, ask_of(call), server)

    await call.cloud.db.run(work)
    return reply(202)


async def reset_state(call: Call, value: Any) -> Response:
    fields = Fields(call, value, "os-resetState")
    state = fields.take("state", choice("active", "error"), required=True)
    fields.done()
    wanted = ACTIVE if state == "active" else ERROR
    await call.cloud.db.run(lambda tx: front.reset_state(tx, ask_of(call), own_server(tx, call), wanted))
    return reply(202)


async def force_delete(call: Call, value: Any) -> Response:
    await call.cloud.db.run(lambda tx: front.delete(tx, ask_of(call), own_server(tx, call)))
    return reply(202)


async def restore(call: Call, value: Any) -> Response:
    server = await call.cloud.db.read(lambda tx: own_server(tx, call))
    raise Problem(409, f"Cannot 'restore' instance {server.id} while it is in vm_state {server.vm_state}")


async def change_password(call: Call, value: Any) -> Response:
    fields = Fields(call, value, "changePassword")
    fields.take("adminPass", string(), required=True)
    fields.done()
    server = await call.cloud.db.read(lambda tx: own_server(tx, call))
    if server.vm_state != ACTIVE:
        raise Problem(409, f"Cannot 'changePassword' instance {server.id} while it is in vm_state {server.vm_state}")
    raise Problem(
        409,
        "The guest cannot be told a new password: this cloud puts no agent into guests. "
        "Set it inside the guest, or rebuild the server with adminPass.",
    )


async def nothing_to_do(call: Call, value: Any) -> Response:
    """Guests here learn their network by DHCP, which is always up to date; the operator's wish is met already."""
    await call.cloud.db.read(lambda tx: own_server(tx, call))
    return reply(202)


CONSOLE = "Unavailable console type {}: this cloud offers no graphical or serial consoles; see os-getConsoleOutput."

ACTIONS: dict[str, Action] = {
    "os-start": Action(simple(front.start), "os_compute_api:servers:start"),
    "os-stop": Action(simple(front.stop), "os_compute_api:servers:stop"),
    "reboot": Action(reboot, "os_compute_api:servers:reboot"),
    "pause": Action(simple(front.pause), "os_compute_api:os-pause-server:pause"),
    "unpause": Action(simple(front.unpause), "os_compute_api:os-pause-server:unpause"),
    "suspend": Action(simple(front.suspend), "os_compute_api:os-suspend-server:suspend"),
    "resume": Action(simple(front.resume), "os_compute_api:os-suspend-server:resume"),
    "lock": Action(lock, "os_compute_api:os-lock-server:lock"),
    "unlock": Action(simple(front.unlock), "os_compute_api:os-lock-server:unlock"),
    "resize": Action(resize, "os_compute_api:servers:resize"),
    "confirmResize": Action(simple(front.confirm, 204), "os_compute_api:servers:confirm_resize"),
    "revertResize": Action(simple(front.revert), "os_compute_api:servers:revert_resize"),
    "migrate": Action(migrate, "os_compute_api:os-migrate-server:migrate", "manager"),
    "os-migrateLive": Action(live_migrate, "os_compute_api:os-migrate-server:migrate_live", "manager"),
    "evacuate": Action(evacuate, "os_compute_api:os-evacuate", "admin"),
    "shelveOffload": Action(simple(front.shelve_offload), "os_compute_api:os-shelve:shelve_offload", "admin"),
    "unshelve": Action(unshelve, "os_compute_api:os-shelve:unshelve"),
    "os-resetState": Action(reset_state, "os_compute_api:os-admin-actions:reset_state", "admin"),
    "forceDelete": Action(force_delete, "os_compute_api:os-deferred-delete:force"),
    "restore": Action(restore, "os_compute_api:os-deferred-delete:restore"),
    "changePassword": Action(change_password, "os_compute_api:os-admin-password"),
    "injectNetworkInfo": Action(nothing_to_do, "os_compute_api:os-admin-actions:inject_network_info", "admin"),
    "resetNetwork": Action(nothing_to_do, "os_compute_api:os-admin-actions:reset_network", "admin"),
    "os-getVNCConsole": Action(refused(CONSOLE.format("VNC")), "os_compute_api:os-remote-consoles", until=(2, 5)),
    "os-getSPICEConsole": Action(refused(CONSOLE.format("SPICE")), "os_compute_api:os-remote-consoles", until=(2, 5)),
    "os-getRDPConsole": Action(refused(CONSOLE.format("RDP")), "os_compute_api:os-remote-consoles", until=(2, 5)),
    "os-getSerialConsole": Action(
        refused(CONSOLE.format("serial")), "os_compute_api:os-remote-consoles", until=(2, 5)
    ),
    "unrescue": Action(simple(front.unrescue), "os_compute_api:os-unrescue"),
    "trigger_crash_dump": Action(
        refused("A crash dump cannot be triggered: this cloud sends guests no non-maskable interrupts."),
        "os_compute_api:servers:trigger_crash_dump",
        since=(2, 17),
    ),
}
ROUTES = [("POST", "/servers/{server_id}/action", act_on)]
