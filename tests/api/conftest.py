"""`cloud_client`: a whole front door in memory, for the tests of every room of api/.

What it is: a `Cloud` over `SimDb` on an ordinary event loop, with every service that imports, and
synchronous calls, so that a test reads as a list of requests. Callers by name, all with real tokens: `admin`
(role admin, project admin), `demo` (member of project demo), `reader` (reader of project demo), `manager`
(manager of domain default and of project demo), `other` (member of project other). `as_=None` sends no token;
any other string is sent as the token itself.

    def test_x(cloud_client):
        made = cloud_client.post("/network/v2.0/networks", {"network": {"name": "n"}}, as_="demo")
        assert made.status_code == 201
        seen = cloud_client.get("/network/v2.0/networks", as_="other")

Background tasks of the cloud (the engine) run only while a call or `run`/`wait` is in progress.
"""
from __future__ import annotations

import asyncio
import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx2
import pytest

from virga.domain.config import Config
from virga.runtime.env import real_env
from virga.runtime.trace import Trace
from virga.store.blobs import MemoryBlobs
from virga.store.db import SimDb

if importlib.util.find_spec("virga.ops.engine") is None:
    # until the engine is written, a name is enough to import api/cloud.py
    stub = types.ModuleType("virga.ops.engine")
    stub.Engine = type("Engine", (), {})  # type: ignore[attr-defined]
    sys.modules["virga.ops.engine"] = stub

from virga.api.cloud import Cloud
from virga.api.http import Caller, FrontDoor, Service

SERVICES = ("identity", "compute", "network", "image", "placement")
TEST_CONFIG = Config(argon2_memory_kib=8, argon2_passes=1)
PASSWORD = "correct horse"
WAIT_S = 10.0


class StubEngine:
    """Stands in where a test needs no operations: it is never started and has nothing to do."""


def importable(name: str) -> types.ModuleType | None:
    """The module, or None with a warning: a room that cannot be imported fails only its own tests."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        if not (isinstance(error, ModuleNotFoundError) and error.name == name):
            warnings.warn(f"{name} is left out of the cloud under test: {error!r}", stacklevel=2)
        return None


def services() -> list[Service]:
    """Every API family that exists in this tree."""
    modules = [importable(f"virga.api.{name}") for name in SERVICES]
    return [module.service() for module in modules if module is not None and hasattr(module, "service")]


class CloudClient:
    """Synchronous requests against one in-memory cloud."""

    def __init__(self, config: Config = TEST_CONFIG, make_engine: Callable[..., Any] | None = None) -> None:
        self._runner = asyncio.Runner()
        self.env = real_env("test")
        self.trace = Trace(self.env.now)
        self.tokens: dict[str, str] = {}
        self.projects: dict[str, str] = {}
        self.users: dict[str, str] = {}
        self.run(self._start(config, make_engine))

    async def _start(self, config: Config, make_engine: Callable[..., Any] | None) -> None:
        self.db = SimDb(self.env, self.trace)
        engine = make_engine(self.env, self.db, self.trace, config) if make_engine else StubEngine()
        self.cloud = Cloud(self.env, self.db, self.trace, config, engine, MemoryBlobs())
        identity = importable("virga.api.identity")
        if identity is not None and hasattr(identity, "bootstrap"):
            from virga.api.identity.bootstrap import ensure_project, ensure_user, grant
            authenticate = identity.authenticate
            await self._enrol(identity, ensure_project, ensure_user, grant)
        else:
            authenticate = self._static()
        self.door = FrontDoor(self.cloud, services(), authenticate)
        self.http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=self.door), base_url="http://cloud.test")
        for name in self.users if not self.tokens else ():
            self.tokens[name] = await self.log_in(name)

    async def _enrol(self, identity: Any, ensure_project: Any, ensure_user: Any, grant: Any) -> None:
        """Real users, and a token of each that went through POST /auth/tokens."""
        hashed = await identity.hash_secret(self.env, self.cloud.config, PASSWORD)

        def people(tx: Any) -> Any:
            made = identity.bootstrap(tx, self.cloud.config, hashed, hashed)
            self.projects = {**made.projects, "other": ensure_project(tx, "other")}
            self.users = dict(made.users)
            for name, project in (("reader", "demo"), ("manager", "demo"), ("other", "other")):
                self.users[name] = ensure_user(tx, name, hashed, self.projects[project])
                role = name if name in made.roles else "member"
                grant(tx, self.users[name], "project", self.projects[project], made.roles[role])
            grant(tx, self.users["manager"], "domain", made.domain_id, made.roles["manager"])
            return made

        self.founders = await self.db.run(people)

    async def log_in(self, name: str, password: str = "", **scope: Any) -> str:
        """A token; without `scope` for the user's own project."""
        user = {"name": name, "domain": {"id": "default"}, "password": password or PASSWORD}
        auth: dict[str, Any] = {"identity": {"methods": ["password"], "password": {"user": user}}}
        if scope:
            auth["scope"] = scope
        answer = await self.http.post("/identity/v3/auth/tokens", json={"auth": auth})
        assert answer.status_code == 201, answer.text
        token: str = answer.headers["x-subject-token"]
        return token

    def _static(self) -> Callable[[Cloud, str], Awaitable[Caller | None]]:
        """Fixed callers, used only while the identity room does not exist yet."""
        callers: dict[str, Caller] = {}
        for name, project, roles in (
            ("admin", "admin", {"admin", "manager", "member", "reader"}),
            ("demo", "demo", {"member", "reader"}),
            ("reader", "demo", {"reader"}),
            ("manager", "demo", {"manager", "member", "reader"}),
            ("other", "other", {"member", "reader"}),
        ):
            self.projects.setdefault(project, self.env.new_id().replace("-", ""))
            self.users[name] = self.env.new_id().replace("-", "")
            self.tokens[name] = "token-" + name
            callers["token-" + name] = Caller(
                self.users[name], name, "default", self.projects[project], project, "default", None,
                frozenset(roles))

        async def authenticate(cloud: Cloud, token: str) -> Caller | None:
            return callers.get(token)

        return authenticate

    # loop --------------------------------------------------------------------------------------------------
    def run(self, work: Any) -> Any:
        """Run a coroutine on the cloud's loop and return its result."""
        return self._runner.run(work)

    def wait(self, ready: Callable[[], Any], timeout_s: float = WAIT_S) -> Any:
        """Let the cloud work until `ready()` is true (it may make calls itself); returns its value."""
        end = self.env.monotonic() + timeout_s
        while not (value := ready()):
            assert self.env.monotonic() < end, "not ready in time"
            self.run(asyncio.sleep(0.005))
        return value

    # requests ----------------------------------------------------------------------------------------------
    def call(
        self, method: str, path: str, json: Any = None, *, as_: str | None = "admin",
        headers: dict[str, str] | None = None, content: bytes | None = None,
    ) -> httpx2.Response:
        sent = dict(headers or {})
        if as_ is not None:
            sent["X-Auth-Token"] = self.tokens.get(as_, as_)
        body: dict[str, Any] = {} if json is None else {"json": json}
        if content is not None:
            body["content"] = content
        response: httpx2.Response = self.run(self.http.request(method, path, headers=sent, **body))
        return response

    def get(self, path: str, **how: Any) -> httpx2.Response:
        return self.call("GET", path, **how)

    def head(self, path: str, **how: Any) -> httpx2.Response:
        return self.call("HEAD", path, **how)

    def post(self, path: str, json: Any = None, **how: Any) -> httpx2.Response:
        return self.call("POST", path, json, **how)

    def put(self, path: str, json: Any = None, **how: Any) -> httpx2.Response:
        return self.call("PUT", path, json, **how)

    def patch(self, path: str, json: Any = None, **how: Any) -> httpx2.Response:
        return self.call("PATCH", path, json, **how)

    def delete(self, path: str, **how: Any) -> httpx2.Response:
        return self.call("DELETE", path, **how)

    def close(self) -> None:
        self.run(self.http.aclose())
        self.run(self.env.stop())
        self.db.close()
        self._runner.close()


@pytest.fixture
def cloud_client() -> Iterator[CloudClient]:
    client = CloudClient()
    yield client
    client.close()
