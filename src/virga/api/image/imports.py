"""Importing staged bytes, and the tasks that record it.

Rules: one method is offered, `glance-direct`: staged bytes are read through once more, hashed, and kept as the
image's. `web-download`, `glance-download` and `copy-image` are refused with a sentence: the controller fetches
nothing from addresses a user names, and there is one store. An import runs on after its 202; its task and the
image's status tell how it went: success makes the image active, failure puts it back to uploading with its staged
bytes still there. Tasks are read by administrators, an image's own tasks also by whoever sees the image.
"""
from __future__ import annotations

from typing import Any

from starlette.responses import Response

from virga.api.cloud import Cloud
from virga.api.http import Call, reply
from virga.api.image.access import changeable, must_admin, must_write, seen_by, visible
from virga.api.image.data import receive
from virga.api.image.images import IMPORT_METHODS
from virga.api.image.views import task_view
from virga.domain.errors import Problem
from virga.domain.image import IMPORTING, QUEUED, STORE, UPLOADING, Image, ImageTask, filled
from virga.store.db import Tx

TASK_LIFE_S = 48 * 3600.0
TASKS_MAX = 1000
KNOWN_ELSEWHERE = {
    "web-download": "this cloud fetches nothing from the web on a user's word; upload the data instead",
    "glance-download": "this cloud has no other image service to fetch from",
    "copy-image": "there is one store, so there is nowhere to copy to",
}


async def info_import(call: Call) -> Response:
    return reply(200, {"import-methods": {
        "description": "Import methods available.", "type": "array", "value": list(IMPORT_METHODS)}})


async def info_stores(call: Call) -> Response:
    return reply(200, {"stores": [
        {"id": STORE, "description": "Files beside the controller's database.", "default": "true"}]})


def _read_import(body: Any) -> dict[str, Any]:
    """The request, checked. Raises Problem 400."""
    if not isinstance(body, dict) or not isinstance(body.get("method"), dict):
        raise Problem(400, "The request body must be an object with a 'method' object, for example "
                           '{"method": {"name": "glance-direct"}}.')
    name = body["method"].get("name")
    if name not in IMPORT_METHODS:
        why = KNOWN_ELSEWHERE.get(name, f"it is one of {', '.join(IMPORT_METHODS)}") if isinstance(name, str) else \
            "'method' needs a 'name'"
        raise Problem(400, f"Import method {name!r} is not offered: {why}.")
    stores = body.get("stores", [STORE])
    if not isinstance(stores, list) or not stores or any(item != STORE for item in stores):
        raise Problem(409 if isinstance(stores, list) and stores else 400,
                      f"Invalid value for 'stores': the only store is '{STORE}'.")
    for flag in ("all_stores", "all_stores_must_succeed"):
        if not isinstance(body.get(flag, False), bool):
            raise Problem(400, f"Invalid value for '{flag}': it must be true or false.")
    return body


async def import_image(call: Call) -> Response:
    must_write(call)
    body = _read_import(await call.json())
    seen = seen_by(call)

    def work(tx: Tx) -> tuple[Image, ImageTask]:
        image = changeable(tx, seen, call.params["image_id"])
        if image.status != UPLOADING or not image.staged:
            raise Problem(409, f"Image {image.id} is {image.status}; glance-direct needs staged data (uploading).")
        task = ImageTask(
            tx.new_id(), "api_image_import", "processing", image.owner, call.caller.user_id, call.request_id, image.id,
            {"image_id": image.id, "import_req": body, "backend": [STORE]}, None, "", tx.now, tx.now,
            tx.now + TASK_LIFE_S)
        tx.insert(task)
        tx.update(Image, image.id, status=IMPORTING, updated_at=tx.now)
        return image, task

    image, task = await call.cloud.db.run(work)
    call.cloud.env.spawn(run_import(call.cloud, image, task.id), f"import-{image.id}")
    return reply(202)


async def run_import(cloud: Cloud, image: Image, task_id: str) -> None:
    """Staged bytes to the image's own: hash, keep, note. Never raises: what goes wrong stands in the task."""
    try:
        got = await receive(cloud, cloud.blobs.read(image.staged), image.id, cloud.config.image_size_max_bytes,
                            image.disk_format)
    except (OSError, KeyError, Problem) as error:
        message = error.message if isinstance(error, Problem) else f"The staged data cannot be read: {error}."
        await cloud.db.run(lambda tx: _end_import(tx, image.id, task_id, None, message))
        return
    known = await cloud.db.run(lambda tx: _end_import(
        tx, image.id, task_id,
        filled(got.size_bytes, got.md5_hex, got.sha512_hex, image.id, got.virtual_size_bytes, tx.now), ""))
    if not known:
        await cloud.blobs.delete(image.id)
    await cloud.blobs.delete(image.staged)


def _end_import(tx: Tx, image_id: str, task_id: str, columns: dict[str, Any] | None, message: str) -> int:
    known = tx.update(Image, image_id, **(columns or {"status": UPLOADING, "updated_at": tx.now}))
    status = "success" if columns and known else "failure"
    if columns and not known:
        message = f"Image {image_id} was deleted during its import."
    tx.update(ImageTask, task_id, status=status, message=message, updated_at=tx.now,
              result={"image_id": image_id} if status == "success" else None)
    return known


async def list_image_tasks(call: Call) -> Response:
    def work(tx: Tx) -> list[ImageTask]:
        image = visible(tx, seen_by(call), call.params["image_id"])
        return tx.find(ImageTask, image_id=image.id, sort=[("created_at", True), ("id", True)], limit=TASKS_MAX)

    return reply(200, {"tasks": [task_view(task) for task in await call.cloud.db.read(work)]})


async def list_tasks(call: Call) -> Response:
    must_admin(call)
    conditions: dict[str, Any] = {name: call.arg(name) for name in ("status", "owner") if call.arg(name) is not None}
    if call.arg("type") is not None:
        conditions["kind"] = call.arg("type")
    limit = call.arg("limit", "25") or "25"
    if not limit.isdecimal():
        raise Problem(400, f"Invalid value for limit: '{limit}' is not a whole number.")

    def work(tx: Tx) -> list[ImageTask]:
        marker = call.arg("marker")
        after = tx.get(ImageTask, marker) if marker else None
        if marker and after is None:
            raise Problem(400, f"Invalid marker: no task has the id {marker}.")
        return tx.find(ImageTask, sort=[("created_at", True), ("id", True)], limit=min(int(limit), TASKS_MAX),
                       after=after, **conditions)

    tasks = await call.cloud.db.read(work)
    return reply(200, {"tasks": [task_view(task, whole=False) for task in tasks], "first": "/v2/tasks",
                       "schema": "/v2/schemas/tasks"})


async def show_task(call: Call) -> Response:
    must_admin(call)
    task = await call.cloud.db.read(lambda tx: tx.get(ImageTask, call.params["task_id"]))
    if task is None:
        raise Problem(404, f"No task has the id {call.params['task_id']}.")
    return reply(200, task_view(task))


async def create_task(call: Call) -> Response:
    """The old way to import. Its one source is the web, which this cloud does not fetch from."""
    must_admin(call)
    await call.json()
    raise Problem(400, "Tasks cannot be created here: " + KNOWN_ELSEWHERE["web-download"]
                  + "; use PUT /v2/images/{id}/file, or stage and import.")


async def delete_from_store(call: Call) -> Response:
    """DELETE /v2/stores/{store}/{image}: the last copy cannot be taken away, and there is only one."""
    must_write(call)
    image = await call.cloud.db.read(lambda tx: changeable(tx, seen_by(call), call.params["image_id"]))
    if call.params["store"] != STORE or image.status == QUEUED:
        raise Problem(404, f"Image {image.id} is not in a store '{call.params['store']}'.")
    raise Problem(403, f"Store '{STORE}' holds the only copy of image {image.id}; delete the image instead.")
