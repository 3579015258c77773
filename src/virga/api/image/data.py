"""Image bytes in and out: upload, stage, download, with checksums taken as the bytes pass by.

Rules: bytes are streamed, never held whole; MD5, SHA-512 and the size are known when the last byte has come, and the
blob becomes visible only then. queued -> saving is the lock that keeps two uploads apart. Whatever breaks an upload
(the client leaves, too many bytes, the image was deleted meanwhile) leaves the image queued and no bytes behind.
The blob's name is the image's id, so that hosts can find it.
"""
from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from virga.api.cloud import Cloud
from virga.api.http import Call, reply
from virga.api.image.access import changeable, must_write, seen_by, visible
from virga.domain.errors import Problem
from virga.domain.image import DEACTIVATED, QUEUED, SAVING, UPLOADING, Image, emptied, filled
from virga.store.blobs import CHUNK_BYTES
from virga.store.db import Tx

OCTETS = "application/octet-stream"
HEAD_BYTES = 512
QCOW2_MAGIC = b"QFI\xfb"
DISK_MAX_BYTES = 1 << 60  # beyond every disk there is, and within what the store can write down
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Received(msgspec.Struct):
    """What was learnt of a stream while it passed by."""

    size_bytes: int
    md5_hex: str
    sha512_hex: str
    head: bytes
    virtual_size_bytes: int | None = None


def virtual_size_of(disk_format: str | None, head: bytes, size_bytes: int) -> int | None:
    """The bytes a guest would see: for raw the file's own, for qcow2 from its header; None where it is not known.

    Raises Problem 400 for a header that names more than any disk holds.
    """
    if disk_format in ("raw", "iso"):
        return size_bytes
    if disk_format == "qcow2" and head[:4] == QCOW2_MAGIC and len(head) >= 32:
        size = int.from_bytes(head[24:32], "big")
        if size > DISK_MAX_BYTES:
            raise Problem(400, f"The image's qcow2 header names a virtual size of {size} bytes, more than any disk: the file is damaged.")
        return size
    return None


async def receive(cloud: Cloud, parts: AsyncIterator[bytes], blob: str, limit_bytes: int, disk_format: str | None) -> Received:
    """Write a stream to a blob. Raises Problem 413 beyond `limit_bytes` and 400 for a header that cannot be true; whatever it raises, no blob is left."""
    md5, sha512 = hashlib.md5(usedforsecurity=False), hashlib.sha512()
    writer = cloud.blobs.create(blob)
    size_bytes, head = 0, b""
    waiting: list[bytes] = []
    waiting_bytes = 0

    async def flush() -> None:
        data = b"".join(waiting)
        waiting.clear()

        def digest() -> None:
            md5.update(data)
            sha512.update(data)

        await cloud.env.offload(digest)
        await writer.write(data)

    try:
        async for part in parts:
            size_bytes += len(part)
            if size_bytes > limit_bytes:
                raise Problem(413, f"The image is larger than {limit_bytes} bytes, the most this cloud takes.")
            head = head + part[: HEAD_BYTES - len(head)] if len(head) < HEAD_BYTES else head
            waiting.append(part)
            waiting_bytes += len(part)
            if waiting_bytes >= CHUNK_BYTES:
                await flush()
                waiting_bytes = 0
        await flush()
        virtual_size_bytes = virtual_size_of(disk_format, head, size_bytes)
        await writer.commit()
    except BaseException:
        await writer.abort()
        raise
    return Received(size_bytes, md5.hexdigest(), sha512.hexdigest(), head, virtual_size_bytes)


def _check_body(call: Call) -> None:
    """Raises Problem 415 for another media type and 413 for a body that announces itself too large."""
    content_type = (call.header("content-type") or "").partition(";")[0].strip().lower()
    if content_type != OCTETS:
        raise Problem(415, f"Image data comes as {OCTETS}, not {content_type or 'a body without a type'}.")
    length, limit_bytes = call.header("content-length"), call.cloud.config.image_size_max_bytes
    if length and length.isdecimal() and int(length) > limit_bytes:
        raise Problem(413, f"The image is larger than {limit_bytes} bytes, the most this cloud takes.")


def _begin(tx: Tx, call: Call, status: str, verb: str) -> Image:
    """Take a queued image for an upload."""
    image = changeable(tx, seen_by(call), call.params["image_id"])
    if image.status != QUEUED:
        raise Problem(409, f"Cannot {verb} data of image {image.id} while it is {image.status}; it must be queued.")
    missing = [name for name in ("disk_format", "container_format") if getattr(image, name) is None]
    if missing:
        raise Problem(400, f"Properties {', '.join(missing)} must be set prior to saving data.")
    tx.update(Image, image.id, status=status, updated_at=tx.now)
    return image


async def _take(call: Call, image: Image, blob: str, columns: Callable[[Received, float], dict[str, Any]]) -> Response:
    """Receive the body into `blob` and note it; on any failure the image is queued again and no bytes are left."""
    cloud = call.cloud
    try:
        got = await receive(cloud, call.request.stream(), blob, cloud.config.image_size_max_bytes, image.disk_format)
    except BaseException as error:
        # Shielded by being a transaction of its own: the client may be gone, the row must not stay `saving`.
        await cloud.db.run(lambda tx: tx.update(Image, image.id, **emptied(tx.now)))
        if isinstance(error, ClientDisconnect):
            cloud.trace.emit("fault", "image", "", f"upload of image {image.id} broke off", request=call.request_id)
        raise
    known = await cloud.db.run(lambda tx: tx.update(Image, image.id, **columns(got, tx.now)))
    if not known:
        await cloud.blobs.delete(blob)
        raise Problem(410, f"Image {image.id} was deleted while its data came in.")
    return reply(204)


async def upload(call: Call) -> Response:
    """PUT …/file."""
    must_write(call)
    _check_body(call)
    image = await call.cloud.db.run(lambda tx: _begin(tx, call, SAVING, "upload"))

    def columns(got: Received, now: float) -> dict[str, Any]:
        return filled(got.size_bytes, got.md5_hex, got.sha512_hex, image.id, got.virtual_size_bytes, now)

    return await _take(call, image, image.id, columns)


async def stage(call: Call) -> Response:
    """PUT …/stage: the bytes are put aside until an import takes them."""
    must_write(call)
    _check_body(call)
    image = await call.cloud.db.run(lambda tx: _begin(tx, call, UPLOADING, "stage"))
    blob = f"{image.id}-staged"
    return await _take(
        call, image, blob, lambda got, now: {"staged": blob, "size": got.size_bytes, "updated_at": now})


def byte_range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """(first, last) of a Range header, None for the whole. Raises Problem 416 (lies outside) and 400 (unreadable)."""
    if header is None:
        return None
    found = _RANGE.fullmatch(header.strip())
    if found is None or (not found[1] and not found[2]):
        raise Problem(400, f"Range '{header}' is not understood: give one range, for example bytes=0-1023.")
    outside = Problem(416, f"Range '{header}' lies outside the image's {size_bytes} bytes.",
                      headers={"Content-Range": f"bytes */{size_bytes}"})
    if not found[1]:
        first, last = max(size_bytes - int(found[2]), 0), size_bytes - 1
        if int(found[2]) == 0:
            raise outside
    else:
        first = int(found[1])
        last = min(int(found[2]) if found[2] else size_bytes - 1, size_bytes - 1)
    if first > last:
        raise outside
    return first, last


async def download(call: Call) -> Response:
    """GET …/file: 204 while there are no bytes, 206 for a range."""
    image = await call.cloud.db.read(lambda tx: visible(tx, seen_by(call), call.params["image_id"]))
    if image.status == DEACTIVATED and not call.caller.is_admin:
        raise Problem(403, "The requested image has been deactivated. Image data download is forbidden.")
    if not image.blob or image.size is None or not call.cloud.blobs.exists(image.blob):
        return reply(204)
    headers = {"Accept-Ranges": "bytes"}
    part = byte_range(call.header("range"), image.size)
    first, last = part or (0, image.size - 1)
    headers["Content-Length"] = str(last - first + 1)
    if part is not None:
        headers["Content-Range"] = f"bytes {first}-{last}/{image.size}"
    elif image.checksum:
        headers["Content-MD5"] = image.checksum
    if call.method == "HEAD":
        return Response(b"", 200 if part is None else 206, headers, media_type=OCTETS)
    body = call.cloud.blobs.read(image.blob, first, last - first + 1)
    return StreamingResponse(body, 200 if part is None else 206, headers, media_type=OCTETS)
