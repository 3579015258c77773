"""Links over real distance: websockets carrying MessagePack frames over mutual TLS. The host dials; the controller listens.

Paths: /link needs a client certificate of this cloud's authority whose host is still on record; /enrol takes a join token and a signing request and
answers with a certificate. A refused host is logged with the reason and closed with a code of its own, so that its operator reads why. Keep-alive
pings find dead peers; frames are bounded; a link whose peer does not read is closed rather than buffered without end.
"""
from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from virga.fabric import pki
from virga.fabric.link import Closed, Link, Receiver
from virga.fabric.wire import FRAME_BYTES_MAX, Frame, decode_to_controller, decode_to_host, encode
from virga.runtime.env import Env
from virga.runtime.trace import Trace

PING_PERIOD_S, PING_TIMEOUT_S = 10.0, 20.0
UNSENT_FRAMES_MAX = 4096
REFUSED = 4403  # close code: this host is not welcome, and redialling will not help


class Refused(Exception):
    """The controller does not want this host; the text says why."""


class WebsocketLink:
    """fabric.link.Link over one websocket."""

    def __init__(self, env: Env, connection: ClientConnection | ServerConnection, decode: Callable[[bytes], Frame]) -> None:
        self._env, self._connection, self._decode = env, connection, decode
        self._unsent: asyncio.Queue[Frame] = asyncio.Queue(UNSENT_FRAMES_MAX)
        self._closed: Closed | None = None
        self._over = asyncio.Event()
        self.tell: Callable[[str], None] = lambda text: None  # told what an operator should read

    def start(self, receive: Receiver, closed: Closed) -> None:
        self._closed = closed
        self._env.spawn(self._pump_in(receive), "link-in")
        self._env.spawn(self._pump_out(), "link-out")

    async def _pump_in(self, receive: Receiver) -> None:
        try:
            async for data in self._connection:
                if isinstance(data, bytes):
                    receive(self._decode(data))
        except (ConnectionClosed, msgspec.DecodeError) as error:
            if not isinstance(error, ConnectionClosed):
                self.tell(f"the peer sent what is no frame: {error}")
        finally:
            if self._connection.close_code == REFUSED:
                self.tell(f"the controller refuses this host: {self._connection.close_reason}")
            self.close()

    async def _pump_out(self) -> None:
        try:
            while True:
                await self._connection.send(encode(await self._unsent.get()))
        except ConnectionClosed:
            self.close()

    def send(self, frame: Frame) -> None:
        try:
            self._unsent.put_nowait(frame)
        except asyncio.QueueFull:
            self.close()

    def close(self) -> None:
        if self._over.is_set():
            return
        self._over.set()
        closed, self._closed = self._closed, None
        if self._env.alive:
            self._env.spawn(self._connection.close(), "link-close")
            if closed is not None:
                closed()

    async def wait_closed(self) -> None:
        await self._over.wait()


# the controller's side ----------------------------------------------------------------------------------------------
Admit = Callable[[str, str], Awaitable[str]]  # (host id, host name) -> why not, or ''
EnrolHost = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]  # {secret, host, request} -> {certificate, host_id} or {error}
Attach = Callable[[Link, str, str], None]  # (link, host name, host id)


class Listener:
    """Accepts hosts. `admit` and `enrol` decide (they read and write rows); `attach` hands a link over with the name its certificate proves."""

    def __init__(self, env: Env, trace: Trace, authority: pki.Authority, admit: Admit, enrol: EnrolHost, attach: Attach) -> None:
        self._env, self._trace, self._authority = env, trace, authority
        self._admit, self._enrol, self._attach = admit, enrol, attach
        self._server: Server | None = None

    async def open(self, address: str, port: int) -> int:
        """Listen; returns the port. Raises OSError."""
        self._server = await serve(
            self._serve, address, port, ssl=self._authority.server_context(self._env.now()), max_size=FRAME_BYTES_MAX,
            ping_interval=PING_PERIOD_S, ping_timeout=PING_TIMEOUT_S, compression=None)
        return int(next(iter(self._server.sockets)).getsockname()[1])

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, connection: ServerConnection) -> None:
        path = connection.request.path if connection.request is not None else ""
        if path == "/enrol":
            await self._enrol_one(connection)
        elif path == "/link":
            await self._link_one(connection)
        else:
            await connection.close(1008, "there is nothing here but /link and /enrol")

    async def _link_one(self, connection: ServerConnection) -> None:
        tls: ssl.SSLObject | None = connection.transport.get_extra_info("ssl_object")
        host_id, host = pki.peer_of(tls.getpeercert() if tls is not None else None)
        why = await self._admit(host_id, host) if host_id else "no certificate of this cloud was shown"
        if why:
            self._trace.emit("fault", host or str(connection.remote_address), "hub", f"refused: {why}")
            await connection.close(REFUSED, why[:120])
            return
        link = WebsocketLink(self._env, connection, decode_to_controller)
        self._attach(link, host, host_id)
        await link.wait_closed()

    async def _enrol_one(self, connection: ServerConnection) -> None:
        try:
            async with asyncio.timeout(PING_TIMEOUT_S):
                asked = msgspec.msgpack.decode(await connection.recv(decode=False), type=dict[str, Any])
                answer = await self._enrol(asked)
                if "error" in answer:
                    self._trace.emit("fault", str(asked.get("host", ""))[:64], "hub", f"enrolment refused: {answer['error']}")
                await connection.send(msgspec.msgpack.encode(answer))
        except (TimeoutError, ConnectionClosed, msgspec.DecodeError) as error:
            self._trace.emit("fault", str(connection.remote_address), "hub", f"enrolment broke off: {error!r}")


# the host's side ----------------------------------------------------------------------------------------------------
async def dial(env: Env, url: str, context: ssl.SSLContext) -> WebsocketLink:
    """A fresh link to the controller at `url` (wss://host:port). Raises OSError."""
    try:
        connection = await connect(url.rstrip("/") + "/link", ssl=context, max_size=FRAME_BYTES_MAX, ping_interval=PING_PERIOD_S,
                                   ping_timeout=PING_TIMEOUT_S, compression=None, open_timeout=10, proxy=None)
    except (InvalidHandshake, TimeoutError, ssl.SSLError) as error:
        raise OSError(f"no link to {url}: {error}") from error
    return WebsocketLink(env, connection, decode_to_host)


async def enrol(url: str, authority_pem: str, secret: str, host: str, request_pem: str) -> tuple[str, str]:
    """Trade a join token for (certificate, host id). Raises Refused with the controller's reason, OSError when it cannot be reached."""
    context = pki.client_context(authority_pem, None, None)
    try:
        async with connect(url.rstrip("/") + "/enrol", ssl=context, open_timeout=10, proxy=None) as connection:
            await connection.send(msgspec.msgpack.encode({"secret": secret, "host": host, "request": request_pem}))
            data = await connection.recv()
    except (InvalidHandshake, TimeoutError, ssl.SSLError, ConnectionClosed) as error:
        raise OSError(f"cannot enrol at {url}: {error}") from error
    answer = msgspec.msgpack.decode(data if isinstance(data, bytes) else data.encode(), type=dict[str, str])
    if "error" in answer:
        raise Refused(answer["error"])
    return answer["certificate"], answer["host_id"]
