# ruff: noqa: ASYNC240 - looking at a local file takes microseconds; whatever reads or copies data goes through a thread
"""Copies of disks between hosts: a small HTTP server in each agent, and its client, over mutual TLS of the cloud's own CA.

Server: GET /disks/<server id>/manifest, GET /disks/<server id>/data, GET /images/<name>; with `Range: bytes=N-`. Only whoever holds a certificate of
this CA gets in, and only for disks the agent is willing to show (`allowed`). Client: takes a broken copy up where it ended, reports how far it is,
and checks the whole file's checksum at the end; a wrong one is thrown away and said.
Why own HTTP: two verbs, one direction, no body taken; and the peer's certificate is at hand to be checked.
"""
from __future__ import annotations

import asyncio
import contextlib
import errno
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from virga.agent.disk import QcowDisks, digest
from virga.agent.hypervisor import DriverError
from virga.runtime.env import Env

PORT = 8790
HEAD_MAX_BYTES = 8192
BLOCK_BYTES = 1 << 20
IDLE_TIMEOUT_S, CONNECT_TIMEOUT_S = 60.0, 10.0
DIGEST_TIMEOUT_S = 3600.0  # the other side reads the whole disk for its checksum before it answers
PATIENCE_S, RETRY_S = 60.0, 1.0  # how long a copy that gets no byte on its way is tried again: a cable is pulled and put back, a switch boots
OURS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EFBIG)  # this host's files, not the way
ALLOW_WAIT_S, ALLOW_POLL_S = 10.0, 0.05  # a view that allows a copy may arrive a moment after the copy is asked for
CONTROLLER = "virga-controller"  # the name in the certificate of the controller's end


def server_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """Only clients with a certificate of our CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """The other side must be of our CA; hosts are named by certificate, not by address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    context.check_hostname = False
    return context


def common_name(peer: Any) -> str:
    """The name in a peer certificate as `ssl` shows it, '' without one."""
    for part in (peer or {}).get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return ""


class TransferServer:
    """Shows this host's disks to the others. `allowed(peer name, server id)` has the last word; a cached image goes with a disk that stands on it."""

    def __init__(self, disks: QcowDisks, allowed: Callable[[str, str], bool] = lambda peer, server_id: True) -> None:
        self._disks, self._allowed = disks, allowed
        self._server: asyncio.Server | None = None
        self.sent_bytes = 0

    async def open(self, address: str, port: int, context: ssl.SSLContext | None) -> int:
        """Listen; returns the port. Raises DriverError."""
        try:
            self._server = await asyncio.start_server(self._serve, address, port, ssl=context, limit=HEAD_MAX_BYTES)
        except OSError as error:
            raise DriverError(f"cannot listen for disk copies on {address}:{port}: {error.strerror}", "failed") from error
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(TimeoutError, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            words = head[0].split(" ")
            fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            peer = common_name(writer.get_extra_info("peercert"))
            try:
                await self._answer(writer, words, fields, peer)
            except DriverError as error:
                await self._say(writer, 404, str(error))
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, words: list[str], fields: dict[str, str], peer: str) -> None:
        parts = words[1].split("/")[1:] if len(words) == 3 and words[0] == "GET" else []
        disk = len(parts) == 3 and parts[0] == "disks" and parts[2] in ("manifest", "data")
        if not disk and not (len(parts) == 2 and parts[0] == "images"):
            await self._say(writer, 400, "there is nothing here under that name")
        elif not (await self._allows(peer, parts[1]) if disk else await self._allows_image(peer, parts[1])):
            await self._say(writer, 403, f"host {peer or '?'} may not have {'/'.join(parts)}")
        elif not disk:
            await self._send(writer, self._disks.places.base(parts[1]), fields)
        elif parts[2] == "manifest":
            await self._say(writer, 200, msgspec.json.encode(await self._disks.manifest(parts[1])).decode())
        else:
            await self._send(writer, self._disks.places.disk(parts[1]), fields)

    async def _allows(self, peer: str, server_id: str) -> bool:
        env = self._disks.env
        end = env.monotonic() + ALLOW_WAIT_S
        while not self._allowed(peer, server_id):
            if env.monotonic() > end:
                return False
            await env.sleep(ALLOW_POLL_S)
        return True

    async def _allows_image(self, peer: str, name: str) -> bool:
        """Only with a disk that stands on it: an image can be another tenant's secret."""
        for server_id in await self._disks.list():
            with contextlib.suppress(DriverError):  # a disk that went away meanwhile
                if self._disks.base_of(server_id) == name and self._allowed(peer, server_id):
                    return True
        return False

    async def _say(self, writer: asyncio.StreamWriter, status: int, text: str) -> None:
        body = text.encode()
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()

    async def _send(self, writer: asyncio.StreamWriter, path: Path, fields: dict[str, str]) -> None:
        if not path.exists():
            raise DriverError(f"{path.name} is not on this host", "no-disk")
        size = path.stat().st_size
        wanted = fields.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-")
        start = min(int(wanted), size) if wanted.isdigit() else 0
        writer.write(f"HTTP/1.1 {206 if start else 200} X\r\nContent-Length: {size - start}\r\nConnection: close\r\n\r\n".encode())
        with path.open("rb") as file:
            file.seek(start)
            while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
                async with asyncio.timeout(IDLE_TIMEOUT_S):
                    writer.write(block)
                    await writer.drain()
                self.sent_bytes += len(block)


class TransferClient:
    """agent.disk.Peer over that server. `progress(path, done, total)` is called after every block. `name`: what the other side's certificate must say."""

    def __init__(self, env: Env, context: ssl.SSLContext | None, progress: Callable[[str, int, int], None] = lambda path, done, total: None,
                 name: str = "") -> None:
        self._env, self._context, self.progress, self._name = env, context, progress, name

    async def _connect(self, address: str) -> tuple[str, asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = address.rpartition(":") if address.count(":") == 1 else (address, "", "")
        reader, writer = await asyncio.open_connection(host, int(port or PORT), ssl=self._context, limit=BLOCK_BYTES)
        if self._name and common_name(writer.get_extra_info("peercert")) != self._name:
            writer.close()
            raise DriverError(f"{address} is not {self._name}, whatever answers there", "unreachable")
        return host, reader, writer

    async def _ask(self, address: str, path: str, start: int, answer_s: float = IDLE_TIMEOUT_S,
                   ) -> tuple[int, int, asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            host, reader, writer = await self._connect(address)
        try:
            async with asyncio.timeout(answer_s):
                extra = f"Range: bytes={start}-\r\n" if start else ""
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{extra}\r\n".encode())
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except BaseException:
            writer.close()
            raise
        status = int(head.split(" ")[1])
        length = next((int(line.split(":")[1]) for line in head.split("\r\n") if line.lower().startswith("content-length:")), 0)
        return status, length, reader, writer

    async def manifest(self, address: str, server_id: str) -> dict[str, Any]:
        since = self._env.monotonic()
        while True:
            try:
                status, length, reader, writer = await self._ask(address, f"/disks/{server_id}/manifest", 0, DIGEST_TIMEOUT_S)
                try:
                    async with asyncio.timeout(IDLE_TIMEOUT_S):
                        body = await reader.readexactly(min(length, 1 << 20))
                finally:
                    writer.close()
                break
            except ssl.SSLError as error:
                raise DriverError(f"{address} is no host of this cloud: {error}", "unreachable") from error
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                if self._env.monotonic() - since > PATIENCE_S:
                    raise DriverError(f"{address} cannot be reached for the disk of server {server_id}: {str(error) or 'no answer'}",
                                      "unreachable") from error
                await self._env.sleep(RETRY_S)
        if status != 200:
            raise DriverError(f"{address} will not give the disk of server {server_id}: {body.decode('utf-8', 'replace')[:200]}", "no-disk")
        return dict(msgspec.json.decode(body))

    async def fetch(self, address: str, path: str, target: Path, size_bytes: int, sha512: str) -> None:
        """Into `target`, from where it ends. Raises DriverError 'unreachable' after a minute without a byte, 'checksum' when the bytes are wrong, OSError
        for trouble with our own files.
        """
        await self.download(address, path, target, size_bytes)
        found = await asyncio.to_thread(digest, target)
        if found != sha512:
            target.unlink()
            raise DriverError(f"the copy of {path} from {address} is not what was sent (sha512 {found[:16]}…, not {sha512[:16]}…)", "checksum")

    async def download(self, address: str, path: str, target: Path, size_bytes: int) -> None:
        """`fetch` without the check, for callers that make it themselves."""
        done, since = -1, self._env.monotonic()
        while True:
            try:
                await self._rest(address, path, target, size_bytes)
                return
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                if isinstance(error, OSError) and error.errno in OURS:
                    raise
                have = target.stat().st_size if target.exists() else 0
                if have > done:
                    done, since = have, self._env.monotonic()
                if self._env.monotonic() - since > PATIENCE_S:
                    raise DriverError(f"copying {path} from {address} broke off after {have} of {size_bytes} bytes: {str(error) or 'no answer'}",
                                      "unreachable") from error
                await self._env.sleep(RETRY_S)

    async def put(self, address: str, path: str, source: Path) -> str:
        """Upload a file; returns what the other side calls it. Raises DriverError."""
        size = source.stat().st_size
        try:
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                host, reader, writer = await self._connect(address)
            try:
                writer.write(f"PUT {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {size}\r\nExpect: 100-continue\r\n\r\n".encode())
                async with asyncio.timeout(IDLE_TIMEOUT_S):
                    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                if head.split(" ")[1] == "100":
                    await self._send_all(source, writer)
                    async with asyncio.timeout(IDLE_TIMEOUT_S):
                        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                async with asyncio.timeout(IDLE_TIMEOUT_S):
                    text = (await reader.read(1000)).decode("utf-8", "replace")
            finally:
                writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise DriverError(f"putting {path} to {address} broke off: {error}", "unreachable") from error
        if int(head.split(" ")[1]) != 201:
            raise DriverError(f"{address} will not take {path}: {text}", "no-image")
        return text

    async def _send_all(self, source: Path, writer: asyncio.StreamWriter) -> None:
        with source.open("rb") as file:
            while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
                async with asyncio.timeout(IDLE_TIMEOUT_S):
                    writer.write(block)
                    await writer.drain()

    async def _rest(self, address: str, path: str, target: Path, size_bytes: int) -> None:
        done = target.stat().st_size if target.exists() else 0
        if done > size_bytes:
            target.unlink()
            done = 0
        if done == size_bytes and target.exists():
            return
        status, length, reader, writer = await self._ask(address, path, done)
        try:
            if status not in (200, 206):
                async with asyncio.timeout(IDLE_TIMEOUT_S):
                    why = (await reader.read(min(length, 1000))).decode("utf-8", "replace")
                raise DriverError(f"{address} will not give {path}: {why}", "no-disk")
            with target.open("ab") as file:
                while done < size_bytes:
                    async with asyncio.timeout(IDLE_TIMEOUT_S):
                        block = await reader.read(BLOCK_BYTES)
                    if not block:
                        raise ConnectionResetError("the other side closed the connection early")
                    await asyncio.to_thread(file.write, block)
                    done += len(block)
                    self.progress(path, done, size_bytes)
        finally:
            writer.close()
