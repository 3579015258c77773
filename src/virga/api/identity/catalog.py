"""The service catalog: which APIs there are and where, as a token shows it.

Owns: the built-in services of a Virga cloud and the catalog made from the stored services and endpoints. An
endpoint's URL may hold $(base_url)s, the scheme and host the client itself used, so that the catalog is right
behind any address the cloud is reached by.
"""
from __future__ import annotations

from typing import Any

from starlette.responses import Response

from virga.api.http import Call, reply
from virga.api.identity import reach
from virga.api.identity.session import Session
from virga.api.identity.shape import links
from virga.domain.identity import CatalogService, Endpoint, EndpointGroup, ProjectEndpoint, Region
from virga.store.db import Tx

# type, name, description, path: DevStack's names and paths
SERVICES = (
    ("identity", "keystone", "Identity", "/identity"),
    ("compute", "nova", "Compute", "/compute/v2.1"),
    ("network", "neutron", "Networking", "/network"),
    ("image", "glance", "Image", "/image"),
    ("placement", "placement", "Placement", "/placement"),
)
INTERFACES = ("public", "internal", "admin")


def ensure_catalog(tx: Tx, region_id: str) -> None:
    """Make the region and the built-in services with their endpoints, each only if it is missing."""
    if tx.get(Region, region_id) is None:
        tx.insert(Region(region_id, None, "", {}))
    for kind, name, description, path in SERVICES:
        service = tx.one(CatalogService, type=kind, name=name)
        if service is None:
            service = CatalogService(tx.new_id().replace("-", ""), kind, name, description, True, {})
            tx.insert(service)
            for interface in INTERFACES:
                tx.insert(Endpoint(tx.new_id().replace("-", ""), service.id, interface,  # type: ignore[arg-type]
                                   region_id, f"$(base_url)s{path}", True, {}))


def shown_url(url: str, base_url: str, project_id: str | None = None, user_id: str | None = None) -> str:
    """The URL with its variables filled in; what has no value stays as it is."""
    values = {"base_url": base_url, "project_id": project_id, "tenant_id": project_id, "user_id": user_id}
    for name, value in values.items():
        if value is not None:
            url = url.replace(f"$({name})s", value).replace(f"%({name})s", value)
    return url


def catalog(tx: Tx, base_url: str, session: Session) -> list[dict[str, Any]]:
    """Every enabled service with its enabled endpoints."""
    project_id = session.scope.id if session.scope is not None and session.token.scope_kind == "project" else None
    by_service: dict[str, list[dict[str, Any]]] = {}
    narrowed = None if project_id is None else endpoints_of(tx, project_id)
    for endpoint in tx.find(Endpoint, enabled=True, sort=[("interface", True), ("id", False)]):
        if narrowed is not None and endpoint.id not in narrowed:
            continue
        url = shown_url(endpoint.url, base_url, project_id, session.user.id)
        if "$(project_id)s" in url or "$(tenant_id)s" in url:
            continue  # needs a project this token does not have
        by_service.setdefault(endpoint.service_id, []).append({
            "id": endpoint.id, "interface": endpoint.interface, "region": endpoint.region_id,
            "region_id": endpoint.region_id, "url": url})
    return [
        {"id": service.id, "type": service.type, "name": service.name, "endpoints": by_service.get(service.id, [])}
        for service in tx.find(CatalogService, enabled=True, sort=[("type", False), ("id", False)])
        if narrowed is None or service.id in by_service
    ]


def endpoints_of(tx: Tx, project_id: str) -> set[str] | None:
    """The endpoints a project's catalog is narrowed to; None when nobody narrowed it and it shows all."""
    rows = tx.find(ProjectEndpoint, project_id=project_id)
    if not rows:
        return None
    found = {row.id for row in rows if row.kind == "endpoint"}
    for group in tx.find(EndpointGroup, id=[row.id for row in rows if row.kind == "group"]):
        found.update(endpoint.id for endpoint in tx.find(Endpoint, **group.filters))
    return found


async def show_catalog(call: Call) -> Response:
    session: Session = call.caller.token
    reach.require(session.token.scope_kind != "", "get_auth_catalog (the token has no scope)")
    found = await call.cloud.db.read(lambda tx: catalog(tx, call.base_url(), session))
    return reply(200, {"catalog": found, "links": links(call, "auth", "catalog")})
