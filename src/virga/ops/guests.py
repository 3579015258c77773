"""What a command tells an agent of a guest: made from rows at the moment of the decision, complete, so that the agent never has to ask back."""
from __future__ import annotations

from typing import Any

from virga.domain.image import Image
from virga.domain.port import Binding, Port
from virga.domain.server import FlavorSpec, Server
from virga.ops.ports import nic_of
from virga.store.db import Tx


def image_args(tx: Tx, image_id: str | None) -> dict[str, Any] | None:
    """The image a disk is made from; None for a server without one, or whose image is gone."""
    image = tx.get(Image, image_id) if image_id else None
    if image is None:
        return None
    return {"id": image.id, "size_bytes": image.size or 0, "disk_format": image.disk_format or "raw", "sha512": image.os_hash_value or "",
            "properties": {key: value for key, value in image.properties.items() if isinstance(value, str)}}


def metadata_of(server: Server) -> dict[str, Any]:
    """What metadata service and config drive tell a guest about itself."""
    keys = [{"name": server.key_name, "type": "ssh", "data": server.key_public}] if server.key_name and server.key_public else []
    return {
        "uuid": server.id, "name": server.name, "hostname": server.hostname or server.name, "project_id": server.project_id,
        "launch_index": server.launch_index, "availability_zone": server.availability_zone or "nova", "meta": server.metadata, "keys": keys,
    }


def spec_args(tx: Tx, server: Server, flavor: FlavorSpec, host: str, *, image_id: str | None = None) -> dict[str, Any]:
    """A GuestSpec for the agent of `host`: its NICs carry the generations of the bindings open on that host."""
    nics: list[dict[str, Any]] = []
    for port in tx.find(Port, device_id=server.id, sort=[("created_at", False), ("id", False)]):
        binding = tx.get(Binding, port.id, host)
        if binding is not None:
            nics.append(nic_of(tx, port, binding.generation))
    return {
        "server_id": server.id, "name": server.name, "vcpus": flavor.vcpus, "ram_mb": flavor.ram_mb, "disk_gb": flavor.disk_gb, "nics": nics,
        "image": image_args(tx, image_id or server.image_id), "config_drive": server.config_drive, "metadata": metadata_of(server),
        "user_data": server.user_data or "",
    }
