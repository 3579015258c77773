"""An in-memory database as it was once, laid out again and again for runs of the simulator.

A run is one long transaction that is rolled back when its connection is given back. That is much cheaper than a fresh connection, which would have to
read the whole schema and prepare every statement anew; measured, it was a fifth of a founding-case run. SimDb uses savepoints inside it.
"""
from __future__ import annotations

import sqlite3

from virga.store.db import memory_connection


class MemorySnapshot:
    """See the module. One connection serves one run at a time; as many as run at once are kept."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._database = connection.serialize()
        self._free: list[sqlite3.Connection] = []

    def lend(self) -> sqlite3.Connection:
        """A connection that sees the snapshot, inside the transaction that will be rolled back."""
        if self._free:
            connection = self._free.pop()
        else:
            connection = memory_connection()
            connection.deserialize(self._database)
        connection.execute("BEGIN IMMEDIATE")
        return connection

    def give_back(self, connection: sqlite3.Connection) -> None:
        """Nobody uses this connection any more."""
        connection.execute("ROLLBACK")
        self._free.append(connection)
