"""Actions between a server and images: createImage, createBackup, shelve, rebuild, rescue.

Rules: the image's row is there, queued, when the request is answered; the operation fills it. A snapshot belongs to
the server's project and notes where it came from, as clients expect (`instance_uuid`, `base_image_ref`,
`image_type`). Backups rotate by kind: what is older than the newest `rotation` ones goes when a new one is asked
for.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from virga.api.compute import inputs
from virga.api.compute import server_views as views
from virga.api.compute.access import ask_of
from virga.api.compute.inputs import Fields, choice, integer, optional, string
from virga.api.compute.server_actions import ACTIONS, Action
from virga.api.compute.server_create import need_image, need_key
from virga.api.compute.server_wish import certificates
from virga.api.compute.servers import own_server
from virga.api.http import Call, reply
from virga.domain.errors import Problem
from virga.domain.image import Image, new_image_row, snapshot_properties
from virga.domain.server import Flavor, Server
from virga.ops import front
from virga.ops.snapshot import forget_image
from virga.store.db import Tx

PASSWORD_BYTES = 6


def add_image(tx: Tx, call: Call, server: Server, name: str, extra: dict[str, str], kind: str = "snapshot") -> Image:
    """The queued row of a new image of the server's disk."""
    base = tx.get(Image, server.image_id) if server.image_id else None
    # a snapshot's owner may give it a type of its own; backups are found by theirs
    kinds = {"image_type": kind, **extra} if kind == "snapshot" else {**extra, "image_type": kind}
    properties = snapshot_properties(
        server.id, call.caller.user_id, server.image_id or "", base.properties if base else {}, kinds
    )
    image = new_image_row(
        tx.new_id(),
        server.project_id,
        tx.now,
        name=name,
        properties=properties,
        disk_format=(base.disk_format if base else None) or "qcow2",
        container_format="bare",
        min_disk=max(server.flavor.disk_gb, base.min_disk if base else 0),
        min_ram=base.min_ram if base else 0,
    )
    tx.insert(image)
    return image


def _need_room(call: Call, extra: dict[str, str]) -> None:
    most = call.cloud.config.quota.metadata_items
    if 0 <= most < len(extra):
        raise Problem(403, f"Maximum number of metadata items exceeds {most}: {len(extra)} were given.")


def _made(call: Call, image: Image) -> Response:
    """Since 2.45 the id stands in the body, before that at the end of Location."""
    if call.version >= (2, 45):
        return reply(202, {"image_id": image.id})
    return reply(202, None, {"Location": f"{call.base_url()}/image/v2/images/{image.id}"})


async def create_image(call: Call, value: Any) -> Response:
    fields = Fields(call, value, "createImage")
    name = fields.take("name", inputs.name, required=True)
    extra = fields.take("metadata", inputs.metadata, {})
    fields.done()
    _need_room(call, extra)

    def work(tx: Tx) -> Image:
        server = own_server(tx, call)
        image = add_image(tx, call, server, name, extra)
        front.snapshot(tx, ask_of(call), server, image.id)
        return image

    return _made(call, await call.cloud.db.run(work))


async def create_backup(call: Call, value: Any) -> Response:
    fields = Fields(call, value, "createBackup")
    name = fields.take("name", inputs.name, required=True)
    kind = fields.take("backup_type", string(1), required=True)
    rotation = fields.take("rotation", integer(0), required=True)
    extra = fields.take("metadata", inputs.metadata, {})
    fields.done()
    _need_room(call, extra)

    def work(tx: Tx) -> Image:
        server = own_server(tx, call)
        image = add_image(
            tx, call, server, name, {**extra, "backup_type": kind, "instance_uuid": server.id}, "backup"
        )
        front.snapshot(tx, ask_of(call), server, image.id)
        rotate(tx, server, kind, rotation, image.id)
        return image

    image = await call.cloud.db.run(work)
    if rotation == 0:
        return reply(202)
    return _made(call, image)


def rotate(tx: Tx, server: Server, kind: str, rotation: int, newest: str) -> None:
    """Keep the newest `rotation` backups of one kind; the one being made is the newest and stays."""
    mine = [
        image
        for image in tx.find(Image, owner=server.project_id, sort=[("created_at", True)])
        if image.properties.get("image_type") == "backup"
        and image.properties.get("backup_type") == kind
        and image.properties.get("instance_uuid") == server.id
        and image.id != newest
        and not image.protected
    ]
    for image in mine[max(rotation - 1, 0) :]:
        forget_image(tx, image.id)


async def shelve(call: Call, value: Any) -> Response:
    if value is not None and value != {}:
        raise inputs.bad("shelve", "it takes no parameters; its value must be null.")

    def work(tx: Tx) -> None:
        server = own_server(tx, call)
        image = add_image(tx, call, server, f"{server.name}-shelved", {})
        front.shelve(tx, ask_of(call), server, image.id)

    await call.cloud.db.run(work)
    return reply(202)


async def rebuild(call: Call, value: Any) -> Response:
    fields = Fields(call, value, "rebuild")
    image_id = fields.take(
        "imageRef", lambda found, place: inputs.uuid(inputs.reference(found, place), place), required=True
    )
    password = fields.take("adminPass", string())
    fields.take("preserve_ephemeral", inputs.boolean)
    if call.version < (2, 57) and fields.take("personality", inputs.items, []):
        raise inputs.bad("rebuild.personality", "files are not injected into guests here; put them into user_data.")
    changes: dict[str, Any] = {}
    for key, column, check, since in (
        ("name", "name", inputs.name, (2, 1)),
        ("metadata", "metadata", inputs.metadata, (2, 1)),
        ("OS-DCF:diskConfig", "disk_config", choice("AUTO", "MANUAL"), (2, 1)),
        ("accessIPv4", "access_ipv4", inputs.ipv4, (2, 1)),
        ("accessIPv6", "access_ipv6", inputs.ipv6, (2, 1)),
        ("description", "description", inputs.description, (2, 19)),
        ("key_name", "key_name", optional(string(1)), (2, 54)),
        ("user_data", "user_data", optional(inputs.user_data), (2, 57)),
        ("trusted_image_certificates", "trusted_certs", optional(certificates), (2, 63)),
        ("hostname", "hostname", inputs.hostname(call.version >= (2, 94)), (2, 90)),
    ):
        if key in fields.given:
            changes[column] = fields.take(key, check, since=since)
    fields.done()
    password = password or call.cloud.env.token_hex(PASSWORD_BYTES)
    _need_room(call, changes.get("metadata", {}))

    def work(tx: Tx) -> tuple[Server, views.Around]:
        server = own_server(tx, call)
        flavor = server.flavor
        need_image(tx, call, image_id, Flavor(flavor.id, flavor.name, flavor.vcpus, flavor.ram_mb, flavor.disk_gb))
        if "key_name" in changes:
            key = need_key(tx, call, changes["key_name"]) if changes["key_name"] else None
            changes["key_public"] = key.public_key if key else None
        front.rebuild(tx, ask_of(call), server, image_id, admin_pass=password, **changes)
        return views.one(tx, server.id)

    server, around = await call.cloud.db.run(work)
    body = views.server_body(server, around, views.view_of(call, "rebuild"))
    headers = {"Location": f"{call.base_url()}/compute/v2.1/servers/{server.id}"}
    return reply(202, {"server": {**body, "adminPass": password}}, headers)


async def rescue(call: Call, value: Any) -> Response:
    fields = Fields(call, {} if value is None else value, "rescue")
    image_id = fields.take("rescue_image_ref", lambda found, place: inputs.uuid(inputs.reference(found, place), place))
    password = fields.take("adminPass", string())
    fields.done()

    def work(tx: Tx) -> None:
        server = own_server(tx, call)
        if image_id is not None:
            flavor = server.flavor
            need_image(tx, call, image_id, Flavor(flavor.id, flavor.name, flavor.vcpus, flavor.ram_mb, flavor.disk_gb))
        front.rescue(tx, ask_of(call), server, image_id)

    await call.cloud.db.run(work)
    return reply(200, {"adminPass": password or call.cloud.env.token_hex(PASSWORD_BYTES)})


ACTIONS.update(
    {
        "rescue": Action(rescue, "os_compute_api:os-rescue"),
        "createImage": Action(create_image, "os_compute_api:servers:create_image"),
        "createBackup": Action(create_backup, "os_compute_api:os-create-backup"),
        "shelve": Action(shelve, "os_compute_api:os-shelve:shelve"),
        "rebuild": Action(rebuild, "os_compute_api:servers:rebuild"),
    }
)
ROUTES: list[tuple[str, str, Any]] = []
