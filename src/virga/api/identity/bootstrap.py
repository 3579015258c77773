"""The first domain, projects, users, roles and the catalog of a new cloud.

Rules: idempotent: what is there stays as it is, so a password changed later survives a restart. Passwords come
hashed, because hashing takes long and a transaction must not. The roles form the chain admin, manager, member,
reader; they are immutable, as upstream makes them.
"""
from __future__ import annotations

from itertools import pairwise

import msgspec

from virga.api.identity.catalog import ensure_catalog
from virga.api.identity.shape import hex_id
from virga.domain.config import Config
from virga.domain.identity import (
    DEFAULT_DOMAIN_ID,
    SYSTEM,
    ActorKind,
    Assignment,
    Implication,
    Project,
    Role,
    TargetKind,
    User,
)
from virga.store.db import Tx
from virga.store.identity import touch

CHAIN = ("admin", "manager", "member", "reader")


class Founders(msgspec.Struct):
    """Ids of what every cloud has from its first start, by name: projects admin, demo, service; users admin, demo."""

    domain_id: str
    projects: dict[str, str]
    users: dict[str, str]
    roles: dict[str, str]


def bootstrap(tx: Tx, config: Config, hashed_admin_password: str, hashed_demo_password: str | None = None) -> Founders:
    """Make what is missing. Without `hashed_demo_password` the user demo cannot log in until an admin sets one."""
    if tx.get(Project, DEFAULT_DOMAIN_ID) is None:
        tx.insert(Project(DEFAULT_DOMAIN_ID, "Default", "", "", True, "The default domain", True, [], {}, {}, tx.now))
    roles = {name: ensure_role(tx, name) for name in (*CHAIN, "service")}
    for prior, implied in pairwise(CHAIN):
        tx.put(Implication(roles[prior], roles[implied]))
    projects = {name: ensure_project(tx, name) for name in ("admin", "demo", "service")}
    users = {
        "admin": ensure_user(tx, "admin", hashed_admin_password, projects["admin"]),
        "demo": ensure_user(tx, "demo", hashed_demo_password, projects["demo"]),
    }
    grant(tx, users["admin"], "project", projects["admin"], roles["admin"])
    grant(tx, users["admin"], "project", projects["demo"], roles["admin"])
    grant(tx, users["admin"], "domain", DEFAULT_DOMAIN_ID, roles["admin"])
    grant(tx, users["admin"], "system", SYSTEM, roles["admin"])
    grant(tx, users["demo"], "project", projects["demo"], roles["member"])
    ensure_catalog(tx, config.region)
    touch(tx)
    return Founders(DEFAULT_DOMAIN_ID, projects, users, roles)


def ensure_role(tx: Tx, name: str) -> str:
    role = tx.one(Role, name=name, domain_id="")
    if role is None:
        role = Role(hex_id(tx), name, "", None, {"immutable": True}, {}, tx.now)
        tx.insert(role)
    return role.id


def ensure_project(tx: Tx, name: str) -> str:
    project = tx.one(Project, name=name, domain_id=DEFAULT_DOMAIN_ID)
    if project is None:
        project = Project(hex_id(tx), name, DEFAULT_DOMAIN_ID, DEFAULT_DOMAIN_ID, False, "", True, [], {}, {}, tx.now)
        tx.insert(project)
    return project.id


def ensure_user(tx: Tx, name: str, password_hash: str | None, project_id: str) -> str:
    user = tx.one(User, name=name, domain_id=DEFAULT_DOMAIN_ID)
    if user is None:
        user = User(hex_id(tx), name, DEFAULT_DOMAIN_ID, True, password_hash, tx.now, project_id, None, {}, {}, tx.now)
        tx.insert(user)
    return user.id


def grant(
    tx: Tx, actor_id: str, kind: TargetKind, target_id: str, role_id: str, actor_kind: ActorKind = "user",
) -> None:
    tx.put(Assignment(actor_kind, actor_id, kind, target_id, role_id, False))
