"""The real agent, one effect at a time: what an exhaustive search needs to try every order of two hosts' doings.

Owns: `AgentState`, an agent of one host as a value, and `step`, which runs the real agent/session.py and agent/guest.py on it up to the next effect.
How: a coroutine cannot be copied, but what it did can be done again. A busy agent's state is the picture of its host when its current work began plus the
inputs since (frames taken, effects allowed); stepping lays the picture out anew, gives the inputs again, and stops before the following effect. At rest
the picture is taken afresh. Effects are the drivers' calls; between two of them an agent changes nothing that anybody else can see.
"""
from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import msgspec

from virga.agent.fake import FakeDisks, FakeHypervisor, FakeWiring, Machine, Neighbourhood, NoImages
from virga.agent.guest import GuestRecord
from virga.agent.journal import Journal
from virga.agent.session import Agent
from virga.domain.config import Config
from virga.fabric.link import Link
from virga.fabric.wire import Frame, Result
from virga.runtime.env import sim_env
from virga.runtime.trace import Trace
from virga.sim.loop import SimLoop
from virga.sim.policy import Fifo

# Calls that change nothing on a host, so that stopping before them would tell nothing.
HARMLESS = ("driver.grow", "driver.announce", "driver.apply", "agent.before_effect", "agent.wired_not_started")
TURNS = 25
GO, HELLO, START = b"go", b"hello", b"start"
_pack = msgspec.msgpack.Encoder(order="deterministic").encode
_unpack = msgspec.msgpack.Decoder().decode
_frames = msgspec.msgpack.Decoder(Frame)


class AgentState(NamedTuple):
    """`picture` is the host and the agent's memory when it was last at rest; `inputs` what has come since. `view` names what is visible now."""

    host: str
    picture: bytes
    inputs: tuple[bytes, ...]
    view: bytes
    busy: bool


class _Ear:
    """The agent's end of a link: keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Frame] = []

    def send(self, frame: Frame) -> None:
        self.sent.append(frame)

    def close(self) -> None: ...


class _Bench:
    """One agent laid out from a picture."""

    def __init__(self, host: str, picture: bytes, loop: SimLoop) -> None:
        machine, journal, records, results, revision, reports = _unpack(picture)
        self.host = host
        self.env = sim_env(0, host, loop)
        self.machine = Machine(host, _journal(machine))
        self.journal = _journal(journal)
        neighbours = Neighbourhood()
        neighbours.add(self.machine)
        options = Config().compute
        self.ear = _Ear()
        self.trace = Trace(self.env.now, ring=1)
        self.agent = Agent(self.env, self.trace, host, f"id-{host}", options, FakeHypervisor(self.env, self.machine, neighbours),
                           FakeDisks(self.env, self.machine, neighbours, NoImages()), FakeWiring(self.env, self.machine), self.journal, self._dial)
        self.agent.boot_id = "boot"
        self.agent.hands.graceful_stop_s = 0.0
        self.agent._records = {record["server_id"]: msgspec.convert(record, GuestRecord) for record in records}
        self.agent._results = {result["command_id"]: (msgspec.convert(result, Result), number) for result, number in results}
        self.agent._revision, self.agent._reports = revision, reports
        link: Any = self.ear  # what an agent needs of a link is send and close
        self.agent._link = link
        self.agent._greeted = True
        self.gate = asyncio.Semaphore(0)
        self.waits_at = ""
        self.env.fault_hook = self._stop_here

    async def _dial(self) -> Link:
        raise OSError("the search carries the frames")

    def _stop_here(self, name: str, about: dict[str, Any]) -> Any:
        point = name.partition(":")[2]
        return None if point in HARMLESS or not self.agent._actors else self._hold(point)

    async def _hold(self, point: str) -> None:
        self.waits_at = point
        await self.gate.acquire()
        self.waits_at = ""

    async def give(self, item: bytes) -> None:
        if item == GO:
            self.gate.release()
        elif item == HELLO:
            self.env.spawn(self.agent._greet(), "greet")
        elif item == START:
            self.env.spawn(self._start(), "start")
        else:
            self.agent._receive(_frames.decode(item))
        for _ in range(TURNS):
            await self.env.sleep(0)

    async def _start(self) -> None:
        await self.agent._remember()
        await self.agent._greet()

    def picture(self) -> bytes:
        agent = self.agent
        return _pack([self.machine.journal.values, self.journal.values, msgspec.to_builtins(list(agent._records.values())),
                      [[msgspec.to_builtins(result), number] for result, number in agent._results.values()], agent._revision, agent._reports])

    def doing(self) -> list[Any]:
        """Which command it is at, where in it, and what lies in its queue."""
        return [[server_id, actor.current.command_id if actor.current else "", self.waits_at, [do.command_id for do in actor.queue]]
                for server_id, actor in self.agent._actors.items()]


def _journal(values: dict[str, Any]) -> Journal:
    journal = Journal()
    journal.values.update(values)
    return journal


def at_rest(host: str, machine: dict[str, Any], journal: dict[str, Any]) -> AgentState:
    """A freshly started agent on a host as it was left: its memory is its journal."""
    picture = _pack([machine, journal, [], [], 0, 0])
    return AgentState(host, picture, (), picture, False)


_known: dict[tuple[str, bytes, tuple[bytes, ...], bytes], tuple[AgentState, tuple[bytes, ...]]] = {}


def step(state: AgentState, item: bytes) -> tuple[AgentState, tuple[bytes, ...]]:
    """One input to an agent: a frame, GO (the next effect), HELLO (a new session) or START. Returns the agent after it and the frames it sent."""
    key = (state.host, state.picture, state.inputs, item)
    if key not in _known:
        _known[key] = _step(state, item)
    return _known[key]


def _step(state: AgentState, item: bytes) -> tuple[AgentState, tuple[bytes, ...]]:
    loop = SimLoop(0, policy=Fifo())

    async def main() -> tuple[AgentState, tuple[bytes, ...]]:
        bench = _Bench(state.host, state.picture, loop)
        for each in state.inputs:
            await bench.give(each)
        before = len(bench.ear.sent)
        await bench.give(item)
        frames = tuple(_pack(frame) for frame in bench.ear.sent[before:])
        picture, doing = bench.picture(), bench.doing()
        bench.env.kill()
        if doing:
            return AgentState(state.host, state.picture, (*state.inputs, item), _pack([picture, doing]), True), frames
        return AgentState(state.host, picture, (), picture, False), frames

    return loop.run(main)


def machine_of(state: AgentState) -> dict[str, Any]:
    """What is on the host now."""
    picture = _unpack(state.view)
    values: dict[str, Any] = _unpack(picture[0])[0] if state.busy else picture[0]
    return values


def killed(state: AgentState) -> AgentState:
    """kill -9 and a new start: host and journal are as they are at this moment, everything else is gone."""
    picture = _unpack(state.view)
    machine, journal = _unpack(picture[0])[:2] if state.busy else picture[:2]
    return at_rest(state.host, machine, journal)
