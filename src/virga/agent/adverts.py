"""Router advertisements: what a router tells the IPv6 hosts of its networks, by one radvd in each router's namespace that has any to tell.

Rules: they come from the router and not from the DHCP service, because a host takes the sender's link-local address for its default route. A subnet is
advertised if it has an `ipv6_ra_mode`: with slaac and dhcpv6-stateless hosts make their own address (A flag), with dhcpv6-stateless they ask DHCP for
name servers (O), with dhcpv6-stateful for their address as well (M). The tunnel's MTU is told too. radvd is a daemon and outlives the agent; a changed
text is a rewritten file and a SIGHUP; a router that has nothing more to tell ends it, and its last word is that it is no router any more.
Why radvd: dnsmasq can advertise as well, but only for ranges it serves by DHCP in that namespace, and the guests' DHCP is another one's job.
"""
from __future__ import annotations

import ipaddress
import os
import signal
from pathlib import Path

from virga.agent.command import run
from virga.agent.services import alive, end
from virga.domain.hostview import HostView, RouterPortView, RouterView, SubnetView
from virga.runtime.env import Env

INTERVAL_S = (30, 100)  # between unasked advertisements; a host that comes up asks and is answered at once
SLAAC, STATELESS, STATEFUL = "slaac", "dhcpv6-stateless", "dhcpv6-stateful"


def advertised(port: RouterPortView, view: HostView) -> list[SubnetView]:
    """The subnets of a router's port whose prefix it tells."""
    network = view.network(port.network_id)
    if network is None:
        return []
    own = [ipaddress.ip_interface(address).ip for address in port.addresses]
    return [subnet for subnet in network.subnets
            if subnet.ipv6_ra_mode and any(address in ipaddress.ip_network(subnet.cidr) for address in own)]


def radvd_conf(router: RouterView, view: HostView, device_of: dict[str, str]) -> str:
    """The whole configuration, '' when there is nothing to advertise. `device_of`: port id -> device."""
    parts: list[str] = []
    for port in router.ports if router.admin_up else []:
        subnets = advertised(port, view)
        if not subnets:
            continue
        modes = {subnet.ipv6_ra_mode for subnet in subnets}
        network = view.network(port.network_id)
        assert network is not None
        parts += [
            f"interface {device_of[port.id]} {{", "  IgnoreIfMissing on;", "  AdvSendAdvert on;",
            f"  MinRtrAdvInterval {INTERVAL_S[0]};", f"  MaxRtrAdvInterval {INTERVAL_S[1]};", f"  AdvLinkMTU {network.mtu};",
            f"  AdvManagedFlag {_flag(STATEFUL in modes)};", f"  AdvOtherConfigFlag {_flag(bool(modes & {STATEFUL, STATELESS}))};"]
        for subnet in subnets:
            parts += [f"  prefix {subnet.cidr} {{", "    AdvOnLink on;", f"    AdvAutonomous {_flag(subnet.ipv6_ra_mode != STATEFUL)};", "  };"]
        servers = sorted({server for subnet in subnets if subnet.ipv6_ra_mode == SLAAC for server in subnet.dns if ":" in server})
        if servers:
            parts.append(f"  RDNSS {' '.join(servers)} {{ }};")
        parts.append("};")
    return "\n".join(parts) + "\n" if parts else ""


def _flag(on: bool) -> str:
    return "on" if on else "off"


class Adverts:
    """Keeps each router's radvd as its text says. Files of a router: `<folder>/<router id>.radvd*`."""

    def __init__(self, env: Env, folder: Path) -> None:
        self._env, self._folder = env, folder

    def _file(self, router_id: str, what: str) -> Path:
        return self._folder / f"{router_id}.radvd{what}"

    def running(self, router_id: str) -> int:
        """The pid of the router's radvd, 0 when it does not run."""
        try:
            pid = int(self._file(router_id, "-pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return 0
        return pid if alive(pid) and str(self._file(router_id, "-conf")).encode() in command else 0

    async def ensure(self, router_id: str, namespace: str, text: str) -> None:
        """A radvd with this text runs in the namespace, or none where the text is empty. Raises DriverError."""
        if not text:
            await self.remove(router_id)
            return
        conf, pid = self._file(router_id, "-conf"), self.running(router_id)
        if pid and conf.exists() and conf.read_text() == text:
            return
        conf.write_text(text)
        conf.chmod(0o644)
        if pid:
            os.kill(pid, signal.SIGHUP)
            return
        # radvd returns when it has read its file and become a daemon.
        await run(["ip", "netns", "exec", namespace, "radvd", "-C", str(conf), "-p", str(self._file(router_id, "-pid")), "-m", "logfile",
                   "-l", str(self._file(router_id, "-log"))], deadline_s=15.0, code="radvd")

    async def remove(self, router_id: str) -> None:
        """None runs, and no file of it stays. It has to be gone before its namespace, which it would keep alive."""
        pid = self.running(router_id)
        if pid:
            await end(self._env, pid)
        for what in ("-conf", "-pid", "-log"):
            self._file(router_id, what).unlink(missing_ok=True)
