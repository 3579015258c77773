"""Emulated hosts with real guests for `virga up --hypervisor libvirt`: a lab, an agent process a host, the guest image; and no trace of it afterwards.

What runs on each host is `virga host` as on a machine of its own: it joins with a token, over TLS, through the lab's own network. What stays is in the
state folder (disks, certificates, journals); namespaces, bridges and processes go when the cloud stops, by its keeper also after a kill -9, and the
next start sweeps what a killed keeper left. A machine can have several such clouds: each takes a number, which gives its names and its addresses.
"""
from __future__ import annotations

import asyncio
import ipaddress
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from virga.agent import needs
from virga.domain.config import Config
from virga.lab import hosts as lab_hosts
from virga.lab.hosts import CannotEmulate as CannotEmulate
from virga.lab.hosts import Lab, LabHost
from virga.runtime.env import Env

FABRIC_PORT = 8788
PUBLIC_NETWORK, PUBLIC_DEVICE = "public", "eth1"
FLOATING_RANGE = "172.24.{}.0/24"  # of the cloud with number N: 172.24.(4+N), so that clouds beside each other can all be reached
FLOATING_FIRST = 4
GUEST_IMAGE = Path("build/guest/virga-guest.qcow2")
AGENT_PAUSE_S = 0.5  # between the death of an agent and the next one, as a service manager has it


def check(config: Config) -> None:
    """Raises CannotEmulate with one line that says what to do."""
    lab_hosts.check()
    why = needs.binding() or needs.accelerator(config.virt_type)
    if why:
        raise CannotEmulate(why)


def guest_image(config: Config) -> Path | None:
    """The guest image on this machine, if it was built."""
    places = [Path(config.guest_image)] if config.guest_image else [GUEST_IMAGE, Path(__file__).resolve().parents[2] / GUEST_IMAGE]
    return next((place for place in places if place.is_file()), None)


class EmulatedHosts:
    """`open` (network and libvirt), then `start` each host's agent, then `close`. Blocking calls to the lab run in a thread."""

    def __init__(self, env: Env, config: Config, state: Path, say: Callable[[str], None]) -> None:
        check(config)
        self._env, self._config, self._state, self._say = env, config, state, say
        for tag in lab_hosts.sweep():
            say(f"removed what an emulated network {tag} of an earlier run had left")
        number, self._lock = lab_hosts.take_number()
        self.floating_range = self._floating_range(number)
        network = ipaddress.ip_network(self.floating_range)
        first = next(network.hosts())  # where the first start puts the subnet's gateway
        gateway = "" if _is_ours(str(first)) else f"{first}/{network.prefixlen}"
        if not gateway:
            say(f"address {first} is in use on this machine (another cloud?): floating IPs will not be reachable from here")
        self.lab = Lab(state / "hosts", config.hosts, f"u{number}", number, public_gateway=gateway, restart=True)

    def _floating_range(self, number: int) -> str:
        """The range of the network `public`: what the configuration says, what the first start took, or this number's own."""
        kept = self._state / "hosts" / "floating-range"
        try:
            return kept.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            pass
        # A state folder from before ranges were kept has the default one in its database.
        chosen = FLOATING_RANGE.format(FLOATING_FIRST) if (self._state / "ready").exists() else FLOATING_RANGE.format(FLOATING_FIRST + number)
        chosen = self._config.network.floating_range or chosen
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(chosen + "\n", encoding="ascii")
        return chosen

    @property
    def fabric(self) -> str:
        """Where the controller listens for these hosts."""
        return f"{self.lab.control_address}:{FABRIC_PORT}"

    async def open(self) -> None:
        """Raises CannotEmulate; leaves nothing behind then."""
        await asyncio.to_thread(self.lab.up)

    async def start(self, invite: Callable[[float], Any]) -> None:
        """Start every host's agent, kept alive by a loop in its namespace."""
        for host in self.lab.hosts:
            folder = Path(host.folder)
            token = folder / "join-token"
            token.write_text(await invite(3600.0), encoding="ascii")
            token.chmod(0o600)
            (folder / "host.toml").write_text(self._host_config(host), encoding="utf-8")
            argv = [sys.executable, "-m", "virga.cli", "host", "--name", host.name, "--state", str(folder), "--address", host.address,
                    "--hypervisor", "libvirt", "--virt-type", self._config.virt_type, "--config", str(folder / "host.toml"), "--join", f"@{token}"]
            script = f'while :; do "$@"; sleep {AGENT_PAUSE_S}; done'
            await asyncio.to_thread(self.lab.spawn, host, ["sh", "-c", script, "virga-host", *argv], str(folder / "agent.out"))

    def _host_config(self, host: LabHost) -> str:
        given = self._config.libvirt
        ram_mb = given.ram_mb or max(512, _memory_mib() // self._config.hosts)
        room = os.statvfs(host.folder)
        disk_gb = given.disk_gb or max(1, room.f_bavail * room.f_frsize // (1 << 30) // self._config.hosts)
        mappings = {**self._config.network.physical_interface_mappings, PUBLIC_NETWORK: host.public}
        pairs = ", ".join(f'"{name}" = "{device}"' for name, device in sorted(mappings.items()))
        compute = self._config.compute
        lines = [
            "[network]", f"physical_interface_mappings = {{ {pairs} }}",
            f"minimize_polling = {str(self._config.network.minimize_polling).lower()}", f"polling_interval = {self._config.network.polling_interval}", "",
            "[compute]", f"vif_plugging_timeout = {compute.vif_plugging_timeout}", f"vif_plugging_is_fatal = {str(compute.vif_plugging_is_fatal).lower()}", "",
            "[libvirt]", f'uri = "{host.libvirt_uri}"', 'peer_uri = "qemu+tcp://{address}/system"', "migrate_tls = false",
            f'peer_folder = "{Path(host.folder).parent}/{{host}}"', f'runtime = "{host.runtime}"', f'namespace_prefix = "{host.prefix}"',
            f'machine = "{given.machine}"', f'cpu_mode = "{given.cpu_mode}"', f"vcpus = {given.vcpus}", f"ram_mb = {ram_mb}", f"disk_gb = {disk_gb}"]
        return "\n".join(lines) + "\n"

    async def close(self) -> None:
        """Every trace goes; the state folder stays."""
        await asyncio.to_thread(self.lab.down)
        self._lock.close()


def _is_ours(address: str) -> bool:
    """Whether this machine has the address already; the kernel's routing table lists its own addresses as leaves."""
    table = Path("/proc/net/fib_trie")
    return table.exists() and f"-- {address}\n" in table.read_text()


def _memory_mib() -> int:
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) // 1024
