"""What a request for servers may hold, field by field and microversion by microversion.

Owns: `Wish` (one request, read and checked as far as it can be without the database) and `read_wish`. Rules: every
problem is a 400 that begins with the place of the field; a field that is not known at the version asked for is
refused. Boot volumes need block storage, which is not part of this cloud: a mapping from an image to the local disk
is taken, any other is refused clearly.
"""

from __future__ import annotations

from typing import Any

import msgspec

from virga.api.compute import inputs
from virga.api.compute.inputs import Fields, bad, boolean, integer, optional, string
from virga.api.http import Call
from virga.domain.errors import Problem
from virga.ops.front import NicRequest

SERVERS_MAX = 1000  # of one request
CERTIFICATES_MAX = 50


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
