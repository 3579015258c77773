"""`virga race`: the founding case, live - counted, enumerated, predicted, drawn, explained, and set beside historical bugs.

Exactly one mode a call: the race itself (default), --compare, --exhaustive, --odds, --draw DIR, --museum, --explain. Every mode takes seeds, shows its
progress on stderr, and prints the same result for the same seeds on every machine; only the speed lines depend on this one. --real is the race (or
--compare) on real hosts, where nothing is seeded but the operator's pace; with it --draw is about that run. Combinations that make no sense are refused
with one line.
"""
from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from virga.cli import fail
from virga.lab.options import DELAYS, Mistake, Options, refuse

T = TypeVar("T")
MODES = ("compare", "exhaustive", "odds", "draw", "museum", "explain", "real")
WITH_REAL = ("compare", "draw")


def watched(work: Iterable[T], total: int, what: str) -> Iterator[T]:
    """`work` with a progress bar on stderr, if that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    err = Console(stderr=True)
    yield from track(work, total=total, description=what, console=err, disable=not err.is_terminal)


def _delays(given: tuple[str, ...], base: dict[str, float]) -> dict[str, float]:
    delays = dict(base)
    for text in given:
        name, _, value = text.partition("=")
        try:
            delays[name] = float(value)
        except ValueError:
            raise Mistake(f"--delay {text}: write NAME=SECONDS, for example --delay teardown=1.5") from None
    return delays


def _check_modes(context: click.Context, params: dict[str, Any]) -> str:
    """The one mode asked for. Raises Mistake for two, or for an option that the mode does not read."""
    chosen = [mode for mode in MODES if params[mode] and not (params["real"] and mode in WITH_REAL)]
    if len(chosen) > 1:
        raise Mistake(f"--{chosen[0]} and --{chosen[1]} are two different things to do; ask for one of them")
    mode = chosen[0] if chosen else "race"
    given = [name for name in params if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE and name not in MODES]
    reads = {
        "compare": {"servers", "rounds", "ports", "revert_after", "seeds", "seed", "as_json"},
        "exhaustive": {"era", "nonfatal", "bind_first", "ports", "as_json"},
        "odds": {"era", "polling_interval", "seeds", "seed", "as_json", "out"},
        "draw": {"seed"}, "museum": {"seeds", "as_json", "out"},
        "explain": {"era", "nonfatal", "bind_first", "polling_interval", "vif_plugging_timeout", "delay", "jitter", "seed", "seeds", "revert_after", "at"},
        "real": {"era", "nonfatal", "bind_first", "polling_interval", "vif_plugging_timeout", "delay", "servers", "rounds", "seed", "as_json"},
        "race": {"era", "nonfatal", "bind_first", "polling_interval", "vif_plugging_timeout", "delay", "jitter", "servers", "rounds", "ports",
                 "revert_after", "seeds", "seed", "as_json"},
    }[mode]
    for name in given:
        if name not in reads:
            raise Mistake(f"--{name.removeprefix('as_').replace('_', '-')} means nothing " + (f"with --{mode}" if mode != "race" else "here"))
    return mode


@click.command(name="race")
@click.option("--era", default=None, help="kilo-2015.1.0 (default), kilo-2015.1.1, rebind-first, rebind-and-wait, virga.")
@click.option("--nonfatal", is_flag=True, help="Remedy 1: vif_plugging_is_fatal = false.")
@click.option("--bind-first", is_flag=True, help="Remedy 2: setup_networks_on_host moves the binding.")
@click.option("--polling-interval", type=float, default=None, help="Seconds between two looks of the linuxbridge agent (default 2).")
@click.option("--vif-plugging-timeout", type=float, default=None, help="Seconds a compute manager waits (default 300; 15 with --real).")
@click.option("--delay", multiple=True, metavar="NAME=SECONDS", help=f"Mean time of a step; NAME is one of {', '.join(DELAYS)}.")
@click.option("--jitter", type=click.FloatRange(0, 1), default=None, help="How far delays vary around their mean (default 0.5).")
@click.option("--servers", type=click.IntRange(1, 50), default=5, show_default=True)
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="How often all are resized and reverted.")
@click.option("--ports", type=click.IntRange(1, 8), default=1, show_default=True, help="Ports a server.")
@click.option("--revert-after", type=click.FloatRange(0), default=20.0, show_default=True, help="Seconds between the last resize and the first revert.")
@click.option("--seeds", type=click.IntRange(1), default=None, help="How many seeds (default 200; --odds 400 a point; --museum at most 20000 each).")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="The first seed.")
@click.option("--compare", is_flag=True, help="All eras and remedies on the same seeds, side by side.")
@click.option("--exhaustive", is_flag=True, help="Every order of deliveries, polls, reads and one crash, to a stated bound.")
@click.option("--odds", is_flag=True, help="Prediction and simulation of the share of failing reverts, as table and plot.")
@click.option("--draw", type=click.Path(file_okay=False, path_type=Path), default=None, metavar="DIR", help="The report's figures from real runs.")
@click.option("--museum", is_flag=True, help="The hazards and crash points as named mutants: who finds each, how fast.")
@click.option("--explain", is_flag=True, help="Run until a server hangs and say what it waits for, and why that cannot come.")
@click.option("--real", is_flag=True, help="On real hosts: bridges, taps and QEMU guests in network namespaces (root, libvirt). Kilo, then Virga.")
@click.option("--at", type=click.FloatRange(0), default=None, help="With --explain: how many seconds after the revert to look (default 60).")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=None, help="With --odds and --museum: folder for plots and drawings.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def command(context: click.Context, /, **params: Any) -> None:
    """Replay the resize-revert race of OpenStack Kilo on Virga's own machines, and count what becomes of the servers."""
    try:
        mode = _check_modes(context, params)
        changes = {name: params[name] for name in ("era", "nonfatal", "bind_first", "polling_interval", "vif_plugging_timeout", "jitter") if params[name]
                   or (params[name] is not None and params[name] is not False)}
        if params["delay"]:
            changes["delays"] = _delays(params["delay"], _base(params))
        options = Options(**changes)
        refuse(options, frozenset(changes))
        MODE_CALLS[mode](options, params)
    except Mistake as mistake:
        fail(str(mistake))


def _base(params: dict[str, Any]) -> dict[str, float]:
    """The delays that --delay changes: with --real those that are scripted come on top of what really takes time."""
    if not params["real"]:
        return DELAYS
    from virga.lab.real_kilo import REAL_DELAYS

    return REAL_DELAYS


def _race(options: Options, params: dict[str, Any]) -> None:
    _run_all([options], params)


def _compare(_: Options, params: dict[str, Any]) -> None:
    from virga.lab.race import compared

    _run_all(compared(), params)


def _run_all(eras: list[Options], params: dict[str, Any]) -> None:
    from virga.lab.founding import Plan
    from virga.lab.race import as_json, race, speeds, table

    if params["ports"] > 1 and any(options.era == "virga" for options in eras):
        raise Mistake("--ports above 1 is for the Kilo eras; Virga's servers of the race have one port (its exhaustive search has two)")
    plan = Plan(servers=params["servers"], rounds=params["rounds"], ports=params["ports"], settle_s=params["revert_after"])
    count = params["seeds"] or 200
    seeds = range(params["seed"], params["seed"] + count)
    lines = []
    for options in eras:
        lines.append([*watched(race(options, plan, seeds, time.process_time), count, options.name)][-1])
    if params["as_json"]:
        click.echo(json.dumps(as_json(lines, plan, seeds), indent=2))
        return
    click.echo(f"{plan.servers} servers, {plan.rounds} rounds of resize all and revert all, seeds {seeds.start} to {seeds.stop - 1}\n")
    click.echo(table(lines))
    click.echo("\n" + speeds(lines), err=True)


def _exhaustive(options: Options, params: dict[str, Any]) -> None:
    from virga.lab.exhaustive import report

    report(options if params["era"] or params["nonfatal"] or params["bind_first"] else None, params["ports"], params["as_json"])


def _odds(options: Options, params: dict[str, Any]) -> None:
    from virga.lab.odds import report

    report(options, params["seeds"] or 400, params["seed"], params["out"] or Path("odds"), params["as_json"], watched)


def _draw(_: Options, params: dict[str, Any]) -> None:
    from virga.lab.drawings import report

    report(params["draw"], params["seed"])


def _museum(_: Options, params: dict[str, Any]) -> None:
    from virga.lab.museum import report

    report(params["seeds"] or 20000, params["out"], params["as_json"], watched)


def _explain(options: Options, params: dict[str, Any]) -> None:
    from virga.lab.explain import report

    report(options, params["seed"], params["seeds"] or 200, params["at"] if params["at"] is not None else 60.0, params["revert_after"])


def _real(options: Options, params: dict[str, Any]) -> None:
    from virga.cli_race_real import report

    report(options, params)


MODE_CALLS = {
    "real": _real, "race": _race, "compare": _compare, "exhaustive": _exhaustive, "odds": _odds, "draw": _draw, "museum": _museum, "explain": _explain,
}
