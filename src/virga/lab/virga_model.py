"""Virga's revert as a model without time: the real operations, hub and agents, in every order of frames, effects and looks, with one crash.

Owns: `State` (rows, two agents, what is under way on their links, whether the engine has been told to look) and its moves. Nothing is modelled that can be
called: the request is ops/front.revert, a look is ops/engine.advance, a report is taken in by fabric/hub, an agent's effect is done by agent/guest over
the fake drivers (agent_steps.py). Only the carrying of frames and hints is this file's.
Rules: links keep their order, as a websocket does, and lose everything when an end dies. Hints may be late but not lost without a crash; after a
controller's death its successor scans. Deadlines never fire: a wait that nothing ends is an ending of its own, and would be the hang.
"""
from __future__ import annotations

from typing import NamedTuple

import msgspec

from virga.domain.ask import Ask
from virga.domain.operation import OPEN, PENDING, Command, Operation
from virga.domain.port import BOUND, Binding, Port, Wiring
from virga.domain.row import Row
from virga.domain.server import Server
from virga.fabric import hub
from virga.fabric.wire import Do, Forget, Frame, Hello, Report
from virga.lab import agent_steps
from virga.lab.agent_steps import GO, HELLO, START, AgentState
from virga.lab.memory_tx import MemoryTx, Rows
from virga.ops import engine, front
from virga.runtime.env import SIM_EPOCH_S, sim_env
from virga.sim.loop import SimLoop
from virga.sim.world import BIG, PROJECT, USER, World, furnish

SOURCE, DEST = "host-1", "host-2"
HOSTS = (SOURCE, DEST)
_pack = msgspec.msgpack.Encoder(order="deterministic").encode
_frames = msgspec.msgpack.Decoder(Frame)


class Line(NamedTuple):
    """One host's link: frames towards it, frames from it, and the commands the hub has sent in this session."""

    down: tuple[bytes, ...] = ()
    up: tuple[bytes, ...] = ()
    sent: frozenset[str] = frozenset()


class State(NamedTuple):
    """See the module. `rows` and `agents` are keys into the model's own tables, so that states are small."""

    rows: bytes
    agents: tuple[bytes, bytes]
    lines: tuple[Line, Line]
    dirty: bool
    crashed: str = ""
    broken: str = ""


def resized(ports: int) -> tuple[Rows, dict[str, AgentState]]:
    """One server booted and resized by the real cloud, everything at rest: rows and hosts."""
    world = World(0, 2)

    async def main() -> tuple[Rows, dict[str, AgentState]]:
        world.start()
        await world.hosts_up()
        await furnish(world)
        server_id = await world.boot(ports=ports)
        await world.settle()
        await world.act(server_id, lambda tx, ask, server: front.resize(tx, ask, server, BIG))
        await world.settle()
        await world.env.sleep(1.0)
        tables = world.look(lambda tx: {
            kind: {tuple(getattr(row, name) for name in kind.__key__): row for row in tx.find(kind)} for kind in _kinds()})
        world.stop()
        hosts = {name: agent_steps.at_rest(name, dict(machine.journal.values), dict(world.journals[name].values))
                 for name, machine in world.machines.items()}
        return Rows(tables), hosts

    return SimLoop(0).run(main)


def _kinds() -> list[type[Row]]:
    from virga.domain import network, operation, placement, port, server

    wanted = (server.Server, server.Flavor, port.Port, port.Binding, port.Wiring, port.IpAllocation, port.MacAllocation, operation.Operation, operation.Step,
              operation.Command, operation.Guest, operation.Migration, operation.Counter, placement.Host, placement.Claim, network.Network)
    return list(wanted)


class Model:
    """One server, `ports` ports, at most `crashes` (0 or 1) crashes."""

    def __init__(self, ports: int, crashes: int) -> None:
        self.crashes = crashes
        self.env = sim_env(0, "search")
        self.config = World(0, 0).config
        self._rows: dict[bytes, Rows] = {}
        self._agents: dict[bytes, AgentState] = {}
        self._looks: dict[bytes, tuple[bytes, bool]] = {}
        self._taken: dict[tuple[bytes, int, bytes], tuple[bytes, bool]] = {}
        rows, hosts = resized(ports)
        self.server_id = next(iter(rows.tables[Server]))[0]
        self.start = self._begin(rows, hosts)

    # rows -----------------------------------------------------------------------------------------------------------
    def _tx(self, rows: bytes) -> MemoryTx:
        return MemoryTx(self._rows[rows], self.env, SIM_EPOCH_S)

    def _keep(self, tx: MemoryTx) -> bytes:
        rows = tx.done()
        return self._rows.setdefault(rows.key, rows).key

    def _hold(self, agent: AgentState) -> bytes:
        self._agents.setdefault(agent.view, agent)
        return agent.view

    def _begin(self, rows: Rows, hosts: dict[str, AgentState]) -> State:
        """Both agents connected and taken in; then the user asks for the revert."""
        self._rows[rows.key] = rows
        state = State(rows.key, (self._hold(hosts[SOURCE]), self._hold(hosts[DEST])), (Line(), Line()), False)
        for place in (0, 1):
            state = self._give(state, place, START)
            while state.lines[place].up:
                state = self._take_in(state, place)
        tx = self._tx(state.rows)
        front.revert(tx, Ask(self.config, PROJECT, USER, "req-lab", is_admin=True), tx.need(Server, self.server_id))
        return self._send_due(state._replace(rows=self._keep(tx), dirty=True))

    # moves ----------------------------------------------------------------------------------------------------------
    def moves(self, state: State) -> list[tuple[str, State]]:
        if state.broken:
            return []
        found: list[tuple[str, State]] = []
        if state.dirty:
            found.append(("the engine looks", self._look(state)))
        for place, host in enumerate(HOSTS):
            line, agent = state.lines[place], self._agents[state.agents[place]]
            if line.down:
                frame = _frames.decode(line.down[0])
                name = f"{host} gets {frame.verb}" if isinstance(frame, Do) else f"{host} gets {type(frame).__name__}"
                found.append((name, self._give(self._with_line(state, place, line._replace(down=line.down[1:])), place, line.down[0])))
            if agent.busy:
                found.append((f"{host} does its next effect", self._give(state, place, GO)))
            if line.up:
                found.append((f"the hub takes in a report of {host}", self._take_in(state, place)))
        if found and self.crashes and not state.crashed:
            found.append(("kill -9 of the controller, and a new one", self._controller_dies(state)))
            found += [(f"kill -9 of the agent of {host}, and a new one", self._agent_dies(state, place)) for place, host in enumerate(HOSTS)]
        return found

    def verdict(self, state: State) -> str:
        """How a run that ends here has ended; '' is well: ACTIVE on the source with old flavor, wired, one running copy, no disk elsewhere."""
        if state.broken:
            return state.broken
        tx = self._tx(state.rows)
        for op in tx.find(Operation, state=list(OPEN)):
            return f"hang: {op.waiting or op.kind}"
        server = tx.need(Server, self.server_id)
        if (server.vm_state, server.task_state, server.host) != ("active", None, SOURCE):
            return f"ended as {server.vm_state} on {server.host}" + (f": {server.fault.message}" if server.fault else "")
        source, dest = (agent_steps.machine_of(self._agents[view]) for view in state.agents)
        if source.get("vm/" + server.id) != "running" or "vm/" + server.id in dest or "disk/" + server.id in dest:
            return "a guest is not where the rows say"
        for port in tx.find(Port, device_id=server.id):
            binding, wiring = tx.one(Binding, port_id=port.id, state=BOUND), tx.get(Wiring, port.id, SOURCE)
            if binding is None or binding.host != SOURCE or wiring is None or not wiring.wired or wiring.generation != binding.generation:
                return "a port is not wired where its server is"
        return ""

    def _with_line(self, state: State, place: int, line: Line) -> State:
        return state._replace(lines=(line, state.lines[1]) if place == 0 else (state.lines[0], line))

    def _with_agent(self, state: State, place: int, agent: AgentState) -> State:
        key = self._hold(agent)
        state = state._replace(agents=(key, state.agents[1]) if place == 0 else (state.agents[0], key))
        return state._replace(broken=self._broken(state))

    def _broken(self, state: State) -> str:
        """What must be true at every moment of the machines."""
        hosts = [agent_steps.machine_of(self._agents[view]) for view in state.agents]
        guest, disk = "vm/" + self.server_id, "disk/" + self.server_id
        if all(host.get(guest) == "running" for host in hosts):
            return "two running copies"
        if not any(disk in host for host in hosts):
            return "the last disk is gone"
        for host in hosts:
            taps = [name for name in host if name.startswith("tap/")]
            if host.get(guest) == "running" and len(taps) < self.ports_count():
                return "a guest runs on a port that is not wired"
        return ""

    def ports_count(self) -> int:
        return len(next(iter(self._rows.values())).tables[Port])

    def _give(self, state: State, place: int, item: bytes) -> State:
        agent, frames = agent_steps.step(self._agents[state.agents[place]], item)
        line = state.lines[place]
        return self._with_agent(self._with_line(state, place, line._replace(up=line.up + frames)), place, agent)

    def _look(self, state: State) -> State:
        if state.rows not in self._looks:
            tx = self._tx(state.rows)
            for op in tx.find(Operation, state=list(OPEN)):
                engine.advance(tx, self.config, op)
            again = any(hint.startswith("op:") for hint in tx.hints)
            self._looks[state.rows] = (self._keep(tx), again)
        rows, again = self._looks[state.rows]
        return self._send_due(state._replace(rows=rows, dirty=again and rows != state.rows))

    def _send_due(self, state: State) -> State:
        """The hub sends what is due right after the commit; how late it comes is the link's affair."""
        tx = self._tx(state.rows)
        for place, host in enumerate(HOSTS):
            commands = tx.find(Command, host=host, state=PENDING, sort=[("number", False)])
            line = state.lines[place]
            pending = {command.id for command in commands}
            frames: list[Frame] = [Forget(sorted(line.sent - pending))] if line.sent - pending else []
            frames += [Do(each.id, each.verb, each.server_id, each.epoch, each.args) for each in commands if each.id not in line.sent]
            if frames:
                state = self._with_line(state, place, Line(line.down + tuple(map(_pack, frames)), line.up, frozenset(pending)))
        return state

    def _take_in(self, state: State, place: int) -> State:
        line = state.lines[place]
        key = (state.rows, place, line.up[0])
        if key not in self._taken:
            tx, frame = self._tx(state.rows), _frames.decode(line.up[0])
            if isinstance(frame, Hello):
                hub._says_hello(tx, frame)
                hub._note(tx, frame.host, frame.guests, frame.wirings, frame.results, whole=True)
                hub._absent_rest(tx, frame)
            elif isinstance(frame, Report):
                hub._note(tx, HOSTS[place], frame.guests, frame.wirings, frame.results)
            hinted = any(hint.partition(":")[0] in ("op", "server", "host") for hint in tx.hints)
            self._taken[key] = (self._keep(tx), hinted)
        rows, hinted = self._taken[key]
        state = self._with_line(state, place, line._replace(up=line.up[1:]))
        return self._send_due(state._replace(rows=rows, dirty=state.dirty or hinted))

    # crashes --------------------------------------------------------------------------------------------------------
    def _controller_dies(self, state: State) -> State:
        """Frames, hints and sessions are gone; rows stay. The new controller takes every host for down, scans, and hears Hello from all."""
        tx = self._tx(state.rows)
        hub._all_down(tx)
        state = state._replace(rows=self._keep(tx), lines=(Line(), Line()), dirty=True, crashed="the controller")
        for place in (0, 1):
            state = self._give(state, place, HELLO)
        return state

    def _agent_dies(self, state: State, place: int) -> State:
        tx = self._tx(state.rows)
        hub._goes_down(tx, HOSTS[place])
        state = self._with_line(state._replace(rows=self._keep(tx), dirty=True, crashed=f"the agent of {HOSTS[place]}"), place, Line())
        state = self._with_agent(state, place, agent_steps.killed(self._agents[state.agents[place]]))
        return self._give(state, place, START)
