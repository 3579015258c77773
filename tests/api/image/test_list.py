"""The image list: who sees what, filters, sorting, paging; and sharing, which decides what is listed."""
from __future__ import annotations

from typing import Any

import pytest

OCTETS = {"Content-Type": "application/octet-stream"}


def make(client: Any, as_: str = "demo", size: int | None = None, **attributes: Any) -> str:
    body = {"disk_format": "raw", "container_format": "bare", **attributes}
    made = client.post("/image/v2/images", body, as_=as_)
    assert made.status_code == 201, made.text
    image_id = str(made.json()["id"])
    if size is not None:
        client.put(f"/image/v2/images/{image_id}/file", content=bytes(size), headers=OCTETS, as_=as_)
    return image_id


def names(client: Any, query: str = "", as_: str = "demo") -> list[str]:
    answer = client.get(f"/image/v2/images{query}", as_=as_)
    assert answer.status_code == 200, answer.text
    return [image["name"] for image in answer.json()["images"]]


def test_visibility(cloud_client: Any) -> None:
    make(cloud_client, name="mine-private", visibility="private")
    make(cloud_client, name="mine-shared")
    make(cloud_client, as_="other", name="their-private", visibility="private")
    make(cloud_client, as_="other", name="their-community", visibility="community")
    make(cloud_client, as_="admin", name="open", visibility="public")
    make(cloud_client, name="mine-hidden", os_hidden=True)
    assert set(names(cloud_client)) == {"mine-private", "mine-shared", "open"}
    assert set(names(cloud_client, as_="reader")) == {"mine-private", "mine-shared", "open"}
    assert set(names(cloud_client, "?visibility=community")) == {"their-community"}
    assert set(names(cloud_client, "?visibility=all")) == {"mine-private", "mine-shared", "open", "their-community"}
    assert set(names(cloud_client, "?visibility=private")) == {"mine-private"}
    assert set(names(cloud_client, "?os_hidden=true")) == {"mine-hidden"}
    assert set(names(cloud_client, as_="admin")) == {"mine-private", "mine-shared", "their-private", "open"}


def test_filters(cloud_client: Any) -> None:
    make(cloud_client, name="small", size=100, tags=["t"], colour="red")
    make(cloud_client, name="big", size=900, disk_format="qcow2", min_ram=64)
    make(cloud_client, name="a,b", protected=True)
    assert names(cloud_client, "?name=small") == ["small"]
    assert names(cloud_client, "?status=active&sort=name:asc") == ["big", "small"]
    assert names(cloud_client, "?status=queued") == ["a,b"]
    assert names(cloud_client, "?size_min=101") == ["big"]
    assert names(cloud_client, "?size_max=100") == ["small"]
    assert names(cloud_client, "?size=900") == ["big"]
    assert names(cloud_client, "?tag=t") == ["small"]
    assert names(cloud_client, "?tag=t&tag=u") == []
    assert names(cloud_client, "?colour=red") == ["small"]
    assert names(cloud_client, "?colour=blue") == []
    assert names(cloud_client, "?disk_format=qcow2") == ["big"]
    assert names(cloud_client, "?disk_format=in:qcow2,vmdk") == ["big"]
    assert names(cloud_client, '?name=in:"a,b",small&sort_key=name&sort_dir=asc') == ["a,b", "small"]
    assert names(cloud_client, "?protected=true") == ["a,b"]
    assert names(cloud_client, "?min_ram=64") == ["big"]
    assert names(cloud_client, f"?owner={cloud_client.projects['other']}") == []
    assert len(names(cloud_client, "?created_at=gt:2001-01-01T00:00:00Z")) == 3
    assert names(cloud_client, "?created_at=lt:2001-01-01T00:00:00Z") == []
    assert names(cloud_client, "?updated_at=gte:2999-01-01") == []


@pytest.mark.parametrize(("query", "word"), [
    ("limit=-1", "limit"), ("limit=x", "limit"), ("marker=none", "marker"), ("sort=colour", "colour"),
    ("sort=name:up", "up"), ("sort_key=nothing", "nothing"), ("sort_dir=up", "up"), ("size_min=x", "size_min"),
    ("visibility=secret", "visibility"), ("member_status=maybe", "member_status"), ("os_hidden=perhaps", "os_hidden"),
    ("created_at=gt:yesterday", "created_at"), ("created_at=near:2020-01-01", "near"), ("name=in:", "name"),
    ('name=in:"a', "name"), ("sort=name&sort_key=size", "sort"), ("sort_key=name&sort_dir=asc&sort_dir=asc", "sort_dir"),
])
def test_bad_queries_name_the_parameter(cloud_client: Any, query: str, word: str) -> None:
    answer = cloud_client.get(f"/image/v2/images?{query}", as_="demo")
    assert answer.status_code == 400
    assert word in answer.json()["message"]


def test_sorting(cloud_client: Any) -> None:
    for name, size in (("b", 300), ("a", 100), ("c", 200)):
        make(cloud_client, name=name, size=size)
    make(cloud_client, name="empty")
    assert names(cloud_client, "?sort=name:asc") == ["a", "b", "c", "empty"]
    assert names(cloud_client, "?sort=size:desc") == ["b", "c", "a", "empty"]
    assert names(cloud_client, "?sort_key=size&sort_dir=asc") == ["empty", "a", "c", "b"]
    assert names(cloud_client, "?sort=status:asc,name:desc") == ["c", "b", "a", "empty"]


def test_paging_walks_every_image_once(cloud_client: Any) -> None:
    for number in range(7):
        make(cloud_client, name=f"n{number}")
    path, seen, pages = "/image/v2/images?limit=3&sort=name:asc", [], 0
    while path:
        page = cloud_client.get(path, as_="demo").json()
        seen += [image["name"] for image in page["images"]]
        pages += 1
        assert page["first"] == "/v2/images?limit=3&sort=name%3Aasc"
        path = f"/image{page['next']}" if "next" in page else ""
    assert seen == [f"n{number}" for number in range(7)] and pages == 3
    assert names(cloud_client, "?limit=0") == []


def test_default_page_holds_25(cloud_client: Any) -> None:
    for number in range(26):
        make(cloud_client, name=f"n{number}")
    page = cloud_client.get("/image/v2/images", as_="demo").json()
    assert len(page["images"]) == 25 and page["next"].startswith("/v2/images?marker=")


def test_sharing(cloud_client: Any) -> None:
    image_id = make(cloud_client, name="offered")
    other = cloud_client.projects["other"]
    members = f"/image/v2/images/{image_id}/members"
    assert cloud_client.post(members, {"member": other}, as_="other").status_code == 404
    made = cloud_client.post(members, {"member": other}, as_="demo")
    assert made.status_code == 200
    assert made.json()["status"] == "pending" and made.json()["image_id"] == image_id
    assert cloud_client.post(members, {"member": other}, as_="demo").status_code == 409
    assert names(cloud_client, as_="other") == []
    assert names(cloud_client, "?visibility=shared&member_status=pending", as_="other") == ["offered"]
    assert names(cloud_client, "?visibility=shared&member_status=all", as_="other") == ["offered"]
    assert cloud_client.get(f"/image/v2/images/{image_id}", as_="other").status_code == 200
    one = f"{members}/{other}"
    assert cloud_client.put(one, {"status": "accepted"}, as_="demo").status_code == 403
    assert cloud_client.put(one, {"status": "perhaps"}, as_="other").status_code == 400
    assert cloud_client.put(one, {"status": "accepted"}, as_="other").json()["status"] == "accepted"
    assert names(cloud_client, as_="other") == ["offered"]
    assert cloud_client.delete(f"/image/v2/images/{image_id}", as_="other").status_code == 403
    assert [item["member_id"] for item in cloud_client.get(members, as_="demo").json()["members"]] == [other]
    assert [item["member_id"] for item in cloud_client.get(members, as_="other").json()["members"]] == [other]
    assert cloud_client.get(one, as_="reader").json()["status"] == "accepted"
    assert cloud_client.delete(one, as_="other").status_code == 403
    assert cloud_client.delete(one, as_="demo").status_code == 204
    assert names(cloud_client, as_="other") == []
    assert cloud_client.get(f"/image/v2/images/{image_id}", as_="other").status_code == 404
    assert cloud_client.delete(one, as_="demo").status_code == 404


def test_only_shared_images_have_members(cloud_client: Any) -> None:
    members = f"/image/v2/images/{make(cloud_client, visibility='private')}/members"
    assert cloud_client.post(members, {"member": "p"}, as_="demo").status_code == 403
    shared = f"/image/v2/images/{make(cloud_client)}/members"
    assert cloud_client.post(shared, {"member": "p"}, as_="reader").status_code == 403
    bad = cloud_client.post(shared, {"member": 7}, as_="demo")
    assert bad.status_code == 400 and "member" in bad.json()["message"]
