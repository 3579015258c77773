"""Address arithmetic against the standard library's own lists, on blocks small enough to list."""
from __future__ import annotations

import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virga.domain import ipam


@st.composite
def small_blocks(draw: st.DrawFn) -> ipam.Net:
    if draw(st.booleans()):
        return ipaddress.ip_network((draw(st.integers(1 << 24, (1 << 32) - 1)), draw(st.integers(22, 32))), strict=False)
    return ipaddress.ip_network((draw(st.integers(1 << 64, (1 << 128) - 1)), draw(st.integers(118, 128))), strict=False)


@given(small_blocks())
def test_usable_addresses_are_those_the_standard_library_names(net: ipam.Net) -> None:
    first, last = ipam.usable(net)
    hosts = {int(host) for host in net.hosts()}
    if net.version == 4 or net.prefixlen <= 126:
        assert set(range(first, last + 1)) == hosts
    else:
        assert (first, last) == (int(net.network_address), int(net.broadcast_address))


@given(small_blocks(), st.integers(0, 1023))
def test_default_pools_are_all_usable_addresses_but_the_gateway(net: ipam.Net, offset: int) -> None:
    first, last = ipam.usable(net)
    gateway = first + offset % (last - first + 1)
    listed = [number for low, high in ipam.default_pools(net, ipam.text_of(net.version, gateway)) for number in range(low, high + 1)]
    assert listed == [number for number in range(first, last + 1) if number != gateway]


@given(
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 400)), min_size=1, max_size=4),
    st.sets(st.integers(0, 2500)), st.integers(0, 2**32))
def test_a_chosen_address_is_free_and_in_the_pools_and_none_means_full(
    starts: list[tuple[int, int]], taken: set[int], seed: int
) -> None:
    ranges = [(first, first + length) for first, length in starts]
    rng = random.Random(seed)
    chosen = ipam.choose_address(ranges, lambda number: number in taken, lambda: taken, rng.randrange)
    free = {number for first, last in ranges for number in range(first, last + 1)} - taken
    if chosen is None:
        assert not free
    else:
        assert chosen in free


def test_a_small_pool_gives_its_lowest_free_address() -> None:
    assert ipam.choose_address([(10, 20), (2, 4)], lambda number: False, lambda: [2, 3], lambda below: 0) == 4


def test_a_huge_pool_is_never_listed() -> None:
    net = ipaddress.ip_network("fd00::/64")
    ranges = ipam.default_pools(net, "fd00::1")

    def forbidden() -> list[int]:
        raise AssertionError("the taken addresses were listed")

    chosen = ipam.choose_address(ranges, lambda number: False, forbidden, lambda below: below // 3)
    assert chosen is not None and ipam.covers(ranges, chosen)


def test_a_large_pool_that_is_all_but_full_still_gives_its_last_address() -> None:
    taken = set(range(5000)) - {4321}
    rng = random.Random(3)
    assert ipam.choose_address([(0, 4999)], taken.__contains__, lambda: taken, rng.randrange) == 4321
    taken.add(4321)
    assert ipam.choose_address([(0, 4999)], taken.__contains__, lambda: taken, rng.randrange) is None


@given(small_blocks(), small_blocks())
def test_overlap_is_the_standard_librarys(one: ipam.Net, other: ipam.Net) -> None:
    assert ipam.overlap(one, other) == (one.version == other.version and one.overlaps(other))  # type: ignore[arg-type]
    assert ipam.overlap(one, one)


@given(
    st.lists(st.integers(0, 255), min_size=1, max_size=3, unique=True), st.lists(st.tuples(st.integers(0, 1023), st.integers(26, 32))),
    st.integers(24, 30))
def test_carved_blocks_are_inside_and_clear_of_the_taken(octets: list[int], offsets: list[tuple[int, int]], length: int) -> None:
    prefixes = ipam.merge(f"10.7.{octet}.0/24" for octet in octets)
    taken = [str(ipam.loose_network(f"10.7.{octets[offset % len(octets)]}.{offset % 256}/{size}")) for offset, size in offsets]
    found = ipam.carve(prefixes, taken, length)
    candidates = [block for prefix in prefixes if ipam.network(prefix).prefixlen <= length
                  for block in ipam.network(prefix).subnets(new_prefix=length)]
    free = sorted(int(block.network_address) for block in candidates if not any(ipam.overlap(block, ipam.network(item)) for item in taken))
    if found is None:
        assert not free
    else:
        assert int(ipam.network(found).network_address) == free[0]


@given(st.lists(st.integers(0, 7), min_size=1, unique=True), st.lists(st.tuples(st.integers(0, 2047), st.integers(21, 32)), max_size=4))
def test_minus_leaves_exactly_the_other_addresses(octets: list[int], blocks: list[tuple[int, int]]) -> None:
    have = [f"10.7.{octet}.0/24" for octet in octets]
    gone = [str(ipam.loose_network(f"10.7.{number // 256}.{number % 256}/{size}")) for number, size in blocks]
    left = {int(host) for prefix in ipam.minus(have, gone) for host in ipam.network(prefix)}
    lost = {int(host) for prefix in gone for host in ipam.network(prefix)}
    assert left == {int(host) for prefix in have for host in ipam.network(prefix)} - lost


def test_eui64_follows_the_rfcs_example() -> None:
    # RFC 4291, appendix A: the universal/local bit is inverted and ff:fe put in the middle
    assert ipam.eui64(ipam.network("2001:db8::/64"), "34:56:78:9a:bc:de") == "2001:db8::3656:78ff:fe9a:bcde"


@pytest.mark.parametrize("text", ["fe80::1%eth0", "10.0.0.256", "", "10.0.0.1/24"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        ipam.address(text)
