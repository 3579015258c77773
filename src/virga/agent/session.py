"""The agent of one host: dials the controller, says what is here, does what it is told, reports what it sees.

Owns on this host: the journal, one actor a server, the link. Rules: commands of one server run one after another; a command with a newer epoch
cancels an older one under way (but for a purge); an older epoch than the newest seen is refused. A command's result is journaled together with the
record and repeated until the controller acknowledges it. Facts are looked up, never remembered into being: after a crash, a reconnect, or a change
nobody ordered, the drivers are asked, until they answer. Guests do not need this process to live.
"""
from __future__ import annotations

import asyncio
import errno
import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import msgspec

from virga.agent.guest import ABSENT, HELD, INCOMING, KEPT, PAUSED, GuestRecord, Hands
from virga.agent.hypervisor import Disks, DriverError, Hypervisor, Nic, WiringDriver
from virga.agent.journal import Journal
from virga.domain.config import Compute
from virga.fabric.link import Link
from virga.fabric.wire import Ack, Answer, Do, Forget, Frame, GuestFact, Hello, Query, Report, Result, View, Welcome, WiringFact
from virga.runtime.env import Env, Killed
from virga.runtime.trace import Trace

REDIAL_MIN_S, REDIAL_MAX_S = 0.2, 10.0
RESYNC_PERIOD_S = 60.0
DRIVER_RETRY_MIN_S, DRIVER_RETRY_MAX_S = 0.2, 10.0
REWIRE_PERIOD_S = 2.0
FENCES_MAX = 4096

T = TypeVar("T")
Dial = Callable[[], Awaitable[Link]]
Probe = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


class Identity(Protocol):
    """The host's certificate, where it has one."""

    def request(self) -> str:
        """A signing request (PEM) when the certificate is due for renewal, else ''."""

    def renewed(self, certificate: str) -> None:
        """Keep a new certificate (PEM); the next dial shows it."""


class Actor:
    """One server's queue of commands on this host."""

    def __init__(self) -> None:
        self.queue: deque[Do] = deque()
        self.task: asyncio.Task[None] | None = None
        self.current: Do | None = None


class Agent:
    """See the module. `dial` makes a fresh link to the controller or raises OSError."""

    def __init__(
        self, env: Env, trace: Trace, name: str, host_id: str, options: Compute, hypervisor: Hypervisor, disks: Disks, wiring: WiringDriver,
        journal: Journal, dial: Dial, address: str = "127.0.0.1", identity: Identity | None = None,
        detail: dict[str, Any] | None = None, welcomed: Callable[[Welcome], None] = lambda welcome: None,
    ) -> None:
        self.env, self.trace, self.name, self.host_id, self.address = env, trace, name, host_id, address
        self.hypervisor, self.disks, self.wiring, self.journal = hypervisor, disks, wiring, journal
        self.hands = Hands(env, options, hypervisor, disks, wiring, self._tell_wired, self._tell_trouble)
        self._dial = dial
        self._identity = identity
        self._detail, self._welcomed = detail or {}, welcomed
        self._link: Link | None = None
        self._greeted = False
        self._records: dict[str, GuestRecord] = {}
        self._actors: dict[str, Actor] = {}
        self._results: dict[str, tuple[Result, int]] = {}
        self._revision = 0
        self._reports = 0
        self._hints = 0  # things that may have changed since the last look began
        self._missed_once: set[str] = set()  # servers with taps here whose guest the last look did not find
        self._begun: dict[str, int] = {}  # server id -> commands begun
        self._lost = asyncio.Event()
        self._probes: dict[str, Probe] = {"console_log": self._console_log, "disk": self._disk}
        self._rewiring = False
        self.boot_id = ""
        env.on_kill(self._drop_link)

    def add_probe(self, verb: str, probe: Probe) -> None:
        """Offer one more question to the controller."""
        self._probes[verb] = probe

    async def run(self) -> None:
        """Run until cancelled: open the drivers, then dial for ever."""
        self.boot_id = self.env.new_id()
        await self._patiently(self.disks.open)
        await self._patiently(lambda: self.hypervisor.open(self._guest_changed))
        await self._patiently(lambda: self.wiring.open(self._port_changed))
        await self._patiently(self._remember)
        self.env.spawn(self._resync(), "resync")
        delay_s = REDIAL_MIN_S
        while True:
            self._lost.clear()
            try:
                link = await self._dial()
            except OSError:
                await self.env.sleep(delay_s * (0.5 + self.env.rng.random()))
                delay_s = min(REDIAL_MAX_S, delay_s * 2)
                continue
            self._link = link
            link.start(self._receive, self._lost.set)
            await self._patiently(self._greet)
            await self._lost.wait()
            delay_s = REDIAL_MIN_S if self._greeted else min(REDIAL_MAX_S, delay_s * 2)
            self._link, self._greeted = None, False
            await self.env.sleep(delay_s * (0.5 + self.env.rng.random()))

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Ask the drivers until they answer: without them (libvirtd restarts, a bridge is being made) nothing is known, and nothing is guessed."""
        pause_s = DRIVER_RETRY_MIN_S
        while True:
            try:
                return await work()
            except DriverError as error:
                self.trace.emit("fault", self.name, "", f"tried again in {pause_s:g} s: {error}")
                await self.env.sleep(pause_s)
                pause_s = min(DRIVER_RETRY_MAX_S, pause_s * 2)

    async def _seen(self) -> tuple[dict[str, str], dict[str, int]]:
        return await self.hypervisor.guests(), await self.disks.list()

    def _drop_link(self) -> None:
        if self._link is not None:
            self._link.close()

    async def _remember(self) -> None:
        """Take up the journal, and wire again what runs (a host may have lost its taps in a reboot; wiring twice harms nothing)."""
        for server_id, data in self.journal.find("guest/").items():
            self._records[server_id] = msgspec.convert(data, GuestRecord)
        for command_id, data in self.journal.find("result/").items():
            self._results[command_id] = (msgspec.convert(data, Result), 0)
        running = await self.hypervisor.guests()
        for server_id in sorted(set(running) | set(await self.disks.list())):
            self._records.setdefault(server_id, GuestRecord(server_id))
        wired = await self.wiring.wired()
        for record in self._records.values():
            for nic in self._nics(record):
                if record.server_id in running and nic.port_id in record.nics and not wired.get(nic.port_id):
                    try:
                        await self.wiring.wire(nic)
                        record.wired[nic.port_id] = True
                    except DriverError as error:
                        record.wired[nic.port_id] = False
                        self.trace.emit("fault", self.name, "", f"port {nic.port_id} is not wired: {error}", server=record.server_id)
        await self._unplug_loose(running, {})
        ours = {port_id for record in self._records.values() for port_id in record.nics}
        if any(self._records[server_id].spec is None for server_id in running):
            return  # the journal was lost: whose taps these are is not known, and running guests need theirs
        for port_id in sorted(set(wired) - ours):
            await self._unplug(port_id)  # made by a command that died with the agent: if it is still wanted, the command comes again

    async def _unplug_loose(self, guests: dict[str, str], begun: dict[str, int]) -> list[WiringFact]:
        """A tap belongs to a guest that is defined here and has it; one that a failed unplug has left behind goes. Returns what there is to tell.

        That a guest is not there has to be seen twice: a hypervisor that is just starting may not know all its guests yet, and a running guest whose
        tap was taken for a loose one has lost its network.
        """
        told: list[WiringFact] = []
        for record in list(self._records.values()):
            if self._moved_on(record.server_id, begun):
                continue
            defined = record.server_id in guests or record.incoming
            if defined:
                self._missed_once.discard(record.server_id)
            elif record.nics and record.server_id not in self._missed_once:
                self._missed_once.add(record.server_id)
                continue
            wanted = set(record.nics) if defined and record.spec is None else {nic.port_id for nic in self._nics(record)} if defined else set()
            for port_id, generation in [(port_id, number) for port_id, number in record.nics.items() if port_id not in wanted]:
                if await self._unplug(port_id) and record.nics.get(port_id) == generation and self._busy(record.server_id) is None:
                    self.env.mark("agent.loose_tap")
                    del record.nics[port_id]
                    record.wired.pop(port_id, None)
                    told.append(WiringFact(port_id, record.server_id, generation, False, self._next(), "unplugged"))
        return told

    async def _unplug(self, port_id: str) -> bool:
        try:
            await self.wiring.unwire(port_id)
        except DriverError as error:
            self.trace.emit("fault", self.name, "", f"the loose tap of port {port_id} stays: {error}")
            return False
        return True

    def _nics(self, record: GuestRecord) -> list[Nic]:
        return [msgspec.convert(nic, Nic) for nic in (record.spec or {}).get("nics", [])]

    # talking --------------------------------------------------------------------------------------------------------
    async def _greet(self) -> None:
        begun = dict(self._begun)
        inventory = await self.hypervisor.inventory()
        guests, disks = await self._seen()
        wired = await self.wiring.wired()
        facts: list[GuestFact] = []
        wirings: list[WiringFact] = []
        for record in self._records.values():
            at_rest = not self._moved_on(record.server_id, begun)
            if at_rest:
                self._look(record, guests, disks)
            for port_id, generation in record.nics.items():
                if at_rest:  # else the command at work knows better than a look from before it
                    record.wired[port_id] = bool(wired.get(port_id))
                wirings.append(WiringFact(port_id, record.server_id, generation, record.wired.get(port_id, False), self._next()))
            facts.append(self._fact(record))
        self._results = {command_id: (result, 0) for command_id, (result, _) in self._results.items()}
        if self._link is not None:
            self._link.send(Hello(
                self.name, self.host_id, self.boot_id, msgspec.to_builtins(inventory), {**inventory.detail, **self._detail}, self.address, facts, wirings,
                [result for result, _ in self._results.values()], self._identity.request() if self._identity is not None else ""))

    def _moved_on(self, server_id: str, begun: dict[str, int]) -> bool:
        """Whether a command works on this server, or has since `begun` was noted: what the drivers said in between may be old by now."""
        return self._busy(server_id) is not None or self._begun.get(server_id) != begun.get(server_id)

    def _next(self) -> int:
        self._revision += 1
        return self._revision

    def _look(self, record: GuestRecord, guests: dict[str, str], disks: dict[str, int]) -> None:
        """Set a record to what is there."""
        seen = guests.get(record.server_id)
        record.disk = record.server_id in disks
        if seen is None:
            record.state = INCOMING if record.incoming else KEPT if record.disk else ABSENT
            return
        if seen == INCOMING and not record.incoming:
            seen = PAUSED  # stopped for a moment on its way out of here
        if seen != INCOMING:
            record.incoming = False
        record.state = HELD if record.held and seen == PAUSED else seen

    def _fact(self, record: GuestRecord) -> GuestFact:
        return GuestFact(record.server_id, record.state, record.seen, record.disk, self._next())

    def _report(self, guests: list[GuestFact], wirings: list[WiringFact], results: list[Result]) -> None:
        self._reports += 1
        for result in results:
            self._results[result.command_id] = (result, self._reports)
        if self._link is not None:
            self._link.send(Report(self._reports, guests, wirings, results))

    def _tell_wired(self, record: GuestRecord, nic: Nic, wired: bool, detail: str) -> None:
        # On record before the guest starts on it: an agent that dies in between must not take the tap for a loose one and away from under its guest.
        self.journal.put("guest/" + record.server_id, msgspec.to_builtins(record))
        self._report([], [WiringFact(nic.port_id, record.server_id, nic.generation, wired, self._next(), detail)], [])

    def _tell_trouble(self, record: GuestRecord, text: str) -> None:
        self.trace.emit("fault", self.name, self.name, text, server=record.server_id)

    def _receive(self, frame: Frame) -> None:
        if not self.env.alive:
            return
        if isinstance(frame, Do):
            self._enqueue(frame)
        elif isinstance(frame, Ack):
            self._acknowledged(frame.number)
        elif isinstance(frame, Welcome):
            self._greeted = True
            self._welcomed(frame)
            if frame.certificate and self._identity is not None:
                self._identity.renewed(frame.certificate)
        elif isinstance(frame, Forget):
            for actor in self._actors.values():
                actor.queue = deque(do for do in actor.queue if do.command_id not in frame.command_ids)
        elif isinstance(frame, View):
            self.env.spawn(self._apply(frame), "view")
        elif isinstance(frame, Query):
            self.env.spawn(self._answer(frame), "query")

    def _acknowledged(self, number: int) -> None:
        for command_id in [command_id for command_id, (_, sent) in self._results.items() if sent <= number]:
            del self._results[command_id]
            self.journal.put("result/" + command_id, None)
        if len(self._records) > FENCES_MAX:
            for record in [record for record in self._records.values() if record.state == ABSENT and self._busy(record.server_id) is None]:
                del self._records[record.server_id]
                self.journal.put("guest/" + record.server_id, None)

    # commands -------------------------------------------------------------------------------------------------------
    def _busy(self, server_id: str) -> Actor | None:
        actor = self._actors.get(server_id)
        return actor if actor is not None and (actor.task is not None or actor.queue) else None

    def _enqueue(self, do: Do) -> None:
        known = self._results.get(do.command_id)
        if known is not None:
            self.env.mark("agent.result_again")
            self._report([], [], [known[0]])
            return
        actor = self._actors.setdefault(do.server_id, Actor())
        if do.command_id in {waiting.command_id for waiting in actor.queue} or (actor.current and actor.current.command_id == do.command_id):
            return
        actor.queue.append(do)
        if actor.task is None:
            actor.task = self.env.spawn(self._work(do.server_id, actor), f"guest-{do.server_id[:8]}")
        elif actor.current is not None and actor.current.epoch < do.epoch and actor.current.verb != "purge":
            # A purge is never dropped: what comes after it counts on finding nothing here, least of all an old disk.
            actor.task.cancel()

    async def _work(self, server_id: str, actor: Actor) -> None:
        """The actor: one command after another. Cancelled only to drop an older command for a newer one."""
        while actor.queue:
            actor.current = actor.queue.popleft()
            self._begun[server_id] = self._begun.get(server_id, 0) + 1
            try:
                await self._do(actor.current)
            except asyncio.CancelledError:
                self.env.check_alive()
                newer = any(waiting.epoch > actor.current.epoch for waiting in actor.queue)
                task = asyncio.current_task()
                if not newer or task is None:
                    raise
                task.uncancel()
                # An answer all the same: its outbox must not keep a command that nobody will take up again.
                self.env.mark("agent.dropped_for_newer")
                await self._finish(self._records[server_id], Result(actor.current.command_id, False, "dropped for a newer command"), looked=False)
        actor.task = actor.current = None
        del self._actors[server_id]

    async def _do(self, do: Do) -> None:
        record = self._records.setdefault(do.server_id, GuestRecord(do.server_id))
        if do.epoch < record.epoch:
            self.env.mark("agent.epoch_refused")
            await self._finish(record, Result(do.command_id, False, f"refused: epoch {do.epoch} is older than {record.epoch}"), looked=False)
            return
        record.epoch = do.epoch
        self.journal.put("guest/" + do.server_id, msgspec.to_builtins(record))
        await self.env.point("agent.before_effect", verb=do.verb)
        try:
            verb = self.hands.verbs.get(do.verb)
            if verb is None:
                raise DriverError(f"this agent does not know the verb {do.verb!r}")
            result = Result(do.command_id, True, "", await verb(record, do.args))
        except DriverError as error:
            result = Result(do.command_id, False, str(error), {"code": error.code})
        except OSError as error:  # a file of this host: no room, no permission
            code = "no-space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "failed"
            result = Result(do.command_id, False, f"{do.verb}: {str(error) or repr(error)}", {"code": code})
        except (asyncio.CancelledError, Killed):
            raise
        except Exception as error:
            self.trace.emit("fault", self.name, "", f"{do.verb}: {error!r}", server=do.server_id, traceback=traceback.format_exc())
            result = Result(do.command_id, False, f"internal error of the agent: {error!r}", {"code": "bug"})
        await self.env.point("agent.after_effect", verb=do.verb)
        self._look(record, *await self._patiently(self._seen))
        record.seen = do.epoch
        await self._finish(record, result, looked=True)

    async def _finish(self, record: GuestRecord, result: Result, *, looked: bool) -> None:
        """Journal, then report: the result, and what was seen if somebody looked. Facts get their revisions in the moment they are sent: one made earlier
        would be older than a Hello that slips in between, and would be dropped as stale."""
        unplugged, record.unplugged = record.unplugged, {}
        self.journal.put("guest/" + record.server_id, msgspec.to_builtins(record))
        await self.env.point("agent.half_journaled")
        self.journal.put("result/" + result.command_id, msgspec.to_builtins(result))
        await self.env.point("agent.before_report")
        wirings = [WiringFact(port_id, record.server_id, generation, False, self._next(), "unplugged")
                   for port_id, generation in unplugged.items() if port_id not in record.nics]
        self._report([self._fact(record)] if looked else [], wirings, [result])

    # changes nobody ordered -----------------------------------------------------------------------------------------
    def _guest_changed(self, server_id: str) -> None:
        if self.env.alive and self._busy(server_id) is None:
            self._check_soon()

    def _port_changed(self, port_id: str) -> None:
        if self.env.alive:
            self._check_soon()

    def _check_soon(self) -> None:
        """One look for any number of hints; a hint that comes during a look gets another one after it."""
        self._hints += 1
        if self._hints == 1:
            self.env.spawn(self._check_hints(), "check")

    async def _check_hints(self) -> None:
        try:
            while self._hints:
                before = self._hints
                await self._check()
                self._hints = 0 if self._hints == before else 1
        finally:
            self._hints = 0

    async def _check(self) -> None:
        """Ask the drivers, and report what differs from what was reported. Without an answer the next resync asks again."""
        begun = dict(self._begun)
        try:
            guests, disks = await self._seen()
            wired = await self.wiring.wired()
        except DriverError as error:
            self.trace.emit("fault", self.name, "", f"not looked: {error}")
            return
        facts: list[GuestFact] = []
        wirings: list[WiringFact] = []
        for server_id in sorted(set(guests) | set(disks)):
            self._records.setdefault(server_id, GuestRecord(server_id))
        for record in self._records.values():
            if self._moved_on(record.server_id, begun):
                continue
            before = (record.state, record.disk)
            self._look(record, guests, disks)
            if before[0] == INCOMING and record.state == "running":
                self.env.spawn(self.hands.announce(record), "announce")  # whoever sent it cannot: its MAC is here now
            if (record.state, record.disk) != before:
                facts.append(self._fact(record))
                self.journal.put("guest/" + record.server_id, msgspec.to_builtins(record))
            for port_id, generation in record.nics.items():
                if record.wired.get(port_id) != bool(wired.get(port_id)):
                    record.wired[port_id] = bool(wired.get(port_id))
                    wirings.append(WiringFact(port_id, record.server_id, generation, record.wired[port_id], self._next()))
        wirings += await self._unplug_loose(guests, begun)
        if facts or wirings:
            self._report(facts, wirings, [])
        self._rewire_soon()

    def _rewire_soon(self) -> None:
        if not self._rewiring and any(not wired for record in self._records.values() for wired in record.wired.values()):
            self._rewiring = True
            self.env.spawn(self._rewire(), "rewire")

    async def _rewire(self) -> None:
        """Try again what should be wired and is not, until it is."""
        try:
            left = True
            while left:
                await self.env.sleep(REWIRE_PERIOD_S)
                left = False
                for record in list(self._records.values()):
                    for nic in self._nics(record):
                        if self._busy(record.server_id) is not None or record.wired.get(nic.port_id) is not False:
                            continue
                        try:
                            await self.wiring.wire(nic)
                        except DriverError:
                            left = True
                            continue
                        record.wired[nic.port_id] = True
                        self._tell_wired(record, nic, True, "")
        finally:
            self._rewiring = False

    async def _resync(self) -> None:
        """The safety net below events and hints."""
        while True:
            await self.env.sleep(RESYNC_PERIOD_S)
            await self._check()
            if self._identity is not None and self._greeted and self._identity.request():
                self._drop_link()  # the next Hello carries the request

    # views and questions --------------------------------------------------------------------------------------------
    async def _apply(self, view: View) -> None:
        try:
            await self.wiring.apply(view.body)
        except DriverError as error:
            self.trace.emit("fault", self.name, "", f"networks not applied: {error}")

    async def _answer(self, query: Query) -> None:
        probe = self._probes.get(query.verb)
        try:
            if probe is None:
                raise DriverError(f"this agent has no answer to {query.verb!r}")
            answer = Answer(query.query_id, True, "", await probe(query.server_id, query.args))
        except DriverError as error:
            answer = Answer(query.query_id, False, str(error))
        if self._link is not None:
            self._link.send(answer)

    async def _disk(self, server_id: str, _: dict[str, Any]) -> dict[str, Any]:
        """Size and digest of a server's disk as it is now; a running guest may be writing to it."""
        size_bytes = (await self.disks.list()).get(server_id)
        if size_bytes is None:
            raise DriverError(f"there is no disk of server {server_id} here", "no-disk")
        return {"size_bytes": size_bytes, "sha256": await self.disks.checksum(server_id)}

    async def _console_log(self, server_id: str, args: dict[str, Any]) -> dict[str, Any]:
        return {"output": await self.hypervisor.console_log(server_id, args.get("length"))}
