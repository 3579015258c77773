"""Metadata definitions (`/v2/metadefs`): namespaces and the objects, properties, tags and resource types in them.

Rules: administrators write, everybody reads; a private namespace shows only to its owner's project and to
administrators. A protected namespace and its parts cannot be deleted (403). Names are unique within their kind (409).
All four kinds of parts share the same five handlers, made by `part_routes`; they differ in which keys they may have.
"""
from __future__ import annotations

from typing import Any

from starlette.responses import Response

from virga.api.http import Call, Handler, reply
from virga.api.image.access import must_admin
from virga.api.image.metadef_keys import (
    NAME,
    NAMESPACE_KEYS,
    PART_KEYS,
    PART_NEEDS,
    PARTS_MAX,
    bad,
    items,
    mapping,
    read,
)
from virga.api.image.views import stamp
from virga.domain.errors import Problem
from virga.domain.metadef import (
    OBJECT,
    PROPERTY,
    RESOURCE_TYPE,
    RESOURCE_TYPES,
    TAG,
    MetadefNamespace,
    MetadefPart,
)
from virga.store.db import Exists, Tx

PARTS_OF_NAMESPACE = {"objects": OBJECT, "properties": PROPERTY, "tags": TAG, "resource_type_associations": RESOURCE_TYPE}


# namespaces -------------------------------------------------------------------------------------------------------
def _need(tx: Tx, call: Call) -> MetadefNamespace:
    """The namespace of the path, if the caller may know of it."""
    name = call.params["namespace"]
    row = tx.get(MetadefNamespace, name)
    if row is None or not (row.visibility == "public" or call.caller.sees(row.owner)):
        raise Problem(404, f"Metadata definition namespace {name} was not found.")
    return row


def _view(row: MetadefNamespace) -> dict[str, Any]:
    path = f"/v2/metadefs/namespaces/{row.namespace}"
    view = {
        "namespace": row.namespace, "owner": row.owner, "visibility": row.visibility, "protected": row.protected,
        "display_name": row.display_name, "description": row.description, "created_at": stamp(row.created_at),
        "updated_at": stamp(row.updated_at), "self": path, "schema": "/v2/schemas/metadefs/namespace"}
    return {name: value for name, value in view.items() if value is not None}


def _parts(tx: Tx, namespace: str, kind: str) -> list[MetadefPart]:
    return tx.find(MetadefPart, namespace=namespace, kind=kind, sort=[("created_at", False), ("name", False)])


async def list_namespaces(call: Call) -> Response:
    limit, marker = call.arg("limit", str(PARTS_MAX)) or "", call.arg("marker")
    if not limit.isdecimal():
        raise bad("limit", f"'{limit}' is not a whole number")
    visibility, wanted = call.arg("visibility"), call.arg("resource_types")

    def work(tx: Tx) -> list[dict[str, Any]]:
        rows = [row for row in tx.find(MetadefNamespace, sort=[("created_at", True), ("namespace", False)])
                if (row.visibility == "public" or call.caller.sees(row.owner)) and visibility in (None, row.visibility)]
        views = [_view(row) | {"resource_type_associations": [
            _part_view(part, brief=True) for part in _parts(tx, row.namespace, RESOURCE_TYPE)]} for row in rows]
        if wanted is not None:
            kinds = set(wanted.split(","))
            views = [view for view in views
                     if kinds & {item["name"] for item in view["resource_type_associations"]}]
        return views

    views = await call.cloud.db.read(work)
    if marker is not None:
        place = next((index for index, view in enumerate(views) if view["namespace"] == marker), None)
        if place is None:
            raise bad("marker", f"no namespace is called '{marker}'")
        views = views[place + 1:]
    page = views[:int(limit)]
    body = {"namespaces": page, "first": "/v2/metadefs/namespaces", "schema": "/v2/schemas/metadefs/namespaces"}
    if len(views) > len(page) and page:
        body["next"] = f"/v2/metadefs/namespaces?limit={limit}&marker={page[-1]['namespace']}"
    return reply(200, body)


async def create_namespace(call: Call) -> Response:
    """A namespace with, if the body holds them, all its parts."""
    must_admin(call)
    body = mapping("the request body", await call.json())
    parts = [(kind, item) for key, kind in PARTS_OF_NAMESPACE.items() if key in body
             for item in _items(key, body[key], kind)]
    given = read({key: value for key, value in body.items() if key not in PARTS_OF_NAMESPACE}, NAMESPACE_KEYS,
                  ("namespace",))
    owner = body.get("owner") or call.caller.project_id
    if not isinstance(owner, str):
        raise bad("owner", "it must be a project id")

    def work(tx: Tx) -> dict[str, Any]:
        given.pop("owner", None)
        row = MetadefNamespace(owner=owner, created_at=tx.now, updated_at=tx.now, **given)
        try:
            tx.insert(row)
            for kind, item in parts:
                tx.insert(_part(tx, row.namespace, kind, item))
        except Exists:
            raise Problem(409, f"The namespace {row.namespace}, or one of its parts, exists already.") from None
        return _whole(tx, row)

    view = await call.cloud.db.run(work)
    return reply(201, view, {"Location": f"{call.base_url()}/image{view['self']}"})


def _items(key: str, value: Any, kind: str) -> list[dict[str, Any]]:
    """The parts of one kind in a namespace's body: an array, or for properties an object by name."""
    if kind == PROPERTY:
        value = [{"name": name, **mapping(key, item)} for name, item in mapping(key, value).items()]
    return [read(item, PART_KEYS[kind], PART_NEEDS[kind]) for item in items(key, value)]


def _whole(tx: Tx, row: MetadefNamespace) -> dict[str, Any]:
    """A namespace with its parts."""
    view = _view(row)
    for key, kind in PARTS_OF_NAMESPACE.items():
        parts = _parts(tx, row.namespace, kind)
        if not parts:
            continue
        if kind == PROPERTY:
            view[key] = {part.name: part.body for part in parts}
        else:
            view[key] = [_part_view(part, brief=True) for part in parts]
    return view


async def show_namespace(call: Call) -> Response:
    return reply(200, await call.cloud.db.read(lambda tx: _whole(tx, _need(tx, call))))


async def update_namespace(call: Call) -> Response:
    must_admin(call)
    given = read(await call.json(), NAMESPACE_KEYS, ("namespace",))

    def work(tx: Tx) -> dict[str, Any]:
        row = _need(tx, call)
        changes = {"visibility": "private", "protected": False, "display_name": None, "description": None, **given}
        try:
            tx.update(MetadefNamespace, row.namespace, updated_at=tx.now, **changes)
        except Exists:
            raise Problem(409, f"Metadata definition namespace {given['namespace']} exists already.") from None
        if given["namespace"] != row.namespace:
            for part in tx.find(MetadefPart, namespace=row.namespace):
                tx.update(MetadefPart, row.namespace, part.kind, part.name, namespace=given["namespace"])
        return _view(tx.need(MetadefNamespace, given["namespace"]))

    return reply(200, await call.cloud.db.run(work))


def _unprotected(tx: Tx, call: Call) -> MetadefNamespace:
    row = _need(tx, call)
    if row.protected:
        raise Problem(403, f"Metadata definition namespace {row.namespace} is protected: nothing of it is deleted.")
    return row


async def delete_namespace(call: Call) -> Response:
    must_admin(call)

    def work(tx: Tx) -> None:
        row = _unprotected(tx, call)
        tx.delete_where(MetadefPart, namespace=row.namespace)
        tx.delete(MetadefNamespace, row.namespace)

    await call.cloud.db.run(work)
    return reply(204)


# parts ------------------------------------------------------------------------------------------------------------
def _part(tx: Tx, namespace: str, kind: str, given: dict[str, Any]) -> MetadefPart:
    body = {name: value for name, value in given.items() if name != "name" and value is not None}
    return MetadefPart(namespace, kind, given["name"], body, tx.now, tx.now)


def _part_view(part: MetadefPart, brief: bool = False) -> dict[str, Any]:
    view: dict[str, Any] = {"name": part.name, **part.body}
    if brief:
        return view
    if part.kind == OBJECT:
        view = {"required": [], "properties": {}, **view}
    if part.kind in (OBJECT, TAG):
        many = {OBJECT: "objects", TAG: "tags"}[part.kind]
        view |= {"self": f"/v2/metadefs/namespaces/{part.namespace}/{many}/{part.name}",
                 "schema": f"/v2/schemas/metadefs/{part.kind}"}
    if part.kind != PROPERTY:
        view |= {"created_at": stamp(part.created_at), "updated_at": stamp(part.updated_at)}
    return view


def _need_part(tx: Tx, namespace: str, kind: str, name: str) -> MetadefPart:
    part = tx.get(MetadefPart, namespace, kind, name)
    if part is None:
        raise Problem(404, f"Metadata definition {kind} {name} was not found in namespace {namespace}.")
    return part


def _insert(tx: Tx, part: MetadefPart) -> MetadefPart:
    try:
        tx.insert(part)
    except Exists:
        raise Problem(409, f"A {part.kind} named {part.name} exists already in namespace {part.namespace}.") from None
    return part


def part_routes(kind: str, many: str, listed: str) -> list[tuple[str, str, Handler]]:
    """The five calls on one kind of part. `many` is its word in paths, `listed` the key of its list."""

    async def list_parts(call: Call) -> Response:
        parts = await call.cloud.db.read(lambda tx: _parts(tx, _need(tx, call).namespace, kind))
        if kind == PROPERTY:
            return reply(200, {listed: {part.name: _part_view(part) for part in parts}})
        return reply(200, {listed: [_part_view(part) for part in parts]})

    async def create_part(call: Call) -> Response:
        must_admin(call)
        given = read(await call.json(), PART_KEYS[kind], PART_NEEDS[kind])
        part = await call.cloud.db.run(
            lambda tx: _insert(tx, _part(tx, _need(tx, call).namespace, kind, given)))
        return reply(201, _part_view(part))

    async def show_part(call: Call) -> Response:
        part = await call.cloud.db.read(
            lambda tx: _need_part(tx, _need(tx, call).namespace, kind, call.params["name"]))
        return reply(200, _part_view(part))

    async def update_part(call: Call) -> Response:
        must_admin(call)
        given = read(await call.json(), PART_KEYS[kind], PART_NEEDS[kind])

        def work(tx: Tx) -> MetadefPart:
            old = _need_part(tx, _need(tx, call).namespace, kind, call.params["name"])
            new = _part(tx, old.namespace, kind, given)
            new.created_at = old.created_at
            tx.delete(MetadefPart, old.namespace, kind, old.name)
            return _insert(tx, new)

        return reply(200, _part_view(await call.cloud.db.run(work)))

    async def delete_part(call: Call) -> Response:
        must_admin(call)

        def work(tx: Tx) -> None:
            part = _need_part(tx, _unprotected(tx, call).namespace, kind, call.params["name"])
            tx.delete(MetadefPart, part.namespace, kind, part.name)

        await call.cloud.db.run(work)
        return reply(204)

    async def delete_all(call: Call) -> Response:
        must_admin(call)
        await call.cloud.db.run(
            lambda tx: tx.delete_where(MetadefPart, namespace=_unprotected(tx, call).namespace, kind=kind))
        return reply(204)

    base = f"/v2/metadefs/namespaces/{{namespace}}/{many}"
    rows: list[tuple[str, str, Handler]] = [("GET", base, list_parts), ("DELETE", base + "/{name}", delete_part)]
    if kind != RESOURCE_TYPE:
        rows += [("GET", base + "/{name}", show_part), ("PUT", base + "/{name}", update_part), ("DELETE", base, delete_all)]
    if kind != TAG:
        rows.append(("POST", base, create_part))
    return rows


async def create_tag(call: Call) -> Response:
    """POST …/tags/{name}: the name is all there is."""
    must_admin(call)
    name = NAME("name", call.params["name"])
    part = await call.cloud.db.run(
        lambda tx: _insert(tx, _part(tx, _need(tx, call).namespace, TAG, {"name": name})))
    return reply(201, _part_view(part))


async def create_tags(call: Call) -> Response:
    """POST …/tags: these tags in place of those there were; with `X-Openstack-Append: true`, beside them."""
    must_admin(call)
    body = mapping("the request body", await call.json())
    names = [read(item, PART_KEYS[TAG], PART_NEEDS[TAG])["name"] for item in items("tags", body.get("tags"))]
    append = (call.header("x-openstack-append") or "").lower() == "true"

    def work(tx: Tx) -> list[dict[str, Any]]:
        row = _need(tx, call)
        if not append:
            tx.delete_where(MetadefPart, namespace=row.namespace, kind=TAG)
        return [_part_view(_insert(tx, _part(tx, row.namespace, TAG, {"name": name})), brief=True) for name in names]

    return reply(201, {"tags": await call.cloud.db.run(work)})


async def list_resource_types(call: Call) -> Response:
    def work(tx: Tx) -> list[str]:
        named = {part.name for part in tx.find(MetadefPart, kind=RESOURCE_TYPE)}
        return [*RESOURCE_TYPES, *sorted(named - set(RESOURCE_TYPES))]

    return reply(200, {"resource_types": [{"name": name} for name in await call.cloud.db.read(work)]})


ROUTES: list[tuple[str, str, Handler]] = [
    ("GET", "/v2/metadefs/resource_types", list_resource_types),
    ("GET", "/v2/metadefs/namespaces", list_namespaces),
    ("POST", "/v2/metadefs/namespaces", create_namespace),
    ("GET", "/v2/metadefs/namespaces/{namespace}", show_namespace),
    ("PUT", "/v2/metadefs/namespaces/{namespace}", update_namespace),
    ("DELETE", "/v2/metadefs/namespaces/{namespace}", delete_namespace),
    *part_routes(OBJECT, "objects", "objects"),
    *part_routes(PROPERTY, "properties", "properties"),
    *part_routes(TAG, "tags", "tags"),
    *part_routes(RESOURCE_TYPE, "resource_types", "resource_type_associations"),
    ("POST", "/v2/metadefs/namespaces/{namespace}/tags", create_tags),
    ("POST", "/v2/metadefs/namespaces/{namespace}/tags/{name}", create_tag),
]
