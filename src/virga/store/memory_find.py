"""Finding kept rows in the memory engine: by key, by the shortest lookup, or by looking at all, always in the order of their serials.

Rules: None is "is empty", a list is "one of", an `Op` is its sign, as in `Tx.find`. A partial lookup is taken only when the conditions say that every
row wanted is in it. What is given back are the kept rows themselves: whoever hands them on copies them first.
"""
from __future__ import annotations

from typing import Any

from virga.store.memory_order import Test, condition
from virga.store.memory_tables import Plan, Shape, Table
from virga.store.rows import Op

_MANY = frozenset((list, tuple, set, frozenset))


def select(table: Table, conditions: dict[str, Any]) -> list[Any]:
    """The kept rows that meet the conditions, in the order of their serials."""
    plan, rows = table.plan, table.rows
    values = tuple(conditions.values())
    shape = plan.shapes[*conditions, *map(type, values)]
    if shape is not None:
        return _by_shape(table, shape, values)
    led = ""  # the column by which the rows were found: it need not be compared again
    tests: list[tuple[str, Test]] = []
    equals: list[tuple[str, Any]] = []
    keys: Any = None
    wide: Any = None
    for name, value in conditions.items():
        column = plan.columns.get(name) or plan.column(name)
        kind = type(value)
        if kind in _MANY or kind is Op:
            tests.append((name, condition(column, value)))
            if kind is not Op and wide is None and (name in plan.ways or (plan.single and name == plan.key[0])):
                wide = (name, value)
            continue
        if kind is not column.kind and value is not None:
            value = column.raw(value)
        equals.append((name, value))
        for place in plan.ways.get(name, ()):
            only = plan.lookups[place].only
            if only is None or _within(only, conditions):
                bucket = table.lookups[place].get(value)
                if bucket is None:
                    return []
                if keys is None or len(bucket) < len(keys):
                    keys, led = bucket, name
        if plan.single and name == plan.key[0]:
            keys, led = (value,) if value in rows else (), name
    if keys is None and wide is not None:
        keys = _many_keys(plan, table, *wide)
    if keys is None:
        found = list(rows.values()) if not table.disordered else [rows[key] for key in sorted(rows, key=table.serials.__getitem__)]
    else:
        found = [rows[key] for key in (sorted(keys, key=table.serials.__getitem__) if len(keys) > 1 else keys)]
    for name, wanted in equals:
        if name != led:
            found = [row for row in found if getattr(row, name) == wanted]
    for name, test in tests:
        found = [row for row in found if test(getattr(row, name))]
    return found


def _by_shape(table: Table, shape: Shape, values: tuple[Any, ...]) -> list[Any]:
    """The usual find: every condition is plain equality."""
    rows, read = table.rows, shape.read
    wanted = values if len(values) > 1 else values[0]
    if shape.key is not None:
        row = rows.get(values[shape.key])
        return [row] if row is not None and read(row) == wanted else []
    keys: Any = None
    for way in shape.ways:
        if way.only is None or way.only.holds(values[way.guard]):
            bucket = table.lookups[way.place].get(values[way.value])
            if bucket is None:
                return []
            if keys is None or len(bucket) < len(keys):
                keys = bucket
    if keys is None:
        keys = rows if not table.disordered else sorted(rows, key=table.serials.__getitem__)
    elif len(keys) > 1:
        keys = sorted(keys, key=table.serials.__getitem__)
    return [row for row in map(rows.__getitem__, keys) if read(row) == wanted]


def _within(only: Any, conditions: dict[str, Any]) -> bool:
    """Whether the conditions say that a row is in a partial index."""
    value = conditions.get(only.column)
    if value is None or isinstance(value, Op):
        return False
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(only.holds(item) for item in value)
    return bool(only.holds(value))


def _many_keys(plan: Plan, table: Table, name: str, values: Any) -> Any:
    """Keys of the rows whose column has one of several values, or None when no lookup leads there."""
    column = plan.columns[name]
    wanted = [value if type(value) is column.kind else column.raw(value) for value in values if value is not None]
    if plan.single and name == plan.key[0]:
        return {value: None for value in wanted if value in table.rows}
    for place in plan.ways.get(name, ()):
        only = plan.lookups[place].only
        if only is None or (only.column == name and all(only.holds(value) for value in wanted)):
            way = table.lookups[place]
            return {key: None for value in wanted for key in way.get(value, ())}
    return None
