"""Security groups and anti-spoofing with traffic: raw frames between stand-ins for guests, through the real bridge and the rules an operator's host has.

Each answer is about one frame with a mark of its own: it came through, or it did not.
"""
from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from tests.real.conftest import Driver, shell, until
from tests.real.stand_in import ARP, IP4, IP6, StandIn, arp, ether, icmp6, ip, neighbour, udp

from virga.agent.firewall import link_local
from virga.domain.hostview import AddressView, HostView, InstanceView, NetworkView, PairView, PortView, RuleView, SubnetView, sealed

pytestmark = [pytest.mark.real, pytest.mark.slow]

A, B = "aaaaaaaa-0000-4000-8000-00000000000a", "bbbbbbbb-0000-4000-8000-00000000000b"
SUBNETS = {A: "aaaaaaaa-1000-4000-8000-00000000000a", B: "bbbbbbbb-1000-4000-8000-00000000000b"}
WALL, OPEN = "cccccccc-0000-4000-8000-00000000000a", "cccccccc-0000-4000-8000-00000000000b"
BROADCAST, ALL_NODES = "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"
FOREIGN = "fa:16:3e:ff:ff:ff"
PAIR_MAC = "00:00:5e:00:01:07"  # as VRRP has it
EVERYTHING = [RuleView("egress"), RuleView("egress", "IPv6"), RuleView("ingress"), RuleView("ingress", "IPv6")]
marks = itertools.count(1)


def mark() -> bytes:
    return f"<mark {next(marks):06d}>".encode()


def port_id(network: str, number: int) -> str:
    return f"{network[:7]}{number}-2000-4000-8000-00000000000{number}"


def mac(network: str, number: int) -> str:
    return f"fa:16:3e:00:{network[:2]}:0{number}"


def v4(number: int) -> str:
    return f"10.77.0.1{number}"


def v6(number: int) -> str:
    return f"fd77::1{number}"


class House:
    """One host with networks A and B of the same addresses, two guests on each, and a third without port security on A."""

    def __init__(self, driver: Driver) -> None:
        self.driver, self.version = driver, itertools.count(1)
        self.changes: dict[str, dict[str, Any]] = {port_id(A, 3): {"port_security": False}}
        self.groups = {WALL: [RuleView("egress"), RuleView("egress", "IPv6")], OPEN: EVERYTHING}
        self.of = {port_id(A, 1): [WALL], port_id(A, 2): [OPEN], port_id(A, 3): [], port_id(B, 1): [WALL], port_id(B, 2): [WALL]}
        self.members: dict[str, list[str]] = {}
        self.guests: dict[tuple[str, int], StandIn] = {}

    def load(self) -> None:
        networks = [NetworkView(net, "local", 0, "", 1450, [], [
            SubnetView(SUBNETS[net], "10.77.0.0/24", "", True, "10.77.0.2"), SubnetView(SUBNETS[net][:-1] + "6", "fd77::/64", "", False)],
            port_id(net, 9), mac(net, 9)) for net in (A, B)]
        ports = [PortView(port_id(net, n), 1, net, mac(net, n), [AddressView(v4(n), SUBNETS[net], 24), AddressView(v6(n), SUBNETS[net][:-1] + "6", 64)],
                          f"server-{net[0]}{n}", groups=self.of[port_id(net, n)], hostname=f"{net[0]}{n}", **self.changes.get(port_id(net, n), {}))
                 for net, n in ((A, 1), (A, 2), (A, 3), (B, 1), (B, 2))]
        instances = [InstanceView(f"server-{net[0]}1", {"hostname": f"of-{net[0]}"}) for net in (A, B)]
        self.driver.call("wiring.apply", msgspec.to_builtins(sealed(HostView(
            f"{self.driver.host.name}-{next(self.version)}", "", networks, ports, self.groups, self.members, instances=instances))))

    def plug(self) -> None:
        for net, n in ((A, 1), (A, 2), (A, 3), (B, 1), (B, 2)):
            self.guests[net, n] = StandIn(self.driver.host.namespace, f"vgpt-guest{net[0]}{n}", "tap" + port_id(net, n)[:11], "brq" + net[:11],
                                          mac(net, n), [f"{v4(n)}/24", f"{v6(n)}/64"])

    def passes(self, frame: bytes, seen: bytes, net: str = A, by: int = 1, to: int = 2) -> bool:
        self.guests[net, by].send(frame)
        # a second frame that always passes follows: when it is there and the first is not, the first is gone
        tail = mark()
        self.guests[net, by].send(ether(mac(net, by), BROADCAST, ARP, arp(mac(net, by), v4(by), v4(to), tail)))
        target = self.guests[net, to]
        assert target.came(tail, 3.0), "nothing comes through at all"
        return target.came(seen, 0.0)

    def sends(self, net: str, by: int, to: int, source_port: int = 4000, dest_port: int = 5000) -> bool:
        """Whether a plain UDP packet comes through."""
        data = mark()
        return self.passes(ether(mac(net, by), mac(net, to), IP4, udp(v4(by), v4(to), source_port, dest_port, data)), data, net, by, to)


@pytest.fixture(scope="module")
def house(drivers: list[Driver]) -> Iterator[House]:
    made = House(drivers[0])
    made.load()
    made.plug()
    try:
        yield made
    finally:
        for guest in made.guests.values():
            guest.close()
        drivers[0].call("wiring.apply", msgspec.to_builtins(sealed(HostView("none"))))


@pytest.fixture(autouse=True)
def fresh(house: House) -> None:
    """Every test begins with the same rules and no tracked flow."""
    house.groups = {WALL: [RuleView("egress"), RuleView("egress", "IPv6")], OPEN: EVERYTHING}
    house.changes = {port_id(A, 3): {"port_security": False}}
    house.members = {}
    house.load()
    shell("conntrack -F", house.driver.host.namespace)


def test_default_deny_and_answers_to_what_was_asked(house: House) -> None:
    assert house.sends(A, 1, 2)
    assert not house.sends(A, 2, 1, 4001, 5001), "nobody asked for this"
    assert house.sends(A, 2, 1, 5000, 4000), "the answer to the first packet"


def test_two_networks_of_the_same_addresses_share_no_state(house: House) -> None:
    """A flow that lives on A must not open the door for the very same addresses and ports on B."""
    assert house.sends(A, 1, 2) and house.sends(A, 2, 1, 5000, 4000) and house.sends(A, 1, 2)
    assert not house.sends(B, 1, 2), "the same five numbers, another network: B's guests let nobody in"
    assert not house.sends(B, 2, 1, 5000, 4000), "nor as an answer to what was asked on A"
    house.of[port_id(B, 2)] = [OPEN]
    house.load()
    assert house.sends(B, 1, 2) and house.sends(B, 2, 1, 5000, 4000), "each has a flow of its own"
    house.of[port_id(B, 2)] = [WALL]
    zones = {line.split("zone=")[1].split()[0] for line in shell("conntrack -L -p udp", house.driver.host.namespace).stdout.splitlines() if "zone=" in line}
    assert len(zones) == 2, "a zone a network"


def test_rules_by_protocol_range_and_number_and_family(house: House) -> None:
    house.groups[WALL] += [RuleView("ingress", protocol="udp", port_min=1000, port_max=1010, remote_cidr="10.77.0.0/24"),
                           RuleView("ingress", protocol="47"), RuleView("ingress", "IPv6", "udp", 2000, 2000)]
    house.load()
    assert house.sends(A, 2, 1, 9, 1000) and house.sends(A, 2, 1, 9, 1010)
    assert not house.sends(A, 2, 1, 9, 999) and not house.sends(A, 2, 1, 9, 1011)
    for protocol, through in ((47, True), (50, False)):
        data = mark()
        body = b"\0\0\x88\xbe" + data if protocol == 47 else b"\0\0\0\1\0\0\0\1" + data
        assert house.passes(ether(mac(A, 2), mac(A, 1), IP4, ip(v4(2), v4(1), protocol, body)), data, A, 2, 1) is through, protocol
    for port, through in ((2000, True), (2001, False), (1000, False)):
        data = mark()
        frame = ether(mac(A, 2), mac(A, 1), IP6, udp(v6(2), v6(1), 9, port, data))
        assert house.passes(frame, data, A, 2, 1) is through, f"IPv6 port {port}"
    data = mark()
    assert not house.passes(ether(mac(A, 2), mac(A, 1), IP6, icmp6(v6(2), v6(1), 128, b"\0\1\0\1" + data)), data, A, 2, 1), "no rule for ping over IPv6"


def test_who_joins_and_leaves_a_remote_group_is_let_in_and_cut(house: House) -> None:
    house.groups[WALL].append(RuleView("ingress", remote_group=OPEN))
    house.members = {OPEN: ["10.77.0.200"]}
    house.load()
    assert not house.sends(A, 2, 1)
    house.members = {OPEN: ["10.77.0.200", v4(2)]}
    house.load()
    assert house.sends(A, 2, 1) and house.sends(A, 1, 2, 5000, 4000) and house.sends(A, 2, 1), "an established flow"
    house.members = {OPEN: ["10.77.0.200"]}
    house.load()
    assert not house.sends(A, 2, 1), "the flow is cut with the membership"


def test_a_flow_to_a_paired_address_is_cut_too(house: House) -> None:
    house.groups[WALL].append(RuleView("ingress"))
    house.changes[port_id(A, 1)] = {"pairs": [PairView("10.77.0.128/28")]}
    house.load()

    def flows(by: int, source: str, source_port: int, dest: str, dest_port: int) -> bool:
        data = mark()
        to = 3 - by
        return house.passes(ether(mac(A, by), mac(A, to), IP4, udp(source, dest, source_port, dest_port, data)), data, A, by, to)

    there, back = (2, v4(2), 4000, "10.77.0.130", 5000), (1, "10.77.0.130", 5000, v4(2), 4000)
    assert flows(*there) and flows(*back) and flows(*there)
    house.groups[WALL].pop()
    house.load()
    assert not flows(*there), "the rule is gone, and the flow it let in"


def spoofs() -> dict[str, tuple[bytes, bytes, bool]]:
    """name -> (frame from guest 1, mark in it, whether it may pass)."""
    found: dict[str, tuple[bytes, bytes, bool]] = {}

    def add(name: str, passes: bool, source: str, dest: str, kind: int, body: Any) -> None:
        data = mark()
        found[name] = (ether(source, dest, kind, body(data)), data, passes)

    me, you, lla = mac(A, 1), mac(A, 2), link_local(mac(A, 1))
    add("own address", True, me, you, IP4, lambda d: udp(v4(1), v4(2), 1, 2, d))
    add("another MAC", False, FOREIGN, you, IP4, lambda d: udp(v4(1), v4(2), 1, 2, d))
    add("another address", False, me, you, IP4, lambda d: udp(v4(7), v4(2), 1, 2, d))
    add("the neighbour's address", False, me, you, IP4, lambda d: udp(v4(2), v4(2), 1, 2, d))
    add("own ARP", True, me, BROADCAST, ARP, lambda d: arp(me, v4(1), v4(2), d))
    add("ARP probe", True, me, BROADCAST, ARP, lambda d: arp(me, "0.0.0.0", v4(1), d))
    add("ARP for another address", False, me, BROADCAST, ARP, lambda d: arp(me, "10.77.0.1", "10.77.0.1", d))
    add("ARP with another MAC inside", False, me, BROADCAST, ARP, lambda d: arp(FOREIGN, v4(1), v4(2), d))
    add("own IPv6", True, me, you, IP6, lambda d: udp(v6(1), v6(2), 1, 2, d))
    add("own link-local", True, me, you, IP6, lambda d: udp(lla, v6(2), 1, 2, d))
    add("another IPv6 address", False, me, you, IP6, lambda d: udp(v6(7), v6(2), 1, 2, d))
    add("own advertisement", True, me, you, IP6, lambda d: neighbour(136, v6(1), v6(2), v6(1), b"\2\1" + bytes.fromhex(me.replace(":", "")) + d))
    add("own advertisement by link-local", True, me, ALL_NODES, IP6, lambda d: neighbour(136, lla, "ff02::1", v6(1), d))
    add("advertisement of another's address", False, me, ALL_NODES, IP6, lambda d: neighbour(136, v6(1), "ff02::1", "fd77::1", d))
    add("the same by link-local", False, me, ALL_NODES, IP6, lambda d: neighbour(136, lla, "ff02::1", v6(2), d))
    add("duplicate address detection", True, me, ALL_NODES, IP6, lambda d: neighbour(135, "::", "ff02::1", v6(1), d))
    add("solicitation", True, me, you, IP6, lambda d: neighbour(135, v6(1), v6(2), v6(2), d))
    add("solicitation in another's name", False, me, you, IP6, lambda d: neighbour(135, v6(7), v6(2), v6(2), d))
    add("router advertisement", False, me, ALL_NODES, IP6, lambda d: icmp6(lla, "ff02::1", 134, b"\x40\0\7\x08" + bytes(8) + d))
    # RFC 7113: hidden behind an extension header
    add("router advertisement behind a header", False, me, ALL_NODES, IP6, lambda d: ip(
        lla, "ff02::1", 60, b"\x3a\0\1\4\0\0\0\0" + icmp6(lla, "ff02::1", 134, b"\x40\0\7\x08" + bytes(8) + d)[40:]))
    add("redirect", False, me, you, IP6, lambda d: icmp6(lla, v6(2), 137, bytes(4) + bytes(32) + d))
    add("DHCP server", False, me, you, IP4, lambda d: udp(v4(1), v4(2), 67, 68, d))
    add("DHCPv6 server", False, me, you, IP6, lambda d: udp(lla, v6(2), 547, 546, d))
    add("VLAN tag", False, me, you, 0x8100, lambda d: b"\0\7\x08\0" + udp(v4(1), v4(2), 1, 2, d))
    add("unknown protocol", False, me, BROADCAST, 0x88CC, lambda d: d)
    add("pair's address, its own MAC", True, PAIR_MAC, you, IP4, lambda d: udp("10.77.0.130", v4(2), 1, 2, d))
    add("pair's address, the port's MAC", False, me, you, IP4, lambda d: udp("10.77.0.130", v4(2), 1, 2, d))
    add("beside the pair's range", False, PAIR_MAC, you, IP4, lambda d: udp("10.77.0.200", v4(2), 1, 2, d))
    add("pair's ARP", True, PAIR_MAC, BROADCAST, ARP, lambda d: arp(PAIR_MAC, "10.77.0.130", v4(2), d))
    add("pair without a MAC", True, me, you, IP4, lambda d: udp("10.77.0.240", v4(2), 1, 2, d))
    add("pair's IPv6 advertisement", True, me, ALL_NODES, IP6, lambda d: neighbour(136, v6(1), "ff02::1", "fd77:0:0:0:9::5", d))
    return found


def test_a_guest_sends_only_in_its_own_name(house: House) -> None:
    pairs = [PairView("10.77.0.128/28", PAIR_MAC), PairView("10.77.0.240"), PairView("fd77:0:0:0:9::/80")]
    house.changes[port_id(A, 1)] = {"pairs": pairs}
    house.load()
    wrong = {name: passed for name, (frame, seen, may) in spoofs().items() if (passed := house.passes(frame, seen)) is not may}
    assert not wrong, wrong
    # without the pairs, none of what they allowed
    house.changes.pop(port_id(A, 1))
    house.load()
    through = [name for name, (frame, seen, may) in spoofs().items() if "pair" in name and house.passes(frame, seen)]
    assert not through, through


def test_port_security_off_means_no_questions(house: House) -> None:
    data = mark()
    assert house.passes(ether(FOREIGN, mac(A, 2), IP4, udp("192.0.2.1", v4(2), 1, 2, data)), data, A, 3, 2)
    assert house.sends(A, 2, 3, 7, 8), "and in: nobody asked, and no group lets it"
    house.changes = {}
    house.load()
    data = mark()
    assert not house.passes(ether(FOREIGN, mac(A, 2), IP4, udp("192.0.2.1", v4(2), 1, 2, data)), data, A, 3, 2)
    assert not house.sends(A, 2, 3, 7, 9)


def test_dhcp_and_metadata_are_reached_behind_default_deny(house: House) -> None:
    """On both networks, though their addresses are the same: each gets its own lease and its own metadata."""
    for net in (A, B):
        space = house.guests[net, 1].space
        shell(f"ip addr flush dev eth0; ip addr add {v4(1)}/24 dev eth0; ip route replace 169.254.169.254 via 10.77.0.2", space)
        got = shell("busybox udhcpc -f -q -n -t 5 -T 1 -i eth0 -s /bin/true -O 121 2>&1", space)
        assert f"lease of {v4(1)} obtained" in got.stdout, got
        until(lambda space=space, net=net: f"of-{net[0]}" in shell(  # type: ignore[misc]
            "curl -s -m 3 http://169.254.169.254/openstack/latest/meta_data.json", space).stdout, 10, "metadata of its own network")
        assert shell("curl -s -m 3 -o /dev/null -w '%{http_code}' http://10.77.0.2:22/", space).stdout == "000"


def test_admin_down_and_unknown_taps_are_shut(house: House) -> None:
    house.changes[port_id(A, 1)] = {"admin_up": False}
    house.load()
    data = mark()
    house.guests[A, 1].send(ether(mac(A, 1), mac(A, 2), IP4, udp(v4(1), v4(2), 1, 2, data)))
    assert not house.guests[A, 2].came(data, 0.5)
