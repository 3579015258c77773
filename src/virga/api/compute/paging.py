"""Pages of the smaller lists: reading limit and marker, refusing unknown parameters, the links of a page.

Rules: a limit is a whole number from 0 to 1000 (0 and none mean 1000); a marker that names nothing in the list is 400;
since microversion 2.75 a query parameter nobody knows is 400, before it is passed over. A page that was cut short by
its limit carries a `next` link with every parameter of the request.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import urlencode

from virga.api.compute.inputs import integer
from virga.api.http import Call
from virga.domain.errors import Problem

T = TypeVar("T")
LIMIT_MAX = 1000
STRICT_SINCE = (2, 75)
PAGED = ("limit", "marker")


def known_args(call: Call, names: Iterable[str], since: tuple[int, int] = STRICT_SINCE) -> None:
    """Raises Problem 400 for a query parameter that is not one of `names`."""
    if call.version < since:
        return
    allowed = set(names)
    for name, _ in call.query:
        if name not in allowed:
            told = ", ".join(sorted(allowed)) or "none"
            raise Problem(400, f"Invalid query parameter '{name}': this call knows {told}.")


def limit_of(call: Call) -> int:
    value = call.arg("limit")
    limit: int = integer(0)(value, "limit") if value is not None else 0
    return min(limit or LIMIT_MAX, LIMIT_MAX)


def page_of(call: Call, rows: list[T], key: Callable[[T], str]) -> tuple[list[T], bool]:
    """The rows behind the marker, at most `limit`, and whether there are more."""
    limit, marker = limit_of(call), call.arg("marker")
    if marker is not None:
        place = next((index for index, row in enumerate(rows) if key(row) == marker), None)
        if place is None:
            raise Problem(400, f"Invalid marker: nothing in this list is called '{marker}'.")
        rows = rows[place + 1:]
    return rows[:limit], len(rows) > limit


def with_links(call: Call, name: str, page: list[Any], more: bool, last: str) -> dict[str, Any]:
    """`{name: page}` and, where more follow, `{name}_links` with the next page's address."""
    if not more:
        return {name: page}
    query = urlencode([*((key, value) for key, value in call.query if key != "marker"), ("marker", last)])
    return {name: page, f"{name}_links": [{"rel": "next", "href": f"{call.base_url()}{call.path}?{query}"}]}


def self_links(call: Call, path: str) -> list[dict[str, str]]:
    """The two links every resource carries."""
    base = f"{call.base_url()}/compute"
    return [{"rel": "self", "href": f"{base}/v2.1/{path}"}, {"rel": "bookmark", "href": f"{base}/{path}"}]
