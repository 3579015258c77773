"""The founding case on real bridges: certain by ordering, by chance from the command line, and nothing left behind by either."""
from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.real.conftest import shell, until

from virga.lab.hosts import Lab, processes_in
from virga.lab.kilo import HOST_A, HOST_B
from virga.lab.options import Options
from virga.lab.race import VIF_FAULT
from virga.lab.real_kilo import REAL_DELAYS, RealKilo
from virga.lab.real_race import draw
from virga.runtime.env import real_env

pytestmark = pytest.mark.real

NEVER_S = 1e6
PATIENCE_S = 30.0


@pytest.fixture
def hosts() -> Iterator[Lab]:
    lab = Lab(Path(tempfile.mkdtemp(prefix="virga-lab-")), 2, "pr", 92, temporary=True)
    lab.up()
    try:
        yield lab
    finally:
        lab.down()
        assert not [name for name in os.listdir("/run/netns") if name.startswith("vgpr-")] and not lab.folder.exists()


async def settle(look: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < end, f"{what} did not come about in {PATIENCE_S:g} s"
        await asyncio.sleep(0.02)


class Directed:
    """A cloud whose agents look when they are told to."""

    def __init__(self, cloud: RealKilo) -> None:
        self.cloud = cloud

    async def look(self, host: str) -> None:
        await self.cloud.agents[host].look()

    async def resized(self) -> str:
        """A server that was booted on host_A and resized to host_B, its port ACTIVE there."""
        cloud = self.cloud
        server_id = cloud.boot_next()
        await settle(lambda: cloud.machines[HOST_A].journal.find("tap/") and cloud.waits, "the tap of the paused guest")
        assert cloud.machines[HOST_A].state(server_id) in (None, "paused")
        await self.look(HOST_A)
        await settle(lambda: cloud.state(server_id) == ("active", None), "the boot")
        cloud.resize(server_id)
        await settle(lambda: cloud.state(server_id) == ("resized", None), "the resize")
        await self.look(HOST_A)
        await self.look(HOST_B)
        port = cloud.store.ports_of(server_id)[0]
        assert (port.host, port.status) == (HOST_B, "ACTIVE")
        assert cloud.real(HOST_A).journal.find("tap/") == {}
        return server_id

    def at_point(self, host: str, point: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do something when the manager of this host comes to a named place."""
        self.cloud.managers[host].env.fault_hook = lambda name, about: work() if name.endswith(":" + point) else None


def guests_in(namespaces: set[str]) -> list[int]:
    """QEMU processes; what ends while we look is not there."""
    found = []
    for pid in processes_in(namespaces):
        with contextlib.suppress(OSError):
            if b"qemu-system" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def kernel_bridged(lab: Lab, number: int) -> list[str]:
    told = shell("ip -o link show type tun", lab.hosts[number].namespace).stdout.splitlines()
    return [line.split(":")[1].strip() for line in told if " master brq" in line]


def test_the_order_of_look_and_read_decides_on_real_bridges(hosts: Lab, guest_image: Path, tmp_path: Path) -> None:
    options = Options(polling_interval=NEVER_S, vif_plugging_timeout=5.0, jitter=0.0, delays={**REAL_DELAYS, "batch": 0.1})

    async def story() -> None:
        cloud = RealKilo(options, hosts.hosts, guest_image, real_env("test"))
        try:
            await cloud.open()
            cloud.start()
            it = Directed(cloud)
            await host_b_looks_first(it, hosts)
            await host_a_reads_first(it, hosts)
            assert [one.failed for one in cloud.measured()] == [True, False]
            assert all(0.0 < one.window_s < one.took_s for one in cloud.measured())
            assert {path.stem for path in draw(cloud, tmp_path)} == {"real-success", "real-failure", "real-success-beside-failure"}
        finally:
            cloud.stop()
            await cloud.close()

    asyncio.run(story())


async def host_b_looks_first(it: Directed, hosts: Lab) -> None:
    """The failure of the report: nobody but a look between the end of the tap and the read is needed."""
    cloud = it.cloud
    server_id = await it.resized()
    it.at_point(HOST_B, "guest_destroyed", lambda: it.look(HOST_B))
    cloud.revert(server_id)
    await settle(lambda: len(cloud.waits) == 2, "the wait of host_A")
    await settle(lambda: cloud.machines[HOST_A].state(server_id) == "paused", "the guest on host_A")
    await it.look(HOST_A)
    port = cloud.store.ports_of(server_id)[0]
    assert cloud.network.ignored and (port.host, port.status) == (HOST_B, "BUILD")
    assert len(kernel_bridged(hosts, 0)) == 1, "the tap is there and bridged, and still nobody is told"
    await settle(lambda: cloud.state(server_id)[0] == "error", "the end of the wait")
    assert cloud.fault(server_id) == VIF_FAULT
    assert cloud.meter.disks_lost == [server_id]
    for number, host in enumerate(hosts.hosts):
        assert not list(Path(host.folder).glob("instances/*/disk")) and not shell("ip -o link show type tun", hosts.hosts[number].namespace).stdout
        assert not guests_in({host.namespace})
    cloud.managers[HOST_B].env.fault_hook = None
    cloud.delete(server_id)
    await settle(lambda: server_id not in cloud.store.servers, "the delete")


async def host_a_reads_first(it: Directed, hosts: Lab) -> None:
    """The same, but host_B's agent looks when host_A has read: ACTIVE, from a host where the tap has ended."""
    cloud = it.cloud
    waits = len(cloud.waits)
    server_id = await it.resized()
    cloud.revert(server_id)
    await settle(lambda: cloud.state(server_id) == ("active", None), "the revert")
    await it.look(HOST_B)
    await it.look(HOST_A)
    assert len(cloud.waits) == waits + 1, "only its boot has waited"
    assert len(kernel_bridged(hosts, 0)) == 1 and not kernel_bridged(hosts, 1)
    assert server_id not in cloud.meter.disks_lost and cloud.meter.unwired_s(server_id, HOST_A) > 0.0


def spaces() -> set[str]:
    return {name for name in os.listdir("/run/netns") if name.startswith(("vgk", "vgu"))} if Path("/run/netns").exists() else set()


def start(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "virga.cli", "race", "--real", "--servers", "2", "--rounds", "1", "--json", *arguments],
                            env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def nothing_left(tmp_path: Path, before: set[str]) -> bool:
    return spaces() <= before and not list(tmp_path.glob("virga-race-*"))


def raced(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    before = spaces()
    process = start(tmp_path, *arguments)
    out, said = process.communicate(timeout=400)
    assert process.returncode is not None and out, said
    until(lambda: nothing_left(tmp_path, before), 10, "removal of everything")
    return process.returncode, {line["name"]: line for line in msgspec.json.decode(out)["eras"]}


def adds_up(line: dict[str, Any]) -> bool:
    return bool(line["reverts"] == 2 == line["active"] + line["error"] + line["stuck"] and line["error"] == line["vif_errors"] == line["disks_lost"]
                and not line["stuck"] and line["longest_s"] > 0)


def test_a_tiny_race_counts_every_revert(tmp_path: Path, guest_image: Path) -> None:
    code, eras = raced(tmp_path, "--era", "kilo-2015.1.0", "--polling-interval", "1", "--vif-plugging-timeout", "10")
    line = eras["kilo-2015.1.0"]
    assert code == 0 and list(eras) == ["kilo-2015.1.0"] and adds_up(line)
    assert line["expected"] is None or 0.0 < line["expected"] < 2.0


@pytest.mark.slow
def test_kilo_and_virga_from_the_command_line(tmp_path: Path, guest_image: Path) -> None:
    code, eras = raced(tmp_path, "--polling-interval", "1", "--draw", str(tmp_path / "drawn"))
    assert code == 0 and list(eras) == ["kilo-2015.1.0", "virga"] and all(adds_up(line) for line in eras.values())
    assert (eras["virga"]["active"], eras["virga"]["error"]) == (2, 0)
    assert (tmp_path / "drawn" / "real-virga-revert.svg").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("era", "number"), [("kilo-2015.1.0", signal.SIGKILL), ("virga", signal.SIGKILL), ("virga", signal.SIGINT)])
def test_nothing_is_left_when_it_is_killed(tmp_path: Path, guest_image: Path, era: str, number: signal.Signals) -> None:
    before = spaces()
    process = start(tmp_path, "--era", era)
    try:
        until(lambda: any("host-2" in name for name in spaces() - before), 60, "the hosts")
        mine = {name for name in spaces() - before if not name.endswith("-ul")}
        until(lambda: bool(guests_in(mine)), 60, "the first guest")
    finally:
        process.send_signal(number)
        process.communicate(timeout=60)
    until(lambda: nothing_left(tmp_path, before), 60, "removal of everything")


@pytest.mark.parametrize(("arguments", "says"), [
    (["--compare", "--era", "virga"], "leave --era"), (["--museum"], "two different things"), (["--seeds", "3"], "means nothing with --real"),
    (["--jitter", "0.2"], "means nothing with --real"), (["--era", "virga", "--nonfatal"], "says nothing"),
])
def test_senseless_combinations_are_refused_in_one_line(arguments: list[str], says: str) -> None:
    done = subprocess.run([sys.executable, "-m", "virga.cli", "race", "--real", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and says in done.stderr and len(done.stderr.splitlines()) == 1


def test_who_is_not_root_is_told_so_in_one_line() -> None:
    done = subprocess.run([sys.executable, "-c", "import os; os.geteuid = lambda: 1000; from virga.cli import main; main(['race', '--real'])"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.splitlines() == ["virga: --real: an emulated host of real guests needs root; run as root, or leave --real out"]
