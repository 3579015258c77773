"""Access rules: the requests an application credential may make, kept per user and shared by its credentials.

Rules: a rule is made by naming it in a new application credential and found again when the same one is named
once more; it is deleted only when no credential uses it. A path is that below the service's address,
`/v2.1/servers/*/ips`.
"""
from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.responses import Response

from virga.api.http import Call, reply
from virga.api.identity import reach
from virga.api.identity.shape import Id, hex_id, links, listing, write
from virga.domain.errors import Problem
from virga.domain.identity import AccessRule, ApplicationCredential, User
from virga.store.db import Tx

RULES_MAX = 64
PATH_PARTS_MAX = 32
ANY_PARTS_MAX = 3
CONFLICT = "The access rule was changed by somebody else meanwhile."


class RuleBody(msgspec.Struct):
    """Either the id of an existing rule, or all the rest."""

    id: Id | None = None
    service: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] | None = None
    path: Annotated[str, Meta(min_length=1, max_length=255, pattern="^/")] | None = None


def short(row: AccessRule) -> dict[str, Any]:
    return {"id": row.id, "service": row.service, "method": row.method, "path": row.path}


def view(call: Call, row: AccessRule) -> dict[str, Any]:
    return {**short(row), "links": links(call, "users", row.user_id, "access_rules", row.id)}


def ensure(tx: Tx, user_id: str, body: RuleBody) -> str:
    """The id of the user's rule that says this. Raises Problem 400."""
    field = "application_credential.access_rules"
    if body.id is not None:
        row = tx.get(AccessRule, body.id)
        if row is None or row.user_id != user_id:
            raise Problem(400, f"Invalid input for field {field}: you have no access rule {body.id}.")
        return row.id
    if body.service is None or body.method is None or body.path is None:
        raise Problem(400, f"Invalid input for field {field}: a rule needs service, method and path.")
    if body.path.count("/") > PATH_PARTS_MAX or body.path.count("**") > ANY_PARTS_MAX:
        raise Problem(400, f"Invalid input for field {field}: a path has at most {PATH_PARTS_MAX} parts and "
                           f"{ANY_PARTS_MAX} times **.")
    same = tx.one(AccessRule, user_id=user_id, service=body.service, method=body.method, path=body.path)
    if same is not None:
        return same.id
    row = AccessRule(hex_id(tx), user_id, body.service, body.method, body.path)
    tx.insert(row)
    return row.id


def owner(tx: Tx, call: Call, action: str, write_it: bool = False) -> str:
    user_id = call.params["user_id"]
    if user_id != call.caller.user_id:
        user = reach.found(tx, call.caller, User, "user", user_id, action)
        reach.require(call.caller.is_admin if write_it else reach.sees_domain(call.caller, user.domain_id), action)
    return user_id


def find(tx: Tx, call: Call, action: str, write_it: bool = False) -> AccessRule:
    user_id = owner(tx, call, action, write_it)
    row = tx.get(AccessRule, call.params["rule_id"])
    if row is None or row.user_id != user_id:
        raise reach.missing("access rule", call.params["rule_id"])
    return row


async def list_rules(call: Call) -> Response:
    rows = await call.cloud.db.read(lambda tx: tx.find(
        AccessRule, user_id=owner(tx, call, "list_access_rules"), sort=[("service", False), ("id", False)]))
    return listing(call, "access_rules", [view(call, row) for row in rows], ("service", "method", "path"))


async def show_rule(call: Call) -> Response:
    row = await call.cloud.db.read(lambda tx: find(tx, call, "get_access_rule"))
    return reply(200, {"access_rule": view(call, row)})


async def delete_rule(call: Call) -> Response:
    def closure(tx: Tx) -> None:
        row = find(tx, call, "delete_access_rule", write_it=True)
        if any(row.id in (item.access_rule_ids or ()) for item in tx.find(ApplicationCredential, user_id=row.user_id)):
            raise Problem(403, f"Access rule {row.id} is in use by an application credential; delete that first.")
        tx.delete(AccessRule, row.id)

    await write(call, CONFLICT, closure)
    return reply(204)
