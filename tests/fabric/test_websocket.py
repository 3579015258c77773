"""Hosts over real websockets and mutual TLS: joining once, being who the certificate says, being struck off, renewing, moving servers."""
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from virga.agent.fake import FakeDisks, FakeHypervisor, FakeWiring, Machine, Neighbourhood, NoImages
from virga.agent.hypervisor import Disks
from virga.agent.identity import HostIdentity
from virga.agent.journal import Journal
from virga.agent.session import Agent
from virga.domain.config import Config
from virga.domain.enrolment import JoinToken, unpack
from virga.domain.network import Network
from virga.domain.operation import PENDING, Command, Operation
from virga.domain.placement import DOWN, UP, Host
from virga.domain.port import Binding, Port, Wiring
from virga.domain.server import ACTIVE, DELETED, RESIZED, Server
from virga.doorway import Doorway
from virga.fabric import pki
from virga.fabric.hub import Hub
from virga.fabric.websocket import Refused, dial
from virga.fabric.wire import Ack, Do, GuestFact, Hello, Report, Result, Welcome, WiringFact
from virga.ops import enrolment, front
from virga.ops.engine import Engine
from virga.ops.reconcile import Reconciler
from virga.runtime.env import real_env
from virga.runtime.trace import Event, Trace
from virga.sim.world import BIG, NETWORK_ID, PROJECT, SMALL, USER
from virga.store.blobs import FileBlobs
from virga.store.db import SimDb, Tx


class Site:
    """A controller with its door, and hosts that join it, all over 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = real_env("controller")
        self.trace = Trace(self.env.now)
        self.events: list[Event] = []
        self.trace.add_sink(self.events.append)
        self.config = Config()
        self.db = SimDb(self.env, self.trace)
        self.hub = Hub(self.env, self.db, self.trace, self.config)
        self.engine = Engine(self.env, self.db, self.trace, self.config)
        self.door = Doorway(self.env, self.trace, self.db, self.hub, folder / "ca", FileBlobs(self.env, folder / "blobs"), 1 << 30)
        self.neighbours = Neighbourhood()
        self.agents: dict[str, Agent] = {}
        self.number = 0

    async def open(self) -> None:
        await self.door.open("127.0.0.1:0", "")
        self.env.spawn(self.hub.run(), "hub")
        self.env.spawn(self.engine.run(), "engine")

    async def host(
        self, name: str, identity: HostIdentity | None = None, disks: Callable[[HostIdentity, Machine], Disks] | None = None,
        welcomed: Callable[[Welcome], None] = lambda welcome: None, address: str = "127.0.0.1",
    ) -> HostIdentity:
        """A host that joins and dials; returns its identity. `disks`: another driver than the fake one."""
        env = self.env.child(name)
        mine = identity or HostIdentity(env, self.folder / name)
        joined = mine.joined() or await mine.join(await self.door.invite(60.0), name)
        machine = Machine(name)
        self.neighbours.add(machine)

        async def link() -> Any:
            return await dial(env, joined.url, mine.context())

        self.agents[name] = Agent(
            env, self.trace, name, joined.host_id, self.config.compute, FakeHypervisor(env, machine, self.neighbours),
            disks(mine, machine) if disks else FakeDisks(env, machine, self.neighbours, NoImages()), FakeWiring(env, machine), Journal(), link,
            address, mine, welcomed=welcomed)
        env.spawn(self.agents[name].run(), "agent")
        await self.until(lambda: name in self.hub.sessions and self.hub.sessions[name].number > 0)
        return mine

    async def until(self, true: Callable[[], bool], limit_s: float = 10.0) -> None:
        async with asyncio.timeout(limit_s):
            while not true():
                await asyncio.sleep(0.01)

    def ask(self) -> Any:
        from virga.domain.ask import Ask

        self.number += 1
        return Ask(self.config, PROJECT, USER, f"req-{self.number}", True)

    async def reaches(self, server_id: str, state: str) -> None:
        async with asyncio.timeout(10.0):
            while True:
                server = await self.db.read(lambda tx: tx.need(Server, server_id))
                if server.vm_state == state and server.operation_id is None:
                    return
                assert server.vm_state != "error", server.fault
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        for agent in self.agents.values():
            await agent.env.stop()
        await self.door.close()
        await self.env.stop()


class Liar:
    """The end of a link in the hands of a host that has been taken over."""

    def __init__(self, site: Site, guests: list[GuestFact], wirings: list[WiringFact]) -> None:
        self.got: list[Any] = []
        site.hub.attach(self)
        inventory = {"vcpus": 8, "ram_mb": 1024, "disk_gb": 10, "hypervisor_type": "fake", "hypervisor_version": 1}
        self.receive(Hello("liar", "id-liar", "boot", inventory, {}, "127.0.0.1", guests, wirings, []))

    def start(self, receive: Callable[[Any], None], closed: Callable[[], None]) -> None:
        self.receive = receive

    def send(self, frame: Any) -> None:
        self.got.append(frame)

    def close(self) -> None:
        pass


def on_site(tmp_path: Path, story: Callable[[Site], Awaitable[None]]) -> None:
    async def main() -> None:
        site = Site(tmp_path)
        await site.open()
        try:
            await story(site)
        finally:
            await site.close()

    asyncio.run(main())


def test_servers_move_there_and_back_over_mutual_tls(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.host("one")
        await site.host("two")
        server_id = site.env.new_id()

        def start(tx: Tx) -> None:
            tx.insert(Network(id=NETWORK_ID, project_id=PROJECT, name="net"))
            front.boot(tx, site.ask(), Server(server_id, PROJECT, USER, "s", SMALL), [front.NicRequest(network_id=NETWORK_ID)])

        await site.db.run(start)
        await site.reaches(server_id, ACTIVE)
        home = (await site.db.read(lambda tx: tx.need(Server, server_id))).host
        await site.db.run(lambda tx: front.resize(tx, site.ask(), tx.need(Server, server_id), BIG))
        await site.reaches(server_id, RESIZED)
        await site.db.run(lambda tx: front.revert(tx, site.ask(), tx.need(Server, server_id)))
        await site.reaches(server_id, ACTIVE)
        assert (await site.db.read(lambda tx: tx.need(Server, server_id))).host == home

    on_site(tmp_path, story)


def test_a_join_token_is_good_once_and_only_while_it_lasts(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        token = await site.door.invite(60.0)
        await HostIdentity(site.env, tmp_path / "a").join(token, "a")
        with pytest.raises(Refused, match="already used by a"):
            await HostIdentity(site.env, tmp_path / "b").join(token, "b")
        late = await site.door.invite(-1.0)
        with pytest.raises(Refused, match="expired"):
            await HostIdentity(site.env, tmp_path / "c").join(late, "c")
        with pytest.raises(Refused, match="joined already"):
            await HostIdentity(site.env, tmp_path / "d").join(await site.door.invite(60.0), "a")
        with pytest.raises(Refused, match="not a host name"):
            await HostIdentity(site.env, tmp_path / "e").join(await site.door.invite(60.0), "../../etc")
        with pytest.raises(ValueError, match="not a join token"):
            await HostIdentity(site.env, tmp_path / "f").join("nonsense", "f")
        secrets = {unpack(token).secret}
        assert not any(secret in str(row) for row in await site.db.read(lambda tx: tx.find(JoinToken)) for secret in secrets)
        assert any("enrolment refused" in event.text for event in site.events)

    on_site(tmp_path, story)


def test_a_host_without_a_certificate_is_refused_and_logged(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        authority = site.door.authority.certificate_file.read_text()
        told: list[str] = []
        link = await dial(site.env, site.door.url, pki.client_context(authority, None, None))
        link.tell = told.append
        closed = asyncio.Event()
        link.start(lambda frame: None, closed.set)
        await asyncio.wait_for(closed.wait(), 5.0)
        assert told == ["the controller refuses this host: no certificate of this cloud was shown"]
        assert any(event.kind == "fault" and "refused" in event.text for event in site.events)

    on_site(tmp_path, story)


def test_a_certificate_of_another_authority_does_not_get_through(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        stranger = pki.Authority(tmp_path / "other-ca", site.env.now())
        key = pki.new_key(tmp_path / "x.key")
        pki.write_private(tmp_path / "x.crt", stranger.sign(pki.signing_request(key, "x"), "some-id", "x", site.env.now()).encode())
        context = pki.client_context(site.door.authority.certificate_file.read_text(), tmp_path / "x.crt", tmp_path / "x.key")
        with pytest.raises(OSError):
            link = await dial(site.env, site.door.url, context)
            closed = asyncio.Event()
            link.start(lambda frame: None, closed.set)
            await asyncio.wait_for(closed.wait(), 5.0)
            raise OSError("closed")
        assert "x" not in site.hub.sessions

    on_site(tmp_path, story)


def test_a_host_may_only_speak_in_its_own_name(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.host("honest")
        identity = HostIdentity(site.env, tmp_path / "liar")
        await identity.join(await site.door.invite(60.0), "liar")
        env = site.env.child("liar")
        machine = Machine("honest")

        async def link() -> Any:
            return await dial(env, site.door.url, identity.context())

        agent = Agent(env, site.trace, "honest", "forged", site.config.compute, FakeHypervisor(env, machine, site.neighbours),
                      FakeDisks(env, machine, site.neighbours, NoImages()), FakeWiring(env, machine), Journal(), link)
        env.spawn(agent.run(), "agent")
        await site.until(lambda: any("it calls itself honest" in event.text for event in site.events))
        await env.stop()
        assert site.hub.sessions["honest"].proven == "honest"
        host = await site.db.read(lambda tx: tx.need(Host, "honest"))
        assert host.state == UP and host.id != "forged"

    on_site(tmp_path, story)


def test_a_host_that_was_struck_off_is_cut_and_stays_out(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.host("gone")
        await site.db.run(lambda tx: enrolment.strike_off(tx, "gone"))
        await site.until(lambda: any("not on record any more" in event.text for event in site.events))
        host = await site.db.read(lambda tx: tx.need(Host, "gone"))
        assert host.state == DOWN

    on_site(tmp_path, story)


def test_a_certificate_is_renewed_over_the_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(site: Site) -> None:
        identity = HostIdentity(site.env, tmp_path / "host")
        await identity.join(await site.door.invite(60.0), "host")
        first = (identity.folder / "host.crt").read_text()
        monkeypatch.setattr(pki, "RENEW_BEFORE_S", pki.HOST_LIFETIME_S + 60.0)
        await site.host("host", identity)
        await site.until(lambda: (identity.folder / "host.crt").read_text() != first)
        monkeypatch.undo()
        assert pki.ends_at((identity.folder / "host.crt").read_text()) >= pki.ends_at(first)

    on_site(tmp_path, story)


def test_a_host_that_lies_about_servers_of_others_changes_nothing_for_them(tmp_path: Path) -> None:
    """It claims a guest that runs elsewhere, answers commands that are not its own, and will not let the server be deleted."""
    async def story(site: Site) -> None:
        await site.host("one")
        server_id = site.env.new_id()

        def start(tx: Tx) -> None:
            tx.insert(Network(id=NETWORK_ID, project_id=PROJECT, name="net"))
            front.boot(tx, site.ask(), Server(server_id, PROJECT, USER, "s", SMALL), [front.NicRequest(network_id=NETWORK_ID)])

        await site.db.run(start)
        await site.reaches(server_id, ACTIVE)
        port = await site.db.read(lambda tx: tx.find(Port, device_id=server_id)[0])
        binding = await site.db.read(lambda tx: tx.get(Binding, port.id, "one"))
        liar = Liar(site, [GuestFact(server_id, "crashed", 99, True, 1)], [WiringFact(port.id, server_id, binding.generation, False, 2)])
        await site.until(lambda: bool(liar.got))
        pending = Command("c-one", "one", "report", server_id, "", "s", 1)
        await site.db.run(lambda tx: tx.put(pending))
        liar.receive(Report(1, [GuestFact(server_id, "running", 99, True, 3)], [], [Result("c-one", False, "I say no")]))
        reconciler = Reconciler(site.env, site.db, site.trace, site.config)
        await site.until(lambda: any(isinstance(frame, Ack) and frame.number == 1 for frame in liar.got))
        await reconciler.look(None)
        server = await site.db.read(lambda tx: tx.need(Server, server_id))
        assert (server.vm_state, server.host, server.power_state, server.operation_id) == (ACTIVE, "one", 1, None)
        assert (await site.db.read(lambda tx: tx.need(Wiring, port.id, "one"))).wired
        assert await site.db.read(lambda tx: tx.get(Wiring, port.id, "liar")) is None
        assert (await site.db.read(lambda tx: tx.need(Command, "c-one"))).state == PENDING
        # nothing of the server goes to the liar but the order to remove what it claims to have
        await site.until(lambda: any(isinstance(frame, Do) for frame in liar.got))
        assert {(frame.verb, str(frame.args)) for frame in liar.got if isinstance(frame, Do)} == {("purge", "{}")}
        await site.db.run(lambda tx: front.delete(tx, site.ask(), tx.need(Server, server_id)))
        told: set[str] = set()

        async def refusing() -> str:
            for frame in [frame for frame in liar.got if isinstance(frame, Do) and frame.command_id not in told]:
                told.add(frame.command_id)
                liar.receive(Report(2, [GuestFact(server_id, "running", 99, True, 9)], [], [Result(frame.command_id, False, "I keep it")]))
            return (await site.db.read(lambda tx: tx.find(Operation, kind="delete")[0])).waiting

        async with asyncio.timeout(10.0):
            while "not removed yet: liar: I keep it" not in await refusing():
                await asyncio.sleep(0.01)

        def time_is_up(tx: Tx) -> None:
            op = tx.find(Operation, kind="delete")[0]
            tx.update(Operation, op.id, deadline_at=tx.now - 1)
            tx.hint("op:" + op.id)

        await site.db.run(time_is_up)
        await site.reaches(server_id, DELETED)

    on_site(tmp_path, story)
