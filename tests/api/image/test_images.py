"""Image records: create, show, change, delete, tags, deactivation, and who may."""
from __future__ import annotations

from typing import Any

import pytest

V21 = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
V20 = {"Content-Type": "application/openstack-images-v2.0-json-patch"}


def make(client: Any, as_: str = "demo", **attributes: Any) -> dict[str, Any]:
    made = client.post("/image/v2/images", attributes, as_=as_)
    assert made.status_code == 201, made.text
    return dict(made.json())


def test_versions_documents(cloud_client: Any) -> None:
    root = cloud_client.get("/image", as_=None)
    assert root.status_code == 300
    listed = cloud_client.get("/image/versions", as_=None)
    assert listed.status_code == 200
    versions = listed.json()["versions"]
    assert versions[0] == {"id": "v2.12", "status": "CURRENT",
                           "links": [{"rel": "self", "href": "http://cloud.test/image/v2/"}]}
    assert versions[-1]["id"] == "v2.0"


def test_create_shows_defaults_and_properties(cloud_client: Any) -> None:
    made = cloud_client.post("/image/v2/images", {"name": "n", "os_distro": "virga", "tags": ["b", "a", "b"]}, as_="demo")
    assert made.headers["OpenStack-image-import-methods"] == "glance-direct"
    image = made.json()
    assert made.headers["Location"].endswith(f"/image/v2/images/{image['id']}")
    assert image["status"] == "queued"
    assert image["visibility"] == "shared"
    assert image["owner"] == cloud_client.projects["demo"]
    assert image["os_distro"] == "virga"
    assert image["tags"] == ["a", "b"]
    assert image["size"] is None and image["checksum"] is None
    assert image["min_disk"] == 0 and image["protected"] is False and image["os_hidden"] is False
    assert image["file"] == f"/v2/images/{image['id']}/file"
    assert cloud_client.get(f"/image/v2/images/{image['id']}", as_="reader").json() == image


def test_id_may_be_given_once_and_for_ever(cloud_client: Any) -> None:
    image_id = "11111111-2222-4333-8444-555555555555"
    make(cloud_client, id=image_id)
    assert cloud_client.post("/image/v2/images", {"id": image_id}, as_="demo").status_code == 409
    assert cloud_client.delete(f"/image/v2/images/{image_id}", as_="demo").status_code == 204
    assert cloud_client.post("/image/v2/images", {"id": image_id}, as_="demo").status_code == 409
    assert cloud_client.get(f"/image/v2/images/{image_id}", as_="demo").status_code == 404


@pytest.mark.parametrize(("body", "status", "word"), [
    ([], 400, "object"),
    ({"name": 7}, 400, "name"),
    ({"name": "x" * 256}, 400, "name"),
    ({"disk_format": "floppy"}, 400, "disk_format"),
    ({"container_format": "crate"}, 400, "container_format"),
    ({"visibility": "secret"}, 400, "visibility"),
    ({"min_disk": -1}, 400, "min_disk"),
    ({"min_ram": True}, 400, "min_ram"),
    ({"protected": "yes"}, 400, "protected"),
    ({"tags": "one"}, 400, "tags"),
    ({"id": "no-uuid"}, 400, "id"),
    ({"colour": {"r": 1}}, 400, "colour"),
    ({"colour": None}, 400, "colour"),
    ({"": "x"}, 400, "name"),
    ({"status": "active"}, 403, "status"),
    ({"size": 5}, 403, "size"),
    ({"locations": []}, 403, "locations"),
    ({"os_glance_x": "1"}, 403, "os_glance_x"),
    ({"visibility": "public"}, 403, "public"),
    ({"owner": "someone-else"}, 403, "someone-else"),
    ({"tags": [str(number) for number in range(200)]}, 413, "tags"),
    ({f"p{number}": "x" for number in range(200)}, 413, "properties"),
])
def test_bad_create_names_the_attribute(cloud_client: Any, body: Any, status: int, word: str) -> None:
    answer = cloud_client.post("/image/v2/images", body, as_="demo")
    assert answer.status_code == status
    assert word in answer.json()["message"]


def test_reader_cannot_write(cloud_client: Any) -> None:
    image = make(cloud_client, name="n")
    path = f"/image/v2/images/{image['id']}"
    assert cloud_client.post("/image/v2/images", {"name": "n"}, as_="reader").status_code == 403
    assert cloud_client.patch(path, [], headers=V21, as_="reader").status_code == 403
    assert cloud_client.put(f"{path}/tags/t", as_="reader").status_code == 403
    assert cloud_client.post(f"{path}/actions/deactivate", as_="reader").status_code == 403
    assert cloud_client.delete(path, as_="reader").status_code == 403
    assert cloud_client.get(path, as_="reader").status_code == 200


def test_other_project_sees_nothing_but_the_public(cloud_client: Any) -> None:
    private = make(cloud_client, visibility="private")
    public = make(cloud_client, as_="admin", visibility="public")
    path = f"/image/v2/images/{private['id']}"
    for answer in (cloud_client.get(path, as_="other"), cloud_client.delete(path, as_="other"),
                   cloud_client.patch(path, [], headers=V21, as_="other"), cloud_client.get(path + "/file", as_="other")):
        assert answer.status_code == 404
    assert cloud_client.get(f"/image/v2/images/{public['id']}", as_="other").status_code == 200
    assert cloud_client.delete(f"/image/v2/images/{public['id']}", as_="other").status_code == 403
    assert cloud_client.get(path, as_="admin").status_code == 200


def test_admin_chooses_an_owner(cloud_client: Any) -> None:
    image = make(cloud_client, as_="admin", owner="p1")
    assert image["owner"] == "p1"
    path = f"/image/v2/images/{image['id']}"
    changed = cloud_client.patch(path, [{"replace": "/owner", "value": "p2"}], headers=V20)
    assert changed.json()["owner"] == "p2"
    own = make(cloud_client)
    refused = cloud_client.patch(f"/image/v2/images/{own['id']}", [{"replace": "/owner", "value": "p2"}], headers=V20,
                                 as_="demo")
    assert refused.status_code == 403


def test_patch_in_both_dialects(cloud_client: Any) -> None:
    path = f"/image/v2/images/{make(cloud_client, name='old', colour='red')['id']}"
    changed = cloud_client.patch(path, [
        {"op": "replace", "path": "/name", "value": "new"}, {"op": "add", "path": "/colour", "value": "blue"},
        {"op": "add", "path": "/a~1b", "value": "slash"}, {"op": "replace", "path": "/tags", "value": ["t"]},
    ], headers=V21, as_="demo")
    assert changed.status_code == 200, changed.text
    image = changed.json()
    assert (image["name"], image["colour"], image["a/b"], image["tags"]) == ("new", "blue", "slash", ["t"])
    again = cloud_client.patch(path, [{"add": "/colour", "value": "green"}], headers=V20, as_="demo")
    assert again.status_code == 409
    gone = cloud_client.patch(path, [{"remove": "/colour"}], headers=V20, as_="demo")
    assert "colour" not in gone.json()


def test_patch_bears_with_the_sdk_taking_stores_for_a_property(cloud_client: Any) -> None:
    path = f"/image/v2/images/{make(cloud_client)['id']}"
    changes = [{"op": "add", "path": "/foo", "value": "bar"}, {"op": "remove", "path": "/stores"}]
    assert cloud_client.patch(path, changes, headers=V21, as_="demo").json()["foo"] == "bar"
    changes = [{"op": "replace", "path": "/stores", "value": "moon"}]
    assert cloud_client.patch(path, changes, headers=V21, as_="demo").status_code == 403


@pytest.mark.parametrize(("change", "status", "word"), [
    ({"op": "replace", "path": "/nothing", "value": "x"}, 409, "nothing"),
    ({"op": "remove", "path": "/nothing"}, 409, "nothing"),
    ({"op": "remove", "path": "/name"}, 403, "name"),
    ({"op": "replace", "path": "/id", "value": "x"}, 403, "id"),
    ({"op": "replace", "path": "/status", "value": "active"}, 403, "status"),
    ({"op": "replace", "path": "/checksum", "value": "x"}, 403, "checksum"),
    ({"op": "add", "path": "/locations/-", "value": {}}, 403, "locations"),
    ({"op": "add", "path": "/os_glance_x", "value": "x"}, 403, "os_glance_x"),
    ({"op": "replace", "path": "/visibility", "value": "public"}, 403, "public"),
    ({"op": "replace", "path": "/min_ram", "value": "much"}, 400, "min_ram"),
    ({"op": "add", "path": "/x"}, 400, "value"),
    ({"op": "move", "path": "/x", "value": "1"}, 400, "op"),
    ({"op": "add", "path": "x", "value": "1"}, 400, "path"),
    ({"op": "add", "path": "/x/y", "value": "1"}, 400, "/x/y"),
    ("x", 400, "objects"),
])
def test_bad_patch(cloud_client: Any, change: Any, status: int, word: str) -> None:
    path = f"/image/v2/images/{make(cloud_client, name='n')['id']}"
    answer = cloud_client.patch(path, [change], headers=V21, as_="demo")
    assert answer.status_code == status
    assert word in answer.json()["message"]


def test_patch_wants_its_media_type(cloud_client: Any) -> None:
    path = f"/image/v2/images/{make(cloud_client)['id']}"
    answer = cloud_client.patch(path, [], as_="demo")
    assert answer.status_code == 415
    assert "v2.1" in answer.headers["Accept-Patch"]
    assert cloud_client.patch(path, {}, headers=V21, as_="demo").status_code == 400


def test_protected_image_stays(cloud_client: Any) -> None:
    path = f"/image/v2/images/{make(cloud_client, protected=True)['id']}"
    assert cloud_client.delete(path, as_="demo").status_code == 403
    cloud_client.patch(path, [{"replace": "/protected", "value": False}], headers=V20, as_="demo")
    assert cloud_client.delete(path, as_="demo").status_code == 204
    assert cloud_client.delete(path, as_="demo").status_code == 404


def test_empty_id_is_not_found(cloud_client: Any) -> None:
    assert cloud_client.get("/image/v2/images/").status_code == 404
    assert cloud_client.delete("/image/v2/images/").status_code == 404


def test_tags(cloud_client: Any) -> None:
    path = f"/image/v2/images/{make(cloud_client)['id']}"
    assert cloud_client.put(f"{path}/tags/blue", as_="demo").status_code == 204
    assert cloud_client.put(f"{path}/tags/blue", as_="demo").status_code == 204
    assert cloud_client.get(path, as_="demo").json()["tags"] == ["blue"]
    assert cloud_client.delete(f"{path}/tags/red", as_="demo").status_code == 404
    assert cloud_client.delete(f"{path}/tags/blue", as_="demo").status_code == 204
    assert cloud_client.put(f"{path}/tags/{'x' * 256}", as_="demo").status_code == 400


def test_schemas(cloud_client: Any) -> None:
    for name in ("image", "images", "member", "members", "task", "tasks"):
        schema = cloud_client.get(f"/image/v2/schemas/{name}", as_="reader")
        assert schema.json()["name"] == name
    properties = cloud_client.get("/image/v2/schemas/image").json()["properties"]
    assert properties.keys() >= make(cloud_client).keys()
    assert properties["status"]["readOnly"] is True
    assert cloud_client.get("/image/v2/schemas/none").status_code == 404
