"""A transaction over rows held in plain dictionaries: the store's contract without a database, for exhaustive search.

Owns: `Rows` (an immutable picture of all tables) and `MemoryTx`, which reads from one picture and leaves the next. Operations, hub and front run on it
unchanged; tests/lab compares it with the real engine's answers. Time stands still in it, so that two orders that lead to the same rows are one state.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from virga.domain.row import Row
from virga.runtime.env import Env
from virga.store.db import Exists, Tx
from virga.store.rows import Op, R

Table = dict[tuple[Any, ...], Row]
COMPARE = {"<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b, "!=": lambda a, b: a != b}


class Rows:
    """All rows by type and key. Never changed once made; `key` names its content."""

    def __init__(self, tables: dict[type[Row], Table]) -> None:
        self.tables = tables
        encode = msgspec.msgpack.Encoder(order="deterministic").encode
        self.key = b"".join(
            encode((kind.__table__, sorted((list(map(str, key)), msgspec.to_builtins(row)) for key, row in table.items())))
            for kind, table in sorted(tables.items(), key=lambda item: item[0].__table__) if table)


def _fresh(row: Any) -> Any:
    """A copy whose lists and dictionaries may be changed without changing the original's."""
    copy = msgspec.structs.replace(row)
    for name in row.__struct_fields__:
        value = getattr(copy, name)
        if type(value) is dict:
            setattr(copy, name, dict(value))
        elif type(value) is list:
            setattr(copy, name, list(value))
    return copy


class MemoryTx(Tx):
    """store.db.Tx over a Rows; `done()` is the next Rows."""

    def __init__(self, rows: Rows, env: Env, now: float) -> None:
        self._env = env
        self.now = now
        self.hints = {}
        self.events = []
        self.about = {}
        self._tables = dict(rows.tables)
        self._own: set[type[Row]] = set()

    def done(self) -> Rows:
        return Rows(self._tables)

    def _table(self, kind: type[Row], *, write: bool = False) -> Table:
        table = self._tables.get(kind, {})
        if write and kind not in self._own:
            table = dict(table)
            self._tables[kind] = table
            self._own.add(kind)
        return table

    @staticmethod
    def _key(row: Row) -> tuple[Any, ...]:
        return tuple(getattr(row, name) for name in type(row).__key__)

    def new_id(self) -> str:
        """Ids by number, so that the same rows come about in whatever order."""
        return f"id-{self.next_number('lab ids')}"

    def get(self, row_type: type[R], *key: Any) -> R | None:
        row = self._table(row_type).get(key)
        return None if row is None else _fresh(row)

    def insert(self, row: Row) -> None:
        table = self._table(type(row), write=True)
        if self._key(row) in table:
            raise Exists(f"{type(row).__name__} {self._key(row)}")
        table[self._key(row)] = _fresh(row)

    def put(self, row: Row) -> None:
        self._table(type(row), write=True)[self._key(row)] = _fresh(row)

    def update(self, row_type: type[Row], *key: Any, **changes: Any) -> int:
        table = self._table(row_type, write=True)
        row = table.get(key)
        if row is None:
            return 0
        table[key] = _fresh(msgspec.structs.replace(row, **changes))
        return 1

    def update_where(self, row_type: type[Row], changes: dict[str, Any], **conditions: Any) -> int:
        keys = [self._key(row) for row in self.find(row_type, **conditions)]
        return sum(self.update(row_type, *key, **changes) for key in keys)

    def delete(self, row_type: type[Row], *key: Any) -> int:
        return 1 if self._table(row_type, write=True).pop(key, None) is not None else 0

    def delete_where(self, row_type: type[Row], **conditions: Any) -> int:
        keys = [self._key(row) for row in self.find(row_type, **conditions)]
        return sum(self.delete(row_type, *key) for key in keys)

    def find(
        self, row_type: type[R], *, sort: Sequence[tuple[str, bool]] = (), limit: int | None = None, after: Row | None = None, **conditions: Any,
    ) -> list[R]:
        if after is not None:
            raise AssertionError("paging is not what a search of schedules is about")
        rows: list[Any] = [row for _, row in sorted(self._table(row_type).items(), key=lambda item: tuple(map(str, item[0])))
                           if all(_meets(getattr(row, name), wanted) for name, wanted in conditions.items())]
        for name, descending in reversed(sort):
            rows.sort(key=lambda row: getattr(row, name), reverse=descending)  # used at once
        return [_fresh(row) for row in rows[:limit]]

    def count(self, row_type: type[Row], **conditions: Any) -> int:
        return len(self.find(row_type, **conditions))

    def next_number(self, counter: str) -> int:
        from virga.domain.operation import Counter

        row = self.get(Counter, counter) or Counter(counter, 0)
        self.put(Counter(counter, row.value + 1))
        return row.value + 1


def _meets(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Op):
        return value is not None and bool(COMPARE[wanted.sign](value, wanted.value))
    if isinstance(wanted, list | tuple | set | frozenset):
        return value in wanted
    return bool(value == wanted)
