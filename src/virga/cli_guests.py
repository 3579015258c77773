"""The founding case with real guests: what `virga demo --hypervisor libvirt` adds to cli_founding.

A server counts as kept only if its guest says so over ssh: before the resize a file of random bytes is written in it; in the resized guest the file must
be there, and something is written that must be gone after the revert; then the file must have the same digest. Every guest is pinged all the time, at
its floating address, by a process of its own; the longest silence around each revert is the table's ping gap.
Rules: nothing but public calls, ssh and ping. The key pair is made for the run and lies in the demo's folder.
"""
from __future__ import annotations

import asyncio
import itertools
import subprocess
from pathlib import Path
from typing import Any

from virga.cli_client import Client, ClientError, Refused
from virga.cli_founding import Founding, Outcome, Say
from virga.runtime.env import Env

IMAGE = "virga-guest"
USER = "virga"
PING_PERIOD_S = 0.1
SSH_TRY_S = 10.0
SSH_RETRY_S = 0.3
GUEST_TIMEOUT_S = 240.0


class Pinger:
    """One `ping` of one address, from now until `stop`; `gap_s` looks at what it heard."""

    def __init__(self, address: str, log: Path) -> None:
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                ["ping", "-n", "-D", "-i", str(PING_PERIOD_S), "-W", "1", address], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)

    def gap_s(self, since: float, until: float) -> float:
        """The longest time without an answer between two moments (seconds since the epoch)."""
        heard = [since]
        for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines():
            if "bytes from" in line and line.startswith("["):
                at = float(line[1:line.index("]")])
                if since < at < until:
                    heard.append(at)
        heard.append(until)
        return max(later - earlier for earlier, later in itertools.pairwise(heard))

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


class RealFounding(Founding):
    """A run with guests that can be logged into. `folder` takes the key and the pings' logs."""

    def __init__(self, env: Env, client: Client, *, servers: int, say: Say, folder: Path, timeout_s: float) -> None:
        super().__init__(env, client, servers=servers, say=say, timeout_s=timeout_s, poll_s=0.1)
        self.folder = folder
        self.key = folder / "demo-key"
        self.addresses: dict[str, str] = {}
        self.pingers: dict[str, Pinger] = {}
        self._digests: dict[str, str] = {}

    async def prepare(self) -> None:
        """Key pair, open ports, servers with floating addresses, all logged into once. Raises ClientError."""
        await self._run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        public = self.key.with_suffix(".pub").read_text(encoding="ascii")
        await self.client.post("compute", "/os-keypairs", {"keypair": {"name": "virga-demo", "public_key": public}}, ok=(409,))
        await self._open_ports()
        await super().prepare()
        outer = (await self.client.get("network", "/v2.0/networks?router:external=true"))["networks"]
        if not outer:
            raise ClientError("the cloud has no external network, so its guests cannot be reached")
        for server in self.servers:
            ports = (await self.client.get("network", f"/v2.0/ports?device_id={server['id']}"))["ports"]
            body = {"floatingip": {"floating_network_id": outer[0]["id"], "port_id": ports[0]["id"]}}
            made = (await self.client.post("network", "/v2.0/floatingips", body))["floatingip"]
            self.addresses[server["id"]] = made["floating_ip_address"]
            self.pingers[server["id"]] = Pinger(made["floating_ip_address"], self.folder / f"ping-{server['name']}.log")
        await asyncio.gather(*(self._shell(server["id"], "true") for server in self.servers))

    async def create_body(self, body: dict[str, Any]) -> dict[str, Any]:
        images = (await self.client.get("image", f"/v2/images?status=active&name={IMAGE}"))["images"]
        if not images:
            raise ClientError(f"the cloud offers no image {IMAGE}; build it with `make guest`")
        return {**body, "imageRef": images[0]["id"], "key_name": "virga-demo"}

    async def _open_ports(self) -> None:
        """ICMP and ssh into the project's default group."""
        group = (await self.client.get("network", f"/v2.0/security-groups?name=default&project_id={self.client.project_id}"))["security_groups"][0]
        for extra in ({"protocol": "icmp"}, {"protocol": "tcp", "port_range_min": 22, "port_range_max": 22}):
            rule = {"security_group_id": group["id"], "direction": "ingress", "ethertype": "IPv4", **extra}
            await self.client.post("network", "/v2.0/security-group-rules", {"security_group_rule": rule}, ok=(409,))

    # guests ---------------------------------------------------------------------------------------------------------
    async def _run(self, *argv: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(*argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        out, _ = await process.communicate()
        return process.returncode or 0, out.decode("utf-8", "replace").strip()

    async def _ssh(self, server_id: str, command: str) -> tuple[int, str]:
        """One try: exit status and output."""
        return await self._run(
            "ssh", "-i", str(self.key), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
            "-o", f"ConnectTimeout={SSH_TRY_S:.0f}", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=2", "-o", "LogLevel=ERROR",
            f"{USER}@{self.addresses[server_id]}", command)

    async def _shell(self, server_id: str, command: str) -> str:
        """A command's output from within the guest; tried until it can be reached. Raises Refused."""
        end = self.env.monotonic() + GUEST_TIMEOUT_S
        while True:
            code, text = await self._ssh(server_id, command)
            if code == 0:
                return text
            if self.env.monotonic() > end:
                raise Refused(504, f"the guest at {self.addresses[server_id]} cannot be reached by ssh: {text[-200:]}")
            await self.env.sleep(SSH_RETRY_S)
            await self._not_reached(server_id)

    async def _not_reached(self, server_id: str) -> None:
        """Called between two tries to log in; whoever can do something about it does it here."""

    async def _disks(self, server_id: str) -> dict[str, dict[str, Any]]:
        """Before the resize: a fresh file of random bytes; its digest is what must come back."""
        self._digests[server_id] = await self._shell(
            server_id, "rm -f /root/written-while-resized; head -c 65536 /dev/urandom >/root/demo-file; sync; sha256sum </root/demo-file")
        return {}

    async def _check_written(self, outcome: Outcome, before: dict[str, dict[str, Any]]) -> None:
        digest = await self._shell(
            outcome.server_id, "echo resized >/root/written-while-resized; sync; sha256sum </root/demo-file")
        if digest != self._digests[outcome.server_id]:
            outcome.why, outcome.disk = "the resized guest does not have the file that was written before", "lost"

    async def _revert(self, outcome: Outcome) -> None:
        began, clock = self.env.now(), self.env.monotonic()
        await super()._revert(outcome)
        outcome.wired_s = await self._wired_s(outcome)
        await self._shell(outcome.server_id, "true")
        outcome.back_s = self.env.monotonic() - clock
        # The ping that ends the silence is heard at the latest a period after the log-in worked.
        await self.env.sleep(PING_PERIOD_S * 3)
        outcome.gap_s = self.pingers[outcome.server_id].gap_s(began, self.env.now())

    async def _wired_s(self, outcome: Outcome) -> float | None:
        """From the revert's beginning until the old host had said that the port is wired at its new generation."""
        told = (await self.client.get("virga", f"/servers/{outcome.server_id}/explain"))["explanation"]
        at = [port["wiring"]["at"] for host in told["hosts"] if host["name"] == outcome.host for port in host["ports"] if port["wiring"]]
        started = (told["operation"] or {}).get("started_at")
        return max(at) - started if at and started else None

    async def _check_kept(self, outcome: Outcome, before: dict[str, dict[str, Any]]) -> None:
        told = await self._shell(outcome.server_id, "sha256sum </root/demo-file; test ! -e /root/written-while-resized && echo clean || echo written")
        digest, _, trace = told.rpartition("\n")
        outcome.disk = "kept" if digest == self._digests[outcome.server_id] and trace == "clean" else "lost"
        if outcome.disk == "lost":
            outcome.why = outcome.why or "after the revert the guest does not have the old disk's bytes"

    def close(self) -> None:
        for pinger in self.pingers.values():
            pinger.stop()
        self.pingers.clear()
