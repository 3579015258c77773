"""One run of one plan in one world: chaos as planned, then calm, then judgement by invariants and model.

Owns: `Runner`, `execute`, `prepare` and the snapshots runs begin from. Rules: a run takes nothing but its plan (and the code); every decision of a run
is drawn from the plan's seed, so the same plan gives the same trace hash. During the chaos what must hold at every moment is checked after every
entry; what must hold in the end is checked when everything has been mended and has had its time, and progress is demanded, not hoped for.
"""
from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from virga.agent.fake import Script
from virga.domain.errors import Problem
from virga.domain.placement import UP, Host
from virga.domain.server import ACTIVE, ERROR, RESIZED, Server
from virga.ops import front
from virga.ops.engine import Engine
from virga.runtime.trace import Event
from virga.sim.faults import USUAL_DELAYS_S, Breaker
from virga.sim.invariants import Broken, check_calm, check_rows
from virga.sim.loop import SimLoop
from virga.sim.model import EITHER, Model, check_answer, verdict
from virga.sim.people import Answer, Direct, Http, People, Request
from virga.sim.plan import Entry, Plan, is_fault
from virga.sim.policy import SimulationError
from virga.sim.world import BIG, Snapshot, World, furnish

CALM_LIMIT_S = 2500.0
STEPS_MAX = 2_000_000
PREPARE_SEED = 1 << 40  # of its own: ids drawn in a run must not be those of the servers it begins with


class Outcome(msgspec.Struct):
    """How a run ended. `broken` is the rule's sentence or ''. Times in virtual seconds. `points`: named places passed, if they were watched."""

    seed: int
    hash: str
    broken: str = ""
    rule: str = ""
    states: dict[str, int] = {}
    virtual_s: float = 0.0
    steps: int = 0
    events: list[Event] = []


class Runner:
    """Runs one plan in one world."""

    def __init__(self, plan: Plan, snapshot: Snapshot | None, engine: type[Engine] = Engine, keep_events: bool = False) -> None:
        self.plan = plan
        self.world = World(plan.seed, plan.hosts, snapshot=snapshot, engine=engine, script=Script(delay_s=dict(USUAL_DELAYS_S)))
        self.events: list[Event] = []
        if keep_events:
            self.world.trace.add_sink(self.events.append)
        self.breaker = Breaker(self.world)
        self._calm_seen = False
        self.people: People = Http(self.world) if plan.http else Direct(self.world, verdict)
        self.model = Model(self.world, quiet=not any(is_fault(entry) or entry.what == "reset_state" for entry in plan.entries))

    async def main(self) -> dict[str, int]:
        world = self.world
        world.start()
        await world.hosts_up()
        started = asyncio.get_running_loop().time()
        work = [world.env.spawn(self._founding(), "founding")] if self.plan.kind == "founding" else []
        for entry in self.plan.entries:
            await asyncio.sleep(max(0.0, started + entry.at - asyncio.get_running_loop().time()))
            await self._happen(entry)
            self._judge_now()
        await self._calm(work)
        return self._judge_calm()

    # the founding case ----------------------------------------------------------------------------------------------
    async def _founding(self) -> None:
        servers = self.world.servers
        for server_id in servers:
            self.model.write(server_id, b"before resize\n")
        await self._all(servers, RESIZED, lambda tx, ask, server: front.resize(tx, ask, server, BIG))
        for server_id in servers:
            self.model.write(server_id, b"written on the new host\n")
        await self._all(servers, ACTIVE, front.revert)

    async def _all(self, servers: list[str], state: str, what: Callable[..., Any]) -> None:
        """Ask for each until it is accepted, then wait until each is in `state`; what was undone is asked for again."""
        asked: set[str] = set()
        for _ in range(4000):
            left = False
            for server in self.world.look(lambda tx: tx.find(Server, id=servers)):
                if server.vm_state == ERROR or (server.id in asked and server.vm_state == state and server.task_state is None):
                    continue
                left = True
                if server.operation_id is None and not (server.id in asked and server.vm_state == state):
                    try:
                        await self.world.act(server.id, what)
                        asked.add(server.id)
                    except (Problem, ConnectionError):
                        pass
            if not left:
                return
            await self.world.something_ends(0.5)

    # random work ----------------------------------------------------------------------------------------------------
    async def _happen(self, entry: Entry) -> None:
        if is_fault(entry):
            await self._disturb(entry)
        elif entry.what == "boot" or entry.what.endswith("_host"):
            await self._ask(Request(entry.what, host=entry.whom, die=entry.value))
            self.world.know_servers()
        elif self.world.servers:
            server_id = self.world.servers[int(entry.whom) % len(self.world.servers)]
            if entry.what == "write":
                self.model.write(server_id, f"marker {entry.at}\n".encode())
            else:
                # the last two digits of the die say who asks: now and then somebody who is no administrator
                await self._ask(Request(entry.what, server_id, die=entry.value, admin=int(entry.value * 1000) % 5 != 0))

    async def _disturb(self, entry: Entry) -> None:
        """A fault, and the model's note of the guests it stops."""
        world = self.world
        before = {name: {key for key, state in machine.guests().items() if state not in ("stopped", "crashed")} for name, machine in world.machines.items()}
        await self.breaker.happen(entry)
        if entry.what in ("power_cut", "lose_host", "crash_guest"):
            after = world.machines[entry.whom].guests()
            self.model.crash(sorted(key for key in before[entry.whom] if after.get(key) in (None, "stopped", "crashed")))

    async def _ask(self, request: Request) -> None:
        """Ask, and hold the answer against the model's. A refusal only counts if nothing was written meanwhile: the rows are those judged."""
        world = self.world
        wanted = world.look(lambda tx: verdict(tx, request))
        changes = world.disk.changes()
        answer: Answer = await self.people.ask(request)
        if answer.wanted:
            wanted = answer.wanted
        elif answer.accepted or world.disk.changes() != changes:
            wanted = EITHER  # over HTTP the rows may have changed between the judgement and the answer
        world.look(lambda tx: check_answer(tx, request, wanted, answer))
        if request.what == "reset_state":
            self.model.reset(request.server_id, b"active" if request.die < 0.5 else b"error")

    # calm and judgement ---------------------------------------------------------------------------------------------
    async def _calm(self, work: list[asyncio.Task[Any]]) -> None:
        world = self.world
        await self.breaker.mend_all()
        if work:
            async with asyncio.timeout(CALM_LIMIT_S):
                await asyncio.gather(*work)
        try:
            await world.settle(CALM_LIMIT_S)
        except TimeoutError:
            return  # the judgement names the operation that never ended
        await asyncio.sleep(0.5)
        self._calm_seen = not world.look(lambda tx: any(host.state != UP for host in tx.find(Host))) and not self._unjudged()
        if not self._calm_seen:
            await asyncio.sleep(150.0)  # reconnects, rewiring, reconcilers
            await world.settle(CALM_LIMIT_S)

    def _unjudged(self) -> bool:
        try:
            self.world.look(lambda tx: check_calm(tx, self.world.machines))
        except Broken:
            return True
        return False

    def _judge_now(self) -> None:
        if self.world.watch.broken is not None:
            raise self.world.watch.broken
        self.world.look(check_rows)

    def _judge_calm(self) -> dict[str, int]:
        self.world.know_servers()
        self._judge_now()
        if not self._calm_seen:  # else nothing has happened since it was judged
            self.world.look(lambda tx: check_calm(tx, self.world.machines))
        return self.model.judge()


def prepare(servers: int, hosts: int, store: str = "memory") -> Snapshot:
    """A cloud at rest with `servers` running servers, to begin runs from."""
    world = World(PREPARE_SEED, hosts, store=store)

    async def main() -> Snapshot:
        world.start()
        await world.hosts_up()
        await furnish(world)
        for _ in range(servers):
            await world.boot()
        await world.settle()
        await asyncio.sleep(1.0)
        world.stop()
        return world.snapshot()

    return SimLoop(PREPARE_SEED).run(main)


SNAPSHOTS: dict[tuple[int, int, str], Snapshot] = {}


def snapshot_of(servers: int, hosts: int, store: str = "memory") -> Snapshot:
    """The prepared cloud of this size, made once a process and engine of the store."""
    key = (servers, hosts, store)
    if key not in SNAPSHOTS:
        SNAPSHOTS[key] = prepare(*key)
    return SNAPSHOTS[key]


def execute(plan: Plan, *, engine: type[Engine] = Engine, keep_events: bool = False, store: str = "memory") -> Outcome:
    """Run a plan from its start to its judgement. `store` is the database's engine: the outcome is the same with each."""
    runner = Runner(plan, snapshot_of(plan.servers, plan.hosts, store), engine, keep_events)
    loop = SimLoop(plan.seed, max_steps=STEPS_MAX)
    outcome = Outcome(plan.seed, "")

    async def main() -> None:
        try:
            outcome.states = await runner.main()
        except Broken as broken:
            outcome.rule, outcome.broken = broken.rule, str(broken)
        except TimeoutError:
            outcome.rule, outcome.broken = "operations-end", "the work did not end within the calm"
        finally:
            outcome.virtual_s = loop.time()
            outcome.hash = runner.world.trace.hash()
            runner.world.stop()

    try:
        loop.run(main)
    except SimulationError as error:
        outcome.rule, outcome.broken = "comes-to-rest", str(error)
    runner.world.give_back()
    outcome.steps = loop.steps
    outcome.events = runner.events
    return outcome
