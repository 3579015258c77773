
"""The wiring driver of a Linux host: taps on bridges, bridges on VXLAN, VLAN or a plain interface; filter, DHCP and routers beside them.

Owns: every `tap`, `brq` and `vxlan-` device it made (names as Neutron's Linux bridge agent has them), and, through its helpers, the filter, the
services and the routers of this host. A device's alias says whose it is, `virga:<port id>:<generation>` on a tap and `virga:<network id>` on the others;
so a new agent process finds everything again in the kernel, and there is no file that could disagree with it. What has our name and not our alias is
somebody else's: it is refused by name, never taken and never removed. The newest view is kept in a file so that a restart without the controller filters
and serves as before.
Rules: `wire` returns only when a guest started on the tap would have its network: tap bridged and up, filter loaded, DHCP entry served. For that the
controller's view must name the port at this generation; a view that is late is waited for. Everything is compared before it is changed. Events come
by netlink at once; a slow resync looks at everything again, and so does an overrun of the event socket.
Works in the network namespace its process is in: a real host's own, or an emulated host's.
"""
from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from virga.agent import netlink
from virga.agent.command import attempt, ip_batch, run
from virga.agent.firewall import Firewall, bridge_of, tap_of
from virga.agent.hypervisor import DriverError, Nic
from virga.agent.netlink import Link
from virga.agent.routers import Routers
from virga.agent.services import Services, serves
from virga.domain.hostview import HostView, NetworkView, PortView, read_view
from virga.runtime.env import Env

ALIAS = "virga"
IPV6_SYSCTLS = Path("/proc/sys/net/ipv6/conf")
FLOOD = "00:00:00:00:00:00"
DEVICE_NAME_MAX = 15
MADE = ("bridge", "vxlan", "vlan")  # kinds of device that are made here for a network, and signed
TAKEN = ("File exists", "already exists")  # how kernels without and with an explanation say it
VIEW_RETRY_S = 2.0


class WiringOptions(msgspec.Struct, frozen=True):
    """What the driver is told once. `local_ip` is this host's tunnel address; `namespace_prefix` is '' on a real machine.

    `folder` keeps the newest view and may be private; `runtime_folder` holds what dnsmasq reads after it has given up root, so others must be able to
    look into it. Without `minimize_polling` no kernel event is listened to and everything waits for the next look (polling.py); with it the only looks
    are those of the slow resync.
    """

    folder: str
    runtime_folder: str = "/run/virga"
    local_ip: str = ""
    physical_interface_mappings: dict[str, str] = {}
    namespace_prefix: str = ""
    minimize_polling: bool = True
    polling_interval_s: float = 2.0
    resync_interval_s: float = 30.0
    view_wait_s: float = 30.0
    udp_dstport: int = 4789
    services: bool = True


def uplink_of(network: NetworkView | Nic, mappings: dict[str, str]) -> str:
    """The device that leads a network out of the host. Raises DriverError when this host cannot carry it."""
    kind = network.type if isinstance(network, NetworkView) else network.network_type
    if kind == "vxlan":
        return f"vxlan-{network.segmentation_id}"
    if kind == "local":
        return ""
    if kind not in ("flat", "vlan"):
        raise DriverError(f"this host cannot carry networks of type {kind}; it does vxlan, vlan, flat and local", "unsupported")
    device = mappings.get(network.physical_network)
    if not device:
        raise DriverError(
            f"physical network {network.physical_network!r} is not in physical_interface_mappings of this host (it has: "
            f"{', '.join(sorted(mappings)) or 'none'})", "unsupported")
    if kind == "flat":
        return device
    name = f"{device}.{network.segmentation_id}"
    if len(name) > DEVICE_NAME_MAX:
        raise DriverError(f"interface {device} has too long a name for a VLAN device ({name})", "unsupported")
    return name


def nic_network(nic: Nic) -> NetworkView:
    """The little a Nic says of its network, in the view's words."""
    return NetworkView(nic.network_id, nic.network_type, nic.segmentation_id, nic.physical_network, nic.mtu)


class LinuxBridgeWiring:
    """agent.hypervisor.WiringDriver on a real kernel."""

    def __init__(self, env: Env, options: WiringOptions) -> None:
        self.env, self.options = env, options
        self.folder = Path(options.folder)
        self.view = HostView("")
        self.firewall = Firewall()
        self.services = Services(env, Path(options.runtime_folder) / "dhcp", options.namespace_prefix, lambda: self.view)
        self.routers = Routers(env, Path(options.runtime_folder) / "routers", options.namespace_prefix)
        self._watch = netlink.Watch(self._link_changed, self._events_lost)
        self._changed: Callable[[str], None] = lambda port_id: None
        self._served: str | None = None  # version of the view that is fully in effect
        self._serving: set[str] = set()
        self._turn = asyncio.Event()  # set and replaced whenever `_served` or the view moved on
        self._work = asyncio.Lock()
        self._nets: dict[str, asyncio.Lock] = {}
        self._bridges: dict[str, asyncio.Lock] = {}  # held while a tap comes to a bridge, and while a bridge is removed
        self._floods: dict[str, set[str]] = {}
        self._taps: dict[str, tuple[str, int]] = {}  # device -> (port id, generation), as the kernel says
        self._dirty = asyncio.Event()
        self._view_error = ""
        self._retrying = False

    # life -----------------------------------------------------------------------------------------------------------
    async def open(self, changed: Callable[[str], None]) -> None:
        """Find what is there, put the last known view into effect, listen. Raises DriverError where this host cannot do it."""
        self._changed = changed
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            await ip_batch(["link show lo"])
            await self.firewall.prepare()
            self._listen()
        except OSError as error:
            raise DriverError(f"cannot work on this host's network: {error}; root (CAP_NET_ADMIN) is needed", "forbidden") from error
        self._find_taps()
        with contextlib.suppress(OSError, ValueError, msgspec.DecodeError):
            self.view = read_view(msgspec.json.decode((self.folder / "view.json").read_bytes()))
        if self.view.version:
            await self._settle()
        self.env.spawn(self._look_for_ever(), "wiring")

    def _listen(self) -> None:
        """Hear of changes as they happen. Raises OSError."""
        self._watch.open()

    async def close(self) -> None:
        self._watch.close()
        await self.services.close()

    # facts ----------------------------------------------------------------------------------------------------------
    def _find_taps(self) -> dict[str, Link]:
        links = netlink.dump()
        self._taps = {}
        for link in links.values():
            self._note(link)
        return links

    def _note(self, link: Link) -> None:
        parts = link.alias.split(":")
        if len(parts) == 3 and parts[0] == ALIAS and parts[2].isdigit():
            self._taps[link.name] = (parts[1], int(parts[2]))

    def _link_changed(self, link: Link, gone: bool) -> None:
        if not gone:
            self._note(link)
        known = self._taps.get(link.name)
        if known is not None:
            if gone:
                self._taps.pop(link.name)
            self._changed(known[0])
        elif link.name.startswith("brq") or link.name.startswith("vxlan-"):
            for port_id, _generation in list(self._taps.values()):
                self._changed(port_id)
            if gone:
                self._floods.pop(link.name, None)
                self._dirty.set()

    def _events_lost(self) -> None:
        self._dirty.set()

    async def wired(self) -> dict[str, bool]:
        """Every tap of ours: bridged to its network, up, filtered and served."""
        links = self._find_taps()
        by_index = {link.index: link for link in links.values()}
        found: dict[str, bool] = {}
        for name, (port_id, generation) in self._taps.items():
            link, port = links[name], self.view.port(port_id)
            master = by_index.get(link.master)
            found[port_id] = bool(
                link.up and port is not None and port.generation >= generation and master is not None and master.up
                and master.name == bridge_of(port.network_id) and self._in_effect(port))
        return found

    async def generations(self) -> dict[str, int]:
        """port id -> the generation its tap was made for."""
        self._find_taps()
        return dict(self._taps.values())

    def _in_effect(self, port: PortView) -> bool:
        network = self.view.network(port.network_id)
        return self._served == self.view.version and (network is None or not serves(network) or not self.options.services or network.id in self._serving)

    # view -----------------------------------------------------------------------------------------------------------
    async def apply(self, view: dict[str, Any]) -> None:
        """Take a new view into effect: filter, flood lists, services, routers; and drop networks nobody here needs any more.

        Raises DriverError when part of it could not be had; that part is tried again.
        """
        if await self._take(view):
            await self._settle()
            if self._view_error:
                raise DriverError(self._view_error)

    async def _take(self, view: dict[str, Any]) -> bool:
        """Remember a view; False when it is in effect already. Raises DriverError for one that cannot be read."""
        try:
            fresh = read_view(view)
        except ValueError as error:
            raise DriverError(str(error), "conflict") from error
        async with self._work:
            if fresh.version and fresh.version == self.view.version and self._served == fresh.version:
                return False
            self.view = fresh
            partial = self.folder / "view.part"
            try:
                partial.write_bytes(msgspec.json.encode(fresh))
                partial.rename(self.folder / "view.json")
            except OSError:  # no room: the network goes on without it, and a restart that finds no view asks for one
                partial.unlink(missing_ok=True)
                (self.folder / "view.json").unlink(missing_ok=True)
            return True

    async def _settle(self, again: bool = False) -> None:
        """Make the host as the view says. Idempotent; trouble with one network does not keep the others waiting."""
        async with self._work:
            view = self.view
            errors: list[str] = []
            self.firewall.check()
            await self._load_filter(again)
            needed = self._needed_networks(view)
            if self._is_taken_over(view, needed):
                await self._drop_unneeded(view, needed)
            for network in view.networks:
                if network.id in needed:
                    try:
                        await self._ensure_network(network)
                        if self.options.services and serves(network):
                            await self.services.ensure(network, [port for port in view.ports if port.network_id == network.id])
                            self._serving.add(network.id)
                    except (DriverError, OSError) as error:
                        self._serving.discard(network.id)
                        errors.append(str(error))
            # Ports are ready from here on; guests need not wait for routers and for the removal of what nobody uses.
            self._served = view.version
            self._move_on()
            for router in view.routers if self.options.services else []:
                try:
                    await self.routers.ensure(router, view)
                except DriverError as error:
                    errors.append(str(error))
            await self._drop_unneeded(view, needed)
            self._view_error = "; ".join(errors)
            if errors and not self._retrying:
                self._retrying = True
                self.env.spawn(self._retry_soon(), "wiring-retry")
            self._move_on()
        for port in view.ports:
            self._changed(port.id)

    def _move_on(self) -> None:
        turn, self._turn = self._turn, asyncio.Event()
        turn.set()

    async def _retry_soon(self) -> None:
        """What a view asks for and could not be had (a device still being removed, a daemon that did not start) is tried again before the slow resync."""
        await self.env.sleep(VIEW_RETRY_S)
        self._retrying = False
        self._dirty.set()

    def _uplinks(self, view: HostView) -> dict[str, str]:
        found = {}
        for network in view.networks:
            with contextlib.suppress(DriverError):
                uplink = uplink_of(network, self.options.physical_interface_mappings)
                if uplink:
                    found[network.id] = uplink
        return found

    async def _load_filter(self, again: bool = False) -> None:
        known = {port.id for port in self.view.ports}
        closed = [name for name, (port_id, _) in self._taps.items() if port_id not in known]
        await self.firewall.load(self.view, self._uplinks(self.view), closed, again)

    def _needed_networks(self, view: HostView) -> set[str]:
        needed = {port.network_id for port in view.ports}
        for router in view.routers:
            needed |= {port.network_id for port in router.ports}
            if router.gateway is not None:
                needed.add(router.gateway.network_id)
        return needed

    def _is_taken_over(self, view: HostView, needed: set[str]) -> bool:
        """Whether a network has the segment of one that is still here and may have to make room first."""
        links, uplinks = netlink.dump(), self._uplinks(view)
        there = [(links[name], network_id) for network_id, name in uplinks.items() if network_id in needed and name in links]
        return any(link.kind in MADE and _ours(link) and link.alias != f"{ALIAS}:{network_id}" for link, network_id in there)

    async def _drop_unneeded(self, view: HostView, needed: set[str]) -> None:
        wanted = {router.id for router in view.routers}
        for router_id in self.routers.known():
            if router_id not in wanted:
                await self.routers.remove(router_id)
        serving = {network.id for network in view.networks if network.id in needed and serves(network)}
        for network_id in self.services.known():
            if network_id not in serving:
                await self.services.remove(network_id)
                self._serving.discard(network_id)
        bridges = {bridge_of(network_id) for network_id in needed}
        for link in list(self._find_taps().values()):
            if link.kind == "bridge" and _ours(link) and link.name not in bridges:
                async with self._bridges.setdefault(link.name, asyncio.Lock()):
                    await self._drop_bridge(link.name)

    async def _drop_bridge(self, name: str) -> None:
        """Remove a bridge and what led out of it; a tap the view does not know yet keeps its bridge (the filter has shut it)."""
        links = self._find_taps()
        if name not in links:
            return
        ports = [other for other in links.values() if other.master == links[name].index]
        if any(port.name in self._taps for port in ports):
            return
        own = tuple(self.options.physical_interface_mappings.values())
        dead = [f"link del {port.name}" for port in ports if _ours(port)]
        free = [f"link set {port.name} nomaster" for port in ports if port.name in own]
        await ip_batch([*free, *dead, f"link del {name}"], force=True)
        for port in ports:
            self._floods.pop(port.name, None)

    # devices --------------------------------------------------------------------------------------------------------
    async def _ensure_network(self, network: NetworkView) -> None:
        """The network's bridge and its way out of the host, up, with its flood list."""
        async with self._nets.setdefault(network.id, asyncio.Lock()):
            bridge, uplink = bridge_of(network.id), uplink_of(network, self.options.physical_interface_mappings)
            links = netlink.dump()
            lines: list[str] = []
            alias, half_made = f"{ALIAS}:{network.id}", []
            for name, kind in ((bridge, "bridge"), (uplink, network.type)):
                if name in links and kind in MADE and links[name].alias != alias:
                    half_made += self._refuse_foreign(links[name], kind, links)
            links = {name: link for name, link in links.items() if name not in half_made}
            lines += [f"link del {name}" for name in half_made]
            if bridge not in links:
                await ip_batch([*lines, f"link add {bridge} type bridge forward_delay 0 stp_state 0 mcast_snooping 0", f"link set {bridge} alias {alias}"])
                lines = []
            hush(bridge)
            if uplink and uplink not in links:
                lines += self._make_uplink(network, uplink, links)
            index = links[bridge].index if bridge in links else -1
            if uplink and (uplink not in links or links[uplink].master != index or not links[uplink].up):
                if uplink in links:
                    await self._refuse_taken(network, links[uplink], links)
                lines.append(f"link set {uplink} master {bridge} up")
            if bridge not in links or not links[bridge].up:
                lines += [f"link set {bridge} mtu {network.mtu}" if not uplink else "", f"link set {bridge} up"]
            try:
                await ip_batch([line for line in lines if line])
            except DriverError as error:
                if any(word in str(error) for word in TAKEN) and uplink not in links and network.type in MADE:
                    raise DriverError(f"{network.type} {network.segmentation_id} is in use on this host already, by a device that is not ours",
                                      "conflict") from error
                raise
            if network.type == "vxlan":
                await self._flood(uplink, set(network.peers) - {self.options.local_ip}, bool(lines))

    def _make_uplink(self, network: NetworkView, uplink: str, links: dict[str, Link]) -> list[str]:
        if network.type == "vxlan":
            if not self.options.local_ip:
                raise DriverError("this host has no tunnel address; set local_ip to join vxlan networks", "unsupported")
            return [f"link add {uplink} mtu {network.mtu} type vxlan id {network.segmentation_id} dstport {self.options.udp_dstport} "
                    f"local {self.options.local_ip} ttl 64", f"link set {uplink} alias {ALIAS}:{network.id}"]
        device = self.options.physical_interface_mappings[network.physical_network]
        if device not in links:
            raise DriverError(f"interface {device} (physical network {network.physical_network}) is not on this host", "unsupported")
        if network.type == "vlan":
            return [f"link add link {device} name {uplink} type vlan id {network.segmentation_id}",
                    f"link set {uplink} alias {ALIAS}:{network.id}", f"link set {device} up"]
        return []

    def _refuse_foreign(self, link: Link, kind: str, links: dict[str, Link]) -> list[str]:
        """Raises DriverError for a device that has our name and is not this network's. One that nobody uses is named for removal: an agent died over it
        before it could sign it, or it is left from a network that is gone."""
        unused = not link.master and not any(other.master == link.index for other in links.values())
        if link.kind == kind and unused and (_ours(link) or not (link.alias or link.up)):
            return [link.name]
        what = f"is a {link.kind or 'device'}, not a {kind}" if link.kind != kind else "serves another network" if _ours(link) else "is not ours"
        raise DriverError(f"a device called {link.name} is in the way on this host: it {what}", "conflict")

    async def _refuse_taken(self, network: NetworkView, link: Link, links: dict[str, Link]) -> None:
        """A plain interface that is in another bridge or carries the host's own addresses is not ours to take."""
        master = next((other for other in links.values() if other.index == link.master), None)
        if master is not None and master.name != bridge_of(network.id):
            raise DriverError(f"interface {link.name} is already in bridge {master.name}", "conflict")
        if network.type == "flat":
            out = json.loads(await run(["ip", "-j", "address", "show", "dev", link.name]) or "[]")
            own = [entry["local"] for item in out for entry in item.get("addr_info", []) if entry.get("scope") == "global"]
            if own:
                raise DriverError(f"interface {link.name} carries the address {own[0]}; give physical network {network.physical_network} one of its own",
                                  "conflict")

    async def _flood(self, device: str, peers: set[str], look: bool) -> None:
        """The VXLAN device's list of hosts that get broadcasts and unknown addresses."""
        have = self._floods.get(device)
        if have is None or look:
            out = json.loads(await run(["bridge", "-j", "fdb", "show", "dev", device]) or "[]")
            have = {entry["dst"] for entry in out if entry.get("mac") == FLOOD and "dst" in entry}
        lines = [f"fdb append {FLOOD} dev {device} dst {peer}" for peer in sorted(peers - have)]
        lines += [f"fdb del {FLOOD} dev {device} dst {peer}" for peer in sorted(have - peers)]
        if lines:
            await run(["bridge", "-batch", "-"], "\n".join(lines) + "\n")
        self._floods[device] = peers

    # ports ----------------------------------------------------------------------------------------------------------
    async def wire(self, nic: Nic) -> None:
        """See the Protocol. Raises DriverError 'timeout' when the controller's view of the port does not come."""
        try:
            await self._wire_now(nic)
        except DriverError as error:
            if error.code != "conflict":
                raise
            # What is in the way may be a network of ours that the next view no longer has (its segment was given to this one).
            known = self.view.port(nic.port_id)
            if known is not None and known.generation >= nic.generation:
                raise
            await self._wait_for_view(nic)
            await self._wire_now(nic)
        await self._wait_for_view(nic)

    async def _wire_now(self, nic: Nic) -> None:
        """The tap, on its network's bridge."""
        network = self.view.network(nic.network_id) or nic_network(nic)
        async with self._bridges.setdefault(nic.bridge, asyncio.Lock()):  # nobody takes the bridge away between its making and the tap
            await self._ensure_network(network)
            await self._ensure_tap(nic)

    async def _ensure_tap(self, nic: Nic, bridged: bool = True) -> None:
        links = netlink.dump()
        link, alias = links.get(nic.tap), f"{ALIAS}:{nic.port_id}:{nic.generation}"
        bridge = links.get(nic.bridge)
        lines: list[str] = []
        if link is not None and not link.alias.startswith(f"{ALIAS}:{nic.port_id}:"):
            if link.kind != "tun" or link.alias or link.carrier:
                raise DriverError(f"a device called {nic.tap} is in the way on this host: it is {'in use' if link.carrier else 'not ours'}", "conflict")
            lines.append(f"link del {nic.tap}")  # half made by an agent that died, or left behind: nobody has it open
            link = None
        if link is None:
            lines.append(f"tuntap add dev {nic.tap} mode tap")
        if link is None or link.alias != alias:
            lines.append(f"link set {nic.tap} alias {alias}")
        if link is None or link.mtu != nic.mtu:
            lines.append(f"link set {nic.tap} mtu {nic.mtu}")
        if bridged and (link is None or bridge is None or link.master != bridge.index or not link.up):
            lines.append(f"link set {nic.tap} master {nic.bridge} up")
        self._taps[nic.tap] = (nic.port_id, nic.generation)
        await ip_batch(lines)

    async def _wait_for_view(self, nic: Nic) -> None:
        """Until the view with this port at this generation is in effect: filter loaded, entry served."""
        try:
            async with asyncio.timeout(self.options.view_wait_s):
                while True:
                    if self._ready(nic):
                        return
                    await self._turn.wait()
        except TimeoutError as error:
            port = self.view.port(nic.port_id)
            why = self._view_error if port is not None and self._view_error else "the controller's view of it has not arrived"
            raise DriverError(f"port {nic.port_id} (generation {nic.generation}) is not wired after {self.options.view_wait_s:g} s: {why}",
                              "timeout") from error

    def _ready(self, nic: Nic) -> bool:
        """Whether a guest started on this card's tap would have its network."""
        port = self.view.port(nic.port_id)
        return port is not None and port.generation >= nic.generation and self._in_effect(port)

    async def unwire(self, port_id: str) -> None:
        """Remove the port's tap. The network goes with the next view if nobody else needs it."""
        await self._remove_tap(port_id)
        if self.view.port(port_id) is None:
            await self._settle()

    async def _remove_tap(self, port_id: str) -> None:
        tap = tap_of(port_id)
        link = netlink.dump().get(tap)
        if link is not None and link.kind == "tun" and link.alias.startswith(f"{ALIAS}:{port_id}:"):
            await ip_batch([f"link del {tap}"], force=True)
        self._taps.pop(tap, None)

    async def announce(self, nic: Nic, addresses: list[str]) -> None:
        """Gratuitous ARP and unsolicited neighbour advertisements for the port's addresses, so that every bridge learns where its MAC is now.

        Frames with the guest's MAC go out of the host on the uplink; this host's own bridge is told by a forwarding entry.
        """
        port = self.view.port(nic.port_id)
        mac = nic.mac or (port.mac if port is not None else "")
        found = addresses or ([fixed.address for fixed in port.addresses] if port is not None else [])
        network = self.view.network(nic.network_id)
        if mac and found and network is not None:
            uplink = uplink_of(network, self.options.physical_interface_mappings)
            await attempt(["bridge", "fdb", "replace", mac, "dev", nic.tap, "master", "dynamic"])
            if uplink:
                await asyncio.to_thread(send_announcements, [uplink], mac, found)

    # safety net -----------------------------------------------------------------------------------------------------
    async def _look_for_ever(self) -> None:
        """Look at everything again every `resync_interval_s`, and at once when events were lost."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.options.resync_interval_s):
                    await self._dirty.wait()
            self._dirty.clear()
            with contextlib.suppress(DriverError, OSError):
                self._find_taps()
                for port_id, _generation in list(self._taps.values()):
                    self._changed(port_id)
                if self.view.version:
                    self._floods.clear()
                    await self._settle(again=not await self.firewall.loaded())


def _ours(link: Link) -> bool:
    return link.alias.startswith(ALIAS + ":")


def hush(device: str) -> None:
    """Keep the host itself out of a guests' network: with IPv6 on, its bridge would take an address from any guest's advertisement and answer there."""
    switch = IPV6_SYSCTLS / device / "disable_ipv6"
    with contextlib.suppress(OSError):  # a kernel without IPv6
        if switch.read_text().strip() != "1":
            switch.write_text("1")


def announcement_frames(mac: str, addresses: Iterable[str]) -> list[bytes]:
    """Ethernet frames: gratuitous ARP (request form, RFC 5227 section 3) and unsolicited neighbour advertisement (RFC 4861 section 7.2.6)."""
    source = bytes.fromhex(mac.replace(":", ""))
    frames = []
    for text in addresses:
        address = ipaddress.ip_address(text)
        if address.version == 4:
            body = b"\x00\x01\x08\x00\x06\x04\x00\x01" + source + address.packed + b"\0" * 6 + address.packed
            frames.append(b"\xff" * 6 + source + b"\x08\x06" + body + b"\0" * 18)
        else:
            target = ipaddress.IPv6Address("ff02::1").packed
            icmp = b"\x88\x00\x00\x00" + b"\x20\x00\x00\x00" + address.packed + b"\x02\x01" + source
            pseudo = address.packed + target + len(icmp).to_bytes(4, "big") + b"\0\0\0\x3a"
            icmp = icmp[:2] + _checksum(pseudo + icmp).to_bytes(2, "big") + icmp[4:]
            header = b"\x60\0\0\0" + len(icmp).to_bytes(2, "big") + b"\x3a\xff" + address.packed + target
            frames.append(b"\x33\x33\0\0\0\x01" + source + b"\x86\xdd" + header + icmp)
    return frames


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[i:i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def send_announcements(devices: Iterable[str], mac: str, addresses: Iterable[str]) -> None:
    """Put the frames on devices; a device that is gone is left out."""
    frames = announcement_frames(mac, addresses)
    for device in devices:
        with contextlib.suppress(OSError), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind((device, 0))
            for frame in frames:
                sender.send(frame)


async def remove_everything(env: Env, options: WiringOptions) -> None:
    """Take every device, namespace, daemon and rule of this driver off the host (used when an emulated host goes)."""
    driver = LinuxBridgeWiring(env, options)
    for router_id in driver.routers.known():
        await driver.routers.remove(router_id)
    for network_id in driver.services.known():
        await driver.services.remove(network_id)
    await driver.firewall.remove()
    links = netlink.dump()
    names = [link.name for link in links.values() if _ours(link)]
    await ip_batch([f"link del {name}" for name in names], force=True)
