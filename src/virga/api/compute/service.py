"""The compute service: its versions documents, its error shape, and the table joined from all resource
modules.

Owns: `service()`. Rules: every resource module exposes `ROUTES`, (method, path, handler) with paths below the
version; each is mounted at /v2.1 and, without microversions, at /v2 (clients and the interoperability tests still
look for v2.0 in the versions document, so it must be real). Errors are one object under the fault name of their
status, for example {"itemNotFound": {"code": 404, "message": ...}}.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from starlette.responses import Response

from virga.api.compute import (
    aggregates,
    availability_zones,
    external_events,
    flavors,
    hypervisors,
    image_proxy,
    instance_actions,
    keypairs,
    limits,
    migrations,
    network_proxy,
    older,
    quotas,
    server_actions,
    server_create,
    server_groups,
    server_images,
    server_interfaces,
    server_metadata,
    server_parts,
    server_security_groups,
    server_tags,
    servers,
    services,
    usage,
)
from virga.api.compute.microversion import MAXIMUM, MINIMUM, negotiate, stamp, text
from virga.api.http import Call, Service, reply
from virga.domain.errors import Problem

MODULES: list[ModuleType] = [
    servers,
    server_create,
    server_actions,
    server_images,
    server_interfaces,
    server_metadata,
    server_parts,
    server_security_groups,
    server_tags,
    aggregates,
    availability_zones,
    external_events,
    flavors,
    hypervisors,
    image_proxy,
    instance_actions,
    keypairs,
    limits,
    migrations,
    network_proxy,
    older,
    quotas,
    server_groups,
    services,
    usage,
]

FAULTS = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    409: "conflictingRequest",
    413: "overLimit",
    415: "badMediaType",
    429: "overLimit",
    501: "notImplemented",
    503: "serviceUnavailable",
}


def error_body(problem: Problem, request_id: str) -> Any:
    """The compute API's fault object."""
    name = FAULTS.get(problem.status, "computeFault")  # `kind` is the network API's word, when ops refuses a port
    return {name: {"code": problem.status, "message": problem.message}}


def _version(call: Call, name: str) -> dict[str, Any]:
    """One entry of the versions document. `updated` is the day the API version came: a fact of the API."""
    href = f"{call.base_url()}/compute/{name}/"
    links: list[dict[str, str]] = [{"rel": "self", "href": href}]
    if name == "v2":
        return {
            "id": "v2.0",
            "status": "SUPPORTED",
            "version": "",
            "min_version": "",
            "updated": "2011-01-21T11:33:21Z",
            "links": links,
        }
    return {
        "id": "v2.1",
        "status": "CURRENT",
        "version": text(MAXIMUM),
        "min_version": text(MINIMUM),
        "updated": "2013-07-23T11:33:21Z",
        "links": links,
    }


async def list_versions(call: Call) -> Response:
    return reply(200, {"versions": [_version(call, "v2"), _version(call, "v2.1")]})


async def show_version(call: Call) -> Response:
    entry = _version(call, call.path.strip("/").rpartition("/")[2])
    number = entry["id"].removeprefix("v")
    kind = "2" if number == "2.0" else number
    media_type = f"application/vnd.openstack.compute+json;version={kind}"
    entry["media-types"] = [{"base": "application/json", "type": media_type}]
    return reply(200, {"version": entry})


def service() -> Service:
    """The whole compute API below /compute."""
    compute = Service("compute", "/compute", error_body, before=negotiate, after=stamp)
    compute.add("GET", "", list_versions, open=True)
    for root in ("/v2.1", "/v2"):
        compute.add("GET", root, show_version, open=True)
        for module in MODULES:
            compute.table((method, root + path, handler) for method, path, handler in module.ROUTES)
    return compute
