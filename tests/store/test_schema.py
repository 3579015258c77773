"""The tables of a fresh database and the Structs of domain/ name the same columns, in the same terms."""
from __future__ import annotations

import importlib
import pkgutil
import typing

import pytest

import virga.domain
from virga.domain.row import Row
from virga.store.db import open_memory
from virga.store.rows import table_of

for module in pkgutil.iter_modules(virga.domain.__path__):
    importlib.import_module(f"virga.domain.{module.name}")


def row_types() -> list[type[Row]]:
    found: list[type[Row]] = []
    left = list(Row.__subclasses__())
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        if kind.__table__:
            found.append(kind)
    return sorted(found, key=lambda kind: kind.__table__)


CONNECTION = open_memory()
COLUMNS = {kind: CONNECTION.execute(f'PRAGMA table_info("{kind.__table__}")').fetchall() for kind in row_types()}


def test_there_are_rows_to_compare() -> None:
    assert len(COLUMNS) > 40


@pytest.mark.parametrize("kind", list(COLUMNS), ids=lambda kind: kind.__table__)
def test_columns_are_the_fields(kind: type[Row]) -> None:
    columns = {name: (declared, bool(required), place) for _, name, declared, required, _, place in COLUMNS[kind]}
    table = table_of(kind)
    assert sorted(columns) == sorted(table.fields)
    key = tuple(name for name, (_, _, place) in sorted(columns.items(), key=lambda item: item[1][2]) if place)
    assert sorted(key) == sorted(table.key)
    hints = typing.get_type_hints(kind)
    for name, (declared, required, place) in columns.items():
        bare = hints[name] if name not in table.nullable else typing.get_args(hints[name])[0]
        wanted = {int: "INTEGER", bool: "INTEGER", float: "REAL", bytes: "BLOB"}.get(bare, "TEXT")
        assert declared == wanted, f"{kind.__table__}.{name} is {declared}, its field is {hints[name]}"
        assert required or place or name in table.nullable, f"{kind.__table__}.{name} may be NULL, its field may not"
        assert not (required and name in table.nullable), f"{kind.__table__}.{name} is NOT NULL, its field may be None"


def test_every_table_belongs_to_a_row_or_is_named_here() -> None:
    tables = {name for (name,) in CONNECTION.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")}
    assert tables - {kind.__table__ for kind in COLUMNS} <= {"schema_versions"}


def test_opening_again_changes_nothing() -> None:
    from virga.store.db import migrate

    before = CONNECTION.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall()
    migrate(CONNECTION)
    assert CONNECTION.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall() == before
