"""The JSON schemas that image clients ask for.

Owns: the documents below `/v2/schemas` for images, members and tasks. Rules: they are made from the tables the handlers
check with, so that a document cannot promise what a handler refuses; what clients may not write says `readOnly`.
Clients of the older library build their objects from these documents, so every key an image shows stands here.
"""
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


def about(description: str, shape: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, **shape}


def _image() -> dict[str, Any]:
    properties: dict[str, dict[str, Any]] = {
        "id": about("What the image is known by", {"type": "string", "pattern": _UUID}),
        "name": about("A name for people", _TEXT_NULL),
        "status": about("Where the image is in its life", {"type": "string", "enum": STATUSES}),
        "visibility": about("Who sees the image", {"type": "string", "enum": list(VISIBILITIES)}),
        "protected": about("Whether it is kept from being deleted", {"type": "boolean"}),
        "os_hidden": about("Whether lists leave it out", {"type": "boolean"}),
        "checksum": about("MD5 of the data, in hex", {"type": ["null", "string"], "maxLength": 32}),
        "os_hash_algo": about("The algorithm of os_hash_value", {"type": ["null", "string"], "maxLength": 64}),
        "os_hash_value": about("Digest of the data, in hex", {"type": ["null", "string"], "maxLength": 128}),
        "owner": about("The project it belongs to", _TEXT_NULL),
        "size": about("Bytes of the data", {"type": ["null", "integer"]}),
        "virtual_size": about("Bytes a guest would see", {"type": ["null", "integer"]}),
        "container_format": about("What the data is wrapped in", {
            "type": ["null", "string"], "enum": [None, *CONTAINER_FORMATS]}),
        "disk_format": about("How the data is laid out", {"type": ["null", "string"], "enum": [None, *DISK_FORMATS]}),
        "created_at": about("When it was made", {"type": "string"}),
        "updated_at": about("When it last changed", {"type": "string"}),
        "tags": about("Words to find it by", {"type": "array", "items": _TEXT}),
        "direct_url": about("Not told here", {"type": "string"}),
        "min_ram": about("MiB of memory it needs", {"type": "integer"}),
        "min_disk": about("GiB of disk it needs", {"type": "integer"}),
        "self": about("Path of this image", {"type": "string"}),
        "file": about("Path of its data", {"type": "string"}),
        "schema": about("Path of this schema", {"type": "string"}),
        "stores": about("Stores that hold the data", {"type": "string"}),
        "locations": about("Not told here", {"type": "array", "items": {"type": "object"}}),
    }
    for name in READ_ONLY & properties.keys():
        properties[name]["readOnly"] = True
    return {"name": "image", "properties": properties, "additionalProperties": {"type": "string"},
            "links": [{"rel": "self", "href": "{self}"}, {"rel": "enclosure", "href": "{file}"},
                      {"rel": "describedby", "href": "{schema}"}]}


def _member() -> dict[str, Any]:
    return {"name": "member", "properties": {
        "member_id": about("The project it is offered to", {"type": "string"}),
        "image_id": about("The image", {"type": "string", "pattern": _UUID}),
        "created_at": about("When it was offered", {"type": "string"}),
        "updated_at": about("When it was last answered", {"type": "string"}),
        "status": about("The member's answer", {"type": "string", "enum": list(MEMBER_STATES)}),
        "schema": {"type": "string", "readOnly": True}}}


def _task() -> dict[str, Any]:
    text = {"type": "string"}
    return {"name": "task", "properties": {
        "id": {"type": "string", "pattern": _UUID}, "type": text,
        "status": {"type": "string", "enum": ["pending", "processing", "success", "failure"]},
        "input": {"type": ["null", "object"]}, "result": {"type": ["null", "object"]}, "owner": text, "message": text,
        "expires_at": {"type": ["null", "string"]}, "created_at": text, "updated_at": text, "self": text,
        "schema": text}}


def many(name: str, item: dict[str, Any]) -> dict[str, Any]:
    """The schema of a page: items and, where there is more, the next page's path."""
    return {"name": name, "properties": {
        name: {"type": "array", "items": item}, "first": {"type": "string"}, "next": {"type": "string"},
        "schema": {"type": "string"}},
        "links": [{"rel": "first", "href": "{first}"}, {"rel": "next", "href": "{next}"},
                  {"rel": "describedby", "href": "{schema}"}]}


SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    "image": _image, "images": lambda: many("images", _image()), "member": _member,
    "members": lambda: many("members", _member()), "task": _task, "tasks": lambda: many("tasks", _task())}


async def show_schema(call: Call) -> Response:
    make = SCHEMAS.get(call.params["name"])
    if make is None:
        raise Problem(404, f"There is no schema '{call.params['name']}'; there are {', '.join(SCHEMAS)}.")
    return reply(200, make())
