"""Filtering, sorting, paging and choosing fields, the same for every list of the network API.

Works on the views (what the caller would see), so that every attribute can be filtered and none that is hidden can be
guessed by filtering. Repeated filters of one name mean "or", different names "and". `limit`, `marker` and
`page_reverse` page through the sorted list; links say where to go on.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from virga.domain.errors import Problem

View = dict[str, Any]
Query = list[tuple[str, str]]
PAGING = frozenset({"fields", "limit", "marker", "page_reverse", "sort_key", "sort_dir", "verbose"})
TAG_FILTERS = frozenset({"tags", "tags-any", "not-tags", "not-tags-any"})
TRUE, FALSE = ("true", "1", "yes", "on", "t"), ("false", "0", "no", "off", "f")
PAGE_MAX = 10_000


def filters_of(query: Query, known: frozenset[str]) -> dict[str, list[str]]:
    """name -> wished values. Raises Problem 400 for a name that cannot be filtered by (the filter-validation extension)."""
    wished: dict[str, list[str]] = {}
    unknown: list[str] = []
    for name, value in query:
        if name in PAGING:
            continue
        if name not in known:
            unknown.append(name)
        wished.setdefault(name, []).append(value)
    if unknown:
        raise Problem(400, f"{sorted(set(unknown))} is invalid attribute for filtering", "HTTPBadRequest")
    return wished


def _scalar(have: Any, wanted: str) -> bool:
    if isinstance(have, bool):
        return wanted.lower() in (TRUE if have else FALSE)
    if have is None:
        return wanted in ("", "None", "null")
    return str(have) == wanted


def _pairs(have: Sequence[Any], wanted: Sequence[str]) -> bool:
    """fixed_ips=ip_address=10.0.0.1: an item that has the value of every key named; values of one key are alternatives."""
    by_key: dict[str, list[str]] = {}
    for item in wanted:
        key, _, value = item.partition("=")
        by_key.setdefault(key, []).append(value)

    def fits(item: Any, key: str, values: list[str]) -> bool:
        if key.endswith("_substr"):
            return any(value in str(item.get(key.removesuffix("_substr"), "")) for value in values)
        return str(item.get(key)) in values

    return any(isinstance(item, dict) and all(fits(item, key, values) for key, values in by_key.items()) for item in have)


def meets(view: View, name: str, wanted: Sequence[str]) -> bool:
    """Whether a view passes the filter `name`."""
    if name in TAG_FILTERS:
        have = set(view.get("tags", ()))
        asked = {tag for item in wanted for tag in item.split(",")}
        return {"tags": asked <= have, "tags-any": bool(asked & have), "not-tags": not asked <= have,
                "not-tags-any": not asked & have}[name]
    if name == "changed_since":
        return str(view.get("updated_at", "")) >= max(wanted)
    if name not in view:
        return False
    value = view[name]
    if isinstance(value, list):
        if any("=" in item for item in wanted):
            return _pairs(value, wanted)
        return any(item in value for item in wanted)
    return any(_scalar(value, item) for item in wanted)


def _key(name: str) -> Callable[[View], tuple[int, Any]]:
    def key(view: View) -> tuple[int, Any]:
        value = view.get(name)
        if value is None:
            return (0, "")
        if isinstance(value, (bool, int, float)):
            return (1, value)
        return (2, value if isinstance(value, str) else str(value))

    return key


def sort(views: list[View], query: Query, sortable: Callable[[str], bool]) -> list[View]:
    """In the order asked for; ties and no wish at all keep the order of creation. Raises Problem 400."""
    keys = [value for name, value in query if name == "sort_key"]
    directions = [value for name, value in query if name == "sort_dir"]
    if directions and len(directions) != len(keys):
        raise Problem(400, "The number of sort_keys and sort_dirs must be same", "HTTPBadRequest")
    for name in keys:
        if not sortable(name):
            raise Problem(400, f"['{name}'] is invalid attribute for sort_keys", "HTTPBadRequest")
    for direction in directions:
        if direction not in ("asc", "desc"):
            raise Problem(400, f"['{direction}'] is invalid value for sort_dirs, valid value is 'asc' and 'desc'", "HTTPBadRequest")
    ordered = list(views)
    for index in range(len(keys) - 1, -1, -1):
        down = index < len(directions) and directions[index] == "desc"
        ordered.sort(key=_key(keys[index]), reverse=down)
    return ordered


def last(query: Query, name: str) -> str | None:
    found = [value for key, value in query if key == name]
    return found[-1] if found else None


def page(views: list[View], query: Query, many: str, url: str, key: str = "id") -> View:
    """The page asked for, with links where a limit was given. Raises Problem 400 for a bad limit, 404 for a marker that is not there."""
    given = last(query, "limit")
    limit = 0
    if given is not None:
        if not given.lstrip("-").isdigit() or len(given) > 12 or int(given) < 0:
            raise Problem(400, f"Bad limit parameter: limit '{given[:40]}' must be an integer and not less than 0", "HTTPBadRequest")
        limit = min(int(given), PAGE_MAX)
    marker = last(query, "marker")
    backwards = (last(query, "page_reverse") or "").lower() in TRUE
    if marker is not None:
        places = [index for index, view in enumerate(views) if str(view.get(key)) == marker]
        if not places:
            raise Problem(404, f"The marker {marker[:80]} could not be found.", "MarkerNotFound")
        views = views[: places[0]] if backwards else views[places[0] + 1:]
    more = bool(limit) and len(views) > limit
    if limit:
        views = views[-limit:] if backwards else views[:limit]
    result: View = {many: views}
    if limit and views:
        links = []
        rest = [(name, value) for name, value in query if name not in ("marker", "page_reverse")]
        if more if not backwards else marker is not None:
            links.append({"rel": "next", "href": f"{url}?{urlencode([*rest, ('marker', views[-1][key])])}"})
        if marker is not None and (more or not backwards):
            links.append({"rel": "previous",
                          "href": f"{url}?{urlencode([*rest, ('marker', views[0][key]), ('page_reverse', 'True')])}"})
        if links:
            result[f"{many}_links"] = links
    return result


def choose(view: View, query: Query) -> View:
    """Only the fields asked for."""
    wanted = [value for name, value in query if name == "fields" and value]
    return view if not wanted else {name: view[name] for name in wanted if name in view}
