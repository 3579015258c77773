"""Tags: short words on any resource that has them, as a sub-resource of it.

A tag is a set member: adding one twice changes nothing. Changing tags raises the resource's revision.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from starlette.responses import Response

from virga.api.http import Call, Service, reply
from virga.api.network.bodies import match_revision
from virga.api.network.fields import Bad, tag, tags
from virga.api.network.noun import Noun, guarded, who_of
from virga.domain.errors import Problem
from virga.store.db import Tx


def clean(check: Callable[[Any], Any], value: Any) -> Any:
    try:
        return check(value)
    except Bad as bad:
        raise Problem(400, f"Invalid input for tags. Reason: {bad}.", "HTTPBadRequest") from bad


class Tags:
    """The tag handlers of one noun."""

    def __init__(self, noun: Noun[Any]) -> None:
        self.noun = noun

    async def on_list(self, call: Call) -> Response:
        who = who_of(call)
        found = await call.cloud.db.read(lambda tx: self.noun.find(tx, who, call.params["id"]).tags)
        return reply(200, {"tags": found})

    async def on_show(self, call: Call) -> Response:
        who = who_of(call)
        found = await call.cloud.db.read(lambda tx: self.noun.find(tx, who, call.params["id"]).tags)
        if call.params["tag"] not in found:
            raise self._missing(call.params["tag"])
        return reply(204)

    def _missing(self, wanted: str) -> Problem:
        return Problem(404, f"Tag {wanted[:80]} could not be found.", "TagNotFound")

    async def _change(self, call: Call, join: Callable[[list[str]], list[str]]) -> list[str]:
        who = who_of(call)
        self.noun.may_write(who, "update")

        def work(tx: Tx) -> list[str]:
            row = self.noun.mine(tx, who, call.params["id"], "update")
            match_revision(call, row)
            now = list(dict.fromkeys(clean(tags, join(row.tags))))
            if now != row.tags:
                tx.update(type(row), row.id, tags=now, revision_number=row.revision_number + 1, updated_at=tx.now)
            return now

        found: list[str] = await guarded(call, work)
        return found

    async def _given(self, call: Call) -> list[str]:
        body = await call.json()
        found: list[str] = clean(tags, body.get("tags") if isinstance(body, dict) else None)
        return found

    async def on_replace(self, call: Call) -> Response:
        given = await self._given(call)
        return reply(200, {"tags": await self._change(call, lambda have: given)})

    async def on_extend(self, call: Call) -> Response:
        given = await self._given(call)
        return reply(200, {"tags": await self._change(call, lambda have: [*have, *given])})

    async def on_add(self, call: Call) -> Response:
        given = clean(tag, call.params["tag"])
        await self._change(call, lambda have: [*have, given])
        return reply(201)

    async def on_remove(self, call: Call) -> Response:
        gone = call.params["tag"]

        def join(have: list[str]) -> list[str]:
            if gone not in have:
                raise self._missing(gone)
            return [item for item in have if item != gone]

        await self._change(call, join)
        return reply(204)

    async def on_clear(self, call: Call) -> Response:
        await self._change(call, lambda have: [])
        return reply(204)


def mount(service: Service, nouns: Sequence[Noun[Any]]) -> None:
    for noun in nouns:
        if not noun.tagged:
            continue
        root = f"/v2.0/{noun.path or noun.many.replace('_', '-')}/{{id}}/tags"
        at = Tags(noun)
        service.table([
            ("GET", root, at.on_list), ("PUT", root, at.on_replace), ("POST", root, at.on_extend), ("DELETE", root, at.on_clear),
            ("GET", root + "/{tag}", at.on_show), ("PUT", root + "/{tag}", at.on_add), ("DELETE", root + "/{tag}", at.on_remove),
        ])
