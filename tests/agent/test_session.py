"""The agent of one host, spoken to by hand: what it refuses, repeats, drops and takes up again."""
from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from virga.agent.fake import FakeDisks, FakeHypervisor, FakeWiring, Machine, Neighbourhood, NoImages, Script
from virga.agent.journal import Journal
from virga.agent.session import Agent
from virga.domain.config import Compute
from virga.fabric.link import memory_pair
from virga.fabric.wire import Ack, Answer, Do, Forget, Hello, Query, Report, Result, Welcome
from virga.runtime.env import Env, sim_env
from virga.runtime.trace import Trace
from virga.sim.loop import SimLoop


def spec(server_id: str = "s", generation: int = 1) -> dict[str, Any]:
    nic = {"port_id": "port-" + server_id, "generation": generation, "mac": "fa:16:3e:00:00:01", "network_id": "n"}
    return {"server_id": server_id, "name": "n", "vcpus": 1, "ram_mb": 1, "disk_gb": 1, "nics": [nic], "image": None}


class House:
    """A machine that outlives its agents, and the controller's end of the link."""

    def __init__(self) -> None:
        self.env = sim_env(1, "world")
        self.trace = Trace(self.env.now)
        self.machine = Machine("h1", script=Script(delay_s={"launch": 0.1, "stop": 0.1, "wire": 0.01}))
        self.journal = Journal()
        self.options = Compute(vif_plugging_timeout=5.0)
        self.frames: list[Any] = []
        self.agent_env: Env | None = None
        self.link: Any = None

    def start(self) -> None:
        import asyncio

        env = self.agent_env = self.env.child("h1")
        neighbours = Neighbourhood()
        neighbours.add(self.machine)

        async def dial() -> Any:
            ours, theirs = memory_pair(asyncio.get_running_loop())
            self.link = ours
            ours.start(self.frames.append, lambda: None)
            ours.send(Welcome(1))
            return theirs

        agent = Agent(env, self.trace, "h1", "id-h1", self.options, FakeHypervisor(env, self.machine, neighbours),
                      FakeDisks(env, self.machine, neighbours, NoImages()), FakeWiring(env, self.machine), self.journal, dial)
        env.spawn(agent.run(), "agent")

    def kill(self) -> None:
        assert self.agent_env is not None
        self.agent_env.kill()

    async def rest(self, delay_s: float = 1.0) -> None:
        await self.env.sleep(delay_s)

    def do(self, command_id: str, verb: str, epoch: int = 1, server_id: str = "s", **args: Any) -> None:
        self.link.send(Do(command_id, verb, server_id, epoch, args))

    def results(self) -> list[Result]:
        return [result for frame in self.frames if isinstance(frame, (Hello, Report)) for result in frame.results]

    def last_hello(self) -> Hello:
        return [frame for frame in self.frames if isinstance(frame, Hello)][-1]


def agent_test(story: Callable[[House], Awaitable[None]]) -> Callable[[], None]:
    def test() -> None:
        async def main() -> None:
            house = House()
            house.start()
            await house.rest()
            await story(house)
            house.kill()

        SimLoop(5).run(main)

    test.__name__, test.__doc__ = story.__name__, story.__doc__
    return test


@agent_test
async def test_it_wires_and_says_so_before_it_starts(house: House) -> None:
    house.do("c1", "create", spec=spec(), power="running")
    await house.rest()
    reports = [frame for frame in house.frames if isinstance(frame, Report)]
    assert reports[0].wirings[0].wired and not reports[0].guests, "wired is told first, by itself"
    assert reports[1].guests[0].state == "running" and reports[1].results[0].ok
    assert (reports[1].guests[0].epoch, reports[1].guests[0].disk) == (1, True)


@agent_test
async def test_an_older_epoch_is_refused(house: House) -> None:
    house.do("c2", "create", epoch=5, spec=spec(), power="running")
    await house.rest()
    house.do("c1", "purge", epoch=4)
    await house.rest()
    refused = house.results()[-1]
    assert (refused.command_id, refused.ok) == ("c1", False) and "older" in refused.error
    assert house.machine.guests() == {"s": "running"}


@agent_test
async def test_an_older_epoch_is_refused_after_a_restart_too(house: House) -> None:
    house.do("c2", "create", epoch=5, spec=spec(), power="running")
    await house.rest()
    house.kill()
    house.start()
    await house.rest()
    house.do("c1", "purge", epoch=4)
    await house.rest()
    assert not house.results()[-1].ok and house.machine.guests() == {"s": "running"}


@agent_test
async def test_a_newer_command_cancels_an_older_one_under_way_and_both_are_answered(house: House) -> None:
    house.machine.script.delay_s["launch"] = 50.0
    house.do("c1", "create", epoch=1, spec=spec(), power="running")
    await house.rest()
    house.do("c2", "purge", epoch=2)
    await house.rest()
    answers = {result.command_id: result.ok for result in house.results()}
    assert answers == {"c1": False, "c2": True}
    assert house.machine.guests() == {} and house.machine.disk("s") is None and not house.machine.journal.find("tap/")


@agent_test
async def test_a_result_is_repeated_until_it_is_acknowledged(house: House) -> None:
    house.do("c1", "create", spec=spec(), power="running")
    await house.rest()
    number = next(frame.number for frame in house.frames if isinstance(frame, Report) and frame.results)
    house.link.close()
    await house.rest(3.0)
    assert [result.command_id for result in house.last_hello().results] == ["c1"]
    house.kill()
    house.start()
    await house.rest()
    assert [result.command_id for result in house.last_hello().results] == ["c1"], "the journal remembers it"
    house.link.send(Ack(0))
    await house.rest()
    house.link.close()
    await house.rest(3.0)
    assert house.last_hello().results == [] and number > 0


@agent_test
async def test_a_command_that_comes_twice_is_done_once_and_answered_twice(house: House) -> None:
    house.do("c1", "create", spec=spec(), power="running")
    await house.rest()
    before = house.machine.disk("s")
    house.do("c1", "create", spec=spec(), power="running")
    await house.rest()
    assert house.machine.disk("s") == before
    assert [result.command_id for result in house.results()] == ["c1", "c1"]


@agent_test
async def test_dead_between_effect_and_journal_it_does_the_command_again_to_the_same_end(house: House) -> None:
    killed = []

    def hook(name: str, about: dict[str, Any]) -> None:
        if name == "h1:agent.after_effect" and not killed:
            killed.append(name)
            house.kill()

    assert house.agent_env is not None
    house.agent_env.fault_hook = hook
    house.do("c1", "create", spec=spec(), power="running")
    await house.rest()
    assert killed and house.results() == [] and house.machine.guests() == {"s": "running"}
    house.start()
    await house.rest()
    fact = house.last_hello().guests[0]
    assert (fact.state, fact.epoch) == ("running", 0), "what is there is told, but not as the outcome of a command nobody remembers the end of"
    house.do("c1", "create", spec=spec(), power="running")
    await house.rest()
    assert house.results()[-1].ok and (house.machine.disk("s") or b"").count(b"boot") == 1


@agent_test
async def test_a_forgotten_command_is_not_begun(house: House) -> None:
    house.machine.script.delay_s["launch"] = 2.0
    house.do("c1", "create", spec=spec(), power="running")
    house.do("c2", "purge")
    await house.rest(0.5)
    house.link.send(Forget(["c2"]))
    await house.rest(5.0)
    assert house.machine.guests() == {"s": "running"}
    assert [result.command_id for result in house.results()] == ["c1"]


@agent_test
async def test_after_a_power_cut_a_wanted_tap_is_made_again_and_a_loose_one_is_not(house: House) -> None:
    house.do("c1", "create", spec=spec(), power="running")
    await house.rest()
    house.kill()
    house.machine.power_cut()
    house.machine.journal.put("tap/stranger", 1)
    house.start()
    await house.rest()
    assert house.machine.journal.find("tap/") == {"port-s": 1}
    assert house.last_hello().guests[0].state == "stopped"
    assert [wiring.wired for wiring in house.last_hello().wirings] == [True]


@agent_test
async def test_a_tap_that_a_failed_unplug_left_behind_goes_and_is_told(house: House) -> None:
    """The card is detached all the same, and nobody asks again: the agent itself comes back for the tap. (Seeds hardly ever take this path.)"""
    assert house.agent_env is not None
    house.agent_env.marks = marks = {}
    house.do("c1", "create", spec=spec(), power="running")
    await house.rest()
    house.machine.script.fail["unwire"] = 2
    house.do("c2", "detach", epoch=2, port_id="port-s")
    await house.rest()
    assert house.results()[-1].ok and house.machine.journal.find("tap/") == {"port-s": 1} and marks == {}
    await house.rest(300.0)
    assert house.machine.journal.find("tap/") == {} and marks == {"agent.loose_tap": 1}
    told = [(wiring.wired, wiring.detail) for frame in house.frames if isinstance(frame, Report) for wiring in frame.wirings]
    assert told[-1] == (False, "unplugged")


@agent_test
async def test_a_tap_that_vanishes_is_told_and_rewired(house: House) -> None:
    house.do("c1", "create", spec=spec(), power="running")
    await house.rest()
    house.machine.journal.put("tap/port-s", None)
    house.machine.port_changed("port-s")
    await house.rest(5.0)
    told = [wiring.wired for frame in house.frames if isinstance(frame, Report) for wiring in frame.wirings]
    assert told == [True, False, True] and house.machine.journal.find("tap/") == {"port-s": 1}


@agent_test
async def test_plugging_that_fails_is_fatal_and_touches_no_disk(house: House) -> None:
    house.machine.script.fail["wire"] = 99
    house.do("c1", "create", spec=spec(), power="running")
    await house.rest()
    failed = house.results()[-1]
    assert not failed.ok and "port-s" in failed.error and failed.data["code"] == "wiring"
    assert house.machine.guests() == {} and house.machine.disk("s") is not None


@agent_test
async def test_plugging_that_takes_too_long_is_fatal_after_its_timeout(house: House) -> None:
    house.machine.script.delay_s["wire"] = 60.0
    house.do("c1", "create", spec=spec(), power="running")
    await house.rest(4.0)
    assert house.results() == []
    await house.rest(2.0)
    assert "not wired within 5 s" in house.results()[-1].error


@agent_test
async def test_an_unknown_verb_and_a_bug_are_answers_too(house: House) -> None:
    house.do("c1", "dance")
    house.do("c2", "create")  # no spec: what the code trips over is told, and the agent lives on
    await house.rest()
    assert [result.ok for result in house.results()] == [False, False]
    assert "dance" in house.results()[0].error and house.results()[1].data == {"code": "bug"}
    house.do("c3", "create", spec=spec(), power="running")
    await house.rest()
    assert house.results()[-1].ok


@agent_test
async def test_a_guest_that_stops_by_itself_is_told_at_once(house: House) -> None:
    house.do("c1", "create", spec=spec(), power="running")
    await house.rest()
    house.machine.crash("s")
    await house.rest(0.1)
    assert [fact.state for frame in house.frames if isinstance(frame, Report) for fact in frame.guests][-1] == "crashed"


@agent_test
async def test_questions_are_answered(house: House) -> None:
    house.link.send(Query("q1", "console_log", "s", {"length": 2}))
    house.link.send(Query("q2", "nonsense", "s"))
    await house.rest()
    answers = {frame.query_id: frame for frame in house.frames if isinstance(frame, Answer)}
    assert answers["q1"].ok and "login:" in answers["q1"].data["output"]
    assert not answers["q2"].ok and "nonsense" in answers["q2"].error


@agent_test
async def test_a_guest_missed_by_one_look_keeps_its_tap(house: House) -> None:
    house.do("c1", "create", spec=spec(), power="running")
    await house.rest()
    taps = house.machine.journal.find("tap/")
    assert taps
    house.machine.journal.values.pop("vm/s")  # a hypervisor that is just starting does not know the guest yet
    house.machine.port_changed("any")
    await house.rest()
    assert house.machine.journal.find("tap/") == taps
    house.machine.port_changed("any")
    await house.rest()
    assert not house.machine.journal.find("tap/")
