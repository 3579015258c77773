"""The Kilo revert as a model without time: every order of calls, polls, reads, deliveries and one crash.

Owns: `State` (one server with one or two ports, at the moment its revert is accepted) and `moves` (all that can happen next). What an agent's call does to a
port, which change sends an event, whom it is sent to, and what an era does in which order come from kilo_rules, the same functions the timed simulation
calls.
Rules: anything may be late by any amount, except that the wait's deadline comes only when nothing else can happen any more (300 s against seconds); a
wait that meets it is a hang, and is named a circular wait when it waits for a report of a host the port will be bound to only after the wait.
Granularity, and why nothing is missed by it: docs/exhaustive.md.
"""
from __future__ import annotations

from typing import NamedTuple, TypeVar

from virga.lab import kilo_rules as rules
from virga.lab.kilo_rules import Rules

A, B = "host_A", "host_B"
IDLE, DEAD, FAILED = -1, -2, -3
E = TypeVar("E")


class Agent(NamedTuple):
    """A linuxbridge agent: taps it saw last time, calls still to make, ports named in a port_update, whether it takes every tap for new."""

    seen: frozenset[int]
    todo: tuple[tuple[str, int], ...] = ()
    updated: frozenset[int] = frozenset()
    resync: bool = False


class State(NamedTuple):
    """Everything that matters of one revert. Ports are numbered from 0."""

    b: int  # place in host_B's program
    cast: bool  # finish_revert_resize is under way to host_A
    a: int  # place in host_A's program
    read: tuple[bool, ...]  # vif.active as read; empty before
    waiting: frozenset[int]  # registered and not delivered
    guest: str  # on host_A: absent, paused, running
    taps_a: bool
    taps_b: bool
    bridged: frozenset[int]  # on host_A
    agent_a: Agent
    agent_b: Agent
    status: tuple[str, ...]
    bound: tuple[str, ...]
    host: str  # what the server's row says
    events: tuple[tuple[int, str], ...]  # plugged events under way: (port, host it was routed to or '')
    fanout: tuple[tuple[str, int], ...]  # port_update casts under way
    vm: str = "reverting"
    crashed: str = ""
    hang: str = ""
    unwired: bool = False  # the guest has run on host_A before all its ports were bridged
    disk_lost: bool = False


class Model:
    """One era, `ports` ports, at most `crashes` (0 or 1) crashes."""

    def __init__(self, era: Rules, ports: int, crashes: int) -> None:
        self.rules, self.ports, self.crashes = era, tuple(range(ports)), crashes
        rebinds = [f"rebind {port}" for port in self.ports]
        before = {rules.FIRST: ["take back", *rebinds, "read"], rules.IN_SETUP: ["read", "take back", *rebinds], rules.LAST: ["read", "take back"]}
        self.program = (*before[era.rebind], "start", "wait", *(rebinds if era.rebind == rules.LAST else ()), "final save")
        self.wait_at = self.program.index("wait")

    def starts(self) -> list[State]:
        """The revert is accepted; each port is ACTIVE on host_B, or its tap there has not been looked at yet (trigger ii)."""
        made = []
        for pattern in range(2 ** len(self.ports)):
            seen = frozenset(port for port in self.ports if not pattern >> port & 1)
            status = tuple(rules.ACTIVE if port in seen else rules.DOWN for port in self.ports)
            made.append(State(0, False, IDLE, (), frozenset(), "absent", False, True, frozenset(), Agent(frozenset()), Agent(seen), status,
                              (B,) * len(self.ports), B, (), ()))
        return made

    # all that can happen --------------------------------------------------------------------------------------------
    def moves(self, state: State) -> list[tuple[str, State]]:
        found = [*self._manager_b(state), *self._manager_a(state), *self._agent(state, A), *self._agent(state, B), *self._messages(state)]
        if not found and 0 <= state.a < len(self.program) and self.program[state.a] == "wait" and state.waiting:
            return [self._deadline(state)]
        if found and self.crashes and not state.crashed:
            found += self._crashes(state)
        return found

    def verdict(self, state: State) -> str:
        """How a run that ends here has ended; '' is well."""
        if state.hang:
            return state.hang
        if state.vm != "active":
            return "stuck: nobody goes on" + (f" after {state.crashed} was killed" if state.crashed else "")
        if len(state.bridged) < len(self.ports):
            return "ACTIVE without network"
        if any(each != rules.ACTIVE for each in state.status):
            return "server ACTIVE, its port not"
        return "guest ran before its port was wired" if state.unwired else ""

    # the two compute managers ---------------------------------------------------------------------------------------
    def _manager_b(self, state: State) -> list[tuple[str, State]]:
        if state.b == 0:
            return [("host_B destroys the guest, its tap goes", state._replace(b=1, taps_b=False))]
        if state.b == 1:
            return [("host_B casts finish_revert_resize", state._replace(b=2, cast=True))]
        return []

    def _manager_a(self, state: State) -> list[tuple[str, State]]:
        if state.cast and state.a == IDLE:
            return [("host_A takes finish_revert_resize", state._replace(cast=False, a=0))]
        if not 0 <= state.a < len(self.program):
            return []
        word, _, number = self.program[state.a].partition(" ")
        on = state._replace(a=state.a + 1)
        if word == "read":
            read = tuple(rules.vif_active(status) for status in state.status)
            return [(f"host_A reads {', '.join(state.status)}", on._replace(read=read))]
        if word == "take":
            return [("host_A writes itself as the server's host", on._replace(host=A))]
        if word == "rebind":
            return [(f"port {number} is bound to host_A", self._rebound(on, int(number)))]
        if word == "start":
            wanted = frozenset(port for port in self.ports if not state.read[port]) if self.rules.waits_on_revert else frozenset()
            if not wanted:
                started = on._replace(a=state.a + 2, guest="running", taps_a=True, events=())
                return [("the guest is started running, its tap appears", _look(started, self.ports))]
            name = f"{len(wanted)} waiter{'s' if len(wanted) > 1 else ''} registered, the guest is started paused, its tap appears"
            return [(name, on._replace(waiting=wanted, guest="paused", taps_a=True))]
        if word == "wait":  # what is under way for a waiter is of no use to anybody from here on
            return [] if state.waiting else [("the wait is over, the guest runs", _look(on._replace(guest="running", events=()), self.ports))]
        return [("host_A saves vm_state ACTIVE", on._replace(vm="active"))]

    def _rebound(self, state: State, port: int) -> State:
        status = rules.status_after_rebind(self.rules, state.status[port], state.bound[port], A)
        if state.bound[port] == A:
            return state
        state = self._with_status(state._replace(bound=_put(state.bound, port, A)), port, status)
        # host_B's tap is gone for good by now, and a port_update for a tap that is not there is forgotten: only host_A's copy can matter
        return state._replace(fanout=tuple(sorted([*state.fanout, (A, port)])))

    def _deadline(self, state: State) -> tuple[str, State]:
        """Nothing else can happen: the wait's timeout."""
        pending = [port for port in state.waiting if state.bound[port] != A]
        circular = pending and f"rebind {pending[0]}" in self.program[state.a:]
        state = state._replace(hang="circular wait" if circular else "wait for an event that was lost", waiting=frozenset(), events=())
        if not self.rules.fatal:
            return "deadline: goes on all the same", _look(state._replace(a=state.a + 1, guest="running"), self.ports)
        return "deadline: guest destroyed, ERROR", state._replace(a=FAILED, guest="absent", taps_a=False, vm="error",
                                                                  disk_lost=self.rules.failed_plug_deletes_disks)

    # agents ---------------------------------------------------------------------------------------------------------
    def _agent(self, state: State, host: str) -> list[tuple[str, State]]:
        agent = state.agent_a if host == A else state.agent_b
        taps = frozenset(self.ports) if (state.taps_a if host == A else state.taps_b) else frozenset()
        if not agent.todo:
            added = taps if agent.resync else taps - agent.seen
            updated = (agent.updated & taps) - added
            removed = agent.seen - taps
            if not (added or updated or removed or agent.updated or agent.resync):
                return []
            mine = sorted(added | updated)
            calls = [("details", sum(1 << port for port in mine))] if mine else []
            calls += [(word, port) for port in mine for word in (("bridge", "up") if host == A else ("up",))]
            calls += [("down", port) for port in sorted(removed)]
            return [(f"agent of {host} looks at its taps", _with_agent(state, host, Agent(taps, tuple(calls))))]
        (word, port), rest = agent.todo[0], agent.todo[1:]
        state = _with_agent(state, host, agent._replace(todo=rest))
        return [self._call(state, host, word, port, port in taps)]

    def _call(self, state: State, host: str, word: str, port: int, present: bool) -> tuple[str, State]:
        """One call of an agent arrives; for details, `port` is a set of ports as bits."""
        if word == "details":
            caller = host if self.rules.details_tell_host else None
            for each in self.ports:
                if port >> each & 1:
                    state = self._with_status(state, each, rules.status_after_details(state.status[each], state.bound[each], caller))
            return f"{host} asks for its ports' details", state
        status, bound = state.status[port], state.bound[port]
        if word == "bridge":
            if present:
                state = _look(state._replace(bridged=state.bridged | {port}), self.ports)
            return f"agent of {host} bridges the tap of port {port}", state
        if word == "down":
            return f"update_device_down({host}), port {port}", self._with_status(state, port, rules.status_after_down(status, bound, host))
        if not present:
            return f"agent of {host} finds port {port} gone", state
        state = self._with_status(state, port, rules.status_after_up(status, bound, host))
        if not rules.port_bound_to_host(bound, host) and self.rules.unbound_up_notifies and self._matters(state):
            state = state._replace(events=tuple(sorted([*state.events, (port, "")])))
        return f"update_device_up({host}), port {port}", state

    def _with_status(self, state: State, port: int, status: str) -> State:
        if rules.event_of(state.status[port], status) == rules.PLUGGED and self._matters(state):
            state = state._replace(events=tuple(sorted([*state.events, (port, "")])))
        return state._replace(status=_put(state.status, port, status))

    def _matters(self, state: State) -> bool:
        """Whether anybody waits for a plugged event now or later."""
        return self.rules.waits_on_revert and IDLE <= state.a <= self.wait_at

    # messages and crashes -------------------------------------------------------------------------------------------
    def _messages(self, state: State) -> list[tuple[str, State]]:
        found = []
        for entry in dict.fromkeys(state.events):
            port, host = entry
            left = _without(state.events, entry)
            if not host:
                routed = [(port, each) for each in rules.hosts_of_event(self.rules, state.host, A, B, state.vm == "reverting")]
                found.append((f"plugged event of port {port} is sent to {state.host}", state._replace(events=tuple(sorted([*left, *routed])))))
            else:
                waiting = state.waiting - {port} if host == A else state.waiting
                found.append((f"plugged event of port {port} reaches {host}", state._replace(events=left, waiting=waiting)))
        for cast in dict.fromkeys(state.fanout):
            host, port = cast
            agent = state.agent_a if host == A else state.agent_b
            after = _with_agent(state._replace(fanout=_without(state.fanout, cast)), host, agent._replace(updated=agent.updated | {port}))
            found.append((f"port_update of port {port} reaches {host}", after))
        return found

    def _crashes(self, state: State) -> list[tuple[str, State]]:
        found = []
        if state.b < 2:
            found.append(("kill -9 of nova-compute on host_B", state._replace(b=DEAD, crashed="nova-compute on host_B")))
        if 0 <= state.a < len(self.program):
            found.append(("kill -9 of nova-compute on host_A", state._replace(a=DEAD, waiting=frozenset(), crashed="nova-compute on host_A")))
        for host in (A, B):
            fresh = Agent(frozenset(), resync=True)
            found.append((f"kill -9 of the agent of {host}, and its restart", _with_agent(state._replace(crashed=f"the agent of {host}"), host, fresh)))
        if any(not host for _, host in state.events):
            left = tuple(entry for entry in state.events if entry[1])
            found.append(("kill -9 of the network server with a batch unsent", state._replace(events=left, crashed="the network server")))
        return found


def _look(state: State, ports: tuple[int, ...]) -> State:
    """Note a guest that runs on a port not bridged."""
    return state._replace(unwired=True) if state.guest == "running" and len(state.bridged) < len(ports) else state


def _with_agent(state: State, host: str, agent: Agent) -> State:
    return state._replace(agent_a=agent) if host == A else state._replace(agent_b=agent)


def _put(values: tuple[str, ...], place: int, value: str) -> tuple[str, ...]:
    return (*values[:place], value, *values[place + 1:])


def _without(values: tuple[E, ...], entry: E) -> tuple[E, ...]:
    place = values.index(entry)
    return values[:place] + values[place + 1:]
