"""Sums of claims, in one statement: what is taken of every host, and of one project's quota."""
from __future__ import annotations

from virga.domain.placement import Claim, Room
from virga.store.db import Tx
from virga.store.memory import MemoryTx


def room_used(tx: Tx) -> dict[str, Room]:
    """host name -> sum of its claims."""
    if isinstance(tx, MemoryTx):
        return _room_used(tx)
    rows = tx.sql("SELECT host, sum(vcpus), sum(ram_mb), sum(disk_gb) FROM claims GROUP BY host")
    return {host: Room(vcpus, ram_mb, disk_gb) for host, vcpus, ram_mb, disk_gb in rows}


def _room_used(tx: MemoryTx) -> dict[str, Room]:
    """The same in Python."""
    sums: dict[str, tuple[int, int, int]] = {}
    for host, vcpus, ram_mb, disk_gb in tx.raw(Claim, ("host", "vcpus", "ram_mb", "disk_gb")):
        before = sums.get(host, (0, 0, 0))
        sums[host] = (before[0] + vcpus, before[1] + ram_mb, before[2] + disk_gb)
    return {host: Room(*sums[host]) for host in sorted(sums)}
