"""Roles, what they imply, and who holds them where."""
from __future__ import annotations

from typing import Any

import pytest


def test_role_life_cycle(who: Any) -> None:
    role = who.make("role", "roles", name="r", description="d")
    assert role["domain_id"] is None
    path = f"/roles/{role['id']}"
    assert who.get(path).json()["role"] == role
    assert who.patch(path, {"role": {"name": "s"}}).json()["role"]["description"] == "d"
    assert who.post("/roles", {"role": {"name": "s"}}).status_code == 409
    assert who.delete(path).status_code == 204
    assert who.get(path).status_code == who.delete(path).status_code == 404


def test_the_first_roles_are_there_chained_and_immutable(who: Any) -> None:
    names = {role["name"] for role in who.get("/roles").json()["roles"]}
    assert {"admin", "manager", "member", "reader", "service"} <= names
    assert who.delete(f"/roles/{who.role_id('reader')}").status_code == 403
    chain = {rule["prior_role"]["name"]: [role["name"] for role in rule["implies"]]
             for rule in who.get("/role_inferences").json()["role_inferences"]}
    assert chain == {"admin": ["manager"], "manager": ["member"], "member": ["reader"]}


def test_domain_roles_are_listed_apart(who: Any) -> None:
    domain = who.domain("d")
    role = who.make("role", "roles", name="r", domain_id=domain["id"])
    who.make("role", "roles", name="r")
    assert [item["id"] for item in who.get(f"/roles?domain_id={domain['id']}").json()["roles"]] == [role["id"]]
    assert role["id"] not in [item["id"] for item in who.get("/roles").json()["roles"]]


def test_implications(who: Any) -> None:
    one, two = (who.make("role", "roles", name=name)["id"] for name in ("one", "two"))
    path = f"/roles/{one}/implies/{two}"
    assert who.get(path).status_code == 404
    made = who.put(path)
    assert made.status_code == 201
    assert made.json()["role_inference"]["implies"]["name"] == "two"
    assert who.put(path).status_code == 409
    assert who.head(path).status_code == 204
    assert who.get(path).json()["role_inference"]["prior_role"]["name"] == "one"
    assert [role["name"] for role in who.get(f"/roles/{one}/implies").json()["role_inference"]["implies"]] == ["two"]
    assert who.put(f"/roles/{two}/implies/{one}").status_code == 400, "a circle"
    assert who.put(f"/roles/{one}/implies/{one}").status_code == 400
    assert who.put(f"/roles/{one}/implies/{who.role_id('admin')}").status_code == 403
    assert who.delete(path).status_code == 204
    assert who.delete(path).status_code == 404


def test_domain_roles_count_as_what_they_imply(who: Any) -> None:
    domain = who.domain("d")
    role = who.make("role", "roles", name="local", domain_id=domain["id"])
    project, user = who.project("p", domain_id=domain["id"]), who.user("u", domain_id=domain["id"])
    grant = f"/users/{user['id']}/roles/{role['id']}"
    assert who.put(f"/projects/{project['id']}{grant}").status_code == 204
    assert who.put(f"/projects/{who.client.projects['demo']}{grant}").status_code == 403, "another domain"
    scope = who.project_scope(project["id"])
    assert who.log_in(user["id"], scope).status_code == 401, "it implies nothing yet"
    assert who.put(f"/roles/{role['id']}/implies/{who.role_id('member')}").status_code == 201
    names = [item["name"] for item in who.log_in(user["id"], scope).json()["token"]["roles"]]
    assert names == ["member", "reader"]
    assert who.put(f"/roles/{who.role_id('service')}/implies/{role['id']}").status_code == 403


@pytest.mark.parametrize("actor", ["users", "groups"])
@pytest.mark.parametrize("place", ["projects", "domains", "system"])
def test_grant_check_list_revoke(who: Any, actor: str, place: str) -> None:
    domain = who.domain("d")
    thing = {"projects": who.project("p", domain_id=domain["id"])["id"], "domains": domain["id"], "system": ""}[place]
    holder = who.user("u") if actor == "users" else who.make("group", "groups", name="g")
    path = "/" + "/".join(part for part in (place, thing, actor, holder["id"], "roles") if part)
    one = f"{path}/{who.role_id('reader')}"
    assert who.head(one).status_code == 404
    assert who.delete(one).status_code == 404
    assert who.put(one).status_code == who.put(one).status_code == 204
    assert who.head(one).status_code == 204
    assert who.get(one).status_code == 204
    assert [role["name"] for role in who.get(path).json()["roles"]] == ["reader"]
    assert who.delete(one).status_code == 204
    assert who.head(one).status_code == 404
    assert who.put(f"{path}/{'0' * 32}").status_code == 404
    assert who.put(one.replace(holder["id"], "0" * 32)).status_code == 404


@pytest.mark.parametrize("actor", ["users", "groups"])
def test_inherited_roles_hold_below_and_not_here(who: Any, actor: str) -> None:
    domain = who.domain("d")
    top = who.project("top", domain_id=domain["id"])
    leaf = who.project("leaf", parent_id=top["id"])
    user = who.user("u", domain_id=domain["id"])
    holder = user
    if actor == "groups":
        holder = who.make("group", "groups", name="g", domain_id=domain["id"])
        who.put(f"/groups/{holder['id']}/users/{user['id']}")
    member = who.role_id("member")

    def may(scope: Any) -> bool:
        return bool(who.log_in(user["id"], scope).status_code == 201)

    base = f"/OS-INHERIT/domains/{domain['id']}/{actor}/{holder['id']}/roles"
    one = f"{base}/{member}/inherited_to_projects"
    assert who.put(one).status_code == 204
    assert who.head(one).status_code == 204
    assert [role["name"] for role in who.get(base + "/inherited_to_projects").json()["roles"]] == ["member"]
    assert may(who.project_scope(top["id"]))
    assert may(who.project_scope(leaf["id"]))
    assert not may({"domain": {"id": domain["id"]}})
    token = who.token(user["id"], who.project_scope(leaf["id"]))
    assert who.delete(one).status_code == 204
    assert not who.alive(token)
    below_top = f"/OS-INHERIT/projects/{top['id']}/{actor}/{holder['id']}/roles/{member}/inherited_to_projects"
    assert who.put(below_top).status_code == 204
    assert may(who.project_scope(leaf["id"]))
    assert not may(who.project_scope(top["id"]))


def lines(who: Any, query: str) -> list[dict[str, Any]]:
    answer = who.get(f"/role_assignments?{query}")
    assert answer.status_code == 200, answer.text
    return list(answer.json()["role_assignments"])


def test_the_list_as_stored(who: Any) -> None:
    users, projects = who.client.users, who.client.projects
    found = lines(who, f"user.id={users['demo']}&include_names")
    assert [(line["role"]["name"], line["user"]["name"], line["scope"]["project"]["name"]) for line in found] == [
        ("member", "demo", "demo")]
    assert found[0]["scope"]["project"]["domain"] == {"id": "default", "name": "Default"}
    assert found[0]["links"]["assignment"].endswith(
        f"/projects/{projects['demo']}/users/{users['demo']}/roles/{found[0]['role']['id']}")
    system = lines(who, "scope.system=all")
    assert [line["user"]["id"] for line in system] == [users["admin"]]
    assert system[0]["scope"] == {"system": {"all": True}}
    assert {line["user"]["id"] for line in lines(who, "scope.domain.id=default")} == {users["admin"], users["manager"]}
    assert lines(who, f"role.id={who.role_id('service')}") == []


def test_the_list_as_effective(who: Any) -> None:
    domain = who.domain("d")
    top, user = who.project("top", domain_id=domain["id"]), who.user("u")
    leaf = who.project("leaf", parent_id=top["id"])
    group = who.make("group", "groups", name="g")
    who.put(f"/groups/{group['id']}/users/{user['id']}")
    who.put(f"/OS-INHERIT/domains/{domain['id']}/groups/{group['id']}/roles/{who.role_id('member')}/inherited_to_projects")
    found = lines(who, f"effective&include_names&user.id={user['id']}")
    assert {(line["scope"]["project"]["name"], line["role"]["name"]) for line in found} == {
        ("top", "member"), ("top", "reader"), ("leaf", "member"), ("leaf", "reader")}
    assert all(line["scope"]["OS-INHERIT:inherited_to"] == "projects" for line in found)
    assert all(line["links"]["membership"].endswith(f"/groups/{group['id']}/users/{user['id']}") for line in found)
    implied = [line for line in found if line["role"]["name"] == "reader"]
    assert all("/implies/" in line["links"]["prior_role"] for line in implied)
    assert lines(who, f"user.id={user['id']}") == [], "nothing is his directly"
    assert len(lines(who, f"effective&scope.project.id={leaf['id']}")) == 2
    assert len(lines(who, f"scope.project.id={top['id']}&include_subtree&effective")) == 4
    stored = lines(who, f"group.id={group['id']}&scope.OS-INHERIT:inherited_to=projects")
    assert [line["scope"]["domain"]["id"] for line in stored] == [domain["id"]]


@pytest.mark.parametrize("query", [
    "user.id=a&group.id=b", "effective&group.id=b", "scope.project.id=a&scope.domain.id=b", "include_subtree"])
def test_contradictory_filters_are_refused(who: Any, query: str) -> None:
    assert who.get(f"/role_assignments?{query}").status_code == 400
