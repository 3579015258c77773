"""What goes in and out of every identity handler: checked bodies, times, links, lists with filters and pages.

Rules: a body is `{noun: {...}}`; its known fields are checked by a Struct and a mismatch names the field;
unknown fields are kept as the row's `extra` where identity clients expect that (email of a user), never
interpreted. A list filters on whatever attribute the query names: equal, or with `__contains`, `__startswith`,
`__endswith` and their `i` twins; `limit` and `marker` (an id) cut it into pages, `links.next` leads on. Times
are UTC text; tokens and application credentials carry microseconds, as upstream's do.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.responses import Response

from virga.api.http import Call, reply
from virga.domain.errors import Problem
from virga.store.db import Exists, Tx
from virga.store.identity import touch

S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")

Name64 = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"\S")]
Name255 = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"\S")]
Id = Annotated[str, Meta(min_length=1, max_length=64)]
Text = Annotated[str, Meta(max_length=65535)]

EXTRA_KEYS_MAX = 64
NESTING_MAX = 16
LIST_ITEMS_MAX = 10_000
NOT_EXTRA = {"id", "links", "password_expires_at", "original_password"}
PATH = "/identity/v3"


def hex_id(tx: Tx) -> str:
    """A new id in identity's form: 32 hex digits."""
    return tx.new_id().replace("-", "")


def stamp(seconds: float | None) -> str | None:
    """`2026-01-01T00:00:00.000000Z`."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def moment(text: str, field: str) -> float:
    """Seconds since the epoch of an ISO 8601 text (UTC unless it says otherwise). Raises Problem 400."""
    try:
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise Problem(400, f"Invalid input for field {field}: {text!r} is not an ISO 8601 time.") from error


async def incoming(call: Call, noun: str, shape: type[S]) -> tuple[S, dict[str, Any]]:
    """The checked body and what it held besides. Raises Problem 400 that names the field."""
    body = await call.json()
    if not isinstance(body, dict) or noun not in body:
        raise Problem(400, f"Expecting to find {noun} in the request body.")
    inner = body[noun]
    if not isinstance(inner, dict):
        raise Problem(400, f"Invalid input for field {noun}: expected an object.")
    if deeper_than(inner, NESTING_MAX):
        raise Problem(400, f"Invalid input for field {noun}: nested more than {NESTING_MAX} deep.")
    checked = call.convert(inner, shape)
    known = set(shape.__struct_fields__) | NOT_EXTRA
    extra = {key: value for key, value in inner.items() if key not in known}
    if len(extra) > EXTRA_KEYS_MAX:
        raise Problem(400, f"Invalid input for field {noun}: more than {EXTRA_KEYS_MAX} additional properties.")
    return checked, extra


def deeper_than(value: Any, levels: int) -> bool:
    """Whether lists and objects lie more than `levels` deep in one another; what is kept must be readable again."""
    if not isinstance(value, (dict, list)):
        return False
    if levels == 0:
        return True
    return any(deeper_than(item, levels - 1) for item in (value.values() if isinstance(value, dict) else value))


def given(value: T | UnsetType, default: T) -> T:
    """The value, or `default` when the client did not send the field."""
    return default if value is UNSET else value


def changes_of(body: msgspec.Struct) -> dict[str, Any]:
    """The fields the client sent."""
    return {name: getattr(body, name) for name in body.__struct_fields__ if getattr(body, name) is not UNSET}


def link(call: Call, *parts: str) -> str:
    return "/".join((call.base_url() + PATH, *parts))


def links(call: Call, *parts: str) -> dict[str, str]:
    return {"self": link(call, *parts)}


async def write(call: Call, conflict: str, closure: Callable[[Tx], T]) -> T:
    """Run a change of identity; cached token answers are void afterwards. A name clash is Problem 409 `conflict`."""

    def inside(tx: Tx) -> T:
        result = closure(tx)
        touch(tx)
        return result

    try:
        return await call.cloud.db.run(inside)
    except Exists as error:
        raise Problem(409, conflict) from error


def as_bool(text: str) -> bool:
    """A flag in a query: everything but 0, false, no and off is true, the bare name too."""
    return text.strip().lower() not in {"0", "false", "no", "off"}


def flag(call: Call, name: str) -> bool:
    value = call.arg(name)
    return value is not None and as_bool(value)


def filters(call: Call, *names: str) -> dict[str, Any]:
    """The equality filters among `names` that the query holds, as conditions of a find."""
    return {name: call.arg(name) for name in names if call.arg(name) is not None}


COMPARE: dict[str, Callable[[str, str], bool]] = {
    "equals": lambda have, want: have == want,
    "contains": lambda have, want: want in have,
    "startswith": lambda have, want: have.startswith(want),
    "endswith": lambda have, want: have.endswith(want),
}


def _passes(item: dict[str, Any], name: str, comparison: str, want: str) -> bool:
    have = item.get(name)
    if isinstance(have, bool):
        return have is as_bool(want)
    if have is None:
        return False
    text = str(have)
    if comparison.startswith("i"):
        return COMPARE[comparison[1:] if comparison != "iexact" else "equals"](text.lower(), want.lower())
    return COMPARE[comparison](text, want)


def filtered(call: Call, items: Sequence[dict[str, Any]], attributes: Sequence[str]) -> list[dict[str, Any]]:
    """The items that meet every filter of the query on one of `attributes`."""
    found = list(items)
    for key, want in call.query:
        name, _, comparison = key.partition("__")
        comparison = comparison or "equals"
        if name not in attributes:
            continue
        if comparison not in COMPARE and comparison.removeprefix("i") not in {*COMPARE, "exact"}:
            continue
        found = [item for item in found if _passes(item, name, comparison, want)]
    return found


def listing(
    call: Call, noun: str, items: Sequence[dict[str, Any]], attributes: Sequence[str] = (), **more: Any
) -> Response:
    """`{noun: [...], links: {...}}`, filtered and cut to the page asked for."""
    found = filtered(call, items, attributes)
    marker, size = call.arg("marker"), _limit(call)
    if marker is not None:
        places = [index for index, item in enumerate(found) if item.get("id") == marker]
        if not places:
            raise Problem(400, f"Invalid input for field marker: {marker!r} is not in this list.")
        found = found[places[0] + 1:]
    following = None
    if len(found) > size:
        found = found[:size]
        rest = [(key, value) for key, value in call.query if key not in {"marker", "limit"}]
        following = f"{call.base_url()}{call.path}?{urlencode([*rest, ('limit', size), ('marker', found[-1]['id'])])}"
    query = urlencode(call.query)
    here = f"{call.base_url()}{call.path}" + (f"?{query}" if query else "")
    return reply(200, {noun: found, "links": {"next": following, "self": here, "previous": None}, **more})


def _limit(call: Call) -> int:
    text = call.arg("limit")
    if text is None:
        return LIST_ITEMS_MAX
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise Problem(400, f"Invalid input for field limit: {text!r} is not a whole number of 0 or more.")
    return min(int(text), LIST_ITEMS_MAX) or LIST_ITEMS_MAX


def merged_options(
    noun: str, old: dict[str, Any], new: dict[str, Any], known: dict[str, type], refused: Sequence[str] = ()
) -> dict[str, Any]:
    """Resource options after an update: None removes one. Raises Problem 400 for an unknown or mistyped option."""
    merged = dict(old)
    for name, value in new.items():
        if name not in known:
            raise Problem(400, f"Invalid input for field {noun}.options: {name!r} is not an option; "
                               f"there are {', '.join(sorted(known))}.")
        if value is None:
            merged.pop(name, None)
        elif type(value) is not known[name]:
            raise Problem(400, f"Invalid input for field {noun}.options.{name}: expected {known[name].__name__}.")
        elif name in refused and value:
            raise Problem(400, f"Invalid input for field {noun}.options.{name}: not offered by this cloud.")
        else:
            merged[name] = value
    return merged


def check_mutable(noun: str, options: dict[str, Any], change: dict[str, Any] | None) -> None:
    """An immutable thing takes only the change that unlocks it; `change` None is its deletion. Raises Problem 403."""
    if not options.get("immutable"):
        return
    if change is None or set(change) != {"options"} or change["options"].get("immutable", True):
        raise Problem(403, f"This {noun} is immutable: set its option immutable to false first.")
