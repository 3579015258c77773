
"""Network namespaces of this host's services: making, removing, and opening a listening socket inside one.

Names carry a prefix so that emulated hosts, which share one kernel, do not meet ('' on a real machine). A socket keeps the namespace it was made in,
so the metadata service of every network is served by the agent's one event loop: a throw-away thread enters the namespace, opens the socket, ends.
"""
from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import threading
from pathlib import Path

from virga.agent.command import attempt, run
from virga.agent.hypervisor import DriverError

NETNS_FOLDER = Path("/run/netns")
CLONE_NEWNET = 0x40000000


def exists(name: str) -> bool:
    return (NETNS_FOLDER / name).exists()


async def ensure(name: str) -> bool:
    """Make a namespace with its loopback up; returns whether it is new. A name left behind by a crash (a plain file) is replaced."""
    if exists(name):
        # A living namespace is a mount of its own; a plain file is what a crash has left.
        if (NETNS_FOLDER / name).stat().st_dev != NETNS_FOLDER.stat().st_dev:  # noqa: ASYNC240
            return False
        await attempt(["ip", "netns", "del", name])
        (NETNS_FOLDER / name).unlink(missing_ok=True)
    await run(["ip", "netns", "add", name])
    await run(["ip", "-n", name, "link", "set", "lo", "up"])
    return True


async def remove(name: str) -> None:
    if exists(name):
        await attempt(["ip", "netns", "del", name])


def listed(prefix: str) -> list[str]:
    """Namespaces whose name begins so."""
    if not NETNS_FOLDER.exists():
        return []
    return sorted(entry.name for entry in NETNS_FOLDER.iterdir() if entry.name.startswith(prefix))


def _open(name: str, address: str, port: int, result: list[socket.socket | OSError]) -> None:
    """Runs on a thread of its own: only that thread changes namespace."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        handle = os.open(NETNS_FOLDER / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(handle, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(handle)
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(128)
        listener.setblocking(False)
        result.append(listener)
    except OSError as error:
        result.append(error)


async def listen(name: str, address: str, port: int) -> socket.socket:
    """A listening TCP socket inside the namespace. Raises DriverError."""
    result: list[socket.socket | OSError] = []
    thread = threading.Thread(target=_open, args=(name, address, port, result), name="enter-" + name, daemon=True)
    thread.start()
    await asyncio.to_thread(thread.join)
    if isinstance(result[0], OSError):
        raise DriverError(f"cannot listen on {address}:{port} in {name}: {result[0].strerror}", "failed")
    return result[0]
