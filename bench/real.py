# ruff: noqa: ASYNC110 - a measuring program polls, and looks at local files
"""Measures and soaks real hosts: `python bench/real.py [--only wired,gap,leave,soak] [--rounds 20] [--guests 4]` (root, libvirt, the guest image).

wired   a port is attached again and again: tap made on the host (by kernel event) -> port ACTIVE at the API; in a cloud as it is, and then in one whose
        agents listen to nothing and look every 2 s (minimize_polling = false); the ratio of the two
gap     a guest alone is resized, reverted and live-migrated under a ping every 50 ms; beside it, how long it takes to stop and boot by itself
leave   a cloud of two hosts is started and stopped (every second time by kill -9); namespaces, links, processes and mounts are counted afterwards
soak    rounds of resize-all / revert-all while at random an agent, a libvirtd, a guest's qemu or the controller is killed -9; every server must be
        ACTIVE on its old host with its old bytes at the end of every round

Prints one line a figure and writes bench/real.json. Exit code 1 when something was lost or left.
"""
from __future__ import annotations

import sys

if sys.path and sys.path[0].endswith("bench"):  # this folder has an http.py that is not the one of the standard library
    sys.path[0] = sys.path[0][:-len("/bench")] or "/"

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.soak import soak
from virga.cli_client import Client, ClientError, find_login
from virga.cli_demo import Child
from virga.cli_guests import RealFounding
from virga.cli_race_real import PacedFounding
from virga.lab.hosts import processes_in
from virga.lab.real_race import plan_for
from virga.runtime.env import real_env

RESULTS = Path(__file__).resolve().with_name("real.json")
ATTACHES = 15
STARTS = 20
POLL_INTERVAL_S = 2.0
GOLDEN = 0.6180339887


PROGRAMS = (b"qemu-system", b"libvirtd", b"virga.lab.hosts", b"virga.cli\0host\0", b"virga.cli\0controller\0", b"dnsmasq")


def namespaces() -> set[str]:
    folder = Path("/run/netns")
    return {entry.name for entry in folder.iterdir() if entry.name.startswith("vg")} if folder.exists() else set()


def links() -> set[str]:
    out = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    return {line.split(":")[1].strip().split("@")[0] for line in out.splitlines()}


def traces() -> dict[str, Any]:
    """What a lab could leave: namespaces, links, processes that are ours, mounts, runtime folders."""
    ours = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            ours += state != "Z" and any(word in command for word in PROGRAMS)
    runtime = {entry.name for entry in Path("/run").iterdir() if entry.name.startswith("vg")}
    mounts = sum("/vg" in line for line in Path("/proc/mounts").read_text().splitlines())
    return {"namespaces": namespaces(), "links": links(), "processes": ours, "mounts": mounts, "runtime": runtime}


def space_of(folder: str, names: set[str]) -> str:
    """Of these namespaces (other clouds may have come up meanwhile) the one of host-1 of the cloud in this folder."""
    for name in sorted(names):
        if name.endswith("-host-1"):
            for pid in processes_in([name]):
                with contextlib.suppress(OSError):
                    if folder.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                        return name
    raise ClientError(f"the cloud in {folder} has no host-1")


def more_than(before: dict[str, Any]) -> dict[str, Any]:
    """What is there now and was not before."""
    found: dict[str, Any] = {}
    for name, now in traces().items():
        extra = now - before[name] if isinstance(now, set) else max(0, now - before[name])
        if extra:
            found[name] = extra
    return found


class Bench:
    """One cloud at a time, on a free port, in a folder of its own."""

    def __init__(self, guests: int, rounds: int, seed: int) -> None:
        self.env = real_env("bench")
        self.guests, self.rounds = guests, rounds
        self.chance = random.Random(seed)
        self.figures: dict[str, Any] = {}
        self.bad: list[str] = []

    def say(self, name: str, value: Any, unit: str = "") -> None:
        self.figures[name] = value
        print(f"{name:58} {value:.3f} {unit}" if isinstance(value, float) else f"{name:58} {value} {unit}", flush=True)

    def child(self, folder: str, hosts: int, *more: str) -> Child:
        return Child(self.env, Path(folder), ["--hosts", str(hosts), "--hypervisor", "libvirt", "--virt-type", "qemu", *more])

    # wired and gap --------------------------------------------------------------------------------------------------
    async def one_guest(self) -> None:
        with tempfile.TemporaryDirectory(prefix="virga-bench-") as folder:
            child = self.child(folder, 2)
            try:
                began = time.monotonic()
                await child.ready(120)
                self.say("two emulated hosts connected after", time.monotonic() - began, "s (goal under 5)")
                async with Client(find_login(folder)) as client:
                    founding = RealFounding(self.env, client, servers=1, say=lambda phase, done: None, folder=Path(folder), timeout_s=240)
                    try:
                        await founding.prepare()
                        await self.gap(client, founding)
                    finally:
                        founding.close()
            finally:
                child.stop()

    async def wired(self) -> None:
        """Two clouds one after the other in this one run, the same machine under both."""
        events, looks = await self._wired(True), await self._wired(False)
        for how, took in (("kernel events", events), (f"a look every {POLL_INTERVAL_S:g} s", looks)):
            self.say(f"tap made -> port ACTIVE, {how}, p50 of {len(took)}", statistics.median(took), "s (goal under 0.150)" if took is events else "s")
            self.say(f"tap made -> port ACTIVE, {how}, worst", max(took), "s")
        self.say("looking takes so many times as long (p50)", statistics.median(looks) / statistics.median(events), "(goal at least 8)")
        self.say("load of this machine, one minute", os.getloadavg()[0])

    async def _wired(self, minimize_polling: bool) -> list[float]:
        before = namespaces()
        with tempfile.TemporaryDirectory(prefix="virga-bench-", ignore_cleanup_errors=True) as folder:
            config = Path(folder) / "virga.toml"
            config.write_text(f"[network]\nminimize_polling = {str(minimize_polling).lower()}\npolling_interval = {POLL_INTERVAL_S}\n")
            child = self.child(folder, 1, "--config", str(config))
            try:
                await child.ready(120)
                async with Client(find_login(folder)) as client:
                    founding = PacedFounding(self.env, client, plan_for(1, 1, 2.0), lambda phase, done: None)
                    await founding.prepare()
                    return await self._attached(client, founding.servers[0]["id"], space_of(folder, namespaces() - before))
            finally:
                child.stop()

    async def _attached(self, client: Client, server: str, space: str) -> list[float]:
        network = (await client.get("network", "/v2.0/networks?name=private"))["networks"][0]["id"]
        took: list[float] = []
        seen: dict[str, float] = {}
        watch = await asyncio.create_subprocess_exec("ip", "netns", "exec", space, "ip", "monitor", "link", stdout=subprocess.PIPE)
        reader = asyncio.ensure_future(_note_taps(watch, seen))
        await asyncio.sleep(2)
        first = time.monotonic()
        for number in range(ATTACHES):
            port = (await client.post("network", "/v2.0/ports", {"port": {"network_id": network}}))["port"]["id"]
            # Evenly spread over the period of whoever looks (golden ratio), so that few attaches say as much as many at random.
            wanted = number * GOLDEN % 1 * POLL_INTERVAL_S
            await asyncio.sleep((first + wanted - time.monotonic()) % POLL_INTERVAL_S)
            # The call is answered when the guest has the card; the port is looked at meanwhile.
            body = {"interfaceAttachment": {"port_id": port}}
            attach = asyncio.ensure_future(client.post("compute", f"/servers/{server}/os-interface", body))
            end = time.monotonic() + 30
            while (await client.get("network", f"/v2.0/ports/{port}"))["port"]["status"] != "ACTIVE" and time.monotonic() < end:
                await asyncio.sleep(0.01)  # not quicker: asking costs the controller time it needs for the answer
            active = time.monotonic()
            await attach
            await asyncio.sleep(0.2)
            took.append(active - seen["tap" + port[:11]])
            await self._detached(client, server, port)
        watch.kill()
        await watch.wait()
        reader.cancel()
        return took

    async def _detached(self, client: Client, server: str, port: str) -> None:
        await client.call("DELETE", "compute", f"/servers/{server}/os-interface/{port}")
        end = time.monotonic() + 40
        while time.monotonic() < end:
            if not (await client.get("network", f"/v2.0/ports?id={port}&device_id={server}"))["ports"]:
                break
            await asyncio.sleep(0.05)
        await client.call("DELETE", "network", f"/v2.0/ports/{port}", ok=(404, 409))

    async def gap(self, client: Client, founding: RealFounding) -> None:
        server = founding.servers[0]["id"]
        pinger = founding.pingers[server]
        began = self.env.now()
        await client.post("compute", f"/servers/{server}/action", {"reboot": {"type": "SOFT"}})
        await asyncio.sleep(2)
        await founding._until(server, "ACTIVE")
        await founding._shell(server, "true")
        alone = pinger.gap_s(began, self.env.now())
        self.say("a guest stopped and booted in place: ping gap", alone, "s")
        outcomes = await founding.round(1)
        self.say("revert: ping gap", outcomes[0].gap_s, f"s (goal: at most {alone + 0.5:.2f})")
        self.say("revert: asked -> ACTIVE", outcomes[0].revert_s, "s")
        self.say("revert: asked -> port wired", outcomes[0].wired_s, "s")
        for number in (1, 2):
            was = (await client.get("compute", f"/servers/{server}"))["server"]["OS-EXT-SRV-ATTR:host"]
            began = self.env.now()
            await client.post("compute", f"/servers/{server}/action", {"os-migrateLive": {"host": None, "block_migration": "auto"}}, version="2.30")
            while (await client.get("compute", f"/servers/{server}"))["server"]["OS-EXT-SRV-ATTR:host"] == was and self.env.now() < began + 120:
                await asyncio.sleep(0.05)
            await asyncio.sleep(1.5)
            self.say(f"live migration {number}: ping gap", pinger.gap_s(began, self.env.now()), "s (goal under 1)")

    # leave ----------------------------------------------------------------------------------------------------------
    async def leave(self) -> None:
        before = traces()
        left: list[str] = []
        started: list[float] = []
        for number in range(STARTS):
            with tempfile.TemporaryDirectory(prefix="virga-bench-", ignore_cleanup_errors=True) as folder:
                child = self.child(folder, 2)
                began = time.monotonic()
                try:
                    await child.ready(120)
                    started.append(time.monotonic() - began)
                finally:
                    if number % 2:
                        child.process.kill()
                        child.process.wait()
                    else:
                        child.stop()
                end = time.monotonic() + 20
                while (more := more_than(before)) and time.monotonic() < end:
                    await asyncio.sleep(0.1)
                if more:
                    left.append(f"start {number + 1}: {more}")
        self.say("starts and stops (every second one by kill -9)", STARTS)
        self.say("of them left something behind", len(left))
        self.say("two emulated hosts connected, p50", statistics.median(started), "s (goal under 5)")
        self.bad += left

    async def soak(self) -> None:
        bad, text = await soak(self.env, self.chance, self.guests, self.rounds)
        self.bad += bad
        self.say("reverts ACTIVE on the old host with the old bytes", text)


async def _note_taps(watch: asyncio.subprocess.Process, seen: dict[str, float]) -> None:
    """When the kernel first told of each tap."""
    assert watch.stdout is not None
    async for line in watch.stdout:
        for word in line.decode().replace(":", " ").split():
            if word.startswith("tap"):
                seen.setdefault(word.partition("@")[0], time.monotonic())


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure and soak real hosts.")
    parser.add_argument("--only", default="wired,gap,leave,soak")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--guests", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    what = set(options.only.split(","))
    bench = Bench(options.guests, options.rounds, options.seed)
    if "wired" in what:
        asyncio.run(bench.wired())
    if "gap" in what:
        asyncio.run(bench.one_guest())
    if "leave" in what:
        asyncio.run(bench.leave())
    if "soak" in what:
        asyncio.run(bench.soak())
    RESULTS.write_text(json.dumps({"figures": bench.figures, "bad": bench.bad}, indent=1, default=str) + "\n")
    for line in bench.bad:
        print("BAD", line)
    return 1 if bench.bad else 0


if __name__ == "__main__":
    sys.exit(main())
