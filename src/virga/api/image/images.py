"""Image records: create, list, show, change, delete, deactivate, tags.

Rules: the bytes are not touched here but for a delete, which takes the row first and the bytes after the commit (a
crash in between leaves bytes that no row names; `recover_images` removes nothing, a blob without a row is harmless).
A protected image cannot be deleted; one in use by servers can, since hosts keep their own copy.
"""
from __future__ import annotations

from typing import Any

from starlette.responses import Response

from virga.api.http import Call, reply
from virga.api.image.access import changeable, may_publish, must_write, seen_by, visible
from virga.api.image.attributes import WRITABLE, check_count, check_name, check_tag, check_value
from virga.api.image.listing import find_images, links, read_query
from virga.api.image.patch import apply_patch, read_patch
from virga.api.image.views import image_view
from virga.domain.errors import Problem
from virga.domain.image import (
    ACTIVE,
    DEACTIVATED,
    STORE,
    TAGS_MAX,
    DeletedImage,
    Image,
    ImageMember,
    is_uuid,
    new_image_row,
)
from virga.store.db import Tx

IMPORT_METHODS = ("glance-direct",)


def read_new(body: Any) -> tuple[str | None, dict[str, Any], dict[str, str]]:
    """A create request as (id, base attributes, properties). Raises Problem 400 and 403."""
    if not isinstance(body, dict):
        raise Problem(400, "Request body must be a JSON object of image attributes.")
    image_id: str | None = None
    base: dict[str, Any] = {}
    properties: dict[str, str] = {}
    for name, value in body.items():
        if name == "id":
            if not isinstance(value, str) or not is_uuid(value):
                raise Problem(400, f"Invalid value for 'id': {value!r} is not a UUID.")
            image_id = value.lower()
            continue
        check_name(name)
        if name in WRITABLE:
            base[name] = check_value(name, value)
        else:
            properties[name] = check_value(name, value)
    check_count(properties)
    return image_id, base, properties


async def create_image(call: Call) -> Response:
    must_write(call)
    image_id, base, properties = read_new(await call.json())
    seen = seen_by(call)
    owner = base.get("owner", seen.project_id)
    if owner is None:
        raise Problem(403, "This token is not scoped to a project, so the image would have no owner.")
    if owner != seen.project_id and not seen.is_admin:
        raise Problem(403, f"You are not permitted to create images owned by '{owner}'.")
    may_publish(seen, base.get("visibility", "shared"))

    def work(tx: Tx) -> Image:
        new_id = image_id or tx.new_id()
        if tx.get(Image, new_id) is not None or tx.get(DeletedImage, new_id) is not None:
            raise Problem(409, f"Image ID {new_id} already exists!")
        limit = call.cloud.config.quota.images
        if 0 <= limit <= tx.count(Image, owner=owner):
            raise Problem(413, f"The limit of {limit} images of project {owner} is reached; delete an image first.")
        image = new_image_row(new_id, owner, tx.now, visibility="shared", disk_format=None, container_format=None,
                              properties=properties)
        for name, value in base.items():
            setattr(image, name, value)
        tx.insert(image)
        return image

    image = await call.cloud.db.run(work)
    return reply(201, image_view(image), {
        "Location": f"{call.base_url()}/image/v2/images/{image.id}",
        "OpenStack-image-import-methods": ",".join(IMPORT_METHODS), "OpenStack-image-store-ids": STORE})


async def list_images(call: Call) -> Response:
    if call.path.endswith("/"):
        raise Problem(404, "No image has an empty ID.")
    request, seen = read_query(call.query), seen_by(call)
    page, more = await call.cloud.db.read(lambda tx: find_images(tx, seen, request))
    return reply(200, {
        "images": [image_view(image) for image in page], **links(call.query, page, more),
        "schema": "/v2/schemas/images"})


async def no_image_id(call: Call) -> Response:
    raise Problem(404, "No image has an empty ID.")


async def show_image(call: Call) -> Response:
    image = await call.cloud.db.read(lambda tx: visible(tx, seen_by(call), call.params["image_id"]))
    return reply(200, image_view(image))


async def update_image(call: Call) -> Response:
    must_write(call)
    content_type = (call.header("content-type") or "").partition(";")[0].strip().lower()
    read_patch(content_type, [])  # a wrong media type is told before the body is looked at
    changes = read_patch(content_type, await call.json())
    seen = seen_by(call)

    def work(tx: Tx) -> Image:
        image = changeable(tx, seen, call.params["image_id"])
        columns = apply_patch(image, changes)
        may_publish(seen, columns.get("visibility", "") if columns.get("visibility") != image.visibility else "")
        if columns.get("owner", image.owner) != image.owner and not seen.is_admin:
            raise Problem(403, "You are not authorized to give an image to another project.")
        if columns:
            tx.update(Image, image.id, updated_at=tx.now, **columns)
        return tx.need(Image, image.id)

    return reply(200, image_view(await call.cloud.db.run(work)))


async def delete_image(call: Call) -> Response:
    must_write(call)
    image_id = call.params["image_id"]

    def work(tx: Tx) -> Image:
        image = changeable(tx, seen_by(call), image_id)
        if image.protected:
            raise Problem(403, f"Image {image_id} is protected and cannot be deleted; set protected to false first.")
        tx.delete(Image, image_id)
        tx.delete_where(ImageMember, image_id=image_id)
        tx.insert(DeletedImage(image_id, tx.now))
        return image

    image = await call.cloud.db.run(work)
    for blob in (image.blob, image.staged):
        if blob:
            await call.cloud.blobs.delete(blob)
    return reply(204)


async def deactivate(call: Call) -> Response:
    return await _switch(call, ACTIVE, DEACTIVATED, "deactivate")


async def reactivate(call: Call) -> Response:
    return await _switch(call, DEACTIVATED, ACTIVE, "reactivate")


async def _switch(call: Call, old: str, new: str, verb: str) -> Response:
    must_write(call)

    def work(tx: Tx) -> None:
        image = changeable(tx, seen_by(call), call.params["image_id"])
        if image.status not in (old, new):
            raise Problem(403, f"Not allowed to {verb} image in status '{image.status}'.")
        tx.update(Image, image.id, status=new, updated_at=tx.now)

    await call.cloud.db.run(work)
    return reply(204)


async def put_tag(call: Call) -> Response:
    must_write(call)
    tag = check_tag(call.params["tag"])

    def work(tx: Tx) -> None:
        image = changeable(tx, seen_by(call), call.params["image_id"])
        if tag in image.tags:
            return
        if len(image.tags) >= TAGS_MAX:
            raise Problem(413, f"An image may have at most {TAGS_MAX} tags.")
        tx.update(Image, image.id, tags=[*image.tags, tag], updated_at=tx.now)

    await call.cloud.db.run(work)
    return reply(204)


async def delete_tag(call: Call) -> Response:
    must_write(call)
    tag = call.params["tag"]

    def work(tx: Tx) -> None:
        image = changeable(tx, seen_by(call), call.params["image_id"])
        if tag not in image.tags:
            raise Problem(404, f"Image {image.id} has no tag '{tag}'.")
        tx.update(Image, image.id, tags=[item for item in image.tags if item != tag], updated_at=tx.now)

    await call.cloud.db.run(work)
    return reply(204)
