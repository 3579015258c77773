"""The image list: which images a caller sees, filters, sorting, paging.

Rules (API reference, "List images"): without `visibility` a caller sees its own images, public ones, and shared
ones it has accepted; `visibility=all` adds the community ones; an administrator sees everything but other projects'
community images. Hidden images show only with `os_hidden=true`. Newest first unless sorted; 25 a page unless asked,
never more than 1000. A query that cannot be understood is 400 and names the parameter. The store gives the images
by visibility, owner, status and name; the finer filters (free-form properties, tags, `in:` lists, time comparisons)
are plain tests on rows here.
"""
from __future__ import annotations

import csv
from collections.abc import Callable
from datetime import UTC, datetime
from operator import eq, ge, gt, le, lt, ne
from typing import Any
from urllib.parse import urlencode

import msgspec

from virga.domain.errors import Problem
from virga.domain.image import MEMBER_STATES, VISIBILITIES, Image, ImageMember, Seen
from virga.store.db import Tx

LIMIT_DEFAULT, LIMIT_MAX = 25, 1000
SORTABLE = (
    "name", "status", "container_format", "disk_format", "size", "id", "created_at", "updated_at", "virtual_size",
    "min_disk", "min_ram", "owner", "visibility", "protected", "os_hidden", "checksum")
IN_LISTS = ("container_format", "disk_format", "id", "name", "status")
SIGNS: dict[str, Callable[[Any, Any], bool]] = {"gt": gt, "gte": ge, "eq": eq, "neq": ne, "lt": lt, "lte": le}
Test = Callable[[Image], bool]


class ListRequest(msgspec.Struct):
    """A list query, read and checked."""

    tests: list[Test]
    sort: list[tuple[str, bool]]
    limit: int
    marker: str | None
    visibility: str | None
    member_status: str
    hidden: bool
    columns: dict[str, Any]


def read_query(query: list[tuple[str, str]]) -> ListRequest:
    """Raises Problem 400 that names the parameter."""
    request = ListRequest([], [], LIMIT_DEFAULT, None, None, "accepted", False, {})
    keys: list[str] = []
    directions: list[str] = []
    for name, value in query:
        if name == "limit":
            request.limit = min(_number(name, value), LIMIT_MAX)
        elif name == "marker":
            request.marker = value
        elif name == "visibility":
            if value not in (*VISIBILITIES, "all"):
                raise Problem(400, f"Invalid visibility value: {value}; it is one of {', '.join(VISIBILITIES)} or all.")
            request.visibility = value
        elif name == "member_status":
            if value not in (*MEMBER_STATES, "all"):
                raise Problem(400, f"Invalid member_status: {value}; it is one of {', '.join(MEMBER_STATES)} or all.")
            request.member_status = value
        elif name == "os_hidden":
            request.hidden = _truth(name, value)
        elif name == "sort":
            if keys:
                raise Problem(400, "Give either sort, or sort_key with sort_dir, not both.")
            request.sort = [_sort(part) for part in value.split(",")]
        elif name == "sort_key":
            keys.append(_sort_name(value.strip()))
        elif name == "sort_dir":
            directions.append(_direction(value.strip()))
        else:
            _filter(request, name, value)
    if keys or directions:
        if request.sort:
            raise Problem(400, "Give either sort, or sort_key with sort_dir, not both.")
        request.sort = _pairs(keys or ["created_at"], directions)
    _complete(request)
    return request


def _pairs(keys: list[str], directions: list[str]) -> list[tuple[str, bool]]:
    if len(directions) > 1 and len(directions) != len(keys):
        raise Problem(400, f"{len(keys)} sort_key and {len(directions)} sort_dir: give one sort_dir, or one a key.")
    if len(directions) <= 1:
        directions = (directions or ["desc"]) * len(keys)
    return [(key, direction == "desc") for key, direction in zip(keys, directions, strict=True)]


def _complete(request: ListRequest) -> None:
    """Make the order total, so that a marker always means one place."""
    request.sort = request.sort or [("created_at", True)]
    last = request.sort[-1][1]
    names = [name for name, _ in request.sort]
    for extra in ("created_at", "id"):
        if extra not in names:
            request.sort.append((extra, last))


def _number(name: str, value: str) -> int:
    if not value.isdecimal():
        raise Problem(400, f"Invalid value for {name}: '{value}' is not a whole number that is not negative.")
    return int(value)


def _truth(name: str, value: str) -> bool:
    if value.lower() in ("true", "1", "yes"):
        return True
    if value.lower() in ("false", "0", "no"):
        return False
    raise Problem(400, f"Invalid value for {name}: '{value}' is neither true nor false.")


def _sort_name(name: str) -> str:
    if name not in SORTABLE:
        raise Problem(400, f"Invalid sort key: '{name}'; it is one of {', '.join(SORTABLE)}.")
    return name


def _direction(value: str) -> str:
    if value not in ("asc", "desc"):
        raise Problem(400, f"Invalid sort direction: '{value}'; it is asc or desc.")
    return value


def _sort(part: str) -> tuple[str, bool]:
    name, _, direction = part.strip().partition(":")
    return _sort_name(name.strip()), _direction(direction.strip() or "desc") == "desc"


def _filter(request: ListRequest, name: str, value: str) -> None:
    """One filter parameter: a column for the store where it is plain equality, else a test."""
    if name in ("size_min", "size_max"):
        bound, compare = _number(name, value), ge if name == "size_min" else le
        request.tests.append(lambda image: image.size is not None and compare(image.size, bound))
    elif name in ("created_at", "updated_at"):
        request.tests.append(_time_test(name, value))
    elif name in IN_LISTS and value.startswith("in:"):
        wanted = set(_in_list(name, value[3:]))
        request.tests.append(lambda image: getattr(image, name) in wanted)
    elif name in ("status", "owner", "name", "container_format", "disk_format", "id", "checksum", "os_hash_value"):
        request.columns[name] = value
    elif name in ("min_disk", "min_ram", "size", "virtual_size"):
        request.columns[name] = _number(name, value)
    elif name == "protected":
        request.columns[name] = _truth(name, value)
    elif name == "tag":
        request.tests.append(lambda image: value in image.tags)
    else:
        request.tests.append(lambda image: image.properties.get(name) == value)


def _in_list(name: str, text: str) -> list[str]:
    """`a,b,"c,d"` as a list; quoted names may hold commas."""
    if text.count('"') % 2:
        raise Problem(400, f"Invalid value for {name}: a quotation mark is not closed.")
    items = next(csv.reader([text], skipinitialspace=True), [])
    if not items or not all(items):
        raise Problem(400, f"Invalid value for {name}: 'in:' needs a list of values separated by commas.")
    return items


def _time_test(name: str, value: str) -> Test:
    sign, _, rest = value.partition(":")
    if sign in SIGNS:
        compare, text = SIGNS[sign], rest
    elif sign.isalpha():
        raise Problem(400, f"Invalid value for {name}: '{sign}' is no comparison; use one of {', '.join(SIGNS)}.")
    else:
        compare, text = eq, value
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Problem(400, f"Invalid value for {name}: '{text}' is not an ISO 8601 time.") from None
    seconds = int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp())
    return lambda image: compare(int(getattr(image, name)), seconds)


def find_images(tx: Tx, seen: Seen, request: ListRequest) -> tuple[list[Image], bool]:
    """One page of the images that meet the request, and whether more follow. Raises Problem 400 for a bad marker."""
    shared = {member.image_id: member.status for member in tx.find(ImageMember, member_id=seen.project_id)} \
        if seen.project_id else {}
    columns = dict(request.columns, os_hidden=request.hidden)
    if request.visibility not in (None, "all"):
        columns["visibility"] = request.visibility
    images = [
        image for image in _candidates(tx, seen, columns, shared)
        if _shown(image, seen, request, shared) and all(test(image) for test in request.tests)]
    for name, descending in reversed(request.sort):
        images.sort(key=lambda image: _sort_value(getattr(image, name)), reverse=descending)
    if request.marker is not None:
        place = next((index for index, image in enumerate(images) if image.id == request.marker), None)
        if place is None:
            raise Problem(400, f"Invalid marker: no image in this list has the id {request.marker}.")
        images = images[place + 1:]
    return images[:request.limit], len(images) > request.limit


def _candidates(tx: Tx, seen: Seen, columns: dict[str, Any], shared: dict[str, str]) -> list[Image]:
    """Rows the caller might see, each once: an administrator all; others by owner, by being open, by sharing."""
    if seen.is_admin:
        return tx.find(Image, **columns)
    found: dict[str, Image] = {}
    if "visibility" not in columns:
        parts: list[dict[str, Any]] = [{"visibility": ["public", "community"]}]
    else:
        parts = [{}] if columns["visibility"] in ("public", "community") else []
    if seen.project_id and columns.get("owner", seen.project_id) == seen.project_id:
        parts.append({"owner": seen.project_id})
    for part in parts:
        found.update((image.id, image) for image in tx.find(Image, **{**columns, **part}))
    if shared and columns.get("visibility", "shared") == "shared" and columns.get("id", "") in ("", *shared):
        ids = list(shared) if "id" not in columns else [columns["id"]]
        offered = tx.find(Image, **{**columns, "visibility": "shared", "id": ids})
        found.update((image.id, image) for image in offered)
    return list(found.values())


def _shown(image: Image, seen: Seen, request: ListRequest, shared: dict[str, str]) -> bool:
    if image.owner == seen.project_id:
        return True
    if image.visibility == "public":
        return True
    if image.visibility == "community":
        return request.visibility in ("community", "all")
    if seen.is_admin and not (request.visibility == "shared" and image.id in shared):
        return True
    status = shared.get(image.id)
    return image.visibility == "shared" and status is not None and request.member_status in (status, "all")


def _sort_value(value: Any) -> tuple[bool, Any]:
    """Missing values come first when ascending, as in the store."""
    return (value is not None, value if value is not None else 0)


def links(query: list[tuple[str, str]], page: list[Image], more: bool) -> dict[str, str]:
    """`first` and, where more images follow, `next`: paths relative to the endpoint's root."""
    kept = [(name, value) for name, value in query if name != "marker"]
    first = "/v2/images" + (f"?{urlencode(kept)}" if kept else "")
    if not more or not page:
        return {"first": first}
    return {"first": first, "next": f"/v2/images?{urlencode([*kept, ('marker', page[-1].id)])}"}
