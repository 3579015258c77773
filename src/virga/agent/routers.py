
"""Routers placed on this host: a namespace each, with forwarding, SNAT, floating IPs, extra routes and advertisements.

Rules: a router's namespace holds one device a port (`qr-` inside, `qg-` outside), its NAT is one nft table loaded whole. A floating IP is an address
on `qg-`, a dnat and a snat, announced by gratuitous ARP when it is new; when it goes, the tracked flows through it are ended, so it stops at once.
Everything is rebuilt from the view; what the view no longer has is removed. Why one table and `ip -batch`: a router appears or changes as a whole.
"""
from __future__ import annotations

import json
from pathlib import Path

from virga.agent import namespaces, netlink
from virga.agent.adverts import Adverts, radvd_conf
from virga.agent.command import attempt, ip_batch, run
from virga.agent.firewall import bridge_of, tap_of
from virga.domain.hostview import HostView, RouterPortView, RouterView
from virga.runtime.env import Env

# On in every router's namespace before it has a device. Link-local addresses are used at once: guests' default routes wait for nobody's tentative one.
SYSCTLS = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.default.accept_dad=0")


def inside_device(port: RouterPortView) -> str:
    return "qr-" + port.id[:11]


def outside_device(port: RouterPortView) -> str:
    return "qg-" + port.id[:11]


def nat_rules(router: RouterView) -> str:
    """The router's whole nft table. IPv4 only: IPv6 is routed without translation."""
    lines = ["table inet router {}", "delete table inet router", "table inet router {"]
    pre: list[str] = []
    post: list[str] = []
    if router.gateway is not None:
        device = outside_device(router.gateway)
        for item in sorted(router.floating, key=lambda floating: floating.floating):
            pre.append(f"    ip daddr {item.floating} dnat ip to {item.fixed}")
            post.append(f'    oifname "{device}" ip saddr {item.fixed} snat ip to {item.floating}')
        own = next((address.split("/")[0] for address in router.gateway.addresses if ":" not in address), "")
        if own:
            # A guest that reaches a floating IP of its own router must see the answer come from there.
            post += [f'    iifname "qr-*" oifname "qr-*" ct status dnat snat ip to {own}'] if router.floating else []
            if router.snat:
                post.append(f'    oifname "{device}" meta nfproto ipv4 ip saddr != {own} snat ip to {own}')
    lines += ["  chain pre {", "    type nat hook prerouting priority dstnat; policy accept;", *pre, "  }"]
    lines += ["  chain local {", "    type nat hook output priority -100; policy accept;", *pre, "  }"]
    lines += ["  chain post {", "    type nat hook postrouting priority srcnat; policy accept;", *post, "  }"]
    lines += ["  chain through {", "    type filter hook forward priority 0; policy accept;", "    ct state invalid drop"]
    if router.gateway is not None and not router.snat:
        lines.append("    accept")
    return "\n".join([*lines, "  }", "}"]) + "\n"


class Routers:
    """Keeps the routers of this host as the view says."""

    def __init__(self, env: Env, folder: Path, prefix: str) -> None:
        self._folder, self._prefix = folder, prefix
        self._adverts = Adverts(env, folder)

    def namespace(self, router_id: str) -> str:
        return f"{self._prefix}qrouter-{router_id}"

    def known(self) -> list[str]:
        return sorted(entry.stem for entry in self._folder.glob("*.json")) if self._folder.exists() else []

    async def ensure(self, router: RouterView, view: HostView) -> None:
        """The router as the view says; the bridges of its networks must exist. Raises DriverError."""
        namespace = self.namespace(router.id)
        self._folder.mkdir(parents=True, exist_ok=True)
        record = self._folder / f"{router.id}.json"
        mtus = {network.id: network.mtu for network in view.networks}
        wanted = json.dumps([_plain(router), mtus], sort_keys=True)
        new = await namespaces.ensure(namespace)
        before = record.read_text() if record.exists() and not new else ""
        if before != wanted or not await self._complete(router, namespace):
            if new:
                await self._new(namespace)
            # Rules before addresses: a flow that comes in between would be answered by the router itself, and be tracked so for as long as it lasts.
            await run(["ip", "netns", "exec", namespace, "nft", "-f", "-"], nat_rules(router), code="filter")
            await self._devices(router, namespace, mtus)
            await self._routes(router, namespace)
            await self._announce(router, namespace, before)
            record.write_text(wanted)
        await self._adverts.ensure(router.id, namespace, radvd_conf(router, view, {port.id: inside_device(port) for port in router.ports}))

    async def _new(self, namespace: str) -> None:
        status, _, _ = await attempt(["ip", "netns", "exec", namespace, "sysctl", "-qw", *SYSCTLS])
        if status != 0:  # a kernel without IPv6
            await run(["ip", "netns", "exec", namespace, "sysctl", "-qw", SYSCTLS[0]])

    def _ports(self, router: RouterView) -> list[tuple[str, RouterPortView, list[str]]]:
        """(device, port, addresses) of every port; floating addresses sit on the gateway's device. Nothing when the router is down."""
        if not router.admin_up:
            return []
        found = [(inside_device(port), port, list(port.addresses)) for port in router.ports]
        if router.gateway is not None:
            floating = [f"{item.floating}/32" for item in router.floating]
            found.append((outside_device(router.gateway), router.gateway, [*router.gateway.addresses, *floating]))
        return found

    async def _complete(self, router: RouterView, namespace: str) -> bool:
        status, out, _ = await attempt(["ip", "-n", namespace, "-j", "link"])
        there = {item["ifname"] for item in json.loads(out or "[]") if "UP" in item["flags"]} if status == 0 else set()
        outer = netlink.dump()
        return all(device in there and self._joined(outer, port) for device, port, _ in self._ports(router))

    def _joined(self, links: dict[str, netlink.Link], port: RouterPortView) -> bool:
        """Whether a port's outer end is there and in its network's bridge (which may have been made anew)."""
        outer, bridge = links.get(tap_of(port.id)), links.get(bridge_of(port.network_id))
        return outer is not None and bridge is not None and outer.master == bridge.index

    async def _devices(self, router: RouterView, namespace: str, mtus: dict[str, int]) -> None:
        out = await run(["ip", "-n", namespace, "-j", "address"])
        there = {item["ifname"]: {f"{entry['local']}/{entry['prefixlen']}" for entry in item.get("addr_info", []) if entry.get("scope") == "global"}
                 for item in json.loads(out or "[]")}
        wanted = self._ports(router)
        names = {device for device, _, _ in wanted}
        await ip_batch([f"link del {device}" for device in there if device.startswith(("qr-", "qg-")) and device not in names], namespace, force=True)
        for device, port, addresses in wanted:
            outer, mtu = tap_of(port.id), mtus.get(port.network_id, 1500)
            if device not in there:
                namespaces.refuse_foreign(outer)
                await ip_batch([f"link del {outer}"], force=True)
                await ip_batch([
                    f"link add {outer} mtu {mtu} type veth peer name {device} address {port.mac} mtu {mtu} netns {namespace}",
                    f"link set {outer} master {bridge_of(port.network_id)} up"])
            elif not self._joined(netlink.dump(), port):
                await ip_batch([f"link set {outer} master {bridge_of(port.network_id)} up"])
            have = there.get(device, set())
            await ip_batch([
                f"link set {device} up",  # also one that is there: what made it may have failed half way
                *(f"address add {address} dev {device}" + (" nodad" if ":" in address else "") for address in addresses if address not in have),
                *(f"address del {address} dev {device}" for address in sorted(have - set(addresses)))], namespace)

    async def _routes(self, router: RouterView, namespace: str) -> None:
        """Extra routes carry a protocol number of their own, so that old ones can be told from the kernel's."""
        for family in ("-4", "-6"):
            await attempt(["ip", family, "-n", namespace, "route", "flush", "proto", "250"])
        lines = []
        if router.admin_up and router.gateway is not None and router.next_hop:
            lines.append(f"route replace default via {router.next_hop} dev {outside_device(router.gateway)} proto 250 onlink")
        if router.admin_up and router.gateway is not None and router.next_hop6:
            lines.append(f"route replace ::/0 via {router.next_hop6} dev {outside_device(router.gateway)} proto 250")
        lines += [f"route replace {destination} via {hop} proto 250" for destination, hop in router.routes if router.admin_up]
        await ip_batch(lines, namespace, force=True)

    async def _announce(self, router: RouterView, namespace: str, before: str) -> None:
        old: set[tuple[str, str]] = set()
        if before:
            old = {(floating, fixed) for floating, fixed in json.loads(before)[0]["floating"]}
        now = {(item.floating, item.fixed) for item in router.floating}
        for floating, fixed in sorted(old - now):
            for words in (["-d", floating], ["-s", fixed], ["-q", floating]):
                await attempt(["ip", "netns", "exec", namespace, "conntrack", "-D", *words])
        if router.gateway is not None and router.admin_up:
            own = [address.split("/")[0] for address in router.gateway.addresses if ":" not in address] if not before else []
            for address in [*own, *(floating for floating, _ in sorted(now - old))]:
                await attempt(["ip", "netns", "exec", namespace, "arping", "-q", "-U", "-c", "1", "-w", "1", "-I", outside_device(router.gateway), address])

    async def remove(self, router_id: str) -> None:
        await self._adverts.remove(router_id)
        await namespaces.remove(self.namespace(router_id))
        (self._folder / f"{router_id}.json").unlink(missing_ok=True)


def _plain(router: RouterView) -> dict[str, object]:
    """A JSON-able picture of a router, for comparing."""
    return {
        "up": router.admin_up, "hop": [router.next_hop, router.next_hop6], "snat": router.snat, "routes": sorted(router.routes),
        "ports": sorted([port.id, port.network_id, port.mac, sorted(port.addresses)] for port in router.ports),
        "gateway": None if router.gateway is None else [router.gateway.id, router.gateway.network_id, router.gateway.mac, sorted(router.gateway.addresses)],
        "floating": sorted([item.floating, item.fixed] for item in router.floating),
    }
