"""Tempest's own response schemas, held against what a running Virga answers about servers.

A whole cloud (two fake hosts) runs in this process; every call of the servers API is made at every microversion
where one of tempest's schemas changes, and each answer goes through the client method that tempest itself would use
(tools/conformance/check_schema.py, in tempest's own environment). An extra key, a missing key, a wrong type or
another status code fails. Needs .venv-tempest (make tempest).
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from virga.domain.config import Config
from virga.domain.network import Network, Subnet
from virga.serve import LiveCloud
from virga.store.db import Tx

TOP = Path(__file__).resolve().parents[2]
PYTHON = TOP / ".venv-tempest" / "bin" / "python"
CHECKER = TOP / "tools" / "conformance" / "check_schema.py"
VERSIONS = (
    "2.1",
    "2.3",
    "2.9",
    "2.16",
    "2.19",
    "2.26",
    "2.47",
    "2.48",
    "2.63",
    "2.70",
    "2.71",
    "2.73",
    "2.75",
    "2.96",
)
WAIT_S = 20.0

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="needs .venv-tempest (make tempest)")


class Bench:
    """A running cloud, an administrator's token, and the samples taken so far."""

    def __init__(self, state: Path) -> None:
        self.runner = asyncio.Runner()
        self.samples: list[dict[str, Any]] = []
        self.cloud = LiveCloud(Config(listen="127.0.0.1:0", state=str(state)), say=lambda text: None)
        self.runner.run(self.start())

    async def start(self) -> None:
        await self.cloud.start()
        await self.cloud.hosts_ready()
        self.http = httpx2.AsyncClient(base_url=self.cloud.url, timeout=WAIT_S)
        user = {"name": "admin", "domain": {"id": "default"}, "password": self.cloud.admin_password}
        scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        answer = await self.http.post(
            "/identity/v3/auth/tokens",
            json={"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}},
        )
        self.token = answer.headers["x-subject-token"]
        self.project = answer.json()["token"]["project"]["id"]
        await self.cloud.db.run(self.network)
        images = await self.http.get("/image/v2/images", headers={"X-Auth-Token": self.token})
        self.image = images.json()["images"][0]["id"]

    def network(self, tx: Tx) -> None:
        self.net = tx.new_id()
        tx.insert(Network(self.net, self.project, "schemas", created_at=tx.now))
        tx.insert(
            Subnet(tx.new_id(), self.project, self.net, 4, "10.9.0.0/24", allocation_pools=[], created_at=tx.now)
        )
        pools = [{"start": "10.9.0.2", "end": "10.9.0.250"}]
        (subnet,) = tx.find(Subnet, network_id=self.net)
        tx.update(Subnet, subnet.id, allocation_pools=pools)

    def call(self, method: str, path: str, body: Any = None, version: str = "2.96") -> httpx2.Response:
        headers = {"X-Auth-Token": self.token, "OpenStack-API-Version": f"compute {version}"}
        sent: dict[str, Any] = {} if body is None else {"json": body}
        answer: httpx2.Response = self.runner.run(
            self.http.request(method, f"/compute/v2.1{path}", headers=headers, **sent)
        )
        return answer

    def sample(self, client: str, name: str, answer: httpx2.Response, version: str, **kwargs: Any) -> Any:
        body = answer.json() if answer.content else None
        self.samples.append(
            {
                "client": client,
                "method": name,
                "version": version,
                "status": answer.status_code,
                "body": body,
                "headers": dict(answer.headers),
                "kwargs": kwargs,
            }
        )
        return body

    def server(self, version: str, **more: Any) -> str:
        """A new ACTIVE server; its creation is a sample."""
        body = {"name": "schema", "flavorRef": "1", "imageRef": self.image, "networks": [{"uuid": self.net}], **more}
        made = self.sample(
            "servers", "create_server", self.call("POST", "/servers", {"server": body}, version), version
        )
        server_id: str = made["server"]["id"]
        self.until(server_id, "ACTIVE")
        return server_id

    def until(self, server_id: str, status: str) -> None:
        end = self.cloud.env.monotonic() + WAIT_S
        while self.cloud.env.monotonic() < end:
            server = self.call("GET", f"/servers/{server_id}").json()["server"]
            if server["status"] == status and server["OS-EXT-STS:task_state"] is None:
                return
            self.runner.run(asyncio.sleep(0.01))
        raise AssertionError(f"{server_id} is {server['status']}, not {status}: {server.get('fault')}")

    def close(self) -> None:
        self.runner.run(self.http.aclose())
        self.runner.run(self.cloud.stop())
        self.runner.close()

    def judge(self) -> list[str]:
        """What tempest refuses of the samples, one line each."""
        lines = "\n".join(json.dumps(sample) for sample in self.samples)
        judged = subprocess.run(
            [PYTHON, CHECKER], input=lines, capture_output=True, text=True, timeout=300, check=True
        )
        verdicts = [json.loads(line) for line in judged.stdout.splitlines()]
        assert len(verdicts) == len(self.samples)
        return [
            f"{sample['client']}.{sample['method']} at {sample['version']}: {sample['status']} {verdict['why']}"
            for sample, verdict in zip(self.samples, verdicts, strict=True)
            if not verdict["ok"]
        ]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("cloud"))
    yield bench
    bench.close()


def look(bench: Bench, server_id: str, version: str) -> None:
    """Every GET about a server."""
    at = tuple(int(part) for part in version.split("."))
    here = f"/servers/{server_id}"
    bench.sample("servers", "show_server", bench.call("GET", here, version=version), version)
    bench.sample("servers", "list_servers", bench.call("GET", "/servers?limit=1", version=version), version)
    detail = bench.call("GET", "/servers/detail?limit=1", version=version)
    bench.sample("servers", "list_servers", detail, version, detail=True)
    renamed = bench.call("PUT", here, {"server": {"name": f"at {version}"}}, version)
    bench.sample("servers", "update_server", renamed, version)
    for method, path in (
        ("list_addresses", "ips"),
        ("list_addresses_by_network", "ips/schemas"),
        ("list_server_metadata", "metadata"),
        ("show_server_diagnostics", "diagnostics"),
        ("show_password", "os-server-password"),
        ("list_volume_attachments", "os-volume_attachments"),
        ("list_security_groups_by_server", "os-security-groups"),
    ):
        bench.sample("servers", method, bench.call("GET", f"{here}/{path}", version=version), version)
    nics = bench.sample(
        "interfaces", "list_interfaces", bench.call("GET", f"{here}/os-interface", version=version), version
    )
    port = nics["interfaceAttachments"][0]["port_id"]
    shown = bench.call("GET", f"{here}/os-interface/{port}", version=version)
    bench.sample("interfaces", "show_interface", shown, version)
    meta = {"metadata": {"a": "1"}}
    bench.sample(
        "servers", "set_server_metadata", bench.call("PUT", f"{here}/metadata", meta, version), version, meta={}
    )
    added = bench.call("POST", f"{here}/metadata", meta, version)
    bench.sample("servers", "update_server_metadata", added, version)
    item = bench.call("PUT", f"{here}/metadata/b", {"meta": {"b": "2"}}, version)
    bench.sample("servers", "set_server_metadata_item", item, version)
    bench.sample(
        "servers", "show_server_metadata_item", bench.call("GET", f"{here}/metadata/b", version=version), version
    )
    gone = bench.call("DELETE", f"{here}/metadata/b", version=version)
    bench.sample("servers", "delete_server_metadata_item", gone, version)
    log = bench.call("POST", f"{here}/action", {"os-getConsoleOutput": {"length": 3}}, version)
    bench.sample("servers", "get_console_output", log, version)
    if at >= (2, 26):
        tagged = bench.call("PUT", f"{here}/tags", {"tags": ["x"]}, version)
        bench.sample("servers", "update_all_tags", tagged, version, tags=["x"])
        bench.sample("servers", "update_tag", bench.call("PUT", f"{here}/tags/y", version=version), version)
        bench.sample("servers", "list_tags", bench.call("GET", f"{here}/tags", version=version), version)
        bench.sample("servers", "check_tag_existence", bench.call("GET", f"{here}/tags/y", version=version), version)
        bench.sample("servers", "delete_tag", bench.call("DELETE", f"{here}/tags/y", version=version), version)
        bench.sample("servers", "delete_all_tags", bench.call("DELETE", f"{here}/tags", version=version), version)


def act(bench: Bench, server_id: str, method: str, action: dict[str, Any], status: str, version: str) -> Any:
    answer = bench.call("POST", f"/servers/{server_id}/action", action, version)
    body = bench.sample("servers", method, answer, version)
    if answer.status_code < 300:
        bench.until(server_id, status)
    return body


def test_what_is_shown_of_a_server_at_every_version(bench: Bench) -> None:
    server_id = bench.server("2.1", metadata={"k": "v"}, user_data="eA==", config_drive=True)
    bench.samples.clear()
    for version in VERSIONS:
        look(bench, server_id, version)
    assert len(bench.samples) > 20 * len(VERSIONS)
    assert bench.judge() == []


@pytest.mark.parametrize("version", ["2.1", "2.54", "2.57", "2.63", "2.75", "2.96"])
def test_what_actions_answer(bench: Bench, version: str) -> None:
    bench.samples.clear()
    server_id = bench.server(version)
    for method, action, status in (
        ("stop_server", {"os-stop": None}, "SHUTOFF"),
        ("start_server", {"os-start": None}, "ACTIVE"),
        ("reboot_server", {"reboot": {"type": "SOFT"}}, "ACTIVE"),
        ("pause_server", {"pause": None}, "PAUSED"),
        ("unpause_server", {"unpause": None}, "ACTIVE"),
        ("suspend_server", {"suspend": None}, "SUSPENDED"),
        ("resume_server", {"resume": None}, "ACTIVE"),
        ("lock_server", {"lock": None}, "ACTIVE"),
        ("unlock_server", {"unlock": None}, "ACTIVE"),
        ("rebuild_server", {"rebuild": {"imageRef": bench.image}}, "ACTIVE"),
        ("resize_server", {"resize": {"flavorRef": "2"}}, "VERIFY_RESIZE"),
        ("revert_resize_server", {"revertResize": None}, "ACTIVE"),
        ("migrate_server", {"migrate": None}, "VERIFY_RESIZE"),
        ("confirm_resize_server", {"confirmResize": None}, "ACTIVE"),
        ("rescue_server", {"rescue": None}, "RESCUE"),
        ("unrescue_server", {"unrescue": None}, "ACTIVE"),
        ("reset_network", {"resetNetwork": None}, "ACTIVE"),
        ("remove_security_group", {"removeSecurityGroup": {"name": "default"}}, "ACTIVE"),
        ("add_security_group", {"addSecurityGroup": {"name": "default"}}, "ACTIVE"),
        ("create_backup", {"createBackup": {"name": "b", "backup_type": "daily", "rotation": 1}}, "ACTIVE"),
        ("reset_state", {"os-resetState": {"state": "active"}}, "ACTIVE"),
        ("inject_network_info", {"injectNetworkInfo": None}, "ACTIVE"),
        ("shelve_server", {"shelve": None}, "SHELVED_OFFLOADED"),
        ("unshelve_server", {"unshelve": None}, "ACTIVE"),
    ):
        act(bench, server_id, method, action, status, version)
    made = bench.call("POST", f"/servers/{server_id}/action", {"createImage": {"name": "i"}}, version)
    bench.sample("images", "create_image", made, version)
    bench.until(server_id, "ACTIVE")
    body = {"interfaceAttachment": {"net_id": bench.net}}
    nic = bench.sample(
        "interfaces",
        "create_interface",
        bench.call("POST", f"/servers/{server_id}/os-interface", body, version),
        version,
    )
    bench.until(server_id, "ACTIVE")
    port = nic["interfaceAttachment"]["port_id"]
    gone = bench.call("DELETE", f"/servers/{server_id}/os-interface/{port}", version=version)
    bench.sample("interfaces", "delete_interface", gone, version)
    bench.until(server_id, "ACTIVE")
    live: dict[str, Any] = {"host": None, "block_migration": False if version in ("2.1",) else "auto"}
    if version == "2.1":
        live["disk_over_commit"] = False
    act(bench, server_id, "live_migrate_server", {"os-migrateLive": live}, "ACTIVE", version)
    wiped = bench.call("DELETE", f"/servers/{server_id}/os-server-password", version=version)
    bench.sample("servers", "delete_password", wiped, version)
    if float(version[2:]) >= 23:
        moves = bench.call("GET", f"/servers/{server_id}/migrations", version=version)
        bench.sample("servers", "list_in_progress_live_migration", moves, version)
    events = {"events": [{"name": "network-changed", "server_uuid": server_id}]}
    told = bench.call("POST", "/os-server-external-events", events, version)
    bench.sample("server_external_events", "create_server_external_events", told, version)
    bench.sample("servers", "delete_server", bench.call("DELETE", f"/servers/{server_id}", version=version), version)
    assert bench.judge() == []


def test_the_judge_refuses_a_wrong_answer(bench: Bench) -> None:
    server_id = bench.server("2.96")
    bench.samples.clear()
    answer = bench.call("GET", f"/servers/{server_id}")
    bench.sample("servers", "show_server", answer, "2.96")
    bench.samples.append({**bench.samples[0], "body": {"server": {**answer.json()["server"], "extra": 1}}})
    bench.samples.append({**bench.samples[0], "version": "2.95"})
    refused = bench.judge()
    assert len(refused) == 2
