"""Two emulated hosts, real bridges, real guests: each driver through its Protocol, as the agent calls it."""
from __future__ import annotations

import base64
import itertools
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.real.conftest import Driver, Refused, shell, until

from virga.agent.hypervisor import GuestSpec, ImageRef, Nic
from virga.domain.hostview import (
    AddressView,
    FloatingView,
    HostView,
    InstanceView,
    NetworkView,
    PortView,
    RouterPortView,
    RouterView,
    RuleView,
    SubnetView,
    sealed,
)
from virga.lab.hosts import Lab

pytestmark = [pytest.mark.real, pytest.mark.slow]

NET = "aaaaaaaa-0000-4000-8000-000000000001"
PUBLIC = "eeeeeeee-0000-4000-8000-000000000001"
SUBNET = "aaaaaaaa-0000-4000-8000-000000000002"
GROUP = "cccccccc-0000-4000-8000-000000000001"
ROUTER = "ffffffff-0000-4000-8000-000000000001"
DHCP_PORT = "dddddddd-0000-4000-8000-000000000001"
SERVERS = ["11111111-0000-4000-8000-000000000001", "22222222-0000-4000-8000-000000000002"]
PORTS = ["11111111-1000-4000-8000-000000000001", "22222222-1000-4000-8000-000000000002"]
MACS = ["fa:16:3e:00:00:01", "fa:16:3e:00:00:02"]
ADDRESSES = ["10.77.0.11", "10.77.0.12"]
OPEN = [RuleView("egress"), RuleView("egress", "IPv6"), RuleView("ingress", remote_group=GROUP),
        RuleView("ingress", protocol="icmp", remote_cidr="0.0.0.0/0"), RuleView("ingress", protocol="tcp", port_min=22, port_max=80)]


def nic(number: int, generation: int = 1) -> Nic:
    return Nic(PORTS[number], generation, MACS[number], NET, "vxlan", 4711, "", 1450)


def spec(number: int, key: str = "", config_drive: bool = False, generation: int = 1) -> GuestSpec:
    keys = [{"name": "k", "type": "ssh", "data": key}] if key else []
    return GuestSpec(SERVERS[number], f"guest-{number}", 1, 96, 1, [nic(number, generation)], ImageRef("guest", disk_format="qcow2"), config_drive,
                     {"hostname": f"guest-{number}", "keys": keys}, base64.b64encode(b"#!/bin/sh\necho user data ran >/www/user\n").decode())


def view(host: Any, here: list[int], peers: list[str], key: str = "", rules: list[RuleView] | None = None, router: bool = False,
         floating: bool = True, generation: int = 1) -> dict[str, Any]:
    network = NetworkView(NET, "vxlan", 4711, "", 1450, peers,
                          [SubnetView(SUBNET, "10.77.0.0/24", "10.77.0.1", True, "10.77.0.2", ["10.77.0.2"])], DHCP_PORT, "fa:16:3e:00:00:fe")
    ports = [PortView(PORTS[n], generation, NET, MACS[n], [AddressView(ADDRESSES[n], SUBNET, 24)], SERVERS[n], "compute:nova", groups=[GROUP],
                      hostname=f"guest-{n}") for n in here]
    networks, routers = [network], []
    if router:
        networks.append(NetworkView(PUBLIC, "flat", 0, "public", 1500))
        routers.append(RouterView(
            ROUTER, ports=[RouterPortView("ffffffff-1000-4000-8000-000000000001", NET, "fa:16:3e:00:01:01", ["10.77.0.1/24"])],
            gateway=RouterPortView("ffffffff-2000-4000-8000-000000000001", PUBLIC, "fa:16:3e:00:01:02", ["172.24.94.5/24"]), next_hop="172.24.94.1",
            floating=[FloatingView("172.24.94.77", ADDRESSES[0])] if floating else []))
    instances = [InstanceView(SERVERS[n], msgspec.structs.asdict(spec(n, key))["metadata"], spec(n).user_data) for n in here]
    made = HostView(host.name, "", networks, ports, {GROUP: OPEN if rules is None else rules}, {GROUP: ADDRESSES}, routers, instances)
    return msgspec.to_builtins(sealed(made))


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def ssh(key: Path, namespace: str, address: str, command: str) -> subprocess.CompletedProcess[str]:
    return shell(f"ssh -i {key} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=5 -o LogLevel=ERROR "
                 f"virga@{address} '{command}'", namespace)


def dhcp_ns(driver: Driver) -> str:
    return f"{driver.host.prefix}qdhcp-{NET}"


def test_wiring_makes_and_removes_everything(drivers: list[Driver]) -> None:
    one, two = drivers
    one.call("wiring.apply", view(one.host, [0], [two.host.address]))
    print(f"first view with DHCP in effect after {one.took_s * 1000:.0f} ms")
    one.call("wiring.wire", nic(0))
    print(f"wired in {one.took_s * 1000:.0f} ms")
    assert one.call("wiring.wired") == {PORTS[0]: True}
    one.call("wiring.wire", nic(0))
    assert one.call("events")
    # somebody takes the tap off the bridge: seen at once, and wired again by the same call
    shell("ip link set tap11111111-10 nomaster", one.host.namespace)
    assert one.call("wiring.wired") == {PORTS[0]: False}
    assert any(kind == "port" and what == PORTS[0] for _, kind, what in one.call("events"))
    one.call("wiring.wire", nic(0))
    assert one.call("wiring.wired") == {PORTS[0]: True}
    with pytest.raises(Refused) as late:
        one.call("wiring.wire", nic(1))
    assert late.value.code == "timeout" and PORTS[1] in str(late.value)
    one.call("wiring.unwire", PORTS[1])
    # an agent that died finds all of it again, without a new view
    one.kill()
    one.start()
    assert one.call("wiring.wired") == {PORTS[0]: True}
    one.call("wiring.unwire", PORTS[0])
    one.call("wiring.apply", view(one.host, [], []) | {"version": "empty", "networks": []})
    # the kernel takes a namespace apart in its own time
    until(lambda: not any(word in shell("ip -br link", one.host.namespace).stdout for word in ("tap", "brq", "vxlan")), 5, "a clean host")
    assert f"{one.host.prefix}qdhcp" not in shell("ip netns").stdout


def test_two_guests_on_two_hosts(drivers: list[Driver], lab: Lab, key: Path) -> None:
    one, two = drivers
    public = key.with_suffix(".pub").read_text().strip()
    start = time.monotonic()
    for driver, number in ((one, 0), (two, 1)):
        other = two if driver is one else one
        driver.call("wiring.apply", view(driver.host, [number], [other.host.address], public, router=driver is one))
        driver.call("disks.create", SERVERS[number], ImageRef("guest", disk_format="qcow2"), 1)
        print(f"disk {driver.took_s * 1000:.0f} ms", end=" ")
        driver.call("wiring.wire", nic(number))
        print(f"wire {driver.took_s * 1000:.0f} ms", end=" ")
        driver.call("hypervisor.launch", spec(number, public, config_drive=number == 1), held=number == 1)
        print(f"launch {driver.took_s * 1000:.0f} ms")
    assert two.call("hypervisor.guests") == {SERVERS[1]: "held"}
    two.call("hypervisor.resume", SERVERS[1])
    assert two.call("hypervisor.guests") == {SERVERS[1]: "running"}
    for driver, number in ((one, 0), (two, 1)):
        until(lambda d=driver, n=number: shell(f"ping -c1 -W1 {ADDRESSES[n]}", dhcp_ns(d)).returncode == 0, 60, "ping")
        print(f"guest {number} answers {time.monotonic() - start:.1f} s after the start")
    for driver, number in ((one, 0), (two, 1)):
        until(lambda d=driver, n=number: ssh(key, dhcp_ns(d), ADDRESSES[n], "true").returncode == 0, 60, "log-in by key")
    assert ssh(key, dhcp_ns(one), ADDRESSES[0], "hostname").stdout.strip() == "guest-0"
    # config drive; user data
    assert ssh(key, dhcp_ns(two), ADDRESSES[1], "cat /run/meta/id; cat /www/user").stdout.split("\n")[:2] == [SERVERS[1], "user data ran"]
    # guest to guest through VXLAN, page by HTTP, and MTU from DHCP
    asked = f"ping -c1 -W2 -s 1400 {ADDRESSES[1]} >/dev/null && wget -q -O - http://{ADDRESSES[1]}/; cat /sys/class/net/eth0/mtu"
    done = ssh(key, dhcp_ns(one), ADDRESSES[0], asked)
    assert done.stdout.split() == ["guest-1", "1450"], done
    # the outside: SNAT out, floating IP in
    done = ssh(key, dhcp_ns(one), ADDRESSES[0], "ping -c1 -W2 172.24.94.1")
    assert done.returncode == 0, done
    assert shell("curl -s -m 5 http://172.24.94.77/").stdout.strip() == "guest-0"
    # anti-spoofing: another address or MAC does not get out
    done = ssh(key, dhcp_ns(one), ADDRESSES[0], f"ip addr add 10.77.0.99/24 dev eth0; ping -c1 -W1 -I 10.77.0.99 {ADDRESSES[1]}")
    assert done.returncode != 0 and "100% packet loss" in done.stdout


def test_security_group_change_cuts_and_restores(drivers: list[Driver], key: Path) -> None:
    one, two = drivers
    public = key.with_suffix(".pub").read_text().strip()
    shut = [rule for rule in OPEN if rule.protocol != "icmp"]
    ping = subprocess.Popen(["ping", "-i", "0.2", "-W", "1", "172.24.94.77"], stdout=subprocess.PIPE, text=True)
    time.sleep(1)
    one.call("wiring.apply", view(one.host, [0], [two.host.address], public, rules=shut, router=True))
    print(f"rules changed in {one.took_s * 1000:.0f} ms")
    assert shell("ping -c2 -W1 172.24.94.77").returncode != 0
    assert shell("curl -s -m 5 http://172.24.94.77/").stdout.strip() == "guest-0"
    time.sleep(1)
    one.call("wiring.apply", view(one.host, [0], [two.host.address], public, router=True))
    assert shell("ping -c2 -W1 172.24.94.77").returncode == 0
    ping.terminate()
    received = ping.communicate()[0].count("bytes from")
    assert received < 20, "an established ping must be cut too"
    # a router's card that was left half made comes up with the next look
    inner = f"{one.host.prefix}qrouter-{ROUTER}"
    shell("ip link set qr-ffffffff-10 down", inner)
    assert shell("ping -c1 -W1 172.24.94.77").returncode != 0
    one.call("wiring.apply", view(one.host, [0], [two.host.address], public, router=True) | {"version": "again"})
    until(lambda: shell("ping -c1 -W1 172.24.94.77").returncode == 0, 10, "ping through the router")
    # the floating IP goes, and its flows with it
    one.call("wiring.apply", view(one.host, [0], [two.host.address], public, router=True, floating=False))
    assert shell("ping -c1 -W1 172.24.94.77").returncode != 0
    one.call("wiring.apply", view(one.host, [0], [two.host.address], public, router=True))
    assert shell("ping -c1 -W1 172.24.94.77").returncode == 0


def test_power_and_deaths(drivers: list[Driver], lab: Lab, key: Path) -> None:
    one, _two = drivers
    server = SERVERS[0]
    one.call("hypervisor.pause", server)
    assert one.call("hypervisor.guests")[server] == "paused"
    one.call("hypervisor.resume", server)
    one.call("hypervisor.suspend", server)
    print(f"suspend {one.took_s:.2f} s", end=" ")
    assert one.call("hypervisor.guests")[server] == "suspended"
    one.call("hypervisor.wake", server)
    print(f"wake {one.took_s:.2f} s")
    assert one.call("hypervisor.guests")[server] == "running"
    until(lambda: shell(f"ping -c1 -W1 {ADDRESSES[0]}", dhcp_ns(one)).returncode == 0, 10, "ping after wake")
    # agent and libvirtd die; the guest does not notice
    import os

    os.kill(lab.libvirt_pid(one.host), 9)
    one.kill()
    assert shell(f"ping -c1 -W1 {ADDRESSES[0]}", dhcp_ns(one)).returncode == 0
    lab.start_libvirt(one.host)
    lab._wait_libvirt(one.host)
    one.start()
    assert one.call("hypervisor.guests")[server] == "running"
    assert one.call("wiring.wired") == {PORTS[0]: True}
    # libvirtd alone dies under a connected agent
    os.kill(lab.libvirt_pid(one.host), 9)
    lab.start_libvirt(one.host)
    lab._wait_libvirt(one.host)
    assert one.call("hypervisor.guests")[server] == "running"
    assert "virga-guest: ready" in one.call("hypervisor.console_log", server, 5)
    # qemu dies: seen, and said to be a crash
    one.call("events")
    qemu = [pid for pid in _pids(one) if "qemu" in Path(f"/proc/{pid}/comm").read_text()]
    start = time.monotonic()
    os.kill(qemu[0], 9)
    took = until(lambda: one.call("hypervisor.guests")[server] != "running", 5, "crash seen")
    assert one.call("hypervisor.guests")[server] == "crashed"
    print(f"crash seen {took * 1000:.0f} ms, {time.monotonic() - start:.2f}")
    one.call("hypervisor.launch", spec(0, key.with_suffix(".pub").read_text().strip()), held=False)
    until(lambda: ssh(key, dhcp_ns(one), ADDRESSES[0], "cat /data/boots").stdout.strip() == "2", 60, "second boot")
    one.call("hypervisor.stop", server, graceful_s=20.0)
    print(f"ACPI stop {one.took_s:.2f} s")
    assert one.took_s < 15 and one.call("hypervisor.guests")[server] == "stopped"


def _pids(driver: Driver) -> list[int]:
    from virga.lab.hosts import processes_in

    return processes_in([driver.host.namespace])


def test_cold_move_keeps_the_bytes(drivers: list[Driver], key: Path) -> None:
    """Guest 0 moves from host 1 to host 2 with what it wrote, and the disk copy is checked."""
    one, two = drivers
    public = key.with_suffix(".pub").read_text().strip()
    one.call("hypervisor.undefine", SERVERS[0])
    one.call("wiring.unwire", PORTS[0])
    checksum = two.call("disks.fetch", SERVERS[0], one.host.name, one.host.address)
    print(f"disk copied in {two.took_s:.2f} s")
    assert checksum == one.call("disks.checksum", SERVERS[0]) == two.call("disks.checksum", SERVERS[0])
    two.call("disks.grow", SERVERS[0], 2)
    two.call("wiring.apply", view(two.host, [0, 1], [one.host.address], public, generation=2))
    two.call("wiring.wire", nic(0, 2))
    two.call("hypervisor.launch", spec(0, public, generation=2), held=False)
    two.call("wiring.announce", nic(0, 2), [])
    until(lambda: ssh(key, dhcp_ns(two), ADDRESSES[0], "cat /data/boots").stdout.strip() == "3", 60, "third boot on the other host")
    size = int(ssh(key, dhcp_ns(two), ADDRESSES[0], "cat /sys/block/vda/size").stdout) * 512
    assert size == 2 << 30
    one.call("disks.discard", SERVERS[0])


def test_live_migration(drivers: list[Driver], key: Path) -> None:
    one, two = drivers
    public = key.with_suffix(".pub").read_text().strip()
    assert ssh(key, dhcp_ns(two), ADDRESSES[0], "echo kept >/data/kept && sync && cat /data/kept").stdout.strip() == "kept"
    one.call("wiring.apply", view(one.host, [0], [two.host.address], public, router=True, generation=3))
    one.call("wiring.wire", nic(0, 3))
    one.call("hypervisor.prepare_incoming", msgspec.structs.replace(spec(0, public, generation=3), disk_gb=2))
    assert SERVERS[0] not in one.call("disks.list")
    ping = subprocess.Popen(["ip", "netns", "exec", dhcp_ns(two), "ping", "-i", "0.05", "-D", ADDRESSES[1]], stdout=subprocess.PIPE, text=True)
    watch = subprocess.Popen(["ping", "-i", "0.05", "-D", "172.24.94.77"], stdout=subprocess.PIPE, text=True)
    two.call("hypervisor.migrate_live", SERVERS[0], one.host.name, one.host.address, spec(0, public, generation=3))
    print(f"live migration took {two.took_s:.2f} s")
    one.call("wiring.announce", nic(0, 3), [])
    two.call("wiring.unwire", PORTS[0])
    time.sleep(2)
    for process in (ping, watch):
        process.terminate()
    ping.communicate()
    stamps = [float(line[1:].split("]")[0]) for line in watch.communicate()[0].splitlines() if "bytes from" in line]
    gaps = [b - a for a, b in itertools.pairwise(stamps)]
    print(f"ping gap {max(gaps) * 1000:.0f} ms" if gaps else "no ping came through")
    assert one.call("hypervisor.guests") == {SERVERS[0]: "running"} and SERVERS[0] not in two.call("hypervisor.guests")
    assert SERVERS[0] in one.call("disks.list")
    until(lambda: ssh(key, dhcp_ns(one), ADDRESSES[0], "cat /data/kept").stdout.strip() == "kept", 30, "the file after the move")


def test_hot_plug(drivers: list[Driver], key: Path) -> None:
    one, _two = drivers
    extra = Nic("33333333-1000-4000-8000-000000000003", 1, "fa:16:3e:00:00:03", NET, "vxlan", 4711)
    public = key.with_suffix(".pub").read_text().strip()
    more = view(one.host, [0], [], public, router=True, generation=3)
    more["ports"].append(msgspec.to_builtins(PortView(extra.port_id, 1, NET, extra.mac, [AddressView("10.77.0.13", SUBNET, 24)], SERVERS[0], groups=[GROUP])))
    more["version"] = "hot"
    pid_file = Path(one.host.runtime) / "dhcp" / NET / "pid"
    server = pid_file.read_text()
    one.call("wiring.apply", more)
    one.call("wiring.wire", extra)
    one.call("hypervisor.attach_nic", SERVERS[0], extra)
    one.call("hypervisor.attach_nic", SERVERS[0], extra)
    until(lambda: "10.77.0.13" in ssh(key, dhcp_ns(one), ADDRESSES[0], "ip addr").stdout, 60, "address on the new card")
    # the server that gave the first lease took the new entry and gave the second; one that carries tags is another one afterwards
    assert pid_file.read_text() == server and Path(f"/proc/{server.strip()}").exists()
    more["ports"][-1]["dhcp_options"] = [["67", "boot"]]
    more["version"] = "tagged"
    one.call("wiring.apply", more)
    assert pid_file.read_text() != server and Path(f"/proc/{pid_file.read_text().strip()}").exists()
    one.call("hypervisor.detach_nic", SERVERS[0], extra)
    print(f"detach {one.took_s:.2f} s")
    one.call("hypervisor.detach_nic", SERVERS[0], extra)
    one.call("wiring.unwire", extra.port_id)
    assert "eth1" not in ssh(key, dhcp_ns(one), ADDRESSES[0], "ip link").stdout
