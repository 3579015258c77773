"""`virga sim`: the whole cloud under virtual time with faults, one seed after another; what breaks is shrunk and shown."""
from __future__ import annotations

import json
import sys
import time

import click

from virga.runtime.trace import Event

SQLITE_EVERY = 10  # of the mixed store: the engine of production keeps its place in every long run


@click.command(name="sim")
@click.option("--seeds", type=click.IntRange(1), default=200, show_default=True, help="How many seeds to run.")
@click.option("--from", "first", type=click.IntRange(0), default=0, show_default=True, help="The first seed.")
@click.option("--kind", type=click.Choice(["founding", "workload", "both"]), default="both", show_default=True,
              help="The founding case with faults, random work with faults, or both in turn.")
@click.option("--no-faults", is_flag=True, help="The founding case undisturbed (for speed).")
@click.option("--store", type=click.Choice(["mixed", "memory", "sqlite", "both"]), default="mixed", show_default=True,
              help="The database's engine: in memory, SQLite, both for each seed (which must agree), or SQLite for every 10th seed.")
@click.option("--trace", is_flag=True, help="Print every event of the (single) run, one line each.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(seeds: int, first: int, kind: str, no_faults: bool, store: str, trace: bool, as_json: bool) -> None:
    """Run seeds; exit 1 if an invariant is broken, after shrinking the first case to its shortest schedule."""
    from rich.console import Console
    from rich.progress import track

    from virga.sim.explorer import Outcome, Plan, execute, founding_plan, shrink, workload_plan

    def plan_of(seed: int) -> Plan:
        if kind == "founding" or (kind == "both" and seed % 2 == 0):
            return founding_plan(seed, faults=not no_faults)
        return workload_plan(seed)

    def run(seed: int) -> Outcome:
        first_store = "sqlite" if store == "sqlite" or (store == "mixed" and seed % SQLITE_EVERY == 0) else "memory"
        outcome = execute(plan_of(seed), keep_events=trace, store=first_store)
        if store == "both" and not outcome.broken:
            other = execute(plan_of(seed), store="sqlite")
            if other.hash != outcome.hash:
                raise click.ClickException(f"seed {seed}: the engines of the store disagree: {outcome.hash} in memory, {other.hash} with SQLite")
        return outcome

    err = Console(stderr=True)
    began, began_cpu = time.perf_counter(), time.process_time()
    states: dict[str, int] = {}
    virtual_s, steps = 0.0, 0
    digest = ""
    numbers = range(first, first + seeds)
    for seed in track(numbers, description="seeds", console=err, disable=not err.is_terminal):
        outcome = run(seed)
        virtual_s += outcome.virtual_s
        steps += outcome.steps
        digest = outcome.hash
        for state, count in outcome.states.items():
            states[state] = states.get(state, 0) + count
        if trace:
            _print_events(outcome.events)
        if outcome.broken:
            shortest = shrink(plan_of(seed), outcome.rule)
            again = execute(shortest, keep_events=True)
            click.echo(f"seed {seed} breaks {outcome.broken}")
            click.echo(f"shrunk to {len(shortest.entries)} entries, which break {again.broken}:")
            for entry in shortest.entries:
                click.echo(f"  at {entry.at:8.3f} s  {entry.what} {entry.whom} {entry.value:g}")
            _print_events(again.events)
            sys.exit(1)
    took_s, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    result = {"seeds": seeds, "first": first, "kind": kind, "store": store, "broken": 0, "states": dict(sorted(states.items())), "steps": steps,
              "virtual_s": round(virtual_s, 1), "real_s": round(took_s, 2), "per_s": round(seeds / took_s, 1), "per_cpu_s": round(seeds / cpu_s, 1),
              "last_trace_hash": digest}
    if as_json:
        click.echo(json.dumps(result))
        return
    told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    click.echo(f"{seeds} seeds, no broken invariant; servers at the end: {told}")
    click.echo(f"{seeds / took_s:.1f} schedules/s ({seeds / cpu_s:.1f} per second of processor time), "
               f"{virtual_s / took_s:,.0f} virtual seconds a second, {steps:,} steps; last trace hash {digest}")


def _print_events(events: list[Event]) -> None:
    """One fixed-column line an event."""
    zero = events[0].at if events else 0.0
    for event in events:
        if event.kind != "wait":
            click.echo(f"{event.at - zero:10.4f} {event.kind:10.10} {event.src:10.10} {event.dst:10.10} {event.server[:8]:8} {event.text[:140]}")
