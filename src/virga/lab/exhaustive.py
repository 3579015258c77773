"""`virga race --exhaustive`: every order of one revert, era by era, to a stated bound.

Owns: what is searched (BOUNDS), and the table. The Kilo eras run as kilo_model.py, `virga` as virga_model.py, both under search.py; what a schedule is,
what the bound means, and why the merged steps lose nothing is argued in docs/exhaustive.md.
"""
from __future__ import annotations

import json
from typing import Any

import click
import msgspec

from virga.lab import kilo_model, virga_model
from virga.lab import kilo_rules as rules
from virga.lab.options import Mistake, Options
from virga.lab.race import compared
from virga.lab.search import Found, Search, TooBig

# (ports, crashes): one server each time
BOUNDS = ((1, 0), (2, 0), (1, 1))
DEEP = ((2, 1),)
STATES_MAX = 2_000_000


class Line(msgspec.Struct):
    """One search: of which era, to which bound, and what it found."""

    era: str
    ports: int
    crashes: int
    found: Found


def search(options: Options, ports: int, crashes: int) -> Line:
    """Every schedule of one bound. Raises TooBig."""
    if options.era == rules.VIRGA:
        model = virga_model.Model(ports, crashes)
        return Line(options.name, ports, crashes, Search(model.moves, model.verdict, STATES_MAX).run([model.start]))
    kilo = kilo_model.Model(options.rules(), ports, crashes)
    return Line(options.name, ports, crashes, Search(kilo.moves, kilo.verdict, STATES_MAX).run(kilo.starts()))


def bounds_of(options: Options, ports: int) -> tuple[tuple[int, int], ...]:
    """The three bounds everybody is searched to; Virga, and any era asked for with --ports 2, also with two ports and a crash."""
    return (*BOUNDS, *DEEP) if options.era == rules.VIRGA or ports == 2 else BOUNDS


def short(count: int) -> str:
    return f"{count:,}" if count < 10**7 else f"{count:.2e}"


def table(lines: list[Line]) -> str:
    rows = [("era and switches", "ports", "crashes", "distinct states", "schedules", "failing", "how they fail (schedules)")]
    for line in lines:
        bad = [(verdict, count) for verdict, count in line.found.endings.items() if verdict]
        told = [f"{verdict}: {short(count)}" for verdict, count in bad] or ["none"]
        for place, text in enumerate(told):
            head = (line.era, str(line.ports), str(line.crashes), short(line.found.states), short(line.found.schedules), short(line.found.failing))
            rows.append((*(head if place == 0 else ("",) * 6), text))
    widths = [max(len(row[place]) for row in rows) for place in range(6)]
    out = ["  ".join([*(cell.ljust(width) if not place else cell.rjust(width) for place, (cell, width) in enumerate(zip(row[:6], widths, strict=True))),
                      row[6]]).rstrip() for row in rows]
    out.insert(1, "  ".join("-" * width for width in widths) + "  " + "-" * len(rows[0][6]))
    return "\n".join(out)


def report(options: Options | None, ports: int, as_json: bool) -> None:
    """Search one era, or all; print the table, and for each way to fail the shortest schedule. Raises Mistake beyond the bound."""
    lines: list[Line] = []
    if ports > 2:
        raise Mistake("--exhaustive goes up to --ports 2: with three ports the orders are beyond counting here, and show nothing that two do not")
    for each in [options] if options is not None else compared():
        for bound in bounds_of(each, ports):
            click.echo(f"searching {each.name}, {bound[0]} port{'s'[:bound[0] - 1]}, {bound[1]} crashes ...", err=True)
            try:
                lines.append(search(each, *bound))
            except TooBig as error:
                raise Mistake(f"{each.name} with {bound[0]} ports and {bound[1]} crashes: {error}") from error
    if as_json:
        click.echo(json.dumps([_json(line) for line in lines], indent=2))
        return
    click.echo(table(lines))
    circular = next((line for line in lines if "circular wait" in line.found.examples), None)
    if circular is not None:
        click.echo(f"\nThe shortest schedule into the circular wait ({circular.era}, {circular.ports} port):")
        for number, name in enumerate(circular.found.examples["circular wait"], 1):
            click.echo(f"  {number:2d}  {name}")
    virga = [line for line in lines if line.era == rules.VIRGA]
    if virga:
        failing = sum(line.found.failing for line in virga)
        click.echo(f"\nvirga: {failing} failing schedules of {short(sum(line.found.schedules for line in virga))}")


def _json(line: Line) -> dict[str, Any]:
    return {**msgspec.to_builtins(line), "failing": line.found.failing}
