"""Tables made of Python objects: what the memory engine keeps, without any notion of a transaction.

Owns: `Plan` (how rows of one type are kept, found and kept apart), `Table` (the rows of one) and `Tables` (all of them, and the counters).
Rules: a kept row is never changed, only replaced; its JSON columns hold JSON text, as SQLite's do, so that nobody who was handed a row can reach into
the kept one, and comparing and sorting are SQLite's. Values take the type their column declares. A snapshot is the tables themselves, marked as
frozen: whoever writes next copies the one table it writes (`Tables.own`), so a fork costs nothing until then.
Rows have serial numbers, as SQLite's rows have, and a find without an order gives them by it.
"""
from __future__ import annotations

import functools
import operator
import types
import typing
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import msgspec

from virga.domain.row import Row
from virga.store.catalog import Only, catalog
from virga.store.db import Exists
from virga.store.rows import table_of

K = TypeVar("K")
V = TypeVar("V")
copied: Callable[[Any], Any] = operator.methodcaller("__copy__")  # a Struct's own shallow copy, without copy.copy's detours


class Made(dict[K, V]):
    """A dictionary that makes what it lacks. Looking up what is there runs no line of Python: these stand in the way of every statement."""

    def __init__(self, make: Callable[[K], V], known: dict[K, V] | None = None) -> None:
        super().__init__(known or {})
        self._make = make

    def __missing__(self, key: K) -> V:
        made = self[key] = self._make(key)
        return made


class Column(msgspec.Struct, frozen=True):
    """One column: `kind` is the Python type a kept value usually has, `raw` brings any other value to what is kept."""

    name: str
    kind: type
    raw: Callable[[Any], Any]
    filled: bool
    nullable: bool


def _text(value: Any) -> Any:
    if isinstance(value, str):
        return str.__str__(value)
    return str(int(value)) if isinstance(value, int) else repr(value) if isinstance(value, float) else value


def _integer(value: Any) -> Any:
    if isinstance(value, (int, float)):
        return int(value) if value == int(value) else value
    try:
        return _integer(float(value)) if isinstance(value, str) else value
    except ValueError:
        return value


def _real(value: Any) -> Any:
    if isinstance(value, int):
        return float(value)
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _bool(value: Any) -> Any:
    number = int(value)
    return bool(number) if number in (0, 1) else number


_RAW: dict[str, tuple[type, Callable[[Any], Any]]] = {"TEXT": (str, _text), "INTEGER": (int, _integer), "REAL": (float, _real)}


class Lookup(msgspec.Struct, frozen=True):
    """A way to rows by the value of one column (the first of an index in the schema)."""

    column: str
    only: Only | None

    def reads(self) -> set[str]:
        """The columns it depends on."""
        return {self.column} | ({self.only.column} if self.only else set())


class Unique(msgspec.Struct, frozen=True):
    """Columns that no two rows may share, besides the key."""

    columns: tuple[str, ...]
    only: Only | None
    told: str
    read: Callable[[Any], Any]

    def reads(self) -> set[str]:
        """The columns it depends on."""
        return set(self.columns) | ({self.only.column} if self.only else set())

    def entry(self, row: Row) -> Any:
        """What must be unique; None when this row is none of the index's business."""
        if self.only is not None and not self.only.holds(getattr(row, self.only.column)):
            return None
        found = self.read(row)
        return None if len(self.columns) > 1 and None in found else found


class Moved(msgspec.Struct, frozen=True):
    """What a change of certain columns concerns: lookups and uniques by place, `involved` their columns (None: none), and whether the key is changed.

    `changed(kept, changes)` is the row as it is kept afterwards. Raises Exists naming a column that may not be empty.
    """

    lookups: tuple[int, ...]
    uniques: tuple[int, ...]
    involved: Callable[[Any], Any] | None
    key: bool
    changed: Callable[[Any, dict[str, Any]], Any]


class Way(msgspec.Struct, frozen=True):
    """A lookup a find may take: by the condition at `value`; a partial one only if the condition at `guard` says that the row is in it."""

    place: int
    value: int
    only: Only | None
    guard: int


class Shape(msgspec.Struct, frozen=True):
    """How to find by plain equality in certain columns: by the key (its place among the conditions), by the shortest of some ways, or by looking at all."""

    key: int | None
    ways: tuple[Way, ...]
    read: Callable[[Any], Any]


class Plan:
    """How rows of one type are kept."""

    def __init__(self, row_type: type[Row]) -> None:
        table = table_of(row_type)
        facts = catalog()[table.name]
        hints = typing.get_type_hints(row_type)
        self.type, self.name, self.table, self.key = row_type, table.name, table, table.key
        self.single = len(table.key) == 1
        self.by_number = facts.by_number
        self.columns: dict[str, Column] = {}
        self.decoders: list[tuple[str, Callable[[Any], Any]]] = []
        for name in table.fields:
            kind, raw = _RAW[facts.types[name]]
            write = table.writers.get(name)
            if _holds_bool(hints[name]):
                kind, raw = bool, _bool
            elif write is not None:
                kind, raw = _Never, write
                self.decoders.append((name, _decoder(hints[name])))
            self.columns[name] = Column(name, kind, raw, name in facts.filled, name in table.nullable)
        self.key_kinds = tuple([self.columns[name].kind for name in table.key])
        self.key_of: Callable[[Any], Any] = operator.attrgetter(*table.key)  # the key as tables hold it: a value, or a tuple of values
        self.kept = _make_kept(self)
        self.out = _make_out(self)
        self.told = f"UNIQUE constraint failed: {', '.join(f'{self.name}.{name}' for name in self.key)}"
        self.uniques = tuple(
            Unique(index.columns, index.only, f"UNIQUE constraint failed: {', '.join(f'{self.name}.{name}' for name in index.columns)}",
                   operator.attrgetter(*index.columns))
            for index in facts.indexes if index.unique and index.columns != facts.key)
        lookups = {Lookup(index.columns[0], index.only): None for index in facts.indexes if index.columns != facts.key or not self.single}
        self.lookups = tuple(sorted(lookups, key=lambda way: (way.only is None, way.column)))
        self.ways: dict[str, list[int]] = {}
        for place, way in enumerate(self.lookups):
            self.ways.setdefault(way.column, []).append(place)
        self.moved_by: Made[tuple[str, ...], Moved] = Made(self._make_moved)  # by the names of the columns that change
        self.moved_by_all = self.moved_by[tuple(name for name in self.columns if name not in self.key)]
        self.shapes: Made[tuple[Any, ...], Shape | None] = Made(self._make_shape)  # by the names of the conditions and the types of their values

    def _make_moved(self, names: tuple[str, ...]) -> Moved:
        """What a change of these columns concerns. Raises AttributeError for one the table does not have."""
        for name in names:
            self.column(name)
        lookups = tuple(place for place, way in enumerate(self.lookups) if way.reads() & set(names))
        uniques = tuple(place for place, unique in enumerate(self.uniques) if unique.reads() & set(names))
        involved = sorted({name for place in lookups for name in self.lookups[place].reads()}
                          | {name for place in uniques for name in self.uniques[place].reads()})
        return Moved(lookups, uniques, operator.attrgetter(*involved) if involved else None, bool(set(self.key) & set(names)),
                     _make_changed(self, names))

    def _make_shape(self, conditions: tuple[Any, ...]) -> Shape | None:
        """The Shape of a find whose conditions are all equality with values of their columns' own types; else None."""
        names, kinds = conditions[: len(conditions) // 2], conditions[len(conditions) // 2:]
        for name, kind in zip(names, kinds, strict=True):
            if kind is not self.column(name).kind and kind is not type(None):
                return None
        ways = [Way(place, names.index(way.column), way.only, names.index(way.only.column) if way.only else 0)
                for place, way in enumerate(self.lookups) if way.column in names and (way.only is None or way.only.column in names)]
        key = names.index(self.key[0]) if self.single and self.key[0] in names else None
        return Shape(key, tuple(ways), operator.attrgetter(*names)) if names else None

    def column(self, name: str) -> Column:
        """Raises AttributeError for a column the table does not have."""
        if name not in self.columns:
            raise AttributeError(f"{self.name} has no column {name}")
        return self.columns[name]

    def raw(self, column: Column, value: Any) -> Any:
        """A value as it is kept. Raises Exists, as the other engine does, for a column that may not be empty."""
        if value is None:
            if column.filled:
                raise Exists(f"NOT NULL constraint failed: {self.name}.{column.name}")
            return None
        return column.raw(value)

    def storing(self, column: Column, place: int, names: dict[str, Any]) -> str:
        """The line that turns `value` into what this column keeps; what the line refers to is added to `names`, under this place."""
        names[f"kind{place}"], names[f"raw{place}"] = column.kind, functools.partial(self.raw, column) if column.filled else column.raw
        as_it_is = f"type(value) is kind{place}" + ("" if column.filled else " or value is None")
        return f"value if {as_it_is} else raw{place}(value)"


# These copies are made for every row that is read or written: each plan's are written out field by field, which is several times as fast as a loop.
def _make_kept(plan: Plan) -> Callable[[Row], Any]:
    """`kept(row)`: the row as it is kept. Raises Exists naming a column that may not be empty."""
    lines = ["def made(row):", "    new = copied(row)"]
    names: dict[str, Any] = {"copied": copied}
    for place, (name, column) in enumerate(plan.columns.items()):
        lines += [f"    value = new.{name}", f"    new.{name} = {plan.storing(column, place, names)}"]
    return _compiled(plan, [*lines, "    return new"], names)


def _make_changed(plan: Plan, changing: tuple[str, ...]) -> Callable[[Any, dict[str, Any]], Any]:
    """`changed(kept, changes)`: the row with these columns changed, as it is kept."""
    lines = ["def made(kept, changes):", "    new = copied(kept)"]
    names: dict[str, Any] = {"copied": copied}
    for place, name in enumerate(changing):
        lines += [f"    value = changes['{name}']", f"    new.{name} = {plan.storing(plan.columns[name], place, names)}"]
    return _compiled(plan, [*lines, "    return new"], names)


def _make_out(plan: Plan) -> Callable[[Row], Any]:
    """`out(kept)`: a row to hand out; whoever gets it may do with it what they like."""
    lines = ["def made(kept):", "    new = copied(kept)"]
    names: dict[str, Any] = {"copied": copied}
    for place, (name, decode) in enumerate(plan.decoders):
        names[f"decode{place}"] = decode
        lines += [f"    text = new.{name}",
                  f"    if text is not None: new.{name} = {{}} if text == '{{}}' else [] if text == '[]' else decode{place}(text)"]
    return _compiled(plan, [*lines, "    return new"], names)


def _compiled(plan: Plan, lines: list[str], names: dict[str, Any]) -> Callable[..., Any]:
    exec(compile("\n".join(lines), f"<copies of {plan.name}>", "exec"), names)  # the names are those of a Struct's fields
    made: Callable[..., Any] = names["made"]
    return made


class _Never:
    """The kind of columns whose values are always converted."""


def _bare(annotation: Any) -> Any:
    rest = [item for item in typing.get_args(annotation) if item is not type(None)]
    return rest[0] if typing.get_origin(annotation) in (typing.Union, types.UnionType) and len(rest) == 1 else annotation


def _holds_bool(annotation: Any) -> bool:
    return _bare(annotation) is bool


def _decoder(annotation: Any) -> Callable[[Any], Any]:
    return msgspec.json.Decoder(_bare(annotation)).decode


@cache
def plan_of(row_type: type[Row]) -> Plan:
    """The Plan of a Row type, made once."""
    return Plan(row_type)


class Table:
    """The rows of one type, by key, with the ways to them."""

    __slots__ = ("disordered", "frozen", "lookups", "next_serial", "plan", "rows", "serials", "uniques")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rows: dict[Any, Row] = {}
        self.serials: dict[Any, int] = {}
        self.next_serial = 1
        self.lookups: list[dict[Any, dict[Any, None]]] = [{} for _ in plan.lookups]
        self.uniques: list[dict[Any, Any]] = [{} for _ in plan.uniques]
        self.disordered = plan.by_number  # whether going through `rows` is not the order of serials
        self.frozen = False

    def copy(self) -> Table:
        other = Table(self.plan)
        other.rows, other.serials, other.next_serial, other.disordered = self.rows.copy(), self.serials.copy(), self.next_serial, self.disordered
        other.lookups = [{value: bucket.copy() for value, bucket in way.items()} for way in self.lookups]
        other.uniques = [taken.copy() for taken in self.uniques]
        return other

    def clash(self, key: Any, new: Row, uniques: tuple[int, ...]) -> str:
        """What `new` under `key` would collide with; '' if nothing."""
        for place in uniques:
            entry = self.plan.uniques[place].entry(new)
            if entry is not None and self.uniques[place].get(entry, key) != key:
                return self.plan.uniques[place].told
        return ""

    def add(self, key: Any, new: Row, serial: int | None = None) -> None:
        """Put in a row whose key is free. `serial` brings back one that was there before."""
        self.rows[key] = new
        if serial is None:
            serial = key if self.plan.by_number else self.next_serial
            self.next_serial += 1
        else:
            self.disordered = True
        self.serials[key] = serial
        for place, way in enumerate(self.plan.lookups):
            if way.only is None or way.only.holds(getattr(new, way.only.column)):
                self.lookups[place].setdefault(getattr(new, way.column), {})[key] = None
        for place, unique in enumerate(self.plan.uniques):
            entry = unique.entry(new)
            if entry is not None:
                self.uniques[place][entry] = key

    def remove(self, key: Any) -> None:
        old = self.rows.pop(key)
        del self.serials[key]
        for place, way in enumerate(self.plan.lookups):
            self._leave(place, way, key, old)
        for place, unique in enumerate(self.plan.uniques):
            entry = unique.entry(old)
            if entry is not None:
                del self.uniques[place][entry]

    def change(self, key: Any, old: Row, new: Row, moved: Moved) -> None:
        """Put `new` in the place of `old`, which has the same key."""
        self.rows[key] = new
        for place in moved.lookups:
            way = self.plan.lookups[place]
            self._leave(place, way, key, old)
            if way.only is None or way.only.holds(getattr(new, way.only.column)):
                self.lookups[place].setdefault(getattr(new, way.column), {})[key] = None
        for place in moved.uniques:
            unique, taken = self.plan.uniques[place], self.uniques[place]
            before, after = unique.entry(old), unique.entry(new)
            if before is not None:
                del taken[before]
            if after is not None:
                taken[after] = key

    def _leave(self, place: int, way: Lookup, key: Any, old: Row) -> None:
        if way.only is None or way.only.holds(getattr(old, way.only.column)):
            value = getattr(old, way.column)
            bucket = self.lookups[place][value]
            del bucket[key]
            if not bucket:
                del self.lookups[place][value]


class Tables:
    """Everything a memory database holds. It outlives the engine that writes to it, as a disk does. `changes` counts rows ever written."""

    def __init__(self, frozen: dict[type[Row], Table] | None = None, counters: dict[str, int] | None = None) -> None:
        self.by_type: Made[type[Row], Table] = Made(lambda row_type: Table(plan_of(row_type)), frozen)  # to read from
        self.counters: dict[str, int] = dict(counters or {})
        self.changes = 0

    def own(self, row_type: type[Row]) -> Table:
        """The table to write to."""
        found = self.by_type[row_type]
        if found.frozen:
            found = self.by_type[row_type] = found.copy()
        return found

    def fork(self) -> Tables:
        """Another database with the same content. Both may be written to afterwards."""
        for table in self.by_type.values():
            table.frozen = True
        return Tables(self.by_type, self.counters)

    def row_types(self) -> list[type[Row]]:
        """The types of which there are rows."""
        return [row_type for row_type, table in self.by_type.items() if table.rows]
