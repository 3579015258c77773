"""The controller's door for hosts on other machines: authority, listener, enrolment, all wired to one database and one hub.

Part of the composition (like serve.py): nobody imports it but serve.py and the commands. The authority lives in the state folder; join tokens are rows.
"""
from __future__ import annotations

from pathlib import Path
from typing import Any

from virga.domain.enrolment import Invitation, pack
from virga.doorway_images import ImageDoor
from virga.fabric import pki
from virga.fabric.hub import Hub
from virga.fabric.websocket import Listener
from virga.ops import enrolment
from virga.runtime.env import Env
from virga.runtime.trace import Trace
from virga.store.blobs import Blobs
from virga.store.db import Db, Tx


class Doorway:
    """Lets hosts in. `url` is known after `open`."""

    def __init__(self, env: Env, trace: Trace, db: Db, hub: Hub, folder: Path, blobs: Blobs, image_size_max_bytes: int) -> None:
        self._env, self._db, self._hub = env, db, hub
        self.authority = pki.Authority(folder, env.now())
        self._listener = Listener(env, trace, self.authority, self._admit, self._enrol, hub.attach)
        self._images = ImageDoor(env, trace, db, blobs, self.authority, image_size_max_bytes)
        self.url = ""
        hub.renew = self._renew

    async def open(self, listen: str, url: str) -> None:
        """Raises OSError when the address cannot be had."""
        address, _, port = listen.rpartition(":")
        bound = await self._listener.open(address.strip("[]"), int(port))
        # Hosts are told this port when they say hello; behind NAT it has to be forwarded like the first.
        self._hub.images_port = await self._images.open(address.strip("[]"), int(port) + 1 if int(port) else 0)
        self.url = url or f"wss://{address}:{bound}"

    async def close(self) -> None:
        await self._images.close()
        await self._listener.close()

    async def invite(self, lifetime_s: float) -> str:
        """A join token, good once."""
        secret = await self._db.run(lambda tx: enrolment.make_token(tx, lifetime_s))
        return pack(Invitation(self.url, self.authority.certificate_file.read_text(encoding="ascii"), secret))

    async def _admit(self, host_id: str, host: str) -> str:
        return await self._db.read(lambda tx: enrolment.why_not(tx, host_id, host))

    async def _enrol(self, asked: dict[str, Any]) -> dict[str, Any]:
        secret, host, request = str(asked.get("secret", "")), str(asked.get("host", "")), str(asked.get("request", ""))
        try:
            certificate, host_id = await self._db.run(
                lambda tx: enrolment.use_token(tx, secret, host, lambda host_id, name, now: self.authority.sign(request, host_id, name, now)))
        except ValueError as error:
            return {"error": str(error)}
        return {"certificate": certificate, "host_id": host_id}

    def _renew(self, tx: Tx, host_id: str, host: str, request: str) -> str:
        try:
            certificate = self.authority.sign(request, host_id, host, tx.now)
        except ValueError:
            return ""
        enrolment.renewed(tx, host_id, host)
        return certificate
