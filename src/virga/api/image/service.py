"""The image service: its versions document, its error shape, its table of routes."""
from __future__ import annotations

from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from virga.api.http import Call, Service, reply
from virga.api.image import data, images, imports, members, metadef_schemas, metadefs, schemas
from virga.domain.errors import Problem

VERSION_LATEST = 12  # 2.12: tasks of an image; what came later (cache, quota, locations API) is not offered


def error_body(problem: Problem, request_id: str) -> Any:
    """The image API's error object."""
    phrase = HTTPStatus(problem.status).phrase
    return {"message": problem.message, "code": f"{problem.status} {phrase}", "title": phrase}


def _versions(call: Call) -> dict[str, Any]:
    href = f"{call.base_url()}/image/v2/"
    return {"versions": [
        {"id": f"v2.{minor}", "status": "CURRENT" if minor == VERSION_LATEST else "SUPPORTED",
         "links": [{"rel": "self", "href": href}]}
        for minor in range(VERSION_LATEST, -1, -1)]}


async def choose_version(call: Call) -> Response:
    """The root: 300, since the client has yet to choose."""
    return reply(300, _versions(call))


async def list_versions(call: Call) -> Response:
    return reply(200, _versions(call))


ROUTES = [
    ("POST", "/v2/images", images.create_image),
    ("GET", "/v2/images", images.list_images),
    ("DELETE", "/v2/images", images.no_image_id),
    ("GET", "/v2/images/{image_id}", images.show_image),
    ("PATCH", "/v2/images/{image_id}", images.update_image),
    ("DELETE", "/v2/images/{image_id}", images.delete_image),
    ("POST", "/v2/images/{image_id}/actions/deactivate", images.deactivate),
    ("POST", "/v2/images/{image_id}/actions/reactivate", images.reactivate),
    ("PUT", "/v2/images/{image_id}/tags/{tag}", images.put_tag),
    ("DELETE", "/v2/images/{image_id}/tags/{tag}", images.delete_tag),
    ("PUT", "/v2/images/{image_id}/file", data.upload),
    ("GET", "/v2/images/{image_id}/file", data.download),
    ("PUT", "/v2/images/{image_id}/stage", data.stage),
    ("POST", "/v2/images/{image_id}/import", imports.import_image),
    ("GET", "/v2/images/{image_id}/tasks", imports.list_image_tasks),
    ("POST", "/v2/images/{image_id}/members", members.create_member),
    ("GET", "/v2/images/{image_id}/members", members.list_members),
    ("GET", "/v2/images/{image_id}/members/{member_id}", members.show_member),
    ("PUT", "/v2/images/{image_id}/members/{member_id}", members.update_member),
    ("DELETE", "/v2/images/{image_id}/members/{member_id}", members.delete_member),
    ("GET", "/v2/info/import", imports.info_import),
    ("GET", "/v2/info/stores", imports.info_stores),
    ("DELETE", "/v2/stores/{store}/{image_id}", imports.delete_from_store),
    ("GET", "/v2/tasks", imports.list_tasks),
    ("POST", "/v2/tasks", imports.create_task),
    ("GET", "/v2/tasks/{task_id}", imports.show_task),
    ("GET", "/v2/schemas/{name}", schemas.show_schema),
    ("GET", "/v2/schemas/metadefs/{name}", metadef_schemas.show_schema),
    *metadefs.ROUTES,
]


def service() -> Service:
    """The whole image API below /image."""
    image = Service("image", "/image", error_body)
    image.add("GET", "", choose_version, open=True)
    image.add("GET", "/versions", list_versions, open=True)
    image.add("GET", "/v2", list_versions, open=True)
    image.table(ROUTES)
    return image
