"""The JSON schemas that image clients ask for, made from the same tables the handlers check with."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.responses import Response

from virga.api.http import Call, reply
from virga.api.image.attributes import READ_ONLY
from virga.domain.errors import Problem
from virga.domain.image import CONTAINER_FORMATS, DISK_FORMATS, MEMBER_STATES, NAME_CHARS_MAX, VISIBILITIES

STATUSES = [
    "queued", "saving", "active", "killed", "deleted", "uploading", "importing", "pending_delete", "deactivated"]
_UUID = "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$"
_TEXT = {"type": "string", "maxLength": NAME_CHARS_MAX}
_TEXT_NULL = {"type": ["null", "string"], "maxLength": NAME_CHARS_MAX}


def _about(description: str, shape: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, **shape}


def _image() -> dict[str, Any]:
    properties: dict[str, dict[str, Any]] = {
        "id": _about("What the image is known by", {"type": "string", "pattern": _UUID}),
        "name": _about("A name for people", _TEXT_NULL),
        "status": _about("Where the image is in its life", {"type": "string", "enum": STATUSES}),
        "visibility": _about("Who sees the image", {"type": "string", "enum": list(VISIBILITIES)}),
        "protected": _about("Whether it is kept from being deleted", {"type": "boolean"}),
        "os_hidden": _about("Whether lists leave it out", {"type": "boolean"}),
        "checksum": _about("MD5 of the data, in hex", {"type": ["null", "string"], "maxLength": 32}),
        "os_hash_algo": _about("The algorithm of os_hash_value", {"type": ["null", "string"], "maxLength": 64}),
        "os_hash_value": _about("Digest of the data, in hex", {"type": ["null", "string"], "maxLength": 128}),
        "owner": _about("The project it belongs to", _TEXT_NULL),
        "size": _about("Bytes of the data", {"type": ["null", "integer"]}),
        "virtual_size": _about("Bytes a guest would see", {"type": ["null", "integer"]}),
        "container_format": _about("What the data is wrapped in", {
            "type": ["null", "string"], "enum": [None, *CONTAINER_FORMATS]}),
        "disk_format": _about("How the data is laid out", {"type": ["null", "string"], "enum": [None, *DISK_FORMATS]}),
        "created_at": _about("When it was made", {"type": "string"}),
        "updated_at": _about("When it last changed", {"type": "string"}),
        "tags": _about("Words to find it by", {"type": "array", "items": _TEXT}),
        "direct_url": _about("Not told here", {"type": "string"}),
        "min_ram": _about("MiB of memory it needs", {"type": "integer"}),
        "min_disk": _about("GiB of disk it needs", {"type": "integer"}),
        "self": _about("Path of this image", {"type": "string"}),
        "file": _about("Path of its data", {"type": "string"}),
        "schema": _about("Path of this schema", {"type": "string"}),
        "stores": _about("Stores that hold the data", {"type": "string"}),
        "locations": _about("Not told here", {"type": "array", "items": {"type": "object"}}),
    }
    for name in READ_ONLY & properties.keys():
        properties[name]["readOnly"] = True
    return {"name": "image", "properties": properties, "additionalProperties": {"type": "string"},
            "links": [{"rel": "self", "href": "{self}"}, {"rel": "enclosure", "href": "{file}"},
                      {"rel": "describedby", "href": "{schema}"}]}


def _member() -> dict[str, Any]:
    return {"name": "member", "properties": {
        "member_id": _about("The project it is offered to", {"type": "string"}),
        "image_id": _about("The image", {"type": "string", "pattern": _UUID}),
        "created_at": _about("When it was offered", {"type": "string"}),
        "updated_at": _about("When it was last answered", {"type": "string"}),
        "status": _about("The member's answer", {"type": "string", "enum": list(MEMBER_STATES)}),
        "schema": {"type": "string", "readOnly": True}}}


def _task() -> dict[str, Any]:
    text = {"type": "string"}
    return {"name": "task", "properties": {
        "id": {"type": "string", "pattern": _UUID}, "type": text,
        "status": {"type": "string", "enum": ["pending", "processing", "success", "failure"]},
        "input": {"type": ["null", "object"]}, "result": {"type": ["null", "object"]}, "owner": text, "message": text,
        "expires_at": {"type": ["null", "string"]}, "created_at": text, "updated_at": text, "self": text,
        "schema": text}}


def _many(name: str, item: dict[str, Any]) -> dict[str, Any]:
    """The schema of a page: items and, where there is more, the next page's path."""
    return {"name": name, "properties": {
        name: {"type": "array", "items": item}, "first": {"type": "string"}, "next": {"type": "string"},
        "schema": {"type": "string"}},
        "links": [{"rel": "first", "href": "{first}"}, {"rel": "next", "href": "{next}"},
                  {"rel": "describedby", "href": "{schema}"}]}


SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    "image": _image, "images": lambda: _many("images", _image()), "member": _member,
    "members": lambda: _many("members", _member()), "task": _task, "tasks": lambda: _many("tasks", _task())}


async def show_schema(call: Call) -> Response:
    make = SCHEMAS.get(call.params["name"])
    if make is None:
        raise Problem(404, f"There is no schema '{call.params['name']}'; there are {', '.join(SCHEMAS)}.")
    return reply(200, make())


# metadata definitions: name in the path -> (name in the schema, keys, which are required)
def _metadef(name: str, keys: dict[str, dict[str, Any]], required: list[str]) -> dict[str, Any]:
    shown = {"self": {"type": "string"}, "schema": {"type": "string"}, "created_at": {"type": "string", "readOnly": True},
             "updated_at": {"type": "string", "readOnly": True}}
    return {"name": name, "properties": {**keys, **shown}, "required": required, "additionalProperties": False}


def _named() -> dict[str, dict[str, Any]]:
    return {"name": {"type": "string", "maxLength": NAME_CHARS}, "description": {"type": "string"}}


NAME_CHARS = 80
JSON_TYPES = ["array", "boolean", "integer", "number", "object", "string", None]
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


async def show_metadef_schema(call: Call) -> Response:
    name = call.params["name"]
    if name in METADEFS:
        return reply(200, METADEFS[name]())
    if name in METADEF_LISTS:
        listed, one = METADEF_LISTS[name]
        return reply(200, _many(listed, METADEFS[one]()))
    raise Problem(404, f"There is no schema 'metadefs/{name}'; there are {', '.join([*METADEFS, *METADEF_LISTS])}.")
