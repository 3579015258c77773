"""Every route of every API, driven by hypothesis: whatever a client sends, the answer is no 5xx, and a refusal carries a sentence.

How the requests come to reach deep: the cloud is filled first; then every list is read, and the ids and attribute names found there are what paths,
queries and bodies are made of, next to values of the wrong type, size, depth and alphabet. A body's outer key is learned from the refusal that names
it. Nothing here knows a single route: the tables of the front door are walked, so a new route is fuzzed from its first day.
501 is allowed: it says that something is not offered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from tests.api.compute import rows
from tests.api.conftest import CloudClient

from virga.api.compute.server_actions import ACTIONS
from virga.api.http import Caller, FrontDoor, Route, Service
from virga.api.identity import authenticate
from virga.serve import all_services

ROOMS = [service.name for service in all_services()]
ID = "00000000-1111-4222-8333-444444444444"
ORDER = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

WORDS: list[Any] = [
    "",
    " ",
    "x",
    "x" * 300,
    "x" * 70_000,
    "\0",
    "a\0b",
    "é",
    "名前",
    "\U0001f600",
    "\ud800",
    "%s%n",
    "' OR 1=1 --",
    "../..",
    "nan",
    "1e999",
    "-1",
    "0",
    "99999999999999999999",
    "true",
    "null",
    "*",
    "(((((",
    'in:"',
    "gt:0001-01-01T00:00:00",
    "10.0.0.0/8",
    "10.0.0.1",
    "::/0",
    "fe80::1%eth0",
    "999.1.1.1/33",
    "fa:16:3e:00:00:01",
    "2026-01-01T00:00:00Z",
    "9999-12-31T23:59:59+14:00",
    "0000-00-00T00:00:00",
    "active",
    "default",
    "public",
    "self",
    "latest",
    ID,
    "tcp",
    "eA==",
    "http://127.0.0.1:1/",
]
NUMBERS: list[Any] = [0, 1, -1, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64, 2**70, -(2**70), 0.5, -0.0, 1e308]
HEADERS = (
    "OpenStack-API-Version",
    "X-OpenStack-Nova-API-Version",
    "Content-Type",
    "Accept",
    "Range",
    "X-Subject-Token",
    "If-Match",
    "X-OpenStack-Request-ID",
    "Host",
    "Accept-Language",
    "X-Forwarded-For",
    "Transfer-Encoding",
    "OpenStack-System-Scope",
    "X-Openstack-Image-Size",
    "Content-Range",
)
VALUES = (
    "",
    "compute 2.1",
    "compute 2.37",
    "compute 2.96",
    "compute latest",
    "compute 9.9",
    "compute x",
    "placement 1.39",
    "placement latest",
    "2.96",
    "\xff\xfe",
    "bytes=0-",
    "bytes=5-1",
    "bytes=99999999999999999999-",
    "bytes 0-1/*",
    "application/json",
    "application/octet-stream",
    "text/plain; charset=klingon",
    "application/openstack-images-v2.1-json-patch",
    "a" * 5000,
    "none",
    "*/*",
)
QUERY_WORDS = (
    "limit",
    "marker",
    "sort_key",
    "sort_dir",
    "sort",
    "fields",
    "page_reverse",
    "all_tenants",
    "changes-since",
    "changes-before",
    "detailed",
    "start",
    "end",
    "is_public",
    "reservation",
    "visibility",
    "member_status",
    "resources",
    "in_tree",
    "effective",
    "include_names",
    "scope.project.id",
    "tags",
    "not-tags-any",
    "nocatalog",
    "enabled",
)


class Fuzzed:
    """A filled cloud, and what was learned of it."""

    def __init__(self) -> None:
        self.client = client = CloudClient()
        rows.hosts(client)
        self.fill()
        self.services: list[Service] = all_services()
        callers: dict[str, Caller | None] = {}

        async def same_caller(cloud: Any, token: str) -> Caller | None:
            """A fuzzed request may end a user's life; the next ones are still to be let in."""
            if token not in callers:
                callers[token] = await authenticate(cloud, token)
            return callers[token]

        self.door = FrontDoor(client.cloud, self.services, same_caller)
        for name in client.tokens:
            client.run(same_caller(client.cloud, client.tokens[name]))
        self.names: dict[str, list[str]] = {}
        self.ids: dict[str, list[str]] = {}
        self.items: dict[str, dict[str, Any]] = {}
        self.outer: dict[tuple[str, str], list[str]] = {}
        self.count = 0
        for service in self.services:
            self.learn(service)

    def fill(self) -> None:
        """One of most things."""
        client = self.client
        rows.flavor(client)
        rows.server(client)
        rows.action(client, 1)
        rows.move(client, 1_000_000)
        call = client.call
        net = call("POST", "/network/v2.0/networks", {"network": {"name": "n"}}).json()["network"]["id"]
        subnet = call("POST", "/network/v2.0/subnets", {"subnet": {"network_id": net, "cidr": "10.1.0.0/24", "ip_version": 4}}).json()[
            "subnet"
        ]["id"]
        call("POST", "/network/v2.0/ports", {"port": {"network_id": net, "device_id": rows.SERVER_ID, "device_owner": "compute:nova"}})
        call("POST", "/network/v2.0/subnetpools", {"subnetpool": {"name": "p", "prefixes": ["10.2.0.0/16"], "default_prefixlen": 24}})
        router = call("POST", "/network/v2.0/routers", {"router": {"name": "r"}}).json()["router"]["id"]
        call("PUT", f"/network/v2.0/routers/{router}/add_router_interface", {"subnet_id": subnet})
        outer = {"network": {"name": "out", "router:external": True}}
        call(
            "POST",
            "/network/v2.0/floatingips",
            {"floatingip": {"floating_network_id": call("POST", "/network/v2.0/networks", outer).json()["network"]["id"]}},
        )
        call("POST", "/network/v2.0/security-groups", {"security_group": {"name": "g"}})
        call(
            "POST",
            "/network/v2.0/rbac-policies",
            {"rbac_policy": {"object_type": "network", "object_id": net, "action": "access_as_shared", "target_tenant": "*"}},
        )
        call("POST", "/compute/v2.1/os-keypairs", {"keypair": {"name": "k"}})
        call("POST", "/compute/v2.1/os-aggregates", {"aggregate": {"name": "a"}})
        call("POST", "/compute/v2.1/os-server-groups", {"server_group": {"name": "g", "policies": ["affinity"]}})
        call("POST", "/image/v2/images", {"name": "i", "disk_format": "raw", "container_format": "bare"})
        call("POST", "/image/v2/metadefs/namespaces", {"namespace": "ns"})
        call("POST", "/identity/v3/groups", {"group": {"name": "g"}})
        call("POST", "/identity/v3/credentials", {"credential": {"type": "x", "blob": "y", "user_id": client.users["demo"]}})

    def learn(self, service: Service) -> None:
        """Ids and attribute names from every list that needs no path part."""
        found: set[str] = set()
        for route in service.routes:
            if route.method != "GET" or "{" in route.path:
                continue
            _, body = self.ask("GET", service.prefix + route.path, b"", [], b"")
            try:
                told = json.loads(body)
            except ValueError:
                continue
            self._names(told, found)
            for many in told.values() if isinstance(told, dict) else ():
                if isinstance(many, list):
                    items = [item for item in many if isinstance(item, dict)]
                    ids = [str(item.get("id") or item.get("uuid") or item.get("name") or item.get("namespace")) for item in items]
                    nested = [str(item["keypair"]["name"]) for item in items if isinstance(item.get("keypair"), dict)]
                    self.ids.setdefault(service.prefix + route.path, []).extend(nested or ids)
                    if items:
                        self.items.setdefault((service.prefix + route.path).removesuffix("/detail"), items[0])
        self.names[service.name] = sorted(found) or ["name"]

    def _names(self, value: Any, found: set[str]) -> None:
        if isinstance(value, dict):
            found.update(key for key in value if len(key) < 40)
            for item in value.values():
                self._names(item, found)
        elif isinstance(value, list):
            for item in value[:3]:
                self._names(item, found)

    def known(self, prefix: str) -> list[str]:
        """Ids of what stands in the list at `prefix` (a path up to a variable)."""
        return self.ids.get(prefix.rstrip("/")) or self.ids.get(prefix.rstrip("/") + "/detail") or []

    def example(self, service: Service, route: Route) -> dict[str, Any]:
        """What the cloud itself shows of such a thing; {} where it shows none."""
        return self.items.get((service.prefix + route.path).partition("/{")[0], {})

    def outer_keys(self, service: Service, route: Route) -> list[str]:
        """What a body of this route may be wrapped in: what the service says is missing, and the singular of the path's noun."""
        key = (route.method, service.prefix + route.path)
        if key not in self.outer:
            noun = [part for part in route.path.split("/") if part and not part.startswith("{")][-1]
            noun = noun.removeprefix("os-").replace("-", "_")
            keys = {noun, noun.removesuffix("s"), noun[:-3] + "y" if noun.endswith("ies") else noun}
            _, body = self.ask(
                route.method, re.sub(r"\{\w+\}", ID, service.prefix + route.path), b"", [("Content-Type", "application/json")], b"{}"
            )
            keys.update(re.findall(r"['`\"](\w[\w:-]{2,30})['`\"]", body.decode("utf-8", "replace").replace("\\", ""))[:3])
            if noun == "action":
                keys.update(ACTIONS)
            self.outer[key] = sorted(keys)
        return self.outer[key]

    def ask(
        self, method: str, path: str, query: bytes, headers: list[tuple[str, str]], body: bytes, who: str = "admin"
    ) -> tuple[int, bytes]:
        """One request, as the server in front of the door would hand it over."""
        sent = [(b"x-auth-token", self.client.tokens[who].encode())] + [
            (name.lower().encode(), value.encode("latin-1")) for name, value in headers
        ]
        raw = path.encode("utf-8", "surrogatepass")
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path, errors="replace"),
            "raw_path": raw,
            "query_string": query,
            "headers": sent,
            "server": ("cloud.test", 80),
            "client": ("192.0.2.9", 1),
            "root_path": "",
        }
        parts = [{"type": "http.request", "body": body, "more_body": False}]
        said: dict[str, Any] = {"status": 0, "body": b""}

        async def receive() -> Any:
            return parts.pop() if parts else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                said["status"] = message["status"]
            else:
                said["body"] += message.get("body", b"")

        self.client.run(self.door(scope, receive, send))
        self.count += 1
        return said["status"], said["body"]


@pytest.fixture
def cloud() -> Iterator[Fuzzed]:
    fuzzed = Fuzzed()
    yield fuzzed
    fuzzed.client.close()


def junk(names: list[str], ids: list[str]) -> st.SearchStrategy[Any]:
    """JSON of every kind; names and ids of the real cloud among it."""
    leaf = st.one_of(
        st.sampled_from([None, True, False, [], {}]),
        st.sampled_from(WORDS),
        st.sampled_from(NUMBERS),
        st.sampled_from(ids or [ID]),
        st.text(max_size=8),
    )
    return st.recursive(
        leaf,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(names) | st.text(max_size=4), inner, max_size=4),
        max_leaves=6,
    )


DEEP = [
    '{"a":' * 3000 + "1" + "}" * 3000,
    "[" * 100_000,
    '{"x": NaN}',
    '{"a":1,"a":2}',
    "{",
    "",
    '"',
    "null",
    "[]",
    "\ufeff{}",
    '{"\\ud800": 1}',
    "1e400",
]


def bodies(cloud: Fuzzed, service: Service, route: Route) -> st.SearchStrategy[bytes]:
    if route.method in ("GET", "HEAD", "DELETE"):
        return st.sampled_from([b"", b"", b"", b"{", b"\xff"])
    names = cloud.names[service.name]
    ids = [found for path, known in cloud.ids.items() if path.startswith(service.prefix) for found in known[:2]]
    value = junk(names, ids)
    fields = st.dictionaries(st.sampled_from(names), value, max_size=6)
    wrapped = st.builds(
        lambda outer, inner: {outer: inner}, st.sampled_from(cloud.outer_keys(service, route)), st.one_of(fields, fields, value)
    )
    patch = st.lists(
        st.fixed_dictionaries(
            {"op": st.sampled_from(["add", "replace", "remove", "x"]), "path": st.sampled_from(["/" + n for n in names] + ["", "/a/b"])},
            optional={"value": value},
        ),
        max_size=3,
    )
    example = cloud.example(service, route)
    kinds = [wrapped, wrapped, wrapped, fields, value, *([patch, patch] if route.method == "PATCH" else [])]
    if example:
        # nearly right: some of what the cloud shows of such a thing, with something odd in one or two places
        keep = st.sets(st.sampled_from(sorted(example)), max_size=len(example))
        odd = st.dictionaries(st.sampled_from(sorted(example)), value, max_size=2)
        near = st.builds(lambda kept, new: {**{key: example[key] for key in kept}, **new}, keep, odd)
        kinds += [near, *[st.builds(lambda outer, inner: {outer: inner}, st.sampled_from(cloud.outer_keys(service, route)), near)] * 4]
    shaped = st.one_of(*kinds)
    return st.one_of(
        shaped.map(lambda made: json.dumps(made).encode()),
        st.sampled_from(DEEP).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.binary(max_size=8),
        shaped.map(lambda made: json.dumps(made).encode()),
    )


def paths(cloud: Fuzzed, service: Service, route: Route) -> st.SearchStrategy[str]:
    """The route's path with each variable filled: mostly with what is there, else with anything that can stand between two slashes."""
    pieces: list[st.SearchStrategy[str]] = []
    before = service.prefix
    for part in route.path.strip("/").split("/"):
        if part.startswith("{"):
            real = cloud.known(before)[:4] + ([rows.SERVER_ID] if before.endswith("/servers") else [])
            odd = st.sampled_from([word for word in WORDS if word and len(word) < 400 and word not in (".", "..")]).map(
                lambda word: quote(word, safe="", errors="replace")
            )
            pieces.append(
                st.one_of(*[st.sampled_from(real)] * 3, odd)
                if real
                else st.one_of(st.just(ID), odd, st.sampled_from(cloud.names[service.name]))
            )
        else:
            pieces.append(st.just(part))
        before += "/" + part
    return st.tuples(*pieces).map(
        lambda made: service.prefix + "/" + "/".join(made) if route.path.strip("/") else service.prefix + route.path
    )


def queries(cloud: Fuzzed, service: Service) -> st.SearchStrategy[bytes]:
    name = st.sampled_from(QUERY_WORDS) | st.sampled_from(cloud.names[service.name])
    value = st.sampled_from([str(word) for word in WORDS if len(str(word)) < 400] + ["%00", "%ff", "+", "a=b&c"])
    pairs = st.lists(st.tuples(name, value), max_size=3)
    return pairs.map(
        lambda made: "&".join(f"{key}={quote(text, errors='replace') if text[:1] != '%' else text}" for key, text in made).encode()
    ) | st.just(b"%ff=&&&=;")


HEADER_LISTS = st.lists(st.tuples(st.sampled_from(HEADERS), st.sampled_from(VALUES)), max_size=2, unique_by=lambda pair: pair[0])


def sentences(told: Any) -> Iterator[str]:
    """Every `message` and `detail` of an error body, at whatever depth the service puts it."""
    for key, value in told.items() if isinstance(told, dict) else enumerate(told):
        if key in ("message", "detail") and isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            yield from sentences(value)


def wrong(status: int, body: bytes) -> str:
    """What is wrong with an answer; "" when nothing is."""
    if status < 200 or (status >= 500 and status != 501):
        return f"{status} {body[:300]!r}"
    if status >= 400 and body:
        try:
            told = json.loads(body)
        except ValueError:
            return f"{status} that is not JSON: {body[:100]!r}"
        if not isinstance(told, dict) or not any(len(sentence) >= 8 for sentence in sentences(told)):
            return f"{status} without a sentence: {body[:200]!r}"
    return ""


def drive(cloud: Fuzzed, room: str, examples: int) -> list[str]:
    """Every route of one API, `examples` requests each (a few for a route whose handler had its turn under another path); what went wrong."""
    service = next(found for found in cloud.services if found.name == room)
    bad: list[str] = []
    had: set[tuple[str, Any]] = set()
    for route in sorted(service.routes, key=lambda route: ORDER.index(route.method)):
        turns = examples if (route.method, route.handler) not in had else max(1, examples // 8)
        had.add((route.method, route.handler))

        @seed(1)
        @settings(max_examples=turns, database=None, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
        @given(
            path=paths(cloud, service, route),
            query=queries(cloud, service),
            headers=HEADER_LISTS,
            body=bodies(cloud, service, route),
            who=st.sampled_from(["admin", "admin", "admin", "demo", "reader"]),
            method=st.just(route.method),
        )
        def one(path: str, query: bytes, headers: list[tuple[str, str]], body: bytes, who: str, method: str) -> None:
            if len(body) > 200_000:
                body = body[:200_000]
            found = wrong(*cloud.ask(method, path, query, headers, body, who))
            if found:
                bad.append(f"{method} {path[:200]}?{query.decode('latin-1')[:200]} {headers!r:.200} {body[:300]!r} as {who}: {found}")

        one()
    return bad


def report(cloud: Fuzzed, bad: list[str]) -> str:
    faults = [str(event.data.get("traceback", ""))[-600:] for event in cloud.client.trace.events() if event.kind == "fault"][:3]
    return f"{len(bad)} of {cloud.count}:\n" + "\n".join(bad[:12]) + "\n" + "\n".join(faults)


@pytest.mark.parametrize("room", ROOMS)
def test_no_route_breaks(cloud: Fuzzed, room: str) -> None:
    bad = drive(cloud, room, 5)
    assert not bad, report(cloud, bad)


@pytest.mark.slow
@pytest.mark.parametrize("room", ROOMS)
def test_no_route_breaks_at_length(cloud: Fuzzed, room: str) -> None:
    bad = drive(cloud, room, 120)
    assert not bad, report(cloud, bad)
