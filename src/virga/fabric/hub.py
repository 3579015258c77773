"""The controller's end of all links: facts in, commands out. The only door by which observations reach the database.

Owns: `guests`, `wirings`, a command's result columns, and the observed columns of `hosts`.
Rules: a fact carries the agent's revision; an older one than the row's is dropped and counted. A Hello is a whole picture: rows of that host it does
not name are set to absent. Facts that wait are taken in together, one transaction a batch, acknowledged after the commit. Commands are read from the
outbox whenever a hint says so and on every new session; a session's memory of what it sent is only to save repeats.
A host may only speak of itself: facts are filed under the session's host name, whatever they say. So what it claims of a server can only matter where
somebody asks about that host; a guest that has no business there is an orphan (reconcile.py), and its wiring counts only where the controller has
opened a binding of the port on that host.
"""
from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Collection
from typing import Any

from virga.domain.config import Config
from virga.domain.operation import ABSENT, COMMAND_DONE, COMMAND_FAILED, PENDING, Command, Guest
from virga.domain.placement import DOWN, UP, Host
from virga.domain.port import Binding, Wiring
from virga.fabric.link import Link
from virga.fabric.wire import Ack, Answer, Do, Forget, Frame, GuestFact, Hello, Query, Report, Result, View, Welcome, WiringFact
from virga.runtime.env import Env
from virga.runtime.trace import Trace
from virga.store.db import Db, Tx

IN_FLIGHT_MAX = 256
BATCH_REPORTS_MAX = 64


Renew = Callable[[Tx, str, str, str], str]


class Unanswered(Exception):
    """A Query had no answer: the host is not connected, did not answer in time, or refused."""


class Session:
    """One link to one host, from Hello to close."""

    def __init__(self, hub: Hub, link: Link) -> None:
        self.hub = hub
        self.link = link
        self.host = ""
        self.number = 0
        self.proven = ""  # the host name its certificate proves; '' on a link inside one process
        self.proven_id = ""
        self.sent: set[str] = set()
        self.full = False  # there may be more in the outbox than was sent
        self.view_version = ""
        self.open = True

    def receive(self, frame: Frame) -> None:
        if isinstance(frame, (Hello, Report)):
            self.hub.take(self, frame)
        elif isinstance(frame, Answer):
            self.hub.answered(frame)

    def closed(self) -> None:
        if self.open:
            self.open = False
            self.hub.lost(self)


class Hub:
    """All sessions of one controller."""

    def __init__(self, env: Env, db: Db, trace: Trace, config: Config) -> None:
        self.env, self.db, self.trace, self.config = env, db, trace, config
        self.sessions: dict[str, Session] = {}
        self._all: dict[Session, None] = {}  # in order: a kill must close links the same way in every run
        self._inbox: list[tuple[Session, Hello | Report | None]] = []
        self._due: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._queries: dict[str, asyncio.Future[Answer]] = {}
        self.stale_facts = 0
        self.images_port = 0  # told to hosts; set where images are served to them
        self.welcomed: Callable[[str], None] = lambda host: None  # a host's session has begun; it has seen nothing yet
        self.renew: Renew | None = None  # signs a host's next certificate; set where there is an authority
        db.on_commit(self._heard)
        env.on_kill(self._drop_all)

    def attach(self, link: Link, proven: str = "", proven_id: str = "") -> None:
        """Take over a fresh link from a host; its first frame must be Hello. `proven` is the name its certificate carries, if it came by one."""
        session = Session(self, link)
        session.proven, session.proven_id = proven, proven_id
        self._all[session] = None
        link.start(session.receive, session.closed)

    def take(self, session: Session, frame: Hello | Report | None) -> None:
        if isinstance(frame, Hello) and session.proven and (frame.host, frame.host_id) != (session.proven, session.proven_id):
            self.trace.emit("fault", session.proven, "hub", f"refused: it calls itself {frame.host}")
            session.link.close()
            return
        self._inbox.append((session, frame))
        self._wake.set()

    def lost(self, session: Session) -> None:
        self._all.pop(session, None)
        if session.host and self.env.alive:
            self.take(session, None)

    def _drop_all(self) -> None:
        for session in list(self._all):
            session.link.close()

    def _heard(self, hints: Collection[str]) -> None:
        for hint in hints:
            room, _, name = hint.partition(":")
            if room == "outbox":
                self._due[name] = None
                self._wake.set()
            elif room == "struck" and name in self.sessions:
                self.sessions[name].link.close()

    async def run(self) -> None:
        """Run until cancelled. Nobody is connected yet, so every host starts as down; those that live say Hello."""
        await self.db.run(_all_down)
        while True:
            while self._inbox or self._due:
                if self._inbox:
                    batch, self._inbox = self._inbox[:BATCH_REPORTS_MAX], self._inbox[BATCH_REPORTS_MAX:]
                    await self._take_in(batch)
                if self._due:
                    due = list(self._due)
                    self._due.clear()
                    await self._send_due(due)
            self._wake.clear()
            await self._wake.wait()

    # facts in -------------------------------------------------------------------------------------------------------
    async def _take_in(self, batch: list[tuple[Session, Hello | Report | None]]) -> None:
        def closure(tx: Tx) -> tuple[list[tuple[Session, Frame]], int]:
            answers: list[tuple[Session, Frame]] = []
            stale = 0
            for session, frame in batch:
                if frame is None:
                    if self.sessions.get(session.host) in (session, None):
                        _goes_down(tx, session.host)
                elif isinstance(frame, Hello):
                    number = _says_hello(tx, frame)
                    _note(tx, frame.host, frame.guests, frame.wirings, frame.results, whole=True)
                    _absent_rest(tx, frame)
                    certificate = ""
                    if frame.certificate_request and session.proven and self.renew is not None:
                        certificate = self.renew(tx, session.proven_id, session.proven, frame.certificate_request)
                    answers.append((session, Welcome(number, certificate, self.images_port)))
                    answers.append((session, Ack(0)))
                elif session.host:
                    stale += _note(tx, session.host, frame.guests, frame.wirings, frame.results)
                    answers.append((session, Ack(frame.number)))
            return answers, stale

        for session, frame in batch:  # names first: a Report may follow its Hello in the same batch
            if isinstance(frame, Hello):
                self._greet(session, frame)
        try:
            answers, stale = await self.db.run(closure)
        except Exception as error:
            # Facts are not lost: the link is cut, and the hosts say everything again in their next Hello.
            self.trace.emit("fault", "hub", "", f"facts refused: {error!r}", traceback=traceback.format_exc())
            for session, _ in batch:
                session.link.close()
            return
        self.stale_facts += stale
        if any(isinstance(frame, Hello) and frame.results for _, frame in batch):
            self.env.mark("hub.result_after_reconnect")
        for session, frame in batch:
            if frame is not None and frame.results:
                session.sent.difference_update(result.command_id for result in frame.results)
                if session.full:
                    self._due[session.host] = None
        for session, answer in answers:
            if isinstance(answer, Welcome):
                session.number = answer.session
                self._due[session.host] = None
            session.link.send(answer)
            if isinstance(answer, Welcome):
                self.welcomed(session.host)
        for session, frame in batch:
            if frame is None and self.sessions.get(session.host) is session:
                del self.sessions[session.host]

    def _greet(self, session: Session, hello: Hello) -> None:
        old = self.sessions.get(hello.host)
        session.host = hello.host
        self.sessions[hello.host] = session
        if old is not None and old is not session:
            old.open = False
            old.link.close()

    # commands out ---------------------------------------------------------------------------------------------------
    async def _send_due(self, hosts: list[str]) -> None:
        here = [host for host in hosts if host in self.sessions and self.sessions[host].number]
        if not here:
            return

        def closure(tx: Tx) -> dict[str, list[Command]]:
            return {host: tx.find(Command, host=host, state=PENDING, sort=[("number", False)], limit=IN_FLIGHT_MAX) for host in here}

        for host, commands in (await self.db.read(closure)).items():
            session = self.sessions.get(host)
            if session is None:
                continue
            pending = {command.id for command in commands}
            session.full = len(commands) == IN_FLIGHT_MAX
            withdrawn = sorted(session.sent - pending) if len(commands) < IN_FLIGHT_MAX else []
            if withdrawn:
                session.link.send(Forget(withdrawn))
            session.sent &= pending
            for command in commands:
                if command.id not in session.sent:
                    session.sent.add(command.id)
                    session.link.send(Do(command.id, command.verb, command.server_id, command.epoch, command.args))

    def send_view(self, host: str, version: str, body: dict[str, Any]) -> None:
        """Show a host its networks, unless it has seen this version in this session."""
        session = self.sessions.get(host)
        if session is not None and session.number and session.view_version != version:
            session.view_version = version
            session.link.send(View(version, body))

    # questions ------------------------------------------------------------------------------------------------------
    async def ask(self, host: str, verb: str, server_id: str, timeout_s: float = 10.0, **args: Any) -> dict[str, Any]:
        """Ask a host something that changes nothing. Raises Unanswered."""
        session = self.sessions.get(host)
        if session is None:
            raise Unanswered(f"{host} is not connected")
        query = Query(self.env.new_id(), verb, server_id, args)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queries[query.query_id] = future
        session.link.send(query)
        try:
            async with asyncio.timeout(timeout_s):
                answer = await future
        except TimeoutError as error:
            raise Unanswered(f"{host} did not answer within {timeout_s:g} s") from error
        finally:
            del self._queries[query.query_id]
        if not answer.ok:
            raise Unanswered(answer.error)
        return answer.data

    def answered(self, answer: Answer) -> None:
        future = self._queries.get(answer.query_id)
        if future is not None and not future.done():
            future.set_result(answer)


def _all_down(tx: Tx) -> None:
    """At the controller's start. Those that were connected when the last one ended are seen off now, so that they are waited for a little."""
    for host in tx.find(Host, state=UP):
        tx.update(Host, host.name, state=DOWN, seen_at=tx.now, updated_at=tx.now)


def _goes_down(tx: Tx, name: str) -> None:
    tx.update(Host, name, state=DOWN, seen_at=tx.now, updated_at=tx.now)
    tx.hint("host:" + name)
    tx.emit("fault", name, "hub", "connection lost")


def _says_hello(tx: Tx, hello: Hello) -> int:
    """Write the host's own columns; a host never seen before gets its row here. Returns the session number."""
    inventory = hello.inventory
    host = tx.get(Host, hello.host)
    if host is None:
        host = Host(hello.host, hello.host_id, number=tx.next_number("hosts"), created_at=tx.now)
        tx.insert(host)
    session = host.session + 1
    tx.update(
        Host, hello.host, state=UP, vcpus=inventory["vcpus"], ram_mb=inventory["ram_mb"], disk_gb=inventory["disk_gb"],
        hypervisor_type=inventory["hypervisor_type"], hypervisor_version=inventory["hypervisor_version"], address=hello.address,
        boot_id=hello.boot_id, session=session, detail=hello.detail, updated_at=tx.now, seen_at=tx.now)
    tx.hint("host:" + hello.host, "hostview")
    tx.emit("fact", hello.host, "hub", f"hello, session {session}")
    return session


def _absent_rest(tx: Tx, hello: Hello) -> None:
    """A Hello names all there is: what it does not name is gone. Its revision too: the agent that counts from here on may have begun anew."""
    guests = {fact.server_id for fact in hello.guests}
    for guest in tx.find(Guest, host=hello.host):
        if guest.server_id not in guests and (guest.state != ABSENT or guest.revision):
            tx.update(Guest, guest.server_id, hello.host, state=ABSENT, disk=False, revision=0, at=tx.now)
            tx.hint("server:" + guest.server_id)
    ports = {fact.port_id for fact in hello.wirings}
    for wiring in tx.find(Wiring, host=hello.host):
        if wiring.port_id not in ports and (wiring.wired or wiring.revision):
            tx.update(Wiring, wiring.port_id, hello.host, wired=False, revision=0, at=tx.now)
            tx.hint("port:" + wiring.port_id)


def _note(
    tx: Tx, host: str, guests: list[GuestFact], wirings: list[WiringFact], results: list[Result], *, whole: bool = False,
) -> int:
    """File facts under their host; returns how many were older than what is known. A `whole` picture (Hello) is newer than anything before it."""
    stale = 0
    for fact in guests:
        known = tx.get(Guest, fact.server_id, host)
        if known is not None and known.revision > fact.revision and not whole:
            stale += 1
            continue
        tx.put(Guest(fact.server_id, host, fact.state, fact.epoch, fact.disk, fact.revision, fact.detail, tx.now))
        tx.hint("server:" + fact.server_id)
        if known is None or (known.state, known.epoch, known.disk) != (fact.state, fact.epoch, fact.disk):
            tx.emit("fact", host, "store", f"guest {fact.state} (epoch {fact.epoch})", server=fact.server_id,
                    cause=f"{host}/{fact.server_id}")
    for wired in wirings:
        before = tx.get(Wiring, wired.port_id, host)
        if before is not None and before.revision > wired.revision and not whole:
            stale += 1
            continue
        if before is None and tx.get(Binding, wired.port_id, host) is None:
            continue  # its binding was dropped meanwhile, or it never was the host's business
        tx.put(Wiring(wired.port_id, host, wired.generation, wired.wired, wired.revision, wired.detail, tx.now))
        tx.hint("server:" + wired.server_id, "port:" + wired.port_id)
        if before is None or (before.wired, before.generation) != (wired.wired, wired.generation):
            state = "wired" if wired.wired else "not wired"
            tx.emit("fact", host, "store", f"port {wired.port_id} {state} (generation {wired.generation})", server=wired.server_id,
                    cause=f"{host}/{wired.server_id}")
    for result in results:
        command = tx.get(Command, result.command_id)
        if command is None or command.host != host or command.state != PENDING:
            continue
        tx.update(Command, command.id, state=COMMAND_DONE if result.ok else COMMAND_FAILED, error=result.error, result=result.data, ended_at=tx.now)
        tx.hint("op:" + command.operation_id)
        if not result.ok:
            tx.emit("fault", host, "ops", f"{command.verb} failed: {result.error}", server=command.server_id, cause=command.id)
    return stale
