"""Sharing: which projects a shared image is offered to, and what they say to it.

Rules: the owner offers and takes back, the member accepts or rejects, nobody does the other's part (403). Who
cannot see the image, or is neither its owner nor that member, is told 404.
"""
from __future__ import annotations

from typing import Any

from starlette.responses import Response

from virga.api.http import Call, reply
from virga.api.image.access import changeable, must_write, seen_by, visible
from virga.api.image.views import member_view
from virga.domain.errors import Problem
from virga.domain.image import MEMBER_STATES, MEMBERS_MAX, Image, ImageMember, may_change
from virga.store.db import Tx


def _text(body: Any, name: str) -> str:
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, str) or not 0 < len(value) <= 255:
        raise Problem(400, f"The request body must be an object whose '{name}' is a string of 1 to 255 characters.")
    return value


def _shared(image: Image) -> Image:
    if image.visibility != "shared":
        raise Problem(403, f"Only shared images have members. Image {image.id} is {image.visibility}.")
    return image


def _member(tx: Tx, call: Call, image: Image) -> ImageMember:
    """The member of the path, if the caller may know of it."""
    member_id = call.params["member_id"]
    member = tx.get(ImageMember, image.id, member_id)
    if member is None or not (may_change(image, seen_by(call)) or member_id == call.caller.project_id):
        raise Problem(404, f"{member_id} is not a member of image {image.id}.")
    return member


async def create_member(call: Call) -> Response:
    must_write(call)
    member_id = _text(await call.json(), "member")

    def work(tx: Tx) -> ImageMember:
        image = _shared(changeable(tx, seen_by(call), call.params["image_id"]))
        if tx.get(ImageMember, image.id, member_id) is not None:
            raise Problem(409, f"Project {member_id} is already a member of image {image.id}.")
        if tx.count(ImageMember, image_id=image.id) >= MEMBERS_MAX:
            raise Problem(413, f"The limit has been exceeded: an image has at most {MEMBERS_MAX} members.")
        member = ImageMember(image.id, member_id, created_at=tx.now, updated_at=tx.now)
        tx.insert(member)
        return member

    return reply(200, member_view(await call.cloud.db.run(work)))


async def list_members(call: Call) -> Response:
    def work(tx: Tx) -> list[ImageMember]:
        image = visible(tx, seen_by(call), call.params["image_id"])
        if image.visibility != "shared":
            raise Problem(403, f"Only shared images have members. Image {image.id} is {image.visibility}.")
        members = tx.find(ImageMember, image_id=image.id, sort=[("created_at", False), ("member_id", False)])
        if not may_change(image, seen_by(call)):
            members = [member for member in members if member.member_id == call.caller.project_id]
        return members

    members = await call.cloud.db.read(work)
    return reply(200, {"members": [member_view(member) for member in members], "schema": "/v2/schemas/members"})


async def show_member(call: Call) -> Response:
    member = await call.cloud.db.read(
        lambda tx: _member(tx, call, visible(tx, seen_by(call), call.params["image_id"])))
    return reply(200, member_view(member))


async def update_member(call: Call) -> Response:
    must_write(call)
    status = _text(await call.json(), "status")
    if status not in MEMBER_STATES:
        raise Problem(400, f"Invalid value for 'status': '{status}' is not one of {', '.join(MEMBER_STATES)}.")

    def work(tx: Tx) -> ImageMember:
        image = visible(tx, seen_by(call), call.params["image_id"])
        member = _member(tx, call, image)
        if not call.caller.is_admin and member.member_id != call.caller.project_id:
            raise Problem(403, f"Only project {member.member_id} itself can answer for its membership.")
        tx.update(ImageMember, image.id, member.member_id, status=status, updated_at=tx.now)
        return tx.need(ImageMember, image.id, member.member_id)

    return reply(200, member_view(await call.cloud.db.run(work)))


async def delete_member(call: Call) -> Response:
    must_write(call)

    def work(tx: Tx) -> None:
        image = changeable(tx, seen_by(call), call.params["image_id"])
        member = _member(tx, call, image)
        tx.delete(ImageMember, image.id, member.member_id)

    await call.cloud.db.run(work)
    return reply(204)
