"""A whole cloud on two emulated hosts with real guests, from outside: API, ping and ssh, as a user has it. This is the small suite of `make test`."""
from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.real.conftest import until

from virga.cli_client import Client, find_login
from virga.cli_demo import Child
from virga.cli_founding import count
from virga.cli_guests import RealFounding
from virga.lab.hosts import processes_in
from virga.runtime.env import real_env

pytestmark = pytest.mark.real


def lab_namespaces() -> set[str]:
    folder = Path("/run/netns")
    return {entry.name for entry in folder.iterdir() if entry.name.startswith("vgu")} if folder.exists() else set()


async def settle(look: Callable[[], Awaitable[Any]], timeout_s: float, what: str) -> Any:
    """Poll an asynchronous question until its answer is true."""
    end = time.monotonic() + timeout_s
    while True:
        answer = await look()
        if answer:
            return answer
        assert time.monotonic() < end, f"{what} did not come about in {timeout_s:g} s"
        await asyncio.sleep(0.2)


class Story:
    """One cloud, two guests, and the things done to them."""

    def __init__(self, child: Child, client: Client, founding: RealFounding) -> None:
        self.child, self.client, self.founding = child, client, founding

    async def server(self, number: int) -> dict[str, Any]:
        return dict((await self.client.get("compute", f"/servers/{self.founding.servers[number]['id']}"))["server"])

    async def act(self, number: int, body: dict[str, Any], version: str = "") -> None:
        await self.client.post("compute", f"/servers/{self.founding.servers[number]['id']}/action", body, version=version)

    async def shell(self, number: int, command: str) -> str:
        return await self.founding._shell(self.founding.servers[number]["id"], command)

    async def idle(self, number: int, status: str, timeout_s: float = 120.0) -> dict[str, Any]:
        async def look() -> dict[str, Any] | None:
            server = await self.server(number)
            assert server["status"] != "ERROR", server.get("fault")
            return server if server["status"] == status and server["OS-EXT-STS:task_state"] is None else None

        return dict(await settle(look, timeout_s, f"server {number} {status}"))

    def address(self, number: int) -> str:
        return self.founding.addresses[self.founding.servers[number]["id"]]

    async def pings(self, number: int) -> bool:
        code, _ = await self.founding._run("ping", "-c1", "-W1", self.address(number))
        return code == 0


@asynccontextmanager
async def running(tmp_path: Path, hosts: int) -> AsyncIterator[Child]:
    env = real_env("test")
    child = Child(env, tmp_path, ["--hosts", str(hosts), "--hypervisor", "libvirt", "--virt-type", "qemu"])
    try:
        await child.ready(120.0)
        yield child
    finally:
        child.stop()


def test_two_real_guests_on_two_hosts(tmp_path: Path, guest_image: Path, alone: None) -> None:
    before = lab_namespaces()

    async def story() -> None:
        env = real_env("test")
        began = time.monotonic()
        async with running(tmp_path, 2) as child:
            print(f"2 hosts connected after {time.monotonic() - began:.1f} s")
            async with Client(find_login(str(tmp_path))) as client:
                founding = RealFounding(env, client, servers=2, say=lambda phase, done: None, folder=tmp_path, timeout_s=240.0)
                try:
                    await founding.prepare()
                    print(f"2 guests logged into after {time.monotonic() - began:.1f} s")
                    it = Story(child, client, founding)
                    await guest_to_guest(it)
                    await group_cuts_and_restores(it)
                    await resize_and_revert(it)
                    await live_migration(it)
                    await agent_dies(it)
                    await controller_dies(it)
                    await snapshot_boots(it)
                finally:
                    founding.close()

    asyncio.run(story())
    until(lambda: lab_namespaces() <= before, 10, "removal of every namespace")


async def guest_to_guest(it: Story) -> None:
    hosts = {(await it.server(number))["OS-EXT-SRV-ATTR:host"] for number in (0, 1)}
    assert len(hosts) == 2, "two equal servers spread over two empty hosts"
    fixed = next(entry["addr"] for entries in (await it.server(1))["addresses"].values() for entry in entries if entry["OS-EXT-IPS:type"] == "fixed")
    said = await it.shell(0, f"hostname; ping -c1 -W3 {fixed} >/dev/null && wget -q -O - http://{fixed}/; cat /sys/class/net/eth0/mtu; "
                             "wget -q -O - http://169.254.169.254/openstack/latest/meta_data.json")
    lines = said.splitlines()
    assert lines[:3] == ["demo-1", "demo-2", "1450"] and it.founding.servers[0]["id"] in lines[3], said
    log = (await it.client.post("compute", f"/servers/{it.founding.servers[0]['id']}/action", {"os-getConsoleOutput": {"length": 20}}))["output"]
    assert "virga-guest: ready: demo-1" in log


async def group_cuts_and_restores(it: Story) -> None:
    rules = (await it.client.get("network", f"/v2.0/security-group-rules?protocol=icmp&project_id={it.client.project_id}"))["security_group_rules"]
    assert await it.pings(0)
    for rule in rules:
        await it.client.call("DELETE", "network", f"/v2.0/security-group-rules/{rule['id']}")
    began = time.monotonic()

    async def silent() -> bool:
        return not await it.pings(0)

    await settle(silent, 5, "the cut")
    print(f"group change cut the ping within {time.monotonic() - began:.2f} s")
    await it.founding._open_ports()

    async def back() -> bool:
        return await it.pings(0)

    await settle(back, 5, "the restoring")


async def resize_and_revert(it: Story) -> None:
    outcomes = await it.founding.round(1)
    totals = count(outcomes)
    for outcome in outcomes:
        print(f"{outcome.server}: resize {outcome.resize_s:.2f} s, revert {outcome.revert_s:.2f} s, wired {outcome.wired_s} s, gap {outcome.gap_s:.2f} s")
    assert totals.active == 2 and [outcome.disk for outcome in outcomes] == ["kept", "kept"], outcomes


async def live_migration(it: Story) -> None:
    was = (await it.server(0))["OS-EXT-SRV-ATTR:host"]
    uptime = float((await it.shell(0, "cut -d' ' -f1 /proc/uptime; echo lived >/root/lived")).split()[0])
    began = it.founding.env.now()
    await it.act(0, {"os-migrateLive": {"host": None, "block_migration": "auto"}}, "2.30")
    await settle(lambda: _elsewhere(it, was), 120, "the migration")
    await it.idle(0, "ACTIVE")
    await asyncio.sleep(1)
    gap_s = it.founding.pingers[it.founding.servers[0]["id"]].gap_s(began, it.founding.env.now())
    print(f"live migration: longest silence {gap_s * 1000:.0f} ms")
    assert await it.shell(0, "cat /root/lived") == "lived"
    assert float((await it.shell(0, "cut -d' ' -f1 /proc/uptime")).split()[0]) > uptime, "it was not booted again"
    assert gap_s < 5.0, "a test machine may be busy; bench/real.py measures against the goal"


async def _elsewhere(it: Story, was: str) -> bool:
    return bool((await it.server(0))["OS-EXT-SRV-ATTR:host"] != was)


async def controller_dies(it: Story) -> None:
    """kill -9 of the controller alone: guests do not notice, the next call is answered by a new one, and the hosts are there again."""
    pid = it.child.process.pid
    mine = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    controllers = [child for child in mine if b"virga.cli\0controller\0" in Path(f"/proc/{child}/cmdline").read_bytes()]
    assert len(controllers) == 1
    os.kill(controllers[0], signal.SIGKILL)
    # A call on its way to the dying process would be cut off: the kernel closes its connections a moment after the signal, when the last thread is gone.
    while Path(f"/proc/{controllers[0]}").exists():
        await asyncio.sleep(0.01)
    assert await it.pings(1)
    await it.act(1, {"reboot": {"type": "HARD"}})  # waits in the socket's queue, and then for the host
    await it.idle(1, "ACTIVE")
    assert controllers[0] not in [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def agent_dies(it: Story) -> None:
    """kill -9 of an agent: its guest goes on, a new agent takes over, and works."""
    host = (await it.server(1))["OS-EXT-SRV-ATTR:host"]
    ours = b"virga.cli\0host\0--name\0" + host.encode() + b"\0--state\0" + str(it.child.state).encode()  # other clouds have hosts of that name too
    agents = [pid for pid in processes_in([name for name in lab_namespaces() if name.endswith(host)])
              if ours in (command := Path(f"/proc/{pid}/cmdline").read_bytes()) and not command.startswith(b"sh\0")]
    assert len(agents) == 1
    os.kill(agents[0], signal.SIGKILL)
    assert await it.pings(1)
    await it.act(1, {"reboot": {"type": "HARD"}})
    await it.idle(1, "ACTIVE")
    assert (await it.shell(1, "hostname")) == "demo-2"


async def snapshot_boots(it: Story) -> None:
    """A snapshot goes up from the host over TLS, and a server made from it has the file."""
    await it.shell(1, "echo shot >/root/shot; sync")
    made = await it.client.post("compute", f"/servers/{it.founding.servers[1]['id']}/action", {"createImage": {"name": "shot"}}, version="2.45")

    async def active() -> bool:
        image = await it.client.get("image", f"/v2/images/{made['image_id']}")
        assert image["status"] in ("queued", "saving", "active"), image
        return bool(image["status"] == "active")

    await settle(active, 120, "the snapshot")
    await it.act(1, {"rebuild": {"imageRef": made["image_id"]}})
    await it.idle(1, "ACTIVE")
    assert await it.shell(1, "cat /root/shot") == "shot"


def test_nothing_is_left_when_the_cloud_is_killed(tmp_path: Path, alone: None) -> None:
    before = lab_namespaces()
    child = subprocess.Popen([sys.executable, "-m", "virga.cli", "up", "--state", str(tmp_path), "--listen", "127.0.0.1:0", "--hosts", "1",
                              "--hypervisor", "libvirt", "--virt-type", "qemu"], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert child.stdout is not None
        for line in child.stdout:
            if re.search(r"hosts are connected", line):
                break
        mine = lab_namespaces() - before
        assert mine and processes_in(mine)
        gone = sorted(mine)
    finally:
        child.kill()
        child.wait()
    until(lambda: not lab_namespaces() & set(gone), 20, "removal by the keeper")
    # the kernel takes a dead namespace's links away in its own time
    until(lambda: not legs_of(mine), 20, "removal of the links")


def legs_of(namespaces: set[str]) -> list[str]:
    """Links of an emulated cloud's in our own namespace."""
    shown = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout.splitlines()
    ends = tuple(f"{name.split('-')[0]}{end}" for name in namespaces for end in "cx")
    return [line for line in shown if line.startswith(ends)]
