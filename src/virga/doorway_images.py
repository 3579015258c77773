"""The controller's door for image bytes: hosts fetch images here and put snapshots, over mutual TLS of the cloud's own authority.

GET /images/<id> (with `Range: bytes=N-`) and PUT /images/<id>; ops/image_bytes.py says who may. Own small HTTP beside the websocket listener: bytes of
images must not stand in the way of commands and facts, and they travel as streams, never whole in memory. Part of the composition, like doorway.py.
"""
from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping

from virga.fabric import pki
from virga.ops.image_bytes import readable, writable
from virga.runtime.env import Env
from virga.runtime.trace import Trace
from virga.store.blobs import Blobs
from virga.store.db import Db

HEAD_MAX_BYTES = 8192
BLOCK_BYTES = 1 << 20
IDLE_TIMEOUT_S = 60.0


class ImageDoor:
    """`open` it, tell the hosts its port (Hub.images_port), `close` it."""

    def __init__(self, env: Env, trace: Trace, db: Db, blobs: Blobs, authority: pki.Authority, size_max_bytes: int) -> None:
        self._env, self._trace, self._db, self._blobs, self._authority = env, trace, db, blobs, authority
        self._size_max_bytes = size_max_bytes
        self._server: asyncio.Server | None = None

    async def open(self, address: str, port: int) -> int:
        """Listen; returns the port. Raises OSError."""
        context = self._authority.server_context(self._env.now())
        context.verify_mode = ssl.CERT_REQUIRED
        self._server = await asyncio.start_server(self._serve, address, port, ssl=context, limit=HEAD_MAX_BYTES)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            peer: Mapping[str, object] | None = writer.get_extra_info("peercert")
            host_id, host = pki.peer_of(peer)
            method, path = [*head[0].split(" "), "", ""][:2]
            image_id = path.removeprefix("/images/")
            if method == "GET":
                await self._give(writer, fields, host_id, host, image_id)
            elif method == "PUT":
                await self._take(reader, writer, fields, host_id, host, image_id)
            else:
                await _say(writer, 405, "only GET and PUT")
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ssl.SSLError) as error:
            self._trace.emit("fault", "images", "", f"a copy broke off: {error!r}")
        finally:
            writer.close()

    async def _give(self, writer: asyncio.StreamWriter, fields: dict[str, str], host_id: str, host: str, image_id: str) -> None:
        blob = await self._db.read(lambda tx: readable(tx, host_id, host, image_id))
        if not blob or not self._blobs.exists(blob):
            self._trace.emit("fault", host, "images", f"refused: image {image_id[:64]}")
            await _say(writer, 404, f"image {image_id[:64]} has no data for this host")
            return
        path = self._blobs.path(blob)
        size = path.stat().st_size if path is not None else sum([len(part) async for part in self._blobs.read(blob)])
        asked = fields.get("range", "").removeprefix("bytes=").removesuffix("-")
        start = min(int(asked), size) if asked.isdigit() else 0
        writer.write(f"HTTP/1.1 {206 if start else 200} X\r\nContent-Length: {size - start}\r\nConnection: close\r\n\r\n".encode())
        async for part in self._blobs.read(blob, start):
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                writer.write(part)
                await writer.drain()

    async def _take(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fields: dict[str, str], host_id: str, host: str, image_id: str,
    ) -> None:
        length = fields.get("content-length", "")
        if not await self._db.read(lambda tx: writable(tx, host_id, host, image_id)):
            self._trace.emit("fault", host, "images", f"refused: snapshot {image_id[:64]}")
            await _say(writer, 403, f"host {host} is not making a snapshot {image_id[:64]}")
            return
        if not length.isdigit() or int(length) > self._size_max_bytes:
            await _say(writer, 413, f"a snapshot may have {self._size_max_bytes} bytes (image_size_max_bytes)")
            return
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # nothing was sent before leave was given
        await writer.drain()
        into = self._blobs.create(image_id)
        left = int(length)
        try:
            while left:
                async with asyncio.timeout(IDLE_TIMEOUT_S):
                    part = await reader.read(min(left, BLOCK_BYTES))
                if not part:
                    raise ConnectionResetError("the host closed the connection early")
                await into.write(part)
                left -= len(part)
            await into.commit()
        except BaseException as error:
            await into.abort()
            if isinstance(error, OSError) and not isinstance(error, ConnectionError):
                await _say(writer, 507, f"the image store cannot take it: {error.strerror}")
                return
            raise
        await _say(writer, 201, image_id)


async def _say(writer: asyncio.StreamWriter, status: int, text: str) -> None:
    body = text.encode()
    writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    with contextlib.suppress(ConnectionError):
        await writer.drain()
