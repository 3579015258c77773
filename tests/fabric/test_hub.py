"""The hub: facts in, commands out. What is stale, doubled, forged or too much must not reach the rows."""
from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from virga.domain.config import Config
from virga.domain.operation import COMMAND_DONE, COMMAND_FAILED, OBSOLETE, Command, Guest
from virga.domain.placement import Host
from virga.domain.port import Binding, Wiring
from virga.fabric.hub import BATCH_REPORTS_MAX, IN_FLIGHT_MAX, Hub, Unanswered
from virga.fabric.wire import Ack, Answer, Do, Forget, GuestFact, Hello, Query, Report, Result, Welcome, WiringFact
from virga.ops.bindings import drop_binding
from virga.runtime.env import sim_env
from virga.runtime.trace import Trace
from virga.sim.loop import SimLoop
from virga.store.db import SimDb

INVENTORY = {"vcpus": 8, "ram_mb": 1024, "disk_gb": 10, "hypervisor_type": "fake", "hypervisor_version": 1}


class Wire:
    """A host's end of a link, in the test's hands."""

    def __init__(self, hub: Hub) -> None:
        self.sent: list[Any] = []
        self.open = True
        hub.attach(self)

    def start(self, receive: Callable[[Any], None], closed: Callable[[], None]) -> None:
        self.receive, self.closed = receive, closed

    def send(self, frame: Any) -> None:
        self.sent.append(frame)

    def close(self) -> None:
        if self.open:
            self.open = False
            self.closed()

    def of(self, kind: type[Any]) -> list[Any]:
        return [frame for frame in self.sent if isinstance(frame, kind)]


class House:
    """A hub over a database, on virtual time."""

    def __init__(self) -> None:
        self.env = sim_env(1)
        self.trace = Trace(self.env.now)
        self.db = SimDb(self.env, self.trace)
        self.hub = Hub(self.env, self.db, self.trace, Config())

    async def connect(self, host: str = "h1", **more: Any) -> Wire:
        wire = Wire(self.hub)
        wire.receive(hello(host, **more))
        await self.rest()
        return wire

    async def rest(self) -> None:
        await self.env.sleep(0.01)

    async def get(self, kind: type[Any], *key: Any) -> Any:
        return await self.db.read(lambda tx: tx.get(kind, *key))

    async def bind(self, port_id: str, host: str, generation: int = 1) -> None:
        await self.db.run(lambda tx: tx.put(Binding(port_id, host, generation)))

    async def queue(self, number: int, host: str = "h1", **more: Any) -> None:
        def closure(tx: Any) -> None:
            tx.put(Command(f"c{number}", host, "stop", "s", "op", "act", 1, number=number, **more))
            tx.hint("outbox:" + host)

        await self.db.run(closure)
        await self.rest()


def hello(host: str, guests: list[GuestFact] | None = None, wirings: list[WiringFact] | None = None, results: list[Result] | None = None) -> Hello:
    return Hello(host, "id-" + host, "boot", INVENTORY, {}, "127.0.0.1", guests or [], wirings or [], results or [])


def hub_test(story: Callable[[House], Awaitable[None]]) -> Callable[[], None]:
    def test() -> None:
        async def main() -> None:
            house = House()
            house.env.spawn(house.hub.run(), "hub")
            await story(house)
            house.env.kill()

        SimLoop(3).run(main)

    test.__name__, test.__doc__ = story.__name__, story.__doc__
    return test


@hub_test
async def test_a_hello_makes_the_host_and_is_welcomed(house: House) -> None:
    wire = await house.connect()
    host = await house.get(Host, "h1")
    assert (host.state, host.vcpus, host.session) == ("up", 8, 1)
    assert wire.of(Welcome)[0].session == 1 and wire.of(Ack)[0].number == 0
    wire.close()
    await house.rest()
    assert (await house.get(Host, "h1")).state == "down"


@hub_test
async def test_an_older_fact_never_overwrites_a_newer_one(house: House) -> None:
    await house.bind("p", "h1", 2)
    wire = await house.connect()
    wire.receive(Report(1, [GuestFact("s", "running", 1, True, 7)], [WiringFact("p", "s", 2, True, 8)]))
    wire.receive(Report(2, [GuestFact("s", "stopped", 1, True, 5)], [WiringFact("p", "s", 2, False, 6)]))
    await house.rest()
    assert (await house.get(Guest, "s", "h1")).state == "running"
    assert (await house.get(Wiring, "p", "h1")).wired
    assert house.hub.stale_facts == 2
    assert [ack.number for ack in wire.of(Ack)] == [0, 1, 2]


@hub_test
async def test_a_hello_is_the_whole_picture(house: House) -> None:
    """What it does not name is gone, and its revisions count anew: the agent may have forgotten its own."""
    await house.bind("p1", "h1")
    wire = await house.connect(guests=[GuestFact("s1", "running", 1, True, 90), GuestFact("s2", "running", 1, True, 91)],
                               wirings=[WiringFact("p1", "s1", 1, True, 92)])
    wire.close()
    await house.rest()
    await house.connect(guests=[GuestFact("s1", "stopped", 1, True, 1)])
    assert (await house.get(Guest, "s1", "h1")).state == "stopped"
    gone = await house.get(Guest, "s2", "h1")
    assert (gone.state, gone.disk, gone.revision) == ("absent", False, 0)
    assert not (await house.get(Wiring, "p1", "h1")).wired


@hub_test
async def test_a_host_speaks_only_of_itself(house: House) -> None:
    """Facts are filed under the session's host, and a result counts only for a command that was that host's."""
    first, second = await house.connect("h1"), await house.connect("h2")
    await house.queue(1, "h1")
    second.receive(Report(1, [GuestFact("s", "running", 1, True, 1)], [], [Result("c1", True)]))
    await house.rest()
    assert await house.get(Guest, "s", "h1") is None
    assert (await house.get(Guest, "s", "h2")).state == "running"
    assert (await house.get(Command, "c1")).state == "pending"
    assert len(first.of(Do)) == 1


@hub_test
async def test_a_host_cannot_speak_of_ports_that_were_never_bound_to_it(house: House) -> None:
    """Not in a report, not in a Hello; and what it says of a port that was another host's leaves that host's fact alone."""
    first = await house.connect("h1")
    await house.bind("p", "h1", 4)
    first.receive(Report(1, [], [WiringFact("p", "s", 4, True, 1)]))
    liar = await house.connect("h2", wirings=[WiringFact("p", "s", 4, False, 9)])
    liar.receive(Report(1, [], [WiringFact("p", "s", 5, False, 10), WiringFact("other", "s", 1, True, 11)]))
    await house.rest()
    assert (await house.get(Wiring, "p", "h1")).wired
    assert await house.get(Wiring, "p", "h2") is None and await house.get(Wiring, "other", "h2") is None
    assert liar.of(Ack)[-1].number == 1, "said is said: it need not be repeated"


@hub_test
async def test_a_fact_about_a_port_whose_binding_was_dropped_leaves_no_row(house: House) -> None:
    wire = await house.connect("h1")
    await house.bind("p", "h1")
    wire.receive(Report(1, [], [WiringFact("p", "s", 1, True, 1)]))
    await house.rest()
    await house.db.run(lambda tx: drop_binding(tx, "p", "h1"))
    wire.receive(Report(2, [], [WiringFact("p", "s", 1, False, 2, "unplugged")]))
    await house.rest()
    assert await house.get(Wiring, "p", "h1") is None


@hub_test
async def test_a_report_before_any_hello_is_nobodys(house: House) -> None:
    wire = Wire(house.hub)
    wire.receive(Report(1, [GuestFact("s", "running", 1, True, 1)]))
    await house.rest()
    assert wire.sent == [] and await house.get(Guest, "s", "h1") is None


@hub_test
async def test_a_result_counts_once_and_is_acknowledged_every_time(house: House) -> None:
    wire = await house.connect()
    await house.queue(1)
    for number in (1, 2):
        wire.receive(Report(number, [], [], [Result("c1", number == 1, "late" if number == 2 else "", {"n": number})]))
        await house.rest()
    command = await house.get(Command, "c1")
    assert (command.state, command.result) == (COMMAND_DONE, {"n": 1})
    assert [ack.number for ack in wire.of(Ack)] == [0, 1, 2]


@hub_test
async def test_a_failed_result_tells_why_and_an_obsolete_one_is_dropped(house: House) -> None:
    wire = await house.connect()
    await house.queue(1)
    await house.queue(2)
    await house.db.run(lambda tx: tx.update(Command, "c2", state=OBSOLETE))
    wire.receive(Report(1, [], [], [Result("c1", False, "no space"), Result("c2", True)]))
    await house.rest()
    failed = await house.get(Command, "c1")
    assert (failed.state, failed.error) == (COMMAND_FAILED, "no space")
    assert (await house.get(Command, "c2")).state == OBSOLETE


@hub_test
async def test_a_command_is_sent_once_a_session_and_again_in_the_next(house: House) -> None:
    await house.queue(1)
    wire = await house.connect()
    await house.queue(2)
    assert [do.command_id for do in wire.of(Do)] == ["c1", "c2"]
    wire.close()
    await house.rest()
    again = await house.connect()
    assert [do.command_id for do in again.of(Do)] == ["c1", "c2"]


@hub_test
async def test_a_withdrawn_command_is_told_to_be_forgotten(house: House) -> None:
    wire = await house.connect()
    await house.queue(1)

    def withdraw(tx: Any) -> None:
        tx.update(Command, "c1", state=OBSOLETE)
        tx.hint("outbox:h1")

    await house.db.run(withdraw)
    await house.rest()
    assert wire.of(Forget)[0].command_ids == ["c1"]


@hub_test
async def test_an_outbox_longer_than_the_window_is_sent_to_its_end(house: House) -> None:
    wire = await house.connect()

    def fill(tx: Any) -> None:
        for number in range(IN_FLIGHT_MAX + 40):
            tx.put(Command(f"c{number}", "h1", "stop", "s", "op", "act", 1, number=number))
        tx.hint("outbox:h1")

    await house.db.run(fill)
    await house.rest()
    assert len(wire.of(Do)) == IN_FLIGHT_MAX
    wire.receive(Report(1, [], [], [Result(f"c{number}", True) for number in range(50)]))
    await house.rest()
    assert [do.command_id for do in wire.of(Do)] == [f"c{number}" for number in range(IN_FLIGHT_MAX + 40)]


@hub_test
async def test_many_reports_at_once_are_all_taken_in(house: House) -> None:
    wire = await house.connect()
    most = BATCH_REPORTS_MAX * 3 + 1
    for number in range(1, most + 1):
        wire.receive(Report(number, [GuestFact(f"s{number}", "running", 1, True, number)]))
    await house.rest()
    assert await house.db.read(lambda tx: tx.count(Guest, host="h1")) == most
    assert [ack.number for ack in wire.of(Ack)] == list(range(most + 1))


@hub_test
async def test_a_second_link_of_a_host_takes_over_from_the_first(house: House) -> None:
    first = await house.connect()
    second = await house.connect()
    assert not first.open and second.open
    assert (await house.get(Host, "h1")).state == "up", "the old link's end must not take the host down"


@hub_test
async def test_facts_the_database_refuses_cut_the_link_so_that_they_are_said_again(house: House) -> None:
    wire = await house.connect()
    wire.receive(Report(1, [GuestFact("s", object(), 1, True, 1)]))  # type: ignore[arg-type]
    await house.rest()
    assert not wire.open
    assert any("facts refused" in event.text for event in house.trace.events())
    again = await house.connect(guests=[GuestFact("s", "running", 1, True, 1)])
    assert again.open and (await house.get(Guest, "s", "h1")).state == "running"


@hub_test
async def test_a_question_is_answered_refused_or_times_out(house: House) -> None:
    with pytest.raises(Unanswered, match="not connected"):
        await house.hub.ask("h1", "console_log", "s")
    wire = await house.connect()
    asked = house.env.spawn(house.hub.ask("h1", "console_log", "s", length=3), "ask")
    await house.rest()
    query = wire.of(Query)[0]
    assert query.args == {"length": 3}
    wire.receive(Answer(query.query_id, True, "", {"output": "x"}))
    assert await asked == {"output": "x"}
    with pytest.raises(Unanswered, match="within 2 s"):
        await house.hub.ask("h1", "console_log", "s", timeout_s=2.0)
    wire.receive(Answer(wire.of(Query)[1].query_id, True, "", {}))  # late: nobody minds
