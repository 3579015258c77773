"""The HTTP client that every command of `virga` shares: who to be, a token, and calls to the public API.

Owns: how a command finds a cloud. In order: `--state DIR` (its clouds.yaml), `--os-cloud NAME` or OS_CLOUD (a clouds.yaml where OpenStack's own
clients look for it), OS_AUTH_URL with OS_USERNAME and friends, and at last the state folder `virga up` uses by default.
Rules: commands talk to a cloud as any client does, with a token, over HTTP; nothing here reads a database. Whatever goes wrong becomes one
`ClientError` line that says what to do. A token that ran out is asked for again once.
Why a reader of clouds.yaml of our own: the files are nested names and plain values, and a YAML library would be a dependency for ten lines; where
PyYAML is installed (it comes with python-openstackclient) it is used, so that anchors and flow style work there.
"""
from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from virga.runtime.env import environment

DEFAULT_STATE = "virga-state"
DEFAULT_CLOUD = "virga"
TIMEOUT_S = 60.0


class ClientError(Exception):
    """One line for the user: what did not work, and what to do."""


class Refused(ClientError):
    """The API answered with an error; `status` is its HTTP code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Login(msgspec.Struct, frozen=True):
    """What clouds.yaml says under `auth`, and how to be scoped."""

    auth_url: str
    auth: dict[str, str]
    where: str  # the file or variables it came from, for messages


# finding the cloud --------------------------------------------------------------------------------------------------
def find_login(state: str | None = None, os_cloud: str | None = None) -> Login:
    """Raises ClientError with the places that were looked at."""
    if state is not None:
        return _from_file(Path(state) / "clouds.yaml", os_cloud or DEFAULT_CLOUD)
    name = os_cloud or environment("OS_CLOUD")
    if name:
        places = [Path(text) for text in (environment("OS_CLIENT_CONFIG_FILE"), "clouds.yaml") if text]
        places += [Path.home() / ".config/openstack/clouds.yaml", Path("/etc/openstack/clouds.yaml"), Path(DEFAULT_STATE) / "clouds.yaml"]
        for path in places:
            if path.exists():
                return _from_file(path, name)
        raise ClientError(f"no clouds.yaml with cloud {name!r}: looked at {', '.join(map(str, places))}")
    if environment("OS_AUTH_URL"):
        return Login(environment("OS_AUTH_URL").rstrip("/"), {
            key[3:].lower(): value for key, value in os.environ.items() if key.startswith("OS_") and key != "OS_AUTH_URL"}, "OS_* variables")
    path = Path(DEFAULT_STATE) / "clouds.yaml"
    if path.exists():
        return _from_file(path, DEFAULT_CLOUD)
    raise ClientError("which cloud? give --state DIR (the folder of `virga up`) or --os-cloud NAME, or set OS_CLOUD or OS_AUTH_URL")


def _from_file(path: Path, name: str) -> Login:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ClientError(f"there is no {path}; is this the state folder of a cloud that was started once?") from None
    except OSError as error:
        raise ClientError(f"cannot read {path}: {error.strerror}") from error
    clouds = read_yaml(text, str(path)).get("clouds")
    if not isinstance(clouds, dict) or not isinstance(clouds.get(name), dict):
        known = ", ".join(clouds) if isinstance(clouds, dict) else "none"
        raise ClientError(f"{path} has no cloud {name!r} (it has: {known})")
    auth = clouds[name].get("auth")
    if not isinstance(auth, dict) or not auth.get("auth_url"):
        raise ClientError(f"cloud {name!r} in {path} has no auth.auth_url")
    values = {str(key): str(value) for key, value in auth.items() if value is not None}
    return Login(values.pop("auth_url").rstrip("/"), values, str(path))


def read_yaml(text: str, where: str) -> dict[str, Any]:
    """A mapping from YAML text. Without PyYAML: nested block mappings of plain or quoted values. Raises ClientError."""
    try:
        yaml = importlib.import_module("yaml")
    except ImportError:
        return _read_mappings(text, where)
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ClientError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
    return found if isinstance(found, dict) else {}


def _read_mappings(text: str, where: str) -> dict[str, Any]:
    top: dict[str, Any] = {}
    open_at: list[tuple[int, dict[str, Any]]] = [(-1, top)]
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.rstrip()
        if not line.strip() or line.lstrip().startswith("#") or line.strip() == "---":
            continue
        indent = len(line) - len(line.lstrip())
        key, colon, value = line.strip().partition(":")
        if not colon or key.startswith(("-", "{", "[", "&", "*")) or value.strip().startswith(("{", "[", "&", "*", "|", ">")):
            raise ClientError(f"{where} line {number} is more YAML than can be read without PyYAML (pip install pyyaml): {line.strip()}")
        while indent <= open_at[-1][0]:
            open_at.pop()
        name, here = _scalar(key), open_at[-1][1]
        if value.strip():
            here[name] = _scalar(value.strip())
        else:
            here[name] = {}
            open_at.append((indent, here[name]))
    return top


def _scalar(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    if len(text) > 1 and text[0] == text[-1] == '"':
        return str(json.loads(text))
    return text.partition(" #")[0].strip()


# talking ------------------------------------------------------------------------------------------------------------
def scope_of(login: Login) -> dict[str, Any] | None:
    auth = login.auth
    if auth.get("project_id"):
        return {"project": {"id": auth["project_id"]}}
    if auth.get("project_name"):
        domain = {"id": auth["project_domain_id"]} if auth.get("project_domain_id") else {"name": auth.get("project_domain_name", "Default")}
        return {"project": {"name": auth["project_name"], "domain": domain}}
    return None


def token_request(login: Login) -> dict[str, Any]:
    """The body of POST /auth/tokens. Raises ClientError when neither a password nor an application credential is there."""
    auth = login.auth
    if auth.get("application_credential_id"):
        credential = {"id": auth["application_credential_id"], "secret": auth.get("application_credential_secret", "")}
        return {"auth": {"identity": {"methods": ["application_credential"], "application_credential": credential}}}
    if not auth.get("password") or not (auth.get("username") or auth.get("user_id")):
        raise ClientError(f"{login.where} names no user and password (or application credential)")
    if auth.get("user_id"):
        user: dict[str, Any] = {"id": auth["user_id"], "password": auth["password"]}
    else:
        domain = {"id": auth["user_domain_id"]} if auth.get("user_domain_id") else {"name": auth.get("user_domain_name", "Default")}
        user = {"name": auth["username"], "domain": domain, "password": auth["password"]}
    body: dict[str, Any] = {"identity": {"methods": ["password"], "password": {"user": user}}}
    scope = scope_of(login)
    if scope is not None:
        body["scope"] = scope
    return {"auth": body}


class Client:
    """One caller of one cloud. Endpoints come from the catalog; `virga` is Virga's own small API family beside identity."""

    def __init__(self, login: Login) -> None:
        self.login = login
        self._http = httpx2.AsyncClient(timeout=TIMEOUT_S, limits=httpx2.Limits(max_connections=64))
        self._token = ""
        self.endpoints: dict[str, str] = {}
        self.user = ""
        self.project_id = ""

    async def __aenter__(self) -> Client:
        await self.log_in()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def log_in(self) -> None:
        """Get a token and the catalog."""
        base = self.login.auth_url if self.login.auth_url.endswith("/v3") else self.login.auth_url + "/v3"
        answer = await self._send("POST", base + "/auth/tokens", json=token_request(self.login))
        if answer.status_code != 201:
            raise Refused(answer.status_code, f"cannot log in at {base} with {self.login.where}: {sentence(answer)}")
        self._token = answer.headers["x-subject-token"]
        token = answer.json()["token"]
        self.user, self.project_id = token["user"]["name"], token.get("project", {}).get("id", "")
        for service in token.get("catalog", []):
            for endpoint in service["endpoints"]:
                if endpoint["interface"] == "public":
                    self.endpoints.setdefault(service["type"], endpoint["url"].rstrip("/"))
        self.endpoints["virga"] = base.removesuffix("/v3").removesuffix("/identity") + "/virga/v1"

    async def _send(self, method: str, url: str, **how: Any) -> httpx2.Response:
        try:
            return await self._http.request(method, url, **how)
        except httpx2.TimeoutException as error:
            raise ClientError(f"{url} did not answer within {TIMEOUT_S:.0f} s") from error
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise ClientError(f"nothing answers at {url} ({error or type(error).__name__}); is the cloud running?") from error

    async def call(self, method: str, service: str, path: str, body: Any = None, *, version: str = "", ok: tuple[int, ...] = ()) -> Any:
        """One call; returns the JSON answer, or None without one. `version` is a compute microversion. Raises ClientError."""
        if service not in self.endpoints:
            raise ClientError(f"the cloud's catalog has no {service} service (it has: {', '.join(sorted(self.endpoints))})")
        headers = {"X-Auth-Token": self._token}
        if version:
            headers["OpenStack-API-Version"] = f"compute {version}"
        answer = await self._send(method, self.endpoints[service] + path, headers=headers, json=body)
        if answer.status_code == 401:
            await self.log_in()
            answer = await self._send(method, self.endpoints[service] + path, headers={**headers, "X-Auth-Token": self._token}, json=body)
        if answer.status_code >= 400 and answer.status_code not in ok:
            if service == "virga" and answer.status_code == 404 and "There is nothing at" in answer.text:
                raise Refused(404, f"{self.endpoints['virga']} does not answer: this cloud is not a Virga, or an older one")
            raise Refused(answer.status_code, sentence(answer))
        return answer.json() if answer.content else None

    async def get(self, service: str, path: str, **how: Any) -> Any:
        return await self.call("GET", service, path, **how)

    async def post(self, service: str, path: str, body: Any, **how: Any) -> Any:
        return await self.call("POST", service, path, body, **how)

    async def find_server(self, name_or_id: str) -> dict[str, Any]:
        """The server with this id or exact name. Raises ClientError when there is none, or more than one of that name."""
        try:
            found = await self.get("compute", f"/servers/{name_or_id}") if "/" not in name_or_id else None
        except Refused as refused:
            if refused.status not in (400, 404):
                raise
            found = None
        if found is not None:
            server: dict[str, Any] = found["server"]
            return server
        listed = await self.get("compute", "/servers/detail?all_tenants=1", ok=(403,))
        if "servers" not in listed:
            listed = await self.get("compute", "/servers/detail")
        same = [server for server in listed["servers"] if server["name"] == name_or_id]
        if len(same) > 1:
            raise ClientError(f"{len(same)} servers are called {name_or_id!r}; give an id: {', '.join(server['id'] for server in same[:5])}")
        if not same:
            raise ClientError(f"there is no server {name_or_id!r} that {self.user} can see")
        return dict(same[0])


def sentence(answer: httpx2.Response) -> str:
    """The error's own sentence, whatever family it came from."""
    try:
        body = answer.json()
    except ValueError:
        return f"HTTP {answer.status_code}: {answer.text[:200].strip()}"
    found = body.get("message") if isinstance(body, dict) else None
    if found is None and isinstance(body, dict):
        inner = next((value for value in body.values() if isinstance(value, dict)), {})
        found = inner.get("message") or inner.get("detail")
    return f"HTTP {answer.status_code}: {found or answer.text[:200].strip()}"
