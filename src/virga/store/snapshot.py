"""Databases of the simulator: what survives a killed controller, and pictures of it that are laid out again and again.

Owns: `Disk` (a database without the process that uses it), one for each engine that runs under virtual time, and `Picture`, a disk as it was once.
With SQLite a run is one long transaction that is rolled back when its connection is given back: much cheaper than a fresh connection, which would have
to read the whole schema and prepare every statement anew; SimDb uses savepoints inside it. In memory a picture's tables are shared until written to.
"""
from __future__ import annotations

import sqlite3
from typing import Protocol

from virga.runtime.env import Env
from virga.runtime.trace import Trace
from virga.store.db import Db, SimDb, Tx, memory_connection, open_memory
from virga.store.memory import MemoryDb, MemoryTx
from virga.store.memory_tables import Tables

STORES = ("memory", "sqlite")


class Picture(Protocol):
    """A database at one moment."""

    def lend(self) -> Disk:
        """A disk with this content, to be written to."""

    def give_back(self, disk: Disk) -> None:
        """Nobody uses this disk any more."""


class Disk(Protocol):
    """The rows, whoever is alive."""

    def attach(self, env: Env, trace: Trace) -> Db:
        """The database as a process sees it."""

    def look(self, env: Env) -> Tx:
        """Read directly."""

    def changes(self) -> int:
        """A number that grows with every row written, rolled back or not."""

    def picture(self) -> Picture: ...


def new_disk(store: str) -> Disk:
    """An empty database with the newest schema; `store` is one of STORES."""
    if store not in STORES:
        raise ValueError(f"no engine of the store is called {store!r}; there are {' and '.join(STORES)}")
    return MemoryDisk() if store == "memory" else SqliteDisk()


class SqliteDisk:
    """A Disk held by SQLite in memory."""

    def __init__(self, connection: sqlite3.Connection | None = None) -> None:
        self.connection = connection or open_memory()

    def attach(self, env: Env, trace: Trace) -> Db:
        return SimDb(env, trace, self.connection)

    def look(self, env: Env) -> Tx:
        return Tx(self.connection, env, env.now())

    def changes(self) -> int:
        return self.connection.total_changes

    def picture(self) -> Picture:
        return SqlitePicture(self.connection)


class SqlitePicture:
    """One connection serves one run at a time; as many as run at once are kept."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._database = connection.serialize()
        self._free: list[sqlite3.Connection] = []

    def lend(self) -> Disk:
        if self._free:
            connection = self._free.pop()
        else:
            connection = memory_connection()
            connection.deserialize(self._database)
        connection.execute("BEGIN IMMEDIATE")
        return SqliteDisk(connection)

    def give_back(self, disk: Disk) -> None:
        assert isinstance(disk, SqliteDisk)
        disk.connection.execute("ROLLBACK")
        self._free.append(disk.connection)


class MemoryDisk:
    """A Disk made of Python objects."""

    def __init__(self, tables: Tables | None = None) -> None:
        self.tables = tables or Tables()

    def attach(self, env: Env, trace: Trace) -> Db:
        return MemoryDb(env, trace, self.tables)

    def look(self, env: Env) -> Tx:
        return MemoryTx(self.tables, env, env.now())

    def changes(self) -> int:
        return self.tables.changes

    def picture(self) -> Picture:
        return MemoryPicture(self.tables)


class MemoryPicture:
    """Tables at one moment; the disks lent out share them until they write."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables.fork()

    def lend(self) -> Disk:
        return MemoryDisk(self._tables.fork())

    def give_back(self, disk: Disk) -> None:
        """A lent disk is simply dropped."""
