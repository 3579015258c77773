"""What an attribute of the network API may hold: checks that turn a JSON value into the value that is stored.

A check is a function of the value that returns the clean value or raises `Bad` with the reason; the noun that uses it
names the field. Checks are forgiving where the documented API is (numbers and booleans as text, MACs in any case) and
strict everywhere else, so that nothing a client sends can reach the transaction in a shape it does not expect.
"""
from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET

from virga.domain import ipam

Check = Callable[[Any], Any]

TEXT_MAX = 255
INTEGER_MAX = 2**31 - 1
UUID = re.compile(r"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}")
MAC = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}")
DNS_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


class Bad(ValueError):
    """A value that is not acceptable; the text says why and quotes it, shortened."""


class Field(msgspec.Struct, frozen=True):
    """One attribute: its check, whether it may be given at creation and at update, its default (UNSET for none), and who may give it.

    `admin` fields are refused to everybody else with 403. `column` is the row's name for it where that differs.
    """

    check: Check
    post: bool = True
    put: bool = True
    required: bool = False
    default: Any = UNSET
    admin: bool = False
    column: str | None = None


def quoted(value: Any) -> str:
    """A value in an error text, cut to a length a person reads."""
    shown = repr(value)
    if len(shown) > 200 and isinstance(value, (list, dict)):
        shown = f"a {type(value).__name__} of {len(value)} items"
    return shown if len(shown) <= 80 else shown[:77] + "..."


def text(longest: int = TEXT_MAX, empty: bool = True) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise Bad(f"{quoted(value)} is not a valid string")
        if len(value) > longest:
            raise Bad(f"{quoted(value)} exceeds maximum length of {longest}")
        if "\x00" in value:
            raise Bad("a NUL character is not allowed")
        if not empty and not value.strip():
            raise Bad("'' Blank strings are not permitted")
        return value

    return check


def nullable_text(longest: int = TEXT_MAX) -> Check:
    """None counts as ''."""
    inner = text(longest)
    return lambda value: "" if value is None else inner(value)


def boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in ("true", "false", "1", "0"):
        return value.lower() in ("true", "1")
    raise Bad(f"'{quoted(value)}' cannot be converted to boolean")


def integer(low: int, high: int = INTEGER_MAX) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"-?\d{1,12}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise Bad(f"{quoted(value)} is not an integer")
        if not low <= value <= high:
            raise Bad(f"{quoted(value)} is not in the range {low} to {high}")
        return value

    return check


def one_of(*values: str) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in values:
            raise Bad(f"{quoted(value)} is not in {list(values)}")
        return value

    return check


def optional(inner: Check) -> Check:
    """None passes as None."""
    return lambda value: None if value is None else inner(value)


def uuid(value: Any) -> str:
    if not isinstance(value, str) or not UUID.fullmatch(value):
        raise Bad(f"{quoted(value)} is not a valid UUID")
    return value


def project(value: Any) -> str:
    if not isinstance(value, str) or not value or len(value) > TEXT_MAX:
        raise Bad(f"{quoted(value)} is not a valid project id")
    return value


def list_of(inner: Check, longest: int = 1024, unique: bool = False) -> Check:
    def check(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise Bad(f"{quoted(value)} is not a list")
        if len(value) > longest:
            raise Bad(f"a list of {len(value)} exceeds the maximum of {longest}")
        items = [inner(item) for item in value]
        if unique:
            for index, item in enumerate(items):
                if item in items[:index]:
                    raise Bad(f"Duplicate items in the list: {quoted(item)}")
        return items

    return check


def listed(inner: Check) -> Check:
    """A list, with None for an empty one."""
    return lambda value: [] if value is None else inner(value)


def mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Bad(f"{quoted(value)} is not a dictionary")
    return value


def profile(value: Any) -> dict[str, Any]:
    """binding:profile: any small JSON object; None and '' mean an empty one."""
    if value is None or value == "":
        return {}
    found = mapping(value)
    if len(msgspec.json.encode(found)) > 4095:
        raise Bad("binding:profile value too large")
    return found


def parts(required: dict[str, Check], more: dict[str, Check] | None = None) -> Check:
    """A JSON object with exactly these keys."""
    every = {**required, **(more or {})}

    def check(value: Any) -> dict[str, Any]:
        found = mapping(value)
        for name in required:
            if name not in found:
                raise Bad(f"{quoted(value)} lacks the key '{name}'")
        unknown = sorted(set(found) - set(every))
        if unknown:
            raise Bad(f"unexpected key {quoted(unknown[0])}; expected keys: {sorted(every)}")
        return {name: every[name](item) for name, item in found.items()}

    return check


# addresses --------------------------------------------------------------------------------------------------------------


def ip(value: Any) -> str:
    if not isinstance(value, str):
        raise Bad(f"{quoted(value)} is not a valid IP address")
    try:
        return ipam.canonical(value)
    except ValueError:
        raise Bad(f"{quoted(value)} is not a valid IP address") from None


def cidr(value: Any) -> str:
    """An IP subnet; bits to the right of the mask are cleared, as the API does."""
    if not isinstance(value, str) or "/" not in value or "%" in value:
        raise Bad(f"{quoted(value)} is not a valid IP subnet")
    try:
        return str(ipam.loose_network(value))
    except ValueError:
        raise Bad(f"{quoted(value)} is not a valid IP subnet") from None


def ip_or_cidr(value: Any) -> str:
    if isinstance(value, str) and "/" in value:
        return cidr(value)
    return ip(value)


def mac(value: Any) -> str:
    if not isinstance(value, str) or not MAC.fullmatch(value):
        raise Bad(f"{quoted(value)} is not a valid MAC address")
    clean = value.replace("-", ":").lower()
    if int(clean[:2], 16) & 1 or clean == "00:00:00:00:00:00":
        raise Bad(f"{quoted(value)} is not a MAC address of one card")
    return clean


def dns_name(value: Any) -> str:
    """A host name or a fully qualified one; '' clears it."""
    if value is None or value == "":
        return ""
    found: str = text()(value)
    if not all(DNS_LABEL.fullmatch(label) for label in found.rstrip(".").split(".")):
        raise Bad(f"{quoted(value)} not a valid PQDN or FQDN. Reason: Name contains an invalid label")
    return found.lower()


def dns_domain(value: Any) -> str:
    found = dns_name(value)
    if found and not found.endswith("."):
        raise Bad(f"{quoted(value)} is not a FQDN")
    return found


pool = parts({"start": ip, "end": ip})
pools = list_of(pool, 256)
host_route = parts({"destination": cidr, "nexthop": ip})
host_routes = listed(list_of(host_route, 256, unique=True))
name_servers = listed(list_of(ip, 16, unique=True))
_wish = parts({}, {"subnet_id": uuid, "ip_address": ip})


def wish(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = _wish(value)
    if not found:
        raise Bad("a fixed IP needs subnet_id, ip_address or both")
    return found


wishes = listed(list_of(wish, 256))
address_pair = parts({"ip_address": ip_or_cidr}, {"mac_address": mac})
address_pairs = listed(list_of(address_pair, 64))
tag = text(255, empty=False)
tags = list_of(tag, 50)
zone_hints = list_of(text(), 8)


def dhcp_value(value: Any) -> Any:
    """An option's value; None removes the option."""
    return optional(text())(value)


dhcp_options = listed(list_of(
    parts({"opt_name": text(64, empty=False), "opt_value": dhcp_value}, {"ip_version": integer(4, 6)}), 64))
