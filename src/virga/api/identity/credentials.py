"""Credentials: secrets of a user's for other protocols, and the older ec2 view of the same rows.

Rules: records only: Virga keeps and shows them, it offers no ec2 API to use them with. A user sees and makes
its own, an admin everybody's. One of type ec2 must carry `access` and `secret` in its blob and belongs to a
project; its id is the SHA-256 of the access key, so two cannot share one. After creation only the blob (and
what Virga does not know) changes, so that nobody turns one into something else.
"""
from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from virga.api.http import Call, reply
from virga.api.identity import reach
from virga.api.identity.shape import Id, Name255, Text, filters, hex_id, incoming, link, links, listing, write
from virga.domain.errors import Problem
from virga.domain.identity import Credential, Project, Target, User
from virga.store.db import Tx
from virga.store.identity import roles_on

EC2 = "ec2"
KEY_BYTES = 16
CONFLICT = "There is another credential of this access key."


class NewCredential(msgspec.Struct):
    blob: Text
    type: Name255
    user_id: Id | None = None
    project_id: Id | None = None


class CredentialChange(msgspec.Struct):
    blob: Text | UnsetType = UNSET
    type: Name255 | UnsetType = UNSET
    user_id: Id | UnsetType = UNSET
    project_id: Id | UnsetType | None = UNSET


class NewEc2(msgspec.Struct):
    tenant_id: Id


def view(call: Call, row: Credential) -> dict[str, Any]:
    return {**row.extra, "id": row.id, "type": row.type, "user_id": row.user_id, "project_id": row.project_id,
            "blob": row.blob, "links": links(call, "credentials", row.id)}


def ec2_keys(blob: str) -> dict[str, Any]:
    """The decoded blob of an ec2 credential. Raises Problem 400."""
    try:
        keys = msgspec.json.decode(blob)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Problem(400, "Invalid input for field credential.blob: it is not JSON.") from error
    if not isinstance(keys, dict) or not isinstance(keys.get("access"), str) or not isinstance(keys.get("secret"), str):
        raise Problem(400, "Invalid input for field credential.blob: an ec2 credential needs access and secret.")
    return keys


def find(tx: Tx, call: Call, action: str, write_it: bool = False) -> Credential:
    row = tx.get(Credential, call.params["credential_id"])
    caller = call.caller
    if row is None:
        reach.require(reach.sees_all(caller), action)
        raise reach.missing("credential", call.params["credential_id"])
    others = caller.is_admin if write_it else reach.sees_all(caller)
    reach.require(row.user_id == caller.user_id or others, action)
    return row


async def list_credentials(call: Call) -> Response:
    conditions = filters(call, "user_id", "type")
    if not reach.sees_all(call.caller):
        reach.require(conditions.setdefault("user_id", call.caller.user_id) == call.caller.user_id, "list_credentials")
    rows = await call.cloud.db.read(lambda tx: tx.find(Credential, sort=[("created_at", False), ("id", False)], **conditions))
    return listing(call, "credentials", [view(call, row) for row in rows], ("project_id",))


async def create_credential(call: Call) -> Response:
    body, extra = await incoming(call, "credential", NewCredential)
    owner = body.user_id or call.caller.user_id
    reach.require(owner == call.caller.user_id or call.caller.is_admin, "create_credential")
    key = None
    if body.type == EC2:
        key = hashlib.sha256(ec2_keys(body.blob)["access"].encode("utf-8", "surrogatepass")).hexdigest()
        if body.project_id is None:
            raise Problem(400, "Invalid input for field credential.project_id: an ec2 credential needs one.")

    def closure(tx: Tx) -> Credential:
        if tx.get(User, owner) is None:
            raise reach.missing("user", owner)
        check_project(tx, call, owner, body.project_id)
        row = Credential(key or hex_id(tx), body.type, owner, body.project_id, body.blob, extra, tx.now)
        tx.insert(row)
        return row

    return reply(201, {"credential": view(call, await write(call, CONFLICT, closure))})


def check_project(tx: Tx, call: Call, user_id: str, project_id: str | None) -> None:
    """An admin names any project; a user one it has a role on. Raises Problem 404, 403."""
    if project_id is None or call.caller.is_admin:
        return
    reach.require(tx.get(Project, project_id) is not None and bool(roles_on(tx, user_id, Target("project", project_id))),
                  "create_credential (no role on the project)")


async def show_credential(call: Call) -> Response:
    row = await call.cloud.db.read(lambda tx: find(tx, call, "get_credential"))
    return reply(200, {"credential": view(call, row)})


async def update_credential(call: Call) -> Response:
    body, extra = await incoming(call, "credential", CredentialChange)

    def closure(tx: Tx) -> Credential:
        row = find(tx, call, "update_credential", write_it=True)
        for name in ("type", "user_id", "project_id"):
            if getattr(body, name) is not UNSET and getattr(body, name) != getattr(row, name):
                raise Problem(400, f"Invalid input for field credential.{name}: it cannot be changed; make another credential.")
        blob = row.blob
        if isinstance(body.blob, str):
            blob = body.blob
            if row.type == EC2:
                ec2_keys(blob)
        tx.update(Credential, row.id, blob=blob, extra={**row.extra, **extra})
        return tx.need(Credential, row.id)

    return reply(200, {"credential": view(call, await write(call, CONFLICT, closure))})


async def delete_credential(call: Call) -> Response:
    def closure(tx: Tx) -> None:
        tx.delete(Credential, find(tx, call, "delete_credential", write_it=True).id)

    await write(call, CONFLICT, closure)
    return reply(204)


# the ec2 view -------------------------------------------------------------------------------------------------------
def ec2_view(call: Call, row: Credential) -> dict[str, Any]:
    keys = ec2_keys(row.blob)
    where = link(call, "users", row.user_id, "credentials", "OS-EC2", keys["access"])
    return {"user_id": row.user_id, "tenant_id": row.project_id, "access": keys["access"], "secret": keys["secret"],
            "trust_id": None, "links": {"self": where}}


def check_owner(tx: Tx, call: Call, action: str, write_it: bool = False) -> str:
    caller, user_id = call.caller, call.params["user_id"]
    if user_id != caller.user_id:
        reach.found(tx, caller, User, "user", user_id, action)
        reach.require(caller.is_admin if write_it else reach.sees_all(caller), action)
    return user_id


def find_ec2(tx: Tx, call: Call, action: str, write_it: bool = False) -> Credential:
    user_id = check_owner(tx, call, action, write_it)
    access = call.params["access"]
    row = tx.get(Credential, hashlib.sha256(access.encode("utf-8", "surrogatepass")).hexdigest())
    if row is None or row.user_id != user_id or row.type != EC2:
        raise reach.missing("credential", access)
    return row


async def list_ec2(call: Call) -> Response:
    def closure(tx: Tx) -> list[dict[str, Any]]:
        user_id = check_owner(tx, call, "ec2_list_credentials")
        rows = tx.find(Credential, user_id=user_id, type=EC2, sort=[("created_at", False), ("id", False)])
        return [ec2_view(call, row) for row in rows]

    return listing(call, "credentials", await call.cloud.db.read(closure))


async def create_ec2(call: Call) -> Response:
    body = await call.body(NewEc2)
    access, secret = call.cloud.env.token_hex(KEY_BYTES), call.cloud.env.token_hex(KEY_BYTES)
    blob = msgspec.json.encode({"access": access, "secret": secret, "trust_id": None}).decode()

    def closure(tx: Tx) -> dict[str, Any]:
        user_id = check_owner(tx, call, "ec2_create_credential", write_it=True)
        project = tx.get(Project, body.tenant_id)
        if project is None and call.caller.is_admin:
            raise reach.missing("project", body.tenant_id)
        check_project(tx, call, user_id, body.tenant_id)
        row = Credential(hashlib.sha256(access.encode()).hexdigest(), EC2, user_id, body.tenant_id, blob, {}, tx.now)
        tx.insert(row)
        return ec2_view(call, row)

    return reply(201, {"credential": await write(call, CONFLICT, closure)})


async def show_ec2(call: Call) -> Response:
    return reply(200, {"credential": ec2_view(call, await call.cloud.db.read(
        lambda tx: find_ec2(tx, call, "ec2_get_credential")))})


async def delete_ec2(call: Call) -> Response:
    await write(call, CONFLICT, lambda tx: tx.delete(Credential, find_ec2(tx, call, "ec2_delete_credential", True).id))
    return reply(204)
