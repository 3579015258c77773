"""Users, their passwords, and groups."""
from __future__ import annotations

from typing import Any

import pytest

from virga.domain.identity import User


def test_user_life_cycle(who: Any) -> None:
    user = who.user("u", email="u@example.org", description="d")
    assert user["email"] == "u@example.org"
    assert "password" not in user
    assert user["password_expires_at"] is None
    path = f"/users/{user['id']}"
    assert who.get(path).json()["user"] == user
    changed = who.patch(path, {"user": {"name": "v", "email": "v@example.org", "enabled": False}}).json()["user"]
    assert (changed["name"], changed["email"], changed["enabled"], changed["description"]) == (
        "v", "v@example.org", False, "d")
    assert who.log_in(user["id"]).status_code == 401, "disabled"
    assert who.delete(path).status_code == 204
    assert who.get(path).status_code == who.delete(path).status_code == 404


def test_no_secret_is_shown_or_kept_in_clear(who: Any) -> None:
    user = who.user("u")
    row = who.client.run(who.client.db.read(lambda tx: tx.need(User, user["id"])))
    assert row.password_hash.startswith("$argon2id$")
    assert "correct horse" not in repr(row)
    assert "argon2" not in who.get(f"/users/{user['id']}").text
    assert all("correct horse" not in event.text + str(event.data) for event in who.client.trace.events())


def test_own_password_change(who: Any) -> None:
    user = who.user("u")
    token = who.token(user["id"])
    path = f"/users/{user['id']}/password"

    def change(old: str, new: str) -> int:
        body = {"user": {"original_password": old, "password": new}}
        return int(who.post(path, body, as_=None).status_code)

    assert change("wrong", "new") == 401
    assert who.alive(token)
    assert change("correct horse", "correct horse") == 400
    assert change("correct horse", "new") == 204
    assert not who.alive(token)
    assert who.log_in(user["id"]).status_code == 401
    assert who.log_in(user["id"], password="new").status_code == 201
    assert who.post(path, {"user": {"password": "x"}}, as_=None).status_code == 400
    assert who.post("/users/nobody/password", {"user": {"password": "x", "original_password": "y"}}).status_code == 401


def test_locked_password(who: Any) -> None:
    user = who.user("u", options={"lock_password": True})
    body = {"user": {"original_password": "correct horse", "password": "new"}}
    assert who.post(f"/users/{user['id']}/password", body).status_code == 400
    assert who.patch(f"/users/{user['id']}", {"user": {"password": "new"}}).status_code == 200, "an admin still may"


def test_user_without_password_cannot_log_in(who: Any) -> None:
    user = who.make("user", "users", name="nopass")
    assert who.log_in(user["id"], password="").status_code == 401
    assert who.log_in(user["id"], password="None").status_code == 401


def test_options_that_would_do_nothing_are_refused(who: Any) -> None:
    for options in ({"multi_factor_auth_enabled": True}, {"unknown": True}, {"lock_password": "yes"}):
        answer = who.post("/users", {"user": {"name": "u", "options": options}})
        assert answer.status_code == 400
        assert next(iter(options)) in answer.json()["error"]["message"]


def test_default_project_cannot_be_a_domain(who: Any) -> None:
    assert who.post("/users", {"user": {"name": "u", "default_project_id": "default"}}).status_code == 400


def test_domain_of_a_user_is_fixed_and_must_exist(who: Any) -> None:
    domain = who.domain("d")
    user = who.user("u", domain_id=domain["id"])
    assert who.patch(f"/users/{user['id']}", {"user": {"domain_id": "default"}}).status_code == 400
    assert who.post("/users", {"user": {"name": "u", "domain_id": "0" * 32}}).status_code == 404
    assert who.post("/users", {"user": {"name": "u", "domain_id": domain["id"]}}).status_code == 409
    listed = who.get(f"/users?domain_id={domain['id']}").json()["users"]
    assert [item["id"] for item in listed] == [user["id"]]


def test_projects_and_groups_of_a_user(who: Any) -> None:
    demo = who.client.users["demo"]
    for as_ in ("admin", "demo"):
        assert [item["name"] for item in who.get(f"/users/{demo}/projects", as_=as_).json()["projects"]] == ["demo"]
        assert who.get(f"/users/{demo}/groups", as_=as_).json()["groups"] == []
    assert who.get(f"/users/{demo}/projects", as_="other").status_code == 403


def test_group_life_cycle_and_members(who: Any) -> None:
    group = who.make("group", "groups", name="g", description="d")
    user = who.user("u")
    path, member = f"/groups/{group['id']}", f"/groups/{group['id']}/users/{user['id']}"
    assert who.get(path).json()["group"] == group
    assert who.head(member).status_code == 404
    assert who.put(member).status_code == who.put(member).status_code == 204
    assert who.head(member).status_code == 204
    assert [item["id"] for item in who.get(path + "/users").json()["users"]] == [user["id"]]
    assert [item["id"] for item in who.get(f"/users/{user['id']}/groups").json()["groups"]] == [group["id"]]
    assert who.patch(path, {"group": {"name": "h"}}).json()["group"]["description"] == "d"
    assert who.post("/groups", {"group": {"name": "h"}}).status_code == 409
    assert who.delete(member).status_code == 204
    assert who.delete(member).status_code == 404
    assert who.delete(path).status_code == 204
    assert who.get(path).status_code == 404


@pytest.mark.parametrize("leave", ["member", "group"])
def test_leaving_a_group_ends_what_came_with_it(who: Any, leave: str) -> None:
    group, user, project = who.make("group", "groups", name="g"), who.user("u"), who.project("p")
    who.put(f"/groups/{group['id']}/users/{user['id']}")
    assert who.put(
        f"/projects/{project['id']}/groups/{group['id']}/roles/{who.role_id('member')}").status_code == 204
    scope = who.project_scope(project["id"])
    token = who.token(user["id"], scope)
    assert who.alive(token)
    who.delete(f"/groups/{group['id']}" + (f"/users/{user['id']}" if leave == "member" else ""))
    assert not who.alive(token)
    assert who.log_in(user["id"], scope).status_code == 401
