"""Measuring a run from outside: which guest ran while a port of it was not wired, for how long, and whose last disk went.

Owns: `Meter`, fed by the journals of the machines, so that no part of the cloud under test has to be honest about itself. The same meter counts in
the Kilo clouds (a port is wired when its tap is bridged) and in Virga's (when its tap exists, which its agent makes only together with the rest).
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from virga.agent.journal import Journal

BACKUP = "_resize"
Wired = Callable[[dict[str, Any], str], bool]


class Meter:
    """Guest-seconds and lost disks. `ports` names each server's ports."""

    def __init__(self, clock: Callable[[], float], wired: Wired) -> None:
        self._clock, self._wired = clock, wired
        self.ports: dict[str, list[str]] = {}
        self.journals: dict[str, dict[str, Any]] = {}
        self._since: dict[tuple[str, str], float] = {}
        self._unwired_s: dict[tuple[str, str], float] = {}
        self.disks_lost: list[str] = []
        self.double_runs: list[str] = []
        self._owner: dict[str, str] = {}
        self.forgiven: set[str] = set()  # servers that are being deleted: their disks may go

    def changed(self, host: str, name: str) -> None:
        room, _, key = name.partition("/")
        if room == "vm":
            self._look(host, key)
            if room == "vm" and self.journals[host].get(name) == "running" and any(
                    other != host and journal.get(name) == "running" for other, journal in self.journals.items()):
                self.double_runs.append(key)
        elif room in ("tap", "bridged"):
            if key not in self._owner:
                self._owner.update({port_id: server_id for server_id, ports in self.ports.items() for port_id in ports})
            if key in self._owner:
                self._look(host, self._owner[key])
        elif room == "disk" and name not in self.journals[host]:
            server_id = key.removesuffix(BACKUP)
            names = ("disk/" + server_id, "disk/" + server_id + BACKUP)
            if server_id not in self.forgiven and not any(each in journal for journal in self.journals.values() for each in names):
                self.disks_lost.append(server_id)

    def _look(self, host: str, server_id: str) -> None:
        journal = self.journals[host]
        bad = journal.get("vm/" + server_id) == "running" and not all(self._wired(journal, port_id) for port_id in self.ports.get(server_id, []))
        since = self._since.get((host, server_id))
        if bad and since is None:
            self._since[host, server_id] = self._clock()
        elif not bad and since is not None:
            del self._since[host, server_id]
            self._unwired_s[host, server_id] = self._unwired_s.get((host, server_id), 0.0) + self._clock() - since

    def unwired_s(self, server_id: str, only: str = "") -> float:
        """Seconds this server's guest has run on a port not wired, up to now; on host `only`, or on any."""
        now = self._clock()
        done = sum(spent for (host, whose), spent in self._unwired_s.items() if whose == server_id and only in ("", host))
        return done + sum(now - since for (host, whose), since in self._since.items() if whose == server_id and only in ("", host))


class MeteredJournal(Journal):
    """A machine's memory that tells the meter of every change."""

    def __init__(self, host: str, meter: Meter, values: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.values.update(values or {})
        self._host, self._meter = host, meter
        self.version = 0  # counts changes, so that a poll can tell at once that nothing happened
        meter.journals[host] = self.values

    def put(self, name: str, value: Any) -> None:
        super().put(name, value)
        self.version += 1
        self._meter.changed(self._host, name)
