"""Image bytes: upload, checksums, ranges, broken uploads, staging and import."""
from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest

from virga.domain.image import Image

OCTETS = {"Content-Type": "application/octet-stream"}
V20 = {"Content-Type": "application/openstack-images-v2.0-json-patch"}
DATA = bytes(range(256)) * 20


def make(client: Any, as_: str = "demo", **attributes: Any) -> str:
    body = {"disk_format": "raw", "container_format": "bare", **attributes}
    made = client.post("/image/v2/images", body, as_=as_)
    assert made.status_code == 201, made.text
    return f"/image/v2/images/{made.json()['id']}"


def upload(client: Any, path: str, data: bytes = DATA, as_: str = "demo") -> Any:
    return client.put(f"{path}/file", content=data, headers=OCTETS, as_=as_)


def test_upload_then_download(cloud_client: Any) -> None:
    path = make(cloud_client)
    assert cloud_client.get(f"{path}/file", as_="demo").status_code == 204
    assert upload(cloud_client, path).status_code == 204
    image = cloud_client.get(path, as_="demo").json()
    assert image["status"] == "active"
    assert image["size"] == image["virtual_size"] == len(DATA)
    assert image["checksum"] == hashlib.md5(DATA).hexdigest()
    assert (image["os_hash_algo"], image["os_hash_value"]) == ("sha512", hashlib.sha512(DATA).hexdigest())
    assert image["stores"] == "files"
    got = cloud_client.get(f"{path}/file", as_="demo")
    assert got.content == DATA
    assert got.headers["Content-MD5"] == image["checksum"]
    assert got.headers["Content-Length"] == str(len(DATA))
    assert got.headers["Content-Type"] == "application/octet-stream"
    head = cloud_client.head(f"{path}/file", as_="demo")
    assert head.headers["Content-Length"] == str(len(DATA)) and head.content == b""


@pytest.mark.parametrize(("asked", "first", "last"), [
    ("bytes=0-9", 0, 9), ("bytes=100-", 100, 5119), ("bytes=-7", 5113, 5119), ("bytes=5000-9999", 5000, 5119)])
def test_ranges(cloud_client: Any, asked: str, first: int, last: int) -> None:
    path = make(cloud_client)
    upload(cloud_client, path)
    got = cloud_client.get(f"{path}/file", headers={"Range": asked}, as_="demo")
    assert got.status_code == 206
    assert got.content == DATA[first:last + 1]
    assert got.headers["Content-Range"] == f"bytes {first}-{last}/{len(DATA)}"


def test_bad_ranges(cloud_client: Any) -> None:
    path = make(cloud_client)
    upload(cloud_client, path)
    outside = cloud_client.get(f"{path}/file", headers={"Range": "bytes=9999-"}, as_="demo")
    assert outside.status_code == 416 and outside.headers["Content-Range"] == f"bytes */{len(DATA)}"
    assert cloud_client.get(f"{path}/file", headers={"Range": "lines=1-2"}, as_="demo").status_code == 400


def test_upload_refusals(cloud_client: Any) -> None:
    bare = cloud_client.post("/image/v2/images", {"name": "n"}, as_="demo").json()["id"]
    refused = upload(cloud_client, f"/image/v2/images/{bare}")
    assert refused.status_code == 400 and "disk_format" in refused.json()["message"]
    path = make(cloud_client)
    assert cloud_client.put(f"{path}/file", {"not": "octets"}, as_="demo").status_code == 415
    assert upload(cloud_client, path, as_="other").status_code == 404
    assert upload(cloud_client, path, as_="reader").status_code == 403
    upload(cloud_client, path)
    assert upload(cloud_client, path).status_code == 409


def test_formats_are_fixed_once_there_is_data(cloud_client: Any) -> None:
    path = make(cloud_client)
    upload(cloud_client, path)
    changed = cloud_client.patch(path, [{"replace": "/disk_format", "value": "qcow2"}], headers=V20, as_="demo")
    assert changed.status_code == 403


def test_qcow2_tells_its_virtual_size(cloud_client: Any) -> None:
    path = make(cloud_client, disk_format="qcow2")
    header = b"QFI\xfb" + (3).to_bytes(4, "big") + bytes(16) + (5 << 30).to_bytes(8, "big")
    upload(cloud_client, path, header + bytes(1000))
    assert cloud_client.get(path, as_="demo").json()["virtual_size"] == 5 << 30
    lying = make(cloud_client, disk_format="qcow2")
    upload(cloud_client, lying, b"no header")
    assert cloud_client.get(lying, as_="demo").json()["virtual_size"] is None


@pytest.mark.parametrize("size", [(1 << 60) + 1, (1 << 64) - 1])
def test_a_qcow2_header_that_cannot_be_true_is_refused_and_leaves_nothing(cloud_client: Any, size: int) -> None:
    damaged = b"QFI\xfb" + (3).to_bytes(4, "big") + bytes(16) + size.to_bytes(8, "big") + bytes(1000)
    path = make(cloud_client, disk_format="qcow2")
    image_id = path.rpartition("/")[2]
    refused = cloud_client.put(f"{path}/file", content=damaged, headers=OCTETS, as_="demo")
    assert refused.status_code == 400 and str(size) in refused.text and "damaged" in refused.text
    assert cloud_client.put(f"{path}/stage", content=damaged, headers=OCTETS, as_="demo").status_code == 400
    image = cloud_client.get(path, as_="demo").json()
    assert image["status"] == "queued" and image["size"] is None
    assert not cloud_client.cloud.blobs.exists(image_id) and not cloud_client.cloud.blobs.exists(f"{image_id}-staged")
    assert upload(cloud_client, path).status_code == 204


def test_too_large_is_413_and_leaves_the_image_queued(cloud_client: Any) -> None:
    import msgspec

    client = cloud_client
    client.cloud.config = msgspec.structs.replace(client.cloud.config, image_size_max_bytes=1000)
    path = make(client)
    assert upload(client, path).status_code == 413
    assert client.get(path, as_="demo").json()["status"] == "queued"

    async def parts() -> Any:  # no Content-Length: the limit is met on the way
        for _ in range(4):
            yield bytes(500)

    async def send() -> Any:
        return await client.http.put(f"{path}/file", content=parts(), headers={
            **OCTETS, "X-Auth-Token": client.tokens["demo"]})

    assert client.run(send()).status_code == 413
    image = client.get(path, as_="demo").json()
    assert image["status"] == "queued" and image["size"] is None
    assert not client.cloud.blobs.exists(image["id"])
    assert upload(client, path, bytes(900)).status_code == 204


def test_broken_upload_leaves_the_image_queued(cloud_client: Any) -> None:
    path = make(cloud_client)
    image_id = path.rpartition("/")[2]
    scope = {
        "type": "http", "method": "PUT", "path": f"{path}/file", "query_string": b"", "server": ("cloud.test", 80),
        "scheme": "http", "headers": [
            (b"host", b"cloud.test"), (b"content-type", b"application/octet-stream"),
            (b"x-auth-token", cloud_client.tokens["demo"].encode())]}
    messages = [{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        await asyncio.sleep(0)
        return messages.pop(0)

    async def send(message: Any) -> None:
        pass

    cloud_client.run(cloud_client.door(scope, receive, send))
    assert cloud_client.get(path, as_="demo").json()["status"] == "queued"
    assert not cloud_client.cloud.blobs.exists(image_id)
    assert upload(cloud_client, path).status_code == 204


def test_deleted_during_upload_is_410(cloud_client: Any) -> None:
    path = make(cloud_client)
    image_id = path.rpartition("/")[2]

    async def parts() -> Any:
        yield b"first"
        deleted = await cloud_client.http.delete(path, headers={"X-Auth-Token": cloud_client.tokens["demo"]})
        assert deleted.status_code == 204
        yield b"second"

    async def send() -> Any:
        return await cloud_client.http.put(f"{path}/file", content=parts(), headers={
            **OCTETS, "X-Auth-Token": cloud_client.tokens["demo"]})

    assert cloud_client.run(send()).status_code == 410
    assert not cloud_client.cloud.blobs.exists(image_id)


def test_delete_takes_the_bytes(cloud_client: Any) -> None:
    path = make(cloud_client)
    upload(cloud_client, path)
    image_id = path.rpartition("/")[2]
    assert cloud_client.cloud.blobs.exists(image_id)
    cloud_client.delete(path, as_="demo")
    assert not cloud_client.cloud.blobs.exists(image_id)


def test_deactivated_image_keeps_its_bytes_to_itself(cloud_client: Any) -> None:
    path = make(cloud_client)
    queued = cloud_client.post(f"{path}/actions/deactivate", as_="demo")
    assert queued.status_code == 403
    upload(cloud_client, path)
    assert cloud_client.post(f"{path}/actions/deactivate", as_="demo").status_code == 204
    assert cloud_client.get(path, as_="demo").json()["status"] == "deactivated"
    assert cloud_client.get(f"{path}/file", as_="demo").status_code == 403
    assert cloud_client.post(f"{path}/actions/reactivate", as_="demo").status_code == 204
    assert cloud_client.get(f"{path}/file", as_="demo").content == DATA


def stage(client: Any, path: str) -> Any:
    return client.put(f"{path}/stage", content=DATA, headers=OCTETS, as_="demo")


DIRECT = {"method": {"name": "glance-direct"}}


def test_stage_and_import(cloud_client: Any) -> None:
    path = make(cloud_client)
    image_id = path.rpartition("/")[2]
    assert cloud_client.post(f"{path}/import", DIRECT, as_="demo").status_code == 409
    assert stage(cloud_client, path).status_code == 204
    assert cloud_client.get(path, as_="demo").json()["status"] == "uploading"
    asked = cloud_client.post(f"{path}/import", DIRECT, as_="demo")
    assert asked.status_code == 202
    image = cloud_client.wait(
        lambda: (found := cloud_client.get(path, as_="demo").json())["status"] == "active" and found)
    assert image["checksum"] == hashlib.md5(DATA).hexdigest()
    assert cloud_client.get(f"{path}/file", as_="demo").content == DATA
    cloud_client.wait(lambda: not cloud_client.cloud.blobs.exists(f"{image_id}-staged"))
    tasks = cloud_client.get(f"{path}/tasks", as_="demo").json()["tasks"]
    assert len(tasks) == 1
    assert tasks[0]["status"] == "success"
    assert tasks[0]["request_id"] == asked.headers["x-openstack-request-id"]
    assert tasks[0]["input"]["import_req"]["method"]["name"] == "glance-direct"
    assert cloud_client.get("/image/v2/tasks", as_="demo").status_code == 403
    listed = cloud_client.get("/image/v2/tasks").json()["tasks"]
    assert [task["id"] for task in listed] == [tasks[0]["id"]] and "input" not in listed[0]
    assert cloud_client.get(f"/image/v2/tasks/{tasks[0]['id']}").json()["result"] == {"image_id": image_id}


def test_import_of_lost_bytes_fails_plainly(cloud_client: Any) -> None:
    path = make(cloud_client)
    stage(cloud_client, path)
    cloud_client.run(cloud_client.cloud.blobs.delete(f"{path.rpartition('/')[2]}-staged"))
    assert cloud_client.post(f"{path}/import", DIRECT, as_="demo").status_code == 202
    task = cloud_client.wait(lambda: next(
        (task for task in cloud_client.get(f"{path}/tasks", as_="demo").json()["tasks"]
         if task["status"] != "processing"), None))
    assert task["status"] == "failure" and "cannot be read" in task["message"]
    assert cloud_client.get(path, as_="demo").json()["status"] == "uploading"


@pytest.mark.parametrize(("body", "status", "word"), [
    ([], 400, "method"), ({"method": "x"}, 400, "method"), ({"method": {}}, 400, "name"),
    ({"method": {"name": "web-download", "uri": "http://x.test/"}}, 400, "web"),
    ({"method": {"name": "copy-image"}}, 400, "copy-image"),
    ({"method": {"name": "glance-direct"}, "stores": []}, 400, "stores"),
    ({"method": {"name": "glance-direct"}, "stores": ["moon"]}, 409, "stores"),
    ({"method": {"name": "glance-direct"}, "all_stores": "yes"}, 400, "all_stores"),
])
def test_bad_imports(cloud_client: Any, body: Any, status: int, word: str) -> None:
    path = make(cloud_client)
    stage(cloud_client, path)
    answer = cloud_client.post(f"{path}/import", body, as_="demo")
    assert answer.status_code == status
    assert word in answer.json()["message"]


def test_info(cloud_client: Any) -> None:
    assert cloud_client.get("/image/v2/info/import", as_="demo").json()["import-methods"]["value"] == ["glance-direct"]
    assert [store["id"] for store in cloud_client.get("/image/v2/info/stores", as_="demo").json()["stores"]] == ["files"]


def test_bootstrap_image_is_made_once_and_recovery_mends(cloud_client: Any) -> None:
    from virga.api.image import bootstrap_image, recover_images
    from virga.api.image.bootstrap import tiny_bytes

    first = cloud_client.run(bootstrap_image(cloud_client.cloud, "p"))
    assert cloud_client.run(bootstrap_image(cloud_client.cloud, "p")) == first
    image = cloud_client.get(f"/image/v2/images/{first}", as_="other").json()
    assert (image["name"], image["visibility"], image["status"]) == ("virga-tiny", "public", "active")
    assert image["os_hash_value"] == hashlib.sha512(tiny_bytes()).hexdigest()
    assert tiny_bytes()[510:512] == b"\x55\xaa"

    half, staged = make(cloud_client), make(cloud_client)
    stage(cloud_client, staged)
    cloud_client.run(cloud_client.db.run(lambda tx: tx.update(Image, half.rpartition("/")[2], status="saving")))
    cloud_client.run(cloud_client.db.run(lambda tx: tx.update(Image, staged.rpartition("/")[2], status="importing")))
    assert cloud_client.run(recover_images(cloud_client.cloud)) == 2
    assert cloud_client.get(half, as_="demo").json()["status"] == "queued"
    assert cloud_client.get(staged, as_="demo").json()["status"] == "uploading"
    assert cloud_client.run(recover_images(cloud_client.cloud)) == 0
