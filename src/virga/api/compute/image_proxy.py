"""Images as compute showed them until clients spoke to the image service themselves (paths until 2.35, metadata until 2.38).

Rules: the same rows and the same visibility as the image service, in compute's older words: ACTIVE, SAVING, metadata for
free-form properties, `server` for the server a snapshot was taken of. Everything here ends at its microversion.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.responses import Response

from virga.api.compute import inputs
from virga.api.compute.access import must_write
from virga.api.compute.inputs import Fields, bad, body_of
from virga.api.compute.microversion import Version, need
from virga.api.compute.paging import page_of, self_links, with_links
from virga.api.compute.server_query import moment
from virga.api.compute.server_views import iso
from virga.api.http import Call, reply
from virga.api.image.access import changeable, seen_by, visible
from virga.api.image.listing import LIMIT_MAX, find_images, read_query
from virga.domain.errors import Problem
from virga.domain.image import DeletedImage, Image, ImageMember
from virga.store.db import Tx

PATHS_UNTIL: Version = (2, 35)
METADATA_UNTIL: Version = (2, 38)
STATUS = {"active": "ACTIVE", "queued": "SAVING", "saving": "SAVING", "uploading": "SAVING", "importing": "SAVING",
          "killed": "ERROR", "deactivated": "UNKNOWN"}


def _name_and_links(call: Call, image: Image) -> dict[str, Any]:
    alternate = {"rel": "alternate", "type": "application/vnd.openstack.image",
                 "href": f"{call.base_url()}/image/images/{image.id}"}
    return {"id": image.id, "name": image.name, "links": [*self_links(call, f"images/{image.id}"), alternate]}


def _view(call: Call, image: Image) -> dict[str, Any]:
    status = STATUS.get(image.status, "UNKNOWN")
    view = _name_and_links(call, image) | {
        "status": status, "created": iso(image.created_at), "updated": iso(image.updated_at),
        "minDisk": image.min_disk, "minRam": image.min_ram, "metadata": image.properties,
        "progress": {"ACTIVE": 100, "SAVING": 25}.get(status, 0), "OS-EXT-IMG-SIZE:size": image.size}
    server_id = image.properties.get("instance_uuid")
    if server_id:
        view["server"] = {"id": server_id, "links": self_links(call, f"servers/{server_id}")}
    return view


def _type_of(image: Image) -> str:
    return "snapshot" if image.properties.get("image_type") == "snapshot" else "base"


def _tests(call: Call) -> list[Callable[[Image], bool]]:
    """The filters of the older list; one it does not know is passed over, as it always was."""
    tests: list[Callable[[Image], bool]] = []
    name, status, kind = call.arg("name"), call.arg("status"), call.arg("type")
    if name is not None:
        tests.append(lambda image: image.name == name)
    if status is not None:
        tests.append(lambda image: STATUS.get(image.status, "UNKNOWN") == status.upper())
    if kind is not None:
        tests.append(lambda image: _type_of(image) == kind)
    if call.arg("server") is not None:
        server_id = str(call.arg("server")).rstrip("/").rpartition("/")[2]
        tests.append(lambda image: image.properties.get("instance_uuid") == server_id)
    since = call.arg("changes-since")
    if since is not None:
        least = moment(since, "changes-since")
        tests.append(lambda image: image.updated_at >= least)
    for argument, column in (("minRam", "min_ram"), ("minDisk", "min_disk")):
        if call.arg(argument) is not None:
            tests.append(_at_least(column, inputs.integer(0)(call.arg(argument), argument)))
    return tests


def _at_least(column: str, least: int) -> Callable[[Image], bool]:
    return lambda image: getattr(image, column) >= least


async def _page(call: Call) -> tuple[list[Image], bool]:
    need(call, (2, 1), PATHS_UNTIL)
    tests = _tests(call)
    request = read_query([("limit", str(LIMIT_MAX))])
    found, _ = await call.cloud.db.read(lambda tx: find_images(tx, seen_by(call), request))
    return page_of(call, [image for image in found if all(test(image) for test in tests)], lambda image: image.id)


async def no_image_id(call: Call) -> Response:
    raise Problem(404, "No image has an empty id.")


async def list_images(call: Call) -> Response:
    page, more = await _page(call)
    views = [_name_and_links(call, image) for image in page]
    return reply(200, with_links(call, "images", views, more, page[-1].id if page else ""))


async def list_details(call: Call) -> Response:
    page, more = await _page(call)
    return reply(200, with_links(
        call, "images", [_view(call, image) for image in page], more, page[-1].id if page else ""))


async def _get(call: Call, until: Version) -> Image:
    need(call, (2, 1), until)
    image_id = call.params["image_id"]
    try:
        return await call.cloud.db.read(lambda tx: visible(tx, seen_by(call), image_id))
    except Problem:
        raise Problem(404, f"Image {image_id} could not be found.") from None


async def show_image(call: Call) -> Response:
    return reply(200, {"image": _view(call, await _get(call, PATHS_UNTIL))})


async def delete_image(call: Call) -> Response:
    must_write(call, "os_compute_api:images")
    image = await _get(call, PATHS_UNTIL)

    def work(tx: Tx) -> Image:
        row = changeable(tx, seen_by(call), image.id)
        if row.protected:
            raise Problem(403, f"Image {row.id} is protected and cannot be deleted.")
        tx.delete(Image, row.id)
        tx.delete_where(ImageMember, image_id=row.id)
        tx.insert(DeletedImage(row.id, tx.now))
        return row

    gone = await call.cloud.db.run(work)
    for blob in (gone.blob, gone.staged):
        if blob:
            await call.cloud.blobs.delete(blob)
    return reply(204)


# metadata ---------------------------------------------------------------------------------------------------------
async def list_metadata(call: Call) -> Response:
    return reply(200, {"metadata": (await _get(call, METADATA_UNTIL)).properties})


def _one(call: Call, image: Image) -> dict[str, str]:
    key = call.params["key"]
    if key not in image.properties:
        raise Problem(404, f"Image {image.id} has no metadata item '{key}'.")
    return {key: image.properties[key]}


async def show_metadata(call: Call) -> Response:
    return reply(200, {"meta": _one(call, await _get(call, METADATA_UNTIL))})


async def _write(call: Call, change: Callable[[Image], dict[str, str]]) -> dict[str, str]:
    """Save the properties that `change` makes of the image; returns them."""
    must_write(call, "os_compute_api:image-metadata")
    image = await _get(call, METADATA_UNTIL)

    def work(tx: Tx) -> dict[str, str]:
        row = changeable(tx, seen_by(call), image.id)
        properties = change(row)
        if len(properties) > call.cloud.config.quota.metadata_items >= 0:
            raise Problem(403, f"Image metadata limit exceeded: at most {call.cloud.config.quota.metadata_items}.")
        tx.update(Image, row.id, properties=properties, updated_at=tx.now)
        return properties

    return await call.cloud.db.run(work)


async def _metadata_body(call: Call) -> dict[str, str]:
    given = inputs.metadata(await body_of(call, "metadata"), "metadata")
    return dict(given)


async def add_metadata(call: Call) -> Response:
    given = await _metadata_body(call)
    return reply(200, {"metadata": await _write(call, lambda image: {**image.properties, **given})})


async def replace_metadata(call: Call) -> Response:
    given = await _metadata_body(call)
    return reply(200, {"metadata": await _write(call, lambda image: given)})


async def set_metadata(call: Call) -> Response:
    fields = Fields(call, await call.json(), "the body")
    given = fields.take("meta", inputs.metadata, required=True)
    fields.done()
    if list(given) != [call.params["key"]]:
        raise bad("meta", f"it must hold the one key of the address, '{call.params['key']}'.")
    await _write(call, lambda image: {**image.properties, **given})
    return reply(200, {"meta": given})


async def delete_metadata(call: Call) -> Response:
    def rest(image: Image) -> dict[str, str]:
        gone = _one(call, image)
        return {key: value for key, value in image.properties.items() if key not in gone}

    await _write(call, rest)
    return reply(204)


ROUTES = [
    ("GET", "/images", list_images),
    ("DELETE", "/images", no_image_id),
    ("GET", "/images/detail", list_details),
    ("GET", "/images/{image_id}", show_image),
    ("DELETE", "/images/{image_id}", delete_image),
    ("GET", "/images/{image_id}/metadata", list_metadata),
    ("POST", "/images/{image_id}/metadata", add_metadata),
    ("PUT", "/images/{image_id}/metadata", replace_metadata),
    ("GET", "/images/{image_id}/metadata/{key}", show_metadata),
    ("PUT", "/images/{image_id}/metadata/{key}", set_metadata),
    ("DELETE", "/images/{image_id}/metadata/{key}", delete_metadata),
]
