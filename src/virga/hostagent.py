"""The composition of one host's agent as a process of its own: identity, drivers, journal, link. serve.py's counterpart on the other end.

Nobody imports it but the commands and tests. The drivers are chosen by configuration: `libvirt` (see agent/libvirt.py and friends) or `fake`.
"""
from __future__ import annotations

import ssl
from pathlib import Path

import msgspec

from virga.agent.fake import FakeDisks, FakeHypervisor, FakeWiring, Machine, Neighbourhood, NoImages, Script
from virga.agent.hypervisor import Disks, Hypervisor, WiringDriver
from virga.agent.identity import HostIdentity, Joined
from virga.agent.journal import Journal
from virga.agent.session import Agent
from virga.domain.config import Config
from virga.fabric.link import Link
from virga.fabric.websocket import Refused, dial
from virga.runtime.env import real_env
from virga.runtime.trace import Event, Trace


class CannotJoin(Exception):
    """One clear line about why this host is not part of a cloud."""


class HostProcess:
    """See the module. `join` first, then `start`."""

    def __init__(self, config: Config, state: Path, name: str, address: str) -> None:
        self.config, self.state, self.name, self.address = config, state, name, address
        self.env = real_env(name)
        self.trace = Trace(self.env.now)
        self.trace.add_sink(_tell)
        self.identity = HostIdentity(self.env, self._folder())
        self.joined: Joined | None = None
        self.agent: Agent | None = None

    def _folder(self) -> Path:
        try:
            self.state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotJoin(f"cannot use {self.state}: {error.strerror}; choose another folder with --state") from error
        return self.state / "identity"

    async def join(self, token: str | None) -> Joined:
        """Who we are in the cloud; enrols with the token the first time. Raises CannotJoin."""
        joined = self.identity.joined()
        if joined is None:
            if token is None:
                raise CannotJoin("this host has not joined a cloud yet; give it a token with --join (the controller prints one)")
            try:
                joined = await self.identity.join(token, self.name)
            except (ValueError, Refused) as error:
                raise CannotJoin(str(error)) from error
            except OSError as error:
                raise CannotJoin(f"the controller cannot be reached: {error}") from error
        self.joined = joined
        return joined

    async def start(self) -> None:
        joined = self.joined
        assert joined is not None, "join comes first"
        hypervisor, disks, wiring = self._drivers(joined.host)
        self.agent = Agent(self.env, self.trace, joined.host, joined.host_id, self.config.compute, hypervisor, disks, wiring,
                           Journal(self.state / "agent.log", durable=True), self._dial, self.address or "127.0.0.1", self.identity)
        self.env.spawn(self.agent.run(), "agent")

    async def _dial(self) -> Link:
        assert self.joined is not None
        try:
            link = await dial(self.env, self.joined.url, self.identity.context())
            link.tell = lambda text: self._say(text)
            return link
        except ssl.SSLError as error:
            raise OSError(str(error)) from error

    def _drivers(self, host: str) -> tuple[Hypervisor, Disks, WiringDriver]:
        machine = Machine(host, Journal(self.state / "machine.log"), msgspec.convert(self.config.fake, Script))
        neighbours = Neighbourhood()
        neighbours.add(machine)
        return (FakeHypervisor(self.env, machine, neighbours), FakeDisks(self.env, machine, neighbours, NoImages()), FakeWiring(self.env, machine))

    def _say(self, text: str) -> None:
        self.trace.emit("fault", self.name, "", text)

    async def stop(self) -> None:
        await self.env.stop()


def _tell(event: Event) -> None:
    if event.kind == "fault":
        print(f"{event.src}: {event.text}", flush=True)  # noqa: T201 - this is the agent's log
