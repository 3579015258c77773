"""Address arithmetic: pools, free addresses, free blocks, addresses made from a MAC. Pure.

Rules: addresses travel as canonical text (`ipaddress` writes it), inside this file as integers; a range is (first,
last), both included. Nothing here lists a subnet: an IPv6 /64 has 2**64 addresses and even an IPv4 /16 is too many to
build a set of for one port. `choose_address` therefore asks about single addresses, and looks at the taken ones only
when the pool is small or chance has failed it.
"""
from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Net = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Range = tuple[int, int]

# Up to this many addresses a pool is walked from its low end; beyond it the address is drawn by chance.
SMALL_POOL_ADDRESSES = 256
# With a fraction f of a large pool taken, f**64 is the chance that every draw hits a taken address: 0.1 % at 90 %.
DRAWS = 64


def network(text: str) -> Net:
    """A CIDR without host bits set. Raises ValueError with a sentence."""
    return ipaddress.ip_network(text)


def address(text: str) -> Address:
    """Raises ValueError. A zone suffix (fe80::1%eth0) means nothing outside one machine and is refused."""
    if "%" in text:
        raise ValueError(f"'{text}' has a zone and cannot be used here")
    return ipaddress.ip_address(text)


def text_of(version: int, number: int) -> str:
    return str(ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number))


def canonical(text: str) -> str:
    return str(address(text))


def usable(net: Net) -> Range:
    """The addresses a host may have: not network and broadcast address (IPv4 up to /30), not the subnet-router anycast one (IPv6)."""
    first, last = int(net.network_address), int(net.broadcast_address)
    if net.version == 4:
        return (first + 1, last - 1) if net.prefixlen <= 30 else (first, last)
    return (first + 1, last) if net.prefixlen <= 126 else (first, last)


def default_gateway(net: Net) -> str:
    return text_of(net.version, usable(net)[0])


def without(ranges: Sequence[Range], number: int) -> list[Range]:
    """The ranges with one address cut out."""
    rest: list[Range] = []
    for first, last in ranges:
        if first <= number <= last:
            rest.extend(part for part in ((first, number - 1), (number + 1, last)) if part[0] <= part[1])
        else:
            rest.append((first, last))
    return rest


def default_pools(net: Net, gateway: str | None) -> list[Range]:
    """All usable addresses but the gateway."""
    ranges = [usable(net)]
    return ranges if gateway is None else without(ranges, int(address(gateway)))


def choose_address(
    ranges: Sequence[Range], is_taken: Callable[[int], bool], all_taken: Callable[[], Iterable[int]], draw: Callable[[int], int],
) -> int | None:
    """A free address of the ranges, or None when there is none.

    Small pools give their lowest free address, which people expect to see. Large ones give a drawn address: an address just released is then
    unlikely to be handed out again while somebody's ARP cache remembers it, and the work does not grow with what is taken. Only when every draw
    hit a taken address are the taken ones listed, once, and the lowest gap taken.
    `draw(n)` returns an integer in [0, n).
    """
    total = sum(last - first + 1 for first, last in ranges)
    if total > SMALL_POOL_ADDRESSES:
        for _ in range(DRAWS):
            index = draw(total)
            for first, last in ranges:
                if index <= last - first:
                    if not is_taken(first + index):
                        return first + index
                    break
                index -= last - first + 1
    return lowest_free(ranges, all_taken())


def lowest_free(ranges: Sequence[Range], taken: Iterable[int]) -> int | None:
    gone = set(taken)
    for first, last in sorted(ranges):
        # at most len(gone) + 1 steps over all ranges: each step either ends or meets a taken address
        for number in range(first, last + 1):
            if number not in gone:
                return number
    return None


def covers(ranges: Sequence[Range], number: int) -> bool:
    return any(first <= number <= last for first, last in ranges)


def eui64(net: Net, mac: str) -> str:
    """The IPv6 address of a MAC in a /64 (RFC 4291, appendix A): ff:fe in the middle, the universal/local bit turned."""
    octets = [int(part, 16) for part in mac.split(":")]
    octets[0] ^= 0x02
    low = 0
    for octet in [*octets[:3], 0xFF, 0xFE, *octets[3:]]:
        low = low << 8 | octet
    return str(ipaddress.IPv6Address(int(net.network_address) | low))


def overlap(one: Net, other: Net) -> bool:
    """Whether two CIDRs share an address; different IP versions never do."""
    return (
        one.version == other.version and int(one.network_address) <= int(other.broadcast_address)
        and int(other.network_address) <= int(one.broadcast_address))


def inside(inner: Net, outer: Net) -> bool:
    return (
        inner.version == outer.version and outer.prefixlen <= inner.prefixlen
        and int(outer.network_address) <= int(inner.network_address) <= int(outer.broadcast_address))


def carve(prefixes: Sequence[str], taken: Iterable[str], prefixlen: int) -> str | None:
    """The lowest free block of `prefixlen` within the prefixes, clear of every taken CIDR; None when none is left."""
    gone = sorted((int(net.network_address), int(net.broadcast_address)) for net in map(network, taken))
    for prefix in sorted(map(network, prefixes), key=lambda net: int(net.network_address)):
        if prefix.prefixlen > prefixlen:
            continue
        size = 1 << (prefix.max_prefixlen - prefixlen)
        at, end = int(prefix.network_address), int(prefix.broadcast_address)
        for first, last in gone:
            if last < at:
                continue
            if first > at + size - 1:
                break
            at = -(-(last + 1) // size) * size
        if at + size - 1 <= end:
            return f"{text_of(prefix.version, at)}/{prefixlen}"
    return None


def merge(prefixes: Iterable[str]) -> list[str]:
    """The fewest prefixes that cover the same addresses, lowest first."""
    nets = [network(prefix) for prefix in prefixes]
    four = [net for net in nets if isinstance(net, ipaddress.IPv4Network)]
    six = [net for net in nets if isinstance(net, ipaddress.IPv6Network)]
    return [str(net) for net in (*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six))]


def loose_network(text: str) -> Net:
    """A CIDR whose host bits are cleared instead of refused. Raises ValueError."""
    return ipaddress.ip_network(text, strict=False)


def written_prefix(text: str) -> str:
    """A CIDR in its usual spelling, host bits kept. Raises ValueError."""
    return str(ipaddress.ip_interface(text))


def minus(have: Sequence[str], gone: Iterable[str]) -> list[str]:
    """The prefixes without those blocks, merged; a block may be a part of a prefix."""
    rest: list[Any] = [network(prefix) for prefix in have]
    for block in gone:
        out: Any = network(block)
        kept: list[Any] = []
        for net in rest:
            if not overlap(net, out):
                kept.append(net)
            elif out.prefixlen > net.prefixlen:
                kept.extend(net.address_exclude(out))
        rest = kept
    return merge(str(net) for net in rest)
