"""Rows that tests of the compute API's smaller nouns put straight into the store: hosts, servers, moves, actions."""
from __future__ import annotations

from typing import Any

from virga.domain.operation import Action, ActionEvent, Migration
from virga.domain.placement import UP, Claim, Host
from virga.domain.server import ACTIVE, Flavor, FlavorSpec, Server

HOST_IDS = {"one": "0a0a0a0a-1111-4222-8333-444444444401", "two": "0a0a0a0a-1111-4222-8333-444444444402"}
SERVER_ID = "5e5e5e5e-1111-4222-8333-444444444444"
SPEC = FlavorSpec("1", "m1.small", 2, 512, 10, 1)


def put(client: Any, *rows: Any) -> None:
    """Insert rows in one transaction."""
    def work(tx: Any) -> None:
        for row in rows:
            tx.put(row)

    client.run(client.db.run(work))


def row(client: Any, row_type: Any, *key: Any) -> Any:
    return client.run(client.db.read(lambda tx: tx.get(row_type, *key)))


def hosts(client: Any) -> list[Host]:
    now = client.env.now()
    made = [
        Host(name, host_id, UP, number, vcpus=8, ram_mb=4096, disk_gb=100, hypervisor_type="fake", session=3,
             address=f"192.0.2.{number}", created_at=now - 90000, updated_at=now, seen_at=now)
        for number, (name, host_id) in enumerate(HOST_IDS.items(), 1)]
    put(client, *made)
    return made


def flavor(client: Any, flavor_id: str = "1", **more: Any) -> Flavor:
    made = Flavor(flavor_id, more.pop("name", f"flavor-{flavor_id}"), more.pop("vcpus", 2), more.pop("ram_mb", 512),
                  more.pop("disk_gb", 10), **more)
    put(client, made)
    return made


def server(client: Any, server_id: str = SERVER_ID, host: str | None = "one", **more: Any) -> Server:
    """An active server of project demo with its claim."""
    now = client.env.now()
    made = Server(
        server_id, more.pop("project_id", client.projects["demo"]), client.users["demo"], more.pop("name", "s"), SPEC,
        host=host, vm_state=more.pop("vm_state", ACTIVE), power_state=1, created_at=more.pop("created_at", now - 7200),
        launched_at=more.pop("launched_at", now - 7200), **more)
    claims = [Claim(host, server_id, "server", server_id, 2, 512, 11)] if host else []
    put(client, made, *claims)
    return made


def move(client: Any, number: int, kind: str = "resize", status: str = "finished", **more: Any) -> Migration:
    now = client.env.now()
    made = Migration(
        f"7e7e7e7e-1111-4222-8333-{number:012d}", number, more.pop("server_id", SERVER_ID), client.projects["demo"],
        client.users["demo"], kind, status, more.pop("source", "one"), more.pop("dest", "two"), "1", "2",
        created_at=more.pop("created_at", now + number), updated_at=more.pop("updated_at", now + number), **more)
    put(client, made)
    return made


def action(client: Any, number: int, name: str = "resize", server_id: str = SERVER_ID) -> Action:
    at = client.env.now() - 1000 + number
    request_id = f"req-{number:08d}-1111-4222-8333-444444444444"
    made = Action(server_id, request_id, name, client.projects["demo"], client.users["demo"], at, at)
    put(client, made, ActionEvent(server_id, request_id, f"compute_{name}_instance", at, at + 1, "Success", "one"))
    return made
