"""The database contract and its SQLite engine.

Owns: `Tx` (what a transaction closure may do), `Db` (run closures), and the SQLite engine with its one writer thread.
Rules: a transaction is a small synchronous closure `fn(tx)`; nothing is awaited inside; it may be run again whole after a conflict, so it must not
touch anything but `tx` and its arguments. State, operation and outbox change in one closure. Events and hints collected in `tx` go out only after
the commit. `read` closures see one snapshot and may not write.
Live: WAL, synchronous=FULL, one writer thread that commits all waiting closures together (each in its own savepoint), reads on the loop through a
second connection. Simulated: one connection, inline, a yield before and after, which is where the thread would have let others run.
Another engine implements `Db` and must pass tests/store unchanged, as the simulator's does (memory.py).
"""
from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from virga.domain.row import Row
from virga.runtime.env import Env
from virga.runtime.trace import Trace
from virga.store.rows import Op as Op
from virga.store.rows import R, after_marker, order_by, table_of

T = TypeVar("T")

BUSY_TIMEOUT_MS = 5000
BATCH_CLOSURES_MAX = 64


class Conflict(Exception):
    """The transaction lost a race and was rolled back; the engine retries it whole."""


class Exists(Exception):
    """A row with this key or unique value is already there; `detail` is the engine's text."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Tx:
    """One transaction. `now` is its time (seconds since the epoch), the same for every row it writes."""

    def __init__(self, connection: sqlite3.Connection, env: Env, now: float) -> None:
        self._connection = connection
        self._env = env
        self.now = now
        self._seen: dict[tuple[Any, ...], Any] = {}  # rows read by key in this transaction, until they are written
        self.hints: dict[str, None] = {}  # a dict for its order: replay must not depend on string hashes
        self.events: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.about: dict[str, Any] = {}  # what every event says from here on (its operation, its cause), unless it says otherwise

    def new_id(self) -> str:
        return self._env.new_id()

    def token_hex(self, size_bytes: int) -> str:
        return self._env.token_hex(size_bytes)

    def hint(self, *names: str) -> None:
        """Wake whoever looks at these rows after the commit, e.g. 'op:<id>', 'server:<id>', 'outbox:<host>'. Carries no data."""
        for name in names:
            self.hints[name] = None

    def emit(self, kind: str, src: str, dst: str, text: str, **about: Any) -> None:
        """Record a trace event if and when this transaction commits."""
        self.events.append(((kind, src, dst, text), {**self.about, **about} if self.about else about))

    # rows -----------------------------------------------------------------------------------------------------------
    def get(self, row_type: type[R], *key: Any) -> R | None:
        place = (row_type, *key)
        if place in self._seen:
            seen: R | None = self._seen[place]
            return seen
        table = table_of(row_type)
        found = self._connection.execute(table.get, key).fetchone()
        row: R | None = None if found is None else table.read(found)
        self._seen[place] = row
        return row

    def need(self, row_type: type[R], *key: Any) -> R:
        """Like `get` for a row that must be there; a missing one is a bug, not bad input."""
        row = self.get(row_type, *key)
        if row is None:
            raise AssertionError(f"no {row_type.__name__} {key}")
        return row

    def insert(self, row: Row) -> None:
        """Raises Exists when the key or a unique value is taken."""
        table = table_of(type(row))
        self._seen.pop((type(row), *(getattr(row, name) for name in table.key)), None)
        try:
            self._connection.execute(table.insert, table.values(row))
        except sqlite3.IntegrityError as error:
            raise Exists(str(error)) from error

    def put(self, row: Row) -> None:
        """Insert, or replace the row with the same key. Raises Exists when a unique value is another row's."""
        table = table_of(type(row))
        self._seen.pop((type(row), *(getattr(row, name) for name in table.key)), None)
        try:
            self._connection.execute(table.upsert, table.values(row))
        except sqlite3.IntegrityError as error:
            raise Exists(str(error)) from error

    def update(self, row_type: type[Row], *key: Any, **changes: Any) -> int:
        """Change columns of one row; returns how many rows there were (0 or 1). Raises Exists on a unique clash."""
        table = table_of(row_type)
        place = (row_type, *key)
        seen = self._seen.pop(place, None)
        names = tuple(changes)
        values = [table.write(name, changes[name]) for name in names]
        try:
            count = self._connection.execute(table.update(names), [*values, *key]).rowcount
        except sqlite3.IntegrityError as error:
            raise Exists(str(error)) from error
        if seen is not None:
            # a copy: who got the row before the change keeps what it got, who asks again sees the change
            self._seen[place] = msgspec.structs.replace(seen, **changes)
        return count

    def update_where(self, row_type: type[Row], changes: dict[str, Any], **conditions: Any) -> int:
        """Change columns of every row that meets the conditions; returns how many there were. Raises Exists on a unique clash."""
        table = table_of(row_type)
        where, values = table.where(conditions)
        self._seen.clear()
        sets = ", ".join(f'"{name}" = ?' for name in changes)
        changed = [table.write(name, value) for name, value in changes.items()]
        try:
            return self._connection.execute(f'UPDATE "{table.name}" SET {sets} WHERE {where or "0"}', [*changed, *values]).rowcount
        except sqlite3.IntegrityError as error:
            raise Exists(str(error)) from error

    def delete(self, row_type: type[Row], *key: Any) -> int:
        table = table_of(row_type)
        self._seen.pop((row_type, *key), None)
        return self._connection.execute(f'DELETE FROM "{table.name}" WHERE {table.by_key}', key).rowcount

    def delete_where(self, row_type: type[Row], **conditions: Any) -> int:
        table = table_of(row_type)
        where, values = table.where(conditions)
        self._seen.clear()
        return self._connection.execute(f'DELETE FROM "{table.name}" WHERE {where or "0"}', values).rowcount

    def find(
        self, row_type: type[R], *, sort: Sequence[tuple[str, bool]] = (), limit: int | None = None,
        after: Row | None = None, **conditions: Any,
    ) -> list[R]:
        """Rows that meet all conditions, in the order they were put in or that of `sort`, which is (column, descending) pairs.

        `after` is the marker row of keyset paging.
        """
        table = table_of(row_type)
        where, values = table.where(conditions)
        if after is not None:
            behind, more = after_marker(table, sort, after)
            where = f"{where} AND {behind}" if where else behind
            values = [*values, *more]
        sql = table.select + (f" WHERE {where}" if where else "")
        # rows that sort equal come in the order they were put in, on every engine
        sql += f" ORDER BY {order_by(table, sort)}, rowid" if sort else " ORDER BY rowid"
        if limit is not None:
            sql += f" LIMIT {int(limit)}"
        read = table.read
        return [read(found) for found in self._connection.execute(sql, values)]

    def one(self, row_type: type[R], **conditions: Any) -> R | None:
        rows = self.find(row_type, limit=1, **conditions)
        return rows[0] if rows else None

    def count(self, row_type: type[Row], **conditions: Any) -> int:
        table = table_of(row_type)
        where, values = table.where(conditions)
        sql = f'SELECT count(*) FROM "{table.name}"' + (f" WHERE {where}" if where else "")
        return int(self._connection.execute(sql, values).fetchone()[0])

    def next_number(self, counter: str) -> int:
        """The next value (from 1) of a named counter; gaps are possible, repeats are not."""
        found = self._connection.execute(
            "INSERT INTO counters (name, value) VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value",
            (counter,)).fetchone()
        return int(found[0])

    def sql(self, text: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """A hand-written statement. For modules of store/ only (a tidy test holds callers to it)."""
        self._seen.clear()
        return self._connection.execute(text, tuple(values)).fetchall()


Closure = Callable[[Tx], T]
Listener = Callable[[Collection[str]], None]


class Db(Protocol):
    """What every engine offers."""

    async def run(self, closure: Closure[T]) -> T:
        """Run a writing closure in one serial transaction; its exception rolls back and is raised here."""

    async def read(self, closure: Closure[T]) -> T:
        """Run a closure on a snapshot; it must not write."""

    def on_commit(self, listener: Listener) -> None:
        """Call `listener(hints)` on the loop after each commit that carried hints."""

    def close(self) -> None: ...


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date: every schema/NNN_*.sql not yet noted in `schema_versions`, in order."""
    connection.execute("CREATE TABLE IF NOT EXISTS schema_versions (name TEXT PRIMARY KEY)")
    have = {name for (name,) in connection.execute("SELECT name FROM schema_versions")}
    folder = resources.files("virga.store") / "schema"
    for file in sorted((item for item in folder.iterdir() if item.name.endswith(".sql")), key=lambda item: item.name):
        if file.name not in have:
            quoted = file.name.replace("'", "''")
            text = file.read_text(encoding="utf-8")
            connection.executescript(f"BEGIN;\n{text}\nINSERT INTO schema_versions VALUES ('{quoted}');\nCOMMIT;")


class _Base:
    """What the engines share: running one closure and telling the world after the commit."""

    def __init__(self, env: Env, trace: Trace) -> None:
        self._env = env
        self._trace = trace
        self._listeners: list[Listener] = []

    def on_commit(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def _tell(self, tx: Tx) -> None:
        for place, about in tx.events:
            self._trace.emit(*place, at=tx.now, **about)
        if tx.hints:
            for listener in self._listeners:
                listener(tx.hints)


_OWN = ("BEGIN IMMEDIATE", "COMMIT", "ROLLBACK")
_LENT = ("SAVEPOINT closure", "RELEASE closure", "ROLLBACK TO closure")


class SimDb(_Base):
    """SQLite inline on the loop. `connection` may outlive this object: it is the disk that survives a killed controller."""

    def __init__(self, env: Env, trace: Trace, connection: sqlite3.Connection | None = None) -> None:
        super().__init__(env, trace)
        self._connection = connection or open_memory()

    async def run(self, closure: Closure[T]) -> T:
        await asyncio.sleep(0)
        self._env.check_alive()
        tx = Tx(self._connection, self._env, self._env.now())
        if self._env.fault_hook is not None:
            await self._env.point("db.before_commit")
        # A lent connection (MemorySnapshot) is inside a transaction for as long as the run lasts.
        begin, commit, rollback = _LENT if self._connection.in_transaction else _OWN
        self._connection.execute(begin)
        try:
            result = closure(tx)
        except BaseException:
            self._connection.execute(rollback)
            if rollback != "ROLLBACK":
                self._connection.execute(commit)
            raise
        self._connection.execute(commit)
        self._tell(tx)
        if self._env.fault_hook is not None:
            await self._env.point("db.after_commit")
        return result

    async def read(self, closure: Closure[T]) -> T:
        self._env.check_alive()
        return closure(Tx(self._connection, self._env, self._env.now()))

    def close(self) -> None:
        self._connection.close()


def open_memory() -> sqlite3.Connection:
    """A fresh in-memory database with the newest schema."""
    connection = memory_connection()
    migrate(connection)
    return connection


def memory_connection() -> sqlite3.Connection:
    """An empty in-memory database, without a schema."""
    connection = sqlite3.connect(":memory:", isolation_level=None, cached_statements=1024)
    connection.execute("PRAGMA foreign_keys=ON")
    return connection


class SqliteDb(_Base):
    """SQLite on disk: one writer thread with group commit, one reader connection on the loop."""

    def __init__(self, env: Env, trace: Trace, path: Path, synchronous: str = "FULL") -> None:
        super().__init__(env, trace)
        self._path = path
        self._synchronous = synchronous
        writer = self._open()
        migrate(writer)
        self._reader = self._open()
        self._reader.execute("PRAGMA query_only=ON")
        self._queue: queue.SimpleQueue[tuple[Closure[Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._write_all, args=(writer,), name="store-writer", daemon=True)
        self._thread.start()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, cached_statements=1024)
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={self._synchronous}")
        connection.execute("PRAGMA foreign_keys=ON")
        return connection

    async def run(self, closure: Closure[T]) -> T:
        self._env.check_alive()
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put((closure, future))
        # Shielded: a client that hangs up must not lose the commit's events; the closure runs to its end either way.
        return await asyncio.shield(future)

    async def read(self, closure: Closure[T]) -> T:
        self._env.check_alive()
        self._reader.execute("BEGIN")
        try:
            return closure(Tx(self._reader, self._env, self._env.now()))
        finally:
            self._reader.execute("COMMIT")

    def close(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(timeout=BUSY_TIMEOUT_MS / 1000)
            self._reader.close()

    # the writer thread ----------------------------------------------------------------------------------------------
    def _write_all(self, connection: sqlite3.Connection) -> None:
        open_for_work = True
        while open_for_work:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < BATCH_CLOSURES_MAX:
                    batch.append(self._queue.get_nowait())
            work = [item for item in batch if item is not None]
            open_for_work = len(work) == len(batch)
            if work:
                done = self._commit(connection, work)
                with contextlib.suppress(RuntimeError):  # the loop may be closed already at the very end
                    self._loop.call_soon_threadsafe(self._answer, done)
        connection.close()

    def _commit(
        self, connection: sqlite3.Connection, work: list[tuple[Closure[Any], asyncio.Future[Any]]]
    ) -> list[tuple[asyncio.Future[Any], Tx | None, Any, BaseException | None]]:
        """Run every closure in its own savepoint of one transaction; if the commit itself fails, all of them failed."""
        done: list[tuple[asyncio.Future[Any], Tx | None, Any, BaseException | None]] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            for closure, future in work:
                tx = Tx(connection, self._env, self._env.now())
                connection.execute("SAVEPOINT closure")
                try:
                    done.append((future, tx, closure(tx), None))
                except Exception as error:
                    connection.execute("ROLLBACK TO closure")
                    done.append((future, None, None, error))
                connection.execute("RELEASE closure")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            return [(future, None, None, error) for _, future in work]
        return done

    def _answer(self, done: list[tuple[asyncio.Future[Any], Tx | None, Any, BaseException | None]]) -> None:
        for future, tx, result, error in done:
            if tx is not None:
                self._tell(tx)
            if future.done():
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)
