"""Running one host command (ip, nft, qemu-img, dnsmasq ...) and saying clearly what went wrong.

Rules: arguments are a list, never a shell line; every command has a deadline and is killed at it; a failure becomes a DriverError that carries the
command's own last words; a missing program names the Debian package that has it. This is the only module of the agent that starts processes.
"""
from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Sequence

from virga.agent.hypervisor import DriverError

DEADLINE_S = 60.0
LAST_WORDS_MAX = 600
NO_SPACE = os.strerror(errno.ENOSPC)  # how every command says it
PACKAGES = {
    "ip": "iproute2", "bridge": "iproute2", "nft": "nftables", "conntrack": "conntrack", "dnsmasq": "dnsmasq-base", "qemu-img": "qemu-utils",
    "arping": "iputils-arping", "modprobe": "kmod", "libvirtd": "libvirt-daemon-system", "qemu-system-x86_64": "qemu-system-x86",
    "tini": "tini", "radvd": "radvd", "sysctl": "procps", "prlimit": "util-linux", "nsenter": "util-linux",
}


async def attempt(argv: Sequence[str], stdin: str = "", deadline_s: float = DEADLINE_S) -> tuple[int, str, str]:
    """Run to its end; returns exit status, output, complaints. Raises DriverError when it cannot be started or does not end in time."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    except FileNotFoundError as error:
        package = PACKAGES.get(argv[0])
        hint = f"; install the Debian package {package}" if package else ""
        raise DriverError(f"the program {argv[0]} is not on this host{hint}", "missing") from error
    except PermissionError as error:
        raise DriverError(f"this host does not let us run {argv[0]}: {error.strerror}", "forbidden") from error
    try:
        async with asyncio.timeout(deadline_s):
            out, err = await process.communicate(stdin.encode() if stdin else None)
    except TimeoutError as error:
        raise DriverError(f"{' '.join(argv[:4])} did not end within {deadline_s:g} s", "timeout") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return process.returncode or 0, out.decode("utf-8", "replace"), err.decode("utf-8", "replace")


async def run(argv: Sequence[str], stdin: str = "", deadline_s: float = DEADLINE_S, code: str = "failed") -> str:
    """Run a command that has to succeed; returns its output. Raises DriverError with `code`."""
    status, out, err = await attempt(argv, stdin, deadline_s)
    if status != 0:
        words = (err.strip() or out.strip() or "no message")[-LAST_WORDS_MAX:]
        raise DriverError(f"{' '.join(argv[:6])} failed ({status}): {words}", "no-space" if NO_SPACE in words else code)
    return out


async def ip_batch(lines: Sequence[str], namespace: str = "", force: bool = False) -> None:
    """Run `ip` lines in one process, in order, in a named network namespace ('' is our own). `force` goes on after a failed line."""
    if lines:
        prefix = ["ip", *(["-n", namespace] if namespace else []), *(["-force"] if force else []), "-batch", "-"]
        if force:
            await attempt(prefix, "\n".join(lines) + "\n")
        else:
            await run(prefix, "\n".join(lines) + "\n")
