"""Rows: msgspec Structs in, SQL out, and back. The only writer of SQL text besides schema/*.sql.

Owns: the mapping of a Struct to its table (`__table__`, one column a field, in any order) and the statements made from it.
Rules: scalars are columns as they are; bool is 0/1; lists, dicts and Structs are JSON text. Primary key is `id` unless the Struct names others in
`__key__`. Statements are built once per shape and cached, so that SQLite's own statement cache hits.
Why not an ORM: measured 4 to 50 times slower, and lazy loading hides I/O; the few joins that matter are written by hand beside this file.
"""
from __future__ import annotations

import types
import typing
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import msgspec

from virga.domain.row import Row

R = TypeVar("R", bound=Row)


class Op(msgspec.Struct, frozen=True):
    """A comparison other than equality: `find(Server, created_at=Op('>', t))`. Signs: < <= > >= != like."""

    sign: str
    value: Any


SIGNS = {"<", "<=", ">", ">=", "!=", "like"}
_encode = msgspec.json.Encoder().encode


def _to_json(value: Any) -> str | None:
    return None if value is None else _encode(value).decode()


def _to_int(value: Any) -> int | None:
    return None if value is None else int(value)


def _from_bool(value: Any) -> bool | None:
    return None if value is None else bool(value)


def _json_reader(annotation: Any) -> Callable[[Any], Any]:
    decode = msgspec.json.Decoder(annotation).decode

    def read(value: Any) -> Any:
        return None if value is None else decode(value)

    return read


def _bare(annotation: Any) -> Any:
    """The annotation without its `| None`."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        rest = [item for item in typing.get_args(annotation) if item is not type(None)]
        if len(rest) == 1:
            return rest[0]
    return annotation


class Table:
    """The cached SQL and converters of one Row type."""

    def __init__(self, row_type: type[Row]) -> None:
        self.type = row_type
        self.name = row_type.__table__
        self.key = row_type.__key__
        hints = typing.get_type_hints(row_type)
        self.fields = tuple(field.name for field in msgspec.structs.fields(row_type))
        self.nullable = frozenset(name for name in self.fields if type(None) in typing.get_args(hints[name]))
        self.readers: list[tuple[int, Callable[[Any], Any]]] = []
        self.writers: dict[str, Callable[[Any], Any]] = {}
        for index, name in enumerate(self.fields):
            bare = _bare(hints[name])
            if bare is bool:
                self.readers.append((index, _from_bool))
                self.writers[name] = _to_int
            elif bare not in (str, int, float, bytes) and typing.get_origin(bare) is not typing.Literal:
                self.readers.append((index, _json_reader(bare)))
                self.writers[name] = _to_json
        columns = ", ".join(f'"{name}"' for name in self.fields)
        self.select = f'SELECT {columns} FROM "{self.name}"'
        marks = ", ".join("?" * len(self.fields))
        self.insert = f'INSERT INTO "{self.name}" ({columns}) VALUES ({marks})'
        by_key = " AND ".join(f'"{name}" = ?' for name in self.key)
        self.get = f"{self.select} WHERE {by_key}"
        self.by_key = by_key
        rest = ", ".join(f'"{name}" = excluded."{name}"' for name in self.fields if name not in self.key)
        keys = ", ".join(f'"{name}"' for name in self.key)
        self.upsert = f"{self.insert} ON CONFLICT ({keys}) " + (f"DO UPDATE SET {rest}" if rest else "DO NOTHING")
        self._updates: dict[tuple[str, ...], str] = {}

    def read(self, values: Sequence[Any]) -> Any:
        if not self.readers:
            return self.type(*values)
        items = list(values)
        for index, convert in self.readers:
            items[index] = convert(items[index])
        return self.type(*items)

    def write(self, name: str, value: Any) -> Any:
        convert = self.writers.get(name)
        return value if convert is None else convert(value)

    def values(self, row: Row) -> list[Any]:
        return [self.write(name, getattr(row, name)) for name in self.fields]

    def update(self, names: tuple[str, ...]) -> str:
        sql = self._updates.get(names)
        if sql is None:
            unknown = [name for name in names if name not in self.fields]
            if unknown:
                raise AttributeError(f"{self.name} has no column {unknown[0]}")
            sets = ", ".join(f'"{name}" = ?' for name in names)
            sql = self._updates[names] = f'UPDATE "{self.name}" SET {sets} WHERE {self.by_key}'
        return sql

    def where(self, conditions: dict[str, Any]) -> tuple[str, list[Any]]:
        """The WHERE text and its values; None is IS NULL, a list is IN, an Op is its sign."""
        parts: list[str] = []
        values: list[Any] = []
        for name, value in conditions.items():
            if name not in self.fields:
                raise AttributeError(f"{self.name} has no column {name}")
            if value is None:
                parts.append(f'"{name}" IS NULL')
            elif isinstance(value, (list, tuple, set, frozenset)):
                items = sorted(value) if isinstance(value, (set, frozenset)) else list(value)
                parts.append(f'"{name}" IN ({", ".join("?" * len(items))})')
                values.extend(self.write(name, item) for item in items)
            elif isinstance(value, Op):
                if value.sign not in SIGNS:
                    raise ValueError(f"unknown comparison {value.sign!r}")
                if value.value is None and value.sign == "!=":
                    parts.append(f'"{name}" IS NOT NULL')
                else:
                    parts.append(f'"{name}" {value.sign} ?')
                    values.append(self.write(name, value.value))
            else:
                parts.append(f'"{name}" = ?')
                values.append(self.write(name, value))
        return " AND ".join(parts), values


@cache
def table_of(row_type: type[Row]) -> Table:
    """The Table of a Row type, made once."""
    if not row_type.__table__:
        raise TypeError(f"{row_type.__name__} names no table")
    return Table(row_type)


def after_marker(table: Table, sort: Sequence[tuple[str, bool]], marker: Row) -> tuple[str, list[Any]]:
    """Keyset paging: the condition for rows behind `marker` in the order `sort` ((column, descending) pairs)."""
    alternatives: list[str] = []
    values: list[Any] = []
    for depth, (name, descending) in enumerate(sort):
        parts = [f"{_sortable(table, earlier)} = coalesce(?, '')" for earlier, _ in sort[:depth]]
        parts.append(f"{_sortable(table, name)} {'<' if descending else '>'} coalesce(?, '')")
        alternatives.append("(" + " AND ".join(parts) + ")")
        values.extend(table.write(earlier, getattr(marker, earlier)) for earlier, _ in sort[: depth + 1])
    return "(" + " OR ".join(alternatives) + ")", values


def order_by(table: Table, sort: Sequence[tuple[str, bool]]) -> str:
    for name, _ in sort:
        if name not in table.fields:
            raise AttributeError(f"{table.name} has no column {name}")
    return ", ".join(_sortable(table, name) + (" DESC" if descending else "") for name, descending in sort)


def _sortable(table: Table, name: str) -> str:
    """NULL sorts as ''; a column that cannot be NULL stays bare, so that an index can give the order."""
    return f"""coalesce("{name}", '')""" if name in table.nullable else f'"{name}"'
