"""A bare HTTP/1.1 client on asyncio streams, so that what is measured is the server and not a client library.

One request at a time a connection, keep-alive, answers with Content-Length or chunked. Nothing else: it talks to our own server only.
"""
from __future__ import annotations

import asyncio
import json
from typing import Any


class Connection:
    """One keep-alive connection."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def request(self, method: str, path: str, token: str = "", body: Any = None, headers: str = "") -> tuple[int, dict[str, str], bytes]:
        """(status, headers with lower-case names, body)"""
        if self._writer is None or self._reader is None:
            self._reader, self._writer = await asyncio.open_connection(self.host, self.port, limit=1 << 24)
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n{headers}"
        if token:
            head += f"X-Auth-Token: {token}\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        self._writer.write(head.encode() + b"\r\n" + data)
        raw = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")
        found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        status = int(first.split(" ", 2)[1])
        if found.get("transfer-encoding") == "chunked":
            parts = []
            while size := int(await self._reader.readline(), 16):
                parts.append((await self._reader.readexactly(size + 2))[:-2])
            await self._reader.readline()
            return status, found, b"".join(parts)
        length = int(found.get("content-length", "0"))
        return status, found, await self._reader.readexactly(length) if length else b""

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = self._reader = None


class Api:
    """A logged-in caller with a pool of connections. Errors of the API are errors of the measurement: they raise."""

    def __init__(self, host: str, port: int, password: str) -> None:
        self.host, self.port, self.password = host, port, password
        self.token = ""
        self._idle: list[Connection] = []

    async def call(self, method: str, path: str, body: Any = None, headers: str = "", ok: tuple[int, ...] = ()) -> Any:
        connection = self._idle.pop() if self._idle else Connection(self.host, self.port)
        status, found, data = await connection.request(method, path, self.token, body, headers)
        self._idle.append(connection)
        if status >= 400 and status not in ok:
            raise RuntimeError(f"{method} {path}: {status} {data[:300]!r}")
        if "x-subject-token" in found:
            self.token = found["x-subject-token"]
        return json.loads(data) if data and "json" in found.get("content-type", "") else None

    async def log_in(self) -> None:
        user = {"name": "admin", "domain": {"id": "default"}, "password": self.password}
        scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        identity = {"methods": ["password"], "password": {"user": user}}
        await self.call("POST", "/identity/v3/auth/tokens", {"auth": {"identity": identity, "scope": scope}})

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()
