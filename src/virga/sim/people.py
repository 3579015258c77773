"""Who asks: users and operators, straight through ops or over HTTP in memory.

Owns: the words of a plan (`resize`, `detach`, ...) as requests, and `Answer`. Both ways make the same requests; over HTTP they pass the front door,
its routing, the handlers and their JSON, with an identity that believes its token. Neither knows what the answer should be: model.py does.
"""
from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from virga.api import compute, network
from virga.api.cloud import Cloud
from virga.api.http import Caller, FrontDoor
from virga.domain.ask import Ask
from virga.domain.errors import Problem
from virga.domain.image import new_image_row
from virga.domain.placement import Host
from virga.domain.port import Port
from virga.domain.server import Server
from virga.ops import front
from virga.runtime.env import Killed
from virga.sim.world import BIG, HUGE, IMAGE_ID, NETWORKS, PROJECT, SMALL, USER, World
from virga.store.blobs import MemoryBlobs
from virga.store.db import Tx


class Answer(msgspec.Struct, frozen=True):
    """What came back. `status` 0: nobody answered, and whether it was done is not known. `wanted`: the judgement made in the very transaction."""

    status: int
    message: str = ""
    wanted: str = ""

    @property
    def accepted(self) -> bool:
        return 200 <= self.status < 300


NOBODY = Answer(0, "nobody answered")


class Request(msgspec.Struct, frozen=True):
    """One wish about one server (`server_id` '' for a boot; a host's name in `host`). `die` in [0, 1) decides its details."""

    what: str
    server_id: str = ""
    host: str = ""
    die: float = 0.0
    admin: bool = True


Judge = Callable[[Tx, Request], str]


class People(Protocol):
    """Somebody who can ask."""

    async def ask(self, request: Request) -> Answer: ...


def flavor_for(server: Server, die: float) -> Any:
    """The flavor a resize asks for: now and then the same or a smaller one, which must be refused."""
    ladder = [SMALL, BIG, HUGE]
    here = next((index for index, flavor in enumerate(ladder) if flavor.id == server.flavor.id), 0)
    return ladder[here] if die < 0.05 else ladder[min(here + 1, 2)] if die < 0.9 else ladder[max(here - 1, 0)]


class Direct:
    """Asks ops in one transaction, as a handler would."""

    def __init__(self, world: World, judge: Judge) -> None:
        self.world = world
        self.judge = judge

    async def ask(self, request: Request) -> Answer:
        world, wanted = self.world, ""
        asked = msgspec.structs.replace(world.ask(), is_admin=request.admin)

        def closure(tx: Tx) -> None:
            nonlocal wanted
            wanted = self.judge(tx, request)
            self._do(tx, asked, request)

        try:
            await world.run(closure)
        except Problem as problem:
            return Answer(problem.status, problem.message, wanted)
        except ConnectionError:
            return NOBODY
        return Answer(202, "", wanted)

    def _do(self, tx: Tx, ask: Ask, request: Request) -> None:
        what, die = request.what, request.die
        if what == "boot":
            server = Server(tx.new_id(), PROJECT, USER, "late", SMALL, image_id=IMAGE_ID)
            nics = [front.NicRequest(network_id=network_id) for network_id in NETWORKS[: 1 + (die < 0.5)]]
            front.boot(tx, ask, server, nics)
        elif what.endswith("_host"):
            front.set_host_disabled(tx, tx.need(Host, request.host), what == "disable_host", "maintenance")
        else:
            server = tx.need(Server, request.server_id)
            if server.deleted_at is not None:
                raise Problem(404, "gone")
            self._act(tx, ask, request, server)

    def _act(self, tx: Tx, ask: Ask, request: Request, server: Server) -> None:
        what, die = request.what, request.die
        if what == "resize":
            front.resize(tx, ask, server, flavor_for(server, die))
        elif what == "rebuild":
            front.rebuild(tx, ask, server, IMAGE_ID)
        elif what in ("reboot", "reboot_hard"):
            front.reboot(tx, ask, server, what == "reboot_hard")
        elif what == "attach":
            front.attach_interface(tx, ask, server, front.NicRequest(network_id=NETWORKS[die < 0.5]))
        elif what == "detach":
            ports = tx.find(Port, device_id=server.id, sort=[("created_at", False), ("id", False)])
            front.detach_interface(tx, ask, server, ports[int(die * len(ports))].id if ports else "none")
        elif what in ("snapshot", "shelve"):
            image_id = tx.new_id()
            tx.insert(new_image_row(image_id, PROJECT, tx.now, name=what, disk_format="raw"))
            (front.snapshot if what == "snapshot" else front.shelve)(tx, ask, server, image_id)
        elif what == "reset_state":
            front.reset_state(tx, ask, server, "active" if die < 0.5 else "error")
        else:
            plain: dict[str, Callable[..., Any]] = {
                "confirm": front.confirm, "revert": front.revert, "migrate": front.migrate, "live_migrate": front.live_migrate,
                "evacuate": front.evacuate, "stop": front.stop, "start": front.start, "pause": front.pause, "unpause": front.unpause,
                "suspend": front.suspend, "resume": front.resume, "delete": front.delete, "unshelve": front.unshelve,
                "shelve_offload": front.shelve_offload, "rescue": front.rescue, "unrescue": front.unrescue, "lock": front.lock, "unlock": front.unlock}
            plain[what](tx, ask, server)


PLAIN = {"confirm": "confirmResize", "revert": "revertResize", "migrate": "migrate", "stop": "os-stop", "start": "os-start", "pause": "pause",
         "unpause": "unpause", "suspend": "suspend", "resume": "resume", "shelve": "shelve", "unshelve": "unshelve",
         "shelve_offload": "shelveOffload", "rescue": "rescue", "unrescue": "unrescue", "lock": "lock", "unlock": "unlock"}


class Http:
    """Asks over HTTP, in memory. The door is built anew for every controller, as every start of one would."""

    VERSION = "2.79"

    def __init__(self, world: World) -> None:
        self.world = world
        self._doors: dict[int, FrontDoor] = {}

    def _door(self) -> FrontDoor:
        world = self.world
        assert world.controller is not None and world.db is not None and world.engine is not None
        key = id(world.controller)
        if key not in self._doors:
            cloud = Cloud(world.controller, world.db, world.trace, world.config, world.engine, MemoryBlobs(), world.hub)
            self._doors = {key: FrontDoor(cloud, [compute.service(), network.service()], _believe)}
        return self._doors[key]

    async def ask(self, request: Request) -> Answer:
        if self.world.controller is None:
            return NOBODY
        try:
            method, path, body = self._wording(request)
            status, answer = await self._send(method, path, body, "admin" if request.admin else "member")
        except LookupError as missing:
            return Answer(404, str(missing))
        return Answer(status, answer) if status else NOBODY

    def _wording(self, request: Request) -> tuple[str, str, Any]:
        what, die, root = request.what, request.die, "/compute/v2.1"
        if what == "boot":
            networks = [{"uuid": network_id} for network_id in NETWORKS[: 1 + (die < 0.5)]]
            return "POST", f"{root}/servers", {"server": {"name": "late", "flavorRef": SMALL.id, "imageRef": IMAGE_ID, "networks": networks}}
        if what.endswith("_host"):
            host = self.world.look(lambda tx: tx.need(Host, request.host))
            status = {"status": "disabled", "disabled_reason": "maintenance"} if what == "disable_host" else {"status": "enabled"}
            return "PUT", f"{root}/os-services/{host.id}", status
        path = f"{root}/servers/{request.server_id}"
        if what == "delete":
            return "DELETE", path, None
        if what == "attach":
            return "POST", f"{path}/os-interface", {"interfaceAttachment": {"net_id": NETWORKS[die < 0.5]}}
        if what == "detach":
            ports = self.world.look(lambda tx: tx.find(Port, device_id=request.server_id, sort=[("created_at", False), ("id", False)]))
            if not ports:
                raise LookupError("no interface")
            return "DELETE", f"{path}/os-interface/{ports[int(die * len(ports))].id}", None
        return "POST", f"{path}/action", self._action(request)

    def _action(self, request: Request) -> Any:
        what, die = request.what, request.die
        if what in PLAIN:
            return {PLAIN[what]: None}
        if what == "resize":
            server = self.world.look(lambda tx: tx.need(Server, request.server_id))
            return {"resize": {"flavorRef": flavor_for(server, die).id}}
        return {
            "reboot": {"reboot": {"type": "SOFT"}}, "reboot_hard": {"reboot": {"type": "HARD"}}, "rebuild": {"rebuild": {"imageRef": IMAGE_ID}},
            "live_migrate": {"os-migrateLive": {"host": None, "block_migration": "auto"}}, "evacuate": {"evacuate": {}},
            "snapshot": {"createImage": {"name": "snapshot"}}, "reset_state": {"os-resetState": {"state": "active" if die < 0.5 else "error"}},
        }[what]

    async def _send(self, method: str, path: str, body: Any, token: str) -> tuple[int, str]:
        """One ASGI exchange with the door; returns status and body text."""
        sent = b"" if body is None else json.dumps(body).encode()
        headers = [(b"host", b"cloud.test"), (b"x-auth-token", token.encode()), (b"content-type", b"application/json"),
                   (b"openstack-api-version", f"compute {self.VERSION}".encode()), (b"content-length", str(len(sent)).encode())]
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode(),
                 "query_string": b"", "root_path": "", "scheme": "http", "headers": headers, "client": ("127.0.0.1", 1), "server": ("cloud.test", 80)}
        status, parts = 0, []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": sent, "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))

        try:
            await self._door()(scope, receive, send)
        except Killed:
            return 0, "the controller died before it answered"
        return status, b"".join(parts).decode()


async def _believe(cloud: Cloud, token: str) -> Caller:
    """An identity service that takes a token for a role's name."""
    roles = {"admin", "manager", "member", "reader"} if token == "admin" else {"member", "reader"}
    return Caller(USER, USER, "default", PROJECT, PROJECT, "default", None, frozenset(roles))
