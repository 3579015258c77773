"""Ports and their addresses: never one address twice, nothing left behind."""
from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from virga.domain import ipam
from virga.domain.ask import Ask
from virga.domain.config import Config, Quota
from virga.domain.errors import Problem
from virga.domain.network import FloatingIp, Network, Pool, Subnet
from virga.domain.port import Binding, FixedIp, IpAllocation, MacAllocation, Port, Wiring
from virga.ops import ports
from virga.ops.addresses import Wish
from virga.runtime.env import real_env, sim_env
from virga.runtime.trace import Trace
from virga.store.db import Db, SimDb, SqliteDb, Tx

T = TypeVar("T")
ASK = Ask(Config(), "p1", "u1", "req-1")


class Cloud:
    """A database with one network; `run` is synchronous."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        env = sim_env(7, loop=self._runner.get_loop())
        self.db: Db = SimDb(env, Trace(env.now))

    def run(self, closure: Callable[[Tx], T]) -> T:
        return self._runner.run(self.db.run(closure))

    def network(self, *subnets: Subnet, name: str = "n1") -> Network:
        network = Network(name, "p1")

        def work(tx: Tx) -> None:
            tx.insert(network)
            for subnet in subnets:
                subnet.network_id = name
                tx.insert(subnet)

        self.run(work)
        return network

    def port(self, network: Network, ask: Ask = ASK, **how: Any) -> Port:
        return self.run(lambda tx: ports.create_port(tx, ask, network, **how))


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    yield Cloud()


def subnet(number: int, cidr: str, **how: Any) -> Subnet:
    net = ipam.network(cidr)
    gateway = ipam.default_gateway(net)
    pools = [Pool(ipam.text_of(net.version, first), ipam.text_of(net.version, last)) for first, last in ipam.default_pools(net, gateway)]
    return Subnet(f"s{number}", "p1", "", net.version, cidr, gateway_ip=gateway, allocation_pools=pools, created_at=float(number), **how)


def test_a_port_has_an_address_of_each_version_a_mac_and_the_default_group(cloud: Cloud) -> None:
    network = cloud.network(subnet(1, "10.0.0.0/24"), subnet(2, "fd00:1::/64"))
    port = cloud.port(network)
    assert port.fixed_ips[0] == FixedIp("s1", "10.0.0.2")
    assert ipam.address(port.fixed_ips[1].ip_address) in ipam.network("fd00:1::/64")
    assert port.mac_address.startswith("fa:16:3e:")
    assert len(port.security_groups) == 1
    assert cloud.port(network).security_groups == port.security_groups


def test_an_automatic_subnet_gives_the_address_the_mac_makes(cloud: Cloud) -> None:
    network = cloud.network(subnet(1, "10.0.0.0/24"), subnet(2, "fd00:1::/64", ipv6_address_mode="slaac"))
    made = "fd00:1::3656:78ff:fe9a:bcde"
    port = cloud.port(network, mac="34:56:78:9a:bc:de")
    assert [fixed.ip_address for fixed in port.fixed_ips] == ["10.0.0.2", made]
    # naming an address of the other subnet does not take the automatic one away
    other = cloud.port(network, fixed_ips=[Wish("s1")])
    assert [fixed.subnet_id for fixed in other.fixed_ips] == ["s1", "s2"]
    with pytest.raises(Problem) as refusal:
        cloud.port(network, fixed_ips=[Wish("s2", "fd00:1::77")])
    assert refusal.value.status == 400


def test_a_network_without_subnets_gives_a_port_without_addresses(cloud: Cloud) -> None:
    assert cloud.port(cloud.network()).fixed_ips == []


@pytest.mark.parametrize(("wish", "status", "kind"), [
    (Wish("s9"), 400, "InvalidInput"),
    (Wish("s1", "10.9.0.1"), 400, "InvalidIpForSubnet"),
    (Wish("s1", "10.0.0.255"), 400, "InvalidIpForSubnet"),
    (Wish(None, "10.9.0.1"), 400, "InvalidIpForNetwork"),
    (Wish(None, "10.0.0.2"), 409, "IpAddressAlreadyAllocated"),
])
def test_wishes_that_cannot_be_met_take_nothing(cloud: Cloud, wish: Wish, status: int, kind: str) -> None:
    network = cloud.network(subnet(1, "10.0.0.0/24"))
    cloud.port(network)
    with pytest.raises(Problem) as refusal:
        cloud.port(network, fixed_ips=[Wish("s1"), wish])
    assert (refusal.value.status, refusal.value.kind) == (status, kind)
    assert cloud.run(lambda tx: (tx.count(Port), tx.count(IpAllocation), tx.count(MacAllocation))) == (1, 1, 1)


def test_a_mac_belongs_to_one_port_of_a_network(cloud: Cloud) -> None:
    network = cloud.network(subnet(1, "10.0.0.0/24"))
    cloud.port(network, mac="fa:16:3e:00:00:01")
    with pytest.raises(Problem) as refusal:
        cloud.port(network, mac="fa:16:3e:00:00:01")
    assert (refusal.value.status, refusal.value.kind) == (409, "MacAddressInUse")
    cloud.port(cloud.network(subnet(2, "10.1.0.0/24"), name="n2"), mac="fa:16:3e:00:00:01")


def test_the_quota_counts_in_the_same_transaction(cloud: Cloud) -> None:
    network = cloud.network(subnet(1, "10.0.0.0/24"))
    ask = Ask(Config(quota=Quota(port=2)), "p1", "u1", "req-1")
    cloud.port(network, ask)
    with pytest.raises(Problem) as refusal:
        cloud.run(lambda tx: [ports.create_port(tx, ask, network) for _ in range(2)])
    assert (refusal.value.status, refusal.value.kind) == (409, "OverQuota")
    assert cloud.run(lambda tx: tx.count(Port)) == 1


def test_released_means_nothing_is_left(cloud: Cloud) -> None:
    network = cloud.network(subnet(1, "10.0.0.0/24"), subnet(2, "fd00:1::/64", ipv6_address_mode="slaac"))
    port = cloud.port(network)

    def bind(tx: Tx) -> None:
        tx.insert(Binding(port.id, "host-1", 1))
        tx.insert(Wiring(port.id, "host-1", 1, True))
        tx.insert(FloatingIp("f1", "p1", "ext", "172.24.4.9", "fp", port.id, "10.0.0.2", "r1"))

    cloud.run(bind)
    cloud.run(lambda tx: ports.release_port(tx, port))
    for row_type in (Port, IpAllocation, MacAllocation, Binding, Wiring):
        assert cloud.run(lambda tx, row_type=row_type: tx.count(row_type)) == 0  # type: ignore[misc]
    floating = cloud.run(lambda tx: tx.need(FloatingIp, "f1"))
    assert (floating.port_id, floating.router_id, floating.status) == (None, None, "DOWN")


def test_what_a_host_is_told_of_a_port(cloud: Cloud) -> None:
    network = cloud.network(subnet(1, "10.0.0.0/24"))
    cloud.run(lambda tx: tx.update(Network, "n1", segmentation_id=77, mtu=1400))
    port = cloud.port(network)
    nic = cloud.run(lambda tx: ports.nic_of(tx, port, 5))
    assert nic == {"port_id": port.id, "generation": 5, "mac": port.mac_address, "network_id": "n1", "network_type": "vxlan",
                   "segmentation_id": 77, "physical_network": "", "mtu": 1400, "admin_up": True}


# never twice --------------------------------------------------------------------------------------------------------------

STEPS = st.lists(st.one_of(
    st.just(("make", 0)), st.tuples(st.just("wish"), st.integers(0, 31)), st.tuples(st.just("release"), st.integers(0, 40)),
    st.tuples(st.just("move"), st.integers(0, 40))), max_size=60)


@given(STEPS, st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_rows_and_allocations_never_disagree(steps: list[tuple[str, int]], automatic: bool) -> None:
    """Whatever is asked of a subnet of 29 addresses: every address of a port is allocated to it, once, and nothing else is allocated."""
    cloud = Cloud()
    more = [subnet(2, "fd00:1::/64", ipv6_address_mode="slaac"), subnet(3, "fd00:2::/64")] if automatic else []
    network = cloud.network(subnet(1, "10.0.0.0/27"), *more)
    held: list[Port] = []
    for verb, number in steps:
        try:
            if verb == "make":
                held.append(cloud.port(network))
            elif verb == "wish":
                held.append(cloud.port(network, fixed_ips=[Wish("s1", f"10.0.0.{number}")]))
            elif held and verb == "release":
                gone = held.pop(number % len(held))
                cloud.run(lambda tx, gone=gone: ports.release_port(tx, gone))  # type: ignore[misc]
            elif held:
                port = held[number % len(held)]

                def move(tx: Tx, port: Port = port) -> Port:
                    fixed = ports.change_addresses(tx, port, network, [Wish("s1"), Wish("s1")])
                    tx.update(Port, port.id, fixed_ips=fixed)
                    return tx.need(Port, port.id)

                held[held.index(port)] = cloud.run(move)
        except Problem as problem:
            assert problem.status in (400, 409)
    rows = cloud.run(lambda tx: tx.find(IpAllocation))
    assert {(row.port_id, row.ip_address) for row in rows} == {(port.id, fixed.ip_address) for port in held for fixed in port.fixed_ips}
    if automatic:
        assert all(sum(fixed.subnet_id == "s2" for fixed in port.fixed_ips) == 1 for port in held)
    assert all(count == 1 for count in Counter(row.ip_address for row in rows).values())


def test_many_at_once_on_the_real_database(tmp_path: Path) -> None:
    """300 ports asked for at once of 253 addresses, through the writer thread: 253 different addresses, 47 refusals."""

    async def scenario() -> None:
        env = real_env()
        db = SqliteDb(env, Trace(env.now), tmp_path / "virga.db", synchronous="OFF")
        network = Network("n1", "p1")
        block = subnet(1, "10.0.0.0/24")
        block.network_id = "n1"
        await db.run(lambda tx: (tx.insert(network), tx.insert(block)))
        made = await asyncio.gather(*(db.run(lambda tx: ports.create_port(tx, ASK, network)) for _ in range(300)), return_exceptions=True)
        addresses = [port.fixed_ips[0].ip_address for port in made if isinstance(port, Port)]
        refusals = [problem for problem in made if isinstance(problem, Problem)]
        assert len(addresses) == len(set(addresses)) == 253
        assert {problem.kind for problem in refusals} == {"IpAddressGenerationFailure"} and len(refusals) == 47
        assert len({port.mac_address for port in made if isinstance(port, Port)}) == 253
        db.close()

    asyncio.run(scenario())
