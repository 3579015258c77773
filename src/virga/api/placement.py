"""Placement, for reading: hosts as resource providers, claims as allocations.

Rules: every answer is made from Host and Claim rows, which remain the only truth: nothing can be written here (405), and
there is nothing to be healed. A provider is a host; its classes are VCPU, MEMORY_MB and DISK_GB; a consumer is a server
or, while a resize is unconfirmed, its migration. A provider's generation is the host's session with the cloud. Reading
wants an administrator, as in placement itself. Fields come with their microversions (1.0 to 1.39).
"""
from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

from virga.api.http import Call, Service, reply
from virga.domain.errors import Problem
from virga.domain.placement import UP, Candidate, Claim, Host, Room, fits
from virga.domain.server import Server
from virga.store.db import Tx

MINIMUM, MAXIMUM = (1, 0), (1, 39)
CLASSES = ("VCPU", "MEMORY_MB", "DISK_GB")
STANDARD_CLASSES = (*CLASSES, "PCI_DEVICE", "SRIOV_NET_VF", "NUMA_SOCKET", "NUMA_CORE", "NUMA_THREAD", "IPV4_ADDRESS", "VGPU")
DISABLED = "COMPUTE_STATUS_DISABLED"
TRAITS = (DISABLED, "COMPUTE_NET_ATTACH_INTERFACE", "COMPUTE_NODE", "COMPUTE_IMAGE_TYPE_RAW", "COMPUTE_IMAGE_TYPE_QCOW2")
_FORM = re.compile(r"placement\s+(latest|1\.\d+)", re.IGNORECASE)
_RESOURCE = re.compile(r"([A-Z0-9_]+):([1-9]\d{0,8})")


class Provider(msgspec.Struct):
    """A host with the claims on it."""

    host: Host
    claims: list[Claim]

    @property
    def used(self) -> Room:
        return Room(sum(claim.vcpus for claim in self.claims), sum(claim.ram_mb for claim in self.claims),
                    sum(claim.disk_gb for claim in self.claims))


def error_body(problem: Problem, request_id: str) -> Any:
    """Placement's list of one error."""
    return {"errors": [{
        "status": problem.status, "title": HTTPStatus(problem.status).phrase, "detail": problem.message,
        "code": problem.kind or "placement.undefined_code", "request_id": request_id}]}


def negotiate(call: Call) -> None:
    """Set `call.version` from the header. Raises Problem 406 for a version not spoken here, 400 for an unreadable one."""
    call.version = MINIMUM
    header = call.header("openstack-api-version")
    if header is None or "placement" not in header.lower():
        return
    found = _FORM.search(header)
    if found is None:
        raise Problem(400, f"Version '{header}' is not understood: give it as 'placement 1.N' or 'placement latest'.")
    version = MAXIMUM if found[1].lower() == "latest" else (1, int(found[1][2:]))
    if version > MAXIMUM:
        raise Problem(406, f"Version {found[1]} is not supported: minimum is 1.0 and maximum is 1.{MAXIMUM[1]}.")
    call.version = version


def stamp(call: Call, response: Response) -> None:
    response.headers["openstack-api-version"] = f"placement {call.version[0]}.{call.version[1]}"
    response.headers["vary"] = "openstack-api-version"


def _begin(call: Call, since: tuple[int, int] = MINIMUM) -> None:
    """Raises Problem 403 for callers who are no administrators and 404 before the call came."""
    if not call.caller.is_admin:
        raise Problem(403, "Access was denied to this resource: it needs the role admin.")
    if call.version < since:
        raise Problem(404, f"{call.path} came with microversion {since[0]}.{since[1]}.")


async def show_root(call: Call) -> Response:
    return reply(200, {"versions": [{
        "id": "v1.0", "min_version": "1.0", "max_version": f"1.{MAXIMUM[1]}", "status": "CURRENT",
        "links": [{"rel": "self", "href": ""}]}]})


# rows -------------------------------------------------------------------------------------------------------------
def _providers(tx: Tx) -> list[Provider]:
    claims: dict[str, list[Claim]] = {}
    for claim in tx.find(Claim):
        claims.setdefault(claim.host, []).append(claim)
    return [Provider(host, claims.get(host.name, [])) for host in tx.find(Host, sort=[("number", False)])]


async def _one(call: Call) -> Provider:
    wanted = call.params["uuid"]
    found = await call.cloud.db.read(_providers)
    for provider in found:
        if provider.host.id == wanted:
            return provider
    raise Problem(404, f"No resource provider with uuid {wanted} found.")


def _amounts(room: Room) -> dict[str, int]:
    return {"VCPU": room.vcpus, "MEMORY_MB": room.ram_mb, "DISK_GB": room.disk_gb}


def _inventory(host: Host) -> dict[str, dict[str, Any]]:
    ratios = {"VCPU": host.cpu_ratio, "MEMORY_MB": host.ram_ratio, "DISK_GB": host.disk_ratio}
    whole = _amounts(Room(host.vcpus, host.ram_mb, host.disk_gb))
    return {name: {"total": total, "reserved": 0, "min_unit": 1, "max_unit": total, "step_size": 1,
                   "allocation_ratio": ratios[name]} for name, total in whole.items() if total}


def _traits(host: Host) -> list[str]:
    return [name for name in TRAITS if name != DISABLED or host.disabled or host.forced_down or host.state != UP]


def _view(call: Call, host: Host) -> dict[str, Any]:
    base = f"/placement/resource_providers/{host.id}"
    parts = ["inventories", "usages"]
    if call.version >= (1, 1):
        parts.append("aggregates")
    if call.version >= (1, 6):
        parts.append("traits")
    if call.version >= (1, 11):
        parts.append("allocations")
    view: dict[str, Any] = {
        "uuid": host.id, "name": host.name, "generation": host.session,
        "links": [{"rel": "self", "href": base}, *({"rel": part, "href": f"{base}/{part}"} for part in parts)]}
    if call.version >= (1, 14):
        view |= {"parent_provider_uuid": None, "root_provider_uuid": host.id}
    return view


def _resources(text: str | None) -> dict[str, int]:
    """`VCPU:1,MEMORY_MB:64` as amounts. Raises Problem 400."""
    wanted: dict[str, int] = {}
    for part in (text or "").split(","):
        found = _RESOURCE.fullmatch(part.strip())
        if found is None or found[1] in wanted:
            raise Problem(400, f"Badly formed resources parameter: '{text}'; expected for example VCPU:1,MEMORY_MB:64.")
        wanted[found[1]] = int(found[2])
    return wanted


def _has_room(provider: Provider, wanted: dict[str, int]) -> bool:
    if any(name not in CLASSES for name in wanted):
        return False
    room = Room(wanted.get("VCPU", 0), wanted.get("MEMORY_MB", 0), wanted.get("DISK_GB", 0))
    return fits(Candidate(provider.host, provider.used), room)


def _has_traits(call: Call, host: Host) -> bool:
    for value in call.args("required"):
        for name in value.split(","):
            if name.startswith("!"):
                if name[1:] in _traits(host):
                    return False
            elif name not in _traits(host):
                return False
    return True


# handlers ---------------------------------------------------------------------------------------------------------
async def list_providers(call: Call) -> Response:
    _begin(call)
    found = await call.cloud.db.read(_providers)
    for name, column in (("name", "name"), ("uuid", "id"), ("in_tree", "id")):
        if call.arg(name) is not None:
            found = [provider for provider in found if getattr(provider.host, column) == call.arg(name)]
    if call.arg("resources") is not None:
        wanted = _resources(call.arg("resources"))
        found = [provider for provider in found if _has_room(provider, wanted)]
    if call.args("member_of"):
        found = []
    found = [provider for provider in found if _has_traits(call, provider.host)]
    return reply(200, {"resource_providers": [_view(call, provider.host) for provider in found]})


async def show_provider(call: Call) -> Response:
    _begin(call)
    return reply(200, _view(call, (await _one(call)).host))


async def list_inventories(call: Call) -> Response:
    _begin(call)
    host = (await _one(call)).host
    return reply(200, {"resource_provider_generation": host.session, "inventories": _inventory(host)})


async def show_inventory(call: Call) -> Response:
    _begin(call)
    host = (await _one(call)).host
    found = _inventory(host).get(call.params["resource_class"])
    if found is None:
        raise Problem(404, f"No inventory of class {call.params['resource_class']} for {host.id}.")
    return reply(200, {"resource_provider_generation": host.session, **found})


async def show_usages(call: Call) -> Response:
    _begin(call)
    provider = await _one(call)
    return reply(200, {"resource_provider_generation": provider.host.session, "usages": _amounts(provider.used)})


def _claimed(claim: Claim) -> dict[str, int]:
    """What a claim holds; a class of which it holds nothing is not an allocation."""
    return {name: amount for name, amount in _amounts(Room(claim.vcpus, claim.ram_mb, claim.disk_gb)).items() if amount}


async def list_provider_allocations(call: Call) -> Response:
    _begin(call)
    provider = await _one(call)
    return reply(200, {
        "resource_provider_generation": provider.host.session,
        "allocations": {claim.owner: {"resources": _claimed(claim)} for claim in provider.claims}})


async def list_provider_traits(call: Call) -> Response:
    _begin(call, (1, 6))
    host = (await _one(call)).host
    return reply(200, {"resource_provider_generation": host.session, "traits": _traits(host)})


async def list_provider_aggregates(call: Call) -> Response:
    _begin(call, (1, 1))
    host = (await _one(call)).host
    view: dict[str, Any] = {"aggregates": []}
    if call.version >= (1, 19):
        view["resource_provider_generation"] = host.session
    return reply(200, view)


async def show_allocations(call: Call) -> Response:
    _begin(call)
    consumer = call.params["consumer"]

    def work(tx: Tx) -> dict[str, Any]:
        hosts = {host.name: host for host in tx.find(Host)}
        claims = tx.find(Claim, owner=consumer)
        view: dict[str, Any] = {"allocations": {
            hosts[claim.host].id: {"generation": hosts[claim.host].session, "resources": _claimed(claim)}
            for claim in claims if claim.host in hosts}}
        server = tx.get(Server, claims[0].server_id) if claims else None
        if server is not None and call.version >= (1, 12):
            view |= {"project_id": server.project_id, "user_id": server.user_id}
        if server is not None and call.version >= (1, 28):
            view["consumer_generation"] = server.epoch
        if server is not None and call.version >= (1, 38):
            view["consumer_type"] = "MIGRATION" if claims[0].kind == "migration" else "INSTANCE"
        return view

    return reply(200, await call.cloud.db.read(work))


async def project_usages(call: Call) -> Response:
    _begin(call, (1, 9))
    project_id, user_id = call.arg("project_id"), call.arg("user_id")
    if project_id is None:
        raise Problem(400, "Invalid query: 'project_id' is a required parameter.")

    def work(tx: Tx) -> dict[str, dict[str, int]]:
        used: dict[str, dict[str, int]] = {}
        for claim in tx.find(Claim):
            server = tx.get(Server, claim.server_id)
            if server is None or server.project_id != project_id or user_id not in (None, server.user_id):
                continue
            kind = "MIGRATION" if claim.kind == "migration" else "INSTANCE"
            row = used.setdefault(kind if call.version >= (1, 38) else "", {"consumer_count": 0})
            row["consumer_count"] += 1
            for name, amount in _claimed(claim).items():
                row[name] = row.get(name, 0) + amount
        return used

    used = await call.cloud.db.read(work)
    if call.version >= (1, 38):
        return reply(200, {"usages": used})
    plain = used.get("", {})
    plain.pop("consumer_count", None)
    return reply(200, {"usages": plain})


async def list_traits(call: Call) -> Response:
    _begin(call, (1, 6))
    wanted, names = call.arg("name"), list(TRAITS)
    if wanted and wanted.startswith("in:"):
        names = [name for name in names if name in wanted[3:].split(",")]
    elif wanted and wanted.startswith("startswith:"):
        names = [name for name in names if name.startswith(wanted.removeprefix("startswith:"))]
    elif wanted:
        raise Problem(400, f"Badly formatted name parameter: '{wanted}'; it begins with in: or startswith:.")
    return reply(200, {"traits": names})


async def show_trait(call: Call) -> Response:
    _begin(call, (1, 6))
    if call.params["name"] not in TRAITS:
        raise Problem(404, f"No such trait: {call.params['name']}.")
    return reply(204)


def _class_view(name: str) -> dict[str, Any]:
    return {"name": name, "links": [{"rel": "self", "href": f"/placement/resource_classes/{name}"}]}


async def list_classes(call: Call) -> Response:
    _begin(call, (1, 2))
    return reply(200, {"resource_classes": [_class_view(name) for name in STANDARD_CLASSES]})


async def show_class(call: Call) -> Response:
    _begin(call, (1, 2))
    if call.params["name"] not in STANDARD_CLASSES:
        raise Problem(404, f"No such resource class: {call.params['name']}.")
    return reply(200, _class_view(call.params["name"]))


async def list_candidates(call: Call) -> Response:
    """Hosts that could take the resources: up, enabled, with room; the emptiest first."""
    _begin(call, (1, 10))
    wanted = _resources(call.arg("resources"))
    limit = call.arg("limit")
    if limit is not None and (not limit.isdecimal() or int(limit) < 1):
        raise Problem(400, f"Invalid limit '{limit}': it must be a whole number above 0.")
    found = [provider for provider in await call.cloud.db.read(_providers)
             if _has_room(provider, wanted) and DISABLED not in _traits(provider.host)
             and _has_traits(call, provider.host)]
    if call.arg("in_tree") is not None:
        found = [provider for provider in found if provider.host.id == call.arg("in_tree")]
    if call.args("member_of"):
        found = []
    found.sort(key=lambda provider: provider.used.ram_mb - provider.host.ram_mb * provider.host.ram_ratio)
    found = found[:int(limit)] if limit else found
    return reply(200, {
        "allocation_requests": [_candidate(call, provider, wanted) for provider in found],
        "provider_summaries": {provider.host.id: _summary(call, provider, wanted) for provider in found}})


def _candidate(call: Call, provider: Provider, wanted: dict[str, int]) -> dict[str, Any]:
    host = provider.host
    if call.version < (1, 12):
        return {"allocations": [{"resource_provider": {"uuid": host.id}, "resources": wanted}]}
    view: dict[str, Any] = {"allocations": {host.id: {"resources": wanted}}}
    if call.version >= (1, 34):
        view["mappings"] = {"": [host.id]}
    return view


def _summary(call: Call, provider: Provider, wanted: dict[str, int]) -> dict[str, Any]:
    used = _amounts(provider.used)
    shown = CLASSES if call.version >= (1, 27) else tuple(wanted)
    view: dict[str, Any] = {"resources": {
        name: {"capacity": int(item["total"] * item["allocation_ratio"]), "used": used[name]}
        for name, item in _inventory(provider.host).items() if name in shown}}
    if call.version >= (1, 17):
        view["traits"] = _traits(provider.host)
    if call.version >= (1, 29):
        view |= {"parent_provider_uuid": None, "root_provider_uuid": provider.host.id}
    return view


ROUTES = [
    ("GET", "/resource_providers", list_providers),
    ("GET", "/resource_providers/{uuid}", show_provider),
    ("GET", "/resource_providers/{uuid}/inventories", list_inventories),
    ("GET", "/resource_providers/{uuid}/inventories/{resource_class}", show_inventory),
    ("GET", "/resource_providers/{uuid}/usages", show_usages),
    ("GET", "/resource_providers/{uuid}/allocations", list_provider_allocations),
    ("GET", "/resource_providers/{uuid}/traits", list_provider_traits),
    ("GET", "/resource_providers/{uuid}/aggregates", list_provider_aggregates),
    ("GET", "/allocations/{consumer}", show_allocations),
    ("GET", "/usages", project_usages),
    ("GET", "/traits", list_traits),
    ("GET", "/traits/{name}", show_trait),
    ("GET", "/resource_classes", list_classes),
    ("GET", "/resource_classes/{name}", show_class),
    ("GET", "/allocation_candidates", list_candidates),
]


def service() -> Service:
    """The whole placement API below /placement."""
    placement = Service("placement", "/placement", error_body, before=negotiate, after=stamp)
    placement.add("GET", "", show_root, open=True)
    placement.table(ROUTES)
    return placement
