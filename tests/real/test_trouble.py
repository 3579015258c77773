"""Trouble on a host, with real kernels, daemons and guests: each driver says why, the host stays clean, what is not ours is never touched."""
from __future__ import annotations

import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.real.conftest import Driver, Refused, shell, until
from tests.real.test_drivers import ADDRESSES, MACS, NET, PORTS, SERVERS, dhcp_ns, nic, spec, view

from virga.agent.hypervisor import ImageRef, Nic
from virga.lab.hosts import Lab, processes_in

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


def in_the_way(driver: Driver, call: str, *args: Any, said: str, **more: Any) -> str:
    with pytest.raises(Refused) as caught:
        driver.call(call, *args, **more)
    assert caught.value.code in ("conflict", "timeout", "failed"), caught.value.code
    assert said in str(caught.value), caught.value
    return str(caught.value)


@pytest.mark.parametrize(("make", "name", "said"), [
    ("ip link add brqaaaaaaaa-00 type veth peer name other", "brqaaaaaaaa-00", "it is a veth, not a bridge"),
    ("ip link add brqaaaaaaaa-00 type bridge; ip link set brqaaaaaaaa-00 up", "brqaaaaaaaa-00", "it is not ours"),
    ("ip link add vxlan-4711 type vxlan id 99 dstport 4790 local 127.0.0.1; ip link set vxlan-4711 up", "vxlan-4711", "it is not ours"),
    ("ip link add vxlan-4711 type veth peer name other", "vxlan-4711", "it is a veth, not a vxlan"),
    ("ip link add mine type vxlan id 4711 dstport 4789 local {address}", "mine", "vxlan 4711 is in use on this host already"),
])
def test_a_device_with_our_name_that_is_not_ours(drivers: list[Driver], make: str, name: str, said: str) -> None:
    """The wiring says what is in the way and leaves it; with it gone the same call works."""
    one = drivers[0]
    shell(make.format(address=one.host.address), one.host.namespace)
    before = shell(f"ip -d -o link show {name} | sed 's/qlen.*//'", one.host.namespace).stdout
    assert name in before
    with pytest.raises(Refused):
        one.call("wiring.apply", view(one.host, [0], []))
    in_the_way(one, "wiring.wire", nic(0), said=said)
    assert one.call("wiring.wired").get(PORTS[0]) is not True
    one.call("wiring.unwire", PORTS[0])
    empty(one)
    assert shell(f"ip -d -o link show {name} | sed 's/qlen.*//'", one.host.namespace).stdout == before, "not ours, not touched"
    until(lambda: "tap" not in links(one), 5, "a clean host")
    shell(f"ip link del {name}", one.host.namespace)
    one.call("wiring.apply", view(one.host, [0], []))
    one.call("wiring.wire", nic(0))
    assert one.call("wiring.wired") == {PORTS[0]: True}
    one.call("wiring.unwire", PORTS[0])
    empty(one)
    until(lambda: not any(word in links(one) for word in ("brq", "vxlan", "tap")), 5, "a clean host")


def test_a_network_takes_over_the_segment_of_one_that_is_gone(drivers: list[Driver]) -> None:
    """The wire comes before the view that says so, as it may: it waits for the view, and the old network makes room."""
    one = drivers[0]
    one.call("wiring.apply", view(one.host, [0], []))
    one.call("wiring.wire", nic(0))
    one.call("wiring.unwire", PORTS[0])
    other = "dddddddd-0000-4000-8000-000000000004"
    fresh = json.loads(json.dumps(view(one.host, [1], [])).replace(NET, other))
    fresh["version"] = "fresh"
    wire = one.ask("wiring.wire", Nic(PORTS[1], 1, MACS[1], other, "vxlan", 4711, "", 1450))
    time.sleep(0.3)
    one.call("wiring.apply", fresh)
    wire()
    assert one.call("wiring.wired") == {PORTS[1]: True}
    assert "brqaaaaaaaa-00" not in links(one) and "brqdddddddd-00" in links(one)
    one.call("wiring.unwire", PORTS[1])
    empty(one)


def test_taps_that_are_stale_and_taps_that_are_not_ours(drivers: list[Driver]) -> None:
    one = drivers[0]
    tap = nic(0).tap
    one.call("wiring.apply", view(one.host, [0], []))
    # somebody has it open: in use; something else has the name: not ours
    holder = subprocess.Popen(["ip", "netns", "exec", one.host.namespace, "python3", "-c", (
        "import fcntl,struct,time\nf=open('/dev/net/tun','r+b',buffering=0)\n"
        f"fcntl.ioctl(f,0x400454ca,struct.pack('16sH',b'{tap}',0x1002))\nprint('open',flush=True)\ntime.sleep(60)")], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "open\n"
        shell(f"ip link set {tap} up", one.host.namespace)
        in_the_way(one, "wiring.wire", nic(0), said="it is in use")
        one.call("wiring.unwire", PORTS[0])
        assert tap in links(one)
    finally:
        holder.kill()
        holder.wait()
    until(lambda: tap not in links(one), 5, "the kernel taking back the tap of the dead process")
    shell(f"ip link add {tap} type veth peer name other", one.host.namespace)
    in_the_way(one, "wiring.wire", nic(0), said="it is not ours")
    assert tap in links(one)
    shell(f"ip link del {tap}", one.host.namespace)
    # nobody has it open and nobody signed it: an agent died over it
    shell(f"ip tuntap add dev {tap} mode tap", one.host.namespace)
    one.call("wiring.wire", nic(0))
    assert one.call("wiring.wired") == {PORTS[0]: True}
    # a dead guest's, of an older generation: signed anew
    one.call("wiring.apply", view(one.host, [0], [], generation=7))
    one.call("wiring.wire", nic(0, 7))
    assert one.call("wiring.generations") == {PORTS[0]: 7}
    # somebody else's tap on our bridge is let go when the bridge goes, not deleted
    shell("ip tuntap add dev tapstranger mode tap; ip link set tapstranger master brqaaaaaaaa-00", one.host.namespace)
    shell("ip link add brqmine type bridge; ip link set brqmine up", one.host.namespace)
    one.call("wiring.unwire", PORTS[0])
    empty(one)
    left = links(one)
    assert "tapstranger" in left and "brqmine" in left and "brqaaaaaaaa" not in left and "vxlan" not in left, left
    shell("ip link del tapstranger; ip link del brqmine", one.host.namespace)


def test_stale_dnsmasq_and_stale_namespace_file(drivers: list[Driver]) -> None:
    one = drivers[0]
    space = dhcp_ns(one)
    Path("/run/netns", space).touch()  # what a crash in the middle of making one leaves
    one.call("wiring.apply", view(one.host, [0], []))
    assert shell("ip -br address", space).stdout.count("10.77.0.2/24") == 1

    def served() -> list[int]:
        return [pid for pid in processes_in([space]) if "dnsmasq" in Path(f"/proc/{pid}/comm").read_text()]

    first = served()
    assert len(first) == 1
    # its pid file is gone, and it serves entries of long ago; the agent begins anew
    folder = Path(one.host.runtime) / "dhcp" / NET
    (folder / "pid").unlink()
    one.kill()
    one.start()
    one.call("wiring.apply", view(one.host, [0, 1], []))
    until(lambda: len(served()) == 1 and served() != first, 10, "one dnsmasq, a new one")
    assert ADDRESSES[1] in (folder / "hosts").read_text()
    (folder / "pid").unlink()
    empty(one)
    until(lambda: not Path("/run/netns", space).exists() and not served(), 10, "nothing of it left")


def test_domains_of_the_operator(drivers: list[Driver], lab: Lab) -> None:
    """One of a similar name, one of our very name, one with the server's UUID: told, left alone, and the host is clean for the next try."""
    import libvirt

    one = drivers[0]
    connection = libvirt.open(one.host.libvirt_uri)
    plain = ("<domain type='qemu'><name>{name}</name>{uuid}<memory unit='MiB'>32</memory><os><type arch='x86_64' machine='pc'>hvm</type></os>"
             "<devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices></domain>")
    one.call("wiring.apply", view(one.host, [0], []))
    one.call("disks.create", SERVERS[0], IMAGE, 1)
    one.call("wiring.wire", nic(0))
    similar = connection.defineXML(plain.format(name="virga-build-box", uuid=""))
    same_id = connection.defineXML(plain.format(name="mine", uuid=f"<uuid>{SERVERS[0]}</uuid>"))
    same_id.create()
    try:
        assert one.call("hypervisor.guests") == {}, "a name is not enough to be ours"
        in_the_way(one, "hypervisor.launch", spec(0), held=False, said="domain 'mine' is already defined with uuid")
        same_id.destroy()
        same_id.undefine()
        same_name = connection.defineXML(plain.format(name="virga-" + SERVERS[0], uuid=""))
        same_name.create()
        assert one.call("hypervisor.guests") == {}
        in_the_way(one, "hypervisor.launch", spec(0), held=False, said="it is not ours")
        # what undoes the try finds nothing of ours, and stops nobody
        one.call("hypervisor.stop", SERVERS[0], graceful_s=0.0)
        one.call("hypervisor.undefine", SERVERS[0])
        assert same_name.isActive()
        same_name.destroy()
        same_name.undefine()
        one.call("hypervisor.launch", spec(0), held=False)
        assert one.call("hypervisor.guests") == {SERVERS[0]: "running"}
        one.call("hypervisor.stop", SERVERS[0], graceful_s=0.0)
        one.call("hypervisor.undefine", SERVERS[0])
        assert similar.isPersistent() and connection.numOfDefinedDomains() == 1
    finally:
        for domain in connection.listAllDomains(0):
            if domain.isActive():
                domain.destroy()
            domain.undefine()
        connection.close()
        one.call("wiring.unwire", PORTS[0])
        one.call("disks.discard", SERVERS[0])
        empty(one)
