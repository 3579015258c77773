"""Every answer of the compute API's smaller nouns, at the microversions where it changes, held against tempest's schemas."""
from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.api.compute import rows

REPOSITORY = Path(__file__).resolve().parents[3]
PYTHON = REPOSITORY / ".venv-tempest" / "bin" / "python"
FILTER = REPOSITORY / "tools" / "conformance" / "check_schema.py"
VERSIONS = ("2.1", "2.2", "2.10", "2.11", "2.13", "2.23", "2.28", "2.33", "2.35", "2.36", "2.39", "2.40", "2.41", "2.50",
            "2.51", "2.53", "2.55", "2.57", "2.58", "2.59", "2.61", "2.62", "2.64", "2.69", "2.75", "2.80", "2.84", "2.87",
            "2.96")
HOST = "{host}"

# tempest's client, its method, the path, further arguments of the method, the last microversion it exists at
READS: list[tuple[str, str, str, dict[str, Any], str]] = [
    ("flavors", "list_flavors", "/flavors", {}, "2.96"),
    ("flavors", "list_flavors", "/flavors/detail", {"detail": True}, "2.96"),
    ("flavors", "show_flavor", "/flavors/1", {}, "2.96"),
    ("flavors", "list_flavor_access", "/flavors/2/os-flavor-access", {}, "2.96"),
    ("flavors", "list_flavor_extra_specs", "/flavors/1/os-extra_specs", {}, "2.96"),
    ("keypairs", "list_keypairs", "/os-keypairs", {}, "2.96"),
    ("keypairs", "show_keypair", "/os-keypairs/k", {}, "2.96"),
    ("hypervisor", "list_hypervisors", "/os-hypervisors", {}, "2.87"),
    ("hypervisor", "list_hypervisors", "/os-hypervisors/detail", {"detail": True}, "2.87"),
    ("hypervisor", "show_hypervisor", "/os-hypervisors/{host}", {}, "2.87"),
    ("hypervisor", "show_hypervisor_statistics", "/os-hypervisors/statistics", {}, "2.87"),
    ("hypervisor", "show_hypervisor_uptime", "/os-hypervisors/{host}/uptime", {}, "2.87"),
    ("hypervisor", "search_hypervisor", "/os-hypervisors/on/search", {}, "2.52"),
    ("hypervisor", "list_servers_on_hypervisor", "/os-hypervisors/one/servers", {}, "2.52"),
    ("services", "list_services", "/os-services", {}, "2.96"),
    ("availability_zone", "list_availability_zones", "/os-availability-zone", {}, "2.96"),
    ("availability_zone", "list_availability_zones", "/os-availability-zone/detail", {"detail": True}, "2.96"),
    ("aggregates", "list_aggregates", "/os-aggregates", {}, "2.96"),
    ("aggregates", "show_aggregate", "/os-aggregates/1", {}, "2.96"),
    ("server_groups", "list_server_groups", "/os-server-groups", {}, "2.96"),
    ("server_groups", "show_server_group", "/os-server-groups/{group}", {}, "2.96"),
    ("quotas", "show_quota_set", "/os-quota-sets/{project}", {}, "2.96"),
    ("quotas", "show_default_quota_set", "/os-quota-sets/{project}/defaults", {}, "2.96"),
    ("quotas", "show_quota_set", "/os-quota-sets/{project}/detail", {"detail": True}, "2.96"),
    ("quota_classes", "show_quota_class_set", "/os-quota-class-sets/default", {}, "2.96"),
    ("limits", "show_limits", "/limits", {}, "2.96"),
    ("tenant_usages", "list_tenant_usages", "/os-simple-tenant-usage", {}, "2.96"),
    ("tenant_usages", "list_tenant_usages", "/os-simple-tenant-usage?detailed=1", {}, "2.96"),
    ("tenant_usages", "show_tenant_usage", "/os-simple-tenant-usage/{project}", {}, "2.96"),
    ("migrations", "list_migrations", "/os-migrations", {}, "2.96"),
    ("servers", "list_instance_actions", "/servers/{server}/os-instance-actions", {}, "2.96"),
    ("servers", "show_instance_action", "/servers/{server}/os-instance-actions/{request}", {}, "2.96"),
    ("hosts", "list_hosts", "/os-hosts", {}, "2.42"),
    ("hosts", "show_host", "/os-hosts/one", {}, "2.42"),
    ("extensions", "list_extensions", "/extensions", {}, "2.96"),
    ("extensions", "show_extension", "/extensions/os-hosts", {}, "2.96"),
    ("instance_usage_audit_log", "list_instance_usage_audit_logs", "/os-instance_usage_audit_log", {}, "2.96"),
    ("images", "list_images", "/images", {}, "2.35"),
    ("images", "list_images", "/images/detail", {"detail": True}, "2.35"),
    ("images", "show_image", "/images/{image}", {}, "2.35"),
    ("images", "list_image_metadata", "/images/{image}/metadata", {}, "2.38"),
]


def pair(version: str) -> tuple[int, int]:
    return int(version.split(".")[0]), int(version.split(".")[1])


def furnish(client: Any) -> dict[str, str]:
    """One of everything; returns the names that paths need."""
    rows.hosts(client)
    rows.flavor(client, "1", extra_specs={"hw:cpu_policy": "shared"}, swap_mb=5)
    rows.flavor(client, "2", is_public=False, projects=["p"])
    rows.server(client)
    rows.move(client, 1, "live-migration", "running")
    rows.move(client, 2)
    rows.move(client, 3, "evacuation", "done", dest="")
    request_id = rows.action(client, 1).request_id
    image = client.post("/image/v2/images", {"name": "i", "disk_format": "raw", "container_format": "bare"}).json()["id"]
    v21 = "/compute/v2.1"
    assert client.post(f"{v21}/os-keypairs", {"keypair": {"name": "k"}}).status_code == 200
    group = client.post(f"{v21}/os-server-groups", {"server_group": {"name": "g", "policies": ["affinity"]}})
    made = client.post(f"{v21}/os-aggregates", {"aggregate": {"name": "a", "availability_zone": "z"}})
    assert made.json()["aggregate"]["id"] == 1
    assert client.post(f"{v21}/os-aggregates/1/action", {"add_host": {"host": "two"}}).status_code == 200
    return {"server": rows.SERVER_ID, "request": request_id, "image": image, "project": client.projects["demo"],
            "group": group.json()["server_group"]["id"]}


@pytest.mark.skipif(not PYTHON.exists(), reason="needs .venv-tempest: make tempest")
def test_answers_meet_tempests_schemas(cloud_client: Any) -> None:
    names = furnish(cloud_client)
    samples = []
    for name, method, path, kwargs, last in READS:
        for version in (version for version in VERSIONS if pair(version) <= pair(last)):
            host = "1" if pair(version) < (2, 53) else rows.HOST_IDS["one"]
            where = "/compute/v2.1" + path.format(host=host, **names)
            answer = cloud_client.get(where, headers={"OpenStack-API-Version": f"compute {version}"})
            assert answer.headers["OpenStack-API-Version"] == f"compute {version}"
            samples.append({"client": name, "method": method, "version": version, "status": answer.status_code,
                            "body": answer.json(), "headers": dict(answer.headers), "kwargs": kwargs})
    ran = subprocess.run(
        [str(PYTHON), str(FILTER)], input="\n".join(json.dumps(sample) for sample in samples), text=True,
        capture_output=True, timeout=300, check=True)
    verdicts = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(verdicts) == len(samples)
    wrong = [f"{sample['client']}.{sample['method']} at {sample['version']} ({sample['status']}): {verdict['why'][:600]}"
             for sample, verdict in zip(samples, verdicts, strict=True) if not verdict["ok"]]
    assert not wrong, f"{len(wrong)} of {len(samples)}:\n" + "\n".join(wrong[:12])
