"""A project's compute limits and what it uses, read inside a transaction.

Owns: the order in which a limit is looked for (user, project, class `default`, configuration) and the counting of
servers, cores and memory. Used by the quota and limits handlers, and by ops before it lets a server in. -1 is
unlimited. MiB for ram.
"""
from __future__ import annotations

from typing import Any

from virga.domain.compute import (
    QUOTA_CONFIGURED,
    QUOTA_FIXED,
    Keypair,
    QuotaClassLimit,
    QuotaLimit,
    ServerGroup,
)
from virga.domain.config import Config
from virga.domain.errors import Problem
from virga.domain.server import Server
from virga.store.db import Tx
from virga.store.memory import MemoryTx

# Counted by the database: this runs before every boot, and a project may have thousands of servers. While a resize is
# unconfirmed both flavors hold room; the greater one is what the quota has to bear.
_AMOUNT = "coalesce(sum(max(json_extract(flavor, '$.{0}'), coalesce(json_extract(old_flavor, '$.{0}'), 0))), 0)"
_SERVERS = (f"SELECT count(*), {_AMOUNT.format('vcpus')}, {_AMOUNT.format('ram_mb')} FROM servers"
            " WHERE project_id = ? AND deleted_at IS NULL")
OWNED = (*QUOTA_CONFIGURED, *QUOTA_FIXED)


def default_limits(tx: Tx, config: Config, class_name: str = "default") -> dict[str, int]:
    """The limits of a project that has none of its own."""
    limits = {name: int(getattr(config.quota, option)) for name, option in QUOTA_CONFIGURED.items()}
    limits.update(QUOTA_FIXED)
    limits.update({row.resource: row.limit for row in tx.find(QuotaClassLimit, class_name=class_name)})
    return limits


def project_limits(tx: Tx, config: Config, project_id: str, user_id: str = "") -> dict[str, int]:
    """The limits that hold for a project, or for one user in it."""
    limits = default_limits(tx, config)
    limits.update({row.resource: row.limit for row in tx.find(QuotaLimit, project_id=project_id, user_id="")})
    if user_id:
        own = tx.find(QuotaLimit, project_id=project_id, user_id=user_id)
        limits.update({row.resource: row.limit for row in own})
    return limits


def project_usage(tx: Tx, project_id: str, user_id: str = "") -> dict[str, int]:
    """What the project's servers use now, by resource; resources nobody counts are 0."""
    usage = dict.fromkeys(OWNED, 0)
    counted = _count_servers(tx, project_id, user_id)
    usage.update(zip(("instances", "cores", "ram"), (int(number) for number in counted), strict=True))
    usage["server_groups"] = tx.count(ServerGroup, project_id=project_id)
    if user_id:
        usage["key_pairs"] = tx.count(Keypair, user_id=user_id)
    return usage


def _count_servers(tx: Tx, project_id: str, user_id: str) -> tuple[Any, ...]:
    """Servers, cores and MiB of memory in use."""
    if not isinstance(tx, MemoryTx):
        values = [project_id, *([user_id] if user_id else [])]
        return tx.sql(_SERVERS + (" AND user_id = ?" if user_id else ""), values)[0]
    servers = tx.find(Server, project_id=project_id, deleted_at=None)
    flavors = [(server.flavor, server.old_flavor or server.flavor) for server in servers if not user_id or server.user_id == user_id]
    return len(flavors), sum(max(new.vcpus, old.vcpus) for new, old in flavors), sum(max(new.ram_mb, old.ram_mb) for new, old in flavors)


def check_room(
    tx: Tx, config: Config, project_id: str, user_id: str, *, instances: int = 0, cores: int = 0, ram_mb: int = 0
) -> None:
    """Raises Problem 403 that names what would be exceeded when the project asks for this much more."""
    wanted = {"instances": instances, "cores": cores, "ram": ram_mb}
    limits, usage = project_limits(tx, config, project_id), project_usage(tx, project_id)
    over = [name for name, more in wanted.items() if more > 0 and 0 <= limits[name] < usage[name] + more]
    if over:
        told = ", ".join(f"{name}: asked for {wanted[name]}, in use {usage[name]} of {limits[name]}" for name in over)
        raise Problem(403, f"Quota exceeded for {told}.")
    if user_id and tx.count(QuotaLimit, project_id=project_id, user_id=user_id):
        own, used = project_limits(tx, config, project_id, user_id), project_usage(tx, project_id, user_id)
        over = [name for name, more in wanted.items() if more > 0 and 0 <= own[name] < used[name] + more]
        if over:
            raise Problem(403, f"Quota of this user exceeded for {', '.join(over)}.")
