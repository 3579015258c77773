"""The database contract in memory: the same `Tx` and `Db`, made of Python objects. The simulator's engine; nothing of it is kept on any disk.

Owns: `MemoryTx`, `MemoryDb`. Rules: whatever a closure can see, it sees as with SQLite: rows read by key stay the same object until they are written,
found ones are new each time, a failed statement leaves nothing, a failed closure neither, unique rules and empty columns are the schema's
(store/catalog.py), orders and comparisons are SQLite's. tests/store runs random closures on both engines and compares; tests/sim compares whole runs.
Hand-written statements (`Tx.sql`) do not run here: the rooms of store/ that have some say what they mean in Python beside them.
Why at all: a simulated schedule asks 1,800 small questions, and SQLite's answer to a small question is mostly turning values into rows and back.
"""
from __future__ import annotations

import asyncio
import operator
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from virga.domain.row import Row
from virga.runtime.env import Env
from virga.runtime.trace import Trace
from virga.store.db import Closure, Exists, Tx, _Base
from virga.store.memory_find import select
from virga.store.memory_order import behind_marker, order_of
from virga.store.memory_tables import Moved, Plan, Table, Tables, plan_of
from virga.store.rows import R

T = TypeVar("T")
# (table, key, what was there, what moved or its serial); nothing was there before an insert; no table: a counter
Undo = tuple[Table | None, Any, Any, Any]
_UNSEEN: Any = object()
_replace = msgspec.structs.replace


class MemoryTx(Tx):
    """store.db.Tx over Tables. `undo` brings back what was there before, last change first."""

    def __init__(self, tables: Tables, env: Env, now: float) -> None:
        self._tables = tables
        self._env = env
        self.now = now
        self._seen = {}
        self.hints = {}
        self.events = []
        self.about = {}
        self._undo: list[Undo] = []

    # one row --------------------------------------------------------------------------------------------------------
    def get(self, row_type: type[R], *key: Any) -> R | None:
        place = (row_type, *key)
        row: R | None = self._seen.get(place, _UNSEEN)
        if row is not _UNSEEN:
            return row
        table = self._tables.by_type[row_type]
        plan = table.plan
        kept = table.rows.get(key[0] if plan.single else key)
        if kept is None and tuple(map(type, key)) != plan.key_kinds:
            kept = table.rows.get(_as_key(plan, key))
        row = self._seen[place] = None if kept is None else plan.out(kept)
        return row

    def insert(self, row: Row) -> None:
        plan = plan_of(type(row))
        key = plan.key_of(row)
        self._seen.pop((plan.type, key) if plan.single else (plan.type, *key), None)
        kept, table = plan.kept(row), self._tables.own(plan.type)
        key = plan.key_of(kept)
        if key in table.rows:
            raise Exists(plan.told)
        self._add(table, key, kept)

    def put(self, row: Row) -> None:
        plan = plan_of(type(row))
        key = plan.key_of(row)
        self._seen.pop((plan.type, key) if plan.single else (plan.type, *key), None)
        kept, table = plan.kept(row), self._tables.own(plan.type)
        key = plan.key_of(kept)
        old = table.rows.get(key)
        if old is None:
            self._add(table, key, kept)
        else:
            self._change(table, key, old, kept, plan.moved_by_all)

    def update(self, row_type: type[Row], *key: Any, **changes: Any) -> int:
        place = (row_type, *key)
        seen = self._seen.pop(place, None)
        table = self._tables.own(row_type)
        plan = table.plan
        moved = plan.moved_by[tuple(changes)]
        at = key[0] if plan.single else key
        old = table.rows.get(at)
        if old is None:
            at = _as_key(plan, key)
            old = table.rows.get(at)
        if old is not None:
            new = moved.changed(old, changes)
            if moved.involved is None and not moved.key:  # the usual case, without detours
                table.rows[at] = new
                self._undo.append((table, at, old, moved))
                self._tables.changes += 1
            else:
                self._write(table, at, old, new, moved)
        if seen is not None:
            self._seen[place] = _replace(seen, **changes)
        return 0 if old is None else 1

    def delete(self, row_type: type[Row], *key: Any) -> int:
        self._seen.pop((row_type, *key), None)
        plan = plan_of(row_type)
        at = _as_key(plan, key)
        if at not in self._tables.by_type[row_type].rows:
            return 0
        self._remove(self._tables.own(row_type), at)
        return 1

    # many rows ------------------------------------------------------------------------------------------------------
    def update_where(self, row_type: type[Row], changes: dict[str, Any], **conditions: Any) -> int:
        plan = plan_of(row_type)
        moved = plan.moved_by[tuple(changes)]
        found = select(self._tables.by_type[row_type], conditions) if conditions else []
        self._seen.clear()
        table = self._tables.own(row_type)
        begun = len(self._undo)
        try:
            for old in found:
                self._write(table, plan.key_of(old), old, moved.changed(old, changes), moved)
        except Exists:
            self.roll_back(begun)
            raise
        return len(found)

    def delete_where(self, row_type: type[Row], **conditions: Any) -> int:
        plan = plan_of(row_type)
        found = select(self._tables.by_type[row_type], conditions) if conditions else []
        self._seen.clear()
        table = self._tables.own(row_type)
        for old in found:
            self._remove(table, plan.key_of(old))
        return len(found)

    def find(
        self, row_type: type[R], *, sort: Sequence[tuple[str, bool]] = (), limit: int | None = None,
        after: Row | None = None, **conditions: Any,
    ) -> list[R]:
        table = self._tables.by_type[row_type]
        plan, found = table.plan, select(table, conditions)
        order = order_of(plan, tuple(sort))
        if len(found) < 2 and after is None and limit is None:
            return [plan.out(found[0])] if found else []
        if after is not None:
            behind = behind_marker(plan, sort, after)
            found = [row for row in found if behind(row)]
        for key, descending in reversed(order):
            found.sort(key=key, reverse=descending)
        if limit is not None and 0 <= int(limit) < len(found):
            found = found[: int(limit)]
        return list(map(plan.out, found))

    def count(self, row_type: type[Row], **conditions: Any) -> int:
        return len(select(self._tables.by_type[row_type], conditions))

    def raw(self, row_type: type[Row], columns: Sequence[str], **conditions: Any) -> list[tuple[Any, ...]]:
        """Some columns of the rows that meet the conditions, as they are kept (JSON as text): what a SELECT would give. Only inside store/."""
        read = operator.attrgetter(*columns) if len(columns) > 1 else lambda row: (getattr(row, columns[0]),)
        return [read(row) for row in select(self._tables.by_type[row_type], conditions)]

    def next_number(self, counter: str) -> int:
        before = self._tables.counters.get(counter, 0)
        self._undo.append((None, counter, before, 0))
        self._tables.counters[counter] = before + 1
        self._tables.changes += 1
        return before + 1

    def number(self, counter: str) -> int:
        """How far a counter has come; 0 before its first number."""
        return self._tables.counters.get(counter, 0)

    def sql(self, text: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        raise TypeError(f"the memory engine takes no statements; this one has no twin: {text}")

    # changes and their undoing --------------------------------------------------------------------------------------
    def _add(self, table: Table, key: Any, kept: Row) -> None:
        clash = table.clash(key, kept, tuple(range(len(table.uniques)))) if table.uniques else ""
        if clash:
            raise Exists(clash)
        table.add(key, kept)
        self._undo.append((table, key, None, 0))
        self._tables.changes += 1

    def _write(self, table: Table, key: Any, old: Row, new: Row, moved: Moved) -> None:
        """Put `new` in the place of `old`, or elsewhere if its key has changed."""
        there = table.plan.key_of(new) if moved.key else key
        if there == key:
            self._change(table, key, old, new, moved)
            return
        clash = table.plan.told if there in table.rows else ""
        serial = table.serials[key]
        self._remove(table, key)
        clash = clash or table.clash(there, new, tuple(range(len(table.uniques))))
        if clash:
            self.roll_back(len(self._undo) - 1)
            raise Exists(clash)
        table.add(there, new, None if table.plan.by_number else serial)
        self._undo.append((table, there, None, 0))

    def _change(self, table: Table, key: Any, old: Row, new: Row, moved: Moved) -> None:
        if moved.involved is None or moved.involved(old) == moved.involved(new):
            table.rows[key] = new
        else:
            clash = table.clash(key, new, moved.uniques)
            if clash:
                raise Exists(clash)
            table.change(key, old, new, moved)
        self._undo.append((table, key, old, moved))
        self._tables.changes += 1

    def _remove(self, table: Table, key: Any) -> None:
        self._undo.append((table, key, table.rows[key], table.serials[key]))
        table.remove(key)
        self._tables.changes += 1

    @property
    def wrote(self) -> bool:
        return bool(self._undo)

    def roll_back(self, to: int = 0) -> None:
        """Undo every change after the first `to`."""
        while len(self._undo) > to:
            table, key, old, more = self._undo.pop()
            if table is None:
                if old:
                    self._tables.counters[key] = old
                else:
                    del self._tables.counters[key]
            elif old is None:
                table.remove(key)
            elif key in table.rows:
                table.change(key, table.rows[key], old, more)
            else:
                table.add(key, old, more)


def _as_key(plan: Plan, key: Sequence[Any]) -> Any:
    """A key as the table holds it, whatever type its parts came in."""
    if tuple(map(type, key)) == plan.key_kinds:
        return key[0] if plan.single else key
    values = [value if value is None or type(value) is plan.columns[name].kind else plan.columns[name].raw(value)
              for name, value in zip(plan.key, key, strict=True)]
    return values[0] if plan.single else tuple(values)


class MemoryDb(_Base):
    """Inline on the loop, as SimDb. `tables` may outlive this object: they are the disk that survives a killed controller."""

    def __init__(self, env: Env, trace: Trace, tables: Tables | None = None) -> None:
        super().__init__(env, trace)
        self.tables = tables if tables is not None else Tables()

    async def run(self, closure: Closure[T]) -> T:
        await asyncio.sleep(0)
        env = self._env
        env.check_alive()
        tx = MemoryTx(self.tables, env, env.now())
        if env.fault_hook is not None:
            await env.point("db.before_commit")
        try:
            result = closure(tx)
        except BaseException:
            tx.roll_back()
            raise
        self._tell(tx)
        if env.fault_hook is not None:
            await env.point("db.after_commit")
        return result

    async def read(self, closure: Closure[T]) -> T:
        self._env.check_alive()
        tx = MemoryTx(self.tables, self._env, self._env.now())
        try:
            return closure(tx)
        finally:
            if tx.wrote:
                tx.roll_back()
                raise AssertionError("attempt to write a readonly snapshot")

    def close(self) -> None:
        """Nothing is open."""
