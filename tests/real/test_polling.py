"""The wiring driver that is told by looking: nothing happens between two looks, and everything at the next."""
from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.real.conftest import Driver, Refused, shell
from tests.real.test_drivers import MACS, NET, PORTS, nic, view

from virga.lab.hosts import Lab

pytestmark = pytest.mark.real


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    lab = Lab(Path(tempfile.mkdtemp(prefix="virga-lab-")), 1, "pp", 93, libvirt=False, temporary=True)
    lab.up()
    try:
        made = Driver(lab, lab.hosts[0], tmp_path, polling=True)
        try:
            yield made
        finally:
            made.stop()
    finally:
        lab.down()


def links(driver: Driver) -> str:
    return shell("ip -o link", driver.host.namespace).stdout


def hints(driver: Driver) -> list[str]:
    return [what for _, kind, what in driver.call("events") if kind == "port"]


def test_nothing_happens_between_two_looks(driver: Driver) -> None:
    tap, bridge = nic(0).tap, nic(0).bridge
    driver.call("wiring.apply", view(driver.host, [0], []))
    assert bridge not in links(driver), "a view waits for the next look"
    with pytest.raises(Refused) as late:
        driver.call("wiring.wire", nic(0))
    assert late.value.code == "timeout"
    assert tap in links(driver) and "master" not in next(line for line in links(driver).splitlines() if tap in line)
    assert driver.call("wiring.wired") == {PORTS[0]: False}

    driver.call("wiring._look")
    assert driver.call("wiring.wired") == {PORTS[0]: True}
    driver.call("wiring.wire", nic(0))  # what was looked at is there at once
    assert MACS[0] in shell("nft list ruleset", driver.host.namespace).stdout and hints(driver) != []

    # somebody takes the tap off the bridge: the kernel says so, and nobody listens
    shell(f"ip link set {tap} nomaster", driver.host.namespace)
    assert hints(driver) == []
    driver.call("wiring._look")
    assert hints(driver) == [PORTS[0]]
    with pytest.raises(Refused):
        driver.call("wiring.wire", nic(0))
    driver.call("wiring._look")
    assert driver.call("wiring.wired") == {PORTS[0]: True}

    driver.call("wiring.unwire", PORTS[0])
    driver.call("wiring.apply", view(driver.host, [], []) | {"version": "empty", "networks": []})
    assert tap not in links(driver) and bridge in links(driver)
    driver.call("wiring._look")
    assert bridge not in links(driver) and f"qdhcp-{NET}" not in shell("ip netns").stdout


def test_a_tap_that_comes_before_its_view_is_served_a_look_later(driver: Driver) -> None:
    with pytest.raises(Refused):
        driver.call("wiring.wire", nic(0))
    driver.call("wiring._look")
    assert driver.call("wiring.wired") == {PORTS[0]: False}, "bridged, but nothing is known of it"
    driver.call("wiring.apply", view(driver.host, [0], []))
    with pytest.raises(Refused):
        driver.call("wiring.wire", nic(0))
    driver.call("wiring._look")
    driver.call("wiring.wire", nic(0))
    assert driver.call("wiring.wired") == {PORTS[0]: True}
