"""Flavors: what sizes servers come in, who may use the private ones, and their extra specs.

Rules: everyone sees the public flavors and the private ones their project was let into; making, changing and letting in
is for administrators. A server carries its own copy of its flavor, so deleting one disturbs nobody. `swap` is '' for
none until 2.74; `description` came with 2.55, `extra_specs` in flavors with 2.61, checks of well-known extra specs
with 2.86.
"""
from __future__ import annotations

import math
import re
from typing import Any

from starlette.responses import Response

from virga.api.compute import inputs
from virga.api.compute.access import must_admin
from virga.api.compute.inputs import Fields, bad, body_of
from virga.api.compute.microversion import need
from virga.api.compute.paging import PAGED, known_args, page_of, self_links, with_links
from virga.api.http import Call, reply
from virga.domain.errors import Problem
from virga.domain.server import Flavor
from virga.store.db import Exists, Tx

_FLAVOR_ID = re.compile(r"[a-zA-Z0-9._-]([a-zA-Z0-9. _-]*[a-zA-Z0-9._-])?")
_SPEC_KEY = re.compile(r"[a-zA-Z0-9\-_:. ]{1,255}")
SORT_KEYS = {
    "flavorid": "id", "id": "id", "name": "name", "memory_mb": "ram_mb", "vcpus": "vcpus", "root_gb": "disk_gb",
    "ephemeral_gb": "ephemeral_gb", "swap": "swap_mb", "is_public": "is_public", "disabled": "disabled",
    "rxtx_factor": "rxtx_factor", "created_at": "created_at", "updated_at": "updated_at", "description": "description",
    "vcpu_weight": "vcpus"}
# extra specs whose values servers would trip over; anything else is the operator's own business
SPEC_VALUES: dict[str, re.Pattern[str]] = {
    "hw:cpu_policy": re.compile("dedicated|shared|mixed"),
    "hw:cpu_thread_policy": re.compile("prefer|isolate|require"),
    "hw:numa_nodes": re.compile("[1-9][0-9]*"),
    "hw:mem_page_size": re.compile("large|small|any|[0-9]+([KMGkmg]i?[Bb]?)?"),
    "hw:boot_menu": re.compile("(?i)true|false|yes|no|on|off|0|1|t|f|y|n"),
    "hw:watchdog_action": re.compile("none|pause|poweroff|reset|disabled"),
    "hw_rng:allowed": re.compile("(?i)true|false|yes|no|on|off|0|1|t|f|y|n"),
}


def flavor_view(call: Call, flavor: Flavor, *, create: bool = False) -> dict[str, Any]:
    view: dict[str, Any] = {
        "id": flavor.id, "name": flavor.name, "ram": flavor.ram_mb, "vcpus": flavor.vcpus, "disk": flavor.disk_gb,
        "swap": flavor.swap_mb or ("" if call.version < (2, 75) else 0),
        "OS-FLV-EXT-DATA:ephemeral": flavor.ephemeral_gb, "OS-FLV-DISABLED:disabled": flavor.disabled,
        "os-flavor-access:is_public": flavor.is_public, "rxtx_factor": flavor.rxtx_factor,
        "links": self_links(call, f"flavors/{flavor.id}")}
    if call.version >= (2, 55):
        view["description"] = flavor.description
    if call.version >= (2, 61):
        view["extra_specs"] = flavor.extra_specs
    return view


def _visible(call: Call, flavor: Flavor) -> bool:
    if call.caller.is_admin:
        return True
    return not flavor.disabled and (flavor.is_public or call.caller.project_id in flavor.projects)


def need_flavor(tx: Tx, call: Call) -> Flavor:
    """The flavor of the path, if the caller may know of it. Raises Problem 404."""
    flavor_id = call.params["flavor_id"]
    flavor = tx.get(Flavor, flavor_id)
    if flavor is None or not _visible(call, flavor):
        raise Problem(404, f"Flavor {flavor_id} could not be found.")
    return flavor


def _is_public(call: Call) -> bool | None:
    """What an administrator's list is narrowed to; None is both kinds."""
    value = call.arg("is_public")
    if value is None:
        return True
    if value.lower() == "none":
        return None
    return inputs.boolean(value, "is_public")


def _sort(call: Call) -> list[tuple[str, bool]]:
    keys, directions = call.args("sort_key") or ["flavorid"], call.args("sort_dir")
    for key in keys:
        if key not in SORT_KEYS:
            raise bad("sort_key", f"'{key}' is not one of {', '.join(SORT_KEYS)}.")
    for direction in directions:
        if direction not in ("asc", "desc"):
            raise bad("sort_dir", f"'{direction}' is neither asc nor desc.")
    directions += directions[-1:] * (len(keys) - len(directions)) or ["asc"] * (len(keys) - len(directions))
    return [(SORT_KEYS[key], direction == "desc") for key, direction in zip(keys, directions, strict=False)]


async def _list(call: Call) -> tuple[list[Flavor], bool]:
    known_args(call, ("is_public", "minRam", "minDisk", "sort_key", "sort_dir", *PAGED))
    conditions: dict[str, Any] = {}
    for name, column in (("minRam", "ram_mb"), ("minDisk", "disk_gb")):
        if call.arg(name) is not None:
            conditions[column] = inputs.integer(0)(call.arg(name), name)
    public = _is_public(call)
    sort = [*_sort(call), ("id", False)]

    def work(tx: Tx) -> list[Flavor]:
        found = [flavor for flavor in tx.find(Flavor, sort=sort) if _visible(call, flavor)]
        if call.caller.is_admin and public is not None:
            mine = call.caller.project_id
            found = [flavor for flavor in found
                     if flavor.is_public == public or (public and mine in flavor.projects)]
        return [flavor for flavor in found if all(getattr(flavor, name) >= least for name, least in conditions.items())]

    return page_of(call, await call.cloud.db.read(work), lambda flavor: flavor.id)


async def list_flavors(call: Call) -> Response:
    page, more = await _list(call)
    views = []
    for flavor in page:
        view: dict[str, Any] = {"id": flavor.id, "name": flavor.name, "links": self_links(call, f"flavors/{flavor.id}")}
        if call.version >= (2, 55):
            view["description"] = flavor.description
        views.append(view)
    return reply(200, with_links(call, "flavors", views, more, page[-1].id if page else ""))


async def list_details(call: Call) -> Response:
    page, more = await _list(call)
    return reply(200, with_links(
        call, "flavors", [flavor_view(call, flavor) for flavor in page], more, page[-1].id if page else ""))


async def show_flavor(call: Call) -> Response:
    flavor = await call.cloud.db.read(lambda tx: need_flavor(tx, call))
    return reply(200, {"flavor": flavor_view(call, flavor)})


def _flavor_id(value: Any, place: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    clean: str = inputs.string(1)(value, place)
    if not _FLAVOR_ID.fullmatch(clean):
        raise bad(place, "an id holds letters, digits, '.', '-', '_' and inner spaces.")
    return clean


def _factor(value: Any, place: str) -> float:
    try:
        factor = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except ValueError:
        factor = math.nan
    if not 0 < factor <= 3.4e38:
        raise bad(place, f"{value!r} is not a number above 0.")
    return factor


async def create_flavor(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-flavor-manage:create")
    fields = Fields(call, await body_of(call, "flavor"), "flavor")
    flavor = Flavor(
        id=fields.take("id", inputs.optional(_flavor_id)) or "",
        name=fields.take("name", inputs.name, required=True),
        vcpus=fields.take("vcpus", inputs.integer(1), required=True),
        ram_mb=fields.take("ram", inputs.integer(1), required=True),
        disk_gb=fields.take("disk", inputs.integer(0), required=True),
        ephemeral_gb=fields.take("OS-FLV-EXT-DATA:ephemeral", inputs.integer(0), 0),
        swap_mb=fields.take("swap", inputs.integer(0), 0),
        rxtx_factor=fields.take("rxtx_factor", _factor, 1.0),
        is_public=fields.take("os-flavor-access:is_public", inputs.boolean, True),
        description=fields.take("description", _description, since=(2, 55)))
    fields.done()

    def work(tx: Tx) -> Flavor:
        flavor.id = flavor.id or tx.new_id()
        flavor.created_at = tx.now
        if tx.get(Flavor, flavor.id) is not None:
            raise Problem(409, f"Flavor with ID {flavor.id} already exists.")
        try:
            tx.insert(flavor)
        except Exists:
            raise Problem(409, f"Flavor with name {flavor.name} already exists.") from None
        return flavor

    return reply(200, {"flavor": flavor_view(call, await call.cloud.db.run(work))})


def _description(value: Any, place: str) -> str | None:
    if value is None:
        return None
    clean: str = inputs.string(0, 65535)(value, place)
    if not all(letter.isprintable() or letter in "\n\r\t" for letter in clean):
        raise bad(place, "a description may hold printable characters only.")
    return clean


async def update_flavor(call: Call) -> Response:
    need(call, (2, 55))
    must_admin(call, "os_compute_api:os-flavor-manage:update")
    fields = Fields(call, await body_of(call, "flavor"), "flavor")
    description = fields.take("description", _description, required=True)
    fields.done()

    def work(tx: Tx) -> Flavor:
        flavor = need_flavor(tx, call)
        tx.update(Flavor, flavor.id, description=description, updated_at=tx.now)
        return tx.need(Flavor, flavor.id)

    return reply(200, {"flavor": flavor_view(call, await call.cloud.db.run(work))})


async def delete_flavor(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-flavor-manage:delete")
    await call.cloud.db.run(lambda tx: tx.delete(Flavor, need_flavor(tx, call).id))
    return reply(202)


# access -----------------------------------------------------------------------------------------------------------
def _access_view(flavor: Flavor) -> dict[str, Any]:
    return {"flavor_access": [{"flavor_id": flavor.id, "tenant_id": project} for project in flavor.projects]}


async def list_access(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-flavor-access")
    flavor = await call.cloud.db.read(lambda tx: need_flavor(tx, call))
    if flavor.is_public:
        raise Problem(404, f"Flavor {flavor.id} is public: it has no access list.")
    return reply(200, _access_view(flavor))


async def change_access(call: Call) -> Response:
    """POST …/action: addTenantAccess or removeTenantAccess."""
    must_admin(call, "os_compute_api:os-flavor-access:change_tenant_access")
    body = inputs.mapping(await call.json(), "the body")
    verb = next((name for name in ("addTenantAccess", "removeTenantAccess") if name in body), None)
    if verb is None or len(body) != 1:
        raise Problem(400, "The request body must hold exactly one of addTenantAccess and removeTenantAccess.")
    fields = Fields(call, body[verb], verb)
    project = fields.take("tenant", inputs.string(1), required=True)
    fields.done()

    def work(tx: Tx) -> Flavor:
        flavor = need_flavor(tx, call)
        if verb == "addTenantAccess":
            if flavor.is_public:
                raise Problem(409, f"Flavor {flavor.id} is public: every project has access already.")
            if project in flavor.projects:
                raise Problem(409, f"Project {project} has access to flavor {flavor.id} already.")
            flavor.projects = [*flavor.projects, project]
        else:
            if project not in flavor.projects:
                raise Problem(404, f"Project {project} has no access of its own to flavor {flavor.id}.")
            flavor.projects = [item for item in flavor.projects if item != project]
        tx.update(Flavor, flavor.id, projects=flavor.projects, updated_at=tx.now)
        return flavor

    return reply(200, _access_view(await call.cloud.db.run(work)))


# extra specs ------------------------------------------------------------------------------------------------------
def _specs(call: Call, value: Any, place: str) -> dict[str, str]:
    specs: dict[str, str] = {}
    for key, item in inputs.mapping(value, place).items():
        if not _SPEC_KEY.fullmatch(key):
            raise bad(f"{place}.{key[:60]}", "a key has 1 to 255 of letters, digits, '-', '_', ':', '.' and space.")
        if isinstance(item, (int, float)) and not isinstance(item, bool):
            item = str(item)
        specs[key] = inputs.string()(item, f"{place}.{key}")
        allowed = SPEC_VALUES.get(key)
        if call.version >= (2, 86) and allowed is not None and not allowed.fullmatch(specs[key]):
            raise bad(f"{place}.{key}", f"{specs[key]!r} does not match {allowed.pattern}.")
    return specs


async def list_specs(call: Call) -> Response:
    flavor = await call.cloud.db.read(lambda tx: need_flavor(tx, call))
    return reply(200, {"extra_specs": flavor.extra_specs})


async def create_specs(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-flavor-extra-specs:create")
    specs = _specs(call, await body_of(call, "extra_specs"), "extra_specs")
    await _write_specs(call, specs)
    return reply(200, {"extra_specs": specs})


async def _write_specs(call: Call, specs: dict[str, str]) -> None:
    def work(tx: Tx) -> None:
        flavor = need_flavor(tx, call)
        tx.update(Flavor, flavor.id, extra_specs={**flavor.extra_specs, **specs}, updated_at=tx.now)

    await call.cloud.db.run(work)


def _one_spec(call: Call, flavor: Flavor) -> dict[str, str]:
    key = call.params["key"]
    if key not in flavor.extra_specs:
        raise Problem(404, f"Flavor {flavor.id} has no extra specs with key {key}.")
    return {key: flavor.extra_specs[key]}


async def show_spec(call: Call) -> Response:
    return reply(200, await call.cloud.db.read(lambda tx: _one_spec(call, need_flavor(tx, call))))


async def update_spec(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-flavor-extra-specs:update")
    specs = _specs(call, await call.json(), "extra_specs")
    if list(specs) != [call.params["key"]]:
        raise Problem(400, f"The request body must hold the key of the address, '{call.params['key']}', and no other.")
    await _write_specs(call, specs)
    return reply(200, specs)


async def delete_spec(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-flavor-extra-specs:delete")

    def work(tx: Tx) -> None:
        flavor = need_flavor(tx, call)
        gone = _one_spec(call, flavor)
        rest = {key: value for key, value in flavor.extra_specs.items() if key not in gone}
        tx.update(Flavor, flavor.id, extra_specs=rest, updated_at=tx.now)

    await call.cloud.db.run(work)
    return reply(200)


ROUTES = [
    ("GET", "/flavors", list_flavors),
    ("POST", "/flavors", create_flavor),
    ("GET", "/flavors/detail", list_details),
    ("GET", "/flavors/{flavor_id}", show_flavor),
    ("PUT", "/flavors/{flavor_id}", update_flavor),
    ("DELETE", "/flavors/{flavor_id}", delete_flavor),
    ("POST", "/flavors/{flavor_id}/action", change_access),
    ("GET", "/flavors/{flavor_id}/os-flavor-access", list_access),
    ("GET", "/flavors/{flavor_id}/os-extra_specs", list_specs),
    ("POST", "/flavors/{flavor_id}/os-extra_specs", create_specs),
    ("GET", "/flavors/{flavor_id}/os-extra_specs/{key}", show_spec),
    ("PUT", "/flavors/{flavor_id}/os-extra_specs/{key}", update_spec),
    ("DELETE", "/flavors/{flavor_id}/os-extra_specs/{key}", delete_spec),
]
