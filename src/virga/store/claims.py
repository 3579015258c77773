"""Sums of claims, in one statement: what is taken of every host, and of one project's quota."""
from __future__ import annotations

from virga.domain.placement import Room
from virga.store.db import Tx


def room_used(tx: Tx) -> dict[str, Room]:
    """host name -> sum of its claims."""
    rows = tx.sql("SELECT host, sum(vcpus), sum(ram_mb), sum(disk_gb) FROM claims GROUP BY host")
    return {host: Room(vcpus, ram_mb, disk_gb) for host, vcpus, ram_mb, disk_gb in rows}
