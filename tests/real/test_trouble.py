"""Trouble on a host, with real kernels, daemons and guests: each driver says why, the host stays clean, what is not ours is never touched."""
from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.real.conftest import Driver, shell, until
from tests.real.test_drivers import PORTS, SERVERS, nic, view

from virga.agent.hypervisor import ImageRef

pytestmark = [pytest.mark.real, pytest.mark.slow]
IMAGE = ImageRef("guest", disk_format="qcow2")


def empty(driver: Driver) -> None:
    """Nothing is wanted on this host any more."""
    driver.call("wiring.apply", view(driver.host, [], []) | {"version": f"empty {time.monotonic()}", "networks": []})


def links(driver: Driver) -> str:
    return shell("ip -br link", driver.host.namespace).stdout


def in_background(work: Any) -> tuple[threading.Thread, list[Any]]:
    done: list[Any] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as error:
            done.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, done


def test_a_dead_link_in_the_middle_of_a_copy(drivers: list[Driver]) -> None:
    """eth0 of the source goes down for seconds: the copy stands still and then goes on to its end, and the wiring reports all is well."""
    one, two = drivers
    one.call("disks.create", SERVERS[0], IMAGE, 1)
    disk = Path(one.host.folder) / "instances" / SERVERS[0] / "disk"
    subprocess.run(["qemu-io", "-c", "write -P 7 0 48M", str(disk)], check=True, capture_output=True)
    for driver, number, other in ((one, 0, two), (two, 1, one)):
        driver.call("wiring.apply", view(driver.host, [number], [other.host.address]))
        driver.call("wiring.wire", nic(number))
    shell("tc qdisc add dev eth0 root tbf rate 80mbit burst 64k latency 50ms", one.host.namespace)
    try:
        thread, done = in_background(lambda: two.call("disks.fetch", SERVERS[0], one.host.name, one.host.address))
        folder = Path(two.host.folder) / "instances" / SERVERS[0]
        until(lambda: any(path.stat().st_size > 4 << 20 for path in folder.glob("disk.from.*")), 60, "the copy being under way")
        shell("ip link set eth0 down", one.host.namespace)
        assert one.call("wiring.wired") == {PORTS[0]: True}, "a tap is wired although its host is cut off: that is about the host, not the port"
        time.sleep(4)
        assert thread.is_alive() and not (folder / "disk").exists()
        shell("ip link set eth0 up", one.host.namespace)
        thread.join(90)
        assert done == [one.call("disks.checksum", SERVERS[0])], done
    finally:
        shell("ip link set eth0 up; tc qdisc del dev eth0 root", one.host.namespace)
    # the tunnel device and its flood list outlived it: frames go through again without anybody's help
    assert two.host.address in shell("bridge fdb show dev vxlan-4711", one.host.namespace).stdout
    until(lambda: shell(f"ping -c1 -W1 {two.host.address}", one.host.namespace).returncode == 0, 10, "the hosts reaching each other")
    for driver, number in ((one, 0), (two, 1)):
        driver.call("wiring.unwire", PORTS[number])
        driver.call("disks.discard", SERVERS[0])
        empty(driver)
