"""Every change of the compute API's smaller nouns, at the microversions where an answer changes, held against tempest's schemas; and that no
call whose answer tempest validates is forgotten by the three files of such tests.
"""
from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.api.compute import rows

TOP = Path(__file__).resolve().parents[3]
PYTHON = TOP / ".venv-tempest" / "bin" / "python"
CHECKER = TOP / "tools" / "conformance" / "check_schema.py"
VERSIONS = ("2.1", "2.2", "2.11", "2.13", "2.35", "2.36", "2.41", "2.45", "2.50", "2.53", "2.55", "2.57", "2.61", "2.64", "2.96")
NEWEST = "2.96"

# client, method, verb, path, body, first and last microversion, what is kept of the answer under {kept}
WRITES: list[tuple[str, str, str, str, Any, str, str]] = [
    ("flavors", "create_flavor", "POST", "/flavors", {"flavor": {"name": "f", "id": "f", "ram": 64, "vcpus": 1, "disk": 1}}, "2.1", NEWEST),
    ("flavors", "update_flavor", "PUT", "/flavors/f", {"flavor": {"description": "d"}}, "2.55", NEWEST),
    ("flavors", "set_flavor_extra_spec", "POST", "/flavors/f/os-extra_specs", {"extra_specs": {"hw:cpu_policy": "shared"}}, "2.1", NEWEST),
    ("flavors", "update_flavor_extra_spec", "PUT", "/flavors/f/os-extra_specs/hw:cpu_policy", {"hw:cpu_policy": "dedicated"}, "2.1", NEWEST),
    ("flavors", "show_flavor_extra_spec", "GET", "/flavors/f/os-extra_specs/hw:cpu_policy", None, "2.1", NEWEST),
    ("flavors", "unset_flavor_extra_spec", "DELETE", "/flavors/f/os-extra_specs/hw:cpu_policy", None, "2.1", NEWEST),
    ("flavors", "add_flavor_access", "POST", "/flavors/2/action", {"addTenantAccess": {"tenant": "{project}"}}, "2.1", NEWEST),
    ("flavors", "remove_flavor_access", "POST", "/flavors/2/action", {"removeTenantAccess": {"tenant": "{project}"}}, "2.1", NEWEST),
    ("flavors", "delete_flavor", "DELETE", "/flavors/f", None, "2.1", NEWEST),
    ("keypairs", "create_keypair", "POST", "/os-keypairs", {"keypair": {"name": "k", "public_key": "{key}"}}, "2.1", NEWEST),
    ("keypairs", "delete_keypair", "DELETE", "/os-keypairs/k", None, "2.1", NEWEST),
    ("aggregates", "create_aggregate", "POST", "/os-aggregates", {"aggregate": {"name": "a", "availability_zone": "z"}}, "2.1", NEWEST),
    ("aggregates", "update_aggregate", "PUT", "/os-aggregates/{kept}", {"aggregate": {"name": "b"}}, "2.1", NEWEST),
    ("aggregates", "set_metadata", "POST", "/os-aggregates/{kept}/action", {"set_metadata": {"metadata": {"a": "b"}}}, "2.1", NEWEST),
    ("aggregates", "add_host", "POST", "/os-aggregates/{kept}/action", {"add_host": {"host": "two"}}, "2.1", NEWEST),
    ("aggregates", "remove_host", "POST", "/os-aggregates/{kept}/action", {"remove_host": {"host": "two"}}, "2.1", NEWEST),
    ("aggregates", "delete_aggregate", "DELETE", "/os-aggregates/{kept}", None, "2.1", NEWEST),
    ("server_groups", "create_server_group", "POST", "/os-server-groups", {"server_group": {"name": "g", "policies": ["affinity"]}}, "2.1", "2.63"),
    ("server_groups", "create_server_group", "POST", "/os-server-groups", {"server_group": {"name": "g", "policy": "affinity"}}, "2.64", NEWEST),
    ("server_groups", "delete_server_group", "DELETE", "/os-server-groups/{kept}", None, "2.1", NEWEST),
    ("quotas", "update_quota_set", "PUT", "/os-quota-sets/{project}", {"quota_set": {"cores": 7}}, "2.1", NEWEST),
    ("quotas", "delete_quota_set", "DELETE", "/os-quota-sets/{project}", None, "2.1", NEWEST),
    ("quota_classes", "update_quota_class_set", "PUT", "/os-quota-class-sets/default", {"quota_class_set": {"cores": 200}}, "2.1", NEWEST),
    ("services", "disable_service", "PUT", "/os-services/disable", {"host": "one", "binary": "nova-compute"}, "2.1", "2.52"),
    ("services", "enable_service", "PUT", "/os-services/enable", {"host": "one", "binary": "nova-compute"}, "2.1", "2.52"),
    ("services", "disable_log_reason", "PUT", "/os-services/disable-log-reason", {"host": "one", "binary": "nova-compute", "disabled_reason": "r"},
     "2.1", "2.52"),
    ("services", "update_forced_down", "PUT", "/os-services/force-down", {"host": "one", "binary": "nova-compute", "forced_down": False}, "2.11", "2.52"),
    ("services", "update_service", "PUT", "/os-services/{host}", {"status": "enabled"}, "2.53", NEWEST),
    ("images", "update_image_metadata", "POST", "/images/{image}/metadata", {"metadata": {"a": "b"}}, "2.1", "2.38"),
    ("images", "set_image_metadata", "PUT", "/images/{image}/metadata", {"metadata": {"a": "b"}}, "2.1", "2.38"),
    ("images", "set_image_metadata_item", "PUT", "/images/{image}/metadata/a", {"meta": {"a": "c"}}, "2.1", "2.38"),
    ("images", "show_image_metadata_item", "GET", "/images/{image}/metadata/a", None, "2.1", "2.38"),
    ("images", "delete_image_metadata_item", "DELETE", "/images/{image}/metadata/a", None, "2.1", "2.38"),
    ("security_groups", "create_security_group", "POST", "/os-security-groups", {"security_group": {"name": "s", "description": "d"}}, "2.1", "2.35"),
    ("security_groups", "list_security_groups", "GET", "/os-security-groups", None, "2.1", "2.35"),
    ("security_groups", "show_security_group", "GET", "/os-security-groups/{kept}", None, "2.1", "2.35"),
    ("security_groups", "update_security_group", "PUT", "/os-security-groups/{kept}", {"security_group": {"name": "t", "description": "e"}}, "2.1", "2.35"),
    ("security_groups", "delete_security_group", "DELETE", "/os-security-groups/{kept}", None, "2.1", "2.35"),
    ("security_group_rules", "create_security_group_rule", "POST", "/os-security-group-rules",
     {"security_group_rule": {"parent_group_id": "{default}", "ip_protocol": "tcp", "from_port": 22, "to_port": 22, "cidr": "10.0.0.1/8"}}, "2.1", "2.35"),
    ("security_group_rules", "delete_security_group_rule", "DELETE", "/os-security-group-rules/{kept}", None, "2.1", "2.35"),
    ("floating_ips", "create_floating_ip", "POST", "/os-floating-ips", {"pool": "out"}, "2.1", "2.35"),
    ("floating_ips", "list_floating_ips", "GET", "/os-floating-ips", None, "2.1", "2.35"),
    ("floating_ips", "show_floating_ip", "GET", "/os-floating-ips/{kept}", None, "2.1", "2.35"),
    ("floating_ips", "delete_floating_ip", "DELETE", "/os-floating-ips/{kept}", None, "2.1", "2.35"),
    ("tenant_networks", "list_tenant_networks", "GET", "/os-tenant-networks", None, "2.1", "2.35"),
    ("tenant_networks", "show_tenant_network", "GET", "/os-tenant-networks/{net}", None, "2.1", "2.35"),
    ("instance_usage_audit_log", "show_instance_usage_audit_log", "GET", "/os-instance_usage_audit_log/2026-01-01 00:00:00", None, "2.1", NEWEST),
]

# Calls whose answers have a schema and that are not sampled: why not.
NOT_SAMPLED = {
    "agents": "removed upstream", "baremetal_nodes": "no bare metal", "certificates": "removed upstream", "security_group_default_rules": "removed upstream",
    "snapshots": "no block storage", "volumes": "no block storage",
    "hosts": {"reboot_host", "shutdown_host", "startup_host", "update_host"},  # a host's power is not the API's
    "versions": {"get_version_by_url", "list_versions"},  # these two make requests of their own: tempest's own tests, live
    "images": {"delete_image"},  # the image API's own, in its older words
    "floating_ips": {"associate_floating_ip_to_server", "disassociate_floating_ip_from_server"},  # tempest's own tests, live
    "servers": {
        "action", "add_fixed_ip", "remove_fixed_ip",  # below 2.44; tests/api/compute
        "attach_volume", "detach_volume", "show_volume_attachment", "update_attached_volume",  # no block storage
        "attach_share", "detach_share", "show_share_attachment", "list_share_attachments",  # 2.97
        "change_password", "get_console_auth_token_details", "get_remote_console", "get_vnc_console",  # not offered
        "evacuate_server", "force_complete_live_migration", "force_delete_server", "restore_soft_deleted_server", "shelve_offload_server"},  # empty answers
}

needs_tempest = pytest.mark.skipif(not PYTHON.exists(), reason="needs .venv-tempest (make tempest)")


def pair(version: str) -> tuple[int, int]:
    return int(version.split(".")[0]), int(version.split(".")[1])


def filled(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, str):
        return re.sub(r"\{(\w+)\}", lambda found: names[found[1]], value)
    if isinstance(value, dict):
        return {key: filled(item, names) for key, item in value.items()}
    return value


def furnish(client: Any) -> dict[str, str]:
    rows.hosts(client)
    rows.flavor(client, "2", is_public=False)
    post = client.post
    image = post("/image/v2/images", {"name": "i", "disk_format": "raw", "container_format": "bare"}).json()["id"]
    net = post("/network/v2.0/networks", {"network": {"name": "n"}}).json()["network"]["id"]
    out = post("/network/v2.0/networks", {"network": {"name": "out", "router:external": True}}).json()["network"]["id"]
    post("/network/v2.0/subnets", {"subnet": {"network_id": out, "cidr": "172.24.9.0/24", "ip_version": 4}})
    default = client.get("/network/v2.0/security-groups?name=default").json()["security_groups"][0]["id"]
    key = post("/compute/v2.1/os-keypairs", {"keypair": {"name": "made"}}).json()["keypair"]["public_key"]
    return {"image": image, "net": net, "default": default, "project": client.projects["demo"], "key": key, "host": rows.HOST_IDS["one"], "kept": ""}


@needs_tempest
def test_changes_meet_tempests_schemas(cloud_client: Any) -> None:
    names = furnish(cloud_client)
    samples = []
    for version in VERSIONS:
        for name, method, verb, path, body, first, last in WRITES:
            if not pair(first) <= pair(version) <= pair(last):
                continue
            where = "/compute/v2.1" + filled(path, names)
            answer = cloud_client.call(verb, where, filled(body, names), headers={"OpenStack-API-Version": f"compute {version}"})
            told = answer.json() if answer.content else None
            if method.startswith("create_") and isinstance(told, dict):
                inner = next(iter(told.values()))
                names["kept"] = str(inner.get("id", inner.get("name")))
            samples.append({"client": name, "method": method, "version": version, "status": answer.status_code, "body": told,
                            "headers": dict(answer.headers), "kwargs": {}})
    lines = "\n".join(json.dumps(sample) for sample in samples)
    ran = subprocess.run([str(PYTHON), str(CHECKER)], input=lines, text=True, capture_output=True, timeout=300, check=True)
    verdicts = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(verdicts) == len(samples) > 250
    wrong = [f"{sample['client']}.{sample['method']} at {sample['version']} ({sample['status']}): {verdict['why'][:600]}"
             for sample, verdict in zip(samples, verdicts, strict=True) if not verdict["ok"]]
    assert not wrong, f"{len(wrong)} of {len(samples)}:\n" + "\n".join(wrong[:12])


@needs_tempest
def test_no_validated_call_is_forgotten() -> None:
    ran = subprocess.run([str(PYTHON), str(CHECKER), "--methods"], capture_output=True, text=True, timeout=120, check=True)
    found: dict[str, list[str]] = json.loads(ran.stdout)
    assert sum(len(methods) for methods in found.values()) > 150
    files = (Path(__file__), Path(__file__).with_name("test_noun_schemas.py"), TOP / "tests" / "conformance" / "test_server_schemas.py")
    named = set(re.findall(r'"(\w+)"', "\n".join(file.read_text().split("NOT_SAMPLED = {")[0] for file in files)))
    forgotten = []
    for client, methods in found.items():
        excused = NOT_SAMPLED.get(client, set())
        if isinstance(excused, set):
            forgotten += [f"{client}.{method}" for method in methods if method not in named and method not in excused]
    assert forgotten == []
