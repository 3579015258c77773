"""Which host may have or put the bytes of which image: only what a pending command tells it to.

A host asks under the name its certificate proves. Reading needs a pending command to that host whose guest is made or rescued from the image; writing needs a
pending snapshot command that names the image. So a host that was taken over can fetch no image that no server of its own needs.
"""
from __future__ import annotations

from virga.domain.image import Image
from virga.domain.operation import PENDING, Command
from virga.ops.enrolment import why_not
from virga.store.db import Tx


def readable(tx: Tx, host_id: str, host: str, image_id: str) -> str:
    """The blob's name, '' when this host has no business with it."""
    image = tx.get(Image, image_id)
    if why_not(tx, host_id, host) or image is None or not image.blob:
        return ""
    for command in tx.find(Command, host=host, state=PENDING):
        spec = command.args.get("spec") or {}
        if any((spec.get(use) or {}).get("id") == image_id for use in ("image", "rescue")):
            return image.blob
    return ""


def writable(tx: Tx, host_id: str, host: str, image_id: str) -> bool:
    """Whether this host is making a snapshot into that image right now."""
    if why_not(tx, host_id, host):
        return False
    return any(command.args.get("image_id") == image_id for command in tx.find(Command, host=host, state=PENDING, verb="snapshot"))
