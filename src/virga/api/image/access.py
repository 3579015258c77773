"""Finding an image for a caller: what they may not see is 404, what they may see but not change is 403.

Every handler goes through these few functions, so that no path can forget a rule. Writing wants the role member,
manager or admin; a reader only looks.
"""
from __future__ import annotations

from virga.api.http import Call
from virga.domain.errors import Problem
from virga.domain.image import Image, ImageMember, Seen, may_change, may_see
from virga.store.db import Tx


def seen_by(call: Call) -> Seen:
    """The caller in the words of domain/image.py."""
    return Seen(call.caller.project_id, call.caller.is_admin)


def must_write(call: Call) -> None:
    """Raises Problem 403 for callers that may only read."""
    if not call.caller.may_write():
        raise Problem(403, "You are not authorized to complete this action: it needs the role member or admin.")


def must_admin(call: Call) -> None:
    if not call.caller.is_admin:
        raise Problem(403, "You are not authorized to complete this action: it needs the role admin.")


def visible(tx: Tx, seen: Seen, image_id: str) -> Image:
    """The image, if the caller may know of it. Raises Problem 404."""
    image = tx.get(Image, image_id)
    if image is not None:
        member = tx.get(ImageMember, image_id, seen.project_id) if seen.project_id else None
        if may_see(image, seen, member):
            return image
    raise Problem(404, f"No image found with ID {image_id}.")


def changeable(tx: Tx, seen: Seen, image_id: str) -> Image:
    """The image, if the caller may change it. Raises Problem 404, or 403 where the caller only sees it."""
    image = visible(tx, seen, image_id)
    if not may_change(image, seen):
        raise Problem(403, f"You are not authorized to change image {image_id}: it belongs to another project.")
    return image


def may_publish(seen: Seen, visibility: str) -> None:
    """Raises Problem 403 when someone other than an administrator wants to show an image to every project."""
    if visibility == "public" and not seen.is_admin:
        raise Problem(403, "You are not authorized to publicize an image: visibility 'public' needs the role admin.")
