"""What an image's attributes may be: the one table that create, PATCH and the schema documents share.

Rules: a base attribute has a type and perhaps a choice of values; some are read-only (403 when a client writes
them); everything else is a free-form property whose value is text. Names under `os_glance_` are the service's own.
A wrong value is 400 and names the attribute.
"""
from __future__ import annotations

from typing import Any

from virga.domain.errors import Problem
from virga.domain.image import (
    CONTAINER_FORMATS,
    DISK_FORMATS,
    NAME_CHARS_MAX,
    PROPERTIES_MAX,
    TAGS_MAX,
    VISIBILITIES,
)

READ_ONLY = frozenset({
    "status", "checksum", "os_hash_algo", "os_hash_value", "size", "virtual_size", "created_at", "updated_at", "self",
    "file", "schema", "direct_url", "stores", "locations"})
WRITABLE = frozenset({
    "name", "visibility", "container_format", "disk_format", "min_disk", "min_ram", "protected", "os_hidden", "tags",
    "owner"})
OWN_PREFIX = "os_glance_"
INTEGER_MAX = 2**31 - 1
TEXT_CHARS_MAX = 65535


def check_name(name: str) -> None:
    """Raises Problem 403 for attributes that clients may not write and 400 for names no property can have."""
    if name in READ_ONLY:
        raise Problem(403, f"Attribute '{name}' is read-only.")
    if name.startswith(OWN_PREFIX):
        raise Problem(403, f"Attribute '{name}' is reserved: names beginning with {OWN_PREFIX} belong to the service.")
    if not name or len(name) > NAME_CHARS_MAX:
        raise Problem(400, f"Property names have 1 to {NAME_CHARS_MAX} characters; this one has {len(name)}.")


def check_value(name: str, value: Any) -> Any:
    """The value as it is stored. Raises Problem 400 that names the attribute."""
    check = _CHECKS.get(name)
    if check is not None:
        return check(name, value)
    if not isinstance(value, str):
        raise Problem(400, f"Invalid value for property '{name}': it must be a string, not {_kind(value)}.")
    if len(value) > TEXT_CHARS_MAX:
        raise Problem(400, f"Invalid value for property '{name}': at most {TEXT_CHARS_MAX} characters.")
    return value


def check_count(properties: dict[str, str]) -> None:
    """Raises Problem 413 beyond the number of free-form properties an image may have."""
    if len(properties) > PROPERTIES_MAX:
        raise Problem(413, f"An image may have at most {PROPERTIES_MAX} properties, not {len(properties)}.")


def check_tag(tag: str) -> str:
    if not tag or len(tag) > NAME_CHARS_MAX:
        raise Problem(400, f"Invalid value for tags: a tag has 1 to {NAME_CHARS_MAX} characters.")
    return tag


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "an object")


def _text_or_null(name: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise Problem(400, f"Invalid value for '{name}': it must be a string or null, not {_kind(value)}.")
    if value is not None and len(value) > NAME_CHARS_MAX:
        raise Problem(400, f"Invalid value for '{name}': at most {NAME_CHARS_MAX} characters; this has {len(value)}.")
    return value


def _bool(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise Problem(400, f"Invalid value for '{name}': it must be true or false, not {_kind(value)}.")
    return value


def _amount(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= INTEGER_MAX:
        raise Problem(400, f"Invalid value for '{name}': it must be a whole number from 0 to {INTEGER_MAX}.")
    return value


def _choice(choices: tuple[str, ...], null: bool) -> Any:
    def check(name: str, value: Any) -> str | None:
        if (value is None and null) or (isinstance(value, str) and value in choices):
            return value
        raise Problem(400, f"Invalid value for '{name}': {value!r} is not one of {', '.join(choices)}.")

    return check


def _tags(name: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Problem(400, "Invalid value for 'tags': it must be an array of strings.")
    tags = list(dict.fromkeys(check_tag(item) for item in value))
    if len(tags) > TAGS_MAX:
        raise Problem(413, f"An image may have at most {TAGS_MAX} tags; this one would have {len(tags)}.")
    return tags


def _owner(name: str, value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= NAME_CHARS_MAX:
        raise Problem(400, "Invalid value for 'owner': it must be a project id.")
    return value


_CHECKS: dict[str, Any] = {
    "name": _text_or_null, "visibility": _choice(VISIBILITIES, False), "protected": _bool, "os_hidden": _bool,
    "container_format": _choice(CONTAINER_FORMATS, True), "disk_format": _choice(DISK_FORMATS, True),
    "min_disk": _amount, "min_ram": _amount, "tags": _tags, "owner": _owner}
