"""How images, members and tasks look in JSON. Free-form properties stand beside the base attributes."""
from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from virga.domain.image import ACTIVE, DEACTIVATED, STORE, Image, ImageMember, ImageTask


def stamp(seconds: float) -> str:
    """Seconds since the epoch as `2026-01-31T12:00:00Z`."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def image_view(image: Image) -> dict[str, Any]:
    return {
        **image.properties,
        "id": image.id, "name": image.name, "status": image.status, "visibility": image.visibility,
        "protected": image.protected, "os_hidden": image.os_hidden, "owner": image.owner,
        "container_format": image.container_format, "disk_format": image.disk_format,
        "min_disk": image.min_disk, "min_ram": image.min_ram, "size": image.size, "virtual_size": image.virtual_size,
        "checksum": image.checksum, "os_hash_algo": image.os_hash_algo, "os_hash_value": image.os_hash_value,
        "tags": sorted(image.tags), "created_at": stamp(image.created_at), "updated_at": stamp(image.updated_at),
        "self": f"/v2/images/{image.id}", "file": f"/v2/images/{image.id}/file", "schema": "/v2/schemas/image",
        **({"stores": STORE} if image.status in (ACTIVE, DEACTIVATED) else {}),
    }


def member_view(member: ImageMember) -> dict[str, Any]:
    return {
        "image_id": member.image_id, "member_id": member.member_id, "status": member.status,
        "created_at": stamp(member.created_at), "updated_at": stamp(member.updated_at), "schema": "/v2/schemas/member"}


def task_view(task: ImageTask, whole: bool = True) -> dict[str, Any]:
    """`whole` adds input, result and message, which lists leave out."""
    view: dict[str, Any] = {
        "id": task.id, "type": task.kind, "status": task.status, "owner": task.owner,
        "created_at": stamp(task.created_at), "updated_at": stamp(task.updated_at),
        "expires_at": None if task.expires_at is None else stamp(task.expires_at),
        "self": f"/v2/tasks/{task.id}", "schema": "/v2/schemas/task"}
    if whole:
        view |= {"input": task.input, "result": task.result, "message": task.message, "image_id": task.image_id,
                 "request_id": task.request_id, "user_id": task.user_id}
    return view
