"""POST /servers: from a checked request to rows, in one transaction for all servers of the request.

Owns: `create_server` and the questions to the database that decide whether a server may be (its flavor, image, key,
networks, zone, group). Rules: everything that can be known to be wrong is refused before a row is written (400 with
the field, 403 over quota, 409 for an ambiguous network); what only the scheduler can know (no room) becomes a fault
of the server. Several servers of one request are one transaction: all of them exist, or none.
"""

from __future__ import annotations

import re
from typing import Any

from starlette.responses import Response

from virga.api.compute.access import ask_of, must_write, project_of
from virga.api.compute.inputs import bad
from virga.api.compute.networks_of import compute_status, may_plug_into, own_and_shared, usable_network
from virga.api.compute.server_views import links
from virga.api.compute.server_wish import Nics, Wish, read_wish
from virga.api.http import Call, reply
from virga.domain.compute import Keypair, ServerGroup
from virga.domain.errors import Problem
from virga.domain.image import ACTIVE as IMAGE_ACTIVE
from virga.domain.image import Image, ImageMember, Seen, may_see
from virga.domain.network import SecurityGroup
from virga.domain.placement import Host
from virga.domain.port import Port
from virga.domain.server import Flavor, Server
from virga.ops import front
from virga.ops.front import NicRequest
from virga.store.db import Tx

PASSWORD_BYTES = 6
BYTES_PER_GIB = 1 << 30


def need_flavor(tx: Tx, call: Call, flavor_ref: str) -> Flavor:
    """The flavor, if this project may use it. Raises Problem 400."""
    flavor = tx.get(Flavor, flavor_ref)
    known = flavor is not None and (
        flavor.is_public or call.caller.is_admin or (call.caller.project_id or "") in flavor.projects
    )
    if flavor is None or not known:
        raise Problem(400, f"Flavor {flavor_ref} could not be found.")
    return flavor


def need_image(tx: Tx, call: Call, image_id: str, flavor: Flavor) -> Image:
    """The image, if this project sees it, it is whole, and the flavor has room for it. Raises Problem 400."""
    image = tx.get(Image, image_id)
    member = tx.get(ImageMember, image_id, call.caller.project_id) if image and call.caller.project_id else None
    if image is None or not may_see(image, Seen(call.caller.project_id, call.caller.is_admin), member):
        raise Problem(400, f"Can not find requested image {image_id}.")
    if image.status != IMAGE_ACTIVE:
        raise Problem(400, f"Image {image_id} is not active: it is {image.status}.")
    if flavor.ram_mb < image.min_ram:
        raise Problem(
            400, f"Flavor {flavor.name} has {flavor.ram_mb} MiB of memory, image {image_id} needs {image.min_ram}."
        )
    if flavor.disk_gb and flavor.disk_gb < image.min_disk:
        raise Problem(
            400, f"Flavor {flavor.name} has a disk of {flavor.disk_gb} GiB, image {image_id} needs {image.min_disk}."
        )
    size_bytes = image.virtual_size or image.size or 0
    if flavor.disk_gb and flavor.disk_gb * BYTES_PER_GIB < size_bytes:
        raise Problem(
            400, f"Flavor's disk is too small for requested image: {flavor.disk_gb} GiB for {size_bytes} bytes."
        )
    return image


def need_key(tx: Tx, call: Call, key_name: str) -> Keypair:
    key = tx.get(Keypair, call.caller.user_id, key_name)
    if key is None:
        raise Problem(400, f"Invalid key_name provided: you have no key pair called {key_name!r}.")
    return key


def group_ids(tx: Tx, call: Call, names: list[str]) -> list[str]:
    """Security groups by name or id, as ids. Raises Problem 400 for an unknown one, 409 for an ambiguous name."""
    found: list[str] = []
    for name in names:
        groups = tx.find(SecurityGroup, project_id=call.caller.project_id or "", name=name)
        by_id = tx.get(SecurityGroup, name)
        if by_id is not None and call.caller.sees(by_id.project_id):
            groups = [by_id]
        if len(groups) > 1:
            raise Problem(409, f"Multiple security groups found matching '{name}'. Use an ID to be more specific.")
        if not groups and name != "default":
            raise Problem(400, f"Security group {name} not found for project {call.caller.project_id}.")
        found += [group.id for group in groups]
    return list(dict.fromkeys(found))


def choose_nics(tx: Tx, call: Call, nics: Nics) -> list[NicRequest]:
    """The NICs with every network checked; for 'auto' the project's one network, or none when it has none."""
    if nics.mode == "none":
        return []
    if nics.mode == "auto":
        usable = [network for network in own_and_shared(tx, call.caller.project_id or "") if not network.external]
        if len(usable) > 1:
            raise Problem(409, "Multiple possible networks found, use a Network ID to be more specific.")
        if not usable and call.version >= (2, 37):
            raise Problem(
                400,
                "No network is available to this project and none is made automatically: "
                "make one, or ask for networks 'none'.",
            )
        return [NicRequest(network_id=network.id) for network in usable]
    for nic in nics.listed:
        need_nic(tx, call, nic)
    return nics.listed


def need_nic(tx: Tx, call: Call, nic: NicRequest) -> None:
    """Raises Problem 400, 403 or 409 for a network or port this caller cannot have."""
    if nic.network_id is None:
        _need_port(tx, call, nic.port_id or "")
        return
    network = usable_network(tx, call.caller, nic.network_id)
    if network is None:
        raise Problem(400, f"Network {nic.network_id} could not be found.")
    if not may_plug_into(tx, call.caller, network):
        raise Problem(403, f"It is not allowed to create an interface on external network {network.id}.")


def _need_port(tx: Tx, call: Call, port_id: str) -> None:
    port = tx.get(Port, port_id)
    if port is None or not call.caller.sees(port.project_id):
        raise Problem(400, f"Port id {port_id} could not be found.")
    if port.device_id:
        raise Problem(409, f"Port {port_id} is still in use.")


def need_host(tx: Tx, wish: Wish) -> str | None:
    """The host an administrator asked for. Raises Problem 400 when there is none of that name."""
    for name, word in ((wish.host, "Compute host"), (wish.hypervisor, "Hypervisor")):
        if name is not None and tx.get(Host, name) is None:
            raise Problem(400, f"{word} {name} could not be found.")
    if wish.host and wish.hypervisor and wish.host != wish.hypervisor:
        raise Problem(400, f"Hypervisor {wish.hypervisor} is not on host {wish.host}.")
    return wish.host or wish.hypervisor


def need_zone(tx: Tx, zone: str | None) -> None:
    if zone is not None and tx.one(Host, availability_zone=zone) is None:
        raise Problem(400, "The requested availability zone is not available")


def need_group(tx: Tx, call: Call, hints: dict[str, Any]) -> str | None:
    """The server group of the hints. Raises Problem 400."""
    group_id = hints.get("group")
    if not group_id:
        return None
    group = tx.get(ServerGroup, group_id)
    if group is None or not call.caller.sees(group.project_id):
        raise Problem(400, f"Instance group {group_id} could not be found.")
    return group.id


def host_name_of(name: str, server_id: str) -> str:
    """A host name made from a display name: lower case, blanks as hyphens, nothing a host name may not hold."""
    clean = re.sub(r"[^\w.-]+", "", re.sub(r"[ _]", "-", name), flags=re.ASCII).lower()
    clean = re.sub(r"[.-]+", lambda run: run[0][0], clean).strip(".-")[:63].strip(".-")
    return clean or f"server-{server_id}"


def create(tx: Tx, call: Call, wish: Wish) -> tuple[list[Server], str]:
    """All servers of the request, and the password of the first."""
    flavor = need_flavor(tx, call, wish.flavor_ref)
    if flavor.disabled:
        raise Problem(400, f"Flavor {wish.flavor_ref} could not be found.")
    image_id = wish.image_ref or wish.boot_image
    if wish.image_ref and wish.boot_image and wish.image_ref != wish.boot_image:
        raise bad("server.imageRef", "it names another image than block_device_mapping_v2.")
    if image_id is None:
        raise bad("server.imageRef", "a server boots from an image here; give one.")
    need_image(tx, call, image_id, flavor)
    key = need_key(tx, call, wish.key_name) if wish.key_name else None
    need_zone(tx, wish.zone)
    host = need_host(tx, wish)
    group = need_group(tx, call, wish.hints)
    _need_metadata_room(call, wish.columns["metadata"])
    groups = group_ids(tx, call, wish.groups)
    nics = choose_nics(tx, call, wish.nics)
    password = wish.password if wish.password is not None else tx.token_hex(PASSWORD_BYTES)
    reservation_id = "r-" + tx.token_hex(4)
    made: list[Server] = []
    for index in range(wish.most):
        server_id = tx.new_id()
        name = f"{wish.name}-{index + 1}" if wish.most > 1 else wish.name
        columns = dict(wish.columns)
        hostname = columns.pop("hostname") or host_name_of(name, server_id)
        if wish.most > 1 and wish.columns["hostname"]:
            hostname = f"{hostname}-{index + 1}"
        server = Server(
            id=server_id,
            project_id=project_of(call),
            user_id=call.caller.user_id,
            name=name,
            flavor=flavor.spec(),
            image_id=image_id,
            key_name=wish.key_name,
            key_public=key.public_key if key else None,
            availability_zone=wish.zone,
            requested_host=host,
            server_group_id=group,
            hostname=hostname,
            reservation_id=reservation_id,
            launch_index=index,
            security_groups=groups,
            scheduler_hints=wish.hints,
            admin_pass=password,
            **columns,
        )
        with compute_status():
            front.boot(tx, ask_of(call), server, nics)
        made.append(server)
    return made, password


def _need_metadata_room(call: Call, metadata: dict[str, str]) -> None:
    most = call.cloud.config.quota.metadata_items
    if 0 <= most < len(metadata):
        raise Problem(403, f"Maximum number of metadata items exceeds {most}: {len(metadata)} were given.")


async def create_server(call: Call) -> Response:
    must_write(call, "os_compute_api:servers:create")
    project_of(call)
    wish = await read_wish(call)
    made, password = await call.cloud.db.run(lambda tx: create(tx, call, wish))
    first = made[0]
    if wish.give_reservation:
        return reply(202, {"reservation_id": first.reservation_id})
    server = {
        "id": first.id,
        "links": links(call.base_url(), first.id),
        "OS-DCF:diskConfig": first.disk_config,
        "security_groups": [{"name": name} for name in wish.groups or ["default"]],
        "adminPass": password,
    }
    headers = {"Location": f"{call.base_url()}/compute/v2.1/servers/{first.id}"}
    return reply(202, {"server": server}, headers)


ROUTES = [("POST", "/servers", create_server)]
