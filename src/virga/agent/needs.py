"""What a machine must have before it can run real guests, asked before anything is made: privilege, devices, programs, the binding.

Rules: only looks; the answer is one line that names what is missing and what to do about it (the Debian package, the module, the other driver), '' when
nothing is. The first thing missing is told, but programs all at once, since one installation brings them all. A libvirtd that is merely not running is
no reason: a service manager may start it after us, and the agent waits for it.
"""
from __future__ import annotations

import importlib
import os
import pwd
import shutil
from collections.abc import Mapping
from pathlib import Path

DEVICES = Path("/dev")
SYSTEM_PATH = "/usr/sbin:/sbin"  # where daemons live; an ordinary PATH leaves it out
FAKE = "use --hypervisor fake"
NETWORK = {"ip": "iproute2", "bridge": "iproute2", "nft": "nftables"}
GUESTS = {"qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils", "dnsmasq": "dnsmasq-base", "prlimit": "util-linux",
          "conntrack": "conntrack"}
LIBVIRT = ("libvirtd", "virtqemud")  # one daemon for all, or the one for QEMU alone: either will do
LIBVIRT_PACKAGE = "libvirt-daemon-system"


def present(program: str) -> bool:
    return (shutil.which(program) or shutil.which(program, path=SYSTEM_PATH)) is not None


def user_exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def missing_packages(programs: Mapping[str, str], daemon: bool) -> list[str]:
    """Debian packages of the programs that are not here, sorted; `daemon`: libvirt's own is needed too."""
    found = {package for program, package in programs.items() if not present(program)}
    if daemon and not any(present(program) for program in LIBVIRT):
        found.add(LIBVIRT_PACKAGE)
    return sorted(found)


def privilege(what: str) -> str:
    if os.geteuid() != 0:
        return f"{what} needs root; run as root, or {FAKE}"
    if not (DEVICES / "net" / "tun").exists():
        return f"/dev/net/tun is missing (modprobe tun); without it {FAKE}"
    return ""


def packages(names: list[str]) -> str:
    return f"missing Debian packages; run: apt-get install -y {' '.join(names)}   (or {FAKE})" if names else ""


def binding() -> str:
    """Imported and not only looked for: built against another libvirt it is there and does not load."""
    try:
        importlib.import_module("libvirt")
    except ImportError as error:
        why = "" if isinstance(error, ModuleNotFoundError) and error.name in ("libvirt", None) else f" ({error})"
        return f"the libvirt binding for Python is missing{why}; run `make real` (or pip install 'virga-cloud[libvirt]'), or {FAKE}"
    return ""


def accelerator(virt_type: str) -> str:
    if virt_type == "kvm" and not (DEVICES / "kvm").exists():
        return f"/dev/kvm is missing; use --virt-type qemu (slow, works anywhere) or {FAKE}"
    return ""


def why_not(virt_type: str, daemon: bool = True) -> str:
    """Why this machine cannot be a host of real guests; '' if it can. `daemon`: its libvirt is one of its own, not reached over the network."""
    return (privilege("a host of real guests") or packages(missing_packages({**NETWORK, **GUESTS}, daemon)) or binding() or accelerator(virt_type))
