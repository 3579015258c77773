"""What the image room does when a cloud starts: mend what a crash left half done, and offer one small image.

`virga-tiny` is real bytes made from nothing but this file: a disk of 256 KiB whose first sector is a boot sector
that greets on screen and first serial port and then halts, and whose rest is a fixed pattern, so that any copy of
it can be compared. Both functions may run at every start; the second time they change nothing.
"""
from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Collection
from pathlib import Path

from virga.api.cloud import Cloud
from virga.api.image.data import receive
from virga.domain.image import (
    IMPORTING,
    QUEUED,
    SAVING,
    UPLOADING,
    Image,
    ImageTask,
    emptied,
    filled,
    new_image_row,
)
from virga.store.db import Tx

TINY_NAME = "virga-tiny"
BLOCK_BYTES = 1 << 20
TINY_BYTES = 256 * 1024
PATTERN_BYTES = 64 * 1024
GREETING = b"Virga: this tiny image boots, says so, and halts.\r\n\0"


def boot_sector() -> bytes:
    """512 bytes that a BIOS starts: print GREETING by teletype and serial port, then halt for ever."""
    code = bytes.fromhex(
        "31c0"      # xor ax, ax
        "8ed8"      # mov ds, ax
        "fc"        # cld
        "be217c"    # mov si, 7c21h   the greeting, just behind this code
        "ac"        # next: lodsb
        "08c0"      # or al, al
        "7411"      # jz halt
        "50"        # push ax
        "b40e"      # mov ah, 0eh     teletype
        "bb0700"    # mov bx, 7
        "cd10"      # int 10h
        "58"        # pop ax
        "b401"      # mov ah, 1       serial
        "31d2"      # xor dx, dx
        "cd14"      # int 14h
        "ebea"      # jmp next
        "f4"        # halt: hlt
        "ebfd")     # jmp halt
    return (code + GREETING).ljust(510, b"\0") + b"\x55\xaa"


def tiny_bytes() -> bytes:
    """The whole of virga-tiny, equal on every machine."""
    blocks = range(PATTERN_BYTES // 64)
    pattern = b"".join(hashlib.sha512(f"virga-tiny {number}".encode()).digest() for number in blocks)
    return (boot_sector() + pattern).ljust(TINY_BYTES, b"\0")


async def bootstrap_image(cloud: Cloud, owner: str) -> str:
    """Make sure the public image virga-tiny is there, owned by project `owner`; returns its id."""
    def mine(tx: Tx) -> Image | None:
        return tx.one(Image, name=TINY_NAME, visibility="public", owner=owner)

    async def parts() -> AsyncIterator[bytes]:
        yield tiny_bytes()

    image = await cloud.db.read(mine)
    if image is not None and image.status != QUEUED:
        return image.id
    if image is None:
        def insert(tx: Tx) -> Image:
            row = new_image_row(
                tx.new_id(), owner, tx.now, name=TINY_NAME, visibility="public", disk_format="raw",
                properties={"os_distro": "virga", "hw_rng_model": "virtio"})
            tx.insert(row)
            return row

        image = await cloud.db.run(insert)
    image_id = image.id
    got = await receive(cloud, parts(), image_id, TINY_BYTES, "raw")
    await cloud.db.run(lambda tx: tx.update(
        Image, image_id, **filled(got.size_bytes, got.md5_hex, got.sha512_hex, image_id, got.virtual_size_bytes, tx.now)))
    return image_id


async def offer_image(cloud: Cloud, owner: str, name: str, file: Path, disk_format: str) -> str:
    """A public image from a file of this machine, whole or not at all; returns its id, '' when it is there already."""
    def insert(tx: Tx) -> str:
        known = tx.one(Image, name=name, visibility="public", owner=owner)
        if known is not None:
            return known.id if known.status == QUEUED else ""
        row = new_image_row(tx.new_id(), owner, tx.now, name=name, visibility="public", disk_format=disk_format, properties={"os_distro": "virga"})
        tx.insert(row)
        return row.id

    async def parts() -> AsyncIterator[bytes]:
        with file.open("rb") as source:
            while block := await cloud.env.offload(lambda: source.read(BLOCK_BYTES)):
                yield block

    image_id = await cloud.db.run(insert)
    if image_id:
        got = await receive(cloud, parts(), image_id, file.stat().st_size, disk_format)  # noqa: ASYNC240 - a look at a local file
        await cloud.db.run(lambda tx: tx.update(
            Image, image_id, **filled(got.size_bytes, got.md5_hex, got.sha512_hex, image_id, got.virtual_size_bytes, tx.now)))
    return image_id


async def recover_images(cloud: Cloud) -> int:
    """Put back what was half done when the last controller died; returns how many images that were.

    An upload cannot go on without its client, so it is queued again; an import keeps its staged bytes. What was
    begun as a server's snapshot is left alone: its operation goes on by itself.
    """
    def work(tx: Tx) -> list[Image]:
        broken = [image for image in tx.find(Image, status=[SAVING, UPLOADING, IMPORTING])
                  if "instance_uuid" not in image.properties]
        mended = []
        for image in broken:
            if image.status == UPLOADING and image.staged:
                continue
            if image.status == IMPORTING and image.staged:
                tx.update(Image, image.id, status=UPLOADING, updated_at=tx.now)
            else:
                tx.update(Image, image.id, **emptied(tx.now))
            mended.append(image)
        for task in tx.find(ImageTask, status="processing"):
            tx.update(ImageTask, task.id, status="failure", updated_at=tx.now,
                      message="The controller stopped during this import; import again.")
        return mended

    return len(await cloud.db.run(work))


def drop_blobs(cloud: Cloud) -> None:
    """From now on, delete the bytes of images that procedures have given up, as soon as a commit tells of them.

    Only ops says so (hint `blob:<name>`); the image API deletes its own. A crash between the commit and the deletion
    leaves bytes that no row names.
    """
    def heard(hints: Collection[str]) -> None:
        for hint in sorted(hints):
            if hint.startswith("blob:"):
                cloud.env.spawn(cloud.blobs.delete(hint.removeprefix("blob:")), "drop blob")

    cloud.db.on_commit(heard)
