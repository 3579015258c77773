# ruff: noqa: ASYNC240 - a sysctl is no disk file
"""Security groups and anti-spoofing of one host as nftables text, and its loading.

Rules: the text is a pure function of the host view; it is loaded whole (`nft -f -`), so a batch with one bad rule changes nothing and there is no
moment without a filter. What a guest may send is judged where its frame enters the bridge (prerouting), what it may get where it leaves (forward), so
two guests on one bridge both have their say. Frames with a wrong source MAC, address or ARP, and DHCP answers from guests, are dropped by a bridge
table; stateful rules live in an inet table that sees bridged packets through br_netfilter (`bridge-nf-call-iptables=1`, checked by `prepare`). The
bridge table names the port in the packet's mark; conntrack zones keep networks with the same addresses apart.
Why not `ct` in the bridge family: kernels without NF_CONNTRACK_BRIDGE answer "Protocol error"; this split works on all of them (measured).
A port bound here but unknown to the view is closed, not open. Established flows that a removed rule had let in are cut by deleting their conntrack
entries. Port security off means: no anti-spoofing, no groups.
"""
from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from pathlib import Path

from virga.agent.command import attempt, run
from virga.agent.hypervisor import DriverError
from virga.domain.hostview import HostView, PortView, RuleView

CALLS = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")
BRIDGE_SYSCTLS = Path("/proc/sys/net/bridge")
ZONES_MAX, MARKS_MAX = 65534, (1 << 28) - 1
# Neighbour discovery and multicast listening a guest may always do (RFC 4861, RFC 3810); router advertisements it may not send.
ND_OUT = "icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-report, 143 }"
ND_IN = "icmpv6 type { nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-query }"
PORT_PROTOCOLS = {"tcp": "tcp", "6": "tcp", "udp": "udp", "17": "udp", "sctp": "sctp", "132": "sctp", "dccp": "dccp", "33": "dccp",
                  "udplite": "udplite", "136": "udplite"}
NUMBERS = {"ah": 51, "egp": 8, "esp": 50, "gre": 47, "hopopt": 0, "igmp": 2, "ipip": 4, "ipv6-encap": 41, "ipv6-frag": 44, "ipv6-nonxt": 59,
           "ipv6-opts": 60, "ipv6-route": 43, "ospf": 89, "pgm": 113, "rsvp": 46, "vrrp": 112}


def stable_numbers(names: Iterable[str], most: int) -> dict[str, int]:
    """A number from 1 to `most` for each name: the same name gets the same number whatever else is there, but for (rare) clashes."""
    taken: set[int] = set()
    numbers: dict[str, int] = {}
    for name in sorted(set(names)):
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % most + 1
        while number in taken:
            number = number % most + 1
        taken.add(number)
        numbers[name] = number
    return numbers


def tap_of(port_id: str) -> str:
    return "tap" + port_id[:11]


def bridge_of(network_id: str) -> str:
    return "brq" + network_id[:11]


def link_local(mac: str) -> str:
    """The IPv6 link-local address a host forms from its MAC (RFC 4291, appendix A)."""
    parts = [int(part, 16) for part in mac.split(":")]
    parts[0] ^= 2
    raw = bytes([0xFE, 0x80, 0, 0, 0, 0, 0, 0, *parts[:3], 0xFF, 0xFE, *parts[3:]])
    return str(ipaddress.IPv6Address(raw))


def allowed_sources(port: PortView) -> list[tuple[str, str]]:
    """(MAC, address or CIDR) a port may send from: its own and its allowed pairs; sorted."""
    found = {(port.mac, address.address) for address in port.addresses}
    found |= {((pair.mac or port.mac).lower(), pair.address) for pair in port.pairs}
    found |= {(mac, link_local(mac)) for mac in {port.mac, *(pair.mac.lower() for pair in port.pairs if pair.mac)}}
    return sorted(found)


def is_v6(address: str) -> bool:
    return ":" in address


def _elements(items: Iterable[str]) -> str:
    text = ", ".join(items)
    return f" elements = {{ {text} }};" if text else ""


def _group_chain(direction: str, group_id: str) -> str:
    return f"{'gi' if direction == 'ingress' else 'ge'}_{group_id.replace('-', '')}"


def _set_name(group_id: str, version: int) -> str:
    return f"m{version}_{group_id.replace('-', '')}"


def protocol_match(rule: RuleView) -> str | None:
    """The nft words for a rule's protocol and ports; '' for any, None when the rule can never match its ethertype."""
    protocol = rule.protocol
    six = rule.ethertype == "IPv6"
    if protocol in (None, "any", "ip", "0"):
        return ""
    if protocol in ("icmp", "1", "icmpv6", "ipv6-icmp", "58"):
        if not six and protocol not in ("icmp", "1"):
            return None
        word, number = ("icmpv6", 58) if six else ("icmp", 1)
        if rule.port_min is None:
            return f"meta l4proto {number}"
        code = f" {word} code {rule.port_max}" if rule.port_max is not None else ""
        return f"{word} type {rule.port_min}{code}"
    word = PORT_PROTOCOLS.get(protocol, "")
    if word:
        low = rule.port_min if rule.port_min is not None else 1
        high = rule.port_max if rule.port_max is not None else (65535 if rule.port_min is None else low)
        if rule.port_min is None and rule.port_max is None:
            return f"meta l4proto {word}"
        return f"{word} dport {low}" if low == high else f"{word} dport {low}-{high}"
    number_text = str(NUMBERS.get(protocol, protocol))
    return f"meta l4proto {number_text}" if number_text.isdigit() else None


def rule_line(rule: RuleView) -> str | None:
    """One nft rule, or None when it can never match (an address of the other family, an empty address group)."""
    six = rule.ethertype == "IPv6"
    protocol = protocol_match(rule)
    if protocol is None:
        return None
    parts = [f"meta nfproto {'ipv6' if six else 'ipv4'}"]
    where = f"{'ip6' if six else 'ip'} {'saddr' if rule.direction == 'ingress' else 'daddr'}"
    if rule.remote_group:
        parts.append(f"{where} @{_set_name(rule.remote_group, 6 if six else 4)}")
    elif rule.remote_addresses is not None:
        fitting = sorted(address for address in rule.remote_addresses if is_v6(address) == six)
        if not fitting:
            return None
        parts.append(f"{where} {{ {', '.join(_merged(fitting))} }}")
    elif rule.remote_cidr:
        if is_v6(rule.remote_cidr) != six:
            return None
        if not rule.remote_cidr.endswith("/0"):
            parts.append(f"{where} {rule.remote_cidr}")
    if protocol:
        parts.append(protocol)
    return " ".join([*parts, "accept"])


def _merged(addresses: Iterable[str]) -> list[str]:
    """Addresses and CIDRs without overlap, which interval sets insist on."""
    networks = [ipaddress.ip_network(address, strict=False) for address in addresses]
    four = ipaddress.collapse_addresses(network for network in networks if isinstance(network, ipaddress.IPv4Network))
    six = ipaddress.collapse_addresses(network for network in networks if isinstance(network, ipaddress.IPv6Network))
    return [str(network) for network in [*four, *six]]


def group_lines(view: HostView) -> dict[tuple[str, str], list[str]]:
    """(direction, group) -> nft rules, for every group of the view."""
    lines: dict[tuple[str, str], list[str]] = {}
    for group_id, rules in sorted(view.groups.items()):
        for direction in ("ingress", "egress"):
            found = [rule_line(rule) for rule in rules if rule.direction == direction]
            lines[direction, group_id] = sorted({line for line in found if line is not None})
    return lines


def effective(view: HostView) -> dict[str, set[str]]:
    """port id -> everything that lets a packet through for it; what disappears from it must be cut."""
    lines = group_lines(view)
    found: dict[str, set[str]] = {}
    for port in view.ports:
        if not port.port_security:
            found[port.id] = {"open"}
            continue
        mine = {f"{direction} {line}" for group in port.groups for direction in ("ingress", "egress") for line in lines.get((direction, group), [])}
        remote = {rule.remote_group for group in port.groups for rule in view.groups.get(group, []) if rule.remote_group}
        mine |= {f"member {group} {address}" for group in remote for address in view.members.get(group, [])}
        found[port.id] = mine
    return found


def zones(view: HostView) -> dict[str, int]:
    """network id -> conntrack zone."""
    return stable_numbers((network.id for network in view.networks), ZONES_MAX)


def render(view: HostView, uplinks: dict[str, str], closed: Iterable[str] = ()) -> str:
    """The whole rule set. `uplinks`: network id -> the device that leads out of this host; `closed`: taps nobody has told us about."""
    return _bridge_table(view, uplinks, sorted(closed)) + _inet_table(view)


def _bridge_table(view: HostView, uplinks: dict[str, str], closed: list[str]) -> str:
    guarded = [port for port in view.ports if port.port_security]
    marks = stable_numbers((port.id for port in view.ports), MARKS_MAX)
    macs: list[str] = []
    four: list[str] = []
    six: list[str] = []
    for port in guarded:
        tap = tap_of(port.id)
        sources = allowed_sources(port)
        macs += sorted({f'"{tap}" . {mac}' for mac, _ in sources})
        by_mac: dict[str, list[str]] = {}
        for mac, address in sources:
            by_mac.setdefault(mac, []).append(address)
        for mac, addresses in sorted(by_mac.items()):
            for address in _merged(addresses):
                (six if is_v6(address) else four).append(f'"{tap}" . {mac} . {address}')
    out = [network for network in view.networks if network.dhcp_mac and network.id in uplinks]
    anycast = sorted({f'"{uplinks[network.id]}" . {network.dhcp_mac}' for network in out})
    anycast_ip = sorted({f'"{uplinks[network.id]}" . {subnet.dhcp_address}' for network in out for subnet in network.subnets
                         if subnet.dhcp_address and not is_v6(subnet.dhcp_address)})
    serving = sorted({f'"{uplinks[network.id]}"' for network in out})
    shut = [f'"{tap}"' for tap in closed] + [f'"{tap_of(port.id)}"' for port in view.ports if not port.admin_up]
    mark_elements = [f'"{tap_of(port.id)}" : {marks[port.id]}' for port in guarded]
    advertised = [line for port in guarded for line in _advertise_chain(port, marks[port.id])]
    nd_elements = _elements(f'"{tap_of(port.id)}" : jump nd_{marks[port.id]}' for port in guarded)
    advertised.append(f"  map advertised {{ type ifname : verdict;{nd_elements} }}")
    return "\n".join([
        "table bridge virga {}", "delete table bridge virga", "table bridge virga {",
        f"  set shut {{ type ifname;{_elements(shut)} }}",
        f"  set guarded {{ type ifname;{_elements(chr(34) + tap_of(port.id) + chr(34) for port in guarded)} }}",
        f"  set macs {{ type ifname . ether_addr;{_elements(macs)} }}",
        f"  set sources4 {{ type ifname . ether_addr . ipv4_addr; flags interval;{_elements(four)} }}",
        f"  set sources6 {{ type ifname . ether_addr . ipv6_addr; flags interval;{_elements(six)} }}",
        f"  set serving {{ type ifname;{_elements(serving)} }}",
        f"  set anycast {{ type ifname . ether_addr;{_elements(anycast)} }}",
        f"  set anycast_ip {{ type ifname . ipv4_addr;{_elements(anycast_ip)} }}",
        f"  map marks {{ type ifname : mark;{_elements(mark_elements)} }}",
        *advertised,
        """\
  chain prerouting {
    type filter hook prerouting priority -200; policy accept;
    iifname @shut drop
    iifname . ether saddr @anycast drop
    iifname @serving udp sport 67 udp dport 68 drop
    meta mark set iifname map @marks
    iifname @guarded jump guard
  }
  chain guard {
    ether type arp jump guard_arp
    ether type 0x8035 iifname . ether saddr @macs accept
    ether type ip jump guard4
    ether type ip6 jump guard6
    drop
  }
  chain guard_arp {
    arp saddr ip 0.0.0.0 iifname . arp saddr ether @macs iifname . ether saddr @macs accept
    iifname . arp saddr ether . arp saddr ip @sources4 iifname . ether saddr @macs accept
    drop
  }
  chain guard4 {
    udp sport 67 udp dport 68 drop
    ip saddr 0.0.0.0 udp sport 68 udp dport 67 iifname . ether saddr @macs accept
    iifname . ether saddr . ip saddr @sources4 accept
    drop
  }
  chain guard6 {
    icmpv6 type { nd-router-advert, nd-redirect } drop
    udp sport 547 udp dport 546 drop
    icmpv6 type nd-neighbor-advert iifname vmap @advertised
    ip6 saddr :: iifname . ether saddr @macs """ + ND_OUT + """ accept
    iifname . ether saddr . ip6 saddr @sources6 accept
    drop
  }
  chain forward {
    type filter hook forward priority -200; policy accept;
    oifname @shut drop
    oifname . ether saddr @anycast drop
    oifname . ether daddr @anycast drop
    oifname @serving udp sport 68 udp dport 67 drop
    ether type arp oifname . arp daddr ip @anycast_ip drop
    meta mark set 0
    meta mark set oifname map @marks
  }
}
"""])


def _advertise_chain(port: PortView, number: int) -> list[str]:
    """A neighbour advertisement names an address of its own beside the packet's source (RFC 4861, 4.4): it may only be one that the port may use.

    Raw payload, because nft learnt the name of that field only lately.
    """
    targets = [ipaddress.ip_network(text) for text in _merged(address for _, address in allowed_sources(port) if is_v6(address))]
    return [f"  chain nd_{number} {{",
            *(f"    @th,64,{net.prefixlen} {int(net.network_address) >> (128 - net.prefixlen):#x} return"
              if net.prefixlen else "    return" for net in targets),
            "    drop", "  }"]


def _inet_table(view: HostView) -> str:
    marks = stable_numbers((port.id for port in view.ports), MARKS_MAX)
    guarded = [port for port in view.ports if port.port_security]
    out = ["table inet virga {}", "delete table inet virga", "table inet virga {"]
    wanted = sorted({rule.remote_group for rules in view.groups.values() for rule in rules if rule.remote_group})
    for group_id in wanted:
        members = view.members.get(group_id, [])
        for version in (4, 6):
            fitting = _merged(address for address in members if is_v6(address) == (version == 6))
            out.append(f"  set {_set_name(group_id, version)} {{ type ipv{version}_addr; flags interval;{_elements(fitting)} }}")
    for (direction, group_id), lines in group_lines(view).items():
        out += [f"  chain {_group_chain(direction, group_id)} {{", *(f"    {line}" for line in lines), "  }"]
    known = set(view.groups)
    for port in guarded:
        groups = [group for group in sorted(port.groups) if group in known]
        number = marks[port.id]
        out += [f"  chain out_{number} {{", f"    {ND_OUT} accept", "    udp sport 68 udp dport 67 accept", "    udp sport 546 udp dport 547 accept",
                *(f"    jump {_group_chain('egress', group)}" for group in groups), "    drop", "  }"]
        out += [f"  chain in_{number} {{", f"    {ND_IN} accept", "    udp sport 67 udp dport 68 accept", "    udp sport 547 udp dport 546 accept",
                *(f"    jump {_group_chain('ingress', group)}" for group in groups), "    drop", "  }"]
    dispatch = {way: _elements(f"{marks[port.id]} : jump {way}_{marks[port.id]}" for port in guarded) for way in ("out", "in")}
    out += [f"  map to_{way} {{ type mark : verdict;{elements} }}" for way, elements in dispatch.items()]
    zone_elements = ", ".join(f'"{bridge_of(network_id)}" : {zone}' for network_id, zone in sorted(zones(view).items()))
    zone_rule = f"    ct zone set iifname map {{ {zone_elements} }}" if zone_elements else ""
    out += ["  chain zone {", "    type filter hook prerouting priority -300; policy accept;", zone_rule, "  }"]
    for way, hook, priority in (("out", "prerouting", -150), ("in", "forward", 0)):
        out += [
            f"  chain {hook} {{", f"    type filter hook {hook} priority {priority}; policy accept;",
            '    iifname != "brq*" return', "    meta mark 0 return", "    ct state established,related accept", "    ct state invalid drop",
            f"    meta mark vmap @to_{way}", "  }"]
    return "\n".join(line for line in out if line) + "\n}\n"


class Firewall:
    """Loads the rule set of the newest view; remembers what is loaded so that an equal text is not loaded twice."""

    def __init__(self) -> None:
        self._loaded = ""
        self._effective: dict[str, set[str]] = {}

    async def prepare(self) -> None:
        """Make bridged packets visible to the inet table. Raises DriverError where this kernel cannot."""
        if not BRIDGE_SYSCTLS.exists():
            await attempt(["modprobe", "br_netfilter"])
        if not BRIDGE_SYSCTLS.exists():
            raise DriverError("this kernel has no br_netfilter: security groups would not see bridged packets; load that module", "missing")
        self.check()

    def check(self) -> None:
        """Set the bridge-nf-call sysctls again if somebody cleared them; without them every packet would pass."""
        for name in CALLS:
            path = BRIDGE_SYSCTLS / name
            try:
                if path.read_text().strip() != "1":
                    path.write_text("1")
            except OSError as error:
                raise DriverError(f"cannot set {path}: {error.strerror}; security groups need it", "forbidden") from error

    async def load(self, view: HostView, uplinks: dict[str, str], closed: Iterable[str] = (), again: bool = False) -> bool:
        """Load the rules of this view if they differ from what is loaded (or `again`); returns whether it did. Raises DriverError."""
        text = render(view, uplinks, closed)
        if text == self._loaded and not again:
            return False
        await run(["nft", "-f", "-"], text, code="filter")
        self._loaded = text
        before, self._effective = self._effective, effective(view)
        await self._cut(view, before)
        return True

    async def loaded(self) -> bool:
        """Whether our tables are really there (somebody may have flushed the rule set)."""
        for family in ("bridge", "inet"):
            status, _, _ = await attempt(["nft", "list", "chains", family])
            there, out, _ = await attempt(["nft", "-t", "list", "table", family, "virga"])
            if status != 0 or there != 0 or "chain prerouting" not in out:
                return False
        return True

    async def _cut(self, view: HostView, before: dict[str, set[str]]) -> None:
        """End the tracked flows of ports that lost a permission; the next packet is judged by the rules of now."""
        zone_of = zones(view)
        for port in view.ports:
            if before.get(port.id, set()) - self._effective[port.id]:
                for address in [*(fixed.address for fixed in port.addresses), *(pair.address for pair in port.pairs)]:
                    family = "ipv6" if is_v6(address) else "ipv4"
                    for side in ("-s", "-d"):
                        await attempt(["conntrack", "-D", "-f", family, "-w", str(zone_of[port.network_id]), side, address])

    async def remove(self) -> None:
        await attempt(["nft", "delete", "table", "bridge", "virga"])
        await attempt(["nft", "delete", "table", "inet", "virga"])
        self._loaded, self._effective = "", {}
