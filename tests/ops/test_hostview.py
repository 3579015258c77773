"""What hosts are shown: every binding at its generation, only what concerns them, DHCP ports and router places made once and kept."""
from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from virga.domain import ipam
from virga.domain.ask import Ask
from virga.domain.config import Config
from virga.domain.hostview import HostView, RouterPlace, read_view, sealed
from virga.domain.network import (
    DHCP,
    DHCPV6_STATELESS,
    ROUTER_GATEWAY,
    ROUTER_INTERFACE,
    SLAAC,
    FloatingIp,
    Network,
    NetworkQuota,
    Pool,
    Router,
    SecurityGroupRule,
    Subnet,
)
from virga.domain.placement import DOWN, UP, Claim, Host
from virga.domain.port import Binding, Port
from virga.domain.server import FlavorSpec, Server
from virga.ops import bindings, ports
from virga.ops.hostkeeper import HostKeeper
from virga.ops.hostview import Picture, arrange, is_arranged
from virga.ops.security_groups import default_group
from virga.runtime.env import sim_env
from virga.runtime.trace import Trace
from virga.store.db import Db, SimDb, Tx

T = TypeVar("T")
CONFIG = Config()
ASK = Ask(CONFIG, "p1", "u1", "req-1")
FLAVOR = FlavorSpec("1", "small", 1, 512, 1)


class Cloud:
    """Two real hosts, a fake one, a network with DHCP and an external one."""

    def __init__(self, kind: str = "linuxbridge") -> None:
        self.runner = asyncio.Runner()
        self.env = sim_env(7, loop=self.runner.get_loop())
        self.trace = Trace(self.env.now)
        self.db: Db = SimDb(self.env, self.trace)
        self.run(lambda tx: self._fill(tx, kind))

    def _fill(self, tx: Tx, kind: str) -> None:
        detail = {"networking": kind, "physical_interface_mappings": {"public": "eth1"}} if kind else {}
        for number, extra in ((1, detail), (2, detail), (3, {})):
            tx.insert(Host(f"h{number}", f"id-{number}", UP, number, address=f"10.9.0.{number}", detail=extra))
        tx.insert(Network("n1", "p1", segmentation_id=100))
        tx.insert(Subnet("s1", "p1", "n1", 4, "10.1.0.0/24", gateway_ip="10.1.0.1", allocation_pools=[Pool("10.1.0.2", "10.1.0.254")],
                         dns_nameservers=["9.9.9.9"]))
        tx.insert(Network("ext", "p1", external=True, network_type="flat", physical_network="public", mtu=1500))
        tx.insert(Subnet("s2", "p1", "ext", 4, "172.24.4.0/24", gateway_ip="172.24.4.1", enable_dhcp=False,
                         allocation_pools=[Pool("172.24.4.2", "172.24.4.254")]))

    def run(self, closure: Callable[[Tx], T]) -> T:
        return self.runner.run(self.db.run(closure))

    def server(self, name: str, host: str) -> Port:
        """A server with one port bound on `host`."""
        def work(tx: Tx) -> Port:
            tx.insert(Server(name, "p1", "u1", name, FLAVOR, hostname=name, host=host, user_data="dGVzdA==", key_name="k", key_public="ssh-ed25519 AAAA"))
            tx.put(Claim(host, name, "server", name, 1, 512, 1))
            port = ports.create_port(tx, ASK, tx.need(Network, "n1"), device_id=name, device_owner="compute:nova")
            bindings.open_binding(tx, port, host)
            bindings.activate_binding(tx, port.id, host)
            return tx.need(Port, port.id)

        return self.run(work)

    def arrange(self) -> None:
        self.run(lambda tx: arrange(tx, CONFIG))

    def view(self, host: str) -> HostView:
        return self.run(lambda tx: Picture(tx, CONFIG).view(host))


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    yield Cloud()


def test_a_host_sees_its_ports_and_nothing_of_others(cloud: Cloud) -> None:
    one, two = cloud.server("a", "h1"), cloud.server("b", "h2")
    view = cloud.view("h1")
    assert [port.id for port in view.ports] == [one.id]
    assert [instance.server_id for instance in view.instances] == ["a"]
    assert view.instances[0].document["keys"][0]["data"] == "ssh-ed25519 AAAA" and view.instances[0].user_data == "dGVzdA=="
    assert view.networks[0].peers == ["10.9.0.2"] and view.networks[0].segmentation_id == 100
    assert view.ports[0].hostname == "a" and view.ports[0].addresses[0].prefix == 24
    # the default group names itself as remote: so the other's address is known here, and nothing else of it
    assert sorted(address for members in view.members.values() for address in members) == sorted(
        fixed.ip_address for port in (one, two) for fixed in port.fixed_ips)
    assert view == sealed(view) and cloud.view("h1").version == view.version
    assert cloud.view("h3").ports == []


def test_every_binding_is_shown_at_its_own_generation(cloud: Cloud) -> None:
    port = cloud.server("a", "h1")
    cloud.run(lambda tx: bindings.open_binding(tx, tx.need(Port, port.id), "h2"))
    generations = {host: cloud.view(host).ports[0].generation for host in ("h1", "h2")}
    rows = cloud.run(lambda tx: {binding.host: binding.generation for binding in tx.find(Binding)})
    assert generations == rows and rows["h2"] > rows["h1"]
    cloud.run(lambda tx: bindings.activate_binding(tx, port.id, "h2"))
    assert cloud.view("h1").ports == [] and cloud.view("h1").networks == []


def test_dhcp_ports_are_made_once_follow_the_subnets_and_do_not_need_a_quota(cloud: Cloud) -> None:
    assert not cloud.run(lambda tx: tx.find(Port, device_owner=DHCP))
    cloud.server("a", "h1")
    cloud.run(lambda tx: tx.put(NetworkQuota("p1", "port", 1)))
    assert not cloud.run(is_arranged)
    cloud.arrange()
    assert cloud.run(is_arranged)
    made = cloud.run(lambda tx: tx.find(Port, device_owner=DHCP))
    cloud.arrange()
    assert cloud.run(lambda tx: tx.find(Port, device_owner=DHCP)) == made and len(made) == 1 and made[0].project_id == ""
    network = cloud.view("h1").networks[0]
    assert network.dhcp_mac == made[0].mac_address and network.subnets[0].dhcp_address == made[0].fixed_ips[0].ip_address
    assert network.dns_domain == CONFIG.network.dns_domain and network.subnets[0].dns == ["9.9.9.9"]
    cloud.run(lambda tx: tx.insert(Subnet("s3", "p1", "n1", 4, "10.2.0.0/24", allocation_pools=[Pool("10.2.0.2", "10.2.0.254")])))
    cloud.arrange()
    after = cloud.run(lambda tx: tx.one(Port, device_owner=DHCP))
    assert after is not None and {fixed.subnet_id for fixed in after.fixed_ips} == {"s1", "s3"}
    assert made[0].fixed_ips[0] in after.fixed_ips, "the address it had stays"
    cloud.run(lambda tx: [tx.update(Subnet, name, enable_dhcp=False) for name in ("s1", "s3")])
    cloud.arrange()
    assert not cloud.run(lambda tx: tx.find(Port, device_owner=DHCP))


def test_subnets_that_give_every_port_an_address_leave_nothing_to_arrange(cloud: Cloud) -> None:
    def add(tx: Tx) -> None:
        for name, mode in (("v1", SLAAC), ("v2", DHCPV6_STATELESS)):
            tx.insert(Subnet(name, "p1", "n1", 6, f"2001:db8:{name[1]}::/64", gateway_ip=f"2001:db8:{name[1]}::1", ipv6_address_mode=mode, ipv6_ra_mode=mode,
                             allocation_pools=[Pool(f"2001:db8:{name[1]}::2", f"2001:db8:{name[1]}::ffff:ffff:ffff:ffff")]))

    cloud.run(add)
    port = cloud.server("a", "h1")
    cloud.arrange()
    assert cloud.run(is_arranged), "the DHCP port's own automatic address counted as one too many"
    subnets = {subnet.id: subnet for subnet in cloud.view("h1").networks[0].subnets}
    assert subnets["v1"].ipv6_ra_mode == SLAAC and not subnets["v1"].dhcp
    assert subnets["v2"].dhcp and subnets["v2"].dhcp_address, "stateless DHCP tells name servers"
    assert {fixed.subnet_id: fixed.ip_address for fixed in port.fixed_ips}["v1"] == ipam.eui64(ipam.network("2001:db8:1::/64"), port.mac_address)


def test_fake_clouds_stay_as_they_are() -> None:
    cloud = Cloud(kind="")
    cloud.server("a", "h1")
    cloud.run(lambda tx: tx.insert(Router("r1", "p1")))
    assert cloud.run(is_arranged)
    cloud.arrange()
    assert not cloud.run(lambda tx: tx.find(Port, device_owner=DHCP)) and not cloud.run(lambda tx: tx.find(RouterPlace))


def add_router(tx: Tx, name: str = "r1") -> None:
    outer, inner = tx.need(Network, "ext"), tx.need(Network, "n1")
    gateway = ports.create_port(tx, ASK, outer, device_id=name, device_owner=ROUTER_GATEWAY)
    inside = ports.create_port(tx, ASK, inner, fixed_ips=[ports.Wish("s1", "10.1.0.1")], device_id=name, device_owner=ROUTER_INTERFACE)
    tx.insert(Router(name, "p1", gateway_network_id="ext", gateway_port_id=gateway.id))
    assert inside.fixed_ips[0].ip_address == "10.1.0.1"


def test_a_router_stays_where_it_is_until_its_host_is_fenced(cloud: Cloud) -> None:
    port = cloud.server("a", "h1")
    cloud.run(add_router)
    cloud.arrange()
    place = cloud.run(lambda tx: tx.need(RouterPlace, "r1").host)
    assert place in ("h1", "h2")
    other = "h2" if place == "h1" else "h1"
    cloud.run(lambda tx: tx.update(Host, place, state=DOWN))
    assert cloud.run(is_arranged), "a host that is only away keeps its router"
    router = cloud.view(place).routers[0]
    assert router.next_hop == "172.24.4.1" and router.ports[0].addresses == ["10.1.0.1/24"] and router.gateway is not None
    cloud.run(lambda tx: tx.insert(FloatingIp("f1", "p1", "ext", "172.24.4.99", "fp", port.id, port.fixed_ips[0].ip_address, "r1")))
    assert cloud.view(place).routers[0].floating[0].fixed == port.fixed_ips[0].ip_address
    told = [instance.floating for host in ("h1", "h2") for instance in cloud.view(host).instances if instance.server_id == port.device_id]
    assert told == [{port.fixed_ips[0].ip_address: "172.24.4.99"}]
    assert {network.id for network in cloud.view(place).networks} == {"n1", "ext"}
    cloud.run(lambda tx: tx.update(Host, place, forced_down=True))
    cloud.arrange()
    assert cloud.run(lambda tx: tx.need(RouterPlace, "r1").host) == other
    assert cloud.view(place).routers == [] and len(cloud.view(other).routers) == 1
    cloud.run(lambda tx: tx.delete(Router, "r1"))
    cloud.arrange()
    assert not cloud.run(lambda tx: tx.find(RouterPlace))


def test_a_router_goes_only_where_its_physical_network_is(cloud: Cloud) -> None:
    cloud.run(lambda tx: tx.update(Host, "h1", detail={"networking": "linuxbridge", "physical_interface_mappings": {}}))
    for name in ("r1", "r2"):
        cloud.run(lambda tx, name=name: tx.insert(Router(name, "p1", gateway_network_id="ext")))  # type: ignore[misc]
    cloud.arrange()
    assert {place.host for place in cloud.run(lambda tx: tx.find(RouterPlace))} == {"h2"}


def test_a_disk_may_be_copied_only_by_the_other_end_of_its_move(cloud: Cloud) -> None:
    cloud.server("a", "h1")
    assert cloud.view("h1").copies == {}
    cloud.run(lambda tx: tx.put(Claim("h2", "m1", "migration", "a", 1, 512, 1)))
    assert cloud.view("h1").copies == {"a": ["id-2"]} and cloud.view("h2").copies == {"a": ["id-1"]} and cloud.view("h3").copies == {}


def test_rules_and_address_groups_are_resolved(cloud: Cloud) -> None:
    cloud.server("a", "h1")

    def work(tx: Tx) -> str:
        from virga.domain.network import AddressGroup

        group = default_group(tx, "p1")
        tx.insert(AddressGroup("ag", "p1", addresses=["192.0.2.0/24"]))
        tx.insert(SecurityGroupRule("rule", "p1", group.id, "ingress", protocol="tcp", port_range_min=22, port_range_max=22, remote_address_group_id="ag"))
        return group.id

    group_id = cloud.run(work)
    rule = next(rule for rule in cloud.view("h1").groups[group_id] if rule.protocol == "tcp")
    assert (rule.port_min, rule.port_max, rule.remote_addresses) == (22, 22, ["192.0.2.0/24"])


def test_the_keeper_shows_news_soon_and_only_to_hosts_that_want_it(cloud: Cloud) -> None:
    shown: list[tuple[str, str]] = []

    def show(host: str, version: str, body: dict[str, object]) -> None:
        assert read_view(body).version == version
        shown.append((host, version))

    async def story() -> None:
        keeper = HostKeeper(cloud.env, cloud.db, cloud.trace, CONFIG, show)
        task = asyncio.get_running_loop().create_task(keeper.run())
        keeper.wake()
        await asyncio.sleep(0.1)
        assert {host for host, _ in shown} == {"h1", "h2"}
        before = dict(shown)
        shown.clear()
        await cloud.db.run(lambda tx: work(tx))
        await asyncio.sleep(0.1)
        assert dict(shown)["h1"] != before["h1"] and dict(shown)["h2"] == before["h2"]
        task.cancel()

    def work(tx: Tx) -> None:
        port = ports.create_port(tx, ASK, tx.need(Network, "n1"), device_id="x", device_owner="compute:nova")
        bindings.open_binding(tx, port, "h1")

    cloud.runner.run(story())
