"""Image bytes from and to the controller's image door, over mutual TLS: agent.disk.ImageStore on a host of its own.

The port is told in every Welcome; the address is that of the controller's link. Only a certificate that names the controller is talked to: another
host of the same authority must not be able to hand out images.
"""
from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import urlsplit

from virga.agent.hypervisor import DriverError, ImageRef
from virga.agent.transfer import CONTROLLER, TransferClient
from virga.fabric.wire import Welcome
from virga.runtime.env import Env


class ControllerImages:
    """`url` is the controller's link (wss://host:port)."""

    def __init__(self, env: Env, url: str, context: ssl.SSLContext) -> None:
        self._client = TransferClient(env, context, name=CONTROLLER)
        self._host = urlsplit(url).hostname or ""
        self._port = 0

    def welcomed(self, welcome: Welcome) -> None:
        self._port = welcome.images_port

    def _address(self) -> str:
        if not self._port:
            raise DriverError("the controller does not serve images to hosts (no session with it yet, or an older controller)", "unreachable")
        return f"{self._host}:{self._port}"

    async def download(self, image: ImageRef, path: Path) -> None:
        await self._client.download(self._address(), f"/images/{image.id}", path, image.size_bytes)

    async def upload(self, image_id: str, path: Path) -> str:
        return await self._client.put(self._address(), f"/images/{image_id}", path)
