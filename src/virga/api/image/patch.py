"""The image API's two JSON-patch dialects, read into one list of changes and applied to an image.

`…-v2.1-json-patch` is {"op", "path", "value"}; `…-v2.0-json-patch` is {"add": "/path", "value"}. They differ once
more: in 2.0 `add` refuses a property that is there, in 2.1 it replaces it. Pure: an Image in, the changed columns
out; the caller checks who may. Only whole attributes can be patched, so a path has one part.
"""
from __future__ import annotations

from typing import Any

import msgspec

from virga.api.image.attributes import READ_ONLY, WRITABLE, check_count, check_name, check_value
from virga.domain.errors import Problem
from virga.domain.image import QUEUED, Image

V21 = "application/openstack-images-v2.1-json-patch"
V20 = "application/openstack-images-v2.0-json-patch"
VERBS = ("add", "replace", "remove")
CHANGES_MAX = 1000


class Change(msgspec.Struct, frozen=True):
    """One step of a patch. `strict` is the 2.0 rule that `add` may not meet an existing property."""

    verb: str
    name: str
    value: Any
    strict: bool


def read_patch(content_type: str, body: Any) -> list[Change]:
    """Raises Problem 415 for another media type and 400 for a patch that cannot be read."""
    if content_type not in (V20, V21):
        raise Problem(415, f"PATCH takes {V21} or {V20}, not {content_type or 'a body without a type'}.",
                      headers={"Accept-Patch": f"{V21}, {V20}"})
    if not isinstance(body, list):
        raise Problem(400, "Request body must be a JSON array of operation objects.")
    if len(body) > CHANGES_MAX:
        raise Problem(413, f"A patch may have at most {CHANGES_MAX} operations.")
    return [_change(item, content_type == V20) for item in body]


def _change(item: Any, old: bool) -> Change:
    if not isinstance(item, dict):
        raise Problem(400, "Operations must be JSON objects.")
    verb: Any
    if old:
        verbs = [name for name in VERBS if name in item]
        if len(verbs) != 1:
            raise Problem(400, f"An operation must hold exactly one of {', '.join(VERBS)}.")
        verb, path = verbs[0], item[verbs[0]]
    else:
        verb, path = item.get("op"), item.get("path")
        if verb not in VERBS:
            raise Problem(400, f"Operations must have an 'op' of {', '.join(VERBS)}; this one has {verb!r}.")
    if not isinstance(path, str) or not path.startswith("/") or path == "/":
        raise Problem(400, f"Operation '{verb}' needs a path that begins with '/', like '/name'; it has {path!r}.")
    if verb != "remove" and "value" not in item:
        raise Problem(400, f"Operation '{verb}' on {path} needs a 'value'.")
    parts = [part.replace("~1", "/").replace("~0", "~") for part in path[1:].split("/")]
    if len(parts) > 1:
        if parts[0] in ("locations", *READ_ONLY):
            raise Problem(403, f"Attribute '{parts[0]}' is read-only.")
        raise Problem(400, f"Path {path} goes too deep: only whole attributes can be patched.")
    return Change(verb, parts[0], item.get("value"), old)


def apply_patch(image: Image, changes: list[Change]) -> dict[str, Any]:
    """The columns that change. Raises Problem 403 (read-only, base removed), 409 (missing, present), 400 (value)."""
    columns: dict[str, Any] = {}
    properties = dict(image.properties)
    for change in changes:
        name = change.name
        if name == "id":
            raise Problem(403, "Attribute 'id' is read-only.")
        if change.verb == "remove" and name == "stores":
            # openstacksdk takes `stores` for a property and removes it whenever it sets others: there is nothing to do
            continue
        check_name(name)
        if name in WRITABLE:
            if change.verb == "remove":
                raise Problem(403, f"Property {name} may not be removed.")
            value = check_value(name, change.value)
            if name in ("container_format", "disk_format") and image.status != QUEUED:
                raise Problem(403, f"Attribute {name} can be only replaced for a queued image.")
            columns[name] = value
            continue
        if change.verb == "remove":
            if properties.pop(name, None) is None:
                raise Problem(409, f"Property {name} does not exist.")
            continue
        if change.verb == "replace" and name not in properties:
            raise Problem(409, f"Property {name} does not exist.")
        if change.verb == "add" and change.strict and name in properties:
            raise Problem(409, f"Property {name} already present.")
        properties[name] = check_value(name, change.value)
    if properties != image.properties:
        check_count(properties)
        columns["properties"] = properties
    return columns
