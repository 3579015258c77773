"""`virga race --real`: the founding case on real bridges, taps and guests; Kilo's eras on hosts of their own, and then Virga as an operator starts it.

Owns: the order of the eras, Virga's run (a `virga up --hypervisor libvirt` in a process of its own, asked over HTTP at the same pace), the report and
the exit code: 0 when Virga had no failure. That Kilo did not fail in a run is no error; the table says what was to be expected.
Rules: nothing stays behind. Emulated hosts have their keeper; Virga's process gets a signal when this one dies, and its folder a keeper too.
"""
from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from virga import serve_hosts
from virga.cli import fail
from virga.cli_client import Client, ClientError, Refused, find_login
from virga.cli_demo import Child, settled
from virga.cli_draw import diagram_of
from virga.cli_founding import Founding, Outcome
from virga.cli_guests import IMAGE
from virga.domain.config import Config
from virga.lab import kilo_rules as rules
from virga.lab import pictures
from virga.lab.founding import Plan
from virga.lab.hosts import CannotEmulate, Lab, end_keeper, start_keeper, take_number
from virga.lab.options import DELAYS, Mistake, Options
from virga.lab.race import VIF_FAULT, compared
from virga.lab.real_kilo import REAL_DELAYS, VIF_TIMEOUT_S
from virga.lab.real_race import CannotRace, RealTotals, as_json, draw, plan_for, run_era, shown
from virga.runtime.env import Env, real_env

HOSTS = 2
START_TIMEOUT_S, STATE_TIMEOUT_S, GUEST_TIMEOUT_S = 120.0, 300.0, 120.0
READY, READY_POLL_S = "virga-guest: ready", 0.3
DIES_WITH_US = ("setpriv", "--pdeathsig", "TERM", "--")


class PacedFounding(Founding):
    """The founding case with real guests at the Kilo clouds' pace. A guest that still boots hears no ACPI button, so the console is waited for before
    each move, as the Kilo guests need nobody's consent to be destroyed.
    """

    def __init__(self, env: Env, client: Client, plan: Plan, say: Callable[[str, int], None]) -> None:
        super().__init__(env, client, servers=plan.servers, say=say, timeout_s=STATE_TIMEOUT_S, poll_s=0.1)
        self.gaps_s = {"resize": plan.resize_gap_s, "revert": plan.revert_gap_s}
        self._seen: dict[tuple[str, str], int] = {}  # (server, host) -> boots its console has told of

    async def create_body(self, body: dict[str, Any]) -> dict[str, Any]:
        images = (await self.client.get("image", f"/v2/images?status=active&name={IMAGE}"))["images"]
        if not images:
            raise ClientError(f"the cloud offers no image {IMAGE}; build it with `make guest`")
        return {**body, "imageRef": images[0]["id"]}

    async def prepare(self) -> None:
        await super().prepare()
        await asyncio.gather(*(self._booted(server["id"], server["OS-EXT-SRV-ATTR:host"]) for server in self.servers))

    async def _all(self, phase: str, outcomes: list[Outcome], work: Callable[[Outcome], Awaitable[None]]) -> None:
        """One by one, a pause apart, not waiting for each other's end."""
        places = {outcome.server_id: place for place, outcome in enumerate(outcomes)}

        async def in_turn(outcome: Outcome) -> None:
            await self.env.sleep(places[outcome.server_id] * self.gaps_s.get(phase, 0.0))
            await work(outcome)

        await super()._all(phase, outcomes, in_turn)

    async def _resize(self, outcome: Outcome) -> float:
        took_s = await super()._resize(outcome)
        if not outcome.why:
            await self._booted(outcome.server_id, outcome.other_host)
        return took_s

    async def _revert(self, outcome: Outcome) -> None:
        await super()._revert(outcome)
        self._seen.pop((outcome.server_id, outcome.other_host), None)  # the console there goes with the guest
        if not outcome.why:
            await self._booted(outcome.server_id, outcome.host)

    async def _booted(self, server_id: str, host: str) -> None:
        """Until the console tells of one boot more than last time. Raises Refused."""
        end = self.env.monotonic() + GUEST_TIMEOUT_S
        while True:
            told = await self.client.post("compute", f"/servers/{server_id}/action", {"os-getConsoleOutput": {}})
            boots = str(told["output"]).count(READY)
            if boots > self._seen.get((server_id, host), 0):
                self._seen[server_id, host] = boots
                return
            if self.env.monotonic() > end:
                raise Refused(504, f"the guest did not boot on {host} within {GUEST_TIMEOUT_S:.0f} s")
            await self.env.sleep(READY_POLL_S)


def totals_of(outcomes: list[Outcome]) -> RealTotals:
    """Virga's line. What is not ACTIVE on its old host counts as an error, and so does a guest that did not boot."""
    totals = RealTotals(rules.VIRGA)
    for outcome in outcomes:
        good = outcome.reverted and outcome.status == "ACTIVE" and not outcome.why
        totals.reverts += 1
        totals.active += good
        totals.error += not good
        totals.vif_errors += VIF_FAULT in outcome.why
        totals.disks_lost += outcome.disk == "lost"
        totals.longest_s = max(totals.longest_s, outcome.revert_s or 0.0)
    return totals


class RealRace:
    """One call of the command."""

    def __init__(self, plan: Plan, image: Path, seed: int, folder: Path | None) -> None:
        self.plan, self.image, self.seed, self.folder = plan, image, seed, folder
        self.env = real_env("race")
        self.drawn: list[Path] = []
        self.why: list[str] = []

    def say(self, text: str) -> None:
        click.echo(text, err=True)

    async def run(self, eras: list[Options]) -> list[RealTotals]:
        lines = []
        for options in eras:
            self.say(f"{options.name}: making two hosts")
            lines.append(await (self.virga() if options.era == rules.VIRGA else self.kilo(options)))
        return lines

    async def kilo(self, options: Options) -> RealTotals:
        number, lock = take_number()
        with lock:
            lab = Lab(Path(tempfile.mkdtemp(prefix="virga-race-")), HOSTS, f"k{number}", number, temporary=True)
            totals, cloud = await run_era(self.env, options, self.plan, self.seed, lab, self.image, self.say)
        if self.folder is not None and options.era == rules.KILO_0 and not options.nonfatal and not options.bind_first:
            self.drawn += draw(cloud, self.folder)
        return totals

    async def virga(self) -> RealTotals:
        number, lock = take_number()
        with lock:
            state = Path(tempfile.mkdtemp(prefix="virga-race-"))
            keeper = start_keeper(f"k{number}", str(state))
            try:
                child = Child(self.env, state, ["--hosts", str(HOSTS), "--hypervisor", "libvirt", "--virt-type", "qemu"], DIES_WITH_US)
                try:
                    return await self._ask_virga(child)
                finally:
                    await self.env.offload(child.stop)
            finally:
                await self.env.offload(lambda: end_keeper(keeper))

    async def _ask_virga(self, child: Child) -> RealTotals:
        await child.ready(START_TIMEOUT_S)
        async with Client(find_login(str(child.state))) as client:
            founding = PacedFounding(self.env, client, self.plan, lambda phase, done: None)
            outcomes: list[Outcome] = []
            await founding.prepare()
            for number in range(1, self.plan.rounds + 1):
                outcomes += await founding.round(number)
                totals = totals_of(outcomes)
                self.say(f"virga: round {number} of {self.plan.rounds}: {totals.reverts} reverts, {totals.active} ACTIVE, {totals.error} ERROR")
            self.why += [f"virga: {outcome.server} in round {outcome.round}: {outcome.why}" for outcome in outcomes if outcome.why]
            last = outcomes[-1]
            if self.folder is not None and last.reverted:
                await settled(self.env, client, last.server_id)
                diagram = await diagram_of(client, last.server_id, last.server, "revert")
                self.drawn += pictures.write(self.folder, "real-virga-revert", diagram.svg())
        return totals


def eras_of(options: Options, params: dict[str, Any]) -> list[Options]:
    """What is raced, with this mode's own defaults. Raises Mistake."""
    if params["compare"] and (params["era"] or params["nonfatal"] or params["bind_first"]):
        raise Mistake("--real --compare races every era and remedy; leave --era, --nonfatal and --bind-first out")
    first = msgspec.structs.replace(options, jitter=0.0)
    if options.delays == DELAYS:
        first = msgspec.structs.replace(first, delays=dict(REAL_DELAYS))
    if params["vif_plugging_timeout"] is None:
        first = msgspec.structs.replace(first, vif_plugging_timeout=VIF_TIMEOUT_S)
    if params["compare"]:
        return [msgspec.structs.replace(first, era=one.era, nonfatal=one.nonfatal, bind_first=one.bind_first) for one in compared()]
    return [first] if params["era"] else [first, Options(era=rules.VIRGA)]


def image_on_this_machine() -> Path:
    """The guest image. Raises Mistake or CannotEmulate where this machine cannot have real guests."""
    config = Config(hypervisor="libvirt", virt_type="qemu")
    serve_hosts.check(config)
    image = serve_hosts.guest_image(config)
    if image is None:
        raise Mistake("--real needs the guest image; build it with `make guest`")
    return image


def report(options: Options, params: dict[str, Any]) -> None:
    """The whole of `virga race --real`. Raises Mistake; ends the process with its exit code."""
    eras = eras_of(options, params)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill leaves nothing behind either
    try:
        race = RealRace(plan_for(params["servers"], params["rounds"], options.polling_interval), image_on_this_machine(), params["seed"], params["draw"])
        race.say(f"{race.plan.servers} servers, {race.plan.rounds} rounds of resize all and revert all, on two emulated hosts with real guests; "
                 f"vif_plugging_timeout is {eras[0].vif_plugging_timeout:g} s here, so that a revert that hangs ends soon (Kilo's default is 300)")
        lines = asyncio.run(race.run(eras))
    except CannotEmulate as error:
        raise Mistake("--real: " + str(error).replace("use --hypervisor fake", "leave --real out")) from error
    except (CannotRace, ClientError, Refused) as error:
        raise Mistake(f"--real: {error}") from error
    except OSError as error:
        raise Mistake(f"--real: {error.filename or ''}: {error.strerror or error}") from error
    except KeyboardInterrupt:
        fail("interrupted; the hosts are gone")
        return
    click.echo(json.dumps(as_json(lines, race.plan), indent=2) if params["as_json"] else shown(lines))
    for text in [*race.why, *(str(path) for path in race.drawn)]:
        click.echo(text, err=params["as_json"])
    sys.exit(0 if all(line.all_well for line in lines if line.name == rules.VIRGA) else 1)
