"""The JSON schemas of metadata definitions (`/v2/schemas/metadefs/...`).

Owns: one document for each kind of definition and one for each list of them. Rules: the keys are those that
api/image/metadefs.py takes; the names in the paths and the names in the documents differ where the image API has them
differ (`resource_type` is called resource_type_association inside).
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.responses import Response

from virga.api.http import Call, reply
from virga.api.image.schemas import many
from virga.domain.errors import Problem

NAME_CHARS = 80
JSON_TYPES = ["array", "boolean", "integer", "number", "object", "string", None]


def _metadef(name: str, keys: dict[str, dict[str, Any]], required: list[str]) -> dict[str, Any]:
    shown = {"self": {"type": "string"}, "schema": {"type": "string"}, "created_at": {"type": "string", "readOnly": True},
             "updated_at": {"type": "string", "readOnly": True}}
    return {"name": name, "properties": {**keys, **shown}, "required": required, "additionalProperties": False}


def _named() -> dict[str, dict[str, Any]]:
    return {"name": {"type": "string", "maxLength": NAME_CHARS}, "description": {"type": "string"}}


METADEFS: dict[str, Callable[[], dict[str, Any]]] = {
    "namespace": lambda: _metadef("namespace", {
        "namespace": {"type": "string", "maxLength": NAME_CHARS}, "owner": {"type": "string"},
        "display_name": {"type": "string", "maxLength": NAME_CHARS}, "description": {"type": "string"},
        "visibility": {"type": "string", "enum": ["public", "private"]}, "protected": {"type": "boolean"},
        "objects": {"type": "array"}, "properties": {"type": "object"}, "tags": {"type": "array"},
        "resource_type_associations": {"type": "array"}}, ["namespace"]),
    "object": lambda: _metadef("object", {
        **_named(), "required": {"type": "array"}, "properties": {"type": "object"}}, ["name"]),
    "property": lambda: _metadef("property", {
        **_named(), "title": {"type": "string"}, "type": {"type": "string", "enum": JSON_TYPES},
        "operators": {"type": "array"}, "enum": {"type": "array"}, "default": {}, "minimum": {"type": "number"},
        "maximum": {"type": "number"}, "minLength": {"type": "integer"}, "maxLength": {"type": "integer"},
        "minItems": {"type": "integer"}, "maxItems": {"type": "integer"}, "uniqueItems": {"type": "boolean"},
        "pattern": {"type": "string"}, "items": {"type": "object"}, "additionalItems": {"type": "boolean"},
        "readonly": {"type": "boolean"}}, ["name", "title", "type"]),
    "tag": lambda: _metadef("tag", {"name": _named()["name"]}, ["name"]),
    "resource_type": lambda: _metadef("resource_type_association", {
        "name": _named()["name"], "prefix": {"type": "string"}, "properties_target": {"type": "string"}}, ["name"]),
}
METADEF_LISTS = {
    "namespaces": ("namespaces", "namespace"), "objects": ("objects", "object"), "properties": ("properties", "property"),
    "tags": ("tags", "tag"), "resource_types": ("resource_type_associations", "resource_type")}


async def show_schema(call: Call) -> Response:
    name = call.params["name"]
    if name in METADEFS:
        return reply(200, METADEFS[name]())
    if name in METADEF_LISTS:
        listed, one = METADEF_LISTS[name]
        return reply(200, many(listed, METADEFS[one]()))
    raise Problem(404, f"There is no schema 'metadefs/{name}'; there are {', '.join([*METADEFS, *METADEF_LISTS])}.")
