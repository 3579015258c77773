"""Seeds in, broken invariants out: plans of work and faults, their runs, and their shrinking.

A `Plan` is data: what is asked of which server when, and what is broken when; it is drawn from the seed before the run, so the same plan can be run
again with entries left out. A run has three parts: chaos (the plan), calm (everything is started and healed, and given time), judgement (invariants
and the model). `shrink` drops entries while the same rule still breaks.
Same seed, same code: same trace hash.
"""
from __future__ import annotations

import asyncio
import random
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
from virga.sim.invariants import Broken, check_calm, check_rows
from virga.sim.loop import SimLoop
from virga.sim.world import BIG, SMALL, Snapshot, World, make_network

CALM_LIMIT_S = 1500.0
STEPS_MAX = 2_000_000


class Entry(msgspec.Struct, frozen=True):
    """One thing that happens: at `at` seconds, `what` to `whom`."""

    at: float
    what: str
    whom: str = ""
    value: float = 0.0


class Plan(msgspec.Struct):
    """A whole run as data."""

    seed: int
    kind: str
    servers: int = 5
    hosts: int = 2
    entries: list[Entry] = []


class Outcome(msgspec.Struct):
    """How a run ended. `broken` is the rule's sentence or ''. Times in virtual seconds."""

    seed: int
    hash: str
    broken: str = ""
    rule: str = ""
    states: dict[str, int] = {}
    virtual_s: float = 0.0
    steps: int = 0
    events: list[Event] = []


FAULTS = ("kill_controller", "kill_agent", "partition", "power_cut", "slow", "fail", "crash_guest", "duplicate")
CALLS = ("launch", "stop", "wire", "fetch", "create_disk", "resume", "undefine", "grow", "define", "rebuild_disk")
WORK = ("resize", "revert", "confirm", "migrate", "live_migrate", "stop", "start", "reboot", "pause", "unpause", "suspend", "resume", "rebuild",
        "delete", "boot", "write", "attach", "shelve", "unshelve", "shelve_offload")


def founding_plan(seed: int, *, faults: bool = True) -> Plan:
    """The founding case: resize all, revert all, with up to three things broken on the way."""
    rng = random.Random(seed)
    plan = Plan(seed, "founding", servers=5)
    if faults:
        for _ in range(rng.randrange(4)):
            plan.entries.extend(_fault(rng, rng.uniform(0.0, 1.0), [f"host-{n}" for n in (1, 2)]))
    plan.entries.sort(key=lambda entry: entry.at)
    return plan


def workload_plan(seed: int) -> Plan:
    """Random work on a few servers of three hosts with random faults."""
    rng = random.Random(seed)
    plan = Plan(seed, "workload", servers=3, hosts=3)
    at = 0.0
    for _ in range(rng.randrange(8, 30)):
        at += rng.expovariate(1 / 0.25)
        plan.entries.append(Entry(round(at, 3), rng.choice(WORK), str(rng.randrange(4)), rng.random()))
    for _ in range(rng.randrange(6)):
        plan.entries.extend(_fault(rng, rng.uniform(0.0, at), [f"host-{n}" for n in (1, 2, 3)]))
    plan.entries.sort(key=lambda entry: entry.at)
    return plan


def _fault(rng: random.Random, at: float, hosts: list[str]) -> list[Entry]:
    what, host, at = rng.choice(FAULTS), rng.choice(hosts), round(at, 3)
    back = round(at + rng.uniform(0.05, 5.0), 3)
    if what == "kill_controller":
        return [Entry(at, what), Entry(back, "start_controller")]
    if what in ("kill_agent", "power_cut"):
        return [Entry(at, what, host), Entry(back, "start_agent", host)]
    if what == "partition":
        return [Entry(at, what, host), Entry(back, "heal", host)]
    if what in ("fail", "slow"):
        return [Entry(at, f"{what}:{rng.choice(CALLS)}", host, rng.choice((1, 1, 2, 9)) if what == "fail" else rng.choice((0.05, 0.5, 40.0)))]
    if what == "crash_guest":
        return [Entry(at, what, host, rng.random())]
    return [Entry(at, what, host, 0.3)]


class Runner:
    """Runs one plan in one world. `model` remembers, per server, the markers its disk must hold."""

    def __init__(self, plan: Plan, snapshot: Snapshot | None, engine: type[Engine] = Engine, keep_events: bool = False) -> None:
        self.plan = plan
        self.world = World(plan.seed, plan.hosts, snapshot=snapshot, engine=engine,
                           script=Script(delay_s={"launch": 0.02, "stop": 0.02, "wire": 0.005, "fetch": 0.02, "resume": 0.002}))
        self.events: list[Event] = []
        if keep_events:
            self.world.trace.add_sink(self.events.append)
        self.markers: dict[str, list[bytes]] = {}
        self.saved: dict[str, list[bytes]] = {}

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
            self._write(server_id, b"before resize\n")
        await self._all(servers, "resize", RESIZED, lambda tx, ask, server: front.resize(tx, ask, server, BIG))
        await self._all(servers, "revert", ACTIVE, front.revert)

    async def _all(self, servers: list[str], word: str, state: str, what: Callable[..., Any]) -> None:
        """Ask for each until it is accepted, then wait until each is in `state`; what was undone is asked for again."""
        asked: set[str] = set()
        for _ in range(4000):
            left = False
            for server_id in servers:
                server = self.world.look(lambda tx, server_id=server_id: tx.need(Server, server_id))  # type: ignore[misc]
                if server.vm_state == ERROR or (server_id in asked and server.vm_state == state and server.task_state is None):
                    continue
                left = True
                if server.operation_id is None and not (server_id in asked and server.vm_state == state):
                    try:
                        await self.world.act(server_id, what)
                        asked.add(server_id)
                        if word == "revert":
                            self._remember_revert(server_id)
                    except (Problem, ConnectionError):
                        pass
            if not left:
                return
            await self.world.something_ends(0.5)

    def _remember_revert(self, server_id: str) -> None:
        """What the resized guest writes from here on is given up by the revert; what was there before must come back."""
        server = self.world.look(lambda tx: tx.need(Server, server_id))
        for name, machine in self.world.machines.items():
            if name == server.host:
                machine.write(server_id, b"written on the new host\n")

    # random work ----------------------------------------------------------------------------------------------------
    async def _happen(self, entry: Entry) -> None:
        world = self.world
        if entry.what in FAULTS or ":" in entry.what or entry.what in ("start_controller", "start_agent", "heal"):
            self._break(entry)
            return
        if entry.what == "boot":
            try:
                await world.boot()
            except (Problem, ConnectionError):
                pass
            return
        if not world.servers:
            return
        server_id = world.servers[int(entry.whom) % len(world.servers)]
        try:
            await self._work(entry, server_id)
        except (Problem, ConnectionError):
            pass  # refusals are right answers; what is accepted must end well

    async def _work(self, entry: Entry, server_id: str) -> None:
        world, what = self.world, entry.what
        if what == "write":
            self._write(server_id, f"marker {entry.at}\n".encode())
        elif what == "resize":
            server = world.look(lambda tx: tx.need(Server, server_id))
            flavor = BIG if server.flavor.id == SMALL.id else msgspec.structs.replace(BIG, id="3", name="huge", ram_mb=2048)
            await world.act(server_id, lambda tx, ask, server: front.resize(tx, ask, server, flavor))
            self.saved[server_id] = list(self.markers.get(server_id, []))
        elif what == "rebuild":
            await world.act(server_id, lambda tx, ask, server: front.rebuild(tx, ask, server, "image-1"))
            self.markers[server_id] = []
            self.saved.pop(server_id, None)
        elif what == "revert":
            await world.act(server_id, front.revert)
            # if the revert is undone the newer markers are still there; the older ones must be there either way
            self.markers[server_id] = self.saved.get(server_id, [])
        elif what == "reboot":
            await world.act(server_id, lambda tx, ask, server: front.reboot(tx, ask, server, entry.value < 0.5))
        elif what == "attach":
            nic = front.NicRequest(network_id="network-1")
            await world.act(server_id, lambda tx, ask, server: front.attach_interface(tx, ask, server, nic))
        elif what == "shelve":
            return
        else:
            names: dict[str, Callable[..., Any]] = {
                "confirm": front.confirm, "migrate": front.migrate, "live_migrate": front.live_migrate, "stop": front.stop, "start": front.start,
                "pause": front.pause, "unpause": front.unpause, "suspend": front.suspend, "resume": front.resume, "delete": front.delete,
                "unshelve": front.unshelve, "shelve_offload": front.shelve_offload}
            await world.act(server_id, names[what])
            if what == "migrate":
                self.saved[server_id] = list(self.markers.get(server_id, []))

    def _write(self, server_id: str, marker: bytes) -> None:
        """A guest writes to its disk, if it is at rest and running, so that the model knows the bytes."""
        server = self.world.look(lambda tx: tx.get(Server, server_id))
        if server is None or server.operation_id is not None or server.vm_state not in (ACTIVE, RESIZED) or server.host is None:
            return
        machine = self.world.machines[server.host]
        if machine.guests().get(server_id) == "running":
            machine.write(server_id, marker)
            self.markers.setdefault(server_id, []).append(marker)

    # faults ---------------------------------------------------------------------------------------------------------
    def _break(self, entry: Entry) -> None:
        world, what = self.world, entry.what
        script = world.machines[entry.whom].script if entry.whom in world.machines else None
        if what == "kill_controller":
            world.kill_controller()
        elif what == "start_controller":
            if world.controller is None:
                world.start_controller()
        elif what == "kill_agent":
            world.kill_agent(entry.whom)
        elif what == "start_agent":
            if entry.whom not in world.agents:
                world.start_agent(entry.whom)
        elif what == "power_cut":
            world.power_cut(entry.whom)
        elif what == "partition":
            world.partition(entry.whom, True)
        elif what == "heal":
            world.partition(entry.whom, False)
        elif what == "duplicate":
            world.weather[entry.whom].duplicate_share = entry.value
        elif what.startswith("fail:") and script is not None:
            script.fail[what[5:]] = int(entry.value)
        elif what.startswith("slow:") and script is not None:
            script.delay_s[what[5:]] = entry.value
        elif what == "crash_guest":
            guests = sorted(world.machines[entry.whom].guests())
            if guests:
                world.machines[entry.whom].crash(guests[int(entry.value * len(guests))])

    # calm and judgement ---------------------------------------------------------------------------------------------
    async def _calm(self, work: list[asyncio.Task[Any]]) -> None:
        world = self.world
        for name, machine in world.machines.items():
            machine.script.fail.clear()
            machine.script.delay_s = {"launch": 0.02, "stop": 0.02, "wire": 0.005}
            world.weather[name].duplicate_share = 0.0
            world.partition(name, False)
            if name not in world.agents:
                world.start_agent(name)
        if world.controller is None:
            world.start_controller()
        if work:
            async with asyncio.timeout(CALM_LIMIT_S):
                await asyncio.gather(*work)
        try:
            await world.settle(CALM_LIMIT_S)
        except TimeoutError:
            return  # the judgement names the operation that never ended
        await asyncio.sleep(0.5)
        if world.look(lambda tx: any(host.state != UP for host in tx.find(Host))) or self._unjudged():
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
        world = self.world
        self._judge_now()
        world.look(lambda tx: check_calm(tx, world.machines))
        states: dict[str, int] = {}
        for server_id in world.servers:
            server = world.look(lambda tx, server_id=server_id: tx.need(Server, server_id))  # type: ignore[misc]
            states[server.vm_state] = states.get(server.vm_state, 0) + 1
            if server.deleted_at is None and server.host in world.machines:
                disk = world.machines[server.host].disk(server_id) or b""
                for marker in self.markers.get(server_id, []):
                    if marker not in disk:
                        raise Broken("bytes-kept", f"server {server_id} has lost {marker!r} on {server.host}")
                if self.plan.kind == "founding" and server.vm_state == ACTIVE and b"written on the new host" in disk:
                    raise Broken("bytes-kept", f"server {server_id} was reverted but carries the new host's bytes")
        return states


def prepare(servers: int, hosts: int) -> Snapshot:
    """A cloud at rest with `servers` running servers, to begin runs from."""
    world = World(0, hosts)

    async def main() -> Snapshot:
        world.start()
        await world.hosts_up()
        await make_network(world)
        for _ in range(servers):
            await world.boot()
        await world.settle()
        await asyncio.sleep(1.0)
        world.stop()
        return world.snapshot()

    return SimLoop(0).run(main)


SNAPSHOTS: dict[tuple[int, int], Snapshot] = {}


def execute(plan: Plan, *, engine: type[Engine] = Engine, keep_events: bool = False) -> Outcome:
    """Run a plan from its start to its judgement."""
    key = (plan.servers, plan.hosts)
    if key not in SNAPSHOTS:
        SNAPSHOTS[key] = prepare(*key)
    runner = Runner(plan, SNAPSHOTS[key], engine, keep_events)
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

    loop.run(main)
    outcome.steps = loop.steps
    outcome.events = runner.events
    return outcome


def shrink(plan: Plan, rule: str, *, engine: type[Engine] = Engine, tries: int = 400) -> Plan:
    """The shortest plan found, by leaving entries out, that still breaks the same rule."""
    best = plan
    size = max(1, len(best.entries) // 2)
    while tries > 0:
        at = 0
        smaller = False
        while at < len(best.entries) and tries > 0:
            tries -= 1
            trial = msgspec.structs.replace(best, entries=best.entries[:at] + best.entries[at + size:])
            if execute(trial, engine=engine).rule == rule:
                best, smaller = trial, True
            else:
                at += size
        if size == 1 and not smaller:
            break
        size = max(1, size // 2)
    return best
