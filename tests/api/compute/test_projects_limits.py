"""What projects may use and use: quota sets, quota classes, limits, usage; and server groups, which count."""
from __future__ import annotations

from typing import Any

import pytest
from tests.api.compute import rows

from virga.domain.errors import Problem
from virga.domain.server import FlavorSpec
from virga.store.quota import check_room

ROOT = "/compute/v2.1"


def at(version: str) -> dict[str, str]:
    return {"OpenStack-API-Version": f"compute {version}"}


def quota(client: Any, **how: Any) -> dict[str, Any]:
    answer = client.get(f"{ROOT}/os-quota-sets/{client.projects['demo']}", **how)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["quota_set"])


def test_quota_is_set_seen_and_taken_back(cloud_client: Any) -> None:
    path = f"{ROOT}/os-quota-sets/{cloud_client.projects['demo']}"
    default = cloud_client.get(f"{path}/defaults").json()["quota_set"]
    assert quota(cloud_client, as_="reader") == default
    changed = cloud_client.put(path, {"quota_set": {"cores": "7", "instances": -1}}).json()["quota_set"]
    assert (changed["cores"], changed["instances"]) == (7, -1) and "id" not in changed
    assert quota(cloud_client, as_="demo")["cores"] == 7
    assert cloud_client.delete(path).status_code == 202
    assert quota(cloud_client) == default


def test_quota_names_follow_the_microversion(cloud_client: Any) -> None:
    assert "floating_ips" in quota(cloud_client) and "injected_files" in quota(cloud_client)
    middle, late = quota(cloud_client, headers=at("2.36")), quota(cloud_client, headers=at("2.57"))
    assert "floating_ips" not in middle and "injected_files" in middle
    assert set(late) == {"id", "instances", "cores", "ram", "metadata_items", "key_pairs", "server_groups",
                         "server_group_members"}


@pytest.mark.parametrize(("body", "word"), [
    ({"cores": -2}, "cores"), ({"cores": "many"}, "cores"), ({"cores": None}, "cores"), ({"colour": 1}, "colour"),
    ({"cores": 2**31}, "cores"), ({"force": "maybe"}, "force"), ("x", "quota_set")])
def test_bad_quotas_name_the_field(cloud_client: Any, body: Any, word: str) -> None:
    answer = cloud_client.put(f"{ROOT}/os-quota-sets/{cloud_client.projects['demo']}", {"quota_set": body})
    assert answer.status_code == 400 and word in answer.json()["badRequest"]["message"]


def test_quota_below_use_wants_force(cloud_client: Any) -> None:
    rows.server(cloud_client)
    path = f"{ROOT}/os-quota-sets/{cloud_client.projects['demo']}"
    refused = cloud_client.put(path, {"quota_set": {"ram": 511}})
    assert refused.status_code == 400 and "ram" in refused.json()["badRequest"]["message"]
    assert cloud_client.put(path, {"quota_set": {"ram": 511, "force": True}}).status_code == 200
    detail = cloud_client.get(f"{path}/detail").json()["quota_set"]
    assert detail["ram"] == {"limit": 511, "in_use": 512, "reserved": 0}


def test_user_quotas_stay_below_the_projects(cloud_client: Any) -> None:
    path = f"{ROOT}/os-quota-sets/{cloud_client.projects['demo']}?user_id=u"
    assert cloud_client.put(path, {"quota_set": {"cores": 100000}}).status_code == 400
    assert cloud_client.put(path, {"quota_set": {"cores": 3}}).json()["quota_set"]["cores"] == 3
    assert quota(cloud_client)["cores"] != 3
    assert cloud_client.get(path).json()["quota_set"]["cores"] == 3


def test_others_see_only_their_own_quota(cloud_client: Any) -> None:
    path = f"{ROOT}/os-quota-sets/{cloud_client.projects['demo']}"
    assert cloud_client.get(path, as_="other").status_code == 403
    assert cloud_client.get(f"{path}/detail", as_="other").status_code == 403
    assert cloud_client.put(path, {"quota_set": {"cores": 3}}, as_="demo").status_code == 403
    assert cloud_client.delete(path, as_="demo").status_code == 403


def test_the_default_class_rules_projects_without_limits_of_their_own(cloud_client: Any) -> None:
    path = f"{ROOT}/os-quota-class-sets/default"
    assert cloud_client.put(path, {"quota_class_set": {"cores": 5}}).json()["quota_class_set"]["cores"] == 5
    assert cloud_client.get(path).json()["quota_class_set"]["id"] == "default"
    assert quota(cloud_client)["cores"] == 5
    assert cloud_client.put(f"{ROOT}/os-quota-class-sets/other", {"quota_class_set": {"cores": 6}}).status_code == 200
    assert quota(cloud_client)["cores"] == 5
    assert "server_groups" not in cloud_client.get(path, headers=at("2.49")).json()["quota_class_set"]
    assert "server_groups" in cloud_client.get(path, headers=at("2.50")).json()["quota_class_set"]


def test_limits(cloud_client: Any) -> None:
    rows.server(cloud_client)
    absolute = cloud_client.get(f"{ROOT}/limits", as_="reader").json()["limits"]["absolute"]
    assert (absolute["totalCoresUsed"], absolute["totalRAMUsed"], absolute["totalInstancesUsed"]) == (2, 512, 1)
    assert absolute["maxTotalCores"] == quota(cloud_client)["cores"] and absolute["maxPersonality"] == 5
    late = cloud_client.get(f"{ROOT}/limits", as_="demo", headers=at("2.57")).json()["limits"]["absolute"]
    assert not {"maxPersonality", "maxImageMeta", "maxSecurityGroups"} & set(late)
    demo = cloud_client.projects["demo"]
    seen = cloud_client.get(f"{ROOT}/limits?tenant_id={demo}").json()["limits"]["absolute"]
    assert seen["totalInstancesUsed"] == 1
    assert cloud_client.get(f"{ROOT}/limits?tenant_id={demo}", as_="other").status_code == 403


def test_usage_counts_hours_in_the_period(cloud_client: Any) -> None:
    now = cloud_client.env.now()
    rows.server(cloud_client, launched_at=now - 7200)
    gone = "5e5e5e5e-1111-4222-8333-444444444445"
    rows.server(cloud_client, gone, host=None, vm_state="deleted", launched_at=now - 7200, deleted_at=now - 3600)
    usage = cloud_client.get(f"{ROOT}/os-simple-tenant-usage/{cloud_client.projects['demo']}", as_="demo").json()
    whole = usage["tenant_usage"]
    assert whole["total_hours"] == pytest.approx(3, abs=0.01)
    assert whole["total_vcpus_usage"] == pytest.approx(6, abs=0.02)
    assert whole["total_memory_mb_usage"] == pytest.approx(3 * 512, abs=5)
    assert {item["state"] for item in whole["server_usages"]} == {"active", "terminated"}
    listed = cloud_client.get(f"{ROOT}/os-simple-tenant-usage?detailed=1").json()["tenant_usages"]
    assert len(listed) == 1 and len(listed[0]["server_usages"]) == 2
    assert "server_usages" not in cloud_client.get(f"{ROOT}/os-simple-tenant-usage").json()["tenant_usages"][0]
    past = "?start=2001-01-01T00:00:00&end=2001-02-01T00:00:00"
    demo = cloud_client.projects["demo"]
    assert cloud_client.get(f"{ROOT}/os-simple-tenant-usage/{demo}{past}").json() == {"tenant_usage": {}}
    for query in ("?start=yesterday", "?end=x", "?start=2002-01-01T00:00:00&end=2001-01-01T00:00:00"):
        assert cloud_client.get(f"{ROOT}/os-simple-tenant-usage{query}").status_code == 400
    assert cloud_client.get(f"{ROOT}/os-simple-tenant-usage/{demo}", as_="other").status_code == 403
    assert cloud_client.get(f"{ROOT}/os-simple-tenant-usage/").status_code == 404
    page = cloud_client.get(f"{ROOT}/os-simple-tenant-usage/{demo}?limit=1", headers=at("2.40")).json()
    assert len(page["tenant_usage"]["server_usages"]) == 1 and "marker=" in page["tenant_usage_links"][0]["href"]


def test_server_groups_before_and_after_264(cloud_client: Any) -> None:
    path = f"{ROOT}/os-server-groups"
    old = cloud_client.post(path, {"server_group": {"name": "g", "policies": ["affinity"]}}, as_="demo").json()
    group = old["server_group"]
    assert (group["policies"], group["metadata"], group["members"]) == (["affinity"], {}, []) and "user_id" not in group
    rows.server(cloud_client, server_group_id=group["id"])
    late = cloud_client.get(f"{path}/{group['id']}", as_="reader", headers=at("2.64")).json()["server_group"]
    assert (late["policy"], late["rules"], late["members"]) == ("affinity", {}, [rows.SERVER_ID])
    assert late["project_id"] == cloud_client.projects["demo"]
    ruled = cloud_client.post(path, {"server_group": {
        "name": "r", "policy": "anti-affinity", "rules": {"max_server_per_host": "2"}}}, as_="demo", headers=at("2.64"))
    assert ruled.json()["server_group"]["rules"] == {"max_server_per_host": 2}
    assert [item["name"] for item in cloud_client.get(path, as_="demo").json()["server_groups"]] == ["g", "r"]
    assert [item["name"] for item in cloud_client.get(f"{path}?limit=1&offset=1", as_="demo").json()["server_groups"]] \
        == ["r"]
    assert cloud_client.get(path, as_="other").json() == {"server_groups": []}
    assert len(cloud_client.get(f"{path}?all_projects=1").json()["server_groups"]) == 2
    assert cloud_client.get(f"{path}/{group['id']}", as_="other").status_code == 404
    assert cloud_client.delete(f"{path}/{group['id']}", as_="other").status_code == 404
    assert cloud_client.delete(f"{path}/{group['id']}", as_="reader").status_code == 403
    assert cloud_client.delete(f"{path}/{group['id']}", as_="demo").status_code == 204
    assert cloud_client.delete(f"{path}/{group['id']}", as_="demo").status_code == 404


@pytest.mark.parametrize(("fields", "version", "word"), [
    ({"policies": ["affinity"]}, "2.1", "name"), ({"name": "g"}, "2.1", "policies"),
    ({"name": "g", "policies": []}, "2.1", "policies"), ({"name": "g", "policies": ["soft-affinity"]}, "2.14", "policies"),
    ({"name": "g", "policies": ["affinity", "anti-affinity"]}, "2.1", "policies"),
    ({"name": "g", "policy": "affinity"}, "2.1", "policies"), ({"name": "g", "policies": ["affinity"]}, "2.64", "policy"),
    ({"name": "", "policies": ["affinity"]}, "2.1", "name"), ({"name": "g", "policy": "love"}, "2.64", "policy"),
    ({"name": "g", "policy": "affinity", "rules": {"max_server_per_host": 2}}, "2.64", "rules"),
    ({"name": "g", "policy": "anti-affinity", "rules": {"max_server_per_host": 0}}, "2.64", "max_server_per_host"),
    ({"name": "g", "policy": "anti-affinity", "rules": {"x": 0}}, "2.64", "x"),
])
def test_bad_groups_name_the_field(cloud_client: Any, fields: Any, version: str, word: str) -> None:
    answer = cloud_client.post(f"{ROOT}/os-server-groups", {"server_group": fields}, as_="demo", headers=at(version))
    assert answer.status_code == 400 and word in answer.json()["badRequest"]["message"]


def test_group_quota(cloud_client: Any) -> None:
    demo = cloud_client.projects["demo"]
    cloud_client.put(f"{ROOT}/os-quota-sets/{demo}", {"quota_set": {"server_groups": 1}})
    body = {"server_group": {"name": "g", "policies": ["affinity"]}}
    assert cloud_client.post(f"{ROOT}/os-server-groups", body, as_="demo").status_code == 200
    assert cloud_client.post(f"{ROOT}/os-server-groups", body, as_="demo").status_code == 403


def test_room_is_refused_in_words_for_the_project_and_for_one_user(cloud_client: Any) -> None:
    demo, user = cloud_client.projects["demo"], cloud_client.users["demo"]
    rows.server(cloud_client, old_flavor=FlavorSpec("9", "big", 4, 256, 1))
    path = f"{ROOT}/os-quota-sets/{demo}"
    cloud_client.put(path, {"quota_set": {"cores": 5, "ram": 600}})

    def ask(**more: int) -> str:
        def work(tx: Any) -> None:
            check_room(tx, cloud_client.cloud.config, demo, user, **more)

        try:
            cloud_client.run(cloud_client.db.read(work))
        except Problem as problem:
            return f"{problem.status} {problem.message}"
        return ""

    assert ask(cores=1) == "" and ask(ram_mb=88) == ""
    assert "cores: asked for 2, in use 4 of 5" in ask(cores=2)  # the old flavor still holds 4
    assert "ram: asked for 89, in use 512 of 600" in ask(ram_mb=89)
    cloud_client.put(f"{path}?user_id={user}", {"quota_set": {"instances": 1}})
    assert ask(instances=1).startswith("403") and "user" in ask(instances=1)
