"""What servers need around them, as rows: hosts, flavors, an image, a network. No engine runs; states are set by
hand."""

from __future__ import annotations

from typing import Any

from virga.domain.image import Image
from virga.domain.network import Network, Pool, RbacPolicy, Subnet
from virga.domain.placement import Host
from virga.domain.port import Port
from virga.domain.server import ACTIVE, Flavor, FlavorSpec, Server
from virga.store.db import Tx

ROOT = "/compute/v2.1"
SMALL, LARGE = "1", "2"


class House:
    """A cloud client with the makings of servers. `server()` puts a row there; `create()` asks the API."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.image = client.env.new_id()
        self.net = client.env.new_id()
        self.subnet = client.env.new_id()
        client.run(client.db.run(self._fill))

    def _fill(self, tx: Tx) -> None:
        for name, zone in (("host-1", "nova"), ("host-2", "west")):
            tx.insert(
                Host(name, tx.new_id(), state="up", vcpus=64, ram_mb=65536, disk_gb=1000, availability_zone=zone)
            )
        tx.insert(Flavor(SMALL, "small", 1, 512, 5, created_at=tx.now))
        tx.insert(Flavor(LARGE, "large", 2, 1024, 10, created_at=tx.now))
        tx.insert(Flavor("3", "private", 1, 64, 1, is_public=False, created_at=tx.now))
        tx.insert(
            Image(
                self.image,
                self.client.projects["admin"],
                "active",
                "img",
                "public",
                "bare",
                "raw",
                size=10,
                created_at=tx.now,
            )
        )
        demo = self.client.projects["demo"]
        tx.insert(Network(self.net, demo, "private", created_at=tx.now))
        tx.insert(
            Subnet(
                self.subnet,
                demo,
                self.net,
                4,
                "10.1.0.0/24",
                gateway_ip="10.1.0.1",
                allocation_pools=[Pool("10.1.0.10", "10.1.0.99")],
                created_at=tx.now,
            )
        )

    def network(self, name: str, project: str = "demo", *, external: bool = False, shared: bool = False) -> str:
        """One more network, with a subnet."""
        network_id = str(self.client.env.new_id())

        def fill(tx: Tx) -> None:
            owner = self.client.projects[project]
            tx.insert(Network(network_id, owner, name, external=external, shared=shared, created_at=tx.now))
            tx.insert(
                Subnet(
                    tx.new_id(),
                    owner,
                    network_id,
                    4,
                    "10.2.0.0/24",
                    gateway_ip="10.2.0.1",
                    allocation_pools=[Pool("10.2.0.10", "10.2.0.99")],
                    created_at=tx.now,
                )
            )
            for action in (["access_as_external"] if external else []) + (["access_as_shared"] if shared else []):
                tx.insert(RbacPolicy(tx.new_id(), owner, "network", network_id, action, "*"))

        self.client.run(self.client.db.run(fill))
        return network_id

    def server(self, name: str = "s", project: str = "demo", **columns: Any) -> str:
        """A server's row, ACTIVE on host-1 unless told otherwise."""
        server_id = str(self.client.env.new_id())
        known: dict[str, Any] = {
            "vm_state": ACTIVE,
            "host": "host-1",
            "power_state": 1,
            "created_at": self.client.env.now(),
            "image_id": self.image,
            "hostname": name,
            **columns,
        }
        flavor = known.pop("flavor", FlavorSpec(SMALL, "small", 1, 512, 5))
        user = self.client.users["demo"]
        row = Server(server_id, self.client.projects[project], user, name, flavor, **known)
        self.client.run(self.client.db.run(lambda tx: tx.insert(row)))
        return server_id

    def row(self, server_id: str) -> Server:
        found: Server = self.client.run(self.client.db.read(lambda tx: tx.need(Server, server_id)))
        return found

    def change(self, server_id: str, **columns: Any) -> None:
        self.client.run(self.client.db.run(lambda tx: tx.update(Server, server_id, **columns)))

    def ports(self, server_id: str) -> list[Port]:
        found: list[Port] = self.client.run(self.client.db.read(lambda tx: tx.find(Port, device_id=server_id)))
        return found

    def count(self) -> int:
        found: int = self.client.run(self.client.db.read(lambda tx: tx.count(Server)))
        return found

    def create(self, *, version: str = "2.96", as_: str = "demo", **fields: Any) -> Any:
        """POST /servers with sensible fields; a field given as None is left out."""
        body = {"name": "s", "flavorRef": SMALL, "imageRef": self.image, "networks": "none", **fields}
        if version < "2.37" and len(version) < 5 and body["networks"] == "none":
            del body["networks"]
        hints = body.pop("hints", None)
        whole: dict[str, Any] = {"server": {key: value for key, value in body.items() if value is not None}}
        if hints is not None:
            whole["os:scheduler_hints"] = hints
        return self.call("POST", "/servers", whole, version=version, as_=as_)

    def call(
        self, method: str, path: str, json: Any = None, *, version: str = "2.96", as_: str = "demo", **how: Any
    ) -> Any:
        headers = {"OpenStack-API-Version": f"compute {version}"}
        return self.client.call(method, ROOT + path, json, as_=as_, headers=headers, **how)

    def act(self, server_id: str, action: Any, *, version: str = "2.96", as_: str = "demo") -> Any:
        return self.call("POST", f"/servers/{server_id}/action", action, version=version, as_=as_)


def refused(answer: Any, status: int, *words: str) -> str:
    """The sentence of an error answer, after checking its shape, its status and that it says these words."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    (fault,) = answer.json().values()
    assert fault["code"] == status
    for word in words:
        assert word in fault["message"], fault["message"]
    return str(fault["message"])
