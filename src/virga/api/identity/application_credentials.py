"""Application credentials: a secret a user makes for a program, good for some of its roles on one project.

Rules: only the user itself makes and deletes its own, with a token for the project concerned, and hands on no
role that token lacks. The secret is shown once and kept as an argon2 string. One that is not `unrestricted`
cannot make or delete others. It dies with its user, its project and its own date, and is worth no more than the
roles the user still holds. With access rules it is good for the requests they name and no others; the front
door asks before any handler runs.
"""
from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.responses import Response

from virga.api.http import Call, Caller, reply
from virga.api.identity import access_rules, reach
from virga.api.identity.access_rules import RULES_MAX, RuleBody
from virga.api.identity.secret import PASSWORD_BYTES_MAX, hash_secret
from virga.api.identity.session import Session
from virga.api.identity.shape import Id, Name255, Text, hex_id, incoming, links, listing, moment, stamp, write
from virga.domain.errors import Problem
from virga.domain.identity import AccessRule, ApplicationCredential, Project, Role, Token, User
from virga.store.db import Tx

SECRET_BYTES = 43
CONFLICT = "The user has another application credential of this name."


class RoleRef(msgspec.Struct):
    id: Id | None = None
    name: Name255 | None = None


class NewCredential(msgspec.Struct):
    name: Name255
    secret: Annotated[str, Meta(min_length=1, max_length=PASSWORD_BYTES_MAX)] | None = None
    description: Text | None = None
    expires_at: str | None = None
    roles: list[RoleRef] = []
    unrestricted: bool = False
    access_rules: Annotated[list[RuleBody], Meta(max_length=RULES_MAX)] | None = None


def view(tx: Tx, call: Call, row: ApplicationCredential, roles: dict[str, Role]) -> dict[str, Any]:
    held = [roles[role_id] for role_id in row.role_ids if role_id in roles]
    return {
        "id": row.id, "name": row.name, "description": row.description, "project_id": row.project_id, "user_id": row.user_id,
        "system": None, "unrestricted": row.unrestricted,
        "access_rules": None if row.access_rule_ids is None else [
            access_rules.short(rule) for rule in tx.find(AccessRule, id=row.access_rule_ids)],
        "expires_at": (stamp(row.expires_at) or "").rstrip("Z") or None,
        "roles": [{"id": role.id, "name": role.name, "domain_id": role.domain_id or None} for role in held],
        "links": links(call, "users", row.user_id, "application_credentials", row.id)}


def check_owner(tx: Tx, call: Call, action: str, write_it: bool) -> str:
    """The user of the path, when the caller may do this with its credentials."""
    caller = call.caller
    user_id = call.params["user_id"]
    if user_id != caller.user_id:
        user = reach.found(tx, caller, User, "user", user_id, action)
        # An admin may look at and remove another's, never make one in its name.
        reach.require(caller.is_admin if write_it else reach.sees_domain(caller, user.domain_id), action)
    if write_it:
        check_unrestricted(caller)
    return user_id


def check_unrestricted(caller: Caller) -> None:
    session: Session = caller.token
    used = session.application_credential
    if session.trust is not None:
        raise Problem(403, "A token made with a trust cannot manage application credentials.")
    if used is not None and not used.unrestricted:
        raise Problem(403, "A restricted application credential cannot manage application credentials.")


def chosen_roles(caller: Caller, asked: list[RoleRef]) -> list[str]:
    """The ids of the roles to hand on: those named, else all of the token's. Raises Problem 400."""
    session: Session = caller.token
    have = {role.id: role for role in session.roles}
    by_name = {role.name: role.id for role in session.roles}
    if not asked:
        return list(have)
    ids = []
    for ref in asked:
        role_id = ref.id if ref.id is not None else by_name.get(ref.name or "")
        if role_id is None or role_id not in have:
            raise Problem(400, f"Invalid input for field application_credential.roles: your token does not hold the role "
                               f"{ref.id or ref.name!r}.")
        ids.append(role_id)
    return list(dict.fromkeys(ids))


async def create(call: Call) -> Response:
    caller = call.caller
    reach.require(call.params["user_id"] == caller.user_id, "create_application_credential")
    check_unrestricted(caller)
    body, _ = await incoming(call, "application_credential", NewCredential)
    if caller.project_id is None:
        raise Problem(400, "An application credential needs a token for the project it is to be good for.")
    expires_at = None if body.expires_at is None else moment(body.expires_at, "application_credential.expires_at")
    if expires_at is not None and expires_at <= call.cloud.env.now():
        raise Problem(400, "Invalid input for field application_credential.expires_at: it lies in the past.")
    role_ids = chosen_roles(caller, body.roles)
    secret = body.secret or call.cloud.env.token_hex(SECRET_BYTES)
    hashed = await hash_secret(call.cloud.env, call.cloud.config, secret)
    project_id = caller.project_id

    def closure(tx: Tx) -> dict[str, Any]:
        if tx.get(User, caller.user_id) is None or tx.get(Project, project_id) is None:
            raise reach.missing("user", caller.user_id)
        rules = None
        if body.access_rules:
            rules = [access_rules.ensure(tx, caller.user_id, rule) for rule in body.access_rules]
        row = ApplicationCredential(hex_id(tx), body.name, caller.user_id, project_id, body.description, hashed, role_ids,
                                    body.unrestricted, rules, expires_at, tx.now)
        tx.insert(row)
        return view(tx, call, row, {role.id: role for role in tx.find(Role)})

    shown = await write(call, CONFLICT, closure)
    return reply(201, {"application_credential": {**shown, "secret": secret}})


async def list_all(call: Call) -> Response:
    def closure(tx: Tx) -> list[dict[str, Any]]:
        user_id = check_owner(tx, call, "list_application_credentials", False)
        roles = {role.id: role for role in tx.find(Role)}
        return [view(tx, call, row, roles) for row in
                tx.find(ApplicationCredential, user_id=user_id, sort=[("name", False), ("id", False)])]

    return listing(call, "application_credentials", await call.cloud.db.read(closure), ("name",))


def find(tx: Tx, call: Call, action: str, write_it: bool) -> ApplicationCredential:
    user_id = check_owner(tx, call, action, write_it)
    row = tx.get(ApplicationCredential, call.params["credential_id"])
    if row is None or row.user_id != user_id:
        raise reach.missing("application credential", call.params["credential_id"])
    return row


async def show(call: Call) -> Response:
    def closure(tx: Tx) -> dict[str, Any]:
        row = find(tx, call, "get_application_credential", False)
        return view(tx, call, row, {role.id: role for role in tx.find(Role)})

    return reply(200, {"application_credential": await call.cloud.db.read(closure)})


async def delete(call: Call) -> Response:
    def closure(tx: Tx) -> None:
        row = find(tx, call, "delete_application_credential", True)
        tx.delete_where(Token, application_credential_id=row.id)
        tx.delete(ApplicationCredential, row.id)

    await write(call, CONFLICT, closure)
    return reply(204)
