"""Users: people and programs that can log in, their passwords, and what they may reach.

Rules: names are unique in a domain. Changing a password, disabling or deleting ends all tokens of the user. A
user may look at itself and change its own password by showing the old one (no token needed, so that an expired
one is no trap), unless the option lock_password is set.
"""
from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.responses import Response

from virga.api.http import Call, reply
from virga.api.identity import lockout, reach, removal, revoke
from virga.api.identity.projects import home_domain, need_domain
from virga.api.identity.projects import view as project_view
from virga.api.identity.secret import PASSWORD_BYTES_MAX, hash_secret, verify
from virga.api.identity.shape import (
    Id,
    Name255,
    Text,
    changes_of,
    filters,
    given,
    hex_id,
    incoming,
    links,
    listing,
    merged_options,
    write,
)
from virga.domain.errors import Problem
from virga.domain.identity import Project, User
from virga.store.db import Tx
from virga.store.identity import holds_admin, projects_of

USER_OPTIONS: dict[str, type] = {
    "ignore_change_password_upon_first_use": bool, "ignore_password_expiry": bool, "ignore_user_inactivity": bool,
    "ignore_lockout_failure_attempts": bool, "lock_password": bool, "multi_factor_auth_enabled": bool,
    "multi_factor_auth_rules": list,
}
NOT_OFFERED = ("multi_factor_auth_enabled", "multi_factor_auth_rules")
CONFLICT = "There is another user of this name in the domain."
ATTRIBUTES = ("name", "domain_id", "enabled", "description", "email", "default_project_id")
Password = Annotated[str, Meta(max_length=PASSWORD_BYTES_MAX)]


class NewUser(msgspec.Struct):
    name: Name255
    password: Password | None = None
    domain_id: Id | None = None
    enabled: bool = True
    default_project_id: Id | None = None
    description: Text | None = None
    options: dict[str, Any] = {}
    federated: list[Any] = []


class UserChange(msgspec.Struct):
    name: Name255 | UnsetType = UNSET
    password: Password | UnsetType | None = UNSET
    domain_id: Id | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    default_project_id: Id | UnsetType | None = UNSET
    description: Text | UnsetType | None = UNSET
    options: dict[str, Any] | UnsetType = UNSET
    federated: list[Any] | UnsetType = UNSET


class PasswordChange(msgspec.Struct):
    password: Annotated[str, Meta(min_length=1, max_length=PASSWORD_BYTES_MAX)]
    original_password: Password


def view(call: Call, row: User) -> dict[str, Any]:
    shown = {**row.extra, "id": row.id, "name": row.name, "domain_id": row.domain_id, "enabled": row.enabled,
             "options": row.options, "password_expires_at": None, "links": links(call, "users", row.id)}
    if row.default_project_id is not None:
        shown["default_project_id"] = row.default_project_id
    if row.description is not None:
        shown["description"] = row.description
    return shown


def find(tx: Tx, call: Call, action: str, *, own: bool = False, write_it: bool = False) -> User:
    """The user of the path; `own` lets the user itself pass."""
    caller = call.caller
    row = tx.get(User, call.params["user_id"])
    if row is None:
        reach.require(reach.sees_all(caller), action)
        raise reach.missing("user", call.params["user_id"])
    allowed = (reach.manages if write_it else reach.sees_domain)(caller, row.domain_id)
    reach.require(allowed or (own and row.id == caller.user_id), action)
    if write_it and not caller.is_admin:
        # Whoever may set an administrator's password is one: a manager may not.
        reach.require(not holds_admin(tx, "user", row.id), action)
    return row


def no_federation(federated: list[Any]) -> None:
    if federated:
        raise Problem(400, "Invalid input for field user.federated: federation is not offered by this cloud.")


async def list_users(call: Call) -> Response:
    only = reach.list_domain(call.caller, "list_users")
    conditions = filters(call, "name", "domain_id")
    reach.require(only is None or conditions.get("domain_id", only) == only, "list_users")
    if only is not None:
        conditions["domain_id"] = only
    rows = await call.cloud.db.read(lambda tx: tx.find(User, sort=[("name", False), ("id", False)], **conditions))
    return listing(call, "users", [view(call, row) for row in rows], ATTRIBUTES)


async def create_user(call: Call) -> Response:
    body, extra = await incoming(call, "user", NewUser)
    domain_id = home_domain(call, body.domain_id)
    reach.require(reach.manages(call.caller, domain_id), "create_user")
    no_federation(body.federated)
    options = merged_options("user", {}, body.options, USER_OPTIONS, NOT_OFFERED)
    hashed = None
    if body.password is not None:
        hashed = await hash_secret(call.cloud.env, call.cloud.config, body.password)

    def closure(tx: Tx) -> User:
        need_domain(tx, domain_id, "user.domain_id")
        check_default_project(tx, body.default_project_id)
        row = User(hex_id(tx), body.name, domain_id, body.enabled, hashed, tx.now if hashed else None,
                   body.default_project_id, body.description, options, extra, tx.now)
        tx.insert(row)
        return row

    return reply(201, {"user": view(call, await write(call, CONFLICT, closure))})


def check_default_project(tx: Tx, project_id: str | None) -> None:
    """It need not exist (nor be the user's), but it must not be a domain. Raises Problem 400."""
    row = tx.get(Project, project_id) if project_id else None
    if row is not None and row.is_domain:
        raise Problem(400, "Invalid input for field user.default_project_id: it cannot be a domain.")


async def show_user(call: Call) -> Response:
    row = await call.cloud.db.read(lambda tx: find(tx, call, "get_user", own=True))
    return reply(200, {"user": view(call, row)})


async def update_user(call: Call) -> Response:
    body, extra = await incoming(call, "user", UserChange)
    await call.cloud.db.read(lambda tx: find(tx, call, "update_user", write_it=True))
    no_federation(given(body.federated, []))
    hashed = None
    if isinstance(body.password, str):
        hashed = await hash_secret(call.cloud.env, call.cloud.config, body.password)

    def closure(tx: Tx) -> User:
        row = find(tx, call, "update_user", write_it=True)
        changes = changes_of(body)
        changes.pop("federated", None)
        if changes.pop("domain_id", row.domain_id) != row.domain_id:
            raise Problem(400, "Invalid input for field user.domain_id: a user cannot change its domain.")
        if "options" in changes:
            changes["options"] = merged_options("user", row.options, changes["options"], USER_OPTIONS, NOT_OFFERED)
        check_default_project(tx, changes.get("default_project_id"))
        if "password" in changes:
            changes.pop("password")
            # An administrator's new password also unlocks.
            changes |= {"password_hash": hashed, "password_changed_at": tx.now, "failures": 0, "failed_at": None}
        tx.update(User, row.id, **changes, extra={**row.extra, **extra})
        if "password_hash" in changes or changes.get("enabled") is False:
            revoke.of_user(tx, row.id)
        return tx.need(User, row.id)

    return reply(200, {"user": view(call, await write(call, CONFLICT, closure))})


async def change_password(call: Call) -> Response:
    """Open to everybody who knows the old password; the token, if any, is not looked at."""
    body, _ = await incoming(call, "user", PasswordChange)
    user_id = call.params["user_id"]
    env, config = call.cloud.env, call.cloud.config
    row = await call.cloud.db.read(lambda tx: tx.get(User, user_id))
    right = await verify(env, config, row.password_hash if row else None, body.original_password)
    if row is None or not await lockout.passes(call.cloud, row, right) or not row.enabled:
        raise Problem(401, "The request you have made requires authentication: user or old password is wrong.")
    if row.options.get("lock_password"):
        raise Problem(400, "The password of this user is locked: only an administrator can change it.")
    if body.password == body.original_password:
        raise Problem(400, "Invalid input for field user.password: it is the old password.")
    kept = max(0, config.identity.unique_last_password_count - 1)
    for old in row.old_hashes[:kept]:
        if await verify(env, config, old, body.password):
            raise Problem(400, "Invalid input for field user.password: it is one of the user's last "
                               f"{config.identity.unique_last_password_count} passwords, which cannot be used again.")
    hashed = await hash_secret(env, config, body.password)
    seen = row.password_hash
    old_hashes = [seen, *row.old_hashes][:kept] if seen else row.old_hashes[:kept]

    def closure(tx: Tx) -> None:
        # Two changes at once: the second must have known the first's password.
        if not tx.count(User, id=user_id, password_hash=seen):
            raise Problem(409, "The password was changed by somebody else meanwhile.")
        tx.update(User, user_id, password_hash=hashed, password_changed_at=tx.now, old_hashes=old_hashes)
        revoke.of_user(tx, user_id)

    await write(call, CONFLICT, closure)
    return reply(204)


async def delete_user(call: Call) -> Response:
    await write(call, CONFLICT, lambda tx: removal.delete_user(tx, find(tx, call, "delete_user", write_it=True).id))
    return reply(204)


async def list_user_projects(call: Call) -> Response:
    rows = await call.cloud.db.read(
        lambda tx: projects_of(tx, find(tx, call, "list_user_projects", own=True).id))
    return listing(call, "projects", [project_view(call, row) for row in rows],
                   ("name", "domain_id", "parent_id", "enabled"))
