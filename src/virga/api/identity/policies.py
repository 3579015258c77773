"""Policy documents: texts an admin keeps for other programs to fetch. Virga itself does not read them."""
from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from virga.api.http import Call, reply
from virga.api.identity import reach
from virga.api.identity.shape import Name255, Text, changes_of, filters, hex_id, incoming, links, listing, write
from virga.domain.identity import PolicyDocument
from virga.store.db import Tx

CONFLICT = "There is another policy of this id."


class NewPolicy(msgspec.Struct):
    blob: Text
    type: Name255


class PolicyChange(msgspec.Struct):
    blob: Text | UnsetType = UNSET
    type: Name255 | UnsetType = UNSET


def view(call: Call, row: PolicyDocument) -> dict[str, Any]:
    return {**row.extra, "id": row.id, "type": row.type, "blob": row.blob, "links": links(call, "policies", row.id)}


def find(tx: Tx, key: str) -> PolicyDocument:
    row = tx.get(PolicyDocument, key)
    if row is None:
        raise reach.missing("policy", key)
    return row


async def list_policies(call: Call) -> Response:
    reach.require(reach.sees_all(call.caller), "list_policies")
    rows = await call.cloud.db.read(
        lambda tx: tx.find(PolicyDocument, sort=[("type", False), ("id", False)], **filters(call, "type")))
    return listing(call, "policies", [view(call, row) for row in rows])


async def create_policy(call: Call) -> Response:
    reach.require_admin(call.caller, "create_policy")
    body, extra = await incoming(call, "policy", NewPolicy)

    def closure(tx: Tx) -> PolicyDocument:
        row = PolicyDocument(hex_id(tx), body.type, body.blob, extra)
        tx.insert(row)
        return row

    return reply(201, {"policy": view(call, await write(call, CONFLICT, closure))})


async def show_policy(call: Call) -> Response:
    reach.require(reach.sees_all(call.caller), "get_policy")
    return reply(200, {"policy": view(call, await call.cloud.db.read(lambda tx: find(tx, call.params["policy_id"])))})


async def update_policy(call: Call) -> Response:
    reach.require_admin(call.caller, "update_policy")
    body, extra = await incoming(call, "policy", PolicyChange)

    def closure(tx: Tx) -> PolicyDocument:
        row = find(tx, call.params["policy_id"])
        tx.update(PolicyDocument, row.id, **changes_of(body), extra={**row.extra, **extra})
        return find(tx, row.id)

    return reply(200, {"policy": view(call, await write(call, CONFLICT, closure))})


async def delete_policy(call: Call) -> Response:
    reach.require_admin(call.caller, "delete_policy")

    def closure(tx: Tx) -> None:
        tx.delete(PolicyDocument, find(tx, call.params["policy_id"]).id)

    await write(call, CONFLICT, closure)
    return reply(204)
