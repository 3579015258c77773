"""Domains and projects: life cycle, tree, tags, filters, pages."""
from __future__ import annotations

from typing import Any

import pytest


def test_domain_life_cycle(who: Any) -> None:
    domain = who.domain("d", description="x")
    assert domain["enabled"] is True
    path = f"/domains/{domain['id']}"
    assert who.get(path).json()["domain"] == domain
    assert who.delete(path).status_code == 403, "enabled"
    changed = who.patch(path, {"domain": {"enabled": False, "name": "e"}}).json()["domain"]
    assert (changed["name"], changed["enabled"], changed["description"]) == ("e", False, "x")
    assert who.delete(path).status_code == 204
    assert who.get(path).status_code == 404


def test_deleting_a_domain_takes_everything_in_it(who: Any) -> None:
    domain = who.domain("d")
    inside = {"domain_id": domain["id"]}
    user, project = who.user("u", **inside), who.project("p", **inside)
    group = who.make("group", "groups", name="g", **inside)
    role = who.make("role", "roles", name="r", **inside)
    who.grant(user["id"], "member", f"domains/{domain['id']}")
    who.patch(f"/domains/{domain['id']}", {"domain": {"enabled": False}})
    assert who.delete(f"/domains/{domain['id']}").status_code == 204
    for path in (f"/users/{user['id']}", f"/projects/{project['id']}", f"/groups/{group['id']}", f"/roles/{role['id']}"):
        assert who.get(path).status_code == 404, path
    assert who.get(f"/role_assignments?user.id={user['id']}").json()["role_assignments"] == []


def test_names_are_unique_where_they_must_be(who: Any) -> None:
    domain = who.domain("d")
    assert who.post("/domains", {"domain": {"name": "d"}}).status_code == 409
    who.project("p")
    assert who.post("/projects", {"project": {"name": "p"}}).status_code == 409
    who.project("p", domain_id=domain["id"])
    other = who.project("q")
    assert who.patch(f"/projects/{other['id']}", {"project": {"name": "p"}}).status_code == 409


def test_project_defaults_and_extra_fields(who: Any) -> None:
    project = who.project("p", colour="green")
    assert project["domain_id"] == project["parent_id"] == "default"
    assert project["is_domain"] is False
    assert (project["description"], project["tags"], project["options"]) == ("", [], {})
    assert project["colour"] == "green"
    changed = who.patch(f"/projects/{project['id']}", {"project": {"description": "x", "size": 3}}).json()["project"]
    assert (changed["colour"], changed["size"], changed["description"]) == ("green", 3, "x")


def test_tree_rules(who: Any) -> None:
    top = who.project("a")
    middle = who.project("b", parent_id=top["id"])
    leaf = who.project("c", parent_id=middle["id"])
    path = f"/projects/{top['id']}"
    assert who.delete(path).status_code == 403
    assert who.patch(path, {"project": {"enabled": False}}).status_code == 403, "children are enabled"
    shown = who.get(f"/projects/{leaf['id']}?parents_as_list").json()["project"]
    assert [item["project"]["id"] for item in shown["parents"]] == [middle["id"], top["id"], "default"]
    shown = who.get(path + "?subtree_as_ids&parents_as_ids").json()["project"]
    assert shown["subtree"] == {middle["id"]: {leaf["id"]: None}}
    assert shown["parents"] == {"default": None}
    assert [item["project"]["id"] for item in who.get(path + "?subtree_as_list").json()["project"]["subtree"]] == [
        middle["id"], leaf["id"]]
    deepest = who.project("d", parent_id=leaf["id"])
    too_deep = who.post("/projects", {"project": {"name": "e", "parent_id": deepest["id"]}})
    assert too_deep.status_code == 403
    for item in (deepest, leaf, middle):
        assert who.patch(f"/projects/{item['id']}", {"project": {"enabled": False}}).status_code == 200
    assert who.patch(f"/projects/{leaf['id']}", {"project": {"enabled": True}}).status_code == 403, "parent is disabled"


def test_parent_and_domain_must_agree_and_stay(who: Any) -> None:
    domain = who.domain("d")
    top = who.project("a")
    mixed = who.post("/projects", {"project": {"name": "b", "parent_id": top["id"], "domain_id": domain["id"]}})
    assert mixed.status_code == 400
    assert "parent_id" in mixed.json()["error"]["message"]
    path = f"/projects/{top['id']}"
    assert who.patch(path, {"project": {"domain_id": domain["id"]}}).status_code == 400
    assert who.patch(path, {"project": {"parent_id": domain["id"]}}).status_code == 403
    assert who.post("/projects", {"project": {"name": "b", "domain_id": "0" * 32}}).status_code == 404


def test_a_project_acting_as_a_domain_is_a_domain(who: Any) -> None:
    made = who.project("d", is_domain=True)
    assert made["domain_id"] is None
    assert made["id"] in [item["id"] for item in who.get("/domains").json()["domains"]]
    assert made["id"] in [item["id"] for item in who.get("/projects?is_domain=true").json()["projects"]]
    assert made["id"] not in [item["id"] for item in who.get("/projects").json()["projects"]]
    assert who.delete(f"/projects/{made['id']}").status_code == 403
    who.patch(f"/projects/{made['id']}", {"project": {"enabled": False}})
    assert who.delete(f"/projects/{made['id']}").status_code == 204
    assert who.get(f"/domains/{made['id']}").status_code == 404


def test_tags(who: Any) -> None:
    one, two = who.project("a", tags=["x", "y"]), who.project("b", tags=["y"])
    path = f"/projects/{one['id']}/tags"
    assert who.put(path + "/z").status_code == 201
    assert who.get(path).json()["tags"] == ["x", "y", "z"]
    assert who.get(path + "/z").status_code == 204
    assert who.delete(path + "/z").status_code == 204
    assert who.get(path + "/z").status_code == who.delete(path + "/z").status_code == 404

    def names(query: str) -> set[str]:
        return {item["name"] for item in who.get(f"/projects?{query}").json()["projects"]} & {"a", "b"}

    assert names("tags=x,y") == {"a"}
    assert names("tags-any=x,y") == {"a", "b"}
    assert names("not-tags=x,y") == {"b"}
    assert names("not-tags-any=x") == {"b"}
    assert who.put(path, {"tags": ["n"]}).json()["tags"] == ["n"]
    assert who.delete(path).status_code == 204
    assert who.get(path).json()["tags"] == []
    for bad in (["a/b"], ["a,b"], [""], ["x" * 256], ["x", "x"], [str(number) for number in range(81)]):
        assert who.put(path, {"tags": bad}).status_code == 400, bad
    assert two["tags"] == ["y"]


def test_filters(who: Any) -> None:
    who.project("alpha"), who.project("alphabet", enabled=False), who.project("Beta")

    def names(query: str) -> list[str]:
        return [item["name"] for item in who.get(f"/projects?{query}").json()["projects"]]

    assert names("name=alpha") == ["alpha"]
    assert names("name__startswith=alph") == ["alpha", "alphabet"]
    assert names("name__contains=phab") == ["alphabet"]
    assert names("name__icontains=BET") == ["Beta", "alphabet"]
    assert names("name__iexact=beta") == ["Beta"]
    assert names("enabled=false") == ["alphabet"]
    assert "alphabet" not in names("enabled=1")
    assert names("name=nothing") == []
    assert "alpha" in names("unknown=filter")


def test_pages(who: Any) -> None:
    made = [who.project(f"page{number}")["id"] for number in range(5)]
    seen: list[str] = []
    url = "/projects?name__startswith=page&limit=2"
    for _ in range(3):
        body = who.get(url).json()
        assert len(body["projects"]) <= 2
        seen += [item["id"] for item in body["projects"]]
        following = body["links"]["next"]
        if following is None:
            break
        url = following.removeprefix("http://cloud.test/identity/v3")
    assert seen == made
    assert following is None
    assert who.get("/projects?limit=x").status_code == 400
    assert who.get("/projects?marker=nobody").status_code == 400


@pytest.mark.parametrize("noun", ["projects", "domains"])
def test_immutable_things_stay(who: Any, noun: str) -> None:
    one = noun[:-1]
    made = who.make(one, noun, name="keep", options={"immutable": True})
    path = f"/{noun}/{made['id']}"
    assert who.patch(path, {one: {"name": "x"}}).status_code == 403
    assert who.delete(path).status_code == 403
    assert who.patch(path, {one: {"options": {"immutable": None}}}).status_code == 200
    assert who.patch(path, {one: {"name": "x"}}).status_code == 200


def test_a_deleted_project_takes_its_assignments(who: Any) -> None:
    project = who.project("p")
    demo = who.client.users["demo"]
    who.grant(demo, "member", f"projects/{project['id']}")
    assert who.delete(f"/projects/{project['id']}").status_code == 204
    assert project["id"] not in who.get(f"/role_assignments?user.id={demo}").text
