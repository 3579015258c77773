"""Images: their rows, who may see them, and how one comes to be.

Writers: every column of `Image` belongs to the controller (api/image, and ops for snapshots). The bytes lie beside
the database under `Image.blob`; they never change once the image is active, so `checksum` (MD5) and `os_hash_value`
(SHA-512) are computed once, while the bytes pass by, and an agent that fetches the image can trust them. Life:
queued -> saving -> active -> (deactivated <-> active) -> gone, or queued -> uploading -> importing -> active. A
broken upload goes back to queued and leaves no bytes. Deleted images leave no row; their id stays taken
(`DeletedImage`), as clients expect an id to mean one thing for ever. Sizes: `size` and `virtual_size` in bytes,
`min_disk` in GiB, `min_ram` in MiB.
"""
from __future__ import annotations

import re
from typing import Any

import msgspec

from virga.domain.row import Row

# Image.status
QUEUED, SAVING, UPLOADING, IMPORTING = "queued", "saving", "uploading", "importing"
ACTIVE, DEACTIVATED, KILLED = "active", "deactivated", "killed"

VISIBILITIES = ("public", "private", "shared", "community")
CONTAINER_FORMATS = ("ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed")
DISK_FORMATS = ("ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop")
MEMBER_STATES = ("pending", "accepted", "rejected")
HASH_ALGO = "sha512"
STORE = "files"  # the one place image bytes are kept; the name users see in `stores`

TAGS_MAX = 128
PROPERTIES_MAX = 128
MEMBERS_MAX = 128
NAME_CHARS_MAX = 255

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Image(Row):
    """One image. `owner` is a project id; `properties` are free-form; `blob` names the bytes, if there are any."""

    __table__ = "images"

    id: str
    owner: str
    status: str = QUEUED
    name: str | None = None
    visibility: str = "shared"
    container_format: str | None = None
    disk_format: str | None = None
    min_disk: int = 0
    min_ram: int = 0
    size: int | None = None
    virtual_size: int | None = None
    checksum: str | None = None
    os_hash_algo: str | None = None
    os_hash_value: str | None = None
    protected: bool = False
    os_hidden: bool = False
    tags: list[str] = []
    properties: dict[str, str] = {}
    blob: str = ""
    staged: str = ""  # name of the bytes put aside by `stage`, until an import takes them
    created_at: float = 0.0
    updated_at: float = 0.0


class DeletedImage(Row):
    """The id of an image that is gone: it is never given out again."""

    __table__ = "images_deleted"

    id: str
    deleted_at: float


class ImageMember(Row):
    """A project that a shared image is offered to. `status`: pending, accepted, rejected."""

    __table__ = "image_members"
    __key__ = ("image_id", "member_id")

    image_id: str
    member_id: str
    status: str = "pending"
    created_at: float = 0.0
    updated_at: float = 0.0


class ImageTask(Row):
    """The record of one import. `status`: pending, processing, success, failure."""

    __table__ = "image_tasks"

    id: str
    kind: str
    status: str
    owner: str
    user_id: str
    request_id: str
    image_id: str | None = None
    input: dict[str, Any] = {}
    result: dict[str, Any] | None = None
    message: str = ""
    created_at: float = 0.0
    updated_at: float = 0.0
    expires_at: float | None = None


class Seen(msgspec.Struct, frozen=True):
    """Who looks at images: a project (None when the token has none) and whether as an administrator."""

    project_id: str | None
    is_admin: bool = False


def is_uuid(text: str) -> bool:
    return _UUID.fullmatch(text) is not None


def may_see(image: Image, seen: Seen, member: ImageMember | None) -> bool:
    """Whether this caller may know that the image exists. `member` is its project's membership, if it has one."""
    if seen.is_admin or image.visibility in ("public", "community"):
        return True
    if seen.project_id is not None and image.owner == seen.project_id:
        return True
    return image.visibility == "shared" and member is not None


def may_change(image: Image, seen: Seen) -> bool:
    """Owners and administrators change an image; a member of a shared image only reads it."""
    return seen.is_admin or (seen.project_id is not None and image.owner == seen.project_id)


def new_image_row(
    image_id: str, owner: str, now: float, *, name: str | None = None, visibility: str = "private",
    disk_format: str | None = "qcow2", container_format: str | None = "bare", min_disk: int = 0, min_ram: int = 0,
    properties: dict[str, str] | None = None, tags: list[str] | None = None,
) -> Image:
    """A queued image without bytes, as a server's snapshot starts out. Whoever inserts it later calls `filled`."""
    return Image(
        id=image_id, owner=owner, name=name, visibility=visibility, disk_format=disk_format,
        container_format=container_format, min_disk=min_disk, min_ram=min_ram, properties=dict(properties or {}),
        tags=list(tags or []), created_at=now, updated_at=now)


def filled(
    size_bytes: int, md5_hex: str, sha512_hex: str, blob: str, virtual_size_bytes: int | None, now: float
) -> dict[str, Any]:
    """The columns that change when an image's bytes are whole: `tx.update(Image, id, **filled(...))`."""
    return {
        "status": ACTIVE, "size": size_bytes, "virtual_size": virtual_size_bytes, "checksum": md5_hex,
        "os_hash_algo": HASH_ALGO, "os_hash_value": sha512_hex, "blob": blob, "staged": "", "updated_at": now}


def emptied(now: float) -> dict[str, Any]:
    """The columns of an image whose upload broke: queued again, as if it had never begun."""
    return {
        "status": QUEUED, "size": None, "virtual_size": None, "checksum": None, "os_hash_algo": None,
        "os_hash_value": None, "blob": "", "staged": "", "updated_at": now}


def snapshot_properties(
    server_id: str, user_id: str, base_image_ref: str, base: dict[str, str], extra: dict[str, str]
) -> dict[str, str]:
    """The properties of a server's snapshot: the base image's, then what compute always notes, then the user's."""
    kept = {name: value for name, value in base.items() if name not in ("cache_in_nova", "bittorrent")}
    return {
        **kept, "image_type": "snapshot", "instance_uuid": server_id, "user_id": user_id,
        "base_image_ref": base_image_ref, **extra}
