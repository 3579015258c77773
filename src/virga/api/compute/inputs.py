"""What a value in a compute request must look like: small checks, and `Fields`, which reads one JSON object
with them.

Rules: a check takes (value, place) and returns the clean value or raises Problem 400 that begins with the place, so
that a user knows which field to mend. `Fields` refuses every key nobody took, at the microversion of the request: a
field that came later, or that went, is as unknown as a misspelt one. Where the API has always taken numbers and
booleans as text, so do the checks.
Why not msgspec Structs here: which fields exist depends on the microversion, and a Struct a version would be forty.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from typing import Any

from virga.api.compute.microversion import MAXIMUM, Version, text
from virga.api.http import Call
from virga.domain.errors import Problem

Check = Callable[[Any, str], Any]
INTEGER_MAX = 0x7FFFFFFF
USER_DATA_BYTES_MAX = 65535
TAG_CHARS_MAX, TAGS_MAX = 60, 50
_UUID = re.compile(r"[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_META_KEY = re.compile(r"[a-zA-Z0-9\-_:. ]{1,255}")
_HOST_LABEL = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9\-]{0,61}[a-zA-Z0-9])?")
_TRUE = {"true", "1", "t", "on", "y", "yes"}
_FALSE = {"false", "0", "f", "off", "n", "no"}


def bad(place: str, why: str) -> Problem:
    return Problem(400, f"Invalid input for field {place}: {why}")


def mapping(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise bad(place, "it must be an object.")
    return value


def items(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise bad(place, "it must be a list.")
    return value


def string(least: int = 0, most: int = 255) -> Check:
    """Text of `least` to `most` characters."""

    def check(value: Any, place: str) -> str:
        if not isinstance(value, str):
            raise bad(place, f"{value!r} is not a string.")
        if len(value) < least:
            raise bad(place, "it is too short." if value else "it must not be empty.")
        if len(value) > most:
            raise bad(place, f"it has {len(value)} characters, at most {most} are allowed.")
        return value

    return check


def name(value: Any, place: str) -> str:
    """A display name: 1 to 255 printable characters, without white space at either end."""
    clean: str = string(1)(value, place)
    if clean != clean.strip():
        raise bad(place, "a name must not begin or end with white space.")
    if not clean.isprintable():
        raise bad(place, "a name may hold printable characters only.")
    return clean


def description(value: Any, place: str) -> str | None:
    if value is None:
        return None
    clean: str = string()(value, place)
    if not all(letter.isprintable() or letter in "\n\r\t" for letter in clean):
        raise bad(place, "a description may hold printable characters only.")
    return clean


def optional(check: Check) -> Check:
    """Null stands for nothing."""

    def checked(value: Any, place: str) -> Any:
        return None if value is None else check(value, place)

    return checked


def boolean(value: Any, place: str) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, (str, int)) else ""
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise bad(place, f"{value!r} is not a boolean.")


def integer(least: int, most: int = INTEGER_MAX) -> Check:
    """A whole number, as a number or as its digits."""

    def check(value: Any, place: str) -> int:
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise bad(place, f"{value!r} is not an integer.")
        if value < least:
            raise bad(place, f"{value} is less than the minimum of {least}.")
        if value > most:
            raise bad(place, f"{value} is more than the maximum of {most}.")
        return value

    return check


def choice(*words: str) -> Check:
    def check(value: Any, place: str) -> str:
        if value not in words:
            raise bad(place, f"{value!r} is not one of {', '.join(words)}.")
        return str(value)

    return check


def uuid(value: Any, place: str) -> str:
    """An id in the form of a UUID."""
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise bad(place, f"{value!r} is not a uuid.")
    return value


def ipv4(value: Any, place: str) -> str:
    """An IPv4 address, or nothing for none."""
    return _address(value, place, ipaddress.IPv4Address, "IPv4")


def ipv6(value: Any, place: str) -> str:
    return _address(value, place, ipaddress.IPv6Address, "IPv6")


def _address(value: Any, place: str, kind: Callable[[str], Any], word: str) -> str:
    if value == "":
        return ""
    try:
        return str(kind(string()(value, place)))
    except ValueError:
        raise bad(place, f"{value!r} is not an {word} address.") from None


def ip(value: Any, place: str) -> str:
    try:
        return str(ipaddress.ip_address(string(1)(value, place)))
    except ValueError:
        raise bad(place, f"{value!r} is not an IP address.") from None


def metadata(value: Any, place: str) -> dict[str, str]:
    """Keys of 1 to 255 letters, digits, `-_:. `, values of at most 255 characters."""
    for key, item in mapping(value, place).items():
        if not _META_KEY.fullmatch(key):
            raise bad(f"{place}.{key[:60]}", "a key has 1 to 255 of letters, digits, '-', '_', ':', '.' and space.")
        string()(item, f"{place}.{key}")
    return dict(value)


def tag(value: Any, place: str) -> str:
    clean: str = string(1, TAG_CHARS_MAX)(value, place)
    if "," in clean or "/" in clean:
        raise bad(place, f"the tag {clean!r} must not hold ',' or '/'.")
    return clean


def tags(value: Any, place: str) -> list[str]:
    """At most 50 different tags; repeated ones count once, the order is kept."""
    clean = list(dict.fromkeys(tag(item, place) for item in items(value, place)))
    if len(clean) > TAGS_MAX:
        raise bad(place, f"a server has at most {TAGS_MAX} tags.")
    return clean


def hostname(domain: bool) -> Check:
    """A host name of RFC 1123: one label or, with `domain`, several up to 255 characters."""

    def check(value: Any, place: str) -> str:
        clean: str = string(1, 255 if domain else 63)(value, place)
        labels = clean.split(".") if domain else [clean]
        if not all(_HOST_LABEL.fullmatch(label) for label in labels):
            raise bad(place, f"{clean!r} is not a host name.")
        return clean

    return check


def user_data(value: Any, place: str) -> str:
    """Base64 of at most 65535 characters."""
    clean: str = string(0, USER_DATA_BYTES_MAX)(value, place)
    try:
        base64.b64decode("".join(clean.split()), validate=True)
    except (binascii.Error, ValueError):
        raise bad(place, "it must be base64.") from None
    return clean


def reference(value: Any, place: str) -> str:
    """An id, or a link that ends in one."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    clean: str = string(1, 2048)(value, place)
    last = clean.rstrip("/").rpartition("/")[2]
    if not last or len(last) > 255:
        raise bad(place, f"{clean[:80]!r} names nothing.")
    return last


class Fields:
    """One JSON object being read. Take every field, then call `done`."""

    def __init__(self, call: Call, value: Any, place: str) -> None:
        self.call = call
        self.place = place
        self.left: dict[str, Any] = dict(mapping(value, place))
        self.given = frozenset(self.left)

    def take(
        self,
        key: str,
        check: Check,
        default: Any = None,
        *,
        since: Version = (2, 1),
        until: Version = MAXIMUM,
        required: bool = False,
    ) -> Any:
        """The checked value of `key`, or `default`. Outside `since`..`until` the key is not known."""
        if not since <= self.call.version <= until or key not in self.left:
            if required and since <= self.call.version <= until:
                raise Problem(400, f"Invalid input for field {self.place}: '{key}' is a required property.")
            return default
        return check(self.left.pop(key), f"{self.place}.{key}")

    def done(self) -> None:
        """Raises Problem 400 for a key that nobody took."""
        if self.left:
            key = next(iter(self.left))
            raise Problem(
                400,
                f"Invalid input for field {self.place}: the property {key!r} does not exist here "
                f"at microversion {text(self.call.version)}.",
            )


async def body_of(call: Call, key: str) -> Any:
    """The value under the one key a body must have."""
    whole = mapping(await call.json(), "the body")
    if key not in whole:
        raise Problem(400, f"Invalid input for field {key}: '{key}' is a required property.")
    return whole[key]
