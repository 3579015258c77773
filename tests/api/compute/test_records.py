"""What is on record of servers: migrations, instance actions, external events; and the older calls."""
from __future__ import annotations

from typing import Any

import pytest
from tests.api.compute import rows

ROOT = "/compute/v2.1"


def at(version: str) -> dict[str, str]:
    return {"OpenStack-API-Version": f"compute {version}"}


def numbers(client: Any, query: str = "", version: str = "2.59") -> list[int]:
    answer = client.get(f"{ROOT}/os-migrations{query}", headers=at(version))
    assert answer.status_code == 200, answer.text
    return [move["id"] for move in answer.json()["migrations"]]


def test_migrations_filters_and_pages(cloud_client: Any) -> None:
    rows.hosts(cloud_client)
    rows.server(cloud_client)
    rows.move(cloud_client, 1, status="confirmed")
    rows.move(cloud_client, 2, kind="live-migration", status="running", source="two", dest="one")
    rows.move(cloud_client, 3, server_id="other", updated_at=5e9)
    assert numbers(cloud_client, version="2.1") == [3, 2, 1]
    assert numbers(cloud_client, "?status=confirmed", "2.1") == [1]
    assert numbers(cloud_client, "?migration_type=live-migration") == [2]
    assert numbers(cloud_client, "?instance_uuid=other") == [3]
    assert numbers(cloud_client, "?source_compute=two") == [2] and numbers(cloud_client, "?host=two") == [3, 2, 1]
    assert numbers(cloud_client, "?changes-since=2100-01-01T00:00:00Z") == [3]
    assert numbers(cloud_client, "?changes-before=2100-01-01T00:00:00Z", "2.66") == [2, 1]
    assert numbers(cloud_client, f"?user_id={cloud_client.users['demo']}", "2.80") == [3, 2, 1]
    page = cloud_client.get(f"{ROOT}/os-migrations?limit=2", headers=at("2.59")).json()
    following = page["migrations_links"][0]["href"].removeprefix(f"http://cloud.test{ROOT}/os-migrations")
    assert [move["id"] for move in page["migrations"]] == [3, 2] and numbers(cloud_client, following) == [1]
    for query, version in (("marker=x", "2.59"), ("changes-since=x", "2.59"), ("colour=1", "2.59"),
                           ("user_id=1", "2.59"), ("changes-before=2020-01-01", "2.59"), ("limit=x", "2.59")):
        assert cloud_client.get(f"{ROOT}/os-migrations?{query}", headers=at(version)).status_code == 400


def test_migration_fields_follow_the_microversion(cloud_client: Any) -> None:
    rows.hosts(cloud_client)
    rows.server(cloud_client)
    rows.move(cloud_client, 7, kind="live-migration", status="running")

    def one(version: str) -> dict[str, Any]:
        return dict(cloud_client.get(f"{ROOT}/os-migrations", headers=at(version)).json()["migrations"][0])

    assert one("2.1")["dest_host"] == "192.0.2.2" and "migration_type" not in one("2.1")
    assert one("2.23")["links"][0]["href"].endswith(f"/servers/{rows.SERVER_ID}/migrations/7")
    assert "uuid" in one("2.59") and "project_id" not in one("2.59")
    assert one("2.80")["project_id"] == cloud_client.projects["demo"]


def test_live_migrations_of_a_server(cloud_client: Any) -> None:
    rows.hosts(cloud_client)
    rows.server(cloud_client)
    rows.move(cloud_client, 1, kind="live-migration", status="running")
    rows.move(cloud_client, 2, kind="live-migration", status="completed")
    rows.move(cloud_client, 3)
    path, late = f"{ROOT}/servers/{rows.SERVER_ID}/migrations", at("2.23")
    assert cloud_client.get(path).status_code == 404
    assert cloud_client.get(path, as_="demo", headers=late).status_code == 403
    assert [move["id"] for move in cloud_client.get(path, headers=late).json()["migrations"]] == [1]
    assert cloud_client.get(f"{path}/1", headers=late).json()["migration"]["server_uuid"] == rows.SERVER_ID
    for number in ("2", "3", "9", "x"):
        assert cloud_client.get(f"{path}/{number}", headers=late).status_code == 404
    assert cloud_client.post(f"{path}/1/action", {"force_complete": None}, headers=late).status_code == 400
    assert cloud_client.post(f"{path}/9/action", {"force_complete": None}, headers=late).status_code == 404
    assert cloud_client.delete(f"{path}/9", headers=at("2.24")).status_code == 404
    assert cloud_client.delete(f"{path}/3", headers=at("2.24")).status_code == 400


def test_actions_of_a_server(cloud_client: Any) -> None:
    rows.server(cloud_client)
    made = [rows.action(cloud_client, number, name) for number, name in ((1, "create"), (2, "resize"), (3, "reboot"))]
    path = f"{ROOT}/servers/{rows.SERVER_ID}/os-instance-actions"
    listed = cloud_client.get(path, as_="reader").json()["instanceActions"]
    assert [action["action"] for action in listed] == ["reboot", "resize", "create"]
    assert cloud_client.get(path, as_="other").status_code == 404
    page = cloud_client.get(f"{path}?limit=2", as_="demo", headers=at("2.58")).json()
    assert len(page["instanceActions"]) == 2 and page["links"][0]["rel"] == "next"
    rest = cloud_client.get(page["links"][0]["href"].removeprefix("http://cloud.test"), as_="demo", headers=at("2.58"))
    assert [action["action"] for action in rest.json()["instanceActions"]] == ["create"]
    since = "?changes-since=2999-01-01T00:00:00Z"
    assert cloud_client.get(path + since, as_="demo", headers=at("2.58")).json()["instanceActions"] == []
    for query in ("limit=x", "marker=none", "changes-since=x", "colour=1"):
        assert cloud_client.get(f"{path}?{query}", as_="demo", headers=at("2.58")).status_code == 400
    one = f"{path}/{made[1].request_id}"
    assert "events" not in cloud_client.get(one, as_="demo").json()["instanceAction"]
    events = cloud_client.get(one, as_="demo", headers=at("2.84")).json()["instanceAction"]["events"]
    assert events[0]["event"] == "compute_resize_instance" and events[0]["result"] == "Success"
    assert "host" not in events[0] and "traceback" not in events[0] and len(events[0]["hostId"]) == 56
    assert cloud_client.get(one, headers=at("2.84")).json()["instanceAction"]["events"][0]["host"] == "one"
    assert cloud_client.get(f"{path}/req-none", as_="demo").status_code == 404


def test_actions_outlive_the_server_from_221(cloud_client: Any) -> None:
    rows.server(cloud_client, host=None, vm_state="deleted", deleted_at=cloud_client.env.now())
    rows.action(cloud_client, 1, "delete")
    path = f"{ROOT}/servers/{rows.SERVER_ID}/os-instance-actions"
    assert cloud_client.get(path, as_="demo").status_code == 404
    assert len(cloud_client.get(path, as_="demo", headers=at("2.21")).json()["instanceActions"]) == 1


def event(name: str = "network-vif-plugged", server_id: str = rows.SERVER_ID, **more: Any) -> dict[str, Any]:
    return {"name": name, "server_uuid": server_id, **more}


def test_external_events_are_answered_one_by_one(cloud_client: Any) -> None:
    path = f"{ROOT}/os-server-external-events"
    rows.server(cloud_client)
    homeless = "5e5e5e5e-1111-4222-8333-444444444445"
    rows.server(cloud_client, homeless, host=None)
    taken = cloud_client.post(path, {"events": [event(tag="port-1")]})
    assert taken.status_code == 200
    assert taken.json()["events"] == [{
        "name": "network-vif-plugged", "server_uuid": rows.SERVER_ID, "status": "completed", "tag": "port-1", "code": 200}]
    missing = "5e5e5e5e-1111-4222-8333-444444444446"
    mixed = cloud_client.post(path, {"events": [
        event(), event(server_id=missing), event(server_id=homeless), event("network-vif-deleted")]})
    assert mixed.status_code == 207
    assert [item["code"] for item in mixed.json()["events"]] == [200, 404, 422, 400]
    assert mixed.json()["events"][1]["status"] == "failed"


@pytest.mark.parametrize(("body", "word"), [
    ({}, "events"), ({"events": []}, "events"), ({"events": {}}, "events"), ({"events": [{}]}, "name"),
    ({"events": [event("network-exploded")]}, "name"), ({"events": [event(server_id="x")]}, "server_uuid"),
    ({"events": [event(status="perhaps")]}, "status"), ({"events": [event(colour="red")]}, "colour"),
    ({"events": [event("volume-extended", tag="v")]}, "name"), ({"events": [event(tag=7)]}, "tag"),
])
def test_bad_events_name_the_field(cloud_client: Any, body: Any, word: str) -> None:
    answer = cloud_client.post(f"{ROOT}/os-server-external-events", body)
    assert answer.status_code == 400 and word in answer.json()["badRequest"]["message"]


def test_users_do_not_send_events(cloud_client: Any) -> None:
    rows.server(cloud_client)
    refused = cloud_client.post(f"{ROOT}/os-server-external-events", {"events": [event()]}, as_="demo")
    assert refused.status_code == 403


def test_extensions_audit_log_and_what_needs_block_storage(cloud_client: Any) -> None:
    rows.hosts(cloud_client)
    aliases = [item["alias"] for item in cloud_client.get(f"{ROOT}/extensions", as_="reader").json()["extensions"]]
    assert "os-consoles" in aliases and len(aliases) == len(set(aliases))
    assert cloud_client.get(f"{ROOT}/extensions/none", as_="reader").status_code == 404
    log = cloud_client.get(f"{ROOT}/os-instance_usage_audit_log").json()["instance_usage_audit_logs"]
    assert log["num_hosts"] == 2 and log["hosts_not_run"] == ["one", "two"]
    then = cloud_client.get(f"{ROOT}/os-instance_usage_audit_log/2026-01-01%2010:30:00").json()["instance_usage_audit_log"]
    assert (then["period_beginning"], then["period_ending"]) == ("2026-01-01 09:00:00", "2026-01-01 10:00:00")
    assert cloud_client.get(f"{ROOT}/os-instance_usage_audit_log/never").status_code == 400
    assert cloud_client.get(f"{ROOT}/os-volumes", as_="demo").status_code == 404
    assert cloud_client.post(f"{ROOT}/os-assisted-volume-snapshots", {}).status_code == 400
    assert cloud_client.post(f"{ROOT}/os-assisted-volume-snapshots", {}, as_="demo").status_code == 403


def test_images_in_computes_older_words(cloud_client: Any) -> None:
    fields = {"name": "i", "disk_format": "raw", "container_format": "bare", "min_ram": 64, "colour": "red"}
    image_id = cloud_client.post("/image/v2/images", fields, as_="demo").json()["id"]
    snapshot = {**fields, "name": "snap", "image_type": "snapshot", "instance_uuid": rows.SERVER_ID}
    cloud_client.post("/image/v2/images", snapshot, as_="demo")
    path = f"{ROOT}/images/{image_id}"
    shown = cloud_client.get(path, as_="reader").json()["image"]
    assert (shown["status"], shown["minRam"], shown["metadata"], shown["progress"]) == ("SAVING", 64, {"colour": "red"}, 25)

    def names(query: str) -> list[str]:
        return [image["name"] for image in cloud_client.get(f"{ROOT}/images/detail?{query}", as_="demo").json()["images"]]

    assert names("name=i") == ["i"] and names("type=snapshot") == ["snap"] and names("status=active") == []
    assert names(f"server={rows.SERVER_ID}") == ["snap"] and names("limit=1") == ["snap"]
    assert names("changes-since=2999-01-01T00:00:00Z") == []
    assert cloud_client.get(f"{ROOT}/images?limit=x", as_="demo").status_code == 400
    meta = f"{path}/metadata"
    assert cloud_client.post(meta, {"metadata": {"a": "1"}}, as_="demo").json()["metadata"] == {"colour": "red", "a": "1"}
    assert cloud_client.put(f"{meta}/a", {"meta": {"a": "2"}}, as_="demo").json() == {"meta": {"a": "2"}}
    assert cloud_client.put(f"{meta}/a", {"meta": {"b": "2"}}, as_="demo").status_code == 400
    assert cloud_client.get(f"{meta}/a", as_="demo").json() == {"meta": {"a": "2"}}
    assert cloud_client.delete(f"{meta}/a", as_="reader").status_code == 403
    assert cloud_client.delete(f"{meta}/a", as_="demo").status_code == 204
    assert cloud_client.get(f"{meta}/a", as_="demo").status_code == 404
    assert cloud_client.put(meta, {"metadata": {"only": "this"}}, as_="demo").json()["metadata"] == {"only": "this"}
    assert cloud_client.get(path, as_="demo", headers=at("2.36")).status_code == 404
    assert cloud_client.get(meta, as_="demo", headers=at("2.38")).status_code == 200
    assert cloud_client.get(meta, as_="demo", headers=at("2.39")).status_code == 404
    private = cloud_client.post("/image/v2/images", {"name": "p", "visibility": "private"}, as_="demo").json()["id"]
    assert cloud_client.delete(f"{ROOT}/images/{private}", as_="other").status_code == 404
    assert cloud_client.delete(f"{ROOT}/images/{private}", as_="demo").status_code == 204
    assert cloud_client.delete(f"{ROOT}/images/", as_="demo").status_code == 404
