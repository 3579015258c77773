"""What the real drivers write for nft, dnsmasq, libvirt and guests: pure functions of the host view."""
from __future__ import annotations

import ipaddress
import json
from pathlib import Path

import msgspec
import pytest

from virga.agent.adverts import radvd_conf
from virga.agent.firewall import effective, link_local, render, rule_line, stable_numbers
from virga.agent.hypervisor import DriverError, GuestSpec, Nic
from virga.agent.libvirt_xml import GuestPlace, Machine, domain_xml, find_nic, is_held, moved
from virga.agent.linuxbridge import announcement_frames, uplink_of
from virga.agent.metadata import respond
from virga.agent.routers import nat_rules
from virga.agent.services import dnsmasq_hosts, dnsmasq_options, must_forget
from virga.domain.hostview import (
    AddressView,
    FloatingView,
    HostView,
    InstanceView,
    NetworkView,
    PairView,
    PortView,
    RouterPortView,
    RouterView,
    RuleView,
    SubnetView,
    read_view,
    sealed,
)

NET, PORT, GROUP = "aaaaaaaa-0000-4000-8000-000000000001", "11111111-1000-4000-8000-000000000001", "cccccccc-0000-4000-8000-000000000001"
MAC = "fa:16:3e:00:00:01"


def view(rules: list[RuleView], **changes: object) -> HostView:
    network = NetworkView(NET, "vxlan", 100, subnets=[SubnetView("s", "10.0.0.0/24", "10.0.0.1", True, "10.0.0.2")], dhcp_port_id="dddddddd-1",
                          dhcp_mac="fa:16:3e:00:00:fe")
    port = PortView(PORT, 1, NET, MAC, [AddressView("10.0.0.5", "s", 24)], "server", groups=[GROUP], **changes)  # type: ignore[arg-type]
    document = {"name": "n", "keys": [{"name": "k", "data": "ssh-ed25519 AAAA"}]}
    return HostView("h", networks=[network], ports=[port], groups={GROUP: rules}, instances=[InstanceView("server", document, "aGVsbG8=")])


@pytest.mark.parametrize(("rule", "line"), [
    (RuleView("egress"), "meta nfproto ipv4 accept"),
    (RuleView("ingress", protocol="tcp", port_min=22, port_max=22), "meta nfproto ipv4 tcp dport 22 accept"),
    (RuleView("ingress", protocol="udp", port_min=1, port_max=9, remote_cidr="10.0.0.0/8"), "meta nfproto ipv4 ip saddr 10.0.0.0/8 udp dport 1-9 accept"),
    (RuleView("ingress", protocol="icmp", port_min=8, port_max=0), "meta nfproto ipv4 icmp type 8 icmp code 0 accept"),
    (RuleView("ingress", "IPv6", "icmpv6"), "meta nfproto ipv6 meta l4proto 58 accept"),
    (RuleView("egress", protocol="47", remote_cidr="0.0.0.0/0"), "meta nfproto ipv4 meta l4proto 47 accept"),
    (RuleView("ingress", "IPv6", remote_cidr="10.0.0.0/8"), None),
    (RuleView("ingress", remote_addresses=[]), None),
])
def test_rules_become_nft(rule: RuleView, line: str | None) -> None:
    assert rule_line(rule) == line


def test_the_filter_knows_only_what_the_port_may_send() -> None:
    text = render(view([RuleView("egress")], pairs=[PairView("10.0.0.0/28", "aa:bb:cc:00:00:01")]), {NET: "vxlan-100"}, ["tapgone"])
    assert '"tap11111111-10" . fa:16:3e:00:00:01 . 10.0.0.5/32' in text
    assert '"tap11111111-10" . aa:bb:cc:00:00:01 . 10.0.0.0/28' in text
    assert 'set shut { type ifname; elements = { "tapgone" }; }' in text
    assert 'set serving { type ifname; elements = { "vxlan-100" }; }' in text
    # an advertisement may name the port's own addresses, by number, and nothing else
    six = render(view([RuleView("egress")], pairs=[PairView("fd00:0:0:9::/64")]), {})
    chain = six.split("chain nd_")[1].split("}")[0]
    assert f"@th,64,128 {int(ipaddress.ip_address(link_local(MAC))):#x} return" in chain and "@th,64,64 0xfd00000000000009 return" in chain
    assert chain.rstrip().endswith("drop") and "nd-neighbor-advert iifname vmap @advertised" in six
    unguarded = render(view([RuleView("egress")], port_security=False), {})
    assert '"tap11111111-10"' not in unguarded


def test_what_a_removed_rule_let_in_is_known() -> None:
    before = effective(view([RuleView("ingress", protocol="icmp"), RuleView("egress")]))
    after = effective(view([RuleView("egress")]))
    assert before[PORT] - after[PORT] == {"ingress meta nfproto ipv4 meta l4proto 1 accept"}


def test_numbers_stay_when_others_come() -> None:
    few = stable_numbers(["a", "b"], 65534)
    assert stable_numbers(["a", "b", "c"], 65534).items() >= few.items()
    assert sorted(stable_numbers(["a", "b", "c"], 3).values()) == [1, 2, 3]


def test_dhcp_gives_the_default_route_twice() -> None:
    network, port = view([]).networks[0], view([], hostname="web").ports[0]
    assert dnsmasq_hosts(network, [port]) == f"{MAC},web,10.0.0.5\n"  # no tag: dnsmasq would not survive its next SIGHUP
    own = msgspec.structs.replace(port, dhcp_options=[("67", "boot")])
    assert dnsmasq_hosts(network, [own]) == f"{MAC},set:p{PORT[:13]},web,10.0.0.5\n"
    assert f"tag:p{PORT[:13]},67,boot\n" in dnsmasq_options(network, [own])
    options = dnsmasq_options(network, [port])
    assert "tag:s0,option:router,10.0.0.1\n" in options
    assert "classless-static-route,169.254.169.254/32,10.0.0.2,0.0.0.0/0,10.0.0.1\n" in options


def test_dnsmasq_is_started_anew_where_it_would_remember_too_much() -> None:
    one, two = f"{MAC},web,10.0.0.5\n", "fa:16:3e:00:00:02,db,10.0.0.6\n"
    assert not must_forget("", one) and not must_forget(one, one + two)
    assert not must_forget(one, f"{MAC},renamed,10.0.0.5\n")
    assert must_forget(one + two, two), "the address may go to another port"
    assert must_forget(one, one.replace(MAC, "fa:16:3e:00:00:09")) and must_forget(one, one.replace("10.0.0.5", "10.0.0.7"))
    assert must_forget(one, f"{MAC},set:p1,web,10.0.0.5\n")


def test_metadata_is_told_to_its_owner_only() -> None:
    there = view([])
    status, _, body = respond(there, NET, "10.0.0.5", "GET", "/openstack/latest/meta_data.json")
    assert status == 200 and json.loads(body)["public_keys"] == {"k": "ssh-ed25519 AAAA"} and json.loads(body)["uuid"] == "server"
    assert respond(there, NET, "10.0.0.5", "GET", "/latest/meta-data/public-keys/0/openssh-key")[2] == b"ssh-ed25519 AAAA\n"
    assert respond(there, NET, "10.0.0.5", "GET", "/openstack/latest/user_data")[2] == b"hello"
    assert respond(there, NET, "10.0.0.5", "GET", "/latest/meta-data/public-ipv4")[2] == b""
    outside = msgspec.structs.replace(there, instances=[msgspec.structs.replace(there.instances[0], floating={"10.0.0.5": "172.24.4.9"})])
    assert respond(outside, NET, "10.0.0.5", "GET", "/latest/meta-data/public-ipv4")[2] == b"172.24.4.9"
    assert respond(there, NET, "10.0.0.6", "GET", "/openstack/latest/meta_data.json")[0] == 404
    assert respond(there, "other", "10.0.0.5", "GET", "/openstack/latest/meta_data.json")[0] == 404
    assert respond(there, NET, "10.0.0.5", "POST", "/")[0] == 405
    assert respond(there, NET, "10.0.0.5", "GET", "/latest/meta-data/public-keys/7/openssh-key")[0] == 404


def test_router_nat() -> None:
    gateway = RouterPortView("p", "x", MAC, ["172.24.4.9/24"])
    text = nat_rules(RouterView("r", gateway=gateway, next_hop="172.24.4.1", floating=[FloatingView("172.24.4.77", "10.0.0.5")]))
    assert "ip daddr 172.24.4.77 dnat ip to 10.0.0.5" in text and "ip saddr 10.0.0.5 snat ip to 172.24.4.77" in text
    assert 'oifname "qg-p" meta nfproto ipv4 ip saddr != 172.24.4.9 snat ip to 172.24.4.9' in text
    assert "snat" not in nat_rules(RouterView("r", gateway=gateway, snat=False))


def v6_view(*subnets: SubnetView) -> HostView:
    network = NetworkView(NET, "vxlan", 100, mtu=1450, subnets=[SubnetView("s", "10.0.0.0/24", "10.0.0.1", True, "10.0.0.2"), *subnets])
    port = RouterPortView("66666666-1", NET, "fa:16:3e:00:00:aa", ["2001:db8:1::1/64", "2001:db8:2::1/64"])
    return HostView("h", networks=[network], routers=[RouterView("r", ports=[RouterPortView("44444444-1", NET, MAC, ["10.0.0.1/24"]), port])])


@pytest.mark.parametrize(("mode", "managed", "other", "own"), [
    ("slaac", "off", "off", "on"), ("dhcpv6-stateless", "off", "on", "on"), ("dhcpv6-stateful", "on", "on", "off")])
def test_a_router_advertises_by_the_mode_of_its_subnets(mode: str, managed: str, other: str, own: str) -> None:
    seen = v6_view(SubnetView("x", "2001:db8:1::/64", dns=["2001:db8::53", "9.9.9.9"], ipv6_ra_mode=mode), SubnetView("y", "2001:db8:2::/64"))
    text = radvd_conf(seen.routers[0], seen, {"66666666-1": "qr-66666666-1", "44444444-1": "qr-44444444-1"})
    assert text.count("interface ") == 1 and "interface qr-66666666-1 {" in text and "AdvLinkMTU 1450;" in text
    assert f"AdvManagedFlag {managed};" in text and f"AdvOtherConfigFlag {other};" in text
    assert text.count("prefix ") == 1 and "prefix 2001:db8:1::/64 {" in text and f"AdvAutonomous {own};" in text
    assert ("RDNSS 2001:db8::53 {" in text) == (mode == "slaac")


def test_a_router_without_such_subnets_or_down_advertises_nothing() -> None:
    seen = v6_view(SubnetView("x", "2001:db8:1::/64"))
    assert radvd_conf(seen.routers[0], seen, {}) == ""
    seen = v6_view(SubnetView("x", "2001:db8:1::/64", ipv6_ra_mode="slaac"))
    assert radvd_conf(msgspec.structs.replace(seen.routers[0], admin_up=False), seen, {}) == ""


def test_domain_xml() -> None:
    nic = Nic(PORT, 3, MAC, NET)
    text = domain_xml(GuestSpec("server-1", "a <name> & more", 2, 96, 1, [nic]), GuestPlace("/d/disk", "/d/console", "/d/iso"), Machine("qemu"), held=True)
    assert ' type="qemu">' in text.split("<name>")[0] and is_held(text) and 'mac address="fa:16:3e:00:00:01"' in text
    assert 'dev="tap11111111-10" managed="no"' in find_nic(text, nic.tap) and not find_nic(text, "tapother")
    there = moved(text, GuestPlace("/e/disk", "/e/console", "/e/iso"))
    assert "/d/" not in there and is_held(there)
    assert not is_held(domain_xml(GuestSpec("s", "n", 1, 1, 1), GuestPlace("d", "c"), Machine("qemu")))


def test_views_travel_and_carry_their_version() -> None:
    import msgspec

    one, other = sealed(view([RuleView("egress")])), sealed(view([]))
    assert one.version and one.version != other.version and sealed(one).version == one.version
    assert read_view(msgspec.to_builtins(one)) == one
    with pytest.raises(ValueError, match="ports"):
        read_view({"host": "h", "ports": [{"id": 7}]})


def test_networks_this_host_cannot_carry_say_why() -> None:
    assert uplink_of(NetworkView("n", "vlan", 7, "phys"), {"phys": "eth1"}) == "eth1.7"
    with pytest.raises(DriverError, match="physical_interface_mappings"):
        uplink_of(NetworkView("n", "flat", 0, "phys"), {})
    with pytest.raises(DriverError, match="geneve"):
        uplink_of(NetworkView("n", "geneve"), {})


def test_announcements_are_arp_and_neighbour_advertisements(tmp_path: Path) -> None:
    arp, nd = announcement_frames(MAC, ["10.0.0.5", "fd00::5"])
    assert arp[:6] == b"\xff" * 6 and arp[12:14] == b"\x08\x06" and arp[28:32] == bytes([10, 0, 0, 5]) == arp[38:42] and len(arp) == 60
    assert nd[12:14] == b"\x86\xdd" and nd[54] == 136
