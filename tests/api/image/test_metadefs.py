"""Metadata definitions: namespaces, their parts, who sees and who writes."""
from __future__ import annotations

from typing import Any

import pytest

ROOT = "/image/v2/metadefs"


def make(client: Any, name: str = "N", **fields: Any) -> Any:
    return client.post(f"{ROOT}/namespaces", {"namespace": name, **fields})


def test_namespace_life(cloud_client: Any) -> None:
    made = make(cloud_client, visibility="public", description="d", protected=True,
                resource_type_associations=[{"name": "OS::Nova::Flavor"}])
    assert made.status_code == 201, made.text
    assert made.json()["self"] == "/v2/metadefs/namespaces/N" and made.json()["owner"] == cloud_client.projects["admin"]
    assert made.json()["resource_type_associations"] == [{"name": "OS::Nova::Flavor"}]
    path = f"{ROOT}/namespaces/N"
    assert make(cloud_client).status_code == 409
    assert cloud_client.get(path, as_="reader").json()["visibility"] == "public"
    assert cloud_client.delete(path).status_code == 403
    changed = cloud_client.put(path, {"namespace": "M", "visibility": "private"}).json()
    assert (changed["namespace"], changed["protected"]) == ("M", False) and "description" not in changed
    moved = f"{ROOT}/namespaces/M"
    assert cloud_client.get(moved, as_="demo").status_code == 404
    assert cloud_client.get(moved).json()["resource_type_associations"] == [{"name": "OS::Nova::Flavor"}]
    assert cloud_client.get(f"{ROOT}/namespaces", as_="demo").json()["namespaces"] == []
    assert cloud_client.delete(moved).status_code == 204
    assert cloud_client.get(moved).status_code == 404


def test_lists_filter_and_page(cloud_client: Any) -> None:
    for name, kind in (("a", "OS::Nova::Flavor"), ("b", "OS::Nova::Server")):
        make(cloud_client, name, visibility="public", resource_type_associations=[{"name": kind}])

    def names(query: str) -> list[str]:
        answer = cloud_client.get(f"{ROOT}/namespaces{query}", as_="demo")
        return [item["namespace"] for item in answer.json()["namespaces"]]

    assert sorted(names("")) == ["a", "b"] and names("?resource_types=OS::Nova::Server") == ["b"]
    page = cloud_client.get(f"{ROOT}/namespaces?limit=1", as_="demo").json()
    rest = names("?" + page["next"].partition("?")[2])
    assert sorted([page["namespaces"][0]["namespace"], *rest]) == ["a", "b"]
    assert cloud_client.get(f"{ROOT}/namespaces?limit=x").status_code == 400
    assert cloud_client.get(f"{ROOT}/namespaces?marker=none").status_code == 400
    kinds = [item["name"] for item in cloud_client.get(f"{ROOT}/resource_types", as_="demo").json()["resource_types"]]
    assert len(kinds) == len(set(kinds)) and "OS::Nova::Server" in kinds


@pytest.mark.parametrize(("many", "body", "changed"), [
    ("objects", {"name": "x", "required": ["a"], "properties": {"a": {"type": "string"}}}, {"name": "y"}),
    ("properties", {"name": "x", "title": "T", "type": "string", "enum": ["a"]}, {"name": "y", "title": "U", "type": "null"}),
    ("tags", {"name": "x"}, {"name": "y"})])
def test_parts(cloud_client: Any, many: str, body: dict[str, Any], changed: dict[str, Any]) -> None:
    make(cloud_client, visibility="public")
    base = f"{ROOT}/namespaces/N/{many}"
    path = f"{base}/x" if many == "tags" else base
    assert cloud_client.post(path, body, as_="demo").status_code == 403
    made = cloud_client.post(path, None if many == "tags" else body)
    assert made.status_code == 201, made.text
    assert made.json()["name"] == "x"
    assert cloud_client.post(path, None if many == "tags" else body).status_code == 409
    shown = cloud_client.get(f"{base}/x", as_="reader").json()
    assert {key: shown[key] for key in body} == body
    assert cloud_client.put(f"{base}/x", changed).json()["name"] == "y"
    assert cloud_client.get(f"{base}/x").status_code == 404
    listed = cloud_client.get(base, as_="demo").json()[many]
    assert (list(listed) if many == "properties" else [item["name"] for item in listed]) == ["y"]
    assert cloud_client.put(f"{base}/y", {"name": "y", "colour": 1}).status_code == 400
    assert cloud_client.delete(f"{base}/y", as_="demo").status_code == 403
    assert cloud_client.delete(f"{base}/y").status_code == 204
    assert cloud_client.delete(f"{base}/y").status_code == 404


def test_tags_are_replaced_or_added(cloud_client: Any) -> None:
    make(cloud_client)
    path = f"{ROOT}/namespaces/N/tags"

    def names() -> list[str]:
        return sorted(item["name"] for item in cloud_client.get(path).json()["tags"])

    assert cloud_client.post(path, {"tags": [{"name": "a"}, {"name": "b"}]}).status_code == 201
    assert cloud_client.post(path, {"tags": [{"name": "c"}]}).json() == {"tags": [{"name": "c"}]}
    assert names() == ["c"]
    cloud_client.post(path, {"tags": [{"name": "d"}]}, headers={"X-Openstack-Append": "true"})
    assert names() == ["c", "d"]
    for body in ({}, {"tags": "x"}, {"tags": [{"name": ""}]}, {"tags": ["x"]}):
        assert cloud_client.post(path, body).status_code == 400
    assert cloud_client.post(path, {"tags": [{"name": "e"}, {"name": "e"}]}).status_code == 409
    assert names() == ["c", "d"]
    assert cloud_client.delete(path).status_code == 204 and names() == []


def test_resource_type_associations(cloud_client: Any) -> None:
    make(cloud_client)
    path = f"{ROOT}/namespaces/N/resource_types"
    made = cloud_client.post(path, {"name": "OS::Nova::Server", "prefix": "hw:"})
    assert made.status_code == 201 and made.json()["prefix"] == "hw:"
    listed = cloud_client.get(path).json()["resource_type_associations"]
    assert [item["name"] for item in listed] == ["OS::Nova::Server"]
    assert cloud_client.delete(f"{path}/OS::Nova::Server").status_code == 204
    assert cloud_client.get(path).json()["resource_type_associations"] == []


@pytest.mark.parametrize(("body", "word"), [
    ([], "body"), ({}, "namespace"), ({"namespace": ""}, "namespace"), ({"namespace": "x" * 81}, "namespace"),
    ({"namespace": "n", "visibility": "shared"}, "visibility"), ({"namespace": "n", "protected": "yes"}, "protected"),
    ({"namespace": "n", "colour": 1}, "colour"), ({"namespace": "n", "tags": {}}, "tags"),
    ({"namespace": "n", "properties": {"p": {"title": "t"}}}, "type"), ({"namespace": "n", "owner": 7}, "owner")])
def test_bad_namespaces_name_the_key(cloud_client: Any, body: Any, word: str) -> None:
    answer = cloud_client.post(f"{ROOT}/namespaces", body)
    assert answer.status_code == 400 and word in answer.json()["message"]


def test_schemas(cloud_client: Any) -> None:
    names = {"namespace": "namespace", "namespaces": "namespaces", "resource_type": "resource_type_association",
             "resource_types": "resource_type_associations", "object": "object", "objects": "objects",
             "property": "property", "properties": "properties", "tag": "tag", "tags": "tags"}
    for path, name in names.items():
        assert cloud_client.get(f"/image/v2/schemas/metadefs/{path}", as_="reader").json()["name"] == name
    assert cloud_client.get("/image/v2/schemas/metadefs/none").status_code == 404
