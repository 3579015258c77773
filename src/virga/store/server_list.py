"""Reading many servers at once: the list filters of the compute API as SQL, and everything a view of a server
shows.

Owns: `ServerFilter`, `select_servers`, and the raw parts of a view (`server_rows`, `port_rows`, ...). Rows come
back raw, as SQLite gave them: a view that was encoded before is found again by comparing them, and only a row that
changed is decoded (api/compute/server_views.py).
Rules: one statement a kind of thing, never one a server. What SQL cannot say (a user's regular expression) is a
predicate on a few columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from virga.domain.network import FloatingIp, Network, SecurityGroup
from virga.domain.placement import Host
from virga.domain.port import Port
from virga.domain.server import Server
from virga.store.db import Tx
from virga.store.memory import MemoryTx
from virga.store.rows import after_marker, order_by, table_of

Raw = tuple[Any, ...]
_TABLE = table_of(Server)
_COLUMNS = _TABLE.select.removeprefix("SELECT ").partition(" FROM ")[0]
PREDICATE_COLUMNS = ("id", "name", "description", "hostname", "tags")


class StatusFilter(msgspec.Struct, frozen=True):
    """One vm_state with the task states that count; `other` turns the list round: all but these."""

    vm_state: str
    task_states: tuple[str, ...] = ()
    other: bool = True


class ServerFilter(msgspec.Struct):
    """What the servers of a list have in common. None and empty fields do not filter.

    `equal` maps a column to a value or a list of them; `at` maps a time column to a whole second. Times are seconds
    since the epoch. `address` looks at one fixed IP text at a time, `predicate` at a dict of PREDICATE_COLUMNS (tags
    still as JSON text).
    """

    equal: dict[str, Any] = {}
    at: dict[str, float] = {}
    deleted: bool | None = False
    states: list[StatusFilter] | None = None
    flavor_id: str | None = None
    zone: str | None = None
    changed_since: float | None = None
    changed_before: float | None = None
    address: Callable[[str], bool] | None = None
    predicate: Callable[[dict[str, Any]], bool] | None = None


def _where(wanted: ServerFilter) -> tuple[str, list[Any]]:
    text, values = _TABLE.where(wanted.equal)
    parts = [text] if text else []
    if wanted.deleted is not None:
        parts.append(f"deleted_at IS {'NOT NULL' if wanted.deleted else 'NULL'}")
    for column, second in wanted.at.items():
        if column not in _TABLE.fields:
            raise AttributeError(f"servers has no column {column}")
        parts.append(f'"{column}" >= ? AND "{column}" < ? + 1')
        values += [second, second]
    if wanted.states is not None:
        arms: list[str] = []
        for state in wanted.states:
            marks = ", ".join("?" * len(state.task_states))
            arms.append(f"(vm_state = ? AND coalesce(task_state, '') {'NOT ' if state.other else ''}IN ({marks}))")
            values += [state.vm_state, *state.task_states]
        parts.append(f"({' OR '.join(arms)})" if arms else "0")
    if wanted.flavor_id is not None:
        parts.append("json_extract(flavor, '$.id') = ?")
        values.append(wanted.flavor_id)
    if wanted.zone is not None:
        parts.append(
            "coalesce((SELECT availability_zone FROM hosts WHERE hosts.name = servers.host), availability_zone) = ?"
        )
        values.append(wanted.zone)
    changed = "max(created_at, coalesce(updated_at, 0), coalesce(deleted_at, 0))"
    if wanted.changed_since is not None:
        parts.append(f"{changed} >= ?")
        values.append(wanted.changed_since)
    if wanted.changed_before is not None:
        parts.append(f"{changed} <= ?")
        values.append(wanted.changed_before)
    return " AND ".join(parts) or "1", values


def select_servers(
    tx: Tx,
    wanted: ServerFilter,
    *,
    sort: Sequence[tuple[str, bool]],
    limit: int,
    after: Server | None = None,
    brief: bool = False,
) -> list[Raw]:
    """At most `limit` raw server rows behind the marker row `after`, in order; `brief` rows are (id, name)."""
    columns = "id, name" if brief else _COLUMNS
    where, values = _where(wanted)
    if after is not None:
        behind, more = after_marker(_TABLE, sort, after)
        where, values = f"{where} AND {behind}", [*values, *more]
    order = order_by(_TABLE, sort)
    if wanted.predicate is None and wanted.address is None:
        return tx.sql(f"SELECT {columns} FROM servers WHERE {where} ORDER BY {order} LIMIT {int(limit)}", values)
    ids = _matching(tx, wanted, where, values, order, limit)
    if not ids:
        return []
    marks = ", ".join("?" * len(ids))
    return tx.sql(f"SELECT {columns} FROM servers WHERE id IN ({marks}) ORDER BY {order}", ids)


def _matching(tx: Tx, wanted: ServerFilter, where: str, values: list[Any], order: str, limit: int) -> list[str]:
    """Ids of the first `limit` servers that also meet the predicates."""
    near: set[str] | None = None
    if wanted.address is not None:
        near = set()
        for device_id, address in tx.sql(
            "SELECT p.device_id, json_extract(a.value, '$.ip_address') FROM ports p, json_each(p.fixed_ips) a"
            f" WHERE p.device_id IN (SELECT id FROM servers WHERE {where})",
            values,
        ):
            if device_id not in near and wanted.address(address):
                near.add(device_id)
    columns = ", ".join(PREDICATE_COLUMNS)
    found: list[str] = []
    for row in tx.sql(f"SELECT {columns} FROM servers WHERE {where} ORDER BY {order}", values):
        if near is not None and row[0] not in near:
            continue
        if wanted.predicate is None or wanted.predicate(dict(zip(PREDICATE_COLUMNS, row, strict=True))):
            found.append(row[0])
            if len(found) == limit:
                break
    return found


def decode(raw: Raw) -> Server:
    """A raw row as the Struct it stands for."""
    server: Server = _TABLE.read(raw)
    return server


def server_rows(tx: Tx, server_ids: Sequence[str]) -> list[Raw]:
    """Raw rows of these servers, in any order, deleted ones too."""
    if isinstance(tx, MemoryTx):
        return tx.raw(Server, _TABLE.fields, id=list(server_ids))
    marks = ", ".join("?" * len(server_ids))
    return tx.sql(f"SELECT {_COLUMNS} FROM servers WHERE id IN ({marks})", server_ids)


def port_rows(tx: Tx, server_ids: Sequence[str]) -> list[Raw]:
    """(server id, port id, network name, MAC, fixed IPs as JSON, security group ids as JSON), oldest port first."""
    if isinstance(tx, MemoryTx):
        names: dict[str, Any] = dict(tx.raw(Network, ("id", "name")))
        ports = tx.raw(Port, ("created_at", "id", "device_id", "network_id", "mac_address", "fixed_ips", "security_groups"), device_id=list(server_ids))
        return [(device_id, port_id, names[network_id], *rest) for _, port_id, device_id, network_id, *rest in sorted(ports) if network_id in names]
    marks = ", ".join("?" * len(server_ids))
    return tx.sql(
        "SELECT p.device_id, p.id, n.name, p.mac_address, p.fixed_ips, p.security_groups"
        " FROM ports p JOIN networks n ON n.id = p.network_id"
        f" WHERE p.device_id IN ({marks}) ORDER BY p.created_at, p.id",
        server_ids,
    )


def floating_rows(tx: Tx, server_ids: Sequence[str]) -> list[Raw]:
    """(port id, fixed address, floating address) of the floating IPs that lead to these servers."""
    if isinstance(tx, MemoryTx):
        ports = [port_id for (port_id,) in tx.raw(Port, ("id",), device_id=list(server_ids))]
        found = tx.raw(FloatingIp, ("port_id", "fixed_ip_address", "floating_ip_address"), port_id=ports)
        return sorted(found, key=lambda row: row[2])
    marks = ", ".join("?" * len(server_ids))
    return tx.sql(
        "SELECT f.port_id, f.fixed_ip_address, f.floating_ip_address"
        " FROM floating_ips f JOIN ports p ON p.id = f.port_id"
        f" WHERE f.port_id IS NOT NULL AND p.device_id IN ({marks}) ORDER BY f.floating_ip_address",
        server_ids,
    )


def group_names(tx: Tx, group_ids: Sequence[str]) -> dict[str, str]:
    """id -> name of these security groups."""
    if isinstance(tx, MemoryTx):
        return dict(tx.raw(SecurityGroup, ("id", "name"), id=list(group_ids)))
    marks = ", ".join("?" * len(group_ids))
    return dict(tx.sql(f"SELECT id, name FROM security_groups WHERE id IN ({marks})", group_ids))


def host_rows(tx: Tx) -> dict[str, Raw]:
    """host name -> (state, disabled, forced down, availability zone)."""
    if isinstance(tx, MemoryTx):
        rows = tx.raw(Host, ("name", "state", "disabled", "forced_down", "availability_zone"))
    else:
        rows = tx.sql("SELECT name, state, disabled, forced_down, availability_zone FROM hosts")
    return {row[0]: row[1:] for row in rows}
