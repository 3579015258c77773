"""Who may do what: admin, a domain's manager and reader, the system's reader, plain users. And bad input from all of them."""
from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from virga.api.identity.service import OPEN, TABLE, grant_paths


@pytest.fixture
def house(who: Any) -> Any:
    """A domain with a manager and a reader of its own, a user and a project in it; and a reader of the system."""
    who.d = who.domain("d")
    inside = {"domain_id": who.d["id"]}
    who.u, who.p = who.user("u", **inside), who.project("p", **inside)
    tokens = who.client.tokens
    for role in ("manager", "reader"):
        user = who.user(f"{role}-of-d", **inside)
        who.grant(user["id"], role, f"domains/{who.d['id']}")
        tokens[f"d-{role}"] = who.token(user["id"], {"domain": {"id": who.d["id"]}})
    auditor = who.user("auditor")
    who.grant(auditor["id"], "reader", "system")
    tokens["auditor"] = who.token(auditor["id"], {"system": {"all": True}})
    return who


def test_plain_users_see_nothing_but_themselves(house: Any) -> None:
    demo = house.client.users["demo"]
    for path in ("/users", "/projects", "/domains", "/groups", "/roles", "/role_assignments", "/services", "/endpoints",
                 f"/users/{house.u['id']}", f"/projects/{house.p['id']}", f"/domains/{house.d['id']}",
                 f"/users/{'0' * 32}", f"/projects/{'0' * 32}", f"/groups/{'0' * 32}"):
        answer = house.get(path, as_="demo")
        assert answer.status_code == 403, path
        assert "identity:" in answer.json()["error"]["message"]
    assert house.get(f"/users/{demo}", as_="demo").status_code == 200
    assert house.get(f"/projects/{house.client.projects['demo']}", as_="demo").status_code == 200
    assert house.get("/domains/default", as_="demo").status_code == 200
    assert house.get("/regions", as_="demo").status_code == 200


def test_plain_users_change_nothing(house: Any) -> None:
    demo = house.client.users["demo"]
    for method, path, body in (
        ("POST", "/users", {"user": {"name": "x"}}), ("POST", "/projects", {"project": {"name": "x"}}),
        ("POST", "/domains", {"domain": {"name": "x"}}), ("POST", "/groups", {"group": {"name": "x"}}),
        ("POST", "/roles", {"role": {"name": "x"}}), ("PATCH", f"/users/{demo}", {"user": {"enabled": True}}),
        ("PATCH", f"/projects/{house.client.projects['demo']}", {"project": {"description": "x"}}),
        ("DELETE", f"/users/{demo}", None), ("DELETE", f"/projects/{house.client.projects['demo']}", None),
        ("PUT", f"/projects/{house.client.projects['demo']}/users/{demo}/roles/{house.role_id('admin')}", None),
        ("PUT", f"/system/users/{demo}/roles/{house.role_id('admin')}", None),
        ("PUT", f"/projects/{house.client.projects['demo']}/tags/x", None),
    ):
        for as_ in ("demo", "manager", "reader"):  # a manager's project token says nothing in identity
            answer = house.client.call(method, "/identity/v3" + path, body, as_=as_)
            assert answer.status_code == 403, (method, path, as_)


def test_the_systems_reader_sees_all_and_changes_nothing(house: Any) -> None:
    for path in ("/users", "/projects", "/domains", "/groups", "/roles", "/role_assignments", "/services", "/endpoints",
                 f"/users/{house.u['id']}", f"/projects/{house.p['id']}"):
        assert house.get(path, as_="auditor").status_code == 200, path
    assert house.get(f"/users/{'0' * 32}", as_="auditor").status_code == 404
    assert house.post("/users", {"user": {"name": "x"}}, as_="auditor").status_code == 403
    assert house.delete(f"/users/{house.u['id']}", as_="auditor").status_code == 403


def test_a_domains_reader_sees_its_domain_only(house: Any) -> None:
    domain = house.d["id"]
    for as_ in ("d-reader", "d-manager"):
        assert {item["domain_id"] for item in house.get("/users", as_=as_).json()["users"]} == {domain}
        assert {item["domain_id"] for item in house.get("/projects", as_=as_).json()["projects"]} == {domain}
        assert [item["id"] for item in house.get("/domains", as_=as_).json()["domains"]] == [domain]
        assert house.get(f"/users/{house.u['id']}", as_=as_).status_code == 200
        assert house.get(f"/users/{house.client.users['demo']}", as_=as_).status_code == 403
        assert house.get("/users?domain_id=default", as_=as_).status_code == 403
        targets = {str(line["scope"]) for line in house.get("/role_assignments", as_=as_).json()["role_assignments"]}
        assert targets == {str({"domain": {"id": domain}})}
    assert house.post("/users", {"user": {"name": "x"}}, as_="d-reader").status_code == 403
    assert house.delete(f"/users/{house.u['id']}", as_="d-reader").status_code == 403


def test_a_domains_manager_runs_its_domain(house: Any) -> None:
    user = house.make("user", "users", as_="d-manager", name="new")
    assert user["domain_id"] == house.d["id"], "the token's domain is the default"
    project = house.make("project", "projects", as_="d-manager", name="new")
    group = house.make("group", "groups", as_="d-manager", name="new")
    assert house.put(f"/groups/{group['id']}/users/{user['id']}", as_="d-manager").status_code == 204
    grant = f"/projects/{project['id']}/users/{user['id']}/roles/"
    for role in ("manager", "member", "reader"):
        assert house.put(grant + house.role_id(role), as_="d-manager").status_code == 204
    assert house.delete(grant + house.role_id("member"), as_="d-manager").status_code == 204
    assert house.patch(f"/users/{user['id']}", {"user": {"enabled": False}}, as_="d-manager").status_code == 200
    assert house.delete(f"/projects/{project['id']}", as_="d-manager").status_code == 204


def test_a_domains_manager_stays_in_its_domain_and_below_admin(house: Any) -> None:
    demo, foreign = house.client.users["demo"], house.client.projects["demo"]
    user, role = house.u["id"], house.role_id
    for method, path, body in (
        ("POST", "/users", {"user": {"name": "x", "domain_id": "default"}}),
        ("POST", "/projects", {"project": {"name": "x", "domain_id": "default"}}),
        ("POST", "/domains", {"domain": {"name": "x"}}),
        ("PATCH", f"/users/{demo}", {"user": {"password": "x"}}),
        ("DELETE", f"/projects/{foreign}", None),
        ("PATCH", f"/domains/{house.d['id']}", {"domain": {"name": "x"}}),
        ("PUT", f"/projects/{foreign}/users/{user}/roles/{role('member')}", None),
        ("PUT", f"/projects/{house.p['id']}/users/{demo}/roles/{role('member')}", None),
        ("PUT", f"/projects/{house.p['id']}/users/{user}/roles/{role('admin')}", None),
        ("PUT", f"/domains/{house.d['id']}/users/{user}/roles/{role('admin')}", None),
        ("PUT", f"/projects/{house.p['id']}/users/{user}/roles/{role('service')}", None),
        ("PUT", f"/system/users/{user}/roles/{role('reader')}", None),
    ):
        answer = house.client.call(method, "/identity/v3" + path, body, as_="d-manager")
        assert answer.status_code == 403, (method, path, answer.text)


def test_a_manager_cannot_become_admin_by_a_detour(house: Any) -> None:
    boss = house.user("boss", domain_id=house.d["id"])
    house.grant(boss["id"], "admin", f"projects/{house.client.projects['admin']}")
    path = f"/users/{boss['id']}"
    assert house.patch(path, {"user": {"password": "mine"}}, as_="d-manager").status_code == 403
    assert house.delete(path, as_="d-manager").status_code == 403
    group = house.make("group", "groups", name="bosses", domain_id=house.d["id"])
    house.put(f"/domains/{house.d['id']}/groups/{group['id']}/roles/{house.role_id('admin')}")
    assert house.put(f"/groups/{group['id']}/users/{house.u['id']}", as_="d-manager").status_code == 403


# bad input ----------------------------------------------------------------------------------------------------------
NAMED = [("project", "projects", 64), ("user", "users", 255), ("group", "groups", 64), ("domain", "domains", 64),
         ("role", "roles", 255)]


@pytest.mark.parametrize(("noun", "plural", "longest"), NAMED)
def test_names(who: Any, noun: str, plural: str, longest: int) -> None:
    for good in ("x" * longest, "日本 ✓", "a'; DROP TABLE users; --", "'\"%_"):
        made = who.make(noun, plural, name=good)
        assert who.get(f"/{plural}/{made['id']}").json()[noun]["name"] == good
    for bad in ("x" * (longest + 1), "", "   ", None, 5, ["a"], {"a": 1}, True):
        for answer in (who.post(f"/{plural}", {noun: {"name": bad}}),
                       who.patch(f"/{plural}/{made['id']}", {noun: {"name": bad}})):
            assert answer.status_code == 400, bad
            assert "name" in answer.json()["error"]["message"]
            assert answer.json()["error"]["code"] == 400
    missing = who.post(f"/{plural}", {noun: {}})
    assert missing.status_code == 400
    assert "name" in missing.json()["error"]["message"]


@pytest.mark.parametrize(("noun", "plural", "longest"), NAMED)
def test_bodies_that_are_none(who: Any, noun: str, plural: str, longest: int) -> None:
    for content in (b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"other": {}}', b'{"%s": []}' % noun.encode(),
                    b'{"%s": {"name": "\\ud800"}}' % noun.encode()):
        answer = who.client.call("POST", f"/identity/v3/{plural}", content=content)
        assert answer.status_code == 400, content
        assert answer.json()["error"]["title"] == "Bad Request"


def test_nesting_is_bounded(who: Any) -> None:
    for depth, status in ((10, 201), (20, 400), (900, 400), (100_000, 400)):
        content = b'{"user": {"name": "n", "extra": ' + b"[" * depth + b"]" * depth + b"}}"
        answer = who.client.call("POST", "/identity/v3/users", content=content)
        assert answer.status_code == status, depth
    assert who.get("/users").status_code == 200


def every_route() -> list[tuple[str, str]]:
    return sorted({(method, path) for method, path, _ in [*OPEN, *TABLE, *grant_paths()]})


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_every_route_survives_unknown_ids_and_strange_bodies(who: Any, method: str) -> None:
    paths = [path for verb, path in every_route() if verb == method]
    assert paths
    nouns = ("project", "user", "group", "domain", "role", "region", "service", "endpoint", "policy", "credential",
             "application_credential", "auth", "tags", "tenant_id")
    for path in paths:
        for value in ("0" * 32, "%00", "é" * 300):
            filled = "/".join(value if part.startswith("{") else part for part in path.split("/"))
            for inner in (None, {}, [], 5, {"name": 5, "enabled": "x", "options": 3, "domain_id": []}):
                body = None if inner is None else dict.fromkeys(nouns, inner)
                answer = who.client.call(method, "/identity" + filled, body)
                assert answer.status_code < 500, (method, path, inner, answer.text)
                if answer.status_code >= 400:
                    assert answer.json()["error"]["code"] == answer.status_code
                    assert len(answer.json()["error"]["message"]) > 10


def test_every_route_but_the_open_ones_wants_a_token(who: Any) -> None:
    doors = {(method, path) for method, path, _ in OPEN}
    for method, path in every_route():
        answer = who.client.call(method, "/identity" + path.replace("{", "").replace("}", ""), {}, as_=None)
        assert (answer.status_code == 401) == ((method, path) not in doors) or path.endswith("password"), (method, path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3), max_leaves=5)
FIELDS = ("name", "enabled", "domain_id", "description", "options", "tags", "password", "parent_id", "is_domain", "blob",
          "type", "url", "interface", "service_id", "region_id", "identity", "scope", "roles", "expires_at", "secret")


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=6), pick=st.integers(0, 1000))
def test_random_bodies_never_break_it(who: Any, body: dict[str, Any], pick: int) -> None:
    noun, path = (("project", "/projects"), ("user", "/users"), ("group", "/groups"), ("domain", "/domains"),
                  ("role", "/roles"), ("region", "/regions"), ("service", "/services"), ("endpoint", "/endpoints"),
                  ("policy", "/policies"), ("credential", "/credentials"), ("auth", "/auth/tokens"),
                  ("application_credential", f"/users/{who.client.users['admin']}/application_credentials"))[pick % 12]
    answer = who.post(path, {noun: body})
    assert answer.status_code < 500, (path, body, answer.text)
