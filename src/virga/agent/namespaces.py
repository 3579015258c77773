
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
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from virga.agent import netlink
from virga.agent.command import attempt, run
from virga.agent.hypervisor import DriverError

T = TypeVar("T")
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


def refuse_foreign(name: str) -> None:
    """Raises DriverError when a device called so is on this host and is no veth pair: it cannot be the outer end of one of ours."""
    link = netlink.dump().get(name)
    if link is not None and link.kind != "veth":
        raise DriverError(f"a device called {name} is in the way on this host: it is a {link.kind or 'device'}, not ours", "conflict")


def listed(prefix: str) -> list[str]:
    """Namespaces whose name begins so."""
    if not NETNS_FOLDER.exists():
        return []
    return sorted(entry.name for entry in NETNS_FOLDER.iterdir() if entry.name.startswith(prefix))


def within(name: str, work: Callable[[], T]) -> T:
    """Do short blocking work inside the namespace, on a thread of its own: only that thread changes namespace. Raises OSError."""
    result: list[T | OSError] = []

    def enter() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            handle = os.open(NETNS_FOLDER / name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if libc.setns(handle, CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(handle)
            result.append(work())
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=enter, name="enter-" + name, daemon=True)
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]


async def listen(name: str, address: str, port: int) -> socket.socket:
    """A listening TCP socket inside the namespace. Raises DriverError."""

    def open_there() -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(128)
        listener.setblocking(False)
        return listener

    try:
        return await asyncio.to_thread(within, name, open_there)
    except OSError as error:
        raise DriverError(f"cannot listen on {address}:{port} in {name}: {error.strerror}", "failed") from error
