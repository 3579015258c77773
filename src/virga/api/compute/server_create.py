"""POST /servers: from a request to rows, in one transaction for all servers of the request.

Owns: `create_server` and what a request may hold at each microversion. Rules: everything that can be known to be
wrong is refused before a row is written (400 with the field, 403 over quota, 409 for an ambiguous network); what
only the scheduler can know (no room) becomes a fault of the server. Boot volumes need block storage, which is not
part of this cloud: a mapping from an image to the local disk is taken, any other is refused clearly. Several
servers of one request are one transaction: all of them exist, or none.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from starlette.responses import Response

from virga.api.compute import inputs
from virga.api.compute.access import ask_of, must_write, project_of
from virga.api.compute.inputs import Fields, bad, boolean, integer, optional, string
from virga.api.compute.networks_of import may_plug_into, own_and_shared, usable_network
from virga.api.compute.server_views import links
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

SERVERS_MAX = 1000  # of one request
CERTIFICATES_MAX = 50
PASSWORD_BYTES = 6
BYTES_PER_GIB = 1 << 30


class Nics(msgspec.Struct):
    """The `networks` of a request. `mode`: 'listed', 'auto' (choose one), 'none'."""

    mode: str
    listed: list[NicRequest] = []


class Wish(msgspec.Struct):
    """One request, read and checked as far as it can be without the database."""

    name: str
    flavor_ref: str
    image_ref: str | None
    nics: Nics
    least: int
    most: int
    groups: list[str]
    columns: dict[str, Any]
    key_name: str | None
    zone: str | None
    host: str | None
    hypervisor: str | None
    hints: dict[str, Any]
    password: str | None
    give_reservation: bool
    boot_image: str | None


# reading --------------------------------------------------------------------------------------------------------
async def read_wish(call: Call) -> Wish:
    """Raises Problem 400 for whatever is wrong with the request by itself."""
    whole = inputs.mapping(await call.json(), "the body")
    server = await _one(call, whole)
    fields = Fields(call, server, "server")
    name = fields.take("name", inputs.name, required=True)
    flavor_ref = fields.take("flavorRef", inputs.reference, required=True)
    image_ref = fields.take("imageRef", image_reference) or None
    nics = fields.take("networks", _nics(call), Nics("auto"), required=call.version >= (2, 37))
    least, most = _counts(fields)
    groups = fields.take("security_groups", _groups, [])
    zone, host, hypervisor = _place(call, fields)
    columns = _columns(call, fields)
    boot_image = _boot_image(fields)
    wish = Wish(
        name,
        flavor_ref,
        image_ref,
        nics,
        least,
        most,
        groups,
        columns,
        key_name=fields.take("key_name", string(1)),
        zone=zone,
        host=host,
        hypervisor=hypervisor,
        hints=_hints(call, whole, fields),
        password=fields.take("adminPass", string(0)),
        give_reservation=bool(fields.take("return_reservation_id", boolean, False)),
        boot_image=boot_image,
    )
    fields.done()
    if most > 1 and any(nic.fixed_ip or nic.port_id for nic in nics.listed):
        raise Problem(
            400,
            "Several servers cannot share a port or a fixed address: leave both out, or ask for one server.",
        )
    return wish


async def _one(call: Call, whole: dict[str, Any]) -> Any:
    if "server" not in whole:
        raise Problem(400, "Invalid input for field server: 'server' is a required property.")
    unknown = set(whole) - {"server", "os:scheduler_hints", "OS-SCH-HNT:scheduler_hints"}
    if unknown:
        raise bad(sorted(unknown)[0], "there is no such property beside 'server'.")
    return whole["server"]


def image_reference(value: Any, place: str) -> str:
    """An image id, a link to one, or '' for none."""
    return "" if value == "" else inputs.uuid(inputs.reference(value, place), place)


def _nics(call: Call) -> inputs.Check:
    def check(value: Any, place: str) -> Nics:
        if isinstance(value, str) and call.version >= (2, 37):
            return Nics(inputs.choice("auto", "none")(value, place))
        listed: list[NicRequest] = []
        for index, item in enumerate(inputs.items(value, place)):
            listed.append(read_nic(call, item, f"{place}.{index}"))
        return Nics("listed" if listed else "auto", listed)

    return check


def read_nic(call: Call, value: Any, place: str) -> NicRequest:
    fields = Fields(call, value, place)
    network = fields.take("uuid", optional(inputs.uuid))
    port = fields.take("port", optional(inputs.uuid))
    fixed_ip = fields.take("fixed_ip", optional(inputs.ip))
    tagged = (2, 32) <= call.version <= (2, 36) or call.version >= (2, 42)
    tag = fields.take("tag", inputs.tag) if tagged else None
    fields.done()
    if network is None and port is None:
        raise bad(place, "a network needs 'uuid' or 'port'.")
    if port is not None and fixed_ip is not None:
        raise bad(place, f"the fixed address {fixed_ip} cannot be asked of a port that exists; set it on the port.")
    return NicRequest(None if port else network, port, fixed_ip, tag)


def _counts(fields: Fields) -> tuple[int, int]:
    given_most = fields.take("max_count", integer(1, SERVERS_MAX))
    least = fields.take("min_count", integer(1, SERVERS_MAX), 1)
    most = least if given_most is None else given_most
    if least > most:
        raise Problem(400, "min_count must be <= max_count")
    return least, most


def _groups(value: Any, place: str) -> list[str]:
    found: list[str] = []
    for index, item in enumerate(inputs.items(value, place)):
        group = inputs.mapping(item, f"{place}.{index}")
        if set(group) - {"name"}:
            raise bad(f"{place}.{index}", "a security group is named by 'name' alone.")
        if "name" in group:
            found.append(string(1)(group["name"], f"{place}.{index}.name"))
    return list(dict.fromkeys(found))


def _place(call: Call, fields: Fields) -> tuple[str | None, str | None, str | None]:
    """Zone, host and hypervisor. `zone:host` is an administrator's way to name a host, as is `host` since 2.74."""
    zone = fields.take("availability_zone", string(1)) or None
    host = fields.take("host", string(1), since=(2, 74))
    hypervisor = fields.take("hypervisor_hostname", string(1), since=(2, 74))
    if zone and ":" in zone:
        zone, _, forced = zone.partition(":")
        forced, _, node = forced.partition(":")
        if (not forced and not node) or ":" in node:
            raise bad("server.availability_zone", "it is ZONE, ZONE:HOST or ZONE:HOST:NODE.")
        if host or hypervisor:
            raise bad("server.availability_zone", "name the host either there or in 'host', not in both.")
        host, hypervisor = forced or node, node or None
        rule = "os_compute_api:servers:create:forced_host"
    else:
        rule = "compute:servers:create:requested_destination"
    if (host or hypervisor) and not call.caller.is_admin:
        raise Problem(403, f"Policy doesn't allow {rule} to be performed: choosing the host needs the role admin.")
    return zone or None, host, hypervisor


def _columns(call: Call, fields: Fields) -> dict[str, Any]:
    """Fields that are columns of the server as they stand."""
    if call.version < (2, 57):
        _no_personality(fields)
    return {
        "metadata": fields.take("metadata", inputs.metadata, {}),
        "user_data": fields.take("user_data", optional(inputs.user_data)),
        "config_drive": bool(fields.take("config_drive", boolean, False)),
        "access_ipv4": fields.take("accessIPv4", inputs.ipv4, "") or None,
        "access_ipv6": fields.take("accessIPv6", inputs.ipv6, "") or None,
        "disk_config": fields.take("OS-DCF:diskConfig", inputs.choice("AUTO", "MANUAL"), "MANUAL"),
        "description": fields.take("description", inputs.description, since=(2, 19)),
        "tags": fields.take("tags", inputs.tags, [], since=(2, 52)),
        "hostname": fields.take("hostname", inputs.hostname(call.version >= (2, 94)), "", since=(2, 90)),
        "trusted_certs": fields.take("trusted_image_certificates", optional(certificates), since=(2, 63)),
    }


def _no_personality(fields: Fields) -> None:
    files = fields.take("personality", inputs.items, [])
    if files:
        raise bad(f"{fields.place}.personality", "files are not injected into guests here; put them into user_data.")


def certificates(value: Any, place: str) -> list[str]:
    found = [string(1)(item, place) for item in inputs.items(value, place)]
    if not found or len(found) > CERTIFICATES_MAX or len(set(found)) < len(found):
        raise bad(place, f"it holds 1 to {CERTIFICATES_MAX} different certificate ids.")
    return found


def _boot_image(fields: Fields) -> str | None:
    """The image of a block device mapping that only says "image on the local disk"; any other mapping is refused."""
    if fields.take("block_device_mapping", inputs.items, []):
        raise bad("server.block_device_mapping", "volumes are not offered by this cloud.")
    found: str | None = None
    for index, item in enumerate(fields.take("block_device_mapping_v2", inputs.items, [])):
        place = f"server.block_device_mapping_v2.{index}"
        device = inputs.mapping(item, place)
        source, target = device.get("source_type"), device.get("destination_type", "local")
        if source not in ("image", "blank", "volume", "snapshot"):
            raise bad(f"{place}.source_type", "it is one of image, blank, volume, snapshot.")
        if source != "image" or target != "local":
            raise bad(
                place,
                f"{source} to {target} needs block storage, which this cloud does not offer; "
                "only source_type image with destination_type local is.",
            )
        if found is not None or str(device.get("boot_index", 0)) != "0":
            raise bad(place, "a server has one disk here: give one mapping with boot_index 0.")
        found = inputs.uuid(device.get("uuid"), f"{place}.uuid")
    return found


def _hints(call: Call, whole: dict[str, Any], fields: Fields) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    inner = fields.take("os:scheduler_hints", inputs.mapping, {})
    for found in (whole.get("os:scheduler_hints"), whole.get("OS-SCH-HNT:scheduler_hints"), inner):
        if found is not None:
            hints.update(inputs.mapping(found, "os:scheduler_hints"))
    for key in ("group",):
        if hints.get(key) is not None:
            inputs.uuid(hints[key], f"os:scheduler_hints.{key}")
    for key in ("different_host", "same_host"):
        if key in hints:
            wanted = hints[key] if isinstance(hints[key], list) else [hints[key]]
            hints[key] = [inputs.uuid(item, f"os:scheduler_hints.{key}") for item in wanted]
    return hints


# deciding -------------------------------------------------------------------------------------------------------
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
