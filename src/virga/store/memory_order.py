"""Comparing and sorting kept values as SQLite does: the conditions of a find that are more than equality, its order, and its marker.

Rules: numbers come before text, text before bytes; nothing compares with an empty value; an empty value sorts as ''; LIKE minds no case in ASCII.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from virga.domain.row import Row
from virga.store.memory_tables import Column, Plan
from virga.store.rows import SIGNS, Op

Test = Callable[[Any], bool]


def _rank(value: Any) -> tuple[int, Any]:
    """Numbers come before text, text before bytes."""
    return (0, value) if isinstance(value, (int, float)) else (1, value) if isinstance(value, str) else (2, value)


def sort_key(column: Column) -> Callable[[Any], Any]:
    """The sort key of a column: an empty value sorts as ''."""
    name = column.name
    if not column.nullable:
        return lambda row: _rank(getattr(row, name))

    def key(row: Any) -> tuple[int, Any]:
        value = getattr(row, name)
        return _rank("" if value is None else value)

    return key


@cache
def order_of(plan: Plan, sort: tuple[tuple[str, bool], ...]) -> tuple[tuple[Callable[[Any], Any], bool], ...]:
    """Sort key and direction of each column of an order. Raises AttributeError for a column the table does not have."""
    return tuple((sort_key(plan.column(name)), descending) for name, descending in sort)


def behind_marker(plan: Plan, sort: Sequence[tuple[str, bool]], marker: Row) -> Test:
    """Whether a kept row comes behind the marker in this order."""
    steps: list[tuple[Callable[[Any], Any], Any, bool]] = []
    for name, descending in sort:
        column = plan.column(name)
        value = getattr(marker, name)
        value = "" if value is None else value if type(value) is column.kind else column.raw(value)
        steps.append((sort_key(column), _rank(value), descending))

    def behind(row: Any) -> bool:
        for key, there, descending in steps:
            here = key(row)
            if here != there:
                return bool(here < there if descending else here > there)
        return False

    return behind


def _like(pattern: Any) -> Test:
    parts = [".*" if char == "%" else "." if char == "_" else re.escape(char) for char in _as_text(pattern)]
    match = re.compile("".join(parts), re.IGNORECASE | re.DOTALL | re.ASCII).fullmatch
    return lambda value: value is not None and match(_as_text(value)) is not None


def _as_text(value: Any) -> str:
    return str(int(value)) if isinstance(value, int) else str(value)


def condition(column: Column, value: Any) -> Test:
    """A condition that is more than equality."""
    if not isinstance(value, Op):
        wanted = [column.raw(item) for item in value if item is not None]
        return lambda found: found in wanted and found is not None
    if value.sign not in SIGNS:
        raise ValueError(f"unknown comparison {value.sign!r}")
    if value.value is None:
        return (lambda found: found is not None) if value.sign == "!=" else (lambda found: False)
    if value.sign == "like":
        return _like(value.value)
    compare = _SIGNS[value.sign]
    there = _rank(column.raw(value.value))
    return lambda found: found is not None and compare(_rank(found), there)


_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda here, there: bool(here < there), "<=": lambda here, there: bool(here <= there), ">": lambda here, there: bool(here > there),
    ">=": lambda here, there: bool(here >= there), "!=": lambda here, there: bool(here != there),
}
