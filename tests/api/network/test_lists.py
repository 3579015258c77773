"""Filters, sorting, paging, fields, tags, revisions, several at once."""
from __future__ import annotations

from typing import Any

import pytest

V2 = "/network/v2.0"


@pytest.fixture
def names(cloud_client: Any) -> list[str]:
    """Seven networks n0..n6, made at once."""
    made = cloud_client.post(f"{V2}/networks", {"networks": [
        {"name": f"n{number}", "description": "even" if number % 2 == 0 else "", "mtu": 1450 - number} for number in range(7)]}, as_="demo")
    assert made.status_code == 201
    return [item["name"] for item in made.json()["networks"]]


def listed(client: Any, query: str, path: str = "networks", many: str = "networks") -> list[Any]:
    response = client.get(f"{V2}/{path}?{query}", as_="demo")
    assert response.status_code == 200, response.text
    found: list[Any] = response.json()[many]
    return found


@pytest.mark.parametrize(("query", "expected"), [
    ("name=n1", ["n1"]), ("name=n1&name=n3", ["n1", "n3"]), ("name=n1&description=even", []), ("description=", ["n1", "n3", "n5"]),
    ("mtu=1448", ["n2"]), ("admin_state_up=False", []), ("admin_state_up=true&name=n0", ["n0"]), ("status=ACTIVE&name=n6", ["n6"]),
    ("shared=True", []), ("name=n0&tenant_id=nobody", []), ("changed_since=2020-01-01T00:00:00Z&name=n4", ["n4"]),
    ("changed_since=2999-01-01T00:00:00Z", []), ("router:external=False&name=n5", ["n5"]),
])
def test_filters(cloud_client: Any, names: list[str], query: str, expected: list[str]) -> None:
    assert sorted(item["name"] for item in listed(cloud_client, query)) == expected


def test_an_unknown_filter_is_named(cloud_client: Any) -> None:
    response = cloud_client.get(f"{V2}/networks?colour=red", as_="demo")
    assert response.status_code == 400 and "colour" in response.json()["NeutronError"]["message"]


def test_sorting(cloud_client: Any, names: list[str]) -> None:
    assert [item["name"] for item in listed(cloud_client, "sort_key=mtu&sort_dir=asc")] == names[::-1]
    found = listed(cloud_client, "sort_key=description&sort_dir=desc&sort_key=name&sort_dir=desc")
    assert [item["name"] for item in found] == ["n6", "n4", "n2", "n0", "n5", "n3", "n1"]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
def test_pages_hold_everything_once_in_both_directions(cloud_client: Any, names: list[str], limit: int) -> None:
    seen: list[str] = []
    url = f"{V2}/networks?limit={limit}&sort_key=name&sort_dir=asc"
    pages = 0
    for _ in range(10):
        body = cloud_client.get(url, as_="demo").json()
        seen += [item["name"] for item in body["networks"]]
        pages += 1
        links = {link["rel"]: link["href"] for link in body.get("networks_links", [])}
        if "next" not in links:
            break
        url = links["next"].removeprefix("http://cloud.test")
    assert seen == names and pages == -(-7 // limit)
    back: list[str] = []
    while "previous" in links:
        body = cloud_client.get(links["previous"].removeprefix("http://cloud.test"), as_="demo").json()
        back = [item["name"] for item in body["networks"]] + back
        links = {link["rel"]: link["href"] for link in body.get("networks_links", [])}
    assert back == names[: len(back)] and len(back) + len(cloud_client.get(url, as_="demo").json()["networks"]) == 7


def test_only_the_fields_asked_for(cloud_client: Any, names: list[str]) -> None:
    assert listed(cloud_client, "fields=name&fields=mtu&name=n1") == [{"name": "n1", "mtu": 1449}]
    wanted = listed(cloud_client, "name=n1")[0]["id"]
    assert cloud_client.get(f"{V2}/networks/{wanted}?fields=id", as_="demo").json() == {"network": {"id": wanted}}


def test_several_at_once_are_all_or_nothing(cloud_client: Any) -> None:
    response = cloud_client.post(f"{V2}/networks", {"networks": [{"name": "good"}, {"name": "bad", "mtu": 90000}]}, as_="demo")
    assert response.status_code == 400
    net = cloud_client.post(f"{V2}/networks", {"network": {}}, as_="demo").json()["network"]["id"]
    response = cloud_client.post(f"{V2}/subnets", {"subnets": [
        {"network_id": net, "ip_version": 4, "cidr": "10.0.0.0/24"}, {"network_id": net, "ip_version": 4, "cidr": "10.0.0.128/25"}]},
        as_="demo")
    assert response.status_code == 400 and "overlaps with another subnet" in response.text
    assert listed(cloud_client, "", "subnets", "subnets") == []


def test_ports_by_address(cloud_client: Any) -> None:
    net = cloud_client.post(f"{V2}/networks", {"network": {}}, as_="demo").json()["network"]["id"]
    sub = cloud_client.post(f"{V2}/subnets", {"subnet": {"network_id": net, "ip_version": 4, "cidr": "10.77.0.0/24"}}, as_="demo").json()
    for last in (11, 12, 21):
        body = {"port": {"network_id": net, "name": f"p{last}", "fixed_ips": [{"ip_address": f"10.77.0.{last}"}]}}
        assert cloud_client.post(f"{V2}/ports", body, as_="demo").status_code == 201

    def found(query: str) -> list[str]:
        return sorted(item["name"] for item in listed(cloud_client, query, "ports", "ports"))

    assert found("fixed_ips=ip_address=10.77.0.11") == ["p11"]
    assert found("fixed_ips=ip_address=10.77.0.11&fixed_ips=ip_address=10.77.0.21") == ["p11", "p21"]
    assert found("fixed_ips=ip_address_substr=0.1") == ["p11", "p12"]
    assert found(f"fixed_ips=subnet_id={sub['subnet']['id']}") == ["p11", "p12", "p21"]
    assert found("fixed_ips=subnet_id=other") == []
    assert found("fixed_ips=ip_address=10.77.0.11&fixed_ips=subnet_id=other") == []


def test_tags(cloud_client: Any, names: list[str]) -> None:
    wanted = listed(cloud_client, "name=n1")[0]["id"]
    root = f"{V2}/networks/{wanted}/tags"
    assert cloud_client.put(root, {"tags": ["red", "blue", "red"]}, as_="demo").json() == {"tags": ["red", "blue"]}
    assert cloud_client.put(f"{root}/green", as_="demo").status_code == 201
    assert cloud_client.get(f"{root}/green", as_="demo").status_code == 204
    assert cloud_client.get(f"{root}/white", as_="demo").status_code == 404
    assert cloud_client.delete(f"{root}/white", as_="demo").status_code == 404
    assert cloud_client.delete(f"{root}/blue", as_="demo").status_code == 204
    assert cloud_client.get(root, as_="demo").json() == {"tags": ["red", "green"]}
    assert [item["name"] for item in listed(cloud_client, "tags=red,green")] == ["n1"]
    assert listed(cloud_client, "tags=red,white") == []
    assert [item["name"] for item in listed(cloud_client, "tags-any=red,white")] == ["n1"]
    assert len(listed(cloud_client, "not-tags=red,green")) == 6 and len(listed(cloud_client, "not-tags-any=red")) == 6
    assert cloud_client.delete(root, as_="demo").status_code == 204
    assert listed(cloud_client, "name=n1")[0]["tags"] == []


def test_revisions(cloud_client: Any, names: list[str]) -> None:
    net = listed(cloud_client, "name=n1")[0]
    path = f"{V2}/networks/{net['id']}"
    changed = cloud_client.put(path, {"network": {"name": "x"}}, as_="demo", headers={"If-Match": "revision_number=1"}).json()["network"]
    assert (net["revision_number"], changed["revision_number"]) == (1, 2)
    stale = cloud_client.put(path, {"network": {"name": "y"}}, as_="demo", headers={"If-Match": "revision_number=1"})
    assert stale.status_code == 412 and stale.json()["NeutronError"]["type"] == "RevisionNumberConstraintFailed"
    assert cloud_client.delete(path, as_="demo", headers={"If-Match": "revision_number=1"}).status_code == 412
    assert cloud_client.delete(path, as_="demo", headers={"If-Match": "nonsense"}).status_code == 400
    assert cloud_client.delete(path, as_="demo", headers={"If-Match": "revision_number=2"}).status_code == 204


def test_versions_and_extensions(cloud_client: Any) -> None:
    versions = cloud_client.get("/network/", as_=None).json()["versions"]
    assert versions == [{"id": "v2.0", "status": "CURRENT", "links": [{"rel": "self", "href": "http://cloud.test/network/v2.0/"}]}]
    names = {item["name"] for item in cloud_client.get(f"{V2}/").json()["resources"]}
    assert {"network", "subnet", "port"} <= names
    aliases = {item["alias"] for item in cloud_client.get(f"{V2}/extensions").json()["extensions"]}
    assert {"router", "security-group", "binding-extended"} <= aliases
    assert not aliases & {"dvr", "l3-ha", "trunk", "qos", "metering", "auto-allocated-topology"}
    assert cloud_client.get(f"{V2}/extensions/qos").status_code == 404
    for absent in ("trunks", "qos/policies", "flavors", "auto-allocated-topology/x", "metering/metering-labels"):
        assert cloud_client.get(f"{V2}/{absent}").status_code == 404
    assert cloud_client.get(f"{V2}/networks", as_=None).status_code == 401
