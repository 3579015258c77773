"""Who may do what in identity: four questions that every handler of this room asks.

Rules, as OpenStack's secure RBAC has them for identity: an admin does everything. With a system-scoped token a
reader sees everything. With a domain-scoped token a reader sees what is in that domain and a manager also
changes its users, groups, projects and assignments, but hands out no role above manager. Everybody sees and
edits what is its own. A target that does not exist is 404 to who sees everything and 403 to others, so that ids
cannot be probed.
"""
from __future__ import annotations

from typing import TypeVar

from virga.api.http import Caller
from virga.domain.errors import Problem
from virga.domain.row import Row
from virga.store.db import Tx

R = TypeVar("R", bound=Row)

MANAGED_ROLES = frozenset({"manager", "member", "reader"})  # what a domain's manager may hand out


def sees_all(caller: Caller) -> bool:
    return caller.is_admin or (caller.system and "reader" in caller.roles)


def sees_domain(caller: Caller, domain_id: str) -> bool:
    return sees_all(caller) or (
        caller.domain_id is not None and caller.domain_id == domain_id and "reader" in caller.roles)


def manages(caller: Caller, domain_id: str) -> bool:
    return caller.is_admin or (
        caller.domain_id is not None and caller.domain_id == domain_id and "manager" in caller.roles)


def require(allowed: bool, action: str) -> None:
    """Raises Problem 403 naming the action."""
    if not allowed:
        raise Problem(403, f"You are not authorized to perform the requested action: identity:{action}.")


def require_admin(caller: Caller, action: str) -> None:
    require(caller.is_admin, action)


def found(tx: Tx, caller: Caller, row_type: type[R], noun: str, key: str, action: str) -> R:
    """The row, or Problem 404 (403 for a caller who could not know)."""
    row = tx.get(row_type, key)
    if row is None:
        require(sees_all(caller), action)
        raise missing(noun, key)
    return row


def missing(noun: str, key: str) -> Problem:
    return Problem(404, f"Could not find {noun}: {key}.")


def list_domain(caller: Caller, action: str) -> str | None:
    """None when the caller may list everything, else the one domain it may list. Raises Problem 403 when neither."""
    if sees_all(caller):
        return None
    require(caller.domain_id is not None and "reader" in caller.roles, action)
    return caller.domain_id
