"""How many networks, ports and the like a project may have.

A project's own limit (`NetworkQuota`) wins over the configured default; -1 is unlimited. The count is made in the
transaction that adds the row, so two requests at once cannot both take the last place.
"""
from __future__ import annotations

from virga.domain.ask import Ask
from virga.domain.config import Quota
from virga.domain.errors import Problem
from virga.domain.network import (
    AddressGroup,
    FloatingIp,
    Network,
    NetworkQuota,
    RbacPolicy,
    Router,
    SecurityGroup,
    SecurityGroupRule,
    Subnet,
    SubnetPool,
)
from virga.domain.port import Port
from virga.domain.row import Row
from virga.store.db import Tx

UNLIMITED = -1
COUNTED: dict[str, type[Row]] = {
    "network": Network, "subnet": Subnet, "subnetpool": SubnetPool, "port": Port, "router": Router, "floatingip": FloatingIp,
    "security_group": SecurityGroup, "security_group_rule": SecurityGroupRule, "rbac_policy": RbacPolicy,
    "address_group": AddressGroup,
}


def default_limit(quota: Quota, resource: str) -> int:
    """The configured limit; kinds the configuration does not name are unlimited."""
    value = getattr(quota, resource, UNLIMITED)
    return value if isinstance(value, int) else UNLIMITED


def limit_of(tx: Tx, quota: Quota, project_id: str, resource: str) -> int:
    own = tx.get(NetworkQuota, project_id, resource)
    return default_limit(quota, resource) if own is None else own.value


def used(tx: Tx, project_id: str, resource: str) -> int:
    return tx.count(COUNTED[resource], project_id=project_id)


def need_room(tx: Tx, ask: Ask, project_id: str, resource: str, more: int = 1) -> None:
    """Raises Problem 409 OverQuota when the project may not have `more` of them."""
    limit = limit_of(tx, ask.config.quota, project_id, resource)
    if limit == UNLIMITED or not project_id:
        return
    have = used(tx, project_id, resource)
    if have + more > limit:
        raise Problem(409, f"Quota exceeded for resources: ['{resource}']. {have} of {limit} are in use.", "OverQuota")
