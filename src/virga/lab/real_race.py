"""The race on real hosts: one Kilo era on an emulated network of its own, round after round, counted and set beside what the formula expects.

Owns: `RealTotals`, the table of a real race, and the life of one era's hosts. Virga's own part of the race is a cloud as an operator starts it, and so
belongs to the command (cli_race_real.py); both are counted in the same columns.
Rules: nothing is rigged. Guests are asked at a pace that knows nothing of the agents' phases; a server that ended in ERROR has lost its disk, so it is
deleted and replaced before the next round, as an operator would, and every round has all its servers. The formula is told what was measured here, a
revert at a time, and nothing is fitted.
"""
from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from virga.agent.hypervisor import DriverError
from virga.domain.server import ERROR
from virga.lab import drawings, pictures
from virga.lab import kilo_rules as rules
from virga.lab.founding import Case, Plan, Result
from virga.lab.hosts import Lab, LabHost
from virga.lab.options import Options
from virga.lab.race import Totals, table
from virga.lab.real_kilo import Measured, RealKilo, expected
from virga.runtime.env import Env
from virga.runtime.sequence import side_by_side
from virga.runtime.trace import Event

BOOT_LIMIT_S = 60.0
LOOK_S = 0.1
TAIL_DRAWN_S = 2.5  # the agents have said what they had to say, and the next resize is not in the picture
Say = Callable[[str], None]


class CannotRace(Exception):
    """One clear line about why the race cannot go on."""


class RealTotals(Totals):
    """A line of the table. What only a Kilo cloud has, or only the lab can measure, is None for Virga."""

    longest_s: float = 0.0
    expected: float | None = None
    window_s: float | None = None
    report_s: float | None = None
    interval_s: float | None = None

    @property
    def all_well(self) -> bool:
        return self.active == self.reverts > 0 and not self.error and not self.stuck and not self.disks_lost


def plan_for(servers: int, rounds: int, interval_s: float) -> Plan:
    """An operator's pace that lets every port become ACTIVE on host_B before the first revert, so that only the race itself is met."""
    return Plan(servers, rounds, resize_gap_s=0.5, revert_gap_s=1.5, settle_s=2.0 * interval_s + 2.0, look_s=LOOK_S, tail_s=1.5 * interval_s + 1.0)


class Era:
    """One era on a cloud that is up: boot, rounds, and what came of them."""

    def __init__(self, cloud: RealKilo, plan: Plan, seed: int, say: Say) -> None:
        self.cloud, self.plan, self.seed, self.say = cloud, plan, seed, say
        self.totals = RealTotals(cloud.options.name, interval_s=cloud.options.polling_interval)
        self.servers: list[str] = []

    async def run(self) -> RealTotals:
        """Raises CannotRace."""
        self.servers = [self.cloud.boot_next() for _ in range(self.plan.servers)]
        await self._wait_booted()
        for number in range(1, self.plan.rounds + 1):
            one = msgspec.structs.replace(self.plan, rounds=1)
            limit_s = self.cloud.options.vif_plugging_timeout + BOOT_LIMIT_S
            self.count(await Case(self.cloud, one, self.seed * 1000 + number, self.servers, limit_s).run())
            totals = self.totals
            self.say(f"{totals.name}: round {number} of {self.plan.rounds}: {totals.reverts} reverts, {totals.active} ACTIVE, {totals.error} ERROR")
            if number < self.plan.rounds:
                await self._replace_failed()
        if any(self.cloud.real(host).events_lost for host in self.cloud.machines):
            self.say("the kernel dropped events, so the measured times are worth nothing")
        return self.totals

    def count(self, result: Result) -> None:
        totals, cloud = self.totals, self.cloud
        totals.add(result)
        measured, reports = cloud.measured(), cloud.report_times_s()
        totals.longest_s = max((one.took_s for one in measured), default=0.0)
        if measured and reports and cloud.rules.waits_on_revert and cloud.rules.rebind == rules.LAST:
            totals.window_s, totals.report_s = statistics.median(one.window_s for one in measured), statistics.median(reports)
            totals.expected = expected(measured, totals.report_s, cloud.options.polling_interval)

    async def _wait_booted(self) -> None:
        cloud = self.cloud
        end = cloud.env.monotonic() + BOOT_LIMIT_S
        while True:
            states = [cloud.state(server_id) for server_id in self.servers]
            bad = next((server_id for server_id, state in zip(self.servers, states, strict=True) if state[0] == ERROR), None)
            if bad is not None:
                raise CannotRace(f"server {bad} did not boot: {cloud.fault(bad)}")
            ports = [port for server_id in self.servers for port in cloud.store.ports_of(server_id)]
            if all(state == ("active", None) for state in states) and all(port.status == rules.ACTIVE for port in ports):
                return
            if cloud.env.monotonic() > end:
                raise CannotRace(f"the servers did not boot within {BOOT_LIMIT_S:.0f} s")
            await cloud.env.sleep(LOOK_S)

    async def _replace_failed(self) -> None:
        cloud = self.cloud
        for place, server_id in enumerate(self.servers):
            if cloud.state(server_id) != ("active", None):
                cloud.delete(server_id)
                self.servers[place] = cloud.boot_next()
        await self._wait_booted()


async def run_era(env: Env, options: Options, plan: Plan, seed: int, lab: Lab, image: Path, say: Say) -> tuple[RealTotals, RealKilo]:
    """Raises CannotRace, CannotEmulate. The lab is gone afterwards, however it ends."""
    hosts: list[LabHost] = lab.hosts
    await env.offload(lab.up)
    try:
        # an Env of its own: stopping the cloud ends everything in it
        cloud = RealKilo(options, hosts, image, env.child("kilo"))
        try:
            await cloud.open()
            cloud.start()
            return await Era(cloud, plan, seed, say).run(), cloud
        except DriverError as error:
            raise CannotRace(str(error)) from error
        finally:
            cloud.stop()
            await cloud.close()
    finally:
        await env.offload(lab.down)


# what is shown ---------------------------------------------------------------------------------------------------------
def number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


COLUMNS: tuple[tuple[str, Callable[[RealTotals], str]], ...] = (
    ("era and switches", lambda line: line.name),
    ("reverts", lambda line: f"{line.reverts}"),
    ("ACTIVE", lambda line: f"{line.active}"),
    ("ERROR", lambda line: f"{line.error}"),
    ("of them VirtualInterface-\nCreateException", lambda line: f"{line.vif_errors}"),
    ("stuck", lambda line: f"{line.stuck}"),
    ("full-timeout\nwaits", lambda line: f"{line.full_timeouts}"),
    ("expected by\nthe formula", lambda line: number(line.expected, 1)),
    ("disks\nlost", lambda line: f"{line.disks_lost}"),
    ("longest\nrevert s", lambda line: number(line.longest_s, 1)),
)


def shown(lines: list[RealTotals]) -> str:
    """The table, and a sentence on the odds of each era that has any."""
    return "\n".join([table(lines, COLUMNS), *(sentence for line in lines for sentence in odds_of(line))])


def odds_of(line: RealTotals) -> list[str]:
    """Expected against counted, with what was measured; and how many rounds more would show a failure, if none came."""
    if line.expected is None or line.window_s is None or line.report_s is None or line.interval_s is None:
        return []
    share = line.expected / line.reverts
    told = [f"{line.name}: W is {line.window_s:.3f} s and d {line.report_s:.3f} s (medians), T {line.interval_s:g} s; so (W - d) / T expects "
            f"{line.expected:.1f} of {line.reverts} reverts to wait in vain ({share:.0%}); {line.full_timeouts} did"]
    if not line.full_timeouts:
        wanted = f"about {int(3 / share) + 1} reverts show one with 95 % certainty; raise --rounds" if share > 0 else "W was never above d"
        told.append(f"{line.name}: none failed this time, and none had to: that happens with probability {(1 - share) ** line.reverts:.0%}; {wanted}")
    return told


def as_json(lines: list[RealTotals], plan: Plan) -> dict[str, Any]:
    return {"plan": msgspec.to_builtins(plan), "eras": [{**msgspec.to_builtins(line), "all_well": line.all_well} for line in lines]}


# drawings --------------------------------------------------------------------------------------------------------------
def of_revert(events: list[Event], one: Measured) -> list[Event]:
    """The events of one server from its revert's request on."""
    mine = [event for event in events if event.server == one.server]
    begins = [place for place, event in enumerate(mine) if event.text == "revert_resize" and event.number < one.read]
    return mine[begins[-1]:]


def draw(cloud: RealKilo, folder: Path) -> list[Path]:
    """One failing and one good revert of this run, alone and side by side, as far as there were such. Raises OSError."""
    made: list[Path] = []
    diagrams = {}
    for word, failed in (("success", False), ("failure", True)):
        found = next((one for one in cloud.measured() if one.failed is failed), None)
        if found is not None:
            events = drawings.until_end(of_revert(cloud.events, found), TAIL_DRAWN_S)
            diagrams[word] = drawings.diagram(drawings.drawn(events), f"{cloud.options.name} on real hosts: {word}")
            made += pictures.write(folder, f"real-{word}", diagrams[word].svg())
    if len(diagrams) == 2:
        made += pictures.write(folder, "real-success-beside-failure", side_by_side(diagrams["success"], diagrams["failure"]).svg())
    return made
