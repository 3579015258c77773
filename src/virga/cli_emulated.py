"""`virga up --hypervisor libvirt`: a whole cloud with real guests on one machine, as the processes it would be on many.

Owns: the socket of the API, the emulated hosts (serve_hosts.py), and one `virga controller` process, which is started again when it dies, as a service
manager would do. The hosts' agents and libvirtds are kept alive by their lab. So every part of this cloud can be killed -9 alone, and the rest goes on.
Rules: the controller is the command an operator runs, with a configuration file in the state folder; it is asked over HTTP like any other. The socket is
bound here and handed over, so that while a controller is away clients wait in its queue instead of being refused. A controller that cannot stay alive
for long ends the cloud with its last words. When this process is killed, the kernel tells the controller, and the lab's keeper removes the hosts.
"""
from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from virga.cli_client import Client, ClientError, find_login
from virga.domain.config import Config, dump
from virga.runtime.env import real_env
from virga.serve import CannotStart, bind
from virga.serve_hosts import PUBLIC_DEVICE, PUBLIC_NETWORK, CannotEmulate, EmulatedHosts, guest_image

FIRST_TIMEOUT_S = 60.0  # a first start hashes passwords and stores the guest image
HOSTS_TIMEOUT_S = 90.0
POLL_S = 0.05
RESTART_PAUSE_S = 0.5
QUICK_DEATHS_MAX, QUICK_S = 5, 10.0  # so many deaths, each within so long of its start: it cannot live
STOP_TIMEOUT_S = 20.0
BACKLOG = 256
TOKEN_LIFETIME_S = 3600.0
PR_SET_PDEATHSIG = 1
LAST_WORDS_BYTES = 4096


class EmulatedCloud:
    """`start()` returns when the API answers, `hosts_ready()` when every host is connected; `stop()` ends all of it and leaves the state folder."""

    def __init__(self, config: Config, say: Callable[[str], None] = print) -> None:
        self.config, self.say = config, say
        self.env = real_env("supervisor")
        self.state = Path(config.state).absolute()
        self.clouds_yaml = self.state / "clouds.yaml"
        self.log = self.state / "controller.out"
        self.url = ""
        self.failed = asyncio.Event()
        self.last_words = ""
        self._hosts: EmulatedHosts | None = None
        self._socket: socket.socket | None = None
        self._lock: Any = None
        self._controller: asyncio.subprocess.Process | None = None
        self._stopping = False

    async def start(self) -> None:
        """Raises CannotStart; leaves nothing running then."""
        try:
            self._take_lock()
            self._socket = bind(self.config.listen)
            self._socket.listen(BACKLOG)
            address, port, *_ = self._socket.getsockname()
            self.url = f"http://{f'[{address}]' if ':' in address else address}:{port}"
            self._hosts = hosts = EmulatedHosts(self.env, self.config, self.state, self.say)
            await hosts.open()
            self._write_config(hosts)
            self.env.spawn(self._keep_controller(), "controller")
            await self._answers()
            async with Client(find_login(str(self.state))) as client:
                async def invite(lifetime_s: float) -> str:
                    made = await client.post("virga", "/join-tokens", {"lifetime_s": lifetime_s})
                    return str(made["join_token"]["token"])

                await hosts.start(invite)
        except CannotEmulate as error:
            await self.stop()
            raise CannotStart(str(error)) from error
        except ClientError as error:
            await self.stop()
            raise CannotStart(f"the controller does not answer: {error}; see {self.log}") from error
        except BaseException:
            await self.stop()
            raise

    def _take_lock(self) -> None:
        """One supervisor a state folder; the controller has a lock of its own."""
        try:
            (self.state / "hosts").mkdir(parents=True, exist_ok=True)
            self._lock = (self.state / "hosts" / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CannotStart(f"another virga runs on {self.state}; stop it, or choose another folder with --state") from error
        except OSError as error:
            raise CannotStart(f"cannot use the state folder {self.state}: {error.strerror}") from error

    def _write_config(self, hosts: EmulatedHosts) -> None:
        """What the controller is to know: emulated hosts have an interface for the external network, so `public` is a flat network on it."""
        image = guest_image(self.config)
        if image is None:
            self.say("there is no guest image (`make guest` builds one): only the image virga-tiny is offered, which has no network")
        mappings = {PUBLIC_NETWORK: PUBLIC_DEVICE, **self.config.network.physical_interface_mappings}
        network = msgspec.structs.replace(self.config.network, physical_interface_mappings=mappings, floating_range=hosts.floating_range)
        config = msgspec.structs.replace(self.config, network=network, state=str(self.state), fabric=hosts.fabric,
                                         guest_image=str(image.absolute()) if image is not None else "", listen=Config().listen)
        (self.state / "controller.toml").write_text(dump(config), encoding="utf-8")

    # the controller -------------------------------------------------------------------------------------------------
    async def _spawn(self) -> asyncio.subprocess.Process:
        assert self._socket is not None
        number = self._socket.fileno()
        argv = [sys.executable, "-m", "virga.cli", "controller", "--config", str(self.state / "controller.toml"), "--listen", f"fd:{number}"]
        with os.fdopen(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:  # it prints join tokens
            return await asyncio.create_subprocess_exec(
                *argv, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(number,), start_new_session=True, preexec_fn=_die_with_parent)

    def _is_over(self) -> bool:
        return self._stopping

    async def _keep_controller(self) -> None:
        quick = 0
        while not self._is_over():
            began = self.env.monotonic()
            self._controller = await self._spawn()
            code = await self._controller.wait()
            if self._is_over():
                return
            killed = code == -signal.SIGKILL  # somebody's doing, and no sign that the next one cannot live
            quick = quick + 1 if self.env.monotonic() - began < QUICK_S and not killed else 0
            never = not (self.state / "ready").exists()  # a first start that ended by itself has said why
            if quick >= QUICK_DEATHS_MAX or (never and code > 0):
                self.last_words = self._said()
                self.failed.set()
                return
            self.say(f"the controller ended ({_how(code)}); it is started again")
            await self.env.sleep(RESTART_PAUSE_S)

    def _said(self) -> str:
        with contextlib.suppress(OSError):
            text = self.log.read_bytes()[-LAST_WORDS_BYTES:].decode("utf-8", "replace")
            lines = [line for line in text.splitlines() if line.strip()]
            return lines[-1].removeprefix("virga: ") if lines else ""
        return ""

    async def _answers(self) -> None:
        """Until the controller has made the cloud and can be logged in to. Raises CannotStart."""
        end = self.env.monotonic() + FIRST_TIMEOUT_S
        while not self.failed.is_set():
            with contextlib.suppress(ClientError):
                async with Client(find_login(str(self.state))) as client:
                    if client.login.auth_url.startswith(self.url + "/"):  # not what an earlier start has left in clouds.yaml
                        return
            if self.env.monotonic() > end:
                raise CannotStart(f"the controller did not answer within {FIRST_TIMEOUT_S:.0f} s; see {self.log}")
            await self.env.sleep(POLL_S)
        raise CannotStart(self.last_words or f"the controller ended; see {self.log}")

    # all of it ------------------------------------------------------------------------------------------------------
    async def hosts_ready(self) -> None:
        """Wait until every host is connected. Raises CannotStart."""
        end = self.env.monotonic() + HOSTS_TIMEOUT_S
        async with Client(find_login(str(self.state))) as client:
            while True:
                listed = (await client.get("compute", "/os-services?binary=nova-compute"))["services"]
                up = {service["host"] for service in listed if service["state"] == "up"}
                if len(up) >= self.config.hosts:
                    return
                if self.env.monotonic() > end or self.failed.is_set():
                    missing = sorted({f"host-{number}" for number in range(1, self.config.hosts + 1)} - up)
                    raise CannotStart(f"{', '.join(missing)} did not connect; see {self.state / 'hosts'}/*/agent.out")
                await self.env.sleep(POLL_S)

    async def stop(self) -> None:
        """Idempotent."""
        self._stopping = True
        controller = self._controller
        if controller is not None and controller.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                controller.terminate()
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await controller.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    controller.kill()
        if self._hosts is not None:
            await self._hosts.close()
        if self._socket is not None:
            self._socket.close()
        await self.env.stop()


def _die_with_parent() -> None:
    """Runs in the child before it becomes the controller: the kernel ends it in good order when its supervisor is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
