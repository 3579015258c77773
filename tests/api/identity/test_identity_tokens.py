"""Tokens: every way to get one, what it says, when it dies, and what is refused."""
from __future__ import annotations

import asyncio
from typing import Any

import pytest

from virga.api.identity import authenticate
from virga.domain.identity import Token


def test_token_for_a_project_says_who_where_and_what(who: Any) -> None:
    projects, users = who.client.projects, who.client.users
    answer = who.log_in(users["demo"], who.project_scope(projects["demo"]))
    token = answer.json()["token"]
    assert token["user"]["name"] == "demo"
    assert token["user"]["domain"] == {"id": "default", "name": "Default"}
    assert token["project"] == {"id": projects["demo"], "name": "demo", "domain": {"id": "default", "name": "Default"}}
    assert [role["name"] for role in token["roles"]] == ["member", "reader"]  # reader by implication
    assert token["issued_at"] < token["expires_at"]
    assert token["issued_at"].endswith("Z")
    assert token["methods"] == ["password"]
    assert len(answer.headers["x-subject-token"]) == 64


def test_catalog_in_the_token_uses_the_clients_own_address(who: Any) -> None:
    catalog = who.log_in(who.client.users["demo"]).json()["token"]["catalog"]
    by_type = {service["type"]: service for service in catalog}
    assert set(by_type) == {"identity", "compute", "image", "network", "placement"}
    for path, kind in (("/compute/v2.1", "compute"), ("/network", "network"), ("/image", "image")):
        endpoints = by_type[kind]["endpoints"]
        assert {endpoint["interface"] for endpoint in endpoints} == {"public", "internal", "admin"}
        assert {endpoint["url"] for endpoint in endpoints} == {"http://cloud.test" + path}
        assert {endpoint["region_id"] for endpoint in endpoints} == {"RegionOne"}


def test_nocatalog_leaves_the_catalog_out(who: Any) -> None:
    user = {"id": who.client.users["demo"], "password": "correct horse"}
    auth = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}}
    assert "catalog" not in who.post("/auth/tokens?nocatalog", auth, as_=None).json()["token"]
    headers = {"X-Subject-Token": who.client.tokens["demo"]}
    assert "catalog" not in who.get("/auth/tokens?nocatalog", headers=headers).json()["token"]
    assert "catalog" in who.get("/auth/tokens", headers=headers).json()["token"]


@pytest.mark.parametrize("scope", ["unscoped", {"unscoped": {}}])
def test_unscoped_token_has_no_roles_but_finds_its_projects(who: Any, scope: Any) -> None:
    answer = who.log_in(who.client.users["demo"], scope)
    token = answer.json()["token"]
    assert not {"project", "roles", "catalog", "domain"} & set(token)
    listed = who.get("/auth/projects", as_=answer.headers["x-subject-token"]).json()["projects"]
    assert [project["name"] for project in listed] == ["demo"]
    assert who.get("/auth/catalog", as_=answer.headers["x-subject-token"]).status_code == 403


def test_default_project_is_taken_only_when_the_user_may(who: Any) -> None:
    project = who.project("p")
    user = who.user("u", default_project_id=project["id"])
    assert "project" not in who.log_in(user["id"]).json()["token"]
    who.grant(user["id"], "member", f"projects/{project['id']}")
    assert who.log_in(user["id"]).json()["token"]["project"]["id"] == project["id"]


def test_scopes_by_name_domain_and_system(who: Any) -> None:
    admin = who.client.users["admin"]
    by_name = {"project": {"name": "demo", "domain": {"name": "Default"}}}
    assert who.log_in(admin, by_name).json()["token"]["project"]["name"] == "demo"
    domain = who.log_in(admin, {"domain": {"name": "Default"}}).json()["token"]
    assert domain["domain"] == {"id": "default", "name": "Default"}
    assert "project" not in domain
    system = who.log_in(admin, {"system": {"all": True}}).json()["token"]
    assert system["system"] == {"all": True}


def test_scope_without_role_and_scope_without_existence_look_the_same(who: Any) -> None:
    demo = who.client.users["demo"]
    foreign = who.log_in(demo, who.project_scope(who.client.projects["other"]))
    missing = who.log_in(demo, who.project_scope("0" * 32))
    assert foreign.status_code == missing.status_code == 401
    assert foreign.json() == missing.json()
    assert who.log_in(demo, {"system": {"all": True}}).status_code == 401
    assert who.log_in(demo, {"domain": {"id": "default"}}).status_code == 401


def test_wrong_password_and_unknown_user_look_the_same(who: Any) -> None:
    wrong = who.log_in(who.client.users["demo"], password="wrong")
    unknown = who.log_in("0" * 32)
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.json() == unknown.json()
    assert wrong.json()["error"]["title"] == "Unauthorized"


def test_token_by_token_keeps_the_older_end_and_its_audit_parent(who: Any) -> None:
    first = who.log_in(who.client.users["admin"], "unscoped")
    text = first.headers["x-subject-token"]
    second = who.ask({"methods": ["token"], "token": {"id": text}}, who.project_scope(who.client.projects["demo"]))
    assert second.status_code == 201
    one, two = first.json()["token"], second.json()["token"]
    assert two["expires_at"] == one["expires_at"]
    assert two["audit_ids"][1:] == one["audit_ids"]
    assert set(two["methods"]) == {"token", "password"}


def test_validate_revoke_and_after(who: Any) -> None:
    text = who.token(who.client.users["demo"])
    subject = {"X-Subject-Token": text}
    assert who.get("/auth/tokens", headers=subject).json()["token"]["user"]["name"] == "demo"
    assert who.head("/auth/tokens", headers=subject).status_code == 200
    assert who.get("/auth/tokens", headers=subject, as_=text).status_code == 200, "one's own"
    assert who.get("/auth/tokens", headers=subject, as_="other").status_code == 403
    assert who.delete("/auth/tokens", headers=subject, as_="other").status_code == 403
    assert who.delete("/auth/tokens", headers=subject).status_code == 204
    assert not who.alive(text)
    assert who.get("/auth/tokens", headers=subject).status_code == 404
    assert who.delete("/auth/tokens", headers=subject).status_code == 404


def test_no_token_is_401_with_the_way_to_get_one(who: Any) -> None:
    for text in (None, b"nonsense", b"\xc3\xa9" * 3000):
        token = {} if text is None else {"X-Auth-Token": text}
        answer = who.get("/projects", as_=None, headers=token)
        assert answer.status_code == 401
        assert "/identity/v3" in answer.headers["www-authenticate"]


def test_expired_token_is_worth_nothing_and_is_swept(who: Any) -> None:
    client = who.client
    text = who.token(client.users["demo"])
    assert who.alive(text)
    now = client.env.now()
    client.env.now = lambda: now + client.cloud.config.token_lifetime_s + 1
    assert not who.alive(text), "also when it was cached"
    who.token(client.users["demo"])
    assert client.run(client.db.read(lambda tx: tx.count(Token))) == 1


def test_only_the_digest_is_stored(who: Any) -> None:
    text = who.token(who.client.users["demo"])
    rows = who.client.run(who.client.db.read(lambda tx: tx.find(Token)))
    assert rows
    assert all(text not in repr(row) for row in rows)


@pytest.mark.parametrize("change", ["password", "disable", "delete"])
def test_a_changed_user_loses_its_tokens(who: Any, change: str) -> None:
    project = who.project("p")
    user = who.user("u")
    who.grant(user["id"], "member", f"projects/{project['id']}")
    tokens = [who.token(user["id"], who.project_scope(project["id"])), who.token(user["id"], "unscoped")]
    assert all(who.alive(token) for token in tokens)
    if change == "password":
        who.patch(f"/users/{user['id']}", {"user": {"password": "another"}})
    elif change == "disable":
        who.patch(f"/users/{user['id']}", {"user": {"enabled": False}})
        who.patch(f"/users/{user['id']}", {"user": {"enabled": True}})
    else:
        who.delete(f"/users/{user['id']}")
    assert not any(who.alive(token) for token in tokens)


def test_a_disabled_project_and_domain_kill_their_tokens(who: Any) -> None:
    domain = who.domain("d")
    project = who.project("p", domain_id=domain["id"])
    user = who.user("u", domain_id=domain["id"])
    who.grant(user["id"], "member", f"projects/{project['id']}")
    scope = who.project_scope(project["id"])
    token = who.token(user["id"], scope)
    who.patch(f"/projects/{project['id']}", {"project": {"enabled": False}})
    assert not who.alive(token)
    assert who.log_in(user["id"], scope).status_code == 401
    who.patch(f"/projects/{project['id']}", {"project": {"enabled": True}})
    token = who.token(user["id"], scope)
    who.patch(f"/domains/{domain['id']}", {"domain": {"enabled": False}})
    assert not who.alive(token)
    assert who.log_in(user["id"]).status_code == 401


def test_a_role_counts_and_is_gone_from_the_next_request_on(who: Any) -> None:
    project = who.project("p")
    user = who.user("u")
    path = f"/projects/{project['id']}/users/{user['id']}/roles/"
    who.grant(user["id"], "reader", f"projects/{project['id']}")
    text = who.token(user["id"], who.project_scope(project["id"]))
    client = who.client

    def roles() -> set[str]:
        caller = client.run(authenticate(client.cloud, text))
        return set() if caller is None else set(caller.roles)

    assert roles() == {"reader"}
    who.grant(user["id"], "manager", f"projects/{project['id']}")
    assert roles() == {"manager", "member", "reader"}, "a grant reaches tokens that exist"
    who.delete(path + who.role_id("manager"))
    assert roles() == set(), "taking a role away ends the tokens of that scope"


def test_the_cache_asks_one_row_for_a_known_token(who: Any) -> None:
    client = who.client
    text = who.token(client.users["demo"])
    client.run(authenticate(client.cloud, text))
    asked: list[str] = []
    client.db._connection.set_trace_callback(asked.append)
    client.run(authenticate(client.cloud, text))
    client.db._connection.set_trace_callback(None)
    assert len(asked) == 1
    assert "identity_epoch" in asked[0]


def test_concurrent_log_ins_give_different_tokens(who: Any) -> None:
    client = who.client

    async def many() -> list[str]:
        return await asyncio.gather(*(client.log_in("demo") for _ in range(10)))

    assert len(set(client.run(many()))) == 10


@pytest.mark.parametrize(("auth", "field"), [
    ({}, "identity"),
    ({"identity": {}}, "methods"),
    ({"identity": {"methods": []}}, "methods"),
    ({"identity": {"methods": "password"}}, "methods"),
    ({"identity": {"methods": ["password"]}}, "password"),
    ({"identity": {"methods": ["password"], "password": {}}}, "user"),
    ({"identity": {"methods": ["password"], "password": {"user": {"password": "x"}}}}, "user"),
    ({"identity": {"methods": ["password"], "password": {"user": {"name": "demo", "password": "x"}}}}, "domain"),
    ({"identity": {"methods": ["password"], "password": {"user": {"id": 7, "password": "x"}}}}, "id"),
    ({"identity": {"methods": ["password"], "password": {"user": {"id": "a", "password": "x" * 5000}}}}, "password"),
    ({"identity": {"methods": ["token"], "token": {}}}, "id"),
    ({"identity": {"methods": ["application_credential"], "application_credential": {"secret": "x"}}}, "name and user"),
    ({"identity": {"methods": ["token"], "token": {"id": "x"}}, "scope": {}}, "scope"),
    ({"identity": {"methods": ["token"], "token": {"id": "x"}}, "scope": {"project": {}}}, "project"),
    ({"identity": {"methods": ["token"], "token": {"id": "x"}}, "scope": {"project": {"name": "demo"}}}, "domain"),
    ({"identity": {"methods": ["token"], "token": {"id": "x"}}, "scope": {"system": {"all": False}}}, "system"),
    ({"identity": {"methods": ["token"], "token": {"id": "x"}}, "scope": 5}, "scope"),
])
def test_malformed_requests_name_the_field(who: Any, auth: Any, field: str) -> None:
    answer = who.post("/auth/tokens", {"auth": auth}, as_=None)
    assert answer.status_code == 400, answer.text
    assert field in answer.json()["error"]["message"]


def test_unknown_method_is_401_and_lists_the_known_ones(who: Any) -> None:
    answer = who.ask({"methods": ["totp"], "totp": {}})
    assert answer.status_code == 401
    assert "application_credential" in answer.json()["error"]["message"]


def test_versions(who: Any) -> None:
    root = who.client.get("/identity", as_=None)
    assert root.status_code == 300
    version = root.json()["versions"]["values"][0]
    assert version["links"][0]["href"] == "http://cloud.test/identity/v3/"
    assert who.client.get("/identity/v3/", as_=None).json()["version"] == version
    assert version["status"] == "stable"
