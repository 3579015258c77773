
"""DHCP, DNS and metadata for each network that has guests on this host: one namespace, one dnsmasq, one metadata server a network.

Rules: the namespace holds the network's DHCP port, which is the same (MAC and addresses) on every host; the bridge filter keeps its frames inside
the host, so each guest is served by its own host and a lease needs nobody else. dnsmasq runs as a daemon and outlives the agent; a changed entry is a
rewritten hosts file and a SIGHUP, a changed subnet a restart. Leases are not kept: every address is a fixed entry, and `dhcp-authoritative` lets a
guest that moved renew at once. A client that understands option 121 ignores option 3 (RFC 3442), so the default route is in both.
Files of a network live in `<folder>/<network id>/`; texts are pure functions of the view.
"""
from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from virga.agent import namespaces, netlink
from virga.agent.command import attempt, ip_batch, run
from virga.agent.firewall import bridge_of, tap_of
from virga.agent.metadata import ADDRESS, PORT, MetadataServer
from virga.domain.hostview import HostView, NetworkView, PortView, SubnetView
from virga.runtime.env import Env

# dnsmasq 2.90 as Debian 12 has it dies when it reads its hosts again (SIGHUP) after it has served one that sets a tag. So tags are rare, and where there are
# some it is started anew instead.
TAG = "set:p"
LEASE_S = 86400
GONE_POLL_S, GONE_POLLS = 0.02, 100


def serves(network: NetworkView) -> bool:
    """Whether this network has DHCP and metadata."""
    return bool(network.dhcp_mac) and any(subnet.dhcp_address for subnet in network.subnets)


def inner_device(network: NetworkView) -> str:
    return "ns-" + network.dhcp_port_id[:11]


def outer_device(network: NetworkView) -> str:
    return tap_of(network.dhcp_port_id)


def _served(network: NetworkView) -> list[tuple[int, SubnetView]]:
    return [(number, subnet) for number, subnet in enumerate(network.subnets) if subnet.dhcp and subnet.dhcp_address]


def dnsmasq_conf(network: NetworkView, folder: Path) -> str:
    """The configuration that only a restart can change."""
    lines = [
        "no-resolv", "no-ping", "bind-interfaces", "except-interface=lo", f"interface={inner_device(network)}", "dhcp-authoritative", "leasefile-ro",
        "no-hosts", f"pid-file={folder / 'pid'}", f"dhcp-hostsfile={folder / 'hosts'}", f"dhcp-optsfile={folder / 'opts'}",
        f"addn-hosts={folder / 'names'}", "dhcp-lease-max=65536", f"dhcp-option-force=option:mtu,{network.mtu}", "log-facility=" + str(folder / "log"),
    ]
    if network.dns_domain:
        lines.append(f"domain={network.dns_domain.rstrip('.')}")
    for number, subnet in _served(network):
        net = ipaddress.ip_network(subnet.cidr)
        tail = f"static,{net.netmask},{LEASE_S}s" if net.version == 4 else f"static,{net.prefixlen},{LEASE_S}s"
        lines.append(f"dhcp-range=set:s{number},{net.network_address},{tail}")
    servers = sorted({server for _, subnet in _served(network) for server in subnet.dns})
    lines += [f"server={server}" for server in servers]
    return "\n".join(lines) + "\n"


def dnsmasq_options(network: NetworkView, ports: list[PortView]) -> str:
    """Options by subnet tag, and each port's own."""
    lines = []
    for number, subnet in _served(network):
        if ipaddress.ip_network(subnet.cidr).version == 6:
            lines += [f"tag:s{number},option6:dns-server,[{']['.join(subnet.dns)}]"] if subnet.dns else []
            continue
        routes = [f"{ADDRESS}/32,{subnet.dhcp_address}", *(f"{destination},{hop}" for destination, hop in subnet.routes)]
        if subnet.gateway:
            routes.append(f"0.0.0.0/0,{subnet.gateway}")
            lines.append(f"tag:s{number},option:router,{subnet.gateway}")
        else:
            lines.append(f"tag:s{number},option:router")
        lines.append(f"tag:s{number},option:classless-static-route,{','.join(routes)}")
        lines.append(f"tag:s{number},option:dns-server,{','.join(subnet.dns or [subnet.dhcp_address])}")
    for port in ports:
        for name, value in port.dhcp_options:
            option = name if name.isdigit() else f"option:{name}"
            lines.append(f"tag:p{port.id[:13]},{option},{value}".replace("\n", " "))
    return "\n".join(lines) + "\n"


def dnsmasq_hosts(network: NetworkView, ports: list[PortView]) -> str:
    """One line a fixed address of a port that is here; a tag of its own only for a port with options of its own (see TAG)."""
    served = {subnet.id for _, subnet in _served(network)}
    lines = []
    for port in ports:
        for fixed in port.addresses:
            if fixed.subnet_id in served:
                address = f"[{fixed.address}]" if ":" in fixed.address else fixed.address
                tag = f"{TAG}{port.id[:13]}," if port.dhcp_options else ""
                lines.append(f"{port.mac},{tag}{port_name(port, fixed.address)},{address}")
    return "\n".join(sorted(lines)) + "\n"


def must_forget(before: str, after: str) -> bool:
    """Whether a dnsmasq that knows the entries `before` has to be started anew to serve those `after`, and cannot just read them.

    It keeps in memory whom it has given an address, and would refuse it to the next port that gets it until the lease has run out; and see TAG.
    """
    def leases(text: str) -> set[tuple[str, str]]:
        return {(line.split(",")[0], line.rpartition(",")[2]) for line in text.splitlines()}

    return TAG in before + after or not leases(before) <= leases(after)


def port_name(port: PortView, address: str) -> str:
    """The DNS label of a port: its host name, else made from the address as networking services do."""
    return port.hostname or "host-" + address.replace(".", "-").replace(":", "-")


def dnsmasq_names(network: NetworkView, ports: list[PortView]) -> str:
    domain = network.dns_domain.rstrip(".")
    lines = []
    for port in ports:
        for fixed in port.addresses:
            name = port_name(port, fixed.address)
            lines.append(f"{fixed.address} {name}.{domain} {name}" if domain else f"{fixed.address} {name}")
    return "\n".join(sorted(lines)) + "\n"


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (OSError, IndexError):
        return False


async def end(env: Env, pid: int) -> None:
    """SIGTERM, then SIGKILL to a daemon that is still there after two seconds; harmless for one that is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    for _ in range(GONE_POLLS):
        if not alive(pid):
            return
        await env.sleep(GONE_POLL_S)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Services:
    """Keeps the networks' services as the view says."""

    def __init__(self, env: Env, folder: Path, prefix: str, view: Callable[[], HostView]) -> None:
        self._env, self._folder, self._prefix, self._view = env, folder, prefix, view
        self._servers: dict[str, MetadataServer] = {}

    def namespace(self, network_id: str) -> str:
        return f"{self._prefix}qdhcp-{network_id}"

    def known(self) -> list[str]:
        """Networks that have a folder here, from this run or an earlier one."""
        return sorted(entry.name for entry in self._folder.iterdir() if entry.is_dir()) if self._folder.exists() else []

    def running(self, network_id: str) -> int:
        """The pid of the network's dnsmasq, 0 when it does not run."""
        try:
            pid = int((self._folder / network_id / "pid").read_text())
        except (OSError, ValueError):
            return 0
        return pid if self._is_it(pid, network_id) else 0

    def _is_it(self, pid: int, network_id: str) -> bool:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return alive(pid) and f"--conf-file={self._folder / network_id / 'conf'}".encode() in words

    def _stale(self, network_id: str) -> list[int]:
        """Every dnsmasq of this network: one whose pid file is gone holds the addresses and answers with entries of long ago."""
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._is_it(int(entry.name), network_id)]

    async def ensure(self, network: NetworkView, ports: list[PortView]) -> None:
        """The network's namespace, dnsmasq and metadata server, with these ports' entries. Its bridge must exist. Raises DriverError."""
        namespace, folder = self.namespace(network.id), self._folder / network.id
        folder.mkdir(parents=True, exist_ok=True)
        await self._plug(network, namespace)
        conf = dnsmasq_conf(network, folder)
        before = _read(folder / "hosts")
        texts = {"opts": dnsmasq_options(network, ports), "hosts": dnsmasq_hosts(network, ports), "names": dnsmasq_names(network, ports)}
        changed = [name for name, text in texts.items() if _write_if_changed(folder / name, text)]
        fresh = _write_if_changed(folder / "conf", conf)
        pid = self.running(network.id)
        if pid and (fresh or (changed and must_forget(before, texts["hosts"]))):
            await end(self._env, pid)
            pid = 0
        if not pid:
            for stale in self._stale(network.id):
                await end(self._env, stale)
            # dnsmasq returns when it has bound its sockets and become a daemon.
            await run(["ip", "netns", "exec", namespace, "dnsmasq", f"--conf-file={folder / 'conf'}"], deadline_s=15.0, code="dhcp")
        elif changed:
            os.kill(pid, signal.SIGHUP)
        if network.id not in self._servers:
            server = MetadataServer(network.id, self._view)
            await server.open(await namespaces.listen(namespace, ADDRESS, PORT))
            self._servers[network.id] = server

    async def _plug(self, network: NetworkView, namespace: str) -> None:
        """The veth pair between bridge and namespace, with addresses."""
        inner, outer = inner_device(network), outer_device(network)
        addresses = sorted(f"{subnet.dhcp_address}/{ipaddress.ip_network(subnet.cidr).prefixlen}" for _, subnet in _served(network))
        wanted = " ".join([bridge_of(network.id), inner, network.dhcp_mac, str(network.mtu), *addresses])
        mark = self._folder / network.id / "plugged"
        new = await namespaces.ensure(namespace)
        links = netlink.dump()
        bridge = links.get(bridge_of(network.id))
        plugged = outer in links and bridge is not None and links[outer].master == bridge.index
        if not new and plugged and mark.exists() and mark.read_text() == wanted:
            return
        if new:
            self._servers.pop(network.id, None)
            # Its addresses are those of the port and no others, whatever routers of the network advertise. (A kernel without IPv6 says no.)
            await attempt(["ip", "netns", "exec", namespace, "sysctl", "-qw", "net.ipv6.conf.default.accept_ra=0"])
        namespaces.refuse_foreign(outer)
        await ip_batch([f"link del {outer}"], force=True)
        await ip_batch([
            f"link add {outer} mtu {network.mtu} type veth peer name {inner} address {network.dhcp_mac} mtu {network.mtu} netns {namespace}",
            f"link set {outer} master {bridge_of(network.id)} up"])
        await ip_batch([*(f"address add {address} dev {inner}" + (" nodad" if ":" in address else "") for address in addresses),
                        f"address add {ADDRESS}/32 dev {inner}", f"link set {inner} up"], namespace)
        mark.write_text(wanted)
        pid = self.running(network.id)
        if pid:
            await end(self._env, pid)

    async def remove(self, network_id: str) -> None:
        """Nothing of this network's services stays."""
        server = self._servers.pop(network_id, None)
        if server is not None:
            await server.close()
        for pid in self._stale(network_id):
            await end(self._env, pid)
        await namespaces.remove(self.namespace(network_id))
        await asyncio.to_thread(shutil.rmtree, self._folder / network_id, ignore_errors=True)

    async def close(self) -> None:
        """Stop what lives in this process; daemons and namespaces stay for the next one."""
        for server in self._servers.values():
            await server.close()
        self._servers.clear()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _write_if_changed(path: Path, text: str) -> bool:
    """Write a file whole; returns whether its content is new."""
    if path.exists() and _read(path) == text:
        return False
    partial = path.with_name(path.name + ".part")
    partial.write_text(text)
    partial.rename(path)
    return True
