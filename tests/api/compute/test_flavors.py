"""Flavors: create, show, list with filters and pages, access, extra specs, and who may."""
from __future__ import annotations

from typing import Any

import pytest
from tests.api.compute import rows

ROOT = "/compute/v2.1"
SIZES = {"vcpus": 1, "ram": 64, "disk": 1}


def at(version: str) -> dict[str, str]:
    return {"OpenStack-API-Version": f"compute {version}"}


def make(client: Any, version: str = "2.1", **fields: Any) -> dict[str, Any]:
    made = client.post(f"{ROOT}/flavors", {"flavor": {**SIZES, **fields}}, headers=at(version))
    assert made.status_code == 200, made.text
    return dict(made.json()["flavor"])


def names(client: Any, query: str = "", as_: str = "demo") -> list[str]:
    answer = client.get(f"{ROOT}/flavors{query}", as_=as_)
    assert answer.status_code == 200, answer.text
    return [flavor["name"] for flavor in answer.json()["flavors"]]


def test_create_shows_defaults_and_takes_numbers_as_text(cloud_client: Any) -> None:
    flavor = make(cloud_client, name="f", ram="1024", id=1234)
    assert (flavor["id"], flavor["ram"], flavor["swap"]) == ("1234", 1024, "")
    assert flavor["OS-FLV-EXT-DATA:ephemeral"] == 0 and flavor["os-flavor-access:is_public"] is True
    assert "description" not in flavor and "extra_specs" not in flavor
    assert len(make(cloud_client, name="g", id=None)["id"]) == 36
    late = cloud_client.get(f"{ROOT}/flavors/1234", as_="demo", headers=at("2.75")).json()["flavor"]
    assert (late["swap"], late["description"], late["extra_specs"]) == (0, None, {})


@pytest.mark.parametrize(("fields", "word"), [
    ({"vcpus": 0}, "vcpus"), ({"ram": "much"}, "ram"), ({"ram": None}, "ram"), ({"disk": -1}, "disk"),
    ({"name": " f"}, "name"), ({"name": ""}, "name"), ({"id": "a/b"}, "id"), ({"rxtx_factor": 0}, "rxtx_factor"),
    ({"swap": 2**40}, "swap"), ({"colour": "red"}, "colour"), ({"description": "d"}, "description"),
    ({"os-flavor-access:is_public": "perhaps"}, "is_public"),
])
def test_bad_create_names_the_field(cloud_client: Any, fields: dict[str, Any], word: str) -> None:
    answer = cloud_client.post(f"{ROOT}/flavors", {"flavor": {"name": "f", **SIZES, **fields}})
    assert answer.status_code == 400
    assert word in answer.json()["badRequest"]["message"]


def test_missing_fields_and_bodies(cloud_client: Any) -> None:
    for body, word in (({}, "flavor"), ({"flavor": []}, "flavor"), ({"flavor": {"name": "f"}}, "vcpus")):
        answer = cloud_client.post(f"{ROOT}/flavors", body)
        assert answer.status_code == 400 and word in answer.json()["badRequest"]["message"]


def test_names_and_ids_are_taken_once(cloud_client: Any) -> None:
    make(cloud_client, name="f", id="1")
    for fields in ({"name": "f", "id": "2"}, {"name": "g", "id": "1"}):
        assert cloud_client.post(f"{ROOT}/flavors", {"flavor": {**SIZES, **fields}}).status_code == 409


def test_only_administrators_change_flavors(cloud_client: Any) -> None:
    make(cloud_client, name="f", id="1")
    refused = [
        cloud_client.post(f"{ROOT}/flavors", {"flavor": {"name": "g", **SIZES}}, as_="demo"),
        cloud_client.put(f"{ROOT}/flavors/1", {"flavor": {"description": "d"}}, headers=at("2.55"), as_="demo"),
        cloud_client.delete(f"{ROOT}/flavors/1", as_="demo"),
        cloud_client.post(f"{ROOT}/flavors/1/action", {"addTenantAccess": {"tenant": "p"}}, as_="demo"),
        cloud_client.get(f"{ROOT}/flavors/1/os-flavor-access", as_="demo"),
        cloud_client.post(f"{ROOT}/flavors/1/os-extra_specs", {"extra_specs": {"a": "b"}}, as_="demo"),
        cloud_client.delete(f"{ROOT}/flavors/1/os-extra_specs/a", as_="demo")]
    assert [answer.status_code for answer in refused] == [403] * len(refused)
    assert cloud_client.get(f"{ROOT}/flavors/1", as_="reader").status_code == 200


def test_description_from_255(cloud_client: Any) -> None:
    make(cloud_client, "2.55", name="f", id="1", description="old")
    path = f"{ROOT}/flavors/1"
    assert cloud_client.put(path, {"flavor": {"description": "d"}}).status_code == 404
    changed = cloud_client.put(path, {"flavor": {"description": None}}, headers=at("2.55"))
    assert changed.json()["flavor"]["description"] is None
    assert cloud_client.put(path, {"flavor": {"name": "x"}}, headers=at("2.55")).status_code == 400


def test_private_flavors_show_to_whom_they_are_given(cloud_client: Any) -> None:
    make(cloud_client, name="open", id="1")
    make(cloud_client, **{"name": "closed", "id": "2", "os-flavor-access:is_public": "False"})
    demo, path = cloud_client.projects["demo"], f"{ROOT}/flavors/2"
    assert names(cloud_client) == ["open"]
    assert cloud_client.get(path, as_="demo").status_code == 404
    given = cloud_client.post(f"{path}/action", {"addTenantAccess": {"tenant": demo}})
    assert given.json() == {"flavor_access": [{"flavor_id": "2", "tenant_id": demo}]}
    assert names(cloud_client) == ["open", "closed"] and names(cloud_client, as_="other") == ["open"]
    assert cloud_client.post(f"{path}/action", {"addTenantAccess": {"tenant": demo}}).status_code == 409
    assert cloud_client.get(f"{path}/os-flavor-access").json()["flavor_access"][0]["tenant_id"] == demo
    assert cloud_client.post(f"{path}/action", {"removeTenantAccess": {"tenant": "p"}}).status_code == 404
    taken = cloud_client.post(f"{path}/action", {"removeTenantAccess": {"tenant": demo}})
    assert taken.json() == {"flavor_access": []} and names(cloud_client) == ["open"]
    assert cloud_client.get(f"{ROOT}/flavors/1/os-flavor-access").status_code == 404
    assert cloud_client.post(f"{ROOT}/flavors/1/action", {"addTenantAccess": {"tenant": "p"}}).status_code == 409
    assert cloud_client.post(f"{path}/action", {"paint": {}}).status_code == 400
    assert names(cloud_client, as_="admin") == ["open"]
    assert names(cloud_client, "?is_public=no", as_="admin") == ["closed"]
    assert names(cloud_client, "?is_public=None", as_="admin") == ["open", "closed"]
    assert names(cloud_client, "?is_public=no", as_="demo") == ["open"]


def test_filters_sorting_and_pages(cloud_client: Any) -> None:
    for number, ram in enumerate((64, 256, 128)):
        rows.flavor(cloud_client, str(number), name=f"n{number}", ram_mb=ram, disk_gb=number)
    assert names(cloud_client, "?minRam=128") == ["n1", "n2"]
    assert names(cloud_client, "?minDisk=2") == ["n2"]
    assert names(cloud_client, "?sort_key=memory_mb&sort_dir=desc") == ["n1", "n2", "n0"]
    page = cloud_client.get(f"{ROOT}/flavors/detail?limit=2", as_="demo").json()
    assert [flavor["name"] for flavor in page["flavors"]] == ["n0", "n1"]
    following = page["flavors_links"][0]["href"].removeprefix("http://cloud.test")
    rest = cloud_client.get(following, as_="demo").json()
    assert [flavor["name"] for flavor in rest["flavors"]] == ["n2"] and "flavors_links" not in rest


@pytest.mark.parametrize("query", [
    "minRam=x", "minDisk=-1", "limit=x", "limit=-1", "marker=none", "sort_key=colour", "sort_dir=up", "is_public=maybe"])
def test_bad_queries_name_the_parameter(cloud_client: Any, query: str) -> None:
    answer = cloud_client.get(f"{ROOT}/flavors?{query}")
    assert answer.status_code == 400
    assert query.partition("=")[0] in answer.json()["badRequest"]["message"]


def test_unknown_parameters_are_refused_from_275(cloud_client: Any) -> None:
    assert cloud_client.get(f"{ROOT}/flavors?colour=red").status_code == 200
    assert cloud_client.get(f"{ROOT}/flavors?colour=red", headers=at("2.75")).status_code == 400


def test_extra_specs(cloud_client: Any) -> None:
    make(cloud_client, name="f", id="1")
    path = f"{ROOT}/flavors/1/os-extra_specs"
    made = cloud_client.post(path, {"extra_specs": {"hw:numa_nodes": "1", "foo:bar": 7}})
    assert made.json() == {"extra_specs": {"hw:numa_nodes": "1", "foo:bar": "7"}}
    assert cloud_client.put(f"{path}/hw:numa_nodes", {"hw:numa_nodes": "2"}).json() == {"hw:numa_nodes": "2"}
    assert cloud_client.put(f"{path}/hw:numa_nodes", {"other": "2"}).status_code == 400
    assert cloud_client.put(f"{path}/a", {"a": "1", "b": "2"}).status_code == 400
    assert cloud_client.get(path, as_="reader").json()["extra_specs"] == {"hw:numa_nodes": "2", "foo:bar": "7"}
    assert cloud_client.get(f"{path}/none", as_="reader").status_code == 404
    assert cloud_client.delete(f"{path}/foo:bar").status_code == 200
    assert cloud_client.delete(f"{path}/foo:bar").status_code == 404
    for specs in ({"a": None}, {"a/b": "c"}, {"a": "x" * 256}):
        assert cloud_client.post(path, {"extra_specs": specs}).status_code == 400
    bad = cloud_client.post(path, {"extra_specs": {"hw:cpu_policy": "greedy"}}, headers=at("2.86"))
    assert bad.status_code == 400 and "hw:cpu_policy" in bad.json()["badRequest"]["message"]
    assert cloud_client.post(path, {"extra_specs": {"hw:cpu_policy": "greedy"}}).status_code == 200


def test_delete(cloud_client: Any) -> None:
    make(cloud_client, name="f", id="1")
    assert cloud_client.delete(f"{ROOT}/flavors/1").status_code == 202
    assert cloud_client.delete(f"{ROOT}/flavors/1").status_code == 404
