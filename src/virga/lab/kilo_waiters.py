"""The registry of waiters inside a compute manager: who waits for which external event.

Owns: the dictionary {server: {"name-tag": waiter}}, in memory only.
Rules, all of them upstream's: an event nobody waits for is dropped; delivery takes the waiter out; two waiters with one key are one waiter; a waiter
whose wait timed out stays in the dictionary; clearing drops waiters without a word; cancelling gives every one of them `failed`.
"""
from __future__ import annotations

import asyncio

from virga.lab.kilo_network import Event


class Waiter:
    """One key somebody waits for."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.arrived = asyncio.Event()
        self.event: Event | None = None

    def send(self, event: Event) -> None:
        self.event = event
        self.arrived.set()


class Waiters:
    """The waiters of one compute host."""

    def __init__(self, clear_signals: bool = False) -> None:
        self.clear_signals = clear_signals
        self._by_server: dict[str, dict[str, Waiter]] = {}

    def prepare(self, server_id: str, key: str) -> Waiter:
        """Register before the body runs; an existing waiter with the same key is shared."""
        return self._by_server.setdefault(server_id, {}).setdefault(key, Waiter(key))

    def pop(self, server_id: str, key: str) -> Waiter | None:
        return self._by_server.get(server_id, {}).pop(key, None)

    def clear(self, server_id: str) -> None:
        """`clear_events_for_instance`: forgotten without being told, unless this cloud is healed of it."""
        for waiter in self._by_server.pop(server_id, {}).values():
            if self.clear_signals:
                waiter.send(Event(waiter.key, server_id, "", status="failed"))

    def cancel_all(self) -> None:
        """`cancel_all_events`, at an orderly stop of the service: everyone is told that it failed."""
        for server_id, waiters in list(self._by_server.items()):
            for key, waiter in list(waiters.items()):
                waiter.send(Event(key, server_id, "", status="failed"))
        self._by_server.clear()

    def keys(self, server_id: str) -> list[str]:
        return list(self._by_server.get(server_id, {}))
