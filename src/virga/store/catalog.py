"""What the schema files promise, read back from SQLite's own catalog, for engines that are not SQLite.

Owns: `catalog()`, one `TableFacts` a table: declared types, columns that may not be empty, keys, unique and partial indexes. Rules: nothing of this is
written down a second time. The schema files are loaded into an empty in-memory SQLite once a process and its catalog is asked; an index whose WHERE is
not of a form known here is an error, so that a rule of the database cannot be lost quietly on the way into another engine.
"""
from __future__ import annotations

import re
from functools import cache
from typing import Any

import msgspec

from virga.store.db import open_memory

_IN = re.compile(r"^(\w+)\s+IN\s*\(([^()]*)\)$", re.IGNORECASE)
_IS = re.compile(r"^(\w+)\s*=\s*('[^']*'|\d+)$")
_THERE = re.compile(r"^(\w+)\s+IS\s+NOT\s+NULL$", re.IGNORECASE)


class Only(msgspec.Struct, frozen=True):
    """The WHERE of a partial index: `column` has one of `values`, or any value at all (None)."""

    column: str
    values: frozenset[Any] | None

    def holds(self, value: Any) -> bool:
        return value is not None if self.values is None else value in self.values


class IndexFacts(msgspec.Struct, frozen=True):
    """One index of a table; the primary key is one too, unless it is the row's number itself."""

    name: str
    columns: tuple[str, ...]
    unique: bool
    only: Only | None = None


class TableFacts(msgspec.Struct, frozen=True):
    """One table. `types`: column -> declared type in capitals. `by_number`: its key is an INTEGER PRIMARY KEY, whose order is the order of rows."""

    name: str
    types: dict[str, str]
    filled: frozenset[str]
    key: tuple[str, ...]
    indexes: tuple[IndexFacts, ...]
    by_number: bool


@cache
def catalog() -> dict[str, TableFacts]:
    """Every table of the newest schema, by name."""
    connection = open_memory()
    try:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")]
        return {name: _table(connection, name) for name in names}
    finally:
        connection.close()


def _table(connection: Any, name: str) -> TableFacts:
    columns = connection.execute(f'PRAGMA table_info("{name}")').fetchall()
    key = tuple(column for _, column, _, _, _, place in sorted(columns, key=lambda row: row[5]) if place)
    indexes = []
    for _, index, unique, _, _ in connection.execute(f'PRAGMA index_list("{name}")').fetchall():
        members = tuple(member for _, _, member in connection.execute(f'PRAGMA index_info("{index}")'))
        if None in members:
            raise ValueError(f"index {index} is on an expression")
        found = connection.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (index,)).fetchone()
        indexes.append(IndexFacts(index, members, bool(unique), _only(index, found[0] if found else None)))
    types = {column: declared.upper() for _, column, declared, _, _, _ in columns}
    by_number = len(key) == 1 and types[key[0]] == "INTEGER"
    filled = frozenset(column for _, column, _, must, _, place in columns if must or (place and by_number))
    return TableFacts(name, types, filled, key, tuple(indexes), by_number)


def _only(index: str, text: str | None) -> Only | None:
    """The WHERE at the end of a CREATE INDEX."""
    where = re.split(r"\sWHERE\s", text or "", maxsplit=1, flags=re.IGNORECASE)
    if len(where) < 2:
        return None
    told = where[1].strip()
    if match := _THERE.match(told):
        return Only(match[1], None)
    if match := _IS.match(told):
        return Only(match[1], frozenset([_literal(match[2])]))
    if match := _IN.match(told):
        return Only(match[1], frozenset(_literal(item.strip()) for item in match[2].split(",")))
    raise ValueError(f"index {index}: the condition {told!r} is not understood here")


def _literal(text: str) -> Any:
    return text[1:-1] if text.startswith("'") else int(text)
