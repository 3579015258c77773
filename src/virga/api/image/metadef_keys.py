"""What a metadata definition may hold: one table of keys and checks for namespaces and one for each kind of part.

Owns: `read`, which turns a body into checked keys. Rules: a wrong value, a missing key and an unknown key are 400 and
named; keys that the service itself shows (times, self, schema) are passed over when a client sends them back, as
clients do on updates. Values are checked for shape only: what a property means is between operators and their users.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from virga.domain.errors import Problem
from virga.domain.metadef import OBJECT, PROPERTY, RESOURCE_TYPE, TAG

NAME_CHARS_MAX = 80
TEXT_CHARS_MAX = 500
PARTS_MAX = 1000
Check = Callable[[str, Any], Any]


def bad(name: str, why: str) -> Problem:
    return Problem(400, f"Invalid value for '{name}': {why}.")


def _text(most: int, null: bool = True, least: int = 0) -> Check:
    def check(name: str, value: Any) -> str | None:
        if value is None and null:
            return None
        if not isinstance(value, str) or not least <= len(value) <= most:
            raise bad(name, f"it must be a string of {least} to {most} characters")
        return value

    return check


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise bad(name, "it must be true or false")
    return value


def _one_of(*words: str) -> Check:
    def check(name: str, value: Any) -> str:
        if value not in words:
            raise bad(name, f"{value!r} is not one of {', '.join(words)}")
        return str(value)

    return check


def items(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > PARTS_MAX:
        raise bad(name, f"it must be an array of at most {PARTS_MAX} items")
    return value


def mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > PARTS_MAX:
        raise bad(name, f"it must be an object of at most {PARTS_MAX} keys")
    return value


def _number(name: str, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise bad(name, "it must be a number")
    return value


def _anything(name: str, value: Any) -> Any:
    return value


NAME = _text(NAME_CHARS_MAX, null=False, least=1)
TYPES = _one_of("array", "boolean", "integer", "number", "object", "string", "null")
NAMESPACE_KEYS: dict[str, Check] = {
    "namespace": NAME, "display_name": _text(NAME_CHARS_MAX), "description": _text(TEXT_CHARS_MAX),
    "visibility": _one_of("public", "private"), "protected": _flag, "owner": _text(255, null=False, least=1)}
PART_KEYS: dict[str, dict[str, Check]] = {
    OBJECT: {"name": NAME, "description": _text(TEXT_CHARS_MAX), "required": items, "properties": mapping},
    PROPERTY: {
        "name": NAME, "title": _text(255, null=False), "type": TYPES, "description": _text(TEXT_CHARS_MAX),
        "operators": items, "enum": items, "default": _anything, "minimum": _number, "maximum": _number,
        "minLength": _number, "maxLength": _number, "minItems": _number, "maxItems": _number, "uniqueItems": _flag,
        "pattern": _text(255, null=False), "items": mapping, "additionalItems": _flag, "readonly": _flag,
        "required": items},
    TAG: {"name": NAME},
    RESOURCE_TYPE: {"name": NAME, "prefix": _text(NAME_CHARS_MAX), "properties_target": _text(NAME_CHARS_MAX)},
}
PART_NEEDS = {OBJECT: ("name",), PROPERTY: ("name", "title", "type"), TAG: ("name",), RESOURCE_TYPE: ("name",)}
SHOWN_BY_SERVICE = {"created_at", "updated_at", "self", "schema", "owner"}  # clients send them back on updates


def read(body: Any, keys: dict[str, Check], needs: tuple[str, ...]) -> dict[str, Any]:
    """The body's keys, checked. Raises Problem 400 that names the key."""
    given = mapping("the request body", body)
    for name in needs:
        if name not in given:
            raise bad(name, "it is a required property")
    for name in given:
        if name not in keys and name not in SHOWN_BY_SERVICE:
            raise bad(name, "there is no such property")
    return {name: check(name, given[name]) for name, check in keys.items() if name in given}
